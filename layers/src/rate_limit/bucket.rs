//! The arithmetic of one bucket: the generic cell rate algorithm, as a pure state machine.
//!
//! A bucket holds one time, at which it will be full again. A call moves that by the time in which the rate earns one back; it is let through
//! unless the bucket would then be further from full than the burst allows. So in any span of time `t` no more than `burst + rate × t` calls pass, and who is refused
//! can be told the exact time after which the call would be let through. Times are nanoseconds from some start, which `now` shares.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

/// So many calls in a second, a minute or an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In which time.
    pub unit: RateUnit,
}

/// The time that a rate speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateUnit {
    /// `/s`
    Second,
    /// `/m`
    Minute,
    /// `/h`
    Hour,
}

/// A text that is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate is a number from 1 to {} and a unit, such as 50/s, 100/m or 10/h",
    Rate::MAX
)]
pub struct BadRate;

/// What a bucket allows: a rate, and how many calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The time in which one call is earned, in nanoseconds; above zero.
    interval: u64,
    /// Above zero.
    burst: u32,
}

/// The state of one bucket. A new one is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it is full again.
    full_at: u64,
    /// The interval and the burst of the quota that was last asked for.
    interval: u64,
    burst: u32,
}

/// How a bucket stands after it let calls through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many more would be let through now.
    pub remaining: u32,
    /// When it is full again.
    pub full_in: Duration,
}

/// A bucket did not let calls through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// How many would be let through now.
    pub remaining: u32,
    /// After this time it would, if nothing else came. `None`: they are more than it ever lets through at once.
    pub wait: Option<Duration>,
}

// === impl Rate ===

impl Rate {
    /// The highest count: one call in each nanosecond, were the unit a second.
    pub const MAX: u32 = 1_000_000_000;

    /// So many in a second.
    pub const fn per_second(count: NonZeroU32) -> Self {
        Self {
            count,
            unit: RateUnit::Second,
        }
    }

    /// The time in which one is earned, rounded up: in the long run never more than the rate says.
    fn interval(self) -> u64 {
        let unit: u64 = match self.unit {
            RateUnit::Second => 1_000_000_000,
            RateUnit::Minute => 60_000_000_000,
            RateUnit::Hour => 3_600_000_000_000,
        };
        unit.div_ceil(u64::from(self.count.get()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            RateUnit::Second => 's',
            RateUnit::Minute => 'm',
            RateUnit::Hour => 'h',
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let (count, unit) = text.split_once('/').ok_or(BadRate)?;
        let unit = match unit.trim() {
            "s" => RateUnit::Second,
            "m" => RateUnit::Minute,
            "h" => RateUnit::Hour,
            _ => return Err(BadRate),
        };
        let count: NonZeroU32 = count.trim().parse().map_err(|_| BadRate)?;
        if count.get() > Self::MAX {
            return Err(BadRate);
        }
        Ok(Self { count, unit })
    }
}

// === impl Quota ===

impl Quota {
    /// The largest burst.
    pub const MAX_BURST: u32 = 1_000_000;

    /// A rate, and how many calls at once, at most [`Quota::MAX_BURST`].
    pub fn new(rate: Rate, burst: NonZeroU32) -> Self {
        Self {
            interval: rate.interval(),
            burst: burst.get().min(Self::MAX_BURST),
        }
    }

    /// How many calls at once.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// The time in which one call is earned.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// How long an empty bucket takes to be full.
    pub fn window(self) -> Duration {
        Duration::from_nanos(self.span())
    }

    /// The same in nanoseconds: at most 3.6e18, five times less than fits.
    fn span(self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }
}

// === impl Bucket ===

impl Bucket {
    /// Lets so many calls through at once, or none of them.
    ///
    /// # Errors
    /// When there are too many.
    pub fn take(&mut self, quota: Quota, calls: u32, now: u64) -> Result<Standing, Denied> {
        self.adapt(quota, now);
        let from = self.full_at.max(now);
        let next = from.saturating_add(quota.interval.saturating_mul(u64::from(calls)));
        let last = now.saturating_add(quota.span());
        // Of two calls at once the later one may come first, and see a time that has passed.
        let remaining = |at| {
            let left = last.saturating_sub(at) / quota.interval;
            u32::try_from(left).unwrap_or(u32::MAX)
        };
        if calls > quota.burst || next > last {
            let possible = calls <= quota.burst;
            return Err(Denied {
                remaining: remaining(from),
                wait: possible.then(|| Duration::from_nanos(next - last)),
            });
        }
        self.full_at = next;
        Ok(Standing {
            remaining: remaining(next),
            full_in: Duration::from_nanos(next - now),
        })
    }

    /// Takes back that so many calls were let through.
    pub fn give_back(&mut self, quota: Quota, calls: u32) {
        let earned = quota.interval.saturating_mul(u64::from(calls));
        self.full_at = self.full_at.saturating_sub(earned);
    }

    /// Whether it is full, and so no different from a new one.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at <= now
    }

    /// How many calls it is short of full, how many it holds when it is, and after which time it would let one through.
    pub fn look(&self, now: u64) -> (u32, u32, Duration) {
        let missing = self.full_at.saturating_sub(now);
        let interval = self.interval.max(1);
        let used = missing.div_ceil(interval);
        let span = interval.saturating_mul(u64::from(self.burst));
        let wait = missing.saturating_add(interval).saturating_sub(span);
        (
            u32::try_from(used).unwrap_or(u32::MAX),
            self.burst,
            Duration::from_nanos(wait),
        )
    }

    /// Goes by this quota from now on: calls that were let through count as so many calls under it, but no more than it allows.
    fn adapt(&mut self, quota: Quota, now: u64) {
        let old = (self.interval, self.burst);
        (self.interval, self.burst) = (quota.interval, quota.burst);
        if old == (quota.interval, quota.burst) || old.0 == 0 || self.full_at <= now {
            return;
        }
        let missing = u128::from(self.full_at - now);
        let missing = missing * u128::from(quota.interval) / u128::from(old.0);
        let missing = u64::try_from(missing).unwrap_or(u64::MAX).min(quota.span());
        self.full_at = now.saturating_add(missing);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(rate: &str, burst: u32) -> Quota {
        let burst = NonZeroU32::new(burst).expect("not zero");
        Quota::new(rate.parse().expect("a rate"), burst)
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rate_is_read_and_written() {
        for text in ["50/s", "100/m", "1/h", "1000000000/s"] {
            assert_eq!(text.parse::<Rate>().expect("a rate").to_string(), text);
        }
        assert_eq!(
            " 5 / s".parse::<Rate>().map(|r| r.to_string()),
            Ok("5/s".into())
        );
        for bad in [
            "",
            "50",
            "0/s",
            "-1/s",
            "1.5/s",
            "50/d",
            "50/",
            "/s",
            "1000000001/s",
            "4294967296/s",
        ] {
            assert_eq!(bad.parse::<Rate>(), Err(BadRate), "{bad}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_by_one() {
        let (quota, mut bucket) = (quota("2/s", 3), Bucket::default());
        for remaining in [2, 1, 0] {
            let standing = bucket.take(quota, 1, 7).expect("passes");
            assert_eq!(standing.remaining, remaining);
        }
        let denied = bucket.take(quota, 1, 7).expect_err("empty");
        assert_eq!(denied.wait, Some(Duration::from_millis(500)));
        assert!(bucket.take(quota, 1, 7 + SECOND / 2 - 1).is_err());
        let standing = bucket.take(quota, 1, 7 + SECOND / 2).expect("passes");
        assert_eq!(standing.full_in, Duration::from_millis(1500));
        assert!(bucket.is_full(7 + 2 * SECOND));
        assert!(!bucket.is_full(6 + 2 * SECOND));
    }

    #[test]
    fn more_than_a_burst_never_passes_and_changes_nothing() {
        let (quota, mut bucket) = (quota("2/s", 3), Bucket::default());
        let denied = Denied {
            remaining: 3,
            wait: None,
        };
        assert_eq!(bucket.take(quota, 4, 0), Err(denied));
        assert!(bucket.is_full(0));
        assert_eq!(bucket.take(quota, 3, 0).map(|s| s.remaining), Ok(0));
    }

    #[test]
    fn what_passed_counts_under_another_quota() {
        let mut bucket = Bucket::default();
        bucket.take(quota("1/s", 10), 8, 0).expect("passes");
        // Eight of twenty.
        assert_eq!(
            bucket.take(quota("100/s", 20), 1, 0).map(|s| s.remaining),
            Ok(11)
        );
        // Nine of five.
        let denied = bucket.take(quota("1/s", 5), 1, 0).expect_err("empty");
        assert_eq!(denied.remaining, 0);
        assert_eq!(denied.wait, Some(Duration::from_secs(1)));
    }

    #[test]
    fn extreme_quotas_do_not_overflow() {
        let slow = quota("1/h", u32::MAX);
        assert_eq!(slow.burst(), Quota::MAX_BURST);
        let mut bucket = Bucket::default();
        let late = u64::MAX / 4;
        bucket.take(slow, Quota::MAX_BURST, late).expect("passes");
        assert_eq!(
            bucket.take(slow, 1, late).expect_err("empty").wait,
            Some(Duration::from_secs(3600))
        );
        let mut bucket = Bucket::default();
        bucket.take(quota("1000000000/s", 1), 1, 0).expect("passes");
        assert!(bucket.is_full(1));
    }

    #[test]
    fn a_look_says_how_it_stands() {
        let (quota, mut bucket) = (quota("1/s", 3), Bucket::default());
        bucket.take(quota, 2, 0).expect("passes");
        assert_eq!(bucket.look(0), (2, 3, Duration::ZERO));
        bucket.take(quota, 1, 0).expect("passes");
        assert_eq!(bucket.look(SECOND / 4), (3, 3, Duration::from_millis(750)));
    }

    fn any_quota() -> impl Strategy<Value = Quota> {
        let unit = prop_oneof![Just('s'), Just('m'), Just('h')];
        (1_u32..5000, unit, 1_u32..50)
            .prop_map(|(count, unit, burst)| quota(&format!("{count}/{unit}"), burst))
    }

    /// Calls, each some time after the one before, and how many at once.
    fn arrivals() -> impl Strategy<Value = Vec<(u64, u32)>> {
        let pause = prop_oneof![Just(0), 0..1_000_000_u64, 0..10 * SECOND];
        prop::collection::vec((pause, 1_u32..5), 1..100)
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_allow_in_any_window(quota in any_quota(), arrivals in arrivals()) {
            let (mut bucket, mut now) = (Bucket::default(), 0);
            let mut passed: Vec<(u64, u64)> = Vec::new();
            for (pause, calls) in arrivals {
                now += pause;
                if bucket.take(quota, calls, now).is_ok() {
                    passed.push((now, calls.into()));
                }
            }
            for from in 0..passed.len() {
                let mut sum = 0;
                for (at, calls) in &passed[from..] {
                    sum += calls;
                    let span = at - passed[from].0;
                    let most = u64::from(quota.burst) + span / quota.interval;
                    prop_assert!(sum <= most, "{sum} of {most} in {span}");
                }
            }
        }

        #[test]
        fn a_refusal_says_exactly_when_the_call_would_pass(quota in any_quota(), arrivals in arrivals()) {
            let (mut bucket, mut now) = (Bucket::default(), 0);
            for (pause, calls) in arrivals {
                now += pause;
                let before = bucket;
                let Err(denied) = bucket.take(quota, calls, now) else { continue };
                prop_assert_eq!(bucket.full_at, before.full_at, "a refusal costs nothing");
                let Some(wait) = denied.wait else {
                    prop_assert!(calls > quota.burst);
                    continue;
                };
                let at = now + u64::try_from(wait.as_nanos()).expect("fits");
                prop_assert!(bucket.clone().take(quota, calls, at - 1).is_err());
                prop_assert!(bucket.clone().take(quota, calls, at).is_ok());
            }
        }

        #[test]
        fn whoever_comes_later_is_not_worse_off(quota in any_quota(), arrivals in arrivals(), later in 0..SECOND) {
            let (mut bucket, mut now) = (Bucket::default(), 0);
            for (pause, calls) in arrivals {
                now += pause;
                let _taken = bucket.take(quota, calls, now);
                let remaining = |at| { let mut b = bucket; b.take(quota, 1, at).map_or(0, |s| s.remaining + 1) };
                prop_assert!(remaining(now + later) >= remaining(now));
            }
        }

        #[test]
        fn what_is_given_back_was_never_taken(quota in any_quota(), arrivals in arrivals()) {
            let (mut with, mut without, mut now) = (Bucket::default(), Bucket::default(), 0);
            for (at, (pause, calls)) in arrivals.into_iter().enumerate() {
                now += pause;
                if at % 2 == 0 {
                    if with.take(quota, calls, now).is_ok() {
                        with.give_back(quota, calls);
                    }
                } else {
                    prop_assert_eq!(with.take(quota, calls, now), without.take(quota, calls, now));
                }
            }
        }
    }
}
