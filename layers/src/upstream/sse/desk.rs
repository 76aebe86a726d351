//! The state of one session with an old server: its unanswered requests, its GET stream, and for whom each message is.
//!
//! Answers go by id, progress by token. What else a server says that may be about a call goes to the only call, or to the session's GET stream, or to the
//! newest call; the rest to the GET stream, where it waits (bounded) until one is opened. One client has the session, so ids and tokens are its own.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::{
    SseError, SseSettings,
    mailbox::{Item, Mailbox},
};
use crate::{
    exchange::GiveUp,
    mcp::{Id, Kind, MessageFacts, envelope},
    upstream::outbox::Outbox,
};

/// What waits for messages of the server.
#[derive(Debug)]
pub(super) struct Desk {
    buffer: usize,
    most: usize,
    idle: Duration,
    state: Mutex<State>,
    /// A client has left a call that goes on.
    pub(super) left: Notify,
}

#[derive(Debug)]
struct State {
    /// In the order in which they came.
    calls: Vec<Pending>,
    outbox: Outbox<Item>,
    used: Instant,
}

#[derive(Debug)]
struct Pending {
    id: Id,
    token: Option<Id>,
    call: Arc<Mailbox>,
    initialize: bool,
    /// The server has taken it.
    posted: bool,
    detached: Option<Detached>,
}

/// What is kept of a call whose client has gone.
#[derive(Clone)]
pub(super) struct Detached {
    pub(super) until: Instant,
    pub(super) cancel: Cancel,
}

/// Tells the server that a request was given up.
pub(super) type Cancel = Arc<dyn Fn(&Id, &'static str) + Send + Sync>;

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(settings: &SseSettings) -> Self {
        Self {
            buffer: settings.buffer,
            most: settings.max_pending.get(),
            idle: settings.idle,
            state: Mutex::new(State {
                calls: Vec::new(),
                outbox: Outbox::new(),
                used: Instant::now(),
            }),
            left: Notify::new(),
        }
    }

    /// Notes requests whose answers are to come, all or none.
    pub(super) fn expect(&self, requests: &[&MessageFacts]) -> Result<Arc<Mailbox>, SseError> {
        let mut state = self.state();
        if state.outbox.is_ended() {
            return Err(SseError::SessionGone);
        }
        let limit = self.most;
        if state.calls.len() + requests.len() > limit {
            let what = "unanswered requests";
            return Err(SseError::Full { limit, what });
        }
        let ids: Vec<&Id> = requests.iter().filter_map(|r| r.id()).collect();
        let twice = |(at, id): (usize, &&Id)| ids[..at].contains(id);
        let taken = state.calls.iter().any(|p| ids.contains(&&p.id));
        if taken || ids.iter().enumerate().any(twice) {
            return Err(SseError::Duplicate);
        }
        let call = Arc::new(Mailbox::new(requests.len(), self.buffer));
        for request in requests {
            if let Some(id) = request.id() {
                state.calls.push(Pending {
                    id: id.clone(),
                    token: request.progress_token.as_ref().map(|(t, _)| t.clone()),
                    call: call.clone(),
                    initialize: request.is("initialize"),
                    posted: false,
                    detached: None,
                });
            }
        }
        state.used = Instant::now();
        Ok(call)
    }

    /// Which requests of this call have no answer yet. They are forgotten.
    pub(super) fn give_up(&self, call: &Arc<Mailbox>) -> Vec<Id> {
        let mut state = self.state();
        let over: Vec<_> = state.calls.extract_if(.., |p| p.is_of(call)).collect();
        state.used = Instant::now();
        drop(state);
        over.into_iter()
            .filter(|p| !p.initialize)
            .map(|p| p.id)
            .collect()
    }

    /// The server has taken this request of the call.
    pub(super) fn posted(&self, call: &Arc<Mailbox>, id: &Id) {
        let mut state = self.state();
        let mut own = state.calls.iter_mut().filter(|p| p.is_of(call));
        if let Some(pending) = own.find(|p| p.id == *id) {
            pending.posted = true;
        }
    }

    /// The client of this call has gone. What the server has taken goes on, for as long as that may take; the rest is forgotten.
    pub(super) fn leave(&self, call: &Arc<Mailbox>, detached: &Detached) {
        let mut state = self.state();
        state.calls.retain(|p| p.posted || !p.is_of(call));
        let mut goes_on = false;
        for pending in state.calls.iter_mut().filter(|p| p.is_of(call)) {
            pending.detached = Some(detached.clone());
            goes_on = true;
        }
        drop(state);
        if goes_on {
            self.left.notify_one();
        }
    }

    /// Gives up calls whose clients have gone and whose time is over; says when that of the next is.
    pub(super) fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let until = |pending: &Pending| pending.detached.as_ref().map(|d| d.until);
        let mut state = self.state();
        let is_over = |pending: &mut Pending| until(pending).is_some_and(|until| until <= now);
        let over: Vec<_> = state.calls.extract_if(.., is_over).collect();
        let next = state.calls.iter().filter_map(until).min();
        drop(state);
        for pending in over {
            if let Some(detached) = pending.detached.filter(|_| !pending.initialize) {
                (detached.cancel)(&pending.id, GiveUp::Timeout.as_str());
            }
        }
        next
    }

    /// The client takes back a request: it has no answer any more.
    pub(super) fn cancel(&self, id: &Id) {
        let mut state = self.state();
        let found = state
            .calls
            .iter()
            .position(|p| p.id == *id && !p.initialize);
        let over = found.map(|at| state.calls.remove(at));
        drop(state);
        if let Some(over) = over {
            over.call.forgo();
        }
    }

    /// It is used.
    pub(super) fn touch(&self) {
        self.state().used = Instant::now();
    }

    /// Until when it may stay as quiet as it is: a call that somebody waits for, or a stream that is open, is use.
    pub(super) fn quiet_until(&self) -> Instant {
        let mut state = self.state();
        if state.calls.iter().any(|p| p.call.is_live()) || state.outbox.has_stream() {
            state.used = Instant::now();
        }
        state.used + self.idle
    }

    /// Requests that have no answer yet.
    pub(super) fn pending(&self) -> usize {
        self.state().calls.len()
    }

    /// Opens its GET stream, in place of one that is open; what waited for it comes first.
    pub(super) fn open_stream(&self) -> Arc<Mailbox> {
        let mut state = self.state();
        state.used = Instant::now();
        let (stream, wake) = state.outbox.open(self.buffer);
        drop(state);
        wake.up();
        stream
    }

    /// Nobody reads this stream any more; what its reader had not taken waits for the next one.
    pub(super) fn leave_stream(&self, stream: &Arc<Mailbox>) {
        let mut state = self.state();
        state.used = Instant::now();
        let wake = state.outbox.leave(stream);
        drop(state);
        wake.up();
    }

    /// The session is over: its calls fail, its stream ends.
    pub(super) fn end(&self, error: SseError) {
        let mut state = self.state();
        let (calls, wake) = (std::mem::take(&mut state.calls), state.outbox.end());
        drop(state);
        wake.up();
        for pending in calls {
            pending.call.fail(error);
        }
    }

    /// Hands a message of the server to whom it belongs.
    pub(super) fn take(&self, message: Bytes) {
        let facts = std::str::from_utf8(&message)
            .ok()
            .and_then(|text| envelope::read_message(text, 0).ok());
        let Some(facts) = facts else {
            tracing::debug!(bytes = message.len(), "the server sent what is no message");
            return;
        };
        let call = match facts.kind {
            Kind::Response => return self.answer(message, &facts),
            Kind::Notification if facts.is("notifications/progress") => {
                let token = facts.progress_token.as_ref().map(|(token, _)| token);
                let state = self.state();
                let mut calls = state.calls.iter();
                let found = calls.find(|p| p.token.is_some() && p.token.as_ref() == token);
                let call = found.map(|found| found.call.clone());
                drop(state);
                if let Some(call) = call {
                    let _taken = call.push(Item::progress(message));
                }
                return;
            }
            Kind::Notification if is_general(&facts) => None,
            Kind::Notification | Kind::Request => self.state().about(),
        };
        let item = Item::said(message);
        let refused = match call {
            Some(call) => {
                let (refused, wake) = call.put(item);
                wake.up();
                refused
            }
            None => Some(item),
        };
        // Its client may have left the call just now; it has the session still.
        if let Some(item) = refused {
            self.deliver(item);
        }
    }

    fn answer(&self, message: Bytes, facts: &MessageFacts) {
        let mut state = self.state();
        let found = state.calls.iter().position(|p| Some(&p.id) == facts.id());
        let pending = found.map(|at| state.calls.remove(at));
        state.used = Instant::now();
        drop(state);
        // One that is unknown was cancelled, or is made up.
        if let Some(pending) = pending {
            let _taken = pending.call.push(Item {
                message,
                answer: true,
                error: facts.error.is_some(),
                progress: false,
            });
        }
    }

    /// Gives a message to the GET stream, or keeps it for the next one.
    pub(super) fn deliver(&self, item: Item) {
        let wake = self.state().outbox.deliver(item, self.buffer);
        wake.up();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A notification that is about no call.
fn is_general(facts: &MessageFacts) -> bool {
    facts.method.as_ref().is_some_and(|m| {
        let method = m.as_str();
        method.ends_with("/list_changed")
            || method == "notifications/resources/updated"
            || method == "notifications/elicitation/complete"
    })
}

impl Pending {
    fn is_of(&self, call: &Arc<Mailbox>) -> bool {
        Arc::ptr_eq(&self.call, call)
    }
}

impl State {
    /// The call that a message may be about, if it does not go to the GET stream.
    fn about(&self) -> Option<Arc<Mailbox>> {
        let mut live = self
            .calls
            .iter()
            .filter(|p| p.call.is_live() && !p.initialize);
        let newest = live.next_back()?;
        let only = live.next().is_none();
        (only || !self.outbox.has_stream()).then(|| newest.call.clone())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::poll_fn;

    use super::*;
    use crate::mcp::CallFacts;

    fn desk() -> Desk {
        Desk::new(&SseSettings {
            max_pending: std::num::NonZeroUsize::new(3).expect("not zero"),
            ..SseSettings::new(http::Uri::from_static("http://h/sse"))
        })
    }

    fn expect(desk: &Desk, text: &str) -> Result<Arc<Mailbox>, SseError> {
        let body = Bytes::from(text.to_owned());
        let facts = CallFacts::read(&http::Method::POST, &http::HeaderMap::new(), &body);
        let facts = facts.expect("a call");
        desk.expect(&facts.requests().collect::<Vec<_>>())
    }

    fn next(mailbox: &Mailbox) -> Option<Bytes> {
        let item = poll_fn(|cx| mailbox.poll_next(cx)).now_or_never()??;
        Some(item.expect("no error").message)
    }

    #[tokio::test]
    async fn messages_find_their_call_their_stream_or_wait() {
        let desk = desk();
        let text = Bytes::from_static;
        let one = expect(
            &desk,
            r#"{"id":1,"method":"a","params":{"_meta":{"progressToken":"t"}}}"#,
        );
        let one = one.expect("a call");
        let asks = text(br#"{"id":9,"method":"roots/list"}"#);
        desk.take(asks.clone());
        assert_eq!(next(&one), Some(asks.clone()), "the only call");
        let two = expect(&desk, r#"{"id":"1","method":"b"}"#).expect("another id");
        desk.take(asks.clone());
        assert_eq!(
            (next(&one), next(&two)),
            (None, Some(asks.clone())),
            "the newest"
        );
        let progress =
            text(br#"{"method":"notifications/progress","params":{"progressToken":"t"}}"#);
        desk.take(progress.clone());
        assert_eq!(next(&one), Some(progress));
        let changed = text(br#"{"method":"notifications/tools/list_changed"}"#);
        desk.take(changed.clone());
        let stream = desk.open_stream();
        assert_eq!(next(&stream), Some(changed), "it has waited");
        desk.take(asks.clone());
        assert_eq!(next(&stream), Some(asks), "of several calls, none is sure");
        let answer = text(br#"{"id":1,"result":{}}"#);
        desk.take(answer.clone());
        desk.take(answer.clone());
        assert_eq!(next(&one), Some(answer));
        assert!(one.is_drained() && two.is_live());
    }

    #[tokio::test]
    async fn what_a_call_does_not_take_waits_for_the_stream_but_for_its_progress() {
        let desk = desk();
        let text = Bytes::from_static;
        let asks = text(br#"{"id":9,"method":"roots/list"}"#);
        let call = expect(
            &desk,
            r#"{"id":1,"method":"a","params":{"_meta":{"progressToken":"t"}}}"#,
        );
        let call = call.expect("a call");
        let item = |n: usize| Item::said(Bytes::from(vec![b' '; n]));
        // It has failed, and nobody has noticed yet.
        let limit = SseSettings::new(http::Uri::from_static("http://h/sse")).buffer;
        assert!(call.push(item(limit)));
        desk.take(asks.clone());
        let progress =
            text(br#"{"method":"notifications/progress","params":{"progressToken":"t"}}"#);
        desk.take(progress);
        let stream = desk.open_stream();
        assert_eq!((next(&stream), next(&stream)), (Some(asks), None));
    }

    #[tokio::test]
    async fn ids_in_flight_are_not_taken_twice_and_there_is_a_bound() {
        let desk = desk();
        let _first = expect(&desk, r#"{"id":1,"method":"a"}"#).expect("a call");
        for twice in [
            r#"{"id":1,"method":"b"}"#,
            r#"[{"id":2,"method":"b"},{"id":2,"method":"b"}]"#,
        ] {
            assert_eq!(expect(&desk, twice).err(), Some(SseError::Duplicate));
        }
        let _rest =
            expect(&desk, r#"[{"id":2,"method":"b"},{"id":3,"method":"b"}]"#).expect("room");
        let full = expect(&desk, r#"{"id":4,"method":"b"}"#).err();
        assert!(matches!(full, Some(SseError::Full { limit: 3, .. })));
        desk.end(SseError::Gone { sent: true });
        let late = expect(&desk, r#"{"id":5,"method":"b"}"#).err();
        assert_eq!(late, Some(SseError::SessionGone));
    }
}
