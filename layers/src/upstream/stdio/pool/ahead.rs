//! Children that are started ahead of need.
//!
//! A *spare* is a process that nobody has greeted: a server's first request decides of its era and its client, so that this is as far as
//! one can go for a client who is not there yet, and whoever needs a child next gets one. The child that all share is greeted ahead.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Pool, State, backoff::Backoff, seats::Waiter, start::Start};
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

/// One that dies after this long did start.
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

    /// One that was kept ready has gone: the next one comes later if it died of itself.
    pub(super) fn lost(&mut self, child: &Child) {
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
    /// A process that waits to be greeted, if nobody else has waited for one for longer.
    pub(super) fn spare(
        self: &Arc<Self>,
        what: &Start,
        waiter: Option<&Waiter>,
    ) -> Result<Option<Arc<Child>>, StdioError> {
        self.may_start()?;
        if !waiter.map_or(self.seats.is_calm(), Waiter::is_first) {
            return Ok(None);
        }
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
            // A seat that is given back is told, and that nobody waits for one any more.
            let seat = self.seats.take(settings.max_children.get())?;
            let note = |state: &mut State, child: &Arc<Child>| {
                state.ahead.spares.push_back(child.clone());
            };
            if let Err(error) = self.launch("warm", true, seat, note) {
                self.failed_ahead(&error);
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
        // It may make room now.
        self.0.seats.tell();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::stdio::pool::seats::{Count, Seat, Seats};

    /// What may happen to a stock: it is looked after, a spare comes up or dies; somebody needs a child, looks again, or waits no more; a child
    /// of somebody ends; other settings come.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Look,
        Settle,
        Need,
        Again,
        GiveUp,
        Die,
        Free,
        Want(usize),
        Most(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Look),
            1 => Just(Event::Settle),
            3 => Just(Event::Need),
            2 => Just(Event::Again),
            1 => Just(Event::GiveUp),
            1 => Just(Event::Die),
            2 => Just(Event::Free),
            1 => (0..6_usize).prop_map(Event::Want),
            1 => (1..8_usize).prop_map(Event::Most),
        ]
    }

    /// A stock and its seats.
    struct Stock {
        seats: Arc<Seats>,
        most: usize,
        most_starting: usize,
        wanted: usize,
        settling: Vec<Seat>,
        settled: Vec<Seat>,
        used: Vec<Seat>,
        waiting: VecDeque<Waiter>,
    }

    impl Stock {
        fn have(&self) -> usize {
            self.settling.len() + self.settled.len()
        }

        /// Starts what is missing. Returns how many.
        fn look(&mut self) -> usize {
            let before = self.have();
            let missing = |stock: &Self| {
                let starting = stock.settling.len();
                missing(stock.wanted, stock.have(), starting, stock.most_starting)
            };
            while missing(self) > 0 {
                let Some(seat) = self.seats.take(self.most) else {
                    break;
                };
                self.settling.push(seat);
            }
            self.have() - before
        }

        /// Who comes, or has waited longest, gets a spare or a seat.
        fn serve(&mut self, waits: bool) -> bool {
            if !waits && !self.seats.is_calm() {
                return false;
            }
            let spare = self.settled.pop().or_else(|| self.settling.pop());
            let seat = spare.or_else(|| match self.waiting.front() {
                Some(first) => first.take(self.most),
                None => self.seats.take(self.most),
            });
            let served = seat.is_some();
            self.used.extend(seat);
            served
        }

        fn happens(&mut self, event: Event) {
            match event {
                Event::Look => drop(self.look()),
                Event::Settle => self.settled.append(&mut self.settling),
                Event::Need if self.serve(false) => {}
                Event::Need => self.waiting.push_back(self.seats.wait()),
                Event::Again if !self.waiting.is_empty() && self.serve(true) => {
                    drop(self.waiting.pop_front());
                }
                Event::Again => {}
                Event::GiveUp => drop(self.waiting.pop_back()),
                Event::Die => drop(self.settled.pop()),
                Event::Free => drop(self.used.pop()),
                Event::Want(now) => self.wanted = now,
                Event::Most(now) => self.most = now,
            }
        }
    }

    proptest! {
        #[test]
        fn a_stock_is_filled_but_never_beyond_what_is_wanted_or_may_start_or_may_run_nor_before_those_who_wait(
            most_starting in 1..4_usize,
            events in prop::collection::vec(event(), 0..200),
        ) {
            let mut stock = Stock {
                seats: Seats::new(Arc::default()),
                most: 4,
                most_starting,
                wanted: 0,
                settling: Vec::new(),
                settled: Vec::new(),
                used: Vec::new(),
                waiting: VecDeque::new(),
            };
            for event in events {
                let (have, taken) = (stock.have(), stock.seats.count().taken);
                stock.happens(event);
                let count = stock.seats.count();
                let waiting = stock.waiting.len();
                prop_assert_eq!(count, Count { taken: stock.have() + stock.used.len(), waiting });
                prop_assert!(stock.settling.len() <= most_starting);
                prop_assert!(count.taken <= taken.max(stock.most));
                if stock.have() > have {
                    prop_assert!(waiting == 0 && stock.have() <= stock.wanted);
                }
            }
            // Left alone with room enough, it fills up.
            stock.waiting.clear();
            while stock.have() < stock.wanted && stock.seats.has_room(stock.most) {
                stock.happens(Event::Settle);
                prop_assert!(stock.look() > 0);
            }
        }
    }
}
