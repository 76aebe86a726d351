//! Rate limits: so many calls in so much time, and so many standing streams, for each key.
//!
//! A route may have several limits, and a call must pass all of them; where one refuses, none of the others counts it. Each limit tells calls apart by
//! [parts](KeyPart): the session, the client's address, the principal, the method, the tool, or several of these together; with none, all calls of the
//! route share one bucket. A [`Selector`] says which calls a limit is for (a glob of tools, say), and [`Tier`]s what some of them are allowed
//! instead. An [`Expression`](crate::expression::Expression) (CEL, with the feature `cel`) over the request can be a part of the key: a tenant among the arguments, or a header. What looks into
//! a message needs it in memory (a [`Body`](crate::Body), as [`inspect`](crate::inspect) leaves it), and parses it once for each such limit. A bucket holds `burst` calls, and earns others at its rate (GCRA, see [`Bucket`]).
//!
//! # What counts
//!
//! - A request of MCP, by what its body says; of a batch (2025-03-26) each, and all of them or none pass. A message without an id counts too, unless its method is one of
//!   `notifications/`, since a server may execute it.
//! - A GET, which opens a stream; on plain HTTP every request, and a GET that accepts an event stream opens one.
//! - Not DELETE, MCP's notifications and the client's answers: calls may be waiting for just them, and they may not be lost. They are bounded by the size of bodies, and by
//!   what their server makes of them.
//! - Not what the session layer sends to heal a session ([`Unasked`](crate::attempt::Unasked)); a stream that is opened again so takes a place, though.
//!
//! # Keys
//!
//! A session counts as such only if the session layer has opened its sealed id, so that ids that somebody makes up are no keys; what has no session counts by its principal,
//! else by its client. A client that begins many sessions has a bucket in each: a second limit by client, or one of `initialize`, bounds that. The client's
//! address is the peer's. Behind another proxy that is the proxy's, as no header is believed: limit by session there. Tools that a client makes
//! up have buckets like others, so a limit by tool alone does not bound calls as such, nor does one by an expression: what it says null of is not counted, and who
//! may choose what it says may choose a bucket. A second limit by client bounds that. The store keeps a bounded number of keys, and never forgets a bucket
//! that is not full ([`MemoryStore`]).
//!
//! # What the client gets
//!
//! [`RateLimited`], which says what to do and when. [`rescue`](crate::rescue) makes it a 429 with `Retry-After`, or a JSON-RPC error with `retry_after_ms`; both with the fields
//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11). Other responses get `RateLimit` of the limit that has least left: the calls that would pass now, and the seconds
//! until the whole burst is there again. What the upstream says itself in that field stays.
//!
//! Place: on the route, inside [`session`](mod@crate::session), which proves sessions, and outside [`limit`](crate::limit), so that who is refused takes no place. A call counts
//! once, however often it is tried. Readiness: the inner service's; where a store has to be asked, the instance that was ready is kept for the call. Errors:
//! [`RateLimited`]; nothing was sent. Bodies: forwarded; places of streams ride with the response body.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, rate_limit::{Allowance, KeyPart, RateLimitLayer, RateLimitSettings}};
//!
//! # fn main() -> Result<(), BoxError> {
//! let per_client = RateLimitSettings {
//!     name: "client".to_owned(),
//!     per: vec![KeyPart::Client],
//!     allowance: Allowance { rate: Some("50/s".parse()?), ..Allowance::default() },
//!     ..RateLimitSettings::default()
//! };
//! let service = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new("route", &[per_client]))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! # Ok(()) }
//! ```

mod admission;
mod bucket;
mod key;
mod limits;
mod memory;
mod refusal;
mod selector;
mod store;
mod streams;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use self::{
    admission::{Admission, Asking, Grant, admit},
    limits::Limit,
};
pub use self::{
    bucket::{BadRate, Bucket, Denied, Quota, Rate, RateUnit, Standing},
    key::KeyPart,
    limits::{Allowance, KeyReport, KeyText, LimitReport, RateLimitSettings, RateLimits, Tier},
    memory::MemoryStore,
    refusal::{Excess, RATELIMIT, RATELIMIT_POLICY, RateLimited},
    selector::{BadNetwork, Network, Selector},
    store::{Later, RateStore, Reply, Usage},
    streams::Places,
};
use crate::{
    body::{Hold, Tracked},
    error::BoxError,
};

/// Refuses what is over its limits. By default there are none.
#[derive(Debug, Clone, Default)]
pub struct RateLimitLayer {
    limits: Arc<[Arc<Limit>]>,
}

/// The service of [`RateLimitLayer`].
#[derive(Debug, Clone)]
pub struct RateLimit<S> {
    inner: S,
    limits: Arc<[Arc<Limit>]>,
}

/// The future of [`RateLimit`].
#[pin_project]
pub struct RateLimitFuture<S, B, F>(#[pin] State<S, B, F>);

#[pin_project(project = StateProj)]
enum State<S, B, F> {
    Refused(Option<Box<RateLimited>>),
    /// A store is asked, and the service that was ready waits with the request.
    Asking(Asking, Option<(S, Request<B>)>),
    Passed(#[pin] F, Grant),
}

// === impl RateLimitLayer ===

impl RateLimitLayer {
    /// A layer with these limits for the route of this name, and buckets of its own. Those of [`RateLimits::layer`] outlive it.
    pub fn new(route: &str, limits: &[RateLimitSettings]) -> Self {
        RateLimits::new(route).layer(limits)
    }

    fn of(limits: Arc<[Arc<Limit>]>) -> Self {
        Self { limits }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            limits: self.limits.clone(),
        }
    }
}

// === impl RateLimit ===

impl<S, Req, Res> Service<Request<Req>> for RateLimit<S>
where
    S: Service<Request<Req>, Response = Response<Res>> + Clone,
    Req: 'static,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Hold<Places>>>;
    type Error = BoxError;
    type Future = RateLimitFuture<S, Req, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        RateLimitFuture(match admit(&self.limits, &request) {
            Admission::Passed(grant) => State::Passed(self.inner.call(request), grant),
            Admission::Refused(limited) => State::Refused(Some(limited)),
            Admission::Asking(asking) => {
                let other = self.inner.clone();
                let ready = mem::replace(&mut self.inner, other);
                State::Asking(asking, Some((ready, request)))
            }
        })
    }
}

impl<S, Req, Res> Future for RateLimitFuture<S, Req, S::Future>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Hold<Places>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Refused(limited) => {
                    let limited = *limited.take().expect("polled once");
                    return Poll::Ready(Err(limited.into()));
                }
                StateProj::Passed(inner, grant) => {
                    let mut response = ready!(inner.poll(cx)).map_err(Into::into)?;
                    let Grant { field, places } = mem::take(grant);
                    if let Some(field) = field {
                        tell(&mut response, field);
                    }
                    let places = Hold(Places(places));
                    return Poll::Ready(Ok(response.map(|body| Tracked::new(body, places))));
                }
                StateProj::Asking(asking, waiting) => {
                    let grant = ready!(asking.as_mut().poll(cx)).map_err(|limited| *limited)?;
                    let (mut inner, request) = waiting.take().expect("polled once");
                    State::Passed(inner.call(request), grant)
                }
            };
            state.set(next);
        }
    }
}

/// The field is a list, which the upstream may have begun.
fn tell<B>(response: &mut Response<B>, field: HeaderValue) {
    response.headers_mut().append(RATELIMIT, field);
}

#[cfg(test)]
mod tests;
