//! The total time of an exchange, to the last byte of its answer.
//!
//! A call may take `limit`; each progress notification starts that anew, up to `cap` in all. While a request of the server
//! waits for its client's answer no clock runs, and afterwards the call has at least `limit` again. Standing
//! streams (GET, `subscriptions/listen`; without MCP any event stream, once it has begun) have no deadline. (MCP 2025-11-25, lifecycle, "Timeouts"; 2026-07-28, cancellation, "Timeouts":
//! progress may reset the clock, a maximum stays.) Tools may have their own ([`ByTool`]). A call goes by what was set when it began.
//!
//! Place: outside retry, so that all attempts share it. Readiness: the inner service's. Errors: [`DeadlineExceeded`], from the call
//! or as the error of the response body; before that the exchange is told ([`GiveUp::Timeout`]), so that the upstream service can
//! tell its server. Bodies: forwarded; a finished answer wins over the clock.
//!
//! ```
//! use std::time::Duration;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, deadline::{DeadlineLayer, DeadlineSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Some(DeadlineSettings {
//!         limit: Duration::from_secs(300),
//!         cap: Duration::from_secs(3600),
//!     })))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::{
    by_tool::ByTool,
    clock::{self, Clock, Due},
    error::BoxError,
    exchange::{Exchange, GiveUp},
    observe::Media,
};

/// The two times; `cap` is not shorter than `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineSettings {
    /// How long a call may take without a sign of progress.
    pub limit: Duration,
    /// How long it may take in all.
    pub cap: Duration,
}

/// Ends calls that take too long. `None` is off.
#[derive(Debug, Clone)]
pub struct DeadlineLayer {
    settings: ByTool<Option<DeadlineSettings>>,
}

/// The service of [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
    settings: ByTool<Option<DeadlineSettings>>,
}

/// The future of [`Deadline`].
#[pin_project]
pub struct DeadlineFuture<F> {
    #[pin]
    inner: F,
    watch: Option<Watch>,
}

/// The response body of [`Deadline`].
#[pin_project]
pub struct DeadlineBody<B> {
    #[pin]
    inner: B,
    watch: Option<Watch>,
}

/// The deadline of a call, for an upstream service that goes on with the call after its client left.
#[derive(Debug, Clone, Copy)]
pub struct ExpiresAt(pub Instant);

/// How long a call whose client has gone is kept, if it has no deadline.
#[cfg(any(feature = "stdio", all(feature = "http", feature = "session")))]
const DETACHED: Duration = Duration::from_secs(3600);

/// The call took too long. It may have had an effect, unless no upstream was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call took longer than its deadline of {limit:?}")]
pub struct DeadlineExceeded {
    /// The limit that ran out: the settings' `limit` or `cap`.
    pub limit: Duration,
    /// An upstream was asked.
    pub sent: bool,
}

#[derive(Debug)]
struct Watch {
    settings: DeadlineSettings,
    exchange: Arc<Exchange>,
    clock: Clock,
}

// === impl ExpiresAt ===

#[cfg(any(feature = "stdio", all(feature = "http", feature = "session")))]
impl ExpiresAt {
    /// Until when a call is kept whose client goes now.
    pub(crate) fn of_detached(deadline: Option<&Self>) -> Instant {
        deadline.map_or_else(|| Instant::now() + DETACHED, |e| e.0)
    }
}

// === impl DeadlineLayer ===

impl DeadlineLayer {
    /// A layer with these settings, for all calls or by tool; `None` turns it off.
    pub fn new(settings: impl Into<ByTool<Option<DeadlineSettings>>>) -> Self {
        Self {
            settings: settings.into(),
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline {
            inner,
            settings: self.settings.clone(),
        }
    }
}

// === impl Deadline ===

impl<S, Req, Res> Service<Request<Req>> for Deadline<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<DeadlineBody<Res>>;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let watch = Watch::begin(&self.settings, &mut request);
        DeadlineFuture {
            inner: self.inner.call(request),
            watch,
        }
    }
}

impl Watch {
    /// The watch over a request; `None` if it has no deadline.
    fn begin<B>(
        settings: &ByTool<Option<DeadlineSettings>>,
        request: &mut Request<B>,
    ) -> Option<Self> {
        if matches!(settings.only(), Some(None)) {
            return None;
        }
        let exchange = Exchange::of(request);
        let settings = (*settings.of_exchange(&exchange))?;
        if exchange.call().is_some_and(|call| call.is_standing()) {
            return None;
        }
        exchange.set_due(exchange.started() + settings.limit.min(settings.cap));
        let expires = ExpiresAt(exchange.started() + settings.cap);
        request.extensions_mut().insert(expires);
        Some(Self {
            settings,
            exchange,
            clock: Clock::default(),
        })
    }

    /// Ready with the error when the time is up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DeadlineExceeded> {
        let Self {
            settings,
            exchange,
            clock,
        } = self;
        let start = exchange.started();
        clock
            .poll(cx, || {
                let progress = exchange.last_progress().unwrap_or(start);
                match clock::due(exchange, progress, settings.limit) {
                    // Waiting for a client moves the end beyond the cap.
                    Due::At(at) if exchange.wait().ended.is_none() => {
                        Due::At(at.min(start + settings.cap))
                    }
                    due => due,
                }
            })
            .map(|()| {
                exchange.give_up(GiveUp::Timeout);
                let capped = start.elapsed() >= settings.cap;
                DeadlineExceeded {
                    limit: if capped { settings.cap } else { settings.limit },
                    sent: exchange.attempts() > 0,
                }
            })
    }
}

impl<F, Res, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<DeadlineBody<Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            let watch = this.watch.take();
            return Poll::Ready(match result {
                Ok(response) => {
                    // Without MCP facts, an event stream stands until somebody ends it.
                    let events = Media::of(response.headers()) == Media::Events;
                    let watch = watch.filter(|w| !events || w.exchange.call().is_some());
                    Ok(response.map(|inner| DeadlineBody { inner, watch }))
                }
                Err(error) => Err(error.into()),
            });
        }
        match this.watch {
            Some(watch) => watch.poll(cx).map(|error| Err(error.into())),
            None => Poll::Pending,
        }
    }
}

// === impl DeadlineBody ===

impl<B> HttpBody for DeadlineBody<B>
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
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        match this.watch {
            // An answered call has met its deadline, however long its stream stays open.
            Some(watch) if !watch.exchange.is_answered() => {
                watch.poll(cx).map(|error| Some(Err(error.into())))
            }
            Some(_) | None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
