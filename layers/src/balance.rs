//! Balances calls over the endpoints of an upstream.
//!
//! [`EndpointSet`] holds the members, which come and go at run time; [`Endpoint`] is what is known of one: weight, priority, its
//! [`Gate`](crate::gate::Gate), its [`Load`], which the layer [`LoadLayer`] feeds. [`Balance`] is the service on top: it chooses a
//! member for each call by a [`Policy`], and calls its service.
//!
//! Why not `tower::balance::p2c::Balance`: it chooses in `poll_ready`, before there is a request, so that neither a session nor a
//! hash nor a retry has a say; it is not `Clone`, so it needs a `Buffer` and a worker task in front; while it is idle it does not see that members
//! come and go, and polls the pending ones only for a new request (tower issue 824); when it is empty it waits for ever; a member that is removed between two
//! polls can send the request to another one (issue 856); a member whose readiness fails once is dropped for good, so that a circuit
//! breaker below it (pull request 855) must never say so; and its load meters know nothing of failures and streams. So choice and call are one
//! step here, on a snapshot of the set, and a gate says what readiness cannot: whether an endpoint is held back, or only busy.
//!
//! Which endpoints may be chosen: the open ones of the best priority; in a *panic*, when fewer than [`BalanceSettings::panic`] of the
//! members are up, also those that only probes or the comparison with others hold back (leave [`GateLayer`](crate::gate::GateLayer) out of a member's
//! service: it would refuse them). New and healed endpoints come in slowly over [`BalanceSettings::slow_start`], unless they are the first. A call that
//! is [`Pinned`] goes to its endpoint and nowhere else, through the same service, and is refused at once if that is held back. Endpoints in [`Tried`] are
//! chosen only if there are no others; whether there is one yet is told to the exchange
//! ([`Exchange::may_go_elsewhere`](crate::exchange::Exchange::may_go_elsewhere)).
//!
//! Where none may be chosen: if all are held back, or there are none, the caller is told at once, with the time after which one may be
//! back. If some are only busy (its concurrency limit says so, or its service is not ready) the call waits in a queue of
//! [`BalanceSettings::queue`] calls for [`BalanceSettings::queue_time`]; pinned calls wait in one of their endpoint. A queue is first in, first
//! out, and newcomers line up behind those who wait, so none starves; a pinned call competes with the head of the common queue for
//! a place that comes free, with equal chances. Messages that want no answer, and standing streams, do not wait behind calls: caps on calls
//! are not for them. With more than one thread two calls may see the same last place; the one that comes second is refused by the limit (`Shed`, not sent), and is for retry.
//!
//! Place: last on the route, below deadline and retry; its members are the endpoint terraces. Readiness: always ready. Errors: [`NoEndpoint`],
//! [`QueueFull`], [`QueueTimeout`], [`PinnedGone`], [`GateShut`](crate::gate::GateShut); nothing was sent in any of them. Bodies: untouched.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError};
//! use ziggurat_layers::balance::{Balance, BalanceSettings, EndpointSet, LoadLayer, Member};
//!
//! let set = EndpointSet::new("tools");
//! let balance = Balance::new(BalanceSettings::default(), set.clone());
//! for name in ["10.0.0.1:3000", "10.0.0.2:3000"] {
//!     let endpoint = set.keep(name, 1, 0);
//!     let service = ServiceBuilder::new()
//!         .layer(LoadLayer::new(endpoint.clone()))
//!         .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//!     set.insert(Member { endpoint, service });
//! }
//! # let _ = balance;
//! assert_eq!(set.view().len(), 2);
//! ```

mod endpoint;
mod few;
mod hash;
pub mod load;
pub mod policy;
mod queue;
mod search;
mod set;
mod survey;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Request;
use pin_project::pin_project;
use tower::Service;

pub use self::{
    endpoint::{Endpoint, EndpointView},
    hash::HashKey,
    load::{Load, LoadLayer, Meter, Metered},
    policy::Policy,
    set::{EndpointSet, Member},
};
use self::{
    policy::Picker,
    queue::{Bounds, Queue},
    search::Search,
};
#[cfg(doc)]
use crate::attempt::{Pinned, Tried};
use crate::{Body, error::BoxError, gate::Reason, share::Share};

/// How calls are spread.
#[derive(Debug, Clone, PartialEq)]
pub struct BalanceSettings {
    /// How an endpoint is chosen. Default: p2c.
    pub policy: Policy,
    /// The share of calls that p2c places at random, so that an endpoint with a bad estimate can come back. Default: 1 %.
    pub forced: Share,
    /// How long it takes until a new or healed endpoint has its full share; it grows evenly. Zero is off. Default: 30 s.
    pub slow_start: Duration,
    /// If fewer members than this are up, the sick ones are used too: rather a probe was wrong than all of them, and the few that are left
    /// would be overrun. So probes alone never shut the only endpoint of an upstream. 0 % is never. Default: 50 %.
    pub panic: Share,
    /// The most calls that wait while all are busy; for pinned calls, at each endpoint. Default: 1024.
    pub queue: usize,
    /// How long a call waits. Default: 1 s, since a client that is told soon can go elsewhere, and one that waits holds memory.
    pub queue_time: Duration,
}

/// Sends each call to one member of a set. Always ready. Clones share the queue and the policy's state.
#[derive(Debug)]
pub struct Balance<S> {
    shared: Arc<Shared<S>>,
}

/// The future of [`Balance`].
#[pin_project]
pub struct BalanceFuture<S, F> {
    search: Search<S>,
    #[pin]
    calling: Option<F>,
}

/// Every endpoint is held back, or there is none. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint takes calls now ({})", words(reasons))]
pub struct NoEndpoint {
    /// After this time one may be back, where that is known of any.
    pub retry_after: Option<Duration>,
    /// What holds them back, each reason once; empty if there is no endpoint.
    pub reasons: Vec<Reason>,
}

/// Every endpoint is busy, and too many wait already. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every endpoint is busy, and {limit} calls wait already")]
pub struct QueueFull {
    /// The bound.
    pub limit: usize,
}

/// Every endpoint was busy for too long. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every endpoint was busy for {limit:?}")]
pub struct QueueTimeout {
    /// The limit.
    pub limit: Duration,
}

/// The endpoint that the call is pinned to is no member any more. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint that this call belongs to is gone")]
pub struct PinnedGone;

#[derive(Debug)]
struct Shared<S> {
    set: EndpointSet<S>,
    settings: BalanceSettings,
    picker: Picker,
    bounds: Bounds,
    queue: Arc<Queue>,
}

fn words(reasons: &[Reason]) -> String {
    if reasons.is_empty() {
        return "there is none".to_owned();
    }
    let words: Vec<_> = reasons.iter().map(|reason| reason.as_str()).collect();
    words.join(", ")
}

// === impl BalanceSettings ===

impl Default for BalanceSettings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            forced: Share::percent(1),
            slow_start: Duration::from_secs(30),
            panic: Share::HALF,
            queue: 1024,
            queue_time: Duration::from_secs(1),
        }
    }
}

// === impl Balance ===

impl<S: Clone> Balance<S> {
    /// A balancer over this set.
    pub fn new(settings: BalanceSettings, set: EndpointSet<S>) -> Self {
        Self {
            shared: Arc::new(Shared {
                picker: Picker::new(settings.policy.clone(), settings.forced),
                bounds: Bounds::new(set.upstream(), settings.queue, settings.queue_time),
                queue: Arc::default(),
                set,
                settings,
            }),
        }
    }
}

impl<S> Clone for Balance<S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<S> Service<Request<Body>> for Balance<S>
where
    S: Service<Request<Body>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BalanceFuture<S, S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Which endpoint must be ready is not known before the request is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        BalanceFuture {
            search: Search::new(self.shared.clone(), request),
            calling: None,
        }
    }
}

// === impl BalanceFuture ===

impl<S, F, T, E> Future for BalanceFuture<S, F>
where
    S: Service<Request<Body>, Future = F, Response = T, Error = E> + Clone,
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.calling.is_none() {
            let (mut service, request) = ready!(this.search.poll(cx))?;
            this.calling.set(Some(service.call(request)));
            // Only now: whoever is next in the queue sees what this call took.
            this.search.leave();
        }
        match this.calling.as_pin_mut() {
            Some(calling) => calling.poll(cx).map_err(Into::into),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
