//! Requests of a server that wait for their client's answer, while which no clock runs.
//!
//! A legacy server asks its client (sampling, elicitation, roots) on an event stream; the answer comes as a POST of
//! its own. [`Waits`] brings the two together by session and id, and the same way it knows which calls their client took back. It is bounded: past its caps a wait is not noted, and the call's
//! clocks run as for any other.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::mcp::Id;

/// The open questions of all sessions of an upstream. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    sessions: Arc<Mutex<HashMap<Box<str>, Session>>>,
    cancelled: Arc<Mutex<Cancelled>>,
}

/// The newest cancellations of each session. One that cancels much evicts its own alone.
#[derive(Debug, Default)]
struct Cancelled {
    of: HashMap<Box<str>, VecDeque<Id>>,
    /// Its sessions, the first that came first.
    order: VecDeque<Box<str>>,
}

/// How a session stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    /// The client is being asked now.
    pub open: bool,
    /// When the newest question was answered.
    pub ended: Option<Instant>,
}

/// Takes the questions that passed on a stream back when the stream is gone.
#[derive(Debug)]
pub struct Asked {
    waits: Waits,
    session: Box<str>,
    ids: Vec<Id>,
}

#[derive(Debug, Default)]
struct Session {
    open: HashSet<Id>,
    ended: Option<Instant>,
    streams: u32,
}

const MAX_SESSIONS: usize = 10_000;
const MAX_OPEN: usize = 256;
/// How many of the newest cancellations of a session are known. Each matters only until its call has ended, which is soon.
const MAX_CANCELLED: usize = 128;
/// How many sessions are known to have cancelled something.
const MAX_CANCELLING: usize = 2048;
/// The longest id that is noted, in bytes of JSON text.
const LONGEST_ID: usize = 128;

impl Waits {
    /// How the session stands.
    pub fn look(&self, session: &str) -> Wait {
        self.lock()
            .get(session)
            .map_or_else(Wait::default, |s| Wait {
                open: !s.open.is_empty(),
                ended: s.ended,
            })
    }

    /// The client has answered `id`.
    pub fn answered(&self, session: &str, id: &Id) {
        if let Some(session) = self.lock().get_mut(session) {
            session.close(id);
        }
    }

    /// The client has taken its call `id` back. Noted are the newest 128 of a session, and those of the 2048 sessions that did so last; an id of more than 128
    /// bytes of JSON is not. What is not noted may be answered after all.
    pub fn cancel(&self, session: &str, id: &Id) {
        if id.as_json().len() <= LONGEST_ID {
            lock(&self.cancelled).note(session, id);
        }
    }

    /// The client took its call `id` back not long ago, so that nobody may answer it.
    pub fn is_cancelled(&self, session: &str, id: &Id) -> bool {
        let cancelled = lock(&self.cancelled);
        let of = cancelled.of.get(session);
        of.is_some_and(|ids| ids.contains(id))
    }

    /// A stream on which the session's client may be asked.
    pub fn stream(&self, session: &str) -> Asked {
        Asked {
            waits: self.clone(),
            session: session.into(),
            ids: Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Session>> {
        lock(&self.sessions)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cancelled {
    fn note(&mut self, session: &str, id: &Id) {
        if let Some(ids) = self.of.get_mut(session) {
            // The newest is last, of sessions and of ids.
            let known = self.order.iter().position(|known| **known == *session);
            let known = known.and_then(|known| self.order.remove(known));
            self.order.extend(known);
            ids.retain(|known| known != id);
            if ids.len() >= MAX_CANCELLED {
                ids.pop_front();
            }
            ids.push_back(id.clone());
            return;
        }
        if self.order.len() >= MAX_CANCELLING
            && let Some(first) = self.order.pop_front()
        {
            self.of.remove(&first);
        }
        self.order.push_back(session.into());
        self.of.insert(session.into(), VecDeque::from([id.clone()]));
    }
}

impl Session {
    fn close(&mut self, id: &Id) {
        if self.open.remove(id) {
            self.ended = Some(Instant::now());
        }
    }
}

impl Asked {
    /// The server asks, with this id.
    pub fn ask(&mut self, id: Id) {
        let mut sessions = self.waits.lock();
        if self.ids.len() >= MAX_OPEN
            || (sessions.len() >= MAX_SESSIONS && !sessions.contains_key(&self.session))
        {
            return;
        }
        let session = sessions.entry(self.session.clone()).or_default();
        if self.ids.is_empty() {
            session.streams += 1;
        }
        session.open.insert(id.clone());
        self.ids.push(id);
    }

    /// Some other message passed: where no session tells who answers, that ends what was asked here.
    pub fn moved_on(&mut self) {
        if let Some(session) = self.waits.lock().get_mut(&self.session) {
            for id in &self.ids {
                session.close(id);
            }
        }
    }

    /// Something was asked here.
    pub fn is_used(&self) -> bool {
        !self.ids.is_empty()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut sessions = self.waits.lock();
        if let Some(session) = sessions.get_mut(&self.session) {
            for id in &self.ids {
                session.close(id);
            }
            session.streams -= 1;
            if session.streams == 0 {
                sessions.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_taken_back_is_known_for_a_while() {
        let waits = Waits::default();
        waits.cancel("s", &Id::from_number(1));
        assert!(waits.is_cancelled("s", &Id::from_number(1)));
        assert!(!waits.is_cancelled("t", &Id::from_number(1)));
        assert!(!waits.is_cancelled("s", &Id::from_number(2)));
        for id in 0..=MAX_CANCELLED as u64 {
            waits.cancel("t", &Id::from_number(id));
        }
        assert!(waits.is_cancelled("t", &Id::from_number(1)));
        assert!(!waits.is_cancelled("t", &Id::from_number(0)));
        assert!(
            waits.is_cancelled("s", &Id::from_number(1)),
            "another session has its own"
        );
        for session in 0..MAX_CANCELLING {
            waits.cancel(&session.to_string(), &Id::from_number(1));
        }
        let cancelled = lock(&waits.cancelled);
        assert_eq!(cancelled.of.len(), MAX_CANCELLING);
        assert_eq!(cancelled.order.len(), MAX_CANCELLING);
        assert!(!cancelled.of.contains_key("s"));
    }

    #[test]
    fn the_session_that_took_a_call_back_last_is_forgotten_last() {
        let waits = Waits::default();
        for session in 0..MAX_CANCELLING {
            waits.cancel(&session.to_string(), &Id::from_number(1));
        }
        for _ in 0..=MAX_CANCELLED {
            waits.cancel("0", &Id::from_number(2));
        }
        assert!(
            waits.is_cancelled("0", &Id::from_number(1)),
            "one id counts once"
        );
        waits.cancel("new", &Id::from_number(1));
        assert!(waits.is_cancelled("0", &Id::from_number(2)));
        assert!(!waits.is_cancelled("1", &Id::from_number(1)));
    }

    #[test]
    fn a_wait_ends_with_the_answer_or_with_its_stream() {
        let waits = Waits::default();
        let mut stream = waits.stream("s");
        assert!(!waits.look("s").open);
        stream.ask(Id::from_number(1));
        stream.ask(Id::from_number(2));
        assert!(waits.look("s").open && !waits.look("t").open);
        waits.answered("t", &Id::from_number(1));
        waits.answered("s", &Id::from_number(1));
        assert!(waits.look("s").open);
        waits.answered("s", &Id::from_number(2));
        assert!(!waits.look("s").open && waits.look("s").ended.is_some());
        stream.ask(Id::from_number(3));
        assert!(waits.look("s").open);
        drop(stream);
        assert_eq!(waits.look("s"), Wait::default());
        assert!(waits.lock().is_empty());
    }
}
