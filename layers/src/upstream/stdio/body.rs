//! The response body: a cursor into a call's buffer.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{
    call::{Call, Item},
    child::Lease,
    message::Message,
    session::Session,
};
use crate::error::BoxError;

/// The body of a response of a [`StdioUpstream`](super::StdioUpstream): nothing, one JSON text, or an event stream.
#[derive(Debug)]
pub struct StdioBody {
    ready: VecDeque<Bytes>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    None,
    Call(Lease),
    Standing(Standing),
}

/// A standing stream that somebody reads.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) call: Arc<Call>,
    pub(super) session: Arc<Session>,
}

impl StdioBody {
    pub(super) fn empty() -> Self {
        Self {
            ready: VecDeque::new(),
            source: Source::None,
        }
    }

    /// One JSON text.
    pub(super) fn json(message: Message) -> Self {
        Self {
            ready: message.into_parts().into(),
            source: Source::None,
        }
    }

    /// The answers to a batch, as one JSON array.
    pub(super) fn array(answers: Vec<Message>) -> Self {
        let mut ready = VecDeque::new();
        for answer in answers {
            let before: &[u8] = if ready.is_empty() { b"[" } else { b"," };
            ready.push_back(Bytes::from_static(before));
            ready.extend(answer.into_parts());
        }
        ready.push_back(Bytes::from_static(b"]"));
        Self {
            ready,
            source: Source::None,
        }
    }

    /// The events of a call, of which some have been taken.
    pub(super) fn events(first: impl IntoIterator<Item = Message>, lease: Lease) -> Self {
        let mut body = Self {
            ready: VecDeque::new(),
            source: Source::Call(lease),
        };
        for message in first {
            body.ready.extend(message.into_event().into_parts());
        }
        body.settle();
        body
    }

    /// The events of a standing stream.
    pub(super) fn standing(standing: Standing) -> Self {
        Self {
            ready: VecDeque::new(),
            source: Source::Standing(standing),
        }
    }

    /// Lets go of a call that is over.
    fn settle(&mut self) {
        if matches!(&self.source, Source::Call(lease) if lease.is_done()) {
            self.source = Source::None;
        }
    }
}

impl HttpBody for StdioBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let call = match &self.source {
                Source::None => return Poll::Ready(None),
                Source::Call(lease) => &lease.call,
                Source::Standing(standing) => &standing.call,
            };
            match ready!(call.poll_next(cx)) {
                Some(Ok(Item { message, .. })) => {
                    self.ready.extend(message.into_event().into_parts());
                    self.settle();
                }
                Some(Err(error)) => {
                    self.source = Source::None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => self.source = Source::None,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && matches!(self.source, Source::None)
    }

    fn size_hint(&self) -> SizeHint {
        match self.source {
            Source::None => SizeHint::with_exact(self.ready.iter().map(|b| b.len() as u64).sum()),
            Source::Call(_) | Source::Standing(_) => SizeHint::default(),
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.session.leave_stream(&self.call);
    }
}
