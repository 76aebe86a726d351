//! Keeps event streams alive on their way to the client, and says to what stands between that they are to pass as they come.
//!
//! Every response that is an event stream, and not encoded, gets a comment as soon as its head has arrived, unless an event is there at once,
//! and another after each [`interval`](HeartbeatSettings::interval) (default: 15 s) in which nothing passed. So nobody on the way takes a quiet
//! stream for a dead one, and a client that is gone is noticed, since the comment cannot be written. The head gets
//! `X-Accel-Buffering: no`, and `no-transform` in its `Cache-Control` beside what stands there, or `no-cache, no-transform` if nothing does.
//! Comments are no events (WHATWG HTML, "Server-sent events", 9.2.6); revision 2026-07-28 recommends them, and the header
//! (Streamable HTTP, "Receiving Messages"). They are sent only between two events, as far as the [observer](crate::observe) knows; where
//! none stands below, there are none.
//!
//! Place: outside rescue and drain, so that their last words are the last, and outside all that counts activity: a heartbeat keeps no session alive.
//! Readiness and errors: the inner service's. Bodies: forwarded, a frame for a frame. Allocations: two for each event stream, with one timer; none for
//! other responses.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, heartbeat::{HeartbeatLayer, HeartbeatSettings}, observe::ObserveLayer};
//!
//! let service = ServiceBuilder::new()
//!     .layer(HeartbeatLayer::new(Some(HeartbeatSettings::default())))
//!     .layer(ObserveLayer::new("tools"))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::{
    clock::{Clock, Due},
    exchange::Exchange,
    observe::Media,
};

/// How often a quiet stream is given a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatSettings {
    /// After so much silence.
    pub interval: Duration,
}

/// Sends comments down quiet event streams.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeartbeatLayer {
    settings: Option<HeartbeatSettings>,
}

/// The service of [`HeartbeatLayer`].
#[derive(Debug, Clone)]
pub struct Heartbeat<S> {
    inner: S,
    settings: Option<HeartbeatSettings>,
}

/// The future of [`Heartbeat`].
#[pin_project]
pub struct HeartbeatFuture<F> {
    #[pin]
    inner: F,
    on: Option<(HeartbeatSettings, Arc<Exchange>)>,
}

/// The response body of [`Heartbeat`].
#[pin_project]
pub struct HeartbeatBody<B> {
    #[pin]
    inner: B,
    beat: Option<Box<Beat>>,
}

#[derive(Debug)]
struct Beat {
    interval: Duration,
    exchange: Arc<Exchange>,
    clock: Clock,
    /// When something passed last; nothing has yet.
    last: Option<Instant>,
}

const COMMENT: Bytes = Bytes::from_static(b":\n\n");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

impl Default for HeartbeatSettings {
    /// 15 s, since common proxies cut what is silent for 30 to 60.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
        }
    }
}

// === impl HeartbeatLayer ===

impl HeartbeatLayer {
    /// A layer with these settings; without any it is off, and leaves headers alone, too.
    pub fn new(settings: Option<HeartbeatSettings>) -> Self {
        Self { settings }
    }
}

impl<S> Layer<S> for HeartbeatLayer {
    type Service = Heartbeat<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Heartbeat {
            inner,
            settings: self.settings,
        }
    }
}

// === impl Heartbeat ===

impl<S, Req, Res> Service<Request<Req>> for Heartbeat<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: HttpBody<Data = Bytes>,
{
    type Response = Response<HeartbeatBody<Res>>;
    type Error = S::Error;
    type Future = HeartbeatFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let on = self
            .settings
            .map(|settings| (settings, Exchange::of(&mut request)));
        HeartbeatFuture {
            inner: self.inner.call(request),
            on,
        }
    }
}

impl<F, Res, E> Future for HeartbeatFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    Res: HttpBody<Data = Bytes>,
{
    type Output = Result<Response<HeartbeatBody<Res>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let events = Media::of(response.headers()) == Media::Events;
        let beat = this
            .on
            .take()
            .filter(|_| events)
            .map(|(settings, exchange)| {
                announce(response.headers_mut());
                Box::new(Beat {
                    interval: settings.interval,
                    exchange,
                    clock: Clock::default(),
                    last: None,
                })
            });
        Poll::Ready(Ok(response.map(|inner| HeartbeatBody { inner, beat })))
    }
}

/// Says in a head that nobody is to hold back or change what comes.
fn announce(headers: &mut HeaderMap) {
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    let says = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        let mut words = value.split(',').map(str::trim);
        words.any(|word| word.eq_ignore_ascii_case("no-transform"))
    };
    let mut given = headers.get_all(header::CACHE_CONTROL).iter();
    if given.any(says) {
        return;
    }
    let first = headers
        .get(header::CACHE_CONTROL)
        .map(HeaderValue::as_bytes);
    let together = [first.unwrap_or(b"no-cache"), b", no-transform"].concat();
    if let Ok(value) = HeaderValue::from_bytes(&together) {
        match headers.entry(header::CACHE_CONTROL) {
            header::Entry::Occupied(mut given) => *given.get_mut() = value,
            header::Entry::Vacant(none) => {
                none.insert(value);
            }
        }
    }
}

// === impl HeartbeatBody ===

/// No body: for layers above that answer by themselves.
impl<B: Default> Default for HeartbeatBody<B> {
    fn default() -> Self {
        Self {
            inner: B::default(),
            beat: None,
        }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for HeartbeatBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            match (this.beat.as_mut(), &frame) {
                (Some(beat), Some(Ok(frame))) if frame.is_data() => {
                    beat.last = Some(Instant::now());
                }
                // Nothing may come after an end, or trailers.
                _ => *this.beat = None,
            }
            return Poll::Ready(frame);
        }
        match this.beat {
            Some(beat) => beat
                .poll(cx)
                .map(|()| Some(Ok(Frame::data(COMMENT.clone())))),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.beat {
            Some(_) => SizeHint::default(),
            None => self.inner.size_hint(),
        }
    }
}

impl Beat {
    /// Ready when a comment is due, and can be sent.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(last) = self.last {
                let due = last + self.interval;
                ready!(self.clock.poll(cx, || Due::At(due)));
            }
            self.last = Some(Instant::now());
            if self.exchange.response().at_boundary() {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
