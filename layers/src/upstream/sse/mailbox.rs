//! The messages of one response, between the task that reads the server and the body that its client reads.

use bytes::Bytes;

use super::SseError;
use crate::upstream::mailbox::{self, Letter, SlowReader};

/// The buffer of one response.
pub(super) type Mailbox = mailbox::Mailbox<Item>;

/// One message for the client.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Bytes,
    /// It is the answer to a request of this call.
    pub(super) answer: bool,
    /// And that answer is an error.
    pub(super) error: bool,
    /// It tells how far the call is, and is of use to nobody else.
    pub(super) progress: bool,
}

/// Longer messages are kept as they are rather than copied.
const COPY: usize = 16 * 1024;

impl Letter for Item {
    type Error = SseError;

    fn len(&self) -> usize {
        self.message.len()
    }

    fn is_answer(&self) -> bool {
        self.answer
    }

    fn compact(self) -> Self {
        // What was cut out of a stream holds on to all that was read with it.
        if self.message.len() > COPY {
            return self;
        }
        let message = Bytes::copy_from_slice(&self.message);
        Self { message, ..self }
    }
}

impl Item {
    /// One that answers nothing.
    pub(super) fn said(message: Bytes) -> Self {
        Self {
            message,
            answer: false,
            error: false,
            progress: false,
        }
    }

    /// How far its call is.
    pub(super) fn progress(message: Bytes) -> Self {
        Self {
            progress: true,
            ..Self::said(message)
        }
    }

    /// It is for the session's client, if its call does not take it.
    pub(super) fn is_for_session(&self) -> bool {
        !self.answer && !self.progress
    }
}

impl From<SlowReader> for SseError {
    fn from(slow: SlowReader) -> Self {
        Self::SlowReader { limit: slow.limit }
    }
}
