//! Caps on what is in flight, with shedding: what is over a cap is refused at once.
//!
//! There are two caps. *Calls* counts exchanges until their response body ends; *streams* counts standing streams (GET and
//! `subscriptions/listen`), which would eat up a cap that was meant for calls. DELETE, notifications and client
//! responses pass freely, since calls may be waiting for just them. Where no MCP facts are known yet, a GET that accepts an event
//! stream counts as a standing stream.
//!
//! Place: the server terrace, outside everything that allocates; again for each endpoint. Readiness: the inner service's; permits are
//! taken in `call`, and ride with the response body. Clones share the caps. Errors: [`Shed`]. Bodies: forwarded.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, limit::{LimitLayer, LimitSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(LimitLayer::new(LimitSettings { calls: NonZeroUsize::new(100), streams: None }))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use crate::{
    body::{Hold, Tracked},
    error::BoxError,
    exchange::Exchange,
};

/// The caps; `None` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// The most calls in flight.
    pub calls: Option<NonZeroUsize>,
    /// The most standing streams.
    pub streams: Option<NonZeroUsize>,
}

/// Refuses what is over the caps.
#[derive(Debug, Clone)]
pub struct LimitLayer {
    calls: Option<Cap>,
    streams: Option<Cap>,
}

/// The service of [`LimitLayer`].
#[derive(Debug, Clone)]
pub struct Limit<S> {
    inner: S,
    caps: LimitLayer,
}

/// The future of [`Limit`].
#[pin_project]
pub struct LimitFuture<F>(#[pin] LimitState<F>);

/// Over a cap. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the limit of {limit} {what}")]
pub struct Shed {
    /// The cap.
    pub limit: usize,
    /// What it counts.
    pub what: &'static str,
}

/// A place under a cap; given back when its last clone is dropped. It is also in the request's extensions, so that an upstream
/// service that goes on with a call after its client left can hold it.
#[derive(Debug, Clone, Default)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] Option<Arc<Held>>);

/// A place, and the place under an outer cap that the same request holds.
#[derive(Debug)]
struct Held {
    _place: OwnedSemaphorePermit,
    _outer: Option<Permit>,
}

#[derive(Debug, Clone)]
struct Cap {
    limit: usize,
    what: &'static str,
    free: Arc<Semaphore>,
}

#[pin_project(project = LimitStateProj)]
enum LimitState<F> {
    Refused(Option<Shed>),
    Admitted(#[pin] F, Option<Permit>),
}

// === impl LimitLayer ===

impl LimitLayer {
    /// A layer with its own caps; its clones and services share them.
    pub fn new(settings: LimitSettings) -> Self {
        let cap = |limit: Option<NonZeroUsize>, what| {
            limit.map(|limit| Cap {
                limit: limit.get().min(Semaphore::MAX_PERMITS),
                what,
                free: Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS))),
            })
        };
        Self {
            calls: cap(settings.calls, "calls in flight"),
            streams: cap(settings.streams, "open streams"),
        }
    }

    fn admit<B>(&self, request: &mut Request<B>) -> Result<Permit, Shed> {
        let cap = match Exchange::get(request).and_then(|e| e.call()) {
            Some(call) if call.is_fire_and_forget() => return Ok(Permit(None)),
            Some(call) if call.is_standing() => &self.streams,
            Some(_) => &self.calls,
            None if wants_stream(request) => &self.streams,
            None if request.method() == http::Method::DELETE => return Ok(Permit(None)),
            None => &self.calls,
        };
        let Some(cap) = cap else {
            return Ok(Permit(None));
        };
        match cap.free.clone().try_acquire_owned() {
            Ok(place) => {
                let outer = request.extensions_mut().remove();
                let permit = Permit(Some(Arc::new(Held {
                    _place: place,
                    _outer: outer,
                })));
                request.extensions_mut().insert(permit.clone());
                Ok(permit)
            }
            Err(_) => Err(Shed {
                limit: cap.limit,
                what: cap.what,
            }),
        }
    }
}

fn wants_stream<B>(request: &Request<B>) -> bool {
    request.method() == http::Method::GET
        && request
            .headers()
            .get(header::ACCEPT)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.contains("text/event-stream"))
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit {
            inner,
            caps: self.clone(),
        }
    }
}

// === impl Limit ===

impl<S, Req, Res> Service<Request<Req>> for Limit<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Hold<Permit>>>;
    type Error = BoxError;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        LimitFuture(match self.caps.admit(&mut request) {
            Ok(permit) => LimitState::Admitted(self.inner.call(request), Some(permit)),
            Err(shed) => LimitState::Refused(Some(shed)),
        })
    }
}

impl<F, Res, E> Future for LimitFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Hold<Permit>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().0.project() {
            LimitStateProj::Refused(shed) => Err(shed.take().expect("polled once").into()),
            LimitStateProj::Admitted(inner, permit) => {
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let permit = permit.take().unwrap_or_default();
                Ok(response.map(|body| Tracked::new(body, Hold(permit))))
            }
        })
    }
}
