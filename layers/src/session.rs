//! Legacy MCP sessions: ids that clients cannot read or guess, routed to the endpoint that they belong to, and kept within limits.
//!
//! When an upstream begins a session, its client gets another id: the endpoint and the upstream's own id, sealed and bound to the route and the principal
//! (see [`seal`]). Any process with the key can route it, also after a restart. A request of a session goes on with the upstream's id in its header and
//! [`Pinned`] to the endpoint; what answers carries the sealed id again. An id that is not one of ours, or is another route's or
//! principal's, or whose session is over gets a 404, after which the client begins anew (MCP 2025-11-25, transports, "Session
//! Management"). [`CallFacts::session`](crate::mcp::CallFacts::session) stays what the client sent; the header is what the upstream sees.
//!
//! A session ends with a DELETE that the upstream took (2xx, or 404 and 405); when the upstream answers one of the `lost` statuses, says that
//! it is gone, or was taken out; when it was quiet for `idle`; and at `lifetime`. Activity is a request, a call in hand, or a message that passes to the client. An
//! open stream in itself is none: a GET stream over which nothing passes ends with its session. At a cap the session that has been
//! quiet for longest makes room, if that is a tenth of `idle`; else the new one is refused before anything is sent. The upstream of a session that ended here (idle, lifetime,
//! cap, operator; where others [share](SessionSettings::shared) the keys only lifetime and operator, since it may be in use there) is to be told with a DELETE, once no call is in hand: the store keeps a [`Farewell`] for each, and somebody must take and
//! [say](Farewell::say) them now and then, as somebody must sweep. What the client may have forwarded is not kept for that.
//!
//! A session that its upstream lost is begun anew there in the words of its client, on another endpoint if need be, and the request that found out is sent again,
//! once ([`Heal`]); its sealed id stays good. By default that is done only if all its calls were safe to repeat, so that the server can have kept nothing
//! of them. It needs what the store remembers: after a restart there is none. Where it is not done, the client gets the 404 that the specification wants. While the endpoint of a session
//! cannot be reached (there is no connection to be had, or its breaker is open and its probes fail) and another one takes calls, the session moves there in the same way, and its old one is ended as
//! soon as that can be said; one that may not be moved waits, as all do while no endpoint can be asked, and the error is the answer. Requests that find out at the same time begin one session.
//!
//! Legacy only: modern calls, those of servers without sessions, and plain HTTP pass as they are.
//!
//! Place: on the route, inside [`inspect`](crate::inspect), whose facts it reads, and outside [`limit`](crate::limit), deadline, retry and balance. Readiness:
//! the inner service's; the instance that was ready is kept for the call, and made ready again for what a heal sends. Errors: [`SessionGone`] (nothing came of
//! the request), [`SessionsFull`] (nothing was sent), [`BadSessionId`]. Bodies: forwarded. A legacy call costs an allocation for its future, others none.
//!
//! ```
//! use std::sync::Arc;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, session::{Keys, MemoryStore, SessionLayer, SessionSettings}};
//!
//! # fn main() -> Result<(), BoxError> {
//! let store = Arc::new(MemoryStore::new());
//! let service = ServiceBuilder::new()
//!     .layer(SessionLayer::new(SessionSettings::default(), Keys::random()?, store))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! # Ok(()) }
//! ```
//!
//! [`Pinned`]: crate::attempt::Pinned

mod body;
mod farewell;
mod heal;
mod memory;
pub mod seal;
mod store;
mod way;

use std::{
    mem,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use self::way::Way;
pub use self::{
    body::SessionBody,
    farewell::{Farewell, FarewellOutcome},
    heal::Heal,
    memory::MemoryStore,
    seal::{BadKey, Key, Keys, NoRandomness},
    store::{
        Answer, Asked, Ending, History, Home, Limits, Live, NotLive, Note, SessionInfo, SessionKey,
        SessionStore, SessionsFull, Visit,
    },
};
use crate::{
    Body,
    error::BoxError,
    exchange::Exchange,
    mcp::{CallFacts, Era, Verb, headers::SESSION_ID},
};

/// How long sessions live, and how many there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// How long a session may be quiet. Default: 30 minutes.
    pub idle: Duration,
    /// How old it may become. Default: no limit.
    pub lifetime: Option<Duration>,
    /// The most sessions of the route. Default: 10000.
    pub max: NonZeroUsize,
    /// The most of them that one principal may have. Default: 1000.
    pub max_per_principal: NonZeroUsize,
    /// The statuses by which the upstream says that it does not know a session. Default: 404, as the specification has it. To a GET they
    /// count only if one opened a stream in that session before, since servers without GET answer so, too.
    pub lost: Vec<StatusCode>,
    /// Which lost sessions are begun anew at the upstream. Default: those whose calls all were safe to repeat.
    pub heal: Heal,
    /// The upstream keeps nothing of a session, so that any call is safe in this regard. Default: no.
    pub stateless: bool,
    /// Other processes have the keys, too: a session that is quiet here may be in use there, so that its end here is nothing to tell its upstream. Default: no.
    pub shared: bool,
}

/// Seals session ids, and keeps sessions within limits.
#[derive(Debug, Clone)]
pub struct SessionLayer {
    /// `None` is off.
    shared: Option<Arc<Shared>>,
}

/// The service of [`SessionLayer`].
#[derive(Debug, Clone)]
pub struct Session<S> {
    inner: S,
    shared: Option<Arc<Shared>>,
}

/// The future of [`Session`].
#[pin_project]
pub struct SessionFuture<F, B>(#[pin] State<F, B>);

/// The session does not exist, has ended, or is another's.
#[derive(Debug, Default, thiserror::Error)]
#[error("the session does not exist or has ended")]
pub struct SessionGone {
    /// What its endpoint said, if it was asked.
    #[source]
    pub source: Option<BoxError>,
}

/// The id that an upstream gave a session is too long, or not visible ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream gave the session an id that is too long or not visible ASCII")]
pub struct BadSessionId;

#[derive(Debug)]
struct Shared {
    settings: SessionSettings,
    limits: Limits,
    keys: Keys,
    store: Arc<dyn SessionStore>,
}

type Result<B> = std::result::Result<Response<SessionBody<B>>, BoxError>;

#[pin_project(project = StateProj)]
enum State<F, B> {
    /// No business of sessions.
    Passing(#[pin] F),
    /// Waits for the store, the upstream, and the store again.
    Going(Pin<Box<dyn Future<Output = Result<B>> + Send>>),
}

// === impl SessionSettings ===

impl Default for SessionSettings {
    fn default() -> Self {
        let most = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self {
            idle: Duration::from_secs(30 * 60),
            lifetime: None,
            max: most(10_000),
            max_per_principal: most(1000),
            lost: vec![StatusCode::NOT_FOUND],
            heal: Heal::default(),
            stateless: false,
            shared: false,
        }
    }
}

// === impl SessionLayer ===

impl SessionLayer {
    /// A layer that seals with these keys and keeps sessions in this store, which others may use too: a store tells routes apart by their
    /// names.
    pub fn new(settings: SessionSettings, keys: Keys, store: Arc<dyn SessionStore>) -> Self {
        let limits = Limits {
            idle: settings.idle,
            lifetime: settings.lifetime,
            max: settings.max.get(),
            max_per_principal: settings.max_per_principal.get(),
            shared: settings.shared,
        };
        Self {
            shared: Some(Arc::new(Shared {
                settings,
                limits,
                keys,
                store,
            })),
        }
    }

    /// A layer that lets the upstream's ids pass.
    pub fn off() -> Self {
        Self { shared: None }
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = Session<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Session {
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl Session ===

impl<S, Req, Res> Service<Request<Req>> for Session<S>
where
    S: Service<Request<Body>, Response = Response<Res>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    Req: HttpBody<Data = Bytes> + Send + 'static,
    Req::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes> + Send + 'static,
    Res::Error: Into<BoxError>,
{
    type Response = Response<SessionBody<Res>>;
    type Error = BoxError;
    type Future = SessionFuture<S::Future, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let request = request.map(Body::new);
        let Some((shared, exchange)) = self.shared.as_ref().zip(concerned(&request)) else {
            return SessionFuture(State::Passing(self.inner.call(request)));
        };
        let way = Way {
            shared: shared.clone(),
            exchange: exchange.clone(),
        };
        let other = self.inner.clone();
        let inner = mem::replace(&mut self.inner, other);
        SessionFuture(State::Going(Box::pin(way.go(inner, request))))
    }
}

/// The exchange of a request that has a session, or may begin one.
fn concerned<B>(request: &Request<B>) -> Option<&Arc<Exchange>> {
    let exchange = Exchange::get(request)?;
    let call: &CallFacts = exchange.call()?;
    let named = request.headers().contains_key(SESSION_ID);
    let legacy = call.era == Era::Legacy && (named || call.verb == Verb::Post);
    legacy.then_some(exchange)
}

impl<F, B, E> Future for SessionFuture<F, B>
where
    F: Future<Output = std::result::Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Passing(inner) => inner
                .poll(cx)
                .map_ok(|response| response.map(|inner| SessionBody::new(inner, None)))
                .map_err(Into::into),
            StateProj::Going(way) => way.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
