//! A call in the hands of a child: what has come for it, and who reads that.

use super::{error::StdioError, message::Message};
use crate::upstream::mailbox::{Letter, Mailbox, SlowReader};

/// The buffer of one response. The child's reader pushes, the response body takes.
pub(super) type Call = Mailbox<Item>;

/// One message for the client.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Message,
    /// It is the answer to a request of this call; with the code of its error.
    pub(super) answer: Option<Option<i64>>,
}

impl Letter for Item {
    type Error = StdioError;

    fn len(&self) -> usize {
        self.message.len()
    }

    fn is_answer(&self) -> bool {
        self.answer.is_some()
    }

    fn compact(self) -> Self {
        Self {
            message: self.message.compact(),
            ..self
        }
    }
}

impl From<SlowReader> for StdioError {
    fn from(slow: SlowReader) -> Self {
        Self::SlowReader { limit: slow.limit }
    }
}
