//! Another attempt for a call that failed, where that cannot do its work twice.
//!
//! | what failed | who gets another attempt |
//! | --- | --- |
//! | an error, and nothing was sent (no connection, a shut gate, a limit, a server that did not start) | every call |
//! | no place for calls of its tool ([`ToolBusy`]) | every call, while there is an endpoint for it that did not have it yet |
//! | status 503 with `Retry-After` | every call: it was refused |
//! | an error, and nobody knows what was executed (broken connection, clock of the attempt) | calls that are safe to repeat |
//! | a status of [`RetrySettings::statuses`] | calls that are safe to repeat |
//! | the client's mistake, the deadline of the call, an answer that is too long, the open breaker of a tool | none |
//!
//! Safe to repeat are, on MCP, what [`is_safe`] says, and tools that the operator marks or that, where the server is trusted,
//! say that they read only or are idempotent; never a request with `inputResponses` or `requestState`, a notification or an answer; a batch if
//! each of its messages is. Without MCP facts, and for GET and DELETE of MCP, it is the idempotent methods (RFC 9110, 9.2.2). A call that is not, and
//! may have been executed, fails as it failed: its error says `outcome: unknown`. So does a call of a legacy session whose clock ran
//! out, since its server was told to cancel that id. Requests for an upgrade are never repeated.
//!
//! Only the response head is waited for: once it is passed on, nothing is repeated. 429 (RFC 6585) is passed on, since it asks the
//! *client* for fewer calls; listed in `statuses` it is repeated for safe calls. A response that is not passed on is read to its end during the pause if it
//! has at most 64 KiB and is no event stream, so that its connection stays; then it is dropped, which closes it.
//!
//! Each retry pauses first ([`Backoff`]; a `Retry-After` of the upstream is waited for, within `retry_after` and the deadline),
//! is paid from a [`Budget`], and carries [`Tried`](crate::attempt::Tried), so that a balancer chooses another endpoint. It is the same request:
//! method, target, headers, extensions and body, and so the same JSON-RPC id. If an attempt may have been sent and a later one was
//! not, the earlier error is told. Only after [`ToolBusy`] it neither pauses nor costs anything: it asks nothing of the endpoint that was full, and one that costs
//! would let a tool that is always full use up what others need. Whether there is another endpoint is told by the balancer
//! ([`Exchange::may_go_elsewhere`]).
//!
//! Place: inside [`deadline`](crate::deadline), which all attempts share; above the balancer. Readiness: the inner service's; a
//! retry waits for its own clone. Errors: none of its own. Request bodies: kept up to `body_cap`; see below. Response bodies: forwarded.
//!
//! A body that is there as a whole is kept without a copy. Of one that streams, what passes is kept, if the call may be repeated;
//! else, and past the cap, it is there for another attempt only if the first one never began to read it. Until the response head
//! comes a call costs a clone of its headers and extensions.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, retry::{RetryLayer, RetrySettings}};
//!
//! let settings = RetrySettings { safe_tools: vec!["get_*".into()], ..RetrySettings::default() };
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::new("tools", settings))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod annotations;
mod attempts;
mod backoff;
mod budget;
mod judge;
mod meters;
mod replay;
mod safe;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use tower::{Layer, Service};

pub use self::{
    annotations::{Annotations, Learning},
    attempts::RetryFuture,
    backoff::Backoff,
    budget::{Budget, BudgetSettings},
    safe::is_safe,
};
use self::{attempts::Call, meters::Meters, replay::Replay, safe::SafeTools};
#[cfg(doc)]
use crate::limit::ToolBusy;
use crate::{Body, body::Tracked, error::BoxError, exchange::Exchange, pattern::Pattern};

/// What is repeated, how often, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrySettings {
    /// The most attempts for a call, the first one included. Default: 3.
    pub attempts: NonZeroU32,
    /// How many of the calls may be repeated. Default: 20 %, and one each second.
    pub budget: BudgetSettings,
    /// The pause before each. Default: 50 ms, doubling up to 1 s, with full jitter.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is waited for; with a longer one, or one beyond the deadline, the response is passed on. Default: 10 s.
    pub retry_after: Duration,
    /// The most bytes of a request body that are kept. Default: 64 KiB.
    pub body_cap: usize,
    /// Tools whose calls are safe to repeat. Default: none.
    pub safe_tools: Vec<Pattern>,
    /// What the server says of its tools (`readOnlyHint`, `idempotentHint`) is believed. Default: no.
    pub trust_annotations: bool,
    /// The response statuses that are repeated for safe calls. Default: 502, 503, 504.
    pub statuses: Vec<StatusCode>,
}

/// Repeats calls that failed.
#[derive(Debug, Clone)]
pub struct RetryLayer {
    /// `None` is off.
    shared: Option<Arc<Shared>>,
}

/// The service of [`RetryLayer`].
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    on: Option<On<S>>,
}

#[derive(Debug)]
struct On<S> {
    shared: Arc<Shared>,
    /// Cloned only when there is another attempt.
    spare: Arc<Mutex<S>>,
}

#[derive(Debug)]
struct Shared {
    settings: RetrySettings,
    safe: SafeTools,
    budget: Budget,
    meters: Meters,
}

// === impl RetrySettings ===

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN),
            budget: BudgetSettings::default(),
            backoff: Backoff::default(),
            retry_after: Duration::from_secs(10),
            body_cap: 64 << 10,
            safe_tools: Vec::new(),
            trust_annotations: false,
            statuses: vec![
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ],
        }
    }
}

// === impl RetryLayer ===

impl RetryLayer {
    /// A layer for calls to the upstream of this name, with a budget of its own. Its clones and services share it.
    pub fn new(upstream: &str, settings: RetrySettings) -> Self {
        let budget = Budget::new(settings.budget);
        Self::sharing(upstream, settings, budget, Annotations::default())
    }

    /// The same, with a budget (which takes the place of that in the settings) and a store of annotations that others share: several
    /// routes to one upstream, or the tower after a reload.
    pub fn sharing(
        upstream: &str,
        settings: RetrySettings,
        budget: Budget,
        annotations: Annotations,
    ) -> Self {
        let meters = Meters::new(upstream);
        meters.budget.set(budget.left());
        let safe = SafeTools {
            marked: settings.safe_tools.clone(),
            hints: settings.trust_annotations.then_some(annotations),
        };
        Self {
            shared: Some(Arc::new(Shared {
                settings,
                safe,
                budget,
                meters,
            })),
        }
    }

    /// A layer that repeats nothing.
    pub fn off() -> Self {
        Self { shared: None }
    }
}

impl<S: Clone> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry {
            on: self.shared.as_ref().map(|shared| On {
                shared: shared.clone(),
                spare: Arc::new(Mutex::new(inner.clone())),
            }),
            inner,
        }
    }
}

// === impl Retry ===

impl<S> Clone for On<S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            spare: self.spare.clone(),
        }
    }
}

impl<S, Req, Res> Service<Request<Req>> for Retry<S>
where
    S: Service<Request<Body>, Response = Response<Res>> + Clone,
    S::Error: Into<BoxError>,
    Req: HttpBody<Data = Bytes> + Send + 'static,
    Req::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Learning>>;
    type Error = BoxError;
    type Future = RetryFuture<S, S::Future, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let mut request = request.map(Body::new);
        let Some(On { shared, spare }) = &self.on else {
            return RetryFuture::new(self.inner.call(request), None);
        };
        if let Some(left) = shared.budget.call() {
            shared.meters.budget.set(left);
        }
        let exchange = Exchange::of(&mut request);
        if exchange.call().is_none() && request.headers().contains_key(header::UPGRADE) {
            return RetryFuture::new(self.inner.call(request), None);
        }
        // On plain HTTP it is known now whether what was begun may be repeated.
        let record = exchange.call().is_some() || request.method().is_idempotent();
        let (parts, body) = request.into_parts();
        let (body, replay) = Replay::keep(body, shared.settings.body_cap, record);
        let call = Call {
            shared: shared.clone(),
            service: spare.clone(),
            exchange,
            parts: parts.clone(),
            replay,
            made: 1,
            running: None,
            worst: None,
        };
        let attempt = self.inner.call(Request::from_parts(parts, body));
        RetryFuture::new(attempt, Some(call))
    }
}

#[cfg(test)]
mod tests;
