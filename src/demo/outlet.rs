//! The way out for what a call says: bounded, in order, and closed when nobody listens.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::rpc::Reply;

/// How many messages may wait in one outlet.
const DEPTH: usize = 64;

/// One thing that goes out.
#[derive(Debug)]
pub(crate) enum Out {
    /// A notification, or a request of ours.
    Message(Bytes),
    /// The final answer of a call.
    Reply(Reply),
}

/// Where a running call puts its messages.
#[derive(Debug, Clone)]
pub(crate) struct Outlet(mpsc::Sender<Out>);

/// The other end.
pub(crate) type Outgoing = mpsc::Receiver<Out>;

/// A pair of ends.
pub(crate) fn outlet() -> (Outlet, Outgoing) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (Outlet(sender), receiver)
}

// === impl Outlet ===

impl Outlet {
    /// Sends a message, waiting for room; false when nobody listens any more.
    pub(crate) async fn send(&self, message: Bytes) -> bool {
        self.0.send(Out::Message(message)).await.is_ok()
    }

    /// Sends the final answer, waiting for room; false when nobody listens any more.
    pub(crate) async fn finish(self, reply: Reply) -> bool {
        self.0.send(Out::Reply(reply)).await.is_ok()
    }
}

// === impl Out ===

impl Out {
    /// The text of the message.
    pub(crate) fn text(self) -> Bytes {
        match self {
            Self::Message(text) => text,
            Self::Reply(reply) => reply.text,
        }
    }
}
