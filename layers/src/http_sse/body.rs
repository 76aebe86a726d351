//! The response bodies: the inner service's, and the stream of a channel.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    HttpSseSettings,
    channel::{Channel, Session},
};
use crate::{Body, error::BoxError, limit::Permit};

/// The response body of [`HttpSse`](super::HttpSse).
#[pin_project]
pub struct HttpSseBody<B>(#[pin] Kind<B>);

#[pin_project(project = KindProj)]
enum Kind<B> {
    Inner(#[pin] B),
    Own(#[pin] Body),
    Channel(Box<ChannelBody>),
}

/// Ends a session of a channel.
pub(super) type Farewell = Box<dyn FnMut(Session) -> Told + Send>;

/// That it is being told so.
pub(super) type Told = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The stream of a channel; its end, or its drop, closes the channel.
pub(super) struct ChannelBody {
    channel: Arc<Channel>,
    draining: CancellationToken,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Duration,
    clock: Pin<Box<Sleep>>,
    /// The place under the cap; `None` once the stream has ended.
    open: Option<Permit>,
}

// === impl HttpSseBody ===

impl<B> HttpSseBody<B> {
    pub(super) fn inner(body: B) -> Self {
        Self(Kind::Inner(body))
    }

    pub(super) fn own(body: Body) -> Self {
        Self(Kind::Own(body))
    }

    pub(super) fn channel(body: ChannelBody) -> Self {
        Self(Kind::Channel(Box::new(body)))
    }
}

impl<B> HttpBody for HttpSseBody<B>
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
        match self.project().0.project() {
            KindProj::Inner(inner) => inner.poll_frame(cx).map_err(Into::into),
            KindProj::Own(own) => own.poll_frame(cx),
            KindProj::Channel(channel) => {
                let event = ready!(channel.poll_next(cx));
                Poll::Ready(event.map(|event| event.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Inner(inner) => inner.is_end_stream(),
            Kind::Own(own) => own.is_end_stream(),
            Kind::Channel(channel) => channel.open.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Inner(inner) => inner.size_hint(),
            Kind::Own(own) => own.size_hint(),
            Kind::Channel(_) => SizeHint::default(),
        }
    }
}

// === impl ChannelBody ===

impl ChannelBody {
    pub(super) fn new(channel: Arc<Channel>, settings: &HttpSseSettings, permit: Permit) -> Self {
        let draining = settings.draining.clone();
        Self {
            channel,
            drain: Box::pin(draining.clone().cancelled_owned()),
            draining,
            idle: settings.idle,
            clock: Box::pin(sleep_until(Instant::now() + settings.idle)),
            open: Some(permit),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        if self.open.is_none() {
            return Poll::Ready(None);
        }
        loop {
            let event = self.channel.poll_next(cx);
            if let Poll::Ready(event) = event {
                if !matches!(event, Some(Ok(_))) {
                    self.close();
                }
                return Poll::Ready(event.map(|event| event.map_err(Into::into)));
            }
            // A call in flight holds off both the drain and the idle clock; its end wakes this task.
            let Some(quiet_until) = self.channel.quiet_until(self.idle) else {
                return Poll::Pending;
            };
            let drained = self.draining.is_cancelled() || self.drain.as_mut().poll(cx).is_ready();
            if drained || quiet_until <= Instant::now() {
                self.channel.end();
                continue;
            }
            if self.clock.deadline() != quiet_until {
                self.clock.as_mut().reset(quiet_until);
            }
            if self.clock.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn close(&mut self) {
        self.channel.close();
        self.open = None;
    }
}

impl Drop for ChannelBody {
    fn drop(&mut self) {
        self.close();
    }
}
