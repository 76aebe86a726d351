//! What an outlier detector is told.

use std::{num::NonZeroU32, time::Duration};

use crate::share::Share;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierSettings {
    /// Ejects after so many gateway errors in a row. Default: 5.
    pub consecutive: Option<NonZeroU32>,
    /// Ejects what fails more often than the others.
    pub rate: Option<RateSettings>,
    /// How long calls are counted before rates are compared. Default: 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts; the second in a row lasts twice as long, the third three times. Default: 30 s.
    pub base: Duration,
    /// The longest ejection. Default: 5 min. Less than `base` counts as `base`.
    pub max: Duration,
    /// The most endpoints that are ejected at once, as a share of all; one always may be, where there are others. Default: 10 %.
    pub max_ejected: Share,
}

/// When an endpoint fails more often than the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateSettings {
    /// Its failure rate lies above the fleet's mean by more than so many standard deviations. Default: 1.9. Among `n` endpoints
    /// a single one that only fails lies above by `√(n-1)` of them, so 1.9 finds it from five endpoints on.
    pub factor: Factor,
    /// With fewer calls in an interval an endpoint is neither judged nor part of the mean. Default: 20.
    pub min_calls: NonZeroU32,
    /// With fewer endpoints that have enough calls nothing is compared. Default: 5.
    pub min_endpoints: NonZeroU32,
    /// A lower failure rate is none to eject for, however good the others are. Default: 5 %.
    pub floor: Share,
}

/// A number of standard deviations: 0 or more, checked when it is made.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Factor(f64);

// === impl OutlierSettings ===

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            consecutive: Some(NonZeroU32::MIN.saturating_add(4)),
            rate: Some(RateSettings::default()),
            interval: Duration::from_secs(10),
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_ejected: Share::percent(10),
        }
    }
}

impl Default for RateSettings {
    fn default() -> Self {
        Self {
            factor: Factor(1.9),
            min_calls: NonZeroU32::MIN.saturating_add(19),
            min_endpoints: NonZeroU32::MIN.saturating_add(4),
            floor: Share::percent(5),
        }
    }
}

// === impl Factor ===

impl Factor {
    /// So many; none unless it is a finite number of 0 or more.
    pub fn new(factor: f64) -> Option<Self> {
        (factor.is_finite() && factor >= 0.0).then_some(Self(factor))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}
