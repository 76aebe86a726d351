//! Which endpoints are outliers: pure, without clock or gate.

use std::time::Duration;

use super::settings::{OutlierSettings, RateSettings};

/// What is known of one endpoint at the end of an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Calls that were judged.
    pub(super) calls: u32,
    /// Those of them that failed.
    pub(super) failures: u32,
    /// It is ejected now.
    pub(super) ejected: bool,
    /// Nothing holds it back.
    pub(super) open: bool,
}

impl Sample {
    fn rate(&self) -> f64 {
        f64::from(self.failures) / f64::from(self.calls.max(1))
    }
}

/// The endpoints that fail too often, the worst first, as many as may be ejected.
pub(super) fn outliers(fleet: &[Sample], settings: &OutlierSettings) -> Vec<usize> {
    let Some(rate) = &settings.rate else {
        return Vec::new();
    };
    let mut worst = above(fleet, rate);
    worst.sort_by(|a, b| fleet[*b].rate().total_cmp(&fleet[*a].rate()));
    let mut fleet = fleet.to_vec();
    worst.retain(|at| {
        let may = may_eject(&fleet, *at, settings);
        if may {
            fleet[*at].ejected = true;
            fleet[*at].open = false;
        }
        may
    });
    worst
}

/// The endpoints whose failure rate lies above the threshold: mean + factor × standard deviation, of those that have had enough calls.
fn above(fleet: &[Sample], settings: &RateSettings) -> Vec<usize> {
    let counts = |s: &Sample| !s.ejected && s.calls >= settings.min_calls.get();
    let rates: Vec<f64> = fleet
        .iter()
        .filter(|s| counts(s))
        .map(Sample::rate)
        .collect();
    if rates.len() < settings.min_endpoints.get() as usize {
        return Vec::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    let n = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / n;
    let variance = rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n;
    // A hair more, so that equal rates never lie above their own mean.
    let threshold = mean + settings.factor.get() * variance.sqrt() + 1e-9;
    let is_above = |s: &Sample| {
        counts(s) && s.rate() > threshold && settings.floor.is_reached(s.failures, s.calls)
    };
    (0..fleet.len())
        .filter(|at| is_above(&fleet[*at]))
        .collect()
}

/// Whether this one may be ejected now: fewer are out than may be, and somebody else takes calls.
pub(super) fn may_eject(fleet: &[Sample], at: usize, settings: &OutlierSettings) -> bool {
    let ejected = fleet.iter().filter(|s| s.ejected).count();
    let others = fleet.iter().enumerate().filter(|(other, _)| *other != at);
    let another_is_open = others.clone().any(|(_, s)| s.open);
    !fleet[at].ejected && another_is_open && ejected < most(fleet.len(), settings)
}

/// The most that may be out at once.
fn most(endpoints: usize, settings: &OutlierSettings) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of endpoints"
    )]
    // A hair more, so that a tenth of ten is one.
    let share = (settings.max_ejected.get() * endpoints as f64 + 1e-9) as usize;
    share.max(1).min(endpoints.saturating_sub(1))
}

/// How long an ejection lasts, the first one being number 1.
pub(super) fn lasts(number: u32, settings: &OutlierSettings) -> Duration {
    let max = settings.max.max(settings.base);
    settings.base.saturating_mul(number.max(1)).min(max)
}

/// The number that is left of so many ejections after this time without one: one less for each interval.
pub(super) fn forgiven(number: u32, since: Duration, interval: Duration) -> u32 {
    let interval = interval.max(Duration::from_millis(1)).as_millis();
    let intervals = u32::try_from(since.as_millis() / interval).unwrap_or(u32::MAX);
    number.saturating_sub(intervals)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::{health::outlier::Factor, share::Share};

    fn sample(calls: u32, failures: u32) -> Sample {
        Sample {
            calls,
            failures,
            ejected: false,
            open: true,
        }
    }

    fn fleet(failures: &[u32]) -> Vec<Sample> {
        failures.iter().map(|f| sample(100, *f)).collect()
    }

    #[test]
    fn the_worst_go_first_and_no_more_than_may() {
        let settings = OutlierSettings::default();
        assert_eq!(outliers(&fleet(&[0, 0, 0, 0, 100]), &settings), [4]);
        assert_eq!(outliers(&fleet(&[1, 30, 0, 0, 0, 2]), &settings), [1]);
        let two = OutlierSettings {
            max_ejected: Share::percent(20),
            rate: Some(RateSettings {
                factor: Factor::new(1.0).expect("a factor"),
                ..RateSettings::default()
            }),
            ..settings
        };
        let many = fleet(&[0, 60, 0, 90, 0, 0, 70, 0, 0, 0]);
        assert_eq!(outliers(&many, &two), [3, 6]);
    }

    #[test]
    fn what_is_usual_is_no_outlier() {
        let settings = OutlierSettings::default();
        for failures in [
            // All are equal, however bad.
            [50; 5].as_slice(),
            &[0; 5],
            &[100; 5],
            // Too few to compare.
            &[0, 0, 0, 100],
            // Below the floor.
            &[0, 0, 0, 0, 0, 0, 4],
        ] {
            assert!(
                outliers(&fleet(failures), &settings).is_empty(),
                "{failures:?}"
            );
        }
        let mut few = fleet(&[0, 0, 0, 0, 0]);
        few.push(sample(19, 19));
        assert!(outliers(&few, &settings).is_empty());
    }

    #[test]
    fn ejections_are_forgiven_by_the_interval() {
        let interval = Duration::from_secs(10);
        assert_eq!(forgiven(3, Duration::from_secs(9), interval), 3);
        assert_eq!(forgiven(3, Duration::from_secs(20), interval), 1);
        assert_eq!(forgiven(3, Duration::from_secs(999), interval), 0);
        assert_eq!(forgiven(3, Duration::from_secs(1), Duration::ZERO), 0);
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let one = (0u32..200, 0.0..=1.0, any::<bool>(), any::<bool>());
        proptest::collection::vec(one, 1..30).prop_map(|all| {
            let sample = |(calls, rate, ejected, open): (u32, f64, bool, bool)| Sample {
                calls,
                failures: (f64::from(calls) * rate) as u32,
                ejected,
                open: open && !ejected,
            };
            all.into_iter().map(sample).collect()
        })
    }

    fn settings() -> impl Strategy<Value = OutlierSettings> {
        (0u8..=100, 0.0..3.0, 1u32..50, 1u32..6, 0u8..=100).prop_map(
            |(percent, factor, calls, endpoints, floor)| OutlierSettings {
                max_ejected: Share::percent(percent),
                rate: Some(RateSettings {
                    factor: Factor::new(factor).expect("a factor"),
                    min_calls: NonZeroU32::new(calls).expect("not 0"),
                    min_endpoints: NonZeroU32::new(endpoints).expect("not 0"),
                    floor: Share::percent(floor),
                }),
                ..OutlierSettings::default()
            },
        )
    }

    proptest! {
        #[test]
        fn the_bounds_hold(fleet in samples(), settings in settings()) {
            let out = outliers(&fleet, &settings);
            let before = fleet.iter().filter(|s| s.ejected).count();
            let bound = (settings.max_ejected.get() * fleet.len() as f64 + 1e-6).floor().max(1.0) as usize;
            if !out.is_empty() {
                prop_assert!(before + out.len() <= bound);
                let left = fleet.iter().enumerate().filter(|(at, s)| s.open && !out.contains(at)).count();
                prop_assert!(left > 0, "nobody is left");
            }
            for (turn, at) in out.iter().enumerate() {
                let one = fleet[*at];
                prop_assert!(one.calls > 0 && one.failures > 0 && !one.ejected);
                prop_assert!(!out[..turn].contains(at));
            }
        }

        #[test]
        fn without_calls_nobody_is_an_outlier(mut fleet in samples(), settings in settings(), at in 0usize..30) {
            let at = at % fleet.len();
            fleet[at] = Sample { calls: 0, failures: 0, ..fleet[at] };
            prop_assert!(!outliers(&fleet, &settings).contains(&at));
        }

        #[test]
        fn an_ejection_grows_and_is_bounded(number in 0u32.., base in 1u64..100_000, max in 0u64..1_000_000) {
            let settings = OutlierSettings {
                base: Duration::from_millis(base),
                max: Duration::from_millis(max),
                ..OutlierSettings::default()
            };
            let (this, next) = (lasts(number, &settings), lasts(number.saturating_add(1), &settings));
            prop_assert!(this >= settings.base && this <= next);
            prop_assert!(next <= settings.max.max(settings.base));
        }
    }
}
