//! The start of a child: room for it, the process, and its first answer.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Extensions;
use tokio::time::Instant;

use super::{Pool, Seat, State, seats::Count};
use crate::{
    mcp::{Era, MessageFacts, envelope},
    upstream::stdio::{
        call::{Call, Item},
        child::{Child, Lease, Origin, Role},
        error::StdioError,
    },
};

/// A child that is to be started, or to be taken from those that were started ahead.
#[derive(Debug)]
pub(super) struct Start {
    /// Why, for the metrics.
    pub(super) reason: &'static str,
    pub(super) role: Role,
    pub(super) need: Need,
}

/// Who waits for a child that is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Somebody does.
    Now,
    /// Nobody yet: it is to take another's place. It gets no room that is not free.
    Successor,
    /// Nobody yet: it is to be there before anybody comes. It gets no room that is not free.
    Ahead,
}

/// What somebody who needs a child gets.
enum Room {
    Seat(Seat),
    /// A process that waited to be greeted.
    Spare(Arc<Child>),
}

/// Stops a child that is dropped before it is known to be of use.
pub(super) struct Trial {
    pub(super) child: Arc<Child>,
    passed: bool,
}

/// The start of a child for one session.
pub(super) const OWN: Start = Start {
    reason: "session",
    role: Role {
        era: Era::Legacy,
        shared: false,
    },
    need: Need::Now,
};

impl Start {
    pub(super) fn is_ahead(&self) -> bool {
        self.need == Need::Ahead
    }
}

impl Pool {
    /// A child for one session; the client's own `initialize` is its first request. Returns the answer.
    pub(in crate::upstream::stdio) async fn initialize(
        self: &Arc<Self>,
        body: &Bytes,
        facts: &MessageFacts,
        extensions: &Extensions,
    ) -> Result<(Arc<Child>, Item), StdioError> {
        let hand = |child: &Arc<Child>| self.hand(child, body, facts, extensions.clone());
        let first = self.come_up(&OWN, hand).await;
        let (mut trial, item) = first.inspect_err(|error| self.mishap(error, Need::Now))?;
        self.came_up(Need::Now);
        if item.answer == Some(None) {
            trial.keep();
        }
        Ok((trial.child.clone(), item))
    }

    /// Hands a client's `initialize` to its child.
    pub(super) fn hand(
        &self,
        child: &Arc<Child>,
        body: &Bytes,
        facts: &MessageFacts,
        mut extensions: Extensions,
    ) -> Result<Lease, StdioError> {
        let call = Arc::new(Call::new(1, self.settings().buffer));
        child.call(body, &[facts], call, &Origin::default(), &mut extensions)
    }

    /// Asks a child something on the proxy's own account.
    pub(in crate::upstream::stdio) async fn ask(
        &self,
        child: &Arc<Child>,
        request: String,
        limit: Duration,
    ) -> Result<Item, StdioError> {
        let lease = self.question(child, request)?;
        self.answer(&lease, limit).await
    }

    pub(super) fn question(
        &self,
        child: &Arc<Child>,
        request: String,
    ) -> Result<Lease, StdioError> {
        let body = Bytes::from(request);
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let facts =
            envelope::read_message(text, 0).map_err(|_| StdioError::Misplaced("not a message"))?;
        let call = Arc::new(Call::new(1, self.settings().buffer));
        let origin = Origin {
            session: None,
            own: true,
        };
        child.call(&body, &[&facts], call, &origin, &mut Extensions::new())
    }

    /// A child that has answered its first request, which `ask` hands to it. One that waited to be used may have died of that, or before:
    /// then it is another. What was started since then has had no time to.
    pub(super) async fn come_up(
        self: &Arc<Self>,
        what: &Start,
        ask: impl Fn(&Arc<Child>) -> Result<Lease, StdioError>,
    ) -> Result<(Trial, Item), StdioError> {
        let began = Instant::now();
        loop {
            let child = self.start(what).await?;
            let waited = child.age() > began.elapsed();
            match self.try_out(child, &ask).await {
                Err(StdioError::Gone { .. }) if waited => {}
                tried => return tried,
            }
        }
    }

    async fn try_out(
        &self,
        child: Arc<Child>,
        ask: impl Fn(&Arc<Child>) -> Result<Lease, StdioError>,
    ) -> Result<(Trial, Item), StdioError> {
        let trial = Trial::new(child);
        let lease = ask(&trial.child)?;
        let item = self.greet(lease).await?;
        Ok((trial, item))
    }

    /// Waits for a new child's first answer. The child counts as starting until somebody has it.
    pub(super) async fn greet(&self, lease: Lease) -> Result<Item, StdioError> {
        let began = Instant::now();
        let answer = self.answer(&lease, self.settings().handshake).await;
        let took = began.elapsed().as_secs_f64();
        self.meters().handshake_time.record(took);
        if let Err(StdioError::Handshake { .. }) = &answer {
            self.meters().handshake_timeouts.increment(1);
        }
        answer
    }

    async fn answer(&self, lease: &Lease, limit: Duration) -> Result<Item, StdioError> {
        let answer = async {
            loop {
                match poll_fn(|cx| lease.call.poll_next(cx)).await {
                    Some(Ok(item)) if item.answer.is_none() => {}
                    Some(result) => return result,
                    None => return Err(StdioError::Closing),
                }
            }
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or(Err(StdioError::Handshake { limit, sent: true }))
    }

    /// Whether children are started at all, now.
    pub(super) fn may_start(self: &Arc<Self>) -> Result<(), StdioError> {
        if self.closing.is_cancelled() {
            return Err(StdioError::Closing);
        }
        self.keep_from_now_on();
        match self.backoff() {
            Some(again) => Err(StdioError::Backoff { again }),
            None => Ok(()),
        }
    }

    /// A child that nobody has greeted: one that waits for that, or a new one, if there is room and it is not to be left alone for a while.
    pub(super) async fn start(self: &Arc<Self>, what: &Start) -> Result<Arc<Child>, StdioError> {
        if let Some(child) = self.spare(what, None)? {
            return Ok(child);
        }
        let seat = if what.need == Need::Now {
            match self.room(what).await? {
                Room::Seat(seat) => seat,
                Room::Spare(child) => return Ok(child),
            }
        } else {
            let most = self.settings().max_children.get();
            self.seats.take(most).ok_or(full(most))?
        };
        let child = self.launch(what.reason, what.is_ahead(), seat, |_, _| {})?;
        child.assign(what.role, what.is_ahead());
        Ok(child)
    }

    /// A child did not come up. That somebody who waited was refused one, or that it was stopped, says nothing of the command; what was
    /// started for nobody is looked at by whoever started it.
    pub(super) fn mishap(&self, error: &StdioError, need: Need) {
        if need == Need::Now && !error.is_ours() {
            self.failed();
        }
    }

    /// Starts a process, and notes what it is for.
    pub(super) fn launch(
        &self,
        reason: &'static str,
        ahead: bool,
        seat: Seat,
        note: impl FnOnce(&mut State, &Arc<Child>),
    ) -> Result<Arc<Child>, StdioError> {
        // Whoever closes waits until this is over; nothing is started after.
        let _under_way = self.common.tasks.token();
        if self.closing.is_cancelled() {
            return Err(StdioError::Closing);
        }
        let child = Child::start(&self.settings(), &self.common, ahead, seat)?;
        self.meters().spawn(reason);
        let mut state = self.state();
        state.children.retain(|c| c.strong_count() > 0);
        state.children.push(Arc::downgrade(&child));
        state.started += 1;
        note(&mut state, &child);
        drop(state);
        self.seats.tell();
        // Whoever closes stops those that are listed; it may have looked just before.
        if self.closing.is_cancelled() {
            child.stop("drain");
            return Err(StdioError::Closing);
        }
        Ok(child)
    }

    /// Room for a child that somebody needs now. If there is none it is waited for, for as long as it takes a child to go; a process that
    /// comes to wait for its greeting meanwhile does as well. Who has waited longest comes first.
    async fn room(self: &Arc<Self>, what: &Start) -> Result<Room, StdioError> {
        const GRACE: Duration = Duration::from_secs(1);
        let settings = self.settings();
        if let Some(seat) = self.seats.take(settings.max_children.get()) {
            return Ok(Room::Seat(seat));
        }
        let until = Instant::now() + settings.stop.stdin + settings.stop.term + GRACE;
        let waiter = self.seats.wait();
        loop {
            let told = waiter.told();
            // It may have changed meanwhile, which is told.
            let most = self.settings().max_children.get();
            if let Some(child) = self.spare(what, Some(&waiter))? {
                return Ok(Room::Spare(child));
            }
            if let Some(seat) = waiter.take(most) {
                return Ok(Room::Seat(seat));
            }
            if !self.makes_room(most) {
                return Err(full(most));
            }
            tokio::select! {
                () = self.closing.cancelled() => return Err(StdioError::Closing),
                told = tokio::time::timeout_at(until, told) => told.map_err(|_| full(most))?,
            }
        }
    }

    /// Whether a seat may be had soon. Children that nobody uses are ended until as many seats are on their way as are waited for: the one
    /// that is unused for the longest time first, and those that are kept for their first use after all others.
    fn makes_room(&self, most: usize) -> bool {
        // Let go of when the state is free again.
        let children: Vec<Arc<Child>>;
        // Two who wait look one after the other, so that they do not both end as many as are missing.
        let state = self.state();
        children = state.children.iter().filter_map(Weak::upgrade).collect();
        let Count { taken, waiting } = self.seats.count();
        let settled = children.iter().filter(|c| c.is_settled()).count();
        // Of those that are leaving, or come for nobody, or are so new that they are not listed yet: what becomes of them is told.
        let unsettled = taken.saturating_sub(settled);
        let unused = children.iter().filter_map(|c| Some((c.may_go()?, c)));
        let mut unused: Vec<_> = unused.collect();
        if unsettled + unused.len() + most <= taken {
            return false;
        }
        unused.sort_by_key(|(may_go, _)| *may_go);
        let wanted = (waiting + taken).saturating_sub(most + unsettled);
        let ended = unused.iter().filter(|(_, c)| c.stop_unused("room"));
        unsettled + ended.take(wanted).count() + most > taken
    }
}

fn full(limit: usize) -> StdioError {
    StdioError::Full {
        limit,
        what: "server processes",
    }
}

impl Trial {
    pub(super) fn new(child: Arc<Child>) -> Self {
        Self {
            child,
            passed: false,
        }
    }

    /// It is of use.
    pub(super) fn keep(&mut self) -> Arc<Child> {
        self.passed = true;
        self.child.clone()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.passed {
            self.child.stop("refused");
        }
    }
}
