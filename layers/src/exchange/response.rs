//! What passed of the response so far.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use crate::{mcp::peek::Answer, waits::Waits};

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
    /// An observer stands below.
    pub(super) observed: AtomicBool,
    pub(super) waits: OnceLock<Waits>,
    /// It is the rest of another call's response.
    pub(super) resumes: AtomicBool,
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
        let coded = match answer {
            Answer::Result => 1,
            Answer::ToolError => 2,
            Answer::Error(code) => {
                let code = i32::try_from(code).unwrap_or(i32::MAX);
                (u64::from(code.cast_unsigned()) << 2) | 3
            }
        };
        self.answer.store(coded, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
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
