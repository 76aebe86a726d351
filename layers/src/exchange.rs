//! The exchange: one shared slot for what is known of a request and its response.
//!
//! Extensions that an inner layer adds cannot be seen by an outer one. So [`ExchangeLayer`], outermost, puts one
//! [`Exchange`] into the request, and inner layers fill it: the call's facts, route and endpoint, what the response turned out to
//! be, and why a call was given up. Access log, metrics and rescue read it. A layer that is used alone makes the slot
//! itself ([`Exchange::of`]).
//!
//! Place: outermost. Readiness and errors: the inner service's. Bodies: untouched.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, exchange::{Exchange, ExchangeLayer}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(ExchangeLayer::new())
//!     .service(service_fn(async |mut request: http::Request<Body>| {
//!         let id = Exchange::of(&mut request).id().to_owned();
//!         Ok::<_, BoxError>(http::Response::new(Body::full(id)))
//!     }));
//! # let _ = service;
//! ```

mod changed;
mod client;
mod layer;
#[cfg(feature = "session")]
mod origin;
mod response;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue, Request};
use tokio::time::Instant;

pub(crate) use self::changed::Changed;
use self::changed::Judgements;
#[cfg(feature = "session")]
pub(crate) use self::origin::Origin;
pub use self::{
    client::Client,
    layer::{ExchangeLayer, SetExchange},
    response::ResponseFacts,
};
use crate::{
    error::Outcome,
    mcp::{CallFacts, Era, Id},
    waits::Wait,
};

/// What is known of one request and its response.
#[derive(Debug)]
pub struct Exchange {
    id: Box<str>,
    started: Instant,
    client: OnceLock<Client>,
    call: OnceLock<CallFacts>,
    changed: Judgements,
    route: OnceLock<Arc<RouteInfo>>,
    principal: OnceLock<Arc<str>>,
    endpoint: Mutex<Option<Arc<EndpointInfo>>>,
    elsewhere: AtomicBool,
    attempts: AtomicU32,
    gave_up: AtomicU8,
    due: OnceLock<Instant>,
    fault: OnceLock<(&'static str, Outcome)>,
    upstream_nanos: AtomicU64,
    handed_over: AtomicBool,
    response: ResponseFacts,
}

/// The route that a request took.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// Its name, as metrics and logs show it.
    pub name: Arc<str>,
    /// The path prefix that it matched; an upstream whose URL has a path puts that in its place.
    pub prefix: Box<str>,
    /// How failures are told.
    pub errors: ErrorStyle,
}

/// How an MCP route tells its own failures to a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorStyle {
    /// As a JSON-RPC error in HTTP 200, so that a failed call costs no session.
    #[default]
    Envelope,
    /// The same body, with the HTTP status of the failure.
    Status,
}

/// The endpoint that an attempt went to.
#[derive(Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint, as metrics and logs show it: an address or a program's name, no secret.
    pub endpoint: Arc<str>,
}

/// Why a call was given up before its answer. Nothing said means that the client went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GiveUp {
    /// A clock ran out.
    Timeout = 1,
    /// An operator ended it, by an order or by a rule.
    Operator,
    /// The proxy is shutting down.
    Drain,
    /// The proxy could not pass on what came of it.
    Proxy,
}

// === impl Exchange ===

/// The revision with which servers may end event streams for their clients to poll.
const POLLING_VERSION: &str = "2025-11-25";

/// The header that carries the exchange's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Exchange {
    /// A new exchange with this id.
    pub fn new(id: impl Into<Box<str>>) -> Self {
        Self {
            id: id.into(),
            started: Instant::now(),
            client: OnceLock::new(),
            call: OnceLock::new(),
            changed: Judgements::default(),
            route: OnceLock::new(),
            principal: OnceLock::new(),
            endpoint: Mutex::new(None),
            elsewhere: AtomicBool::new(false),
            attempts: AtomicU32::new(0),
            gave_up: AtomicU8::new(0),
            due: OnceLock::new(),
            fault: OnceLock::new(),
            upstream_nanos: AtomicU64::new(0),
            handed_over: AtomicBool::new(false),
            response: ResponseFacts::default(),
        }
    }

    /// The exchange of a request; makes one if there is none yet.
    ///
    /// The id is the request's `X-Request-Id` where that is 1 to 128 visible ASCII characters, else a fresh random one, which
    /// is also set as that header.
    pub fn of<B>(request: &mut Request<B>) -> Arc<Self> {
        if let Some(exchange) = request.extensions().get::<Arc<Self>>() {
            return exchange.clone();
        }
        let sane =
            |v: &&str| !v.is_empty() && v.len() <= 128 && v.bytes().all(|b| b.is_ascii_graphic());
        let given = request
            .headers()
            .get(REQUEST_ID)
            .and_then(|v| v.to_str().ok())
            .filter(sane);
        let exchange = if let Some(id) = given {
            Arc::new(Self::new(id))
        } else {
            let digits = random_id();
            let id = str::from_utf8(&digits).unwrap_or_default();
            if let Ok(value) = HeaderValue::from_str(id) {
                request.headers_mut().insert(REQUEST_ID, value);
            }
            Arc::new(Self::new(id))
        };
        request.extensions_mut().insert(exchange.clone());
        exchange
    }

    /// An exchange of its own for a request that is made on behalf of this one: the same id, route, client and principal.
    #[must_use]
    pub fn beside(&self) -> Arc<Self> {
        let other = Self::new(self.id());
        if let Some(route) = self.route() {
            other.set_route(route.clone());
        }
        if let Some(client) = self.client() {
            other.set_client(client.clone());
        }
        if let Some(principal) = self.principal() {
            other.set_principal(principal.clone());
        }
        Arc::new(other)
    }

    /// The operation goes on in another exchange, which logs and metrics see in place of this one.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// Somebody else accounts for the operation.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// The exchange of a request, if it has one.
    pub fn get<B>(request: &Request<B>) -> Option<&Arc<Self>> {
        request.extensions().get()
    }

    /// The request's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When the request arrived.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Where the request came from, as far as the listener said it.
    pub fn client(&self) -> Option<&Client> {
        self.client.get()
    }

    /// Says where the request came from; the first word counts.
    pub fn set_client(&self, client: Client) {
        let _first = self.client.set(client);
    }

    /// The MCP facts of the call as it goes on: none on plain HTTP, and none before they are read. Once an interceptor has changed the call, they are
    /// those of the changed one; what its answer needs (kinds, methods, ids, tokens) is the same in both.
    pub fn call(&self) -> Option<&CallFacts> {
        self.changed.call().or_else(|| self.call.get())
    }

    /// The facts of the call as this layer of interceptors made it, or else as its client sent it.
    pub(crate) fn came_from(&self, by: Option<usize>) -> Option<&CallFacts> {
        let changed = by.and_then(|by| self.judged(by)).flatten();
        let call = changed.and_then(|changed| changed.call.as_ref());
        call.or_else(|| self.call.get())
    }

    /// The MCP facts of the call as its client sent it, for layers that tell of it as the client sees it, or that hold its bytes.
    pub fn asked(&self) -> Option<&CallFacts> {
        self.call.get()
    }

    /// Files the facts of the call as its client sent it; the first word counts.
    pub fn set_call(&self, facts: CallFacts) {
        let _first = self.call.set(facts);
    }

    /// What this layer of interceptors made of the call, once it has seen it: `None` if nothing was changed. A call that is sent again is not shown
    /// to it again.
    pub(crate) fn judged(&self, by: usize) -> Option<Option<&Changed>> {
        self.changed.of(by)
    }

    /// Files what this layer of interceptors made of the call; its first word counts.
    pub(crate) fn set_judged(&self, by: usize, changed: Option<Changed>) {
        self.changed.file(by, changed);
    }

    /// The route.
    pub fn route(&self) -> Option<&Arc<RouteInfo>> {
        self.route.get()
    }

    /// Files the route; the first word counts.
    pub fn set_route(&self, route: Arc<RouteInfo>) {
        let _first = self.route.set(route);
    }

    /// Who the client is, where somebody found that out.
    pub fn principal(&self) -> Option<&Arc<str>> {
        self.principal.get()
    }

    /// Says who the client is; the first word counts.
    pub fn set_principal(&self, principal: Arc<str>) {
        let _first = self.principal.set(principal);
    }

    /// The endpoint of the newest attempt.
    pub fn endpoint(&self) -> Option<Arc<EndpointInfo>> {
        self.endpoint.lock().ok().and_then(|e| e.clone())
    }

    /// The call is on its way to this endpoint, which may still refuse it.
    pub fn set_endpoint(&self, endpoint: Arc<EndpointInfo>) {
        if let Ok(mut slot) = self.endpoint.lock() {
            *slot = Some(endpoint);
        }
    }

    /// Says whether there is another endpoint that would take the call now, and did not have it yet.
    pub fn set_elsewhere(&self, is_there: bool) {
        self.elsewhere.store(is_there, Ordering::Relaxed);
    }

    /// When the newest attempt was sent on its way, another endpoint would have taken it that did not have the call yet; not so where no balancer says it.
    pub fn may_go_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Relaxed)
    }

    /// An attempt begins at this endpoint.
    pub fn attempt(&self, endpoint: Arc<EndpointInfo>) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.set_endpoint(endpoint);
    }

    /// How often an upstream was asked.
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Says why the call is given up. To be called before it is dropped; the first word counts.
    pub fn give_up(&self, why: GiveUp) {
        let _first =
            self.gave_up
                .compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Takes back that an attempt was given up because its clock ran out, for another attempt to begin. Other reasons
    /// end the call as a whole, and stay.
    pub fn go_on(&self) {
        let _other = self.gave_up.compare_exchange(
            GiveUp::Timeout as u8,
            0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// When the deadline of the call runs out, as things stood when it began: progress and questions to the client put it off.
    pub fn due(&self) -> Option<Instant> {
        self.due.get().copied()
    }

    /// Says when the deadline of the call runs out; the first word counts.
    pub fn set_due(&self, due: Instant) {
        let _first = self.due.set(due);
    }

    /// Why the call was given up, if somebody said so.
    pub fn gave_up(&self) -> Option<GiveUp> {
        GiveUp::ALL
            .into_iter()
            .find(|why| *why as u8 == self.gave_up.load(Ordering::Acquire))
    }

    /// The kind of the fault that ended the exchange.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault.get().map(|(kind, _)| *kind)
    }

    /// What is known of the call's effect, where a fault ended it.
    pub fn outcome(&self) -> Option<Outcome> {
        self.fault.get().map(|(_, outcome)| *outcome)
    }

    /// Files the fault that ended the exchange; the first one counts.
    pub fn set_fault(&self, kind: &'static str, outcome: Outcome) {
        let _first = self.fault.set((kind, outcome));
    }

    /// The time that was spent waiting for upstreams.
    pub fn upstream_time(&self) -> Duration {
        Duration::from_nanos(self.upstream_nanos.load(Ordering::Relaxed))
    }

    /// Adds to the time that was spent waiting for upstreams.
    pub fn add_upstream_time(&self, time: Duration) {
        self.upstream_nanos
            .fetch_add(nanos(time), Ordering::Relaxed);
    }

    /// What passed of the response.
    pub fn response(&self) -> &ResponseFacts {
        &self.response
    }

    /// Every request of the call has its answer.
    pub fn is_answered(&self) -> bool {
        let answers = self.response.answers.load(Ordering::Relaxed) as usize;
        answers > 0
            && self
                .call()
                .is_none_or(|call| answers >= call.requests().count())
    }

    /// The event stream of the call ended, nothing on it said so, and its client waits for an answer still. Not so where the client can come
    /// back for it: from 2025-11-25 on a server may end a stream after an event with an id (transports, "Sending Messages to the
    /// Server"), and the client polls.
    pub fn is_left_unanswered(&self) -> bool {
        self.response.ended_unanswered() && !(self.response.has_event_id() && self.may_poll())
    }

    /// The client speaks a revision in which servers may end streams that it then resumes by itself.
    pub fn may_poll(&self) -> bool {
        self.call().is_some_and(|call| {
            call.era == Era::Legacy
                && call
                    .version
                    .as_deref()
                    .is_some_and(|v| v >= POLLING_VERSION)
        })
    }

    /// A message passed.
    pub fn saw_event(&self) {
        self.response.events.fetch_add(1, Ordering::Relaxed);
        self.response
            .last_event
            .store(nanos(self.started.elapsed()), Ordering::Relaxed);
    }

    /// A progress notification passed.
    pub fn saw_progress(&self) {
        self.response
            .last_progress
            .store(nanos(self.started.elapsed()), Ordering::Relaxed);
    }

    /// When the newest message passed.
    pub fn last_event(&self) -> Option<Instant> {
        self.at(&self.response.last_event)
    }

    /// When the newest progress notification passed.
    pub fn last_progress(&self) -> Option<Instant> {
        self.at(&self.response.last_progress)
    }

    fn at(&self, offset: &AtomicU64) -> Option<Instant> {
        match offset.load(Ordering::Relaxed) {
            0 => None,
            offset => Some(self.started + Duration::from_nanos(offset)),
        }
    }

    /// The client took this request of the call back not long ago, so that no answer need come.
    pub fn is_taken_back(&self, id: &Id) -> bool {
        let session = self.call().and_then(|call| call.session.as_deref());
        let known = self.response.waits.get().zip(session);
        known.is_some_and(|(waits, session)| waits.is_cancelled(session, id))
    }

    /// Whether a request of the server waits for the client's answer: then no clock of the call runs.
    pub fn wait(&self) -> Wait {
        match (self.response.waits.get(), self.call()) {
            (Some(waits), Some(call)) => waits.look(call.session.as_deref().unwrap_or(&self.id)),
            _ => Wait::default(),
        }
    }
}

/// 128 random bits as hexadecimal digits.
fn random_id() -> [u8; 32] {
    let mut digits = [0; 32];
    let bytes = fastrand::u128(..).to_be_bytes();
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
        *pair = [digit(byte >> 4), digit(byte)];
    }
    digits
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

// === impl GiveUp ===

impl GiveUp {
    pub(crate) const ALL: [Self; 4] = [Self::Timeout, Self::Operator, Self::Drain, Self::Proxy];

    /// The word for metrics, logs and `notifications/cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Operator => "operator",
            Self::Drain => "drain",
            Self::Proxy => "proxy",
        }
    }
}

#[cfg(test)]
mod tests;
