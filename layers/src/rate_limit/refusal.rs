//! What a client is told: the error, and the fields of HTTP.

use std::{
    fmt::{self, Write},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use super::{
    bucket::{Denied, Quota, Rate, Standing},
    limits::{Limit, Pace},
};

/// How much is left (draft-ietf-httpapi-ratelimit-headers-11).
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What is allowed (the same draft).
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Over a limit. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RateLimited {
    /// The limit's name.
    pub limit: Arc<str>,
    /// What there was too much of.
    pub excess: Excess,
    /// After this time, rounded up to a millisecond, the same is let through, if nothing else comes. `None`: never.
    pub retry_after: Option<Duration>,
    /// The fields; none for streams, of which the draft knows nothing.
    fields: Option<(HeaderValue, HeaderValue)>,
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Calls, in so much time.
    Rate(Rate),
    /// Calls in one batch, which has more than the burst allows.
    Batch {
        /// How many there were.
        calls: u32,
        /// How many there may be.
        burst: u32,
    },
    /// Open streams; so many there may be.
    Streams(NonZeroUsize),
}

/// When it is worth a try whether a stream has been closed.
const SOON: Duration = Duration::from_secs(1);

impl RateLimited {
    pub(super) fn calls(limit: &Limit, pace: &Pace, calls: u32, denied: Denied) -> Self {
        let excess = match denied.wait {
            Some(_) => Excess::Rate(pace.rate),
            None => Excess::Batch {
                calls,
                burst: pace.quota.burst(),
            },
        };
        // After that time the request is let through; one that never is leaves nothing to wait for.
        let seconds = denied.wait.map_or(0, whole_seconds);
        let field = field(&limit.item, denied.remaining, seconds);
        Self {
            limit: limit.name.clone(),
            excess,
            retry_after: denied.wait.map(whole_millis),
            fields: field.map(|field| (field, pace.policy.clone())),
        }
    }

    pub(super) fn streams(limit: &Arc<str>, most: NonZeroUsize) -> Self {
        Self {
            limit: limit.clone(),
            excess: Excess::Streams(most),
            retry_after: Some(SOON),
            fields: None,
        }
    }

    /// `RateLimit` and `RateLimit-Policy`.
    pub(crate) fn fields(&self) -> Option<&(HeaderValue, HeaderValue)> {
        self.fields.as_ref()
    }
}

/// In words that tell a person, or a model, what to do.
impl fmt::Display for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = &self.limit;
        match self.excess {
            Excess::Rate(rate) => {
                write!(f, "over the rate limit `{limit}` of {rate}")?;
                match self.retry_after {
                    Some(after) if after < SOON => {
                        write!(f, ": try again in {} ms", after.as_millis())
                    }
                    Some(after) => write!(f, ": try again in {} s", whole_seconds(after)),
                    None => Ok(()),
                }
            }
            Excess::Batch { calls, burst } => write!(
                f,
                "a batch of {calls} is more than the rate limit `{limit}` ever lets through: send at most {burst} at once"
            ),
            Excess::Streams(most) => write!(
                f,
                "over the limit `{limit}` of {most} open streams: close one before you open another"
            ),
        }
    }
}

/// `RateLimit-Policy`: how many calls in how many seconds, such as `"session";q=100;w=2`.
pub(super) fn policy(item: &str, quota: Quota) -> HeaderValue {
    let (quota, window) = (quota.burst(), whole_seconds(quota.window()));
    let text = format!("{item};q={quota};w={window}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// `RateLimit` of a response: how many calls are left, and in how many seconds all of them are there again.
pub(super) fn standing(item: &str, standing: Standing) -> Option<HeaderValue> {
    field(item, standing.remaining, whole_seconds(standing.full_in))
}

fn field(item: &str, remaining: u32, seconds: u64) -> Option<HeaderValue> {
    let digits = |number: u64| number.checked_ilog10().map_or(1, |log| log as usize + 1);
    // Exactly: for a text with room to spare the value would allocate once more.
    let len = item.len() + ";r=;t=".len() + digits(remaining.into()) + digits(seconds);
    let mut text = String::with_capacity(len);
    write!(text, "{item};r={remaining};t={seconds}").ok()?;
    HeaderValue::try_from(text).ok()
}

/// As a string of structured fields (RFC 9651, 3.3.3), which has visible ASCII and spaces.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 16);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            ' '..='~' => quoted.push(letter),
            _ => quoted.push('_'),
        }
    }
    quoted.push('"');
    quoted
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Rounded up, so that whoever comes then is not too early.
fn whole_millis(time: Duration) -> Duration {
    let millis = time.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::rate_limit::{RateLimitSettings, RateLimits};

    const RATE: Rate = Rate::per_second(NonZeroU32::MIN);

    fn refused(calls: u32, wait: Option<Duration>) -> RateLimited {
        let quota = Quota::new(RATE, NonZeroU32::new(5).expect("not zero"));
        let denied = Denied { remaining: 2, wait };
        let limits = RateLimits::new("r");
        let limit = limits.limit(&RateLimitSettings {
            name: "session".to_owned(),
            ..RateLimitSettings::default()
        });
        let pace = Pace {
            rate: RATE,
            quota,
            policy: policy(&limit.item, quota),
        };
        RateLimited::calls(&limit, &pace, calls, denied)
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let soon = refused(1, Some(Duration::from_micros(339_001)));
        assert_eq!(
            soon.to_string(),
            "over the rate limit `session` of 1/s: try again in 340 ms"
        );
        assert_eq!(soon.retry_after, Some(Duration::from_millis(340)));
        let later = refused(1, Some(Duration::from_millis(1500)));
        assert!(later.to_string().ends_with("try again in 2 s"), "{later}");
        let never = refused(9, None);
        assert_eq!(
            never.to_string(),
            "a batch of 9 is more than the rate limit `session` ever lets through: send at most 5 at once"
        );
        assert_eq!(never.retry_after, None);
    }

    #[test]
    fn the_fields_are_as_the_draft_has_them() {
        let refused = refused(3, Some(Duration::from_millis(1500)));
        let (left, policy) = refused.fields().expect("fields");
        assert_eq!(left, "\"session\";r=2;t=2");
        assert_eq!(policy, "\"session\";q=5;w=5");
        assert_eq!(quoted("a \"b\" \\ ü\n"), "\"a \\\"b\\\" \\\\ __\"");
    }
}
