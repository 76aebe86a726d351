//! Servers that only speak HTTP+SSE (MCP 2024-11-05), behind Streamable HTTP.
//!
//! [`SseUpstream`] stands over the service that reaches an HTTP endpoint. For each legacy session it opens one event stream with a GET to the endpoint's URL, is
//! told there (event `endpoint`) where to post, and posts the client's messages; the answers come on the stream, and become those of Streamable HTTP:
//! - An answer that comes first is JSON; if something else comes first, or nothing for [`SseSettings::silence`], it is an event stream.
//! - Progress goes by its token. What else may be about a call goes to the only call, to the session's GET stream, or to the newest call; the rest to the GET
//!   stream, where it waits (bounded) for one. One client has the connection, so ids need no mapping; an id that is in flight is refused.
//! - A DELETE closes the connection, once no call is in hand. When the server closes it, the calls in flight fail (their outcome is unknown) and the session is gone (404).
//! - A client that goes away does not cancel its call; one that was given up for a reason ([`GiveUp`](crate::exchange::GiveUp)) is cancelled.
//! - Modern requests are refused as a legacy server's ([`SseError::LegacyServer`]).
//!
//! The URI to post to must have the origin of the endpoint: a server must not make the proxy call others.
//!
//! With [`Transport::Auto`] it is found out which transport the endpoint speaks, as a client would (2025-11-25, transports, "Backwards Compatibility"):
//! an `initialize` goes there as it is, and if that is answered with 400, 404 or 405, a GET is tried that must begin with the event `endpoint`. A GET without a
//! session is looked into as well: one that begins with that event is no stream of Streamable HTTP. The verdict is remembered for [`SseSettings::remember`], or until an old server has no event stream any more. An endpoint that speaks
//! Streamable HTTP gets all requests as they are.
//!
//! Place: the leaf of an endpoint, over the HTTP service. Readiness: the HTTP service's. Errors: [`SseError`], and the HTTP service's. Bodies: forwarded; of an old server, out of
//! bounded mailboxes. The tasks (one for each connection, cancellations on their way, and POSTs that their answers have overtaken: for a second, and 256 of them together at most, beyond which a connection is closed) end with the last clone.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ziggurat_layers::upstream::{http::{HttpUpstream, HttpUpstreamSettings}, sse::{SseSettings, SseUpstream}};
//!
//! let url: http::Uri = "http://127.0.0.1:3001/sse".parse()?;
//! let http = HttpUpstream::new(HttpUpstreamSettings::new("tools", url.clone()))?;
//! let upstream = SseUpstream::new(http, SseSettings::new(url));
//! # drop(upstream);
//! # Ok(()) }
//! ```

mod body;
mod desk;
mod error;
mod find_out;
mod front;
mod link;
mod mailbox;
mod url;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tower::Service;

pub use self::{body::SseBody, error::SseError};
use self::{front::Incoming, link::Link};
use crate::{
    Body,
    error::BoxError,
    exchange::Exchange,
    mcp::{CallFacts, Verb, headers},
    notices::Notices,
};

/// What an [`SseUpstream`] is told.
#[derive(Debug, Clone)]
pub struct SseSettings {
    /// The endpoint's URL, that of the HTTP service.
    pub url: Uri,
    /// Which transport it speaks. Default: that is found out.
    pub transport: Transport,
    /// How long what was found out is taken for true. Default: 5 minutes.
    pub remember: Duration,
    /// How long the server may take to say where to post. Default: 30 s.
    pub handshake: Duration,
    /// After this silence the answer to a waiting call becomes an event stream. Default: 15 s.
    pub silence: Duration,
    /// How long a session may have neither messages nor an open GET stream. Default: 30 minutes.
    pub idle: Duration,
    /// The most sessions, each of which is a connection. Default: 1000.
    pub max_sessions: NonZeroUsize,
    /// The most unanswered requests of a session. Default: 1024.
    pub max_pending: NonZeroUsize,
    /// The longest message of the server. Default: 16 MiB.
    pub message_limit: usize,
    /// The most bytes that wait for one reader. Default: 8 MiB.
    pub buffer: usize,
}

/// Which transport an endpoint speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// It is found out.
    #[default]
    Auto,
    /// Streamable HTTP.
    Streamable,
    /// HTTP+SSE.
    Sse,
}

/// An HTTP endpoint of either transport. Clones share its connections and what is known of it.
#[derive(Debug, Clone)]
pub struct SseUpstream<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// The future of [`SseUpstream`].
#[pin_project]
pub struct SseFuture<F, B>(#[pin] State<F, B>);

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Streamable,
    Old,
}

#[derive(Debug)]
struct Shared {
    settings: SseSettings,
    verdict: Mutex<Option<(Verdict, Instant)>>,
    links: Mutex<HashMap<Box<str>, Arc<Link>>>,
    /// As many as there may be sessions, those counted that are about to begin.
    places: Arc<Semaphore>,
    /// Cancellations on their way; aborted with the last clone.
    notices: Notices,
    /// POSTs whose answers have overtaken their heads; aborted with the last clone.
    tails: Notices,
}

type Answer<B> = Result<Response<SseBody<B>>, BoxError>;

#[pin_project(project = StateProj)]
enum State<F, B> {
    /// The endpoint gets it as it is.
    Passing(#[pin] F),
    /// For the old transport, or to find out.
    Going(Pin<Box<dyn Future<Output = Answer<B>> + Send>>),
}

// === impl SseSettings ===

impl SseSettings {
    /// The defaults for an endpoint.
    pub fn new(url: Uri) -> Self {
        const fn many(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).expect("not zero")
        }
        Self {
            url,
            transport: Transport::default(),
            remember: Duration::from_secs(5 * 60),
            handshake: Duration::from_secs(30),
            silence: Duration::from_secs(15),
            idle: Duration::from_secs(30 * 60),
            max_sessions: const { many(1000) },
            max_pending: const { many(1024) },
            message_limit: 16 << 20,
            buffer: 8 << 20,
        }
    }
}

// === impl SseUpstream ===

impl<S> SseUpstream<S> {
    /// An endpoint that this service reaches.
    pub fn new(inner: S, settings: SseSettings) -> Self {
        let most = settings.max_sessions.get();
        Self {
            inner,
            shared: Arc::new(Shared {
                places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
                settings,
                verdict: Mutex::default(),
                links: Mutex::default(),
                notices: Notices::default(),
                tails: Notices::default(),
            }),
        }
    }

    /// The service of the endpoint.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How many sessions there are over the old transport.
    pub fn sessions(&self) -> usize {
        self.shared.links().len()
    }

    /// How many requests of theirs have no answer yet.
    pub fn pending(&self) -> usize {
        self.shared.links().values().map(|l| l.desk.pending()).sum()
    }

    /// Lets cancellations that are on their way arrive (5 s at most), then ends the sessions over the old transport. To be called when no more calls come.
    pub async fn close(&self) {
        self.shared.notices.close().await;
        let links = std::mem::take(&mut *self.shared.links());
        drop(links);
    }
}

impl<S, Req, Res> Service<Request<Req>> for SseUpstream<S>
where
    S: Service<Request<Body>, Response = Response<Res>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    Req: HttpBody<Data = Bytes> + Send + 'static,
    Req::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes> + Send + 'static,
    Res::Error: Into<BoxError>,
{
    type Response = Response<SseBody<Res>>;
    type Error = BoxError;
    type Future = SseFuture<S::Future, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let request = request.map(Body::new);
        let other = self.inner.clone();
        let going: Pin<Box<dyn Future<Output = _> + Send>> = match self.shared.way(&request) {
            Way::Passing => return SseFuture(State::Passing(self.inner.call(request))),
            Way::Old => match Incoming::new(self.shared.clone(), other, request) {
                Some(incoming) => Box::pin(incoming.answer()),
                None => Box::pin(async { Err(SseError::NotAllowed.into()) }),
            },
            Way::FindOut => {
                let inner = std::mem::replace(&mut self.inner, other);
                Box::pin(find_out::ask(self.shared.clone(), inner, request))
            }
        };
        SseFuture(State::Going(going))
    }
}

/// The way of a request.
enum Way {
    Passing,
    Old,
    FindOut,
}

impl Shared {
    fn way(&self, request: &Request<Body>) -> Way {
        let call = Exchange::get(request).and_then(|e| e.call());
        let (Some(call), false) = (call, self.settings.transport == Transport::Streamable) else {
            return Way::Passing;
        };
        if self.settings.transport == Transport::Sse {
            return Way::Old;
        }
        // A session stays what it is, whatever is found out later.
        let id = headers::single(request.headers(), &headers::SESSION_ID);
        if id.is_some_and(|id| self.find(id).is_some()) {
            return Way::Old;
        }
        match self.verdict() {
            Some(Verdict::Old) => Way::Old,
            Some(Verdict::Streamable) => Way::Passing,
            None if tells(call, id) => Way::FindOut,
            None => Way::Passing,
        }
    }

    /// What was found out, as long as it holds.
    fn verdict(&self) -> Option<Verdict> {
        let verdict = *lock(&self.verdict);
        let known = verdict.filter(|(_, since)| since.elapsed() < self.settings.remember);
        known.map(|(verdict, _)| verdict)
    }

    fn learn(&self, verdict: Verdict) {
        *lock(&self.verdict) = Some((verdict, Instant::now()));
    }

    /// The endpoint no more answers as it did: what it speaks is to be found out again.
    fn unlearn(&self) {
        *lock(&self.verdict) = None;
    }

    fn links(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Link>>> {
        lock(&self.links)
    }

    fn find(&self, id: &str) -> Option<Arc<Link>> {
        self.links().get(id).cloned()
    }

    fn remove(&self, id: &str) {
        let link = self.links().remove(id);
        drop(link);
    }

    /// A place for another session, if there may be one.
    fn place(&self) -> Result<OwnedSemaphorePermit, SseError> {
        let limit = self.settings.max_sessions.get();
        let what = "sessions";
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| SseError::Full { limit, what })
    }

    fn insert(&self, link: &Arc<Link>) {
        self.links().insert(link.id.clone(), link.clone());
    }
}

/// A request whose answer tells the transport: an `initialize`, or a GET that names no session.
fn tells(call: &CallFacts, session: Option<&str>) -> bool {
    call.is_initialize() || (call.verb == Verb::Get && session.is_none())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F, B, E> Future for SseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Answer<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Passing(inner) => inner
                .poll(cx)
                .map_ok(|response| response.map(SseBody::passing))
                .map_err(Into::into),
            StateProj::Going(going) => going.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
