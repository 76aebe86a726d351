//! A legacy session: its id, its standing stream, and what waits for one.

use std::{
    collections::{HashSet, VecDeque},
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
use crate::metrics::UpWhile;

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
    stream: Option<Arc<Call>>,
    waiting: VecDeque<Message>,
    bytes: usize,
    used: Instant,
    ended: bool,
    /// What a client of a shared child has subscribed to and set.
    subscriptions: HashSet<Box<str>>,
    level: Option<u8>,
}

/// The most messages that wait for a stream; then the oldest is dropped.
const WAITING: usize = 256;

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
                stream: None,
                waiting: VecDeque::new(),
                bytes: 0,
                used: now,
                ended: false,
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
            || state.has_stream()
            || !self.up.is_cancelled();
        if busy {
            Duration::ZERO
        } else {
            state.used.elapsed()
        }
    }

    /// Opens its standing stream, in place of one that is open; what waited for it comes first.
    pub(super) fn open_stream(&self, limit: usize) -> Arc<Call> {
        let call = Arc::new(Call::new(0, limit));
        let mut state = self.state();
        state.used = Instant::now();
        state.bytes = 0;
        for message in state.waiting.drain(..) {
            let _fits = call.push(Item {
                message,
                answer: None,
            });
        }
        if state.ended {
            call.end();
        }
        let old = state.stream.replace(call.clone());
        drop(state);
        if let Some(old) = old {
            old.end();
        }
        call
    }

    /// Ends its standing stream; the client may open another.
    pub(super) fn close_stream(&self) {
        if let Some(stream) = self.state().stream.take() {
            stream.end();
        }
    }

    /// Nobody reads this stream any more; what its reader had not taken waits for the next one, or is in it already.
    pub(super) fn leave_stream(&self, call: &Arc<Call>) {
        let mut state = self.state();
        state.used = Instant::now();
        // Under the lock, so that nothing comes after it before it is put back.
        let unread = call.detach();
        let newest = state.stream.as_ref().is_some_and(|s| Arc::ptr_eq(s, call));
        if newest {
            state.stream = None;
        }
        if state.ended {
            return;
        }
        if let Some(newer) = state.stream.as_ref().filter(|s| s.is_live()) {
            for item in unread {
                let _fits = newer.push(item);
            }
            return;
        }
        for item in unread.into_iter().rev() {
            let message = item.message.compact();
            state.bytes += message.len();
            state.waiting.push_front(message);
        }
        state.trim(usize::MAX);
    }

    /// Takes what waits, for a client that opens no stream.
    pub(super) fn take_waiting(&self) -> VecDeque<Message> {
        let mut state = self.state();
        if state.has_stream() {
            return VecDeque::new();
        }
        state.bytes = 0;
        std::mem::take(&mut state.waiting)
    }

    /// Somebody reads its standing stream.
    pub(super) fn has_stream(&self) -> bool {
        self.state().has_stream()
    }

    /// Gives a message to the standing stream, or keeps it for the next one.
    pub(super) fn deliver(&self, message: Message, limit: usize) {
        let mut state = self.state();
        if let Some(stream) = state.stream.as_ref().filter(|s| s.is_live()) {
            // A stream that overflows ends, and its client comes back for a new one; what finds it ended waits for that.
            let item = Item {
                message: message.clone(),
                answer: None,
            };
            if stream.push(item) {
                return;
            }
        }
        // It may wait for long, so it holds no more than its own bytes.
        let message = message.compact();
        state.bytes += message.len();
        state.waiting.push_back(message);
        state.trim(limit);
    }

    /// Ends it: its stream closes.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let stream = state.stream.take();
        state.waiting.clear();
        drop(state);
        self.up.cancel();
        if let Some(stream) = stream {
            stream.end();
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state().ended
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

impl State {
    /// Drops the oldest of what waits, if it is too much.
    fn trim(&mut self, limit: usize) {
        while self.waiting.len() > WAITING || (self.bytes > limit && self.waiting.len() > 1) {
            if let Some(oldest) = self.waiting.pop_front() {
                self.bytes -= oldest.len();
            }
        }
    }

    fn has_stream(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.is_live())
    }
}
