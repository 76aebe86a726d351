//! Where a stream comes from.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};

use crate::{Body, attempt::Hold, error::BoxError, rescue::catch};

/// The upstream's body.
pub(super) struct Source {
    body: Body,
    /// A call keeps its session in use.
    _hold: Option<Hold>,
}

impl Source {
    pub(super) fn new(body: Body, hold: Option<Hold>) -> Self {
        Self { body, _hold: hold }
    }

    /// A panic would leave the stream to nobody, for ever: it is an error of the body, too.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut context = Context::from_waker(cx.waker());
        let polled = catch(|| Pin::new(&mut self.body).poll_frame(&mut context));
        polled.unwrap_or_else(|panic| Poll::Ready(Some(Err(panic))))
    }

    /// With this frame nothing more comes.
    pub(super) fn is_over(&self, frame: Option<&Result<Frame<Bytes>, BoxError>>) -> bool {
        match frame {
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) | None => true,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}
