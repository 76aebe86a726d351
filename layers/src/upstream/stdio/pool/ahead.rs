//! Children that are started ahead of need.
//!
//! A *spare* is a process that nobody has greeted: a server's first request decides of its era and its client, so that this is as far as
//! one can go for a client who is not there yet, and whoever needs a child next gets one. The child that all share is greeted ahead.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Pool, backoff::Backoff, start::Start};
use crate::upstream::stdio::{
    child::Child,
    error::StdioError,
    settings::{Isolation, StdioSettings},
};

/// What there is ahead of need, and what is under way.
#[derive(Default)]
pub(super) struct Ahead {
    /// The oldest first: it has had the most time to come up.
    spares: VecDeque<Arc<Child>>,
    /// Children that are being started and greeted.
    coming: usize,
    /// Those that died before anybody used them. Whoever waits for a child is not kept from it by that.
    pub(super) backoff: Backoff,
    /// The server refuses `initialize`, as one of the modern era alone does; it is not greeted ahead until then.
    pub(super) no_legacy_until: Option<Instant>,
}

/// A child that is being started and greeted, counted for as long as this lives.
pub(super) struct Coming(Arc<Pool>);

/// How long a spare counts as starting: nobody asks it, so it does not say when it is up.
const SETTLING: Duration = Duration::from_secs(1);

/// A spare that dies after this long did start.
const SETTLED: Duration = Duration::from_secs(10);

/// How many spares to start now, of those that are `wanted`.
fn missing(wanted: usize, have: usize, starting: usize, most_starting: usize) -> usize {
    let missing = wanted.saturating_sub(have);
    missing.min(most_starting.saturating_sub(starting))
}

impl Ahead {
    /// Somebody could be served at once.
    pub(super) fn has_spare(&self) -> bool {
        self.spares.iter().any(|child| child.is_open())
    }

    /// How many are starting.
    pub(super) fn starting(&self) -> usize {
        let settling = self.spares.iter().filter(|c| c.age() < SETTLING);
        settling.count() + self.coming
    }

    /// A spare has gone: the next one comes later if it died of itself.
    fn lost(&mut self, child: &Child) {
        if !child.has_died() {
            return;
        }
        if child.age() >= SETTLED {
            self.backoff.came_up();
        }
        self.backoff.failed(Instant::now(), fastrand::f64());
    }

    /// Strikes off the spares that have gone, and ends those that are too many or too old.
    fn tidy(&mut self, settings: &StdioSettings, wanted: usize) {
        for child in std::mem::take(&mut self.spares) {
            if !child.is_open() {
                self.lost(&child);
            } else if self.spares.len() >= wanted {
                child.stop("surplus");
            } else if settings.lifetime.is_some_and(|most| child.age() >= most) {
                child.stop("lifetime");
            } else {
                self.spares.push_back(child);
            }
        }
    }
}

impl StdioSettings {
    /// How many processes wait to be greeted: with one child for everybody, that is the first of those that are kept ready.
    fn spares(&self) -> usize {
        let greeted = usize::from(self.isolation == Isolation::Shared);
        self.warm.saturating_sub(greeted)
    }
}

impl Pool {
    /// A process that waits to be greeted.
    pub(super) fn spare(self: &Arc<Self>, what: &Start) -> Result<Option<Arc<Child>>, StdioError> {
        self.may_start()?;
        let mut state = self.state();
        while let Some(child) = state.ahead.spares.pop_front() {
            if child.assign(what.role, what.is_ahead()) {
                drop(state);
                self.common.wake.notify_one();
                return Ok(Some(child));
            }
            state.ahead.lost(&child);
        }
        Ok(None)
    }

    /// Starts the spares that are missing, as far as may be. Returns when to look again, if nothing tells before.
    pub(super) fn stock(&self, settings: &StdioSettings) -> Option<Instant> {
        let wanted = settings.spares();
        self.state().ahead.tidy(settings, wanted);
        loop {
            let now = Instant::now();
            if let Some(pause) = self.pause(now) {
                return Some(now + pause);
            }
            {
                let state = self.state();
                let (have, starting) = (state.ahead.spares.len(), state.ahead.starting());
                if missing(wanted, have, starting, settings.starting.get()) == 0 {
                    return (have < wanted).then_some(now + SETTLING);
                }
            }
            // A seat that is given back is told.
            let seat = self.seats.take(settings.max_children.get())?;
            match self.launch("warm", true, seat) {
                Ok(child) => self.state().ahead.spares.push_back(child),
                Err(error) => self.failed_ahead(&error),
            }
        }
    }

    /// How long nothing is started ahead of need.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        state.ahead.backoff.left(now).max(state.backoff.left(now))
    }

    /// What was started ahead of need did not come up.
    pub(super) fn failed_ahead(&self, error: &StdioError) {
        let mut state = self.state();
        state.ahead.backoff.failed(Instant::now(), fastrand::f64());
        drop(state);
        tracing::debug!(
            upstream = &*self.settings().name,
            %error,
            "a server that was started ahead of need did not come up"
        );
    }
}

impl Coming {
    pub(super) fn new(pool: &Arc<Pool>) -> Self {
        pool.state().ahead.coming += 1;
        Self(pool.clone())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.state().ahead.coming -= 1;
        self.0.common.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What may happen to a stock: it is looked after, a spare comes up, is taken, or dies; a child of somebody ends.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Look,
        Settle,
        Take,
        Die,
        Free,
        Want(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Look),
            Just(Event::Look),
            Just(Event::Settle),
            Just(Event::Take),
            Just(Event::Die),
            Just(Event::Free),
            (0..6_usize).prop_map(Event::Want),
        ]
    }

    proptest! {
        #[test]
        fn a_stock_is_filled_but_never_beyond_what_is_wanted_or_may_start_or_may_run(
            max in 1..8_usize,
            most_starting in 1..4_usize,
            events in prop::collection::vec(event(), 0..200),
        ) {
            let (mut wanted, mut settling, mut settled, mut used) = (0, 0, 0, 0_usize);
            for event in events {
                match event {
                    Event::Look => {
                        let mut started = missing(wanted, settling + settled, settling, most_starting);
                        started = started.min(max - settling - settled - used);
                        settling += started;
                        prop_assert!(started == 0 || settling + settled <= wanted);
                        prop_assert!(settling <= most_starting);
                        prop_assert!(settling + settled + used <= max);
                    }
                    Event::Settle => (settling, settled) = (0, settled + settling),
                    // Whoever needs a child has a spare, or a seat of its own.
                    Event::Take if settled > 0 => (settled, used) = (settled - 1, used + 1),
                    Event::Take if settling > 0 => (settling, used) = (settling - 1, used + 1),
                    Event::Take => used += usize::from(used < max),
                    Event::Die => settled = settled.saturating_sub(1),
                    Event::Free => used = used.saturating_sub(1),
                    Event::Want(now) => wanted = now,
                }
            }
            // Left alone with room enough, it fills up.
            if wanted + used <= max {
                while settling + settled < wanted {
                    let started = missing(wanted, settling + settled, 0, most_starting);
                    prop_assert!(started > 0);
                    settled += started;
                }
            }
        }
    }
}
