//! How long a command is left alone after it failed to start: twice as long each time, with jitter.
//!
//! Pure: the time and the dice come as arguments.

use std::time::Duration;

use tokio::time::Instant;

/// The failures of a command in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

/// The longest pause after the first failure.
const FIRST: f64 = 0.2;
/// The longest pause of all.
const MOST: f64 = 30.0;

impl Backoff {
    /// It has come up.
    pub(super) fn came_up(&mut self) {
        *self = Self::default();
    }

    /// It could not be started, or did not come up: from half the pause to all of it has to pass, as `dice` (0 to 1) says. What fails during
    /// a pause was started before it, beside what failed first, and says no more than that.
    pub(super) fn failed(&mut self, now: Instant, dice: f64) {
        if self.left(now).is_some() {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let doubled = 2_f64.powi(self.failures.min(20) as i32 - 1);
        let most = (FIRST * doubled).min(MOST);
        let wait = most * (0.5 + dice.clamp(0.0, 1.0) / 2.0);
        self.until = Some(now + Duration::from_secs_f64(wait));
    }

    /// How much of the pause is left.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pause_doubles_to_its_cap_and_a_start_forgets_it() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.left(now), None);
        let (mut pauses, mut pause) = (Vec::new(), Duration::ZERO);
        for _ in 0..9 {
            now += pause;
            backoff.failed(now, 1.0);
            pause = backoff.left(now).expect("a pause");
            pauses.push(pause.as_millis());
        }
        let doubling = [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000];
        assert_eq!(pauses, doubling);
        assert_eq!(backoff.left(now + Duration::from_secs(30)), None);
        backoff.came_up();
        assert_eq!(backoff.left(now), None);
        backoff.failed(now, 0.0);
        assert_eq!(backoff.left(now), Some(Duration::from_millis(100)));
    }

    #[test]
    fn failures_side_by_side_are_one() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.failed(now, 1.0);
        }
        assert_eq!(backoff.left(now), Some(Duration::from_millis(200)));
        let next = now + Duration::from_millis(200);
        backoff.failed(next, 1.0);
        assert_eq!(backoff.left(next), Some(Duration::from_millis(400)));
    }

    proptest! {
        #[test]
        fn a_pause_is_never_shorter_than_half_nor_longer_than_the_cap(
            failures in 1..200_u32,
            dice in 0.0..=1.0_f64,
        ) {
            let mut now = Instant::now();
            let mut backoff = Backoff::default();
            for _ in 0..failures {
                now += backoff.left(now).unwrap_or_default();
                backoff.failed(now, dice);
            }
            let left = backoff.left(now).expect("a pause").as_secs_f64();
            let full = (0.2 * 2_f64.powi(failures.min(20) as i32 - 1)).min(30.0);
            prop_assert!(left >= full / 2.0 - 1e-6 && left <= full + 1e-6);
        }
    }
}
