//! The calls that a breaker looks back at, in bounded memory.

use std::{collections::VecDeque, time::Duration};

use super::settings::Window;

/// What a window holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u32,
    pub(super) failures: u32,
    pub(super) slow: u32,
}

/// A window that moves.
#[derive(Debug)]
pub(super) enum Tally {
    Calls {
        /// Whether each failed, and whether it was slow.
        newest: VecDeque<(bool, bool)>,
        most: usize,
        sum: Counts,
    },
    Time {
        buckets: Box<[Bucket; BUCKETS]>,
        width: Duration,
    },
}

/// The calls of one step of time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// Which step since the beginning.
    step: u128,
    counts: Counts,
}

const BUCKETS: usize = 10;

// === impl Counts ===

impl Counts {
    /// One call.
    fn one(failed: bool, slow: bool) -> Self {
        Self {
            calls: 1,
            failures: failed.into(),
            slow: slow.into(),
        }
    }

    fn add(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
    }

    fn remove(&mut self, other: Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.failures = self.failures.saturating_sub(other.failures);
        self.slow = self.slow.saturating_sub(other.slow);
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(window: Window) -> Self {
        match window {
            Window::Calls(most) => Self::Calls {
                newest: VecDeque::new(),
                most: most.get().into(),
                sum: Counts::default(),
            },
            Window::Time(length) => Self::Time {
                buckets: Default::default(),
                width: (length / BUCKETS as u32).max(Duration::from_nanos(1)),
            },
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Self::Calls { newest, sum, .. } => {
                newest.clear();
                *sum = Counts::default();
            }
            Self::Time { buckets, .. } => **buckets = Default::default(),
        }
    }

    pub(super) fn add(&mut self, failed: bool, slow: bool, now: Duration) {
        let call = Counts::one(failed, slow);
        match self {
            Self::Calls { newest, most, sum } => {
                if newest.len() == *most
                    && let Some((failed, slow)) = newest.pop_front()
                {
                    sum.remove(Counts::one(failed, slow));
                }
                newest.push_back((failed, slow));
                sum.add(call);
            }
            Self::Time { buckets, width } => {
                let step = step(now, *width);
                let bucket = &mut buckets[(step % BUCKETS as u128) as usize];
                if bucket.step != step {
                    *bucket = Bucket {
                        step,
                        counts: Counts::default(),
                    };
                }
                bucket.counts.add(call);
            }
        }
    }

    pub(super) fn counts(&self, now: Duration) -> Counts {
        match self {
            Self::Calls { sum, .. } => *sum,
            Self::Time { buckets, width } => {
                let step = step(now, *width);
                let mut sum = Counts::default();
                for bucket in buckets.iter() {
                    if bucket.step + BUCKETS as u128 > step {
                        sum.add(bucket.counts);
                    }
                }
                sum
            }
        }
    }
}

fn step(now: Duration, width: Duration) -> u128 {
    now.as_nanos() / width.as_nanos().max(1)
}
