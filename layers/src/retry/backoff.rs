//! How long to pause before another attempt.
//!
//! Exponential with *full jitter*: a random time between nothing and `base` × 2ⁿ, at most `max` (source: "Exponential Backoff And
//! Jitter", AWS Architecture Blog, 2015, which finds that it costs the fewest calls and ends soonest). tower's `ExponentialBackoff` adds its jitter on top of
//! the exponential time, so that callers that failed together still come back together; hence a small one of our own.
//!
//! `Retry-After` (RFC 9110, 10.2.3: seconds, or a date) is a lower bound; the jitter comes on top.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// The pause before another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause before the first retry; it doubles with each.
    pub base: Duration,
    /// The longest pause of all.
    pub max: Duration,
}

impl Default for Backoff {
    /// 50 ms, up to 1 s.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            max: Duration::from_secs(1),
        }
    }
}

impl Backoff {
    /// The pause before the retry of this number (the first is 1), with a random number from 0 to 1.
    pub fn pause(&self, retry: u32, random: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(retry.saturating_sub(1));
        let longest = self.base.saturating_mul(doubled).min(self.max);
        longest.mul_f64(random.clamp(0.0, 1.0))
    }
}

/// What `Retry-After` asks for, if it is there and can be read. A date that has passed asks for nothing to wait.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are longer than anybody waits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_pause_doubles_up_to_the_most() {
        let backoff = Backoff::default();
        let longest: Vec<_> = (1..8).map(|n| backoff.pause(n, 1.0).as_millis()).collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.pause(3, 0.0), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:42 GMT", Some(5)),
            ("Sunday, 06-Nov-94 08:49:42 GMT", Some(5)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(
                retry_after(&headers, now),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    proptest! {
        #[test]
        fn a_pause_is_within_its_bounds(
            base in 0u64..100_000, max in 0u64..100_000, retry: u32, random in -1.0f64..2.0,
        ) {
            let backoff = Backoff { base: Duration::from_millis(base), max: Duration::from_millis(max) };
            let pause = backoff.pause(retry, random);
            prop_assert!(pause <= backoff.max);
            if retry <= 1 {
                prop_assert!(pause <= backoff.base);
            }
            prop_assert!(pause <= backoff.pause(retry, 1.0));
            prop_assert!(backoff.pause(retry, 1.0) <= backoff.pause(retry.saturating_add(1), 1.0));
        }
    }
}
