//! The settings of a breaker.

use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use crate::{share::Share, verdict::Judge};

/// When a breaker opens, and how it closes again.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitSettings {
    /// What counts as a failure.
    pub judge: Judge,
    /// Opens when this share of the calls in the window failed. Default: half.
    pub failure_rate: Option<Share>,
    /// Opens when too many calls in the window were slow. Default: off, since a tool may take long by nature, and an upstream that
    /// sends its response head only with the answer then takes long to its head.
    pub slow: Option<SlowCalls>,
    /// What the rates look back at. Default: 30 s.
    pub window: Window,
    /// With fewer calls in the window the rates say nothing. Default: 10. Never more than a window of calls holds.
    pub min_calls: NonZeroU32,
    /// Opens after so many failures in a row. Default: 5, so that a dead endpoint is also noticed where there are fewer
    /// than `min_calls` calls in a window.
    pub consecutive: Option<NonZeroU32>,
    /// How long it is open the first time. Default: 10 s.
    pub open: Duration,
    /// The longest that it is open, jitter left out. Default: 5 min. Less than `open` counts as `open`.
    pub open_max: Duration,
    /// The most probes at once while half-open. Default: 1.
    pub probes: NonZeroU32,
    /// How many probes in a row must succeed for it to close. Default: 2.
    pub successes: NonZeroU32,
}

/// When slow calls open a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowCalls {
    /// A call is slow that takes longer than this to its response head, or fails after longer than this without one.
    pub call: Duration,
    /// The share of slow calls at which it opens.
    pub rate: Share,
}

/// What the rates look back at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The newest calls, this many.
    Calls(NonZeroU16),
    /// The calls that ended in this time. It moves in steps of a tenth.
    Time(Duration),
}

// === impl CircuitSettings ===

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            judge: Judge::default(),
            failure_rate: Some(Share::HALF),
            slow: None,
            window: Window::Time(Duration::from_secs(30)),
            min_calls: NonZeroU32::MIN.saturating_add(9),
            consecutive: Some(NonZeroU32::MIN.saturating_add(4)),
            open: Duration::from_secs(10),
            open_max: Duration::from_secs(300),
            probes: NonZeroU32::MIN,
            successes: NonZeroU32::MIN.saturating_add(1),
        }
    }
}
