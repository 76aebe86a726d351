//! What passed of the response so far.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    mcp::peek::Answer,
    waits::{Asked, Waits},
};

/// What passed of the response so far. The observer writes it; clocks, metrics and rescue read it.
#[derive(Debug, Default)]
pub struct ResponseFacts {
    /// Messages (or, without MCP, events and frames) so far.
    pub(super) events: AtomicU32,
    /// Nanoseconds from the start of the exchange to the newest message.
    pub(super) last_event: AtomicU64,
    /// The same for the newest progress notification.
    pub(super) last_progress: AtomicU64,
    /// The answers that were seen.
    pub(super) answers: AtomicU32,
    /// The newest answer, coded (see [`ResponseFacts::answer`]).
    pub(super) answer: AtomicU64,
    /// Bytes of an event went out whose end has not.
    pub(super) torn: AtomicBool,
    /// The body ended in the middle of an event, of which what comes now is a part.
    pub(super) unfinished: AtomicBool,
    /// An event stream ended, and what its client waits for has not come.
    pub(super) unanswered: AtomicBool,
    /// An observer stands below.
    pub(super) observed: AtomicBool,
    /// It is the rest of another call's response.
    pub(super) resumes: AtomicBool,
    pub(super) waits: OnceLock<Waits>,
    /// An id passed: then there is something in `resumption`, which need not be locked else.
    identified: AtomicBool,
    pub(super) resumption: Mutex<Resumption>,
}

/// What is needed to go on with an event stream that breaks.
#[derive(Debug, Default)]
pub(super) struct Resumption {
    /// The newest id of an event that passed whole.
    id: Option<Box<str>>,
    /// How long the server wants its clients to wait before they come back.
    retry: Option<Duration>,
    /// Another body goes on with the stream: what has this id may be in it once more.
    seen: Option<Box<str>>,
    /// How often the stream was gone on with.
    bodies: u32,
    /// Questions outlive their body.
    keeps: bool,
    /// The questions to the client that were asked on the body before.
    asked: Option<Asked>,
}

// === impl ResponseFacts ===

impl ResponseFacts {
    /// An observer stands below, and knows of these waits.
    pub fn observe(&self, waits: &Waits) {
        self.observed.store(true, Ordering::Relaxed);
        let _first = self.waits.set(waits.clone());
    }

    /// Forgets what passed, for another attempt to begin. The body of the last one must be gone.
    pub fn reset(&self) {
        self.events.store(0, Ordering::Relaxed);
        self.last_event.store(0, Ordering::Relaxed);
        self.last_progress.store(0, Ordering::Relaxed);
        self.answers.store(0, Ordering::Relaxed);
        self.answer.store(0, Ordering::Relaxed);
        self.torn.store(false, Ordering::Relaxed);
        self.unfinished.store(false, Ordering::Relaxed);
        self.unanswered.store(false, Ordering::Relaxed);
        self.identified.store(false, Ordering::Relaxed);
        let before = std::mem::take(&mut *self.resumption());
        // Outside the lock: with it go the questions of the attempt before.
        drop(before);
    }

    /// How many messages (or events) passed.
    pub fn events(&self) -> u32 {
        self.events.load(Ordering::Relaxed)
    }

    /// The newest answer.
    pub fn answer(&self) -> Option<Answer> {
        match self.answer.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Answer::Result),
            2 => Some(Answer::ToolError),
            code => Some(Answer::Error(i64::from((code >> 2) as i32))),
        }
    }

    /// An answer passed.
    pub fn saw_answer(&self, answer: Answer) {
        self.set_answer(answer);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Says what the newest answer is, in the place of one that passed.
    pub fn set_answer(&self, answer: Answer) {
        let coded = match answer {
            Answer::Result => 1,
            Answer::ToolError => 2,
            Answer::Error(code) => {
                let code = i32::try_from(code).unwrap_or(i32::MAX);
                (u64::from(code.cast_unsigned()) << 2) | 3
            }
        };
        self.answer.store(coded, Ordering::Relaxed);
    }

    /// An observer stands below, so that what passed is known.
    pub fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }

    /// The response to a GET is the rest of a call's, and ends with that: no standing stream.
    pub fn set_resumes_call(&self) {
        self.resumes.store(true, Ordering::Relaxed);
    }

    /// Whether it is (see [`set_resumes_call`](Self::set_resumes_call)).
    pub fn resumes_call(&self) -> bool {
        self.resumes.load(Ordering::Relaxed)
    }

    /// The response stands between two events, as far as is known: an own event may follow.
    pub fn at_boundary(&self) -> bool {
        self.is_observed() && !self.torn.load(Ordering::Relaxed)
    }

    /// Says whether part of an event went out without its end.
    pub fn set_torn(&self, torn: bool) {
        self.torn.store(torn, Ordering::Relaxed);
    }

    /// The body ended in the middle of an event: what comes of it now is a part of that, and without use.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// Says that the body ended in the middle of an event.
    pub fn set_unfinished(&self) {
        self.unfinished.store(true, Ordering::Relaxed);
        self.set_torn(true);
    }

    /// The event stream of a call ended without what its client waits for, and nobody took the call back.
    pub fn ended_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Says that the event stream of a call ended without its answer.
    pub fn set_ended_unanswered(&self) {
        self.unanswered.store(true, Ordering::Relaxed);
    }

    /// An event with an id passed, so that the server can be asked for what came after it.
    pub fn has_event_id(&self) -> bool {
        self.identified.load(Ordering::Relaxed)
    }

    /// The newest id of an event that passed whole.
    pub fn event_id(&self) -> Option<Box<str>> {
        if !self.has_event_id() {
            return None;
        }
        self.resumption().id.clone()
    }

    /// An event with this id passed. An empty one takes back those before it (WHATWG HTML, 9.2.6).
    pub fn saw_event_id(&self, id: Box<str>) {
        self.identified.store(!id.is_empty(), Ordering::Relaxed);
        self.resumption().id = Some(id).filter(|id| !id.is_empty());
    }

    /// How long the server wants its clients to wait before they come back, if it said so.
    pub fn retry(&self) -> Option<Duration> {
        self.resumption().retry
    }

    /// The server said how long its clients should wait before they come back.
    pub fn saw_retry(&self, retry: Duration) {
        self.resumption().retry = Some(retry);
    }

    /// Another body is to go on with the stream. The one before must be gone.
    pub fn go_on(&self) {
        self.torn.store(false, Ordering::Relaxed);
        self.unfinished.store(false, Ordering::Relaxed);
        self.unanswered.store(false, Ordering::Relaxed);
        let mut resumption = self.resumption();
        resumption.bodies += 1;
        resumption.seen = resumption.id.clone();
    }

    /// The body is not the first of its stream.
    pub fn goes_on(&self) -> bool {
        self.resumption().bodies > 0
    }

    /// An event of this id, in a body that goes on with a stream, is the one that was delivered last. Once another id came, none is.
    pub fn is_repeated(&self, id: &str) -> bool {
        let mut resumption = self.resumption();
        let same = resumption.seen.as_deref() == Some(id);
        if !same {
            resumption.seen = None;
        }
        same
    }

    /// From now on the questions to the client outlive their body, for the next one of the stream; or not any more.
    pub(crate) fn keep_questions(&self, keep: bool) {
        let mut resumption = self.resumption();
        resumption.keeps = keep;
        let gone = if keep { None } else { resumption.asked.take() };
        drop(resumption);
        // Outside the lock: with it the questions end.
        drop(gone);
    }

    /// A body is gone on which this was asked.
    pub(crate) fn leave_questions(&self, asked: Asked) {
        let mut resumption = self.resumption();
        if resumption.keeps {
            resumption.asked = Some(asked);
            return;
        }
        drop(resumption);
        drop(asked);
    }

    /// What was asked on the body before, if its questions were kept.
    pub(crate) fn take_questions(&self) -> Option<Asked> {
        self.resumption().asked.take()
    }

    fn resumption(&self) -> MutexGuard<'_, Resumption> {
        self.resumption
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_their_coding() {
        for answer in [
            Answer::Result,
            Answer::ToolError,
            Answer::Error(-32601),
            Answer::Error(0),
            Answer::Error(504),
        ] {
            let facts = ResponseFacts::default();
            assert_eq!(facts.answer(), None);
            facts.saw_answer(answer);
            assert_eq!(facts.answer(), Some(answer));
        }
    }
}
