//! A legacy session: its id, its standing stream, and what waits for one.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    call::{Call, Item},
    message::Message,
};
use crate::{metrics::UpWhile, upstream::outbox::Outbox};

/// A legacy client's session with a child.
pub(super) struct Session {
    /// Tells sessions apart within the process.
    pub(super) serial: u64,
    /// The `Mcp-Session-Id`. Not to be logged.
    pub(super) id: Box<str>,
    /// Whose it is, if that is known.
    pub(super) principal: Option<Arc<str>>,
    pub(super) created: Instant,
    /// Its child has answered `initialize`, or never will.
    up: CancellationToken,
    running: AtomicUsize,
    state: Mutex<State>,
    _gauge: UpWhile,
}

#[derive(Debug)]
struct State {
    outbox: Outbox<Item>,
    used: Instant,
    /// What a client of a shared child has subscribed to and set.
    subscriptions: HashSet<Box<str>>,
    level: Option<u8>,
}

/// The most resources that a session may subscribe to at a shared child.
pub(super) const SUBSCRIPTIONS: usize = 1000;

/// Without the id.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session whose child is still to answer, or has.
    pub(super) fn new(id: Box<str>, principal: Option<Arc<str>>, up: bool, gauge: UpWhile) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let now = Instant::now();
        let gate = CancellationToken::new();
        if up {
            gate.cancel();
        }
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            id,
            principal,
            created: now,
            up: gate,
            running: AtomicUsize::new(0),
            state: Mutex::new(State {
                outbox: Outbox::new(),
                used: now,
                subscriptions: HashSet::new(),
                level: None,
            }),
            _gauge: gauge,
        }
    }

    /// Its child has answered `initialize`.
    pub(super) fn came_up(&self) {
        self.up.cancel();
    }

    /// Waits until its child has answered `initialize`, or never will: then it has ended.
    pub(super) async fn wait(&self) {
        self.up.cancelled().await;
    }

    /// A request of it is on its way.
    pub(super) fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.touch();
    }

    /// A request of it is over.
    pub(super) fn finish(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.touch();
    }

    /// It is used.
    pub(super) fn touch(&self) {
        self.state().used = Instant::now();
    }

    /// How long it has neither been used nor had a stream or a request.
    pub(super) fn idle(&self) -> Duration {
        let state = self.state();
        let busy = self.running.load(Ordering::Relaxed) > 0
            || state.outbox.has_stream()
            || !self.up.is_cancelled();
        if busy {
            Duration::ZERO
        } else {
            state.used.elapsed()
        }
    }

    /// Opens its standing stream, in place of one that is open; what waited for it comes first.
    pub(super) fn open_stream(&self, limit: usize) -> Arc<Call> {
        let mut state = self.state();
        state.used = Instant::now();
        let (call, wake) = state.outbox.open(limit);
        drop(state);
        wake.up();
        call
    }

    /// Ends its standing stream; the client may open another.
    pub(super) fn close_stream(&self) {
        let wake = self.state().outbox.close_stream();
        wake.up();
    }

    /// Nobody reads this stream any more; what its reader had not taken waits for the next one, or is in it already.
    pub(super) fn leave_stream(&self, call: &Arc<Call>) {
        let mut state = self.state();
        state.used = Instant::now();
        let wake = state.outbox.leave(call);
        drop(state);
        wake.up();
    }

    /// Takes what waits, for a client that opens no stream.
    pub(super) fn take_waiting(&self) -> Vec<Message> {
        let mut state = self.state();
        if state.outbox.has_stream() {
            return Vec::new();
        }
        let waiting = state.outbox.take_waiting().into_iter();
        waiting.map(|item| item.message).collect()
    }

    /// Somebody reads its standing stream.
    pub(super) fn has_stream(&self) -> bool {
        self.state().outbox.has_stream()
    }

    /// Gives a message to the standing stream, or keeps it for the next one.
    pub(super) fn deliver(&self, message: Message, limit: usize) {
        let item = Item {
            message,
            answer: None,
        };
        let wake = self.state().outbox.deliver(item, limit);
        wake.up();
    }

    /// Ends it: its stream closes.
    pub(super) fn end(&self) {
        let wake = self.state().outbox.end();
        self.up.cancel();
        wake.up();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state().outbox.is_ended()
    }

    pub(super) fn is_subscribed(&self, uri: &str) -> bool {
        self.state().subscriptions.contains(uri)
    }

    /// Notes a subscription; false if there are too many.
    pub(super) fn subscribe(&self, uri: &str) -> bool {
        let mut state = self.state();
        if state.subscriptions.len() >= SUBSCRIPTIONS {
            return false;
        }
        state.subscriptions.insert(uri.into());
        true
    }

    pub(super) fn unsubscribe(&self, uri: &str) {
        self.state().subscriptions.remove(uri);
    }

    pub(super) fn subscriptions(&self) -> Vec<Box<str>> {
        self.state().subscriptions.iter().cloned().collect()
    }

    pub(super) fn set_level(&self, level: u8) {
        self.state().level = Some(level);
    }

    pub(super) fn level(&self) -> Option<u8> {
        self.state().level
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
