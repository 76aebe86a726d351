//! The bodies of both directions: streamed, with typed errors.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    cancel::Guard,
    error::{FromClient, UpstreamBroken},
};
use crate::{Body, error::BoxError};

/// The response body of [`HttpUpstream`](super::HttpUpstream). Its errors are [`UpstreamBroken`].
#[derive(Debug)]
pub struct HttpBody {
    inner: Incoming,
    guard: Option<Box<Guard>>,
}

/// A request body, whose errors are marked as the client's.
#[derive(Debug)]
pub(super) struct RequestBody(pub(super) Body);

// === impl HttpBody ===

impl HttpBody {
    pub(super) fn new(inner: Incoming, guard: Option<Box<Guard>>) -> Self {
        let mut body = Self { inner, guard };
        if body.inner.is_end_stream() {
            body.over();
        }
        body
    }

    fn over(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.disarm();
        }
    }
}

impl http_body::Body for HttpBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if this.inner.is_end_stream() {
                    this.over();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.over();
                Some(Err(UpstreamBroken::in_body(error).into()))
            }
            None => {
                this.over();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl RequestBody ===

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = FromClient;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FromClient>>> {
        Pin::new(&mut self.get_mut().0)
            .poll_frame(cx)
            .map_err(FromClient)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
