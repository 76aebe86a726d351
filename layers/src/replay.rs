//! Event streams of legacy clients that can be resumed although their upstream cannot resume them.
//!
//! Each event with data gets an `id:` of ours, in front of its own bytes, and is kept for a while. A client whose connection breaks comes back with a GET
//! that names the last event it got (`Last-Event-ID`; MCP 2025-11-25, transports, "Resumability and Redelivery"), and gets what it missed of that stream, then what
//! comes, on with the same numbers: nothing twice, nothing of another stream. Whoever still reads the stream then ends. A call whose client
//! went away goes on, and its answer waits; that is no cancel. Its permits, its deadline and its session stay in use until it ends, nobody came for `age`, or the
//! session is over. A standing stream (GET) that nobody reads is read on for `grace`, since a layer between may hold some of it, and is let go then; it goes on
//! when its client is back, also when that has no id to show.
//!
//! Clients of 2025-11-25 get an event without data first, so that they have an id from the beginning, and a `retry:` of 1 to 3 s; older ones choke on it. Before
//! the head of a response there is nothing to come back to: a call that is cut so early is lost to its client, as it is without this layer.
//!
//! What is missing: if a part of a call's answer is not kept any more, or the process does not know the stream (after a restart, say), the call is answered with
//! a JSON-RPC error ([`EventsLost`], `outcome: unknown`), which the event's id has the request's id for; a standing stream goes on with a gap, which is logged. Of an
//! answer that the client has all of there is nothing more: 204, after which event sources stop asking.
//!
//! Which streams: of stdio servers and of those of HTTP+SSE ([`Unresumable`](crate::attempt::Unresumable) says so), and with [`Scope::Always`] all whose first event has no id; a stream with ids of the server's own passes
//! as it is, since that server can resume it. Only within a session ([`InSession`], which a session layer puts in): a stream is never found from another
//! one. Modern calls, plain HTTP, and answers in JSON pass untouched.
//!
//! Bounds: for each stream `events`, `bytes` and `age`; 256 streams for each session, the oldest that is over goes first; for all together the limit of the
//! [`ReplayStore`], where the stream that began to keep something first lets go of it first; somebody has to ask it to let go of what is too old ([`ReplayStore::sweep`]). A short event is copied when it is kept, so that it does not hold on to the buffer that
//! it was read into. On shutdown nothing is read on for a call that a drain gave up; tasks end with the store.
//!
//! Place: on the route, inside [`session`](crate::session) and rate limit, which a call does not meet again when its client comes back; and outside the caps of the
//! endpoints, rules and deadline, so that a call that goes on keeps them. Readiness: the inner service's; an
//! answer from memory does not use it. Errors: none of its own; a failure on a stream that was come back to is its last event. Bodies: forwarded without a copy, with the ids between.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, replay::{ReplayLayer, ReplaySettings, ReplayStore}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(ReplayLayer::new(ReplaySettings::default(), ReplayStore::default()))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod body;
mod budget;
mod buffer;
mod id;
mod origin;
mod out;
mod split;
mod store;
mod stream;

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use self::{
    body::Reader,
    buffer::Bounds,
    id::{Kind, StreamId},
    origin::Origin,
    store::Outcome,
    stream::{Stream, Times},
};
pub use self::{body::ReplayBody, store::ReplayStore};
use crate::{
    attempt::InSession,
    error::BoxError,
    exchange::Exchange,
    mcp::{
        Era, Verb,
        headers::{self, LAST_EVENT_ID},
        wire,
    },
};

/// Which streams are kept, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaySettings {
    /// Which streams. Default: those that cannot be resumed otherwise.
    pub scope: Scope,
    /// The most events of a stream. Default: 256.
    pub events: NonZeroUsize,
    /// The most bytes of them. Default: 1 MiB.
    pub bytes: usize,
    /// How long they are kept, and how long a call is read on for a client that went away. Default: 5 minutes.
    pub age: Duration,
    /// How long an answer is kept that was read to its end, in case its last bytes got lost. Default: 10 seconds.
    pub linger: Duration,
    /// How long a standing stream is read on that nobody reads. Default: 10 seconds.
    pub grace: Duration,
}

/// Which streams are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of upstreams that cannot resume them, by what the upstream service says.
    #[default]
    Auto,
    /// Those without ids of the server's own, too.
    Always,
}

/// Makes event streams resumable.
#[derive(Debug, Clone)]
pub struct ReplayLayer {
    /// `None` is off.
    shared: Option<Arc<Shared>>,
}

/// The service of [`ReplayLayer`].
#[derive(Debug, Clone)]
pub struct Replay<S> {
    inner: S,
    shared: Option<Arc<Shared>>,
}

/// The future of [`Replay`].
#[pin_project]
pub struct ReplayFuture<F> {
    #[pin]
    inner: Option<F>,
    plan: Plan,
}

/// What a client missed of a stream is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the events that the client missed are not kept any more")]
pub struct EventsLost;

#[derive(Debug)]
struct Shared {
    settings: ReplaySettings,
    store: ReplayStore,
}

/// What is done with a request, and with its response.
enum Plan {
    /// Both pass.
    Pass,
    /// The response may be a stream to keep.
    Keep(Origin),
    /// The response goes on with this stream, after this event.
    GoOn(Origin, Arc<Stream>, u64),
    /// If the response says that the session is over, so are its streams.
    Delete(Arc<Shared>, u128),
    /// The answer is known.
    Answer(Option<Answer>),
}

/// An answer without the upstream.
enum Answer {
    Read(Reader),
    Said(Bytes),
    /// There is nothing more.
    Nothing,
}

// === impl ReplaySettings ===

impl Default for ReplaySettings {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            events: NonZeroUsize::MIN.saturating_add(255),
            bytes: 1 << 20,
            age: Duration::from_secs(5 * 60),
            linger: Duration::from_secs(10),
            grace: Duration::from_secs(10),
        }
    }
}

// === impl ReplayLayer ===

impl ReplayLayer {
    /// A layer that keeps streams in this store, which others may use too.
    pub fn new(settings: ReplaySettings, store: ReplayStore) -> Self {
        Self {
            shared: Some(Arc::new(Shared { settings, store })),
        }
    }

    /// A layer that keeps nothing.
    pub fn off() -> Self {
        Self { shared: None }
    }
}

impl<S> Layer<S> for ReplayLayer {
    type Service = Replay<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Replay {
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl Replay ===

impl<S, Req, Res> Service<Request<Req>> for Replay<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes> + Send + 'static,
    Res::Error: Into<BoxError>,
{
    type Response = Response<ReplayBody<Res>>;
    type Error = BoxError;
    type Future = ReplayFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let shared = self.shared.as_ref();
        let plan = shared.map_or(Plan::Pass, |shared| shared.plan(&mut request));
        let inner = match &plan {
            Plan::Answer(_) => None,
            Plan::Pass | Plan::Keep(_) | Plan::GoOn(..) | Plan::Delete(..) => {
                Some(self.inner.call(request))
            }
        };
        ReplayFuture { inner, plan }
    }
}

impl<F, Res, E> Future for ReplayFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes> + Send + 'static,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<ReplayBody<Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            let Plan::Answer(answer) = this.plan else {
                return Poll::Pending;
            };
            let answer = answer.take().expect("polled once");
            return Poll::Ready(Ok(answer.into_response()));
        };
        let response = ready!(inner.poll(cx)).map_err(Into::into)?;
        let plan = std::mem::replace(this.plan, Plan::Pass);
        Poll::Ready(Ok(plan.answered(response)))
    }
}

// === impl Shared ===

impl Shared {
    fn plan<B>(self: &Arc<Self>, request: &mut Request<B>) -> Plan {
        let Some(exchange) = Exchange::get(request).cloned() else {
            return Plan::Pass;
        };
        let Some(call) = exchange.call().filter(|call| call.era == Era::Legacy) else {
            return Plan::Pass;
        };
        let Some(member) = request.extensions_mut().remove::<InSession>() else {
            return Plan::Pass;
        };
        let origin = |exchange: &Arc<Exchange>| Origin {
            shared: self.clone(),
            member: member.clone(),
            exchange: exchange.clone(),
        };
        match call.verb {
            Verb::Post if call.requests().next().is_some() => Plan::Keep(origin(&exchange)),
            Verb::Get if headers::accepts_events(request.headers()) => {
                self.get(request, origin(&exchange))
            }
            Verb::Delete => Plan::Delete(self.clone(), member.serial),
            Verb::Get | Verb::Post | Verb::Other => Plan::Pass,
        }
    }

    /// A client opens a stream, or comes back to one.
    fn get<B>(&self, request: &mut Request<B>, origin: Origin) -> Plan {
        let serial = origin.member.serial;
        let asked = headers::single(request.headers(), &LAST_EVENT_ID);
        match asked.and_then(StreamId::read) {
            // One of the server's own.
            None if request.headers().contains_key(LAST_EVENT_ID) => Plan::Keep(origin),
            None => self.unread(origin).unwrap_or_else(Plan::Keep),
            // Of another session, perhaps of this client's last one: the server never gave it.
            Some((id, _)) if id.mark != id::mark(serial) => self.anew(request, origin),
            Some((id, after)) => match (self.store.find(serial, &id), id.kind) {
                (Some(stream), Kind::Standing) => {
                    request.headers_mut().remove(LAST_EVENT_ID);
                    origin.resume_standing(stream, after)
                }
                (Some(stream), Kind::Call) => origin.resume_call(stream, after),
                (None, Kind::Standing) => {
                    tracing::info!(
                        request_id = origin.exchange.id(),
                        "a client came back to a stream that is not kept any more"
                    );
                    self.anew(request, origin)
                }
                (None, Kind::Call) => origin.refuse(&id),
            },
        }
    }

    /// The id that a client comes back with says nothing here: it is as one that has none, and the upstream does not hear of it.
    fn anew<B>(&self, request: &mut Request<B>, origin: Origin) -> Plan {
        request.headers_mut().remove(LAST_EVENT_ID);
        self.unread(origin).unwrap_or_else(|origin| {
            self.store.count(Outcome::Gap);
            Plan::Keep(origin)
        })
    }

    /// Goes on with the standing stream that nobody reads, where the last one who did had left it.
    fn unread(&self, origin: Origin) -> Result<Plan, Origin> {
        let Some(stream) = self.store.unread(origin.member.serial) else {
            return Err(origin);
        };
        let seen = stream.look(0).seen;
        Ok(origin.resume_standing(stream, seen))
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            events: self.settings.events.get(),
            bytes: self.settings.bytes,
            age: self.settings.age,
        }
    }

    fn times(&self) -> Times {
        Times {
            age: self.settings.age,
            linger: self.settings.linger,
            grace: self.settings.grace,
        }
    }
}

// === impl Plan ===

impl Plan {
    fn answered<B>(self, response: Response<B>) -> Response<ReplayBody<B>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match self {
            Self::Keep(origin) => origin.keep(response),
            Self::GoOn(origin, stream, after) => origin.go_on(response, stream, after),
            Self::Delete(shared, serial) => {
                // So says a server that ended it, did not know it, or leaves that to its clients.
                let gone = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
                if response.status().is_success() || gone.contains(&response.status()) {
                    shared.store.forget(serial);
                }
                response.map(ReplayBody::passing)
            }
            Self::Pass | Self::Answer(_) => response.map(ReplayBody::passing),
        }
    }
}

// === impl Answer ===

impl Answer {
    fn into_response<B>(self) -> Response<ReplayBody<B>> {
        let body = match self {
            Self::Read(reader) => ReplayBody::reading(reader),
            Self::Said(bytes) => ReplayBody::said(bytes),
            Self::Nothing => {
                let mut response = Response::new(ReplayBody::said(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                return response;
            }
        };
        wire::event_stream(body)
    }
}

#[cfg(test)]
mod tests;
