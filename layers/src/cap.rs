//! A cap on the bytes of a body.
//!
//! [`Capped`] counts a body's data and ends it with [`BodyTooLarge`] where it passes the cap; [`check`] refuses a request that
//! says beforehand that it will.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;

use crate::error::BoxError;

/// A request body over its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// The most bytes that it may have.
    pub limit: u64,
}

/// A body that fails with [`BodyTooLarge`] where it passes its cap.
#[derive(Debug)]
#[pin_project]
pub(crate) struct Capped<B> {
    #[pin]
    inner: B,
    /// The cap, and how much of it is left.
    cap: Option<(BodyTooLarge, u64)>,
    over: bool,
}

/// Refuses a request whose `Content-Length`, or whose body, says that it is larger than `limit`.
///
/// # Errors
/// When it is.
pub(crate) fn check<B: HttpBody>(request: &Request<B>, limit: u64) -> Result<(), BodyTooLarge> {
    // A body that knows its length was framed by the header.
    if let Some(length) = request.body().size_hint().exact().filter(|n| *n > 0) {
        return if length > limit {
            Err(BodyTooLarge { limit })
        } else {
            Ok(())
        };
    }
    let headers = request.headers().get_all(header::CONTENT_LENGTH);
    let declared = headers.iter().filter_map(|value| {
        let digits = value.to_str().ok()?;
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        number.then(|| digits.parse().unwrap_or(u64::MAX))
    });
    let least = declared.max().unwrap_or(0);
    if least.max(request.body().size_hint().lower()) > limit {
        return Err(BodyTooLarge { limit });
    }
    Ok(())
}

// === impl Capped ===

impl<B> Capped<B> {
    /// A body of at most `limit` bytes; `None` is no cap.
    pub(crate) fn new(body: B, limit: Option<u64>) -> Self {
        Self {
            inner: body,
            cap: limit.map(|limit| (BodyTooLarge { limit }, limit)),
            over: false,
        }
    }
}

impl<B> HttpBody for Capped<B>
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
        if *this.over {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        if let (Some((error, left)), Some(data)) = (this.cap, frame.data_ref()) {
            let Some(rest) = left.checked_sub(data.len() as u64) else {
                *this.over = true;
                return Poll::Ready(Some(Err((*error).into())));
            };
            *left = rest;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
