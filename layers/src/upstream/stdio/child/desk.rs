//! What lies on a child's desk: the requests that it has, the sessions that it serves, and what is to be written to it.

use std::{
    collections::{HashMap, VecDeque},
    ops::{Deref, DerefMut},
    sync::{Arc, MutexGuard},
};

use bytes::BytesMut;
use http::Extensions;
use tokio::time::Instant;

use super::{
    Call, Child, Gone, Id, Message, Session, UpWhile,
    life::{Life, Stage},
};

/// What is under the lock.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) next: u64,
    pub(super) calls: HashMap<u64, Pending>,
    pub(super) sessions: HashMap<u64, Arc<Session>>,
    /// What came before there was a session to take it.
    pub(super) early: VecDeque<Message>,
    pub(super) out: BytesMut,
    /// The newest request that the writer has taken.
    pub(super) taken: u64,
    /// Requests that were cancelled, and until when their server may still be at them.
    pub(super) ghosts: VecDeque<(u64, Instant)>,
    /// It has closed its stdin.
    pub(super) deaf: bool,
    /// How it ended, or is made to.
    pub(super) gone: Option<Gone>,
    /// The log level that a shared child was told last.
    pub(super) level: Option<u8>,
    pub(super) life: Life,
    /// The state that the gauges show.
    stage: Option<(Stage, UpWhile)>,
}

/// A request on the wire.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) call: Arc<Call>,
    pub(super) id: Id,
    pub(super) token: Option<Id>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) initialize: bool,
    /// A subscription, or a request of the proxy's own: nothing but what bears its id belongs to it.
    pub(super) quiet: bool,
    /// Since when its client is gone, and what is kept for it (permits, the exchange).
    pub(super) detached: Option<Detached>,
    pub(super) _gauge: UpWhile,
}

#[derive(Debug)]
pub(super) struct Detached {
    pub(super) until: Instant,
    pub(super) _extensions: Extensions,
}

/// The desk in somebody's hands. When they let go the books are settled, so that no change of a lease is forgotten.
pub(super) struct Held<'a> {
    desk: MutexGuard<'a, Desk>,
    child: &'a Child,
}

impl Desk {
    pub(super) fn new(ahead: bool) -> Self {
        Self {
            life: Life::new(ahead),
            ..Self::default()
        }
    }

    /// How many leases there are.
    pub(super) fn leases(&self) -> usize {
        self.calls.len() + self.sessions.len()
    }

    pub(super) fn stage(&self) -> Option<Stage> {
        self.life.stage(self.leases())
    }

    pub(super) fn remove(&mut self, wire: u64) -> Option<Pending> {
        let pending = self.calls.remove(&wire)?;
        if let Some(session) = &pending.session {
            session.finish();
        }
        Some(pending)
    }

    /// The lowest log level that a session wants.
    pub(super) fn lowest_level(&self) -> Option<u8> {
        self.sessions.values().filter_map(|s| s.level()).min()
    }

    /// The server may be at a call that was cancelled.
    pub(super) fn is_haunted(&mut self) -> bool {
        let now = Instant::now();
        while self.ghosts.front().is_some_and(|(_, until)| *until <= now) {
            self.ghosts.pop_front();
        }
        !self.ghosts.is_empty()
    }
}

impl<'a> Held<'a> {
    pub(super) fn new(desk: MutexGuard<'a, Desk>, child: &'a Child) -> Self {
        Self { desk, child }
    }
}

impl Deref for Held<'_> {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Desk {
        &mut self.desk
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let desk = &mut *self.desk;
        let leases = desk.leases();
        if desk.life.settle(leases) {
            self.child.stop.cancel();
        }
        let stage = desk.life.stage(leases);
        if stage == desk.stage.as_ref().map(|(stage, _)| *stage) {
            return;
        }
        desk.stage = stage.map(|stage| (stage, UpWhile::new(self.child.meters.stage(stage))));
        if matches!(stage, Some(Stage::Stopping) | None) {
            self.child.wake.notify_one();
        }
    }
}
