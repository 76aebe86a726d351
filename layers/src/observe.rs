//! The observer: reads each response message and event once as it passes, and says what it was.
//!
//! It publishes to the [`Exchange`]: messages, progress, answers and how they ended, requests of the server
//! that wait for their client, ids of events, a stream that ended without its answer. Breaker, clocks, metrics, resume and rescue listen to that; none of them parses. Events of an
//! event stream are released whole: the bytes are not changed or copied, but a part of an event waits until its end has come (up to
//! `hold`, past which it goes out as it is), so a cut never leaves half an event. Where a body goes on with a stream that broke
//! ([`resume`](crate::resume)), an event that it repeats is left out.
//!
//! Place: directly above the upstream service. Readiness and errors: the inner service's. Bodies: forwarded.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, observe::ObserveLayer};
//!
//! let service = ServiceBuilder::new()
//!     .layer(ObserveLayer::new("tools"))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod body;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::metrics::{Counter, Histogram};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

pub use self::body::ObserveBody;
use crate::{
    error::BoxError,
    exchange::Exchange,
    mcp::Kind,
    metrics::{self, names},
    waits::Waits,
};

/// Observes the responses of one upstream.
#[derive(Debug, Clone)]
pub struct ObserveLayer {
    shared: Arc<Shared>,
}

/// The service of [`ObserveLayer`].
#[derive(Debug, Clone)]
pub struct Observe<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// The future of [`Observe`].
#[pin_project]
pub struct ObserveFuture<F> {
    #[pin]
    inner: F,
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waits: Waits,
    events: Counter,
    first_event: Histogram,
}

/// The most bytes of an unfinished event that wait for its end: 1 MiB.
pub const HOLD: usize = 1024 * 1024;

/// What kind of body a response has, for those who look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `text/event-stream`.
    Events,
    /// `application/json`.
    Json,
    /// Anything else, or encoded.
    Other,
}

impl Media {
    /// What the headers say.
    pub fn of(headers: &HeaderMap) -> Self {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .map(http::HeaderValue::as_bytes)
            .unwrap_or_default();
        if !is_plain(headers) {
            return Self::Other;
        }
        // As nearly everybody spells them.
        match kind {
            b"application/json" => return Self::Json,
            b"text/event-stream" => return Self::Events,
            _ => {}
        }
        let kind = kind
            .split(|b| *b == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if kind.eq_ignore_ascii_case(b"text/event-stream") {
            Self::Events
        } else if kind.eq_ignore_ascii_case(b"application/json") {
            Self::Json
        } else {
            Self::Other
        }
    }
}

/// The body is not encoded, as far as the headers say.
pub(crate) fn is_plain(headers: &HeaderMap) -> bool {
    // Nearly none has the header, and this is asked of each.
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return true;
    }
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// A layer for the upstream of this name, which is the label of its metrics.
    pub fn new(upstream: &str) -> Self {
        Self::sharing(upstream, Waits::default())
    }

    /// The same, that notes in `waits` what clients are asked, and finds there what others noted: where an answer may come by another endpoint of the upstream, or
    /// by a layer that was built later.
    pub fn sharing(upstream: &str, waits: Waits) -> Self {
        let labels = [("upstream", upstream)];
        Self {
            shared: Arc::new(Shared {
                waits,
                events: metrics::counter(names::SSE_EVENTS, &labels),
                first_event: metrics::histogram(names::TIME_TO_FIRST_EVENT, &labels),
            }),
        }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observe {
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl Observe ===

impl<S, Req, Res> Service<Request<Req>> for Observe<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<ObserveBody<Res>>;
    type Error = BoxError;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        exchange.response().observe(&self.shared.waits);
        if let Some(call) = exchange.call() {
            let session = call.session.as_deref().unwrap_or(exchange.id());
            for answer in call.messages().iter().filter(|m| m.kind == Kind::Response) {
                if let Some(id) = answer.id() {
                    self.shared.waits.answered(session, id);
                }
            }
            if call.session.is_some() {
                let cancelled = call.messages().iter().filter_map(|m| m.cancels.as_ref());
                cancelled.for_each(|(id, _)| self.shared.waits.cancel(session, id));
            }
        }
        ObserveFuture {
            inner: self.inner.call(request),
            exchange,
            shared: self.shared.clone(),
        }
    }
}

impl<F, Res, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<ObserveBody<Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx)).map_err(Into::into)?;
        let media = Media::of(response.headers());
        Poll::Ready(Ok(response.map(|inner| {
            ObserveBody::new(inner, media, this.exchange.clone(), this.shared)
        })))
    }
}

#[cfg(test)]
mod tests;
