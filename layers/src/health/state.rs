//! The state of an endpoint, as its probes tell it: pure, without clock or gate.

use std::num::NonZeroU32;

/// What probes say of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// Too little is known. Counts as healthy.
    #[default]
    Unknown,
    /// It answers.
    Healthy,
    /// It failed too often in a row, and has not succeeded often enough in a row since.
    Unhealthy,
}

/// Counts results in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) state: HealthState,
    pub(super) successes: u32,
    pub(super) failures: u32,
}

impl HealthState {
    /// The word for logs and the operator.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Machine {
    /// A probe ended. Gives the new state if it is another.
    pub(super) fn observe(
        &mut self,
        success: bool,
        fall: NonZeroU32,
        rise: NonZeroU32,
    ) -> Option<HealthState> {
        if success {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        }
        let before = self.state;
        self.state = match before {
            HealthState::Unknown if success => HealthState::Healthy,
            HealthState::Unhealthy if self.successes >= rise.get() => HealthState::Healthy,
            HealthState::Unknown | HealthState::Healthy if self.failures >= fall.get() => {
                HealthState::Unhealthy
            }
            HealthState::Unknown | HealthState::Healthy | HealthState::Unhealthy => before,
        };
        (self.state != before).then_some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(results: &[bool], fall: u32, rise: u32) -> Machine {
        let count = |n| NonZeroU32::new(n).expect("not 0");
        let mut machine = Machine::default();
        for result in results {
            let before = machine.state;
            let told = machine.observe(*result, count(fall), count(rise));
            assert_eq!(told, (machine.state != before).then_some(machine.state));
        }
        machine
    }

    /// The last `n` results are there, and all are `wanted`.
    fn ends_with(results: &[bool], wanted: bool, n: u32) -> bool {
        let n = n as usize;
        results.len() >= n && results.iter().rev().take(n).all(|r| *r == wanted)
    }

    #[test]
    fn it_falls_and_rises_at_its_thresholds() {
        assert_eq!(run(&[false, false], 3, 2).state, HealthState::Unknown);
        assert_eq!(run(&[true, false, false], 3, 2).state, HealthState::Healthy);
        let mut results = vec![false; 3];
        assert_eq!(run(&results, 3, 2).state, HealthState::Unhealthy);
        results.push(true);
        assert_eq!(run(&results, 3, 2).state, HealthState::Unhealthy);
        results.push(true);
        assert_eq!(run(&results, 3, 2).state, HealthState::Healthy);
    }

    proptest! {
        #[test]
        fn it_changes_only_at_a_whole_row(
            results in proptest::collection::vec(any::<bool>(), 0..60), fall in 1u32..5, rise in 1u32..5,
        ) {
            for end in 1..=results.len() {
                let (before, after) = (run(&results[..end - 1], fall, rise), run(&results[..end], fall, rise));
                prop_assert!(after.successes == 0 || after.failures == 0);
                let now = &results[..end];
                match (before.state, after.state) {
                    (HealthState::Unhealthy, HealthState::Healthy) => prop_assert!(ends_with(now, true, rise)),
                    (HealthState::Unhealthy, HealthState::Unhealthy) => prop_assert!(!ends_with(now, true, rise)),
                    (_, HealthState::Unhealthy) => prop_assert!(ends_with(now, false, fall)),
                    (_, _) => prop_assert!(!ends_with(now, false, fall)),
                }
            }
        }
    }
}
