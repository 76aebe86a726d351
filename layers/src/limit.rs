//! Caps on what is in flight, with shedding: what is over a cap is refused at once.
//!
//! There are two caps. *Calls* counts exchanges until their response body ends; *streams* counts standing streams (GET and
//! `subscriptions/listen`), which would eat up a cap that was meant for calls. DELETE, notifications and client
//! responses pass freely, since calls may be waiting for just them. Where no MCP facts are known yet, a GET that accepts an event
//! stream counts as a standing stream.
//!
//! Place: the server terrace, outside everything that allocates; again for a route, and for each endpoint. Readiness: the inner service's; permits are
//! taken in `call`, and ride with the response body. Clones share the caps. At an endpoint, [`LimitLayer::gate`] lets a balancer see
//! that no place is left for a call, so that it goes elsewhere or waits. Errors: [`Shed`]. Bodies: forwarded.
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
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use crate::{
    body::{Hold, Tracked},
    class::Class,
    error::BoxError,
    gate::{Gate, Reason},
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
    place: Option<OwnedSemaphorePermit>,
    sign: Option<Sign>,
    _outer: Option<Permit>,
}

#[derive(Debug, Clone)]
struct Cap {
    limit: usize,
    what: &'static str,
    free: Arc<Semaphore>,
    sign: Option<Sign>,
}

/// Shows at a gate whether a place is left.
#[derive(Debug, Clone)]
struct Sign {
    free: Arc<Semaphore>,
    gate: Gate,
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
                sign: None,
            })
        };
        Self {
            calls: cap(settings.calls, "calls in flight"),
            streams: cap(settings.streams, "open streams"),
        }
    }

    /// Shuts this gate as [`Reason::Busy`] while no place is left for a call. Standing streams do not count.
    pub fn gate(mut self, gate: Gate) -> Self {
        if let Some(cap) = &mut self.calls {
            let free = cap.free.clone();
            cap.sign = Some(Sign { free, gate });
        }
        self
    }

    fn admit<B>(&self, request: &mut Request<B>) -> Result<Permit, Shed> {
        if self.calls.is_none() && self.streams.is_none() {
            return Ok(Permit(None));
        }
        let cap = match Class::of(request) {
            Class::Free => return Ok(Permit(None)),
            Class::Stream => &self.streams,
            Class::Call => &self.calls,
        };
        let Some(cap) = cap else {
            return Ok(Permit(None));
        };
        match cap.free.clone().try_acquire_owned() {
            Ok(place) => {
                let outer = request.extensions_mut().remove();
                if let Some(sign) = &cap.sign {
                    sign.settle();
                }
                let permit = Permit(Some(Arc::new(Held {
                    place: Some(place),
                    sign: cap.sign.clone(),
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

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit {
            inner,
            caps: self.clone(),
        }
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.place.take());
        if let Some(sign) = &self.sign {
            sign.settle();
        }
    }
}

// === impl Sign ===

impl Sign {
    /// Sets the gate by the places. Whoever took or gave back one does so, and looks again after having written: of two that do so
    /// at once, the one whose word has become stale sees it, so the gate never stays wrong.
    fn settle(&self) {
        loop {
            let full = self.free.available_permits() == 0;
            match (full, self.gate.is_shut_by(Reason::Busy)) {
                (true, false) => self.gate.shut(Reason::Busy, None),
                (false, true) => self.gate.open(Reason::Busy),
                (true, true) | (false, false) => {}
            }
            fence(Ordering::SeqCst);
            if (self.free.available_permits() == 0) == full {
                return;
            }
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

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{Body, gate::Look};

    #[tokio::test]
    async fn the_gate_shows_whether_a_place_is_left() {
        let gate = Gate::new();
        let service = LimitLayer::new(LimitSettings {
            calls: NonZeroUsize::new(2),
            streams: NonZeroUsize::new(1),
        })
        .gate(gate.clone())
        .layer(service_fn(async |_: Request<Body>| {
            Ok::<_, BoxError>(Response::new(Body::full("x")))
        }));
        let call = || service.clone().oneshot(Request::new(Body::empty()));
        let first = call().await.expect("a place");
        assert_eq!(gate.look(), Look::Open);
        let second = call().await.expect("a place");
        assert_eq!(gate.look(), Look::Busy);
        let changed = gate.changed();
        drop(first);
        changed.await;
        assert_eq!(gate.look(), Look::Open);
        drop(second);
        assert_eq!(gate.look(), Look::Open);
        let stream = Request::get("/")
            .header("accept", "text/event-stream")
            .body(Body::empty())
            .expect("valid");
        let _stream = service.clone().oneshot(stream).await.expect("a place");
        assert_eq!(gate.look(), Look::Open);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_gate_is_right_after_many_at_once() {
        let gate = Gate::new();
        let layer = LimitLayer::new(LimitSettings {
            calls: NonZeroUsize::new(1),
            streams: None,
        })
        .gate(gate.clone());
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let layer = layer.clone();
                tokio::spawn(async move {
                    for _ in 0..5_000 {
                        drop(layer.admit(&mut Request::new(())));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(gate.look(), Look::Open);
        let _permit = layer.admit(&mut Request::new(())).expect("a place");
        assert_eq!(gate.look(), Look::Busy);
    }
}
