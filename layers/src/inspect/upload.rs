//! A request body as it arrives: collected up to a cap, within a time.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::Instant;

use super::{BodyTooLarge, UploadFailed, UploadTimeout};
use crate::{
    body::Gathered,
    cap::Capped,
    clock::{Clock, Due},
    error::{self, BoxError},
};

/// Collects a body.
#[pin_project]
pub(super) struct Upload<B> {
    #[pin]
    body: Capped<B>,
    got: Gathered,
    clock: Clock,
    start: Instant,
    limit: Duration,
}

/// The most that is set aside because a client says that it will come.
const MOST_AHEAD: u64 = 64 << 10;

impl<B> Upload<B> {
    pub(super) fn new(body: B, cap: u64, limit: Duration) -> Self {
        Self {
            body: Capped::new(body, Some(cap)),
            got: Gathered::default(),
            clock: Clock::default(),
            start: Instant::now(),
            limit,
        }
    }
}

impl<B> Upload<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// The whole body. Not to be polled again afterwards.
    pub(super) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, BoxError>> {
        let mut this = self.project();
        while !this.body.is_end_stream() {
            let frame = match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let end = *this.start + *this.limit;
                    let limit = *this.limit;
                    return this
                        .clock
                        .poll(cx, || Due::At(end))
                        .map(|()| Err(UploadTimeout { limit }.into()));
                }
            };
            match frame {
                None => break,
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                // Trailers say nothing that MCP knows of.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        let coming = this.body.size_hint().lower().min(MOST_AHEAD);
                        this.got.add(data, usize::try_from(coming).unwrap_or(0));
                    }
                }
            }
        }
        Poll::Ready(Ok(this.got.take()))
    }
}

/// A cap further out is the same cap to whoever reads the error.
fn failed(source: BoxError) -> BoxError {
    match error::find::<BodyTooLarge>(&*source) {
        Some(too_large) => (*too_large).into(),
        None => UploadFailed { source }.into(),
    }
}
