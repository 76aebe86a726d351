//! Injected faults: delays, aborts, cuts, slow drips and garbage, for tests and for staging. (`chaos`, since [`fault`](crate::fault) is the
//! list of what goes wrong by itself.)
//!
//! Each request is held against a list of rules; the first that matches and hits is applied, and no other. Whether a rule hits, and
//! what exactly it does, comes from a seed: the same seed and the same sequence of requests give the same faults.
//!
//! | injection | what the caller sees |
//! | --- | --- |
//! | [`Injection::Delay`] | the call is worked on later |
//! | [`Injection::Abort`] | a status, a refused connection, or a lost answer |
//! | [`Injection::Cut`] | the body breaks off after some events or bytes |
//! | [`Injection::Drip`] | the body comes in small pieces, with pauses |
//! | [`Injection::Garbage`] | some bytes of the body are others |
//!
//! Place: directly above the upstream service, so that everything else takes the fault for the upstream's own; never in a default
//! tower. Readiness: the inner service's. Errors: [`Injected`], also as the error of the response body; the upstream is to blame for it.
//! Bodies: forwarded, cut or spoilt as the rule says; garbage keeps their length. Clones share the sequence.
//!
//! ```
//! use std::time::Duration;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, chaos::{ChaosLayer, ChaosRule, ChaosSettings, Injection}, share::Share};
//!
//! let slow = ChaosRule::new(Injection::Delay { min: Duration::ZERO, max: Duration::from_millis(200) }, Share::HALF);
//! let service = ServiceBuilder::new()
//!     .layer(ChaosLayer::new(ChaosSettings { seed: 7, rules: vec![slow] }))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod body;
mod rules;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

pub use self::{
    body::ChaosBody,
    rules::{Abort, ChaosMatch, ChaosRule, ChaosSettings, Injection, Point},
};
use self::{body::Spoil, rules::Hit};
use crate::{error::BoxError, exchange::Exchange};

/// Injects faults.
#[derive(Debug, Clone)]
pub struct ChaosLayer {
    shared: Arc<Shared>,
}

/// The service of [`ChaosLayer`].
#[derive(Debug, Clone)]
pub struct Chaos<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// The future of [`Chaos`].
#[pin_project]
pub struct ChaosFuture<F>(#[pin] ChaosState<F>);

/// A fault that was injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fault was injected {}", if *sent { "after the request was sent" } else { "before the request was sent" })]
pub struct Injected {
    /// The inner service was called.
    pub sent: bool,
}

#[derive(Debug)]
struct Shared {
    rules: Vec<ChaosRule>,
    random: Mutex<fastrand::Rng>,
}

#[pin_project(project = ChaosStateProj)]
enum ChaosState<F> {
    Refused,
    Answered(StatusCode),
    Sent {
        #[pin]
        inner: F,
        delay: Option<Pin<Box<Sleep>>>,
        lose: bool,
        spoil: Option<Spoil>,
    },
}

// === impl ChaosLayer ===

impl ChaosLayer {
    /// A layer with these rules; its clones and services share one sequence of faults.
    pub fn new(settings: ChaosSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                rules: settings.rules,
                random: Mutex::new(fastrand::Rng::with_seed(settings.seed)),
            }),
        }
    }
}

impl Shared {
    /// What is to be done with this request.
    fn decide<B>(&self, request: &Request<B>) -> Option<Hit> {
        // A source for each request: what one draws does not move the others.
        let mut random = self
            .random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fork();
        rules::decide(&self.rules, request, &mut random)
    }
}

impl<S> Layer<S> for ChaosLayer {
    type Service = Chaos<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Chaos {
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl Chaos ===

impl<S, Req, Res> Service<Request<Req>> for Chaos<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<ChaosBody<Res>>;
    type Error = BoxError;
    type Future = ChaosFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let hit = self.shared.decide(&request);
        if let Some(hit) = &hit {
            let request_id = Exchange::get(&request).map(|e| e.id().to_owned());
            tracing::debug!(request_id, ?hit, "fault injected");
        }
        let (mut delay, mut lose, mut spoil) = (None, false, None);
        match hit {
            None => {}
            Some(Hit::Delay(time)) => delay = Some(Box::pin(sleep_until(Instant::now() + time))),
            Some(Hit::Abort(Abort::Status(status))) => {
                return ChaosFuture(ChaosState::Answered(status));
            }
            Some(Hit::Abort(Abort::Refused)) => return ChaosFuture(ChaosState::Refused),
            Some(Hit::Abort(Abort::Lost)) => lose = true,
            Some(Hit::Spoil(how)) => spoil = Some(how),
        }
        ChaosFuture(ChaosState::Sent {
            inner: self.inner.call(request),
            delay,
            lose,
            spoil,
        })
    }
}

impl<F, Res, E> Future for ChaosFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<ChaosBody<Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            ChaosStateProj::Refused => Poll::Ready(Err(Injected { sent: false }.into())),
            ChaosStateProj::Answered(status) => {
                let mut response = Response::new(ChaosBody::empty());
                *response.status_mut() = *status;
                Poll::Ready(Ok(response))
            }
            ChaosStateProj::Sent {
                inner,
                delay,
                lose,
                spoil,
            } => {
                if let Some(sleep) = delay {
                    ready!(sleep.as_mut().poll(cx));
                    *delay = None;
                }
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                if *lose {
                    return Poll::Ready(Err(Injected { sent: true }.into()));
                }
                let spoil = spoil.take();
                Poll::Ready(Ok(response.map(|inner| ChaosBody::new(inner, spoil))))
            }
        }
    }
}

#[cfg(test)]
mod tests;
