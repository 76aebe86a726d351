//! The one place where errors become responses.
//!
//! Below it, nobody writes a response for a failure of our own; above it there are no errors, which the type says ([`Infallible`]). One
//! table ([`Row`]) has for each [`Fault`] the status, the JSON-RPC code where MCP defines one, and what is known of the call's effect:
//! - plain HTTP, and whatever fails before the call's id is known: the status, with a small `application/problem+json` (RFC 9457);
//! - an MCP request whose id is known: a JSON-RPC error with that id, `code` the status number (or MCP's own code), in HTTP 200, unless
//!   the specification gives it a status (a dead session's 404, 400 with −32020, …) or the route has [`ErrorStyle::Status`](crate::exchange::ErrorStyle::Status);
//! - an event stream that has begun: the JSON-RPC error as its last event, if the stream stands between two events; else the
//!   connection is broken off, as is any other body that fails. One that ends well, but without the answer to its call, has failed too
//!   ([`AnswerMissing`]).
//!
//! A panic in a layer below, in its call, its future or its body, is caught, logged, and answered like any other fault (500).
//!
//! Place: outermost but for those that want to see what the client sees (metrics, access log). Readiness: always that of the inner service;
//! its errors become the next answer. Errors: none. Bodies: forwarded.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, rescue::RescueLayer};
//!
//! let service = ServiceBuilder::new()
//!     .layer(RescueLayer::new())
//!     .service(service_fn(async |_: http::Request<Body>| Err::<http::Response<Body>, BoxError>("no".into())));
//! # let _ = service;
//! ```

mod render;
mod table;

use std::{
    collections::HashMap,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::metrics::Counter;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tower::{Layer, Service};

pub use self::table::Row;
use crate::{
    error::BoxError,
    exchange::Exchange,
    fault::{Blame, Fault},
    mcp::Id,
    metrics::{counter, names},
    observe::Media,
};

/// Turns errors into responses.
#[derive(Debug, Clone)]
pub struct RescueLayer {
    meters: Arc<Meters>,
}

/// The service of [`RescueLayer`].
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
    meters: Arc<Meters>,
    /// The inner service's readiness failed: the answer to the next call.
    broken: Option<Arc<BoxError>>,
}

/// The future of [`Rescue`].
#[pin_project]
pub struct RescueFuture<F> {
    #[pin]
    inner: Option<F>,
    /// Why there is no inner future.
    broken: Option<Arc<BoxError>>,
    exchange: Arc<Exchange>,
    meters: Arc<Meters>,
}

/// The response body of [`Rescue`].
#[pin_project(project = RescueBodyProj)]
pub struct RescueBody<B>(#[pin] State<B>);

#[pin_project(project = StateProj, project_replace = StateOwned)]
enum State<B> {
    /// The upstream's body; `events` if an error may be its last event.
    Inner {
        #[pin]
        inner: B,
        exchange: Arc<Exchange>,
        meters: Arc<Meters>,
        events: bool,
    },
    /// An answer of our own, or the last event.
    Own(Option<Bytes>),
}

/// The upstream ended an event stream without the answer that its client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream ended its event stream without an answer")]
pub struct AnswerMissing;

#[derive(Debug)]
struct Meters {
    rejections: HashMap<&'static str, Counter>,
    timeouts: HashMap<&'static str, Counter>,
}

/// The event that tells the client of this call, in its response or in one that resumes that, that the call failed.
pub(crate) fn error_event(
    error: &(dyn std::error::Error + 'static),
    exchange: &Exchange,
    id: &Id,
) -> Bytes {
    render::error_event(&Fault::of(error), exchange, id)
}

// === impl RescueLayer ===

impl RescueLayer {
    /// The layer. It has no settings: what a fault means is the same everywhere.
    pub fn new() -> Self {
        let rejection = |(layer, kind): &(&'static str, &'static str)| {
            (
                *kind,
                counter(names::REJECTIONS, &[("layer", layer), ("reason", kind)]),
            )
        };
        let timeout =
            |phase: &&'static str| (*phase, counter(names::TIMEOUTS, &[("phase", phase)]));
        Self {
            meters: Arc::new(Meters {
                rejections: table::KINDS.iter().map(rejection).collect(),
                timeouts: table::PHASES.iter().map(timeout).collect(),
            }),
        }
    }
}

impl RescueLayer {
    /// A failure as events that answer these requests of the exchange's call, for who writes an event stream by himself. It is noted like any
    /// other, once, also for no ids; then there are no events.
    pub fn events<'a>(
        &self,
        error: &BoxError,
        exchange: &Exchange,
        ids: impl IntoIterator<Item = &'a Id>,
    ) -> Bytes {
        let fault = note(error, exchange, &self.meters);
        let events = ids.into_iter();
        let events = events.flat_map(|id| render::error_event(&fault, exchange, id));
        events.collect()
    }
}

impl Default for RescueLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Rescue {
            inner,
            meters: self.meters.clone(),
            broken: None,
        }
    }
}

// === impl Rescue ===

impl<S, Req, Res> Service<Request<Req>> for Rescue<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<RescueBody<Res>>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.broken.is_none()
            && let Err(error) = ready!(self.inner.poll_ready(cx))
        {
            self.broken = Some(Arc::new(error.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let called = match &self.broken {
            Some(error) => Err(error.clone()),
            None => catch(|| self.inner.call(request)).map_err(Arc::new),
        };
        let (inner, broken) = match called {
            Ok(inner) => (Some(inner), None),
            Err(error) => (None, Some(error)),
        };
        RescueFuture {
            inner,
            broken,
            exchange,
            meters: self.meters.clone(),
        }
    }
}

impl<F, Res, E> Future for RescueFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<RescueBody<Res>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let fault = match this.inner.as_pin_mut() {
            Some(inner) => match catch(|| inner.poll(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(response))) => {
                    let events = Media::of(response.headers()) == Media::Events;
                    let (exchange, meters) = (this.exchange.clone(), this.meters.clone());
                    return Poll::Ready(Ok(response.map(|inner| {
                        RescueBody(State::Inner {
                            inner,
                            exchange,
                            meters,
                            events,
                        })
                    })));
                }
                Ok(Poll::Ready(Err(error))) => note(&error.into(), this.exchange, this.meters),
                Err(panic) => note(&panic, this.exchange, this.meters),
            },
            None => match this.broken {
                Some(error) => note(error, this.exchange, this.meters),
                None => note(&"nothing to call".into(), this.exchange, this.meters),
            },
        };
        let (parts, body) = render::response(&fault, this.exchange).into_parts();
        Poll::Ready(Ok(Response::from_parts(
            parts,
            RescueBody(State::Own(Some(body))),
        )))
    }
}

/// The JSON-RPC error that answers one request of an exchange, where other answers of it may still come; the exchange is told of it.
pub(crate) fn answer(
    error: &(dyn std::error::Error + 'static),
    exchange: &Exchange,
    id: &Id,
) -> Bytes {
    let fault = Fault::of(error);
    let row = Row::of(&fault);
    exchange.set_fault(row.kind, row.outcome);
    render::answer(&fault, exchange, id)
}

/// Does something with the inner service; its panic becomes an error.
pub(crate) fn catch<T>(act: impl FnOnce() -> T) -> Result<T, BoxError> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|_panic| "a layer panicked".into())
}

/// Names a failure: for the log, the metrics and the exchange.
fn note(error: &BoxError, exchange: &Exchange, meters: &Meters) -> Fault {
    let fault = Fault::of(&**error);
    let row = Row::of(&fault);
    exchange.set_fault(row.kind, row.outcome);
    if let Some(counter) = meters.rejections.get(row.kind) {
        counter.increment(1);
    }
    if let Some(counter) = row.phase.and_then(|phase| meters.timeouts.get(phase)) {
        counter.increment(1);
    }
    let (kind, request_id, endpoint) = (row.kind, exchange.id(), exchange.endpoint());
    let endpoint = endpoint.as_ref().map(|e| &*e.endpoint);
    let causes = Causes(&**error);
    if fault == Fault::Bug {
        tracing::error!(request_id, endpoint, error = %causes, "a failure that nothing explains; please report it");
    } else if row.blame == Blame::Client {
        tracing::debug!(request_id, kind, error = %causes, "refused");
    } else {
        tracing::warn!(request_id, kind, endpoint, error = %causes, "failed");
    }
    fault
}

/// An error with all its causes, on one line.
struct Causes<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

// === impl RescueBody ===

/// No body: for layers above that answer by themselves.
impl<B> Default for RescueBody<B> {
    fn default() -> Self {
        Self(State::Own(None))
    }
}

impl<B> HttpBody for RescueBody<B>
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
        let mut state = self.project().0;
        let (last, error) = match state.as_mut().project() {
            StateProj::Own(bytes) => {
                return Poll::Ready(
                    bytes
                        .take()
                        .filter(|b| !b.is_empty())
                        .map(|b| Ok(Frame::data(b))),
                );
            }
            StateProj::Inner {
                inner,
                exchange,
                meters,
                events,
            } => {
                let error = match catch(|| inner.poll_frame(cx)) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(Some(Err(error)))) => error.into(),
                    Ok(Poll::Ready(Some(Ok(frame)))) => return Poll::Ready(Some(Ok(frame))),
                    Ok(Poll::Ready(None)) if exchange.is_left_unanswered() => AnswerMissing.into(),
                    Ok(Poll::Ready(None)) => return Poll::Ready(None),
                    Err(panic) => panic,
                };
                let fault = note(&error, exchange, meters);
                let last = events
                    .then(|| render::last_event(&fault, exchange))
                    .flatten();
                (last, error)
            }
        };
        // The upstream's body goes at once, so that the upstream learns it at once.
        state.project_replace(State::Own(None));
        Poll::Ready(Some(match last {
            Some(event) => Ok(Frame::data(event)),
            None => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            // Whoever reads it must come for the last event.
            State::Inner {
                inner, exchange, ..
            } => inner.is_end_stream() && !exchange.is_left_unanswered(),
            State::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            // An event stream may get an event more.
            State::Inner { events: true, .. } => SizeHint::default(),
            State::Inner { inner, .. } => inner.size_hint(),
            State::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}

#[cfg(test)]
mod tests;
