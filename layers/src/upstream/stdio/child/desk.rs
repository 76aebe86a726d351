//! What lies on a child's desk: the requests that it has, the sessions that it serves, and what is to be written to it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::BytesMut;
use http::Extensions;
use tokio::time::Instant;

use super::{Call, Gone, Id, Message, Session, UpWhile};

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
    /// Why it ends, once it does.
    pub(super) end: Option<&'static str>,
    pub(super) gone: Option<Gone>,
    /// The gauge of its state.
    pub(super) stage: Option<UpWhile>,
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

impl Desk {
    pub(super) fn remove(&mut self, wire: u64) -> Option<Pending> {
        let pending = self.calls.remove(&wire)?;
        if let Some(session) = &pending.session {
            session.finish();
        }
        Some(pending)
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
