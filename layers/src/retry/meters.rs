//! The metrics of retries, with their handles.

use ::metrics::{Counter, Gauge};

use super::judge::Reason;
use crate::metrics::{counter, gauge, names};

/// The handles of one upstream.
#[derive(Debug)]
pub(super) struct Meters {
    retries: [[Counter; Outcome::ALL.len()]; Reason::ALL.len()],
    pub(super) refused_unsafe: Counter,
    pub(super) budget: Gauge,
}

/// What became of a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It got an answer.
    Success,
    /// It failed too.
    Failure,
    /// It was dropped before its response head.
    Dropped,
    /// It was not made: the budget is spent.
    NoBudget,
    /// It was not made: the request body is no longer there.
    NoBody,
    /// It was not made: it would be too late.
    NoTime,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Success,
        Self::Failure,
        Self::Dropped,
        Self::NoBudget,
        Self::NoBody,
        Self::NoTime,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Dropped => "dropped",
            Self::NoBudget => "no_budget",
            Self::NoBody => "no_body",
            Self::NoTime => "no_time",
        }
    }
}

impl Meters {
    pub(super) fn new(upstream: &str) -> Self {
        Self {
            retries: Reason::ALL.map(|reason| {
                Outcome::ALL.map(|outcome| {
                    let labels = [
                        ("upstream", upstream),
                        ("reason", reason.as_str()),
                        ("outcome", outcome.as_str()),
                    ];
                    counter(names::RETRIES, &labels)
                })
            }),
            refused_unsafe: counter(names::RETRY_REFUSED_UNSAFE, &[("upstream", upstream)]),
            budget: gauge(names::RETRY_BUDGET, &[("upstream", upstream)]),
        }
    }

    pub(super) fn retry(&self, reason: Reason, outcome: Outcome) {
        self.retries[reason as usize][outcome as usize].increment(1);
    }
}
