//! The legacy sessions: bounded in number; when there is no room, the one that has been idle longest goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::aws_lc_rs;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::demo::inflight::Inflight;
use crate::demo::session::Session;

/// A session, and what it owns.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the calls of the session share.
    pub(super) session: Arc<Session>,
    inflight: Mutex<Inflight>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    used: Instant,
    stream: Option<CancellationToken>,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    limit: usize,
    entries: Mutex<HashMap<Box<str>, Arc<Entry>>>,
}

/// There are too many sessions, and none of them is idle.
#[derive(Debug)]
pub(super) struct Full;

/// An id that cannot be guessed; `None` when the system gives no randomness.
pub(super) fn new_id() -> Option<Box<str>> {
    let mut random = [0_u8; 16];
    let provider = aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut random).ok()?;
    Some(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Entry ===

impl Entry {
    fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            inflight: Mutex::default(),
            state: Mutex::new(State {
                used: Instant::now(),
                stream: None,
            }),
        }
    }

    /// The running calls of the session.
    pub(super) fn inflight(&self) -> MutexGuard<'_, Inflight> {
        lock(&self.inflight)
    }

    /// Begins a standing stream, which takes the place of one before it. Cancelled when the session ends.
    pub(super) fn begin_stream(&self) -> CancellationToken {
        let over = CancellationToken::new();
        let before = lock(&self.state).stream.replace(over.clone());
        if let Some(before) = before {
            before.cancel();
        }
        over
    }

    fn touch(&self) {
        lock(&self.state).used = Instant::now();
    }

    /// Since when nothing happens; `None` while a call runs or a stream stands.
    fn idle_since(&self) -> Option<Instant> {
        let mut inflight = self.inflight();
        inflight.reap();
        let state = lock(&self.state);
        let streaming = state
            .stream
            .as_ref()
            .is_some_and(|over| !over.is_cancelled());
        (inflight.is_empty() && !streaming).then_some(state.used)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(stream) = &lock(&self.state).stream {
            stream.cancel();
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// No sessions yet, and never more than `limit`.
    pub(super) fn up_to(limit: usize) -> Self {
        Self {
            limit,
            entries: Mutex::default(),
        }
    }

    /// Adds a session, in the place of the one that has been idle longest if there are too many.
    pub(super) fn insert(&self, id: Box<str>, session: Arc<Session>) -> Result<(), Full> {
        let mut entries = lock(&self.entries);
        if entries.len() >= self.limit {
            let idle = entries
                .iter()
                .filter_map(|(id, entry)| Some((entry.idle_since()?, id)));
            let oldest = idle.min().map(|(_, id)| id.clone()).ok_or(Full)?;
            entries.remove(&oldest);
        }
        entries.insert(id, Arc::new(Entry::new(session)));
        Ok(())
    }

    /// A session that is alive.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Entry>> {
        let entry = lock(&self.entries).get(id).map(Arc::clone)?;
        entry.touch();
        Some(entry)
    }

    /// Ends a session with all that it owns; false when there is none.
    pub(super) fn remove(&self, id: &str) -> bool {
        lock(&self.entries).remove(id).is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::demo::engine::{Engine, Transport};

    fn insert(sessions: &Sessions, engine: &Engine, id: &str) -> Result<(), Full> {
        sessions.insert(id.into(), engine.session(Some(id.into())))
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_that_has_been_idle_longest_makes_room() {
        let engine = Engine::new(Transport::Http);
        let sessions = Sessions::up_to(2);
        for id in ["a", "b"] {
            insert(&sessions, &engine, id).unwrap();
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
        }
        sessions.get("a").unwrap();
        insert(&sessions, &engine, "c").unwrap();
        assert!(
            sessions.get("a").is_some()
                && sessions.get("b").is_none()
                && sessions.get("c").is_some()
        );
    }

    #[tokio::test]
    async fn a_session_with_a_stream_or_a_call_never_makes_room() {
        let engine = Engine::new(Transport::Http);
        let sessions = Sessions::up_to(2);
        insert(&sessions, &engine, "a").unwrap();
        insert(&sessions, &engine, "b").unwrap();
        let over = sessions.get("a").unwrap().begin_stream();
        let crate::demo::rpc::Message::Request(request) =
            crate::demo::rpc::read(br#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).unwrap()
        else {
            panic!("it is a request");
        };
        sessions
            .get("b")
            .unwrap()
            .inflight()
            .spawn(request.id, std::future::pending());
        assert!(insert(&sessions, &engine, "c").is_err());
        over.cancel();
        insert(&sessions, &engine, "c").unwrap();
        assert!(sessions.get("a").is_none());
    }

    #[test]
    fn ids_are_long_and_not_alike() {
        let (one, other) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
