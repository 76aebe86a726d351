//! The response bodies: the HTTP service's own, one JSON text, or an event stream out of a mailbox.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;

use super::{desk::Desk, front::Lease, mailbox::Mailbox};
use crate::{Body, error::BoxError, mcp::wire};

/// The response body of an [`SseUpstream`](super::SseUpstream).
#[pin_project]
pub struct SseBody<B> {
    #[pin]
    inner: Option<B>,
    /// What comes first.
    ready: VecDeque<Bytes>,
    source: Source,
}

enum Source {
    None,
    Call(Lease),
    Standing(Standing),
    /// What is left of a body that was looked into; an error in it ends it.
    Rest(Body),
}

/// A GET stream that somebody reads.
pub(super) struct Standing {
    pub(super) stream: Arc<Mailbox>,
    pub(super) desk: Arc<Desk>,
}

impl<B> SseBody<B> {
    /// That of the HTTP service.
    pub(super) fn passing(inner: B) -> Self {
        Self::of(Some(inner), VecDeque::new(), Source::None)
    }

    /// The same, of which this was read.
    pub(super) fn resumed(read: VecDeque<Bytes>, rest: Body) -> Self {
        Self::of(None, read, Source::Rest(rest))
    }

    /// These bytes; none is an empty body.
    pub(super) fn whole(bytes: Bytes) -> Self {
        let ready = if bytes.is_empty() {
            VecDeque::new()
        } else {
            [bytes].into()
        };
        Self::of(None, ready, Source::None)
    }

    /// Answers, as one JSON array.
    pub(super) fn array(answers: Vec<Bytes>) -> Self {
        let mut ready = VecDeque::new();
        for answer in answers {
            let before: &[u8] = if ready.is_empty() { b"[" } else { b"," };
            ready.extend([Bytes::from_static(before), answer]);
        }
        ready.push_back(Bytes::from_static(b"]"));
        Self::of(None, ready, Source::None)
    }

    /// The events of a call, of which one may have been taken.
    pub(super) fn events(first: Option<Bytes>, lease: Lease) -> Self {
        let first = first.map_or_else(comment, |message| wire::event(&message));
        let mut body = Self::of(None, [first].into(), Source::Call(lease));
        settle(&mut body.source);
        body
    }

    /// The events of a GET stream.
    pub(super) fn standing(standing: Standing) -> Self {
        Self::of(None, [comment()].into(), Source::Standing(standing))
    }

    fn of(inner: Option<B>, ready: VecDeque<Bytes>, source: Source) -> Self {
        Self {
            inner,
            ready,
            source,
        }
    }
}

/// Whoever stands between sees by it that the stream has begun.
fn comment() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// Lets go of a call that is over.
fn settle(source: &mut Source) {
    if matches!(source, Source::Call(lease) if lease.call.is_drained()) {
        *source = Source::None;
    }
}

impl<B> HttpBody for SseBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Some(bytes) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(inner) = this.inner.as_pin_mut() {
            return inner.poll_frame(cx).map_err(Into::into);
        }
        let mailbox = match this.source {
            Source::None => return Poll::Ready(None),
            Source::Call(lease) => &lease.call,
            Source::Standing(standing) => &standing.stream,
            Source::Rest(rest) => return Pin::new(rest).poll_frame(cx),
        };
        Poll::Ready(match ready!(mailbox.poll_next(cx)) {
            Some(Ok(item)) => {
                settle(this.source);
                Some(Ok(Frame::data(wire::event(&item.message))))
            }
            Some(Err(error)) => {
                *this.source = Source::None;
                Some(Err(error.into()))
            }
            None => {
                *this.source = Source::None;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty()
            && match &self.source {
                Source::None => true,
                Source::Rest(rest) => rest.is_end_stream(),
                Source::Call(_) | Source::Standing(_) => false,
            }
            && self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.source) {
            (Some(inner), _) if self.ready.is_empty() => inner.size_hint(),
            (None, Source::None) => {
                SizeHint::with_exact(self.ready.iter().map(|b| b.len() as u64).sum())
            }
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.desk.leave_stream(&self.stream);
    }
}
