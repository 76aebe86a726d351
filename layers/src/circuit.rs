//! Circuit breakers: an endpoint that keeps failing is left alone for a while, then tried with a few calls.
//!
//! *Closed*, calls pass and are counted. The breaker *opens* when too large a share of the calls in a window failed or were slow, or
//! after some failures in a row; what is a failure is told by [`verdict`](crate::verdict). Open, it refuses. After a time it is
//! *half-open*, by itself (state and metrics show it from the first look on): a few calls pass as probes. One that fails or is slow opens
//! it again, and enough that succeed close it.
//! The operator can force it open or closed ([`CircuitHandle::force`]).
//!
//! - **Time.** It is open for `open` the first time, twice as long each further time, up to `open_max`; a random part of up to a
//!   fifth is added. That starts over when it opens after having been closed for at least as long as it was last open.
//! - **Slow** is judged by the time to the response head, so a long stream is not slow.
//! - **Probes** that end neutral give their place back. So does one that has been out for longer than `open`, though it still
//!   counts when it ends: a call that takes long must not keep the endpoint out.
//! - **Notifications, client responses and MCP's DELETE** always pass, also where it is forced open, and are not counted: calls that were
//!   admitted before may be waiting for just them, and their 202 says little.
//! - **Standing streams** (GET, `subscriptions/listen`; without MCP facts a GET that accepts an event stream) are refused like calls.
//!   They count with their response head, which is never slow; how they end is not counted.
//! - **Tools** ([`CircuitLayer::tools`]): a call of a tool is also refused while that tool's own breaker is open, so that one broken tool
//!   need not open the endpoint's. A batch is one call, of the tool that all of it calls ([`CallFacts::tool`]); one that is of several tools counts for the endpoint
//!   only. A call without an id has no answer: it is refused like others, and tells of its tool only where it fails.
//!
//! Place: at the endpoint, outside its clocks, so that a timeout is a failure, and below what chooses endpoints. With a
//! [`Gate`] the breaker of the endpoint shuts that while it refuses, so that a balancer goes around it ([`Reason::Circuit`]); a tool's
//! never does. Readiness: the inner service's, but ready while the breaker is open, so that a stuck service cannot hide it; nothing is
//! reserved. Errors: [`CircuitOpen`], in `call`, at once, also for a call that is pinned to the endpoint; nothing was sent. Bodies: forwarded; a probe's place rides with them. Clones
//! share the breaker.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, circuit::{CircuitHandle, CircuitLayer, CircuitSettings}, gate::Gate};
//!
//! let (handle, gate) = (CircuitHandle::new("tools", "127.0.0.1:3001"), Gate::new());
//! let service = ServiceBuilder::new()
//!     .layer(CircuitLayer::with(&handle, Some(CircuitSettings::default())).gate(gate))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod breaker;
mod handle;
mod pass;
mod settings;
mod tools;
mod window;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

pub use self::{
    breaker::{Forced, State},
    handle::{CircuitHandle, CircuitReport, Scope},
    pass::Pass,
    settings::{CircuitSettings, SlowCalls, Window},
    tools::ToolCircuits,
};
use self::{handle::Switch, pass::Counted};
#[cfg(doc)]
use crate::gate::Reason;
use crate::{
    body::Tracked,
    class::Class,
    error::BoxError,
    exchange::Exchange,
    gate::Gate,
    mcp::CallFacts,
    verdict::{Attempt, Judge, Watched},
};

/// Refuses calls while a breaker is open.
#[derive(Debug, Clone, Default)]
pub struct CircuitLayer {
    endpoint: Option<Arc<Switch>>,
    tools: Option<ToolCircuits>,
}

/// The service of [`CircuitLayer`].
#[derive(Debug)]
pub struct Circuit<S> {
    inner: S,
    breakers: CircuitLayer,
    /// The inner service is ready for one call.
    ready: bool,
}

/// The future of [`Circuit`].
#[pin_project]
pub struct CircuitFuture<F>(#[pin] CircuitState<F>);

/// A breaker is open. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker of this {} is open", scope.as_str())]
pub struct CircuitOpen {
    /// What it is for.
    pub scope: Scope,
    /// After this time a call may be admitted again, where that is known.
    pub retry_after: Option<Duration>,
}

#[pin_project(project = CircuitStateProj)]
enum CircuitState<F> {
    Refused(Option<CircuitOpen>),
    Admitted(#[pin] Watched<F, Pass>),
}

// === impl CircuitLayer ===

impl CircuitLayer {
    /// A layer with a breaker of its own, without a name and without metrics.
    pub fn new(settings: CircuitSettings) -> Self {
        Self::with(&CircuitHandle::default(), Some(settings))
    }

    /// A layer with this breaker, which gets these settings and keeps its state. `None` turns the breaker off: it forgets its state,
    /// and the layer lets everything pass.
    pub fn with(handle: &CircuitHandle, settings: Option<CircuitSettings>) -> Self {
        let on = settings.is_some();
        handle.switch.set(settings.map(Arc::new));
        Self {
            endpoint: on.then(|| handle.switch.clone()),
            tools: None,
        }
    }

    /// A layer without a breaker.
    pub fn off() -> Self {
        Self::default()
    }

    /// Lets the breaker shut this gate while it refuses.
    #[must_use]
    pub fn gate(self, gate: Gate) -> Self {
        if let Some(switch) = &self.endpoint {
            switch.set_gate(gate);
        }
        self
    }

    /// Looks at these breakers of tools, too.
    #[must_use]
    pub fn tools(self, tools: &ToolCircuits) -> Self {
        Self {
            tools: Some(tools.clone()),
            ..self
        }
    }

    fn refuses(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|s| s.refuses())
    }

    fn admit<B>(
        &self,
        request: &Request<B>,
        exchange: &Arc<Exchange>,
    ) -> Result<Pass, CircuitOpen> {
        let passes = exchange.call().is_some_and(|c| c.is_fire_and_forget());
        if passes || (self.endpoint.is_none() && self.tools.is_none()) {
            return Ok(Pass::default());
        }
        let open = |scope| move |retry_after| CircuitOpen { scope, retry_after };
        let tool = match (&self.tools, exchange.call().and_then(CallFacts::tool)) {
            (Some(tools), Some(name)) => {
                let ticket = tools.admit(name).map_err(open(Scope::Tool))?;
                Some((tools.clone(), ticket))
            }
            _ => None,
        };
        let endpoint = match &self.endpoint {
            Some(switch) => switch.admit().map_err(open(Scope::Endpoint))?,
            None => None,
        };
        Ok(Pass::new(Counted {
            exchange: exchange.clone(),
            started: Instant::now(),
            head: None,
            standing: Class::of(request) == Class::Stream,
            endpoint,
            tool,
        }))
    }
}

impl<S> Layer<S> for CircuitLayer {
    type Service = Circuit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Circuit {
            inner,
            breakers: self.clone(),
            ready: false,
        }
    }
}

// === impl Circuit ===

impl<S: Clone> Clone for Circuit<S> {
    /// A clone is not ready, whatever this one is.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breakers: self.breakers.clone(),
            ready: false,
        }
    }
}

impl<S, Req, Res> Service<Request<Req>> for Circuit<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Attempt<Pass>>>;
    type Error = BoxError;
    type Future = CircuitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let inner = self.inner.poll_ready(cx).map_err(Into::into);
        self.ready = matches!(inner, Poll::Ready(Ok(())));
        if inner.is_pending() && self.breakers.refuses() {
            return Poll::Ready(Ok(()));
        }
        inner
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let admitted = if std::mem::take(&mut self.ready) {
            self.breakers.admit(&request, &exchange)
        } else {
            // It was open when it was asked; the inner service must not be called.
            Err(CircuitOpen {
                scope: Scope::Endpoint,
                retry_after: None,
            })
        };
        CircuitFuture(match admitted {
            Ok(pass) => CircuitState::Admitted(Watched::new(
                self.inner.call(request),
                exchange,
                Judge::default(),
                pass,
            )),
            Err(open) => CircuitState::Refused(Some(open)),
        })
    }
}

impl<F, Res, E> Future for CircuitFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Attempt<Pass>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            CircuitStateProj::Refused(open) => {
                Poll::Ready(Err(open.take().expect("polled once").into()))
            }
            CircuitStateProj::Admitted(inner) => inner.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
