//! The budget: how many of the calls may be repeated, so that retries never make an overload worse.
//!
//! In any ten seconds that end with a retry there were at most `share` × calls + 10 × `floor` retries. Ten seconds are counted in
//! slots of one second: calls over the ten newest, retries over eleven, so that rounding never allows more. An outage that
//! fails many calls at once finds the share of the last ten seconds, not only that of the moment.
//!
//! What goes on to another endpoint because there is no place for its tool ([`ToolBusy`](crate::limit::ToolBusy)) does not count: nothing is sent twice.
//!
//! [`Budget`] is one of tower's, and so can be used with `tower::retry` too. tower's own `TpsBudget` was not used: it
//! keeps `1 / percent` as an integer, so that 0.3 is 33 %, 0.4 is 50 % and 0.6 is 100 %, and it cannot say what is left.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// How many of the calls may be repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetSettings {
    /// The share of calls: 0.2 for 20 %.
    pub share: f64,
    /// Retries for each second that are allowed beside it, so that a call now and then can be repeated too.
    pub floor: f64,
}

/// A budget. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    window: Mutex<Window>,
}

/// The pure part: what was counted, second by second.
#[derive(Debug)]
struct Window {
    settings: BudgetSettings,
    /// Slot `n % SLOTS` counts second `n`, for the newest seconds.
    slots: [Slot; SLOTS],
    newest: u64,
    /// Calls of the newest `SECONDS` slots.
    calls: u64,
    /// Retries of all slots.
    retries: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    calls: u64,
    retries: u64,
}

const SECONDS: u64 = 10;
const SLOTS: usize = SECONDS as usize + 1;

// === impl BudgetSettings ===

impl Default for BudgetSettings {
    /// 20 %, and one each second.
    fn default() -> Self {
        Self {
            share: 0.2,
            floor: 1.0,
        }
    }
}

// === impl Budget ===

impl Budget {
    /// A budget with these settings. What is negative, or no number, counts as 0.
    pub fn new(settings: BudgetSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                epoch: Instant::now(),
                window: Mutex::new(Window::new(settings)),
            }),
        }
    }

    /// What is left, from 0 (nothing) to 1 (no retry lately).
    pub fn left(&self) -> f64 {
        self.with(|window, now| {
            window.advance(now);
            window.left()
        })
    }

    /// A call comes. Tells what is left when a new second has begun.
    pub(super) fn call(&self) -> Option<f64> {
        self.with(|window, now| window.call(now).then(|| window.left()))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Window, u64) -> T) -> T {
        let now = self.shared.epoch.elapsed().as_secs();
        let mut window = self
            .shared
            .window
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(&mut window, now)
    }
}

impl tower::retry::budget::Budget for Budget {
    fn deposit(&self) {
        let _ratio = self.call();
    }

    fn withdraw(&self) -> bool {
        self.with(Window::retry)
    }
}

// === impl Window ===

impl Window {
    fn new(settings: BudgetSettings) -> Self {
        Self {
            settings: BudgetSettings {
                share: settings.share.max(0.0),
                floor: settings.floor.max(0.0),
            },
            slots: [Slot::default(); SLOTS],
            newest: 0,
            calls: 0,
            retries: 0,
        }
    }

    /// Moves to second `now`; whether that is a new one.
    fn advance(&mut self, now: u64) -> bool {
        if now <= self.newest {
            return false;
        }
        if now - self.newest > SECONDS {
            self.slots = [Slot::default(); SLOTS];
            (self.calls, self.retries, self.newest) = (0, 0, now);
            return true;
        }
        while self.newest < now {
            self.newest += 1;
            // The oldest slot becomes the newest; of the one after it, calls count no longer.
            let fresh = std::mem::take(&mut self.slots[slot(self.newest)]);
            self.retries -= fresh.retries;
            self.calls -= self.slots[slot(self.newest + 1)].calls;
        }
        true
    }

    /// A call comes; whether a new second has begun.
    fn call(&mut self, now: u64) -> bool {
        let new = self.advance(now);
        self.slots[slot(self.newest)].calls += 1;
        self.calls += 1;
        new
    }

    /// A retry is wanted; whether it may be made.
    fn retry(&mut self, now: u64) -> bool {
        self.advance(now);
        if (self.retries + 1) as f64 > self.allowed() {
            return false;
        }
        self.slots[slot(self.newest)].retries += 1;
        self.retries += 1;
        true
    }

    fn allowed(&self) -> f64 {
        let BudgetSettings { share, floor } = self.settings;
        share * self.calls as f64 + floor * SECONDS as f64
    }

    fn left(&self) -> f64 {
        let allowed = self.allowed();
        if allowed < 1.0 {
            return 0.0;
        }
        (1.0 - self.retries as f64 / allowed).clamp(0.0, 1.0)
    }
}

fn slot(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tower::retry::budget::Budget as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_calls_and_a_floor_may_be_repeated() {
        for (share, floor, expected) in [
            (0.2, 0.0, 20),
            (0.3, 0.0, 30),
            (0.4, 0.0, 40),
            (0.0, 1.0, 10),
            (f64::NAN, -1.0, 0),
        ] {
            let budget = Budget::new(BudgetSettings { share, floor });
            for _ in 0..100 {
                budget.deposit();
            }
            assert_eq!((0..100).filter(|_| budget.withdraw()).count(), expected);
            assert!(budget.left().abs() < 1e-9);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_spent_comes_back_when_it_is_ten_seconds_old() {
        let budget = Budget::new(BudgetSettings {
            share: 0.0,
            floor: 1.0,
        });
        assert!((0..10).all(|_| budget.withdraw()));
        assert!(!budget.withdraw());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!budget.withdraw());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!((budget.left() - 1.0).abs() < 1e-9);
        assert!(budget.withdraw());
    }

    proptest! {
        #[test]
        fn no_ten_seconds_see_more_retries_than_the_share_and_the_floor(
            share in 0.0f64..1.5,
            floor in 0.0f64..3.0,
            steps in prop::collection::vec((0u64..4000, 0u32..30, 0u32..30), 1..60),
        ) {
            let mut window = Window::new(BudgetSettings { share, floor });
            let (mut now, mut calls, mut retries) = (0u64, Vec::new(), Vec::new());
            for (wait, come, fail) in steps {
                now += wait;
                for _ in 0..come {
                    window.call(now / 1000);
                    calls.push(now);
                }
                for _ in 0..fail {
                    if !window.retry(now / 1000) {
                        continue;
                    }
                    retries.push(now);
                    let recent = |all: &[u64]| all.iter().filter(|at| **at + 10_000 > now).count() as f64;
                    prop_assert!(recent(&retries) <= share * recent(&calls) + floor * 10.0 + 1e-6);
                }
                prop_assert!((0.0..=1.0).contains(&window.left()));
            }
            // And so, over all of the time.
            let windows = (now / 10_000 + 1) as f64;
            prop_assert!(retries.len() as f64 <= share * calls.len() as f64 + floor * 10.0 * windows + 1e-6);
        }

        #[test]
        fn the_sums_are_those_of_the_slots(steps in prop::collection::vec((0u64..14, any::<bool>()), 1..200)) {
            let mut window = Window::new(BudgetSettings { share: 1.0, floor: 1.0 });
            let mut now = 0;
            for (wait, call) in steps {
                now += wait;
                if call { window.call(now); } else { window.retry(now); }
                let seconds = now.saturating_sub(SECONDS - 1)..=now;
                let calls: u64 = seconds.map(|n| window.slots[slot(n)].calls).sum();
                let retries: u64 = window.slots.iter().map(|s| s.retries).sum();
                prop_assert_eq!((window.calls, window.retries), (calls, retries));
            }
        }
    }
}
