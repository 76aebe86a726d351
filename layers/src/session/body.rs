//! The response body of a session: what passes keeps the session alive, and a stream that stands ends with it.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::store::{SessionKey, SessionStore};
use crate::{error::BoxError, exchange::Exchange};

/// The response body of [`Session`](super::Session).
#[pin_project]
pub struct SessionBody<B> {
    #[pin]
    inner: B,
    life: Option<Box<Life>>,
    cut: bool,
}

/// What a response has to do with its session.
pub(super) struct Life {
    store: Arc<dyn SessionStore>,
    key: SessionKey,
    exchange: Arc<Exchange>,
    /// When the store heard of this response last.
    told: Instant,
    /// The messages that had passed then.
    messages: u32,
    _in_hand: Option<Arc<InHand>>,
    /// For a stream that stands: the end of the session.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// A call that is in hand; it is not any more when this is dropped.
pub(super) struct InHand {
    store: Arc<dyn SessionStore>,
    key: SessionKey,
}

/// The store hears of activity no more often than this.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Life ===

impl Life {
    pub(super) fn new(
        store: Arc<dyn SessionStore>,
        key: SessionKey,
        exchange: Arc<Exchange>,
        in_hand: Option<Arc<InHand>>,
        ended: Option<CancellationToken>,
    ) -> Self {
        Self {
            store,
            key,
            exchange,
            told: Instant::now(),
            messages: 0,
            _in_hand: in_hand,
            ended: ended.map(|token| Box::pin(token.cancelled_owned())),
        }
    }

    /// Something passes to the client. Only messages count: a server may send comments down a stream that nobody reads for ever.
    fn passes(&mut self, frame: &Frame<Bytes>) {
        let response = self.exchange.response();
        let messages = response.events();
        let counts = if response.is_observed() {
            messages != self.messages
        } else {
            frame.is_data()
        };
        if counts && self.told.elapsed() >= PAUSE {
            self.told = Instant::now();
            self.messages = messages;
            self.store.touch(&self.key);
        }
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.ended {
            Some(ended) => ended.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

// === impl InHand ===

impl InHand {
    pub(super) fn new(store: Arc<dyn SessionStore>, key: SessionKey) -> Self {
        Self { store, key }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.store.leave(&self.key);
    }
}

// === impl SessionBody ===

impl<B: HttpBody> SessionBody<B> {
    pub(super) fn new(inner: B, life: Option<Life>) -> Self {
        let life = life.filter(|_| !inner.is_end_stream()).map(Box::new);
        Self {
            inner,
            life,
            cut: false,
        }
    }
}

impl<B> fmt::Debug for SessionBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBody").finish_non_exhaustive()
    }
}

impl<B> HttpBody for SessionBody<B>
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
        let mut this = self.project();
        if *this.cut {
            return Poll::Ready(None);
        }
        match this.inner.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(life) = this.life {
                    life.passes(&frame);
                }
                if this.inner.is_end_stream() {
                    *this.life = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => {
                *this.life = None;
                Poll::Ready(end.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let life = this.life.as_mut();
                if life.is_none_or(|life| life.poll_ended(cx).is_pending()) {
                    return Poll::Pending;
                }
                *this.life = None;
                *this.cut = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.cut || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
