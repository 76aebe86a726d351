//! Old clients: the transport HTTP+SSE of MCP 2024-11-05, in front of any upstream.
//!
//! An old client opens one event stream with a GET, is told on it (event `endpoint`) where to post its messages, and gets all that the server says on
//! that stream; its end is the end of the session. Here such a GET opens a *channel*: the URL that it is told is the route's own, with an unguessable token
//! in the query, good for that route and principal alone. What is posted there becomes ordinary Streamable HTTP inside: requests of their own, each with an exchange of its
//! own, in the session that the answer to `initialize` began. A request is answered with 202 at once, and whatever its response holds goes to the stream; a
//! notification or a client's answer waits for the server's own 202, so that their order stays. After `notifications/initialized` the session's GET stream is opened inside,
//! if the server has one, and opened again whenever it ends. Another `initialize` ends the session before. When the client goes away its calls are dropped and its session is ended (DELETE).
//!
//! With [`Serve::Auto`] a GET that could be an old client's (it accepts an event stream, and names neither a session nor a revision since 2025-03-26) goes to the
//! upstream as it is; where that says that there is no such stream (400, 404, 405, 406), the old transport takes over. So servers that have a stream for everybody
//! keep it; in front of one of those, old clients need [`Serve::Always`]. A client of 2025-03-26, which names no revision, may come upon a channel where it expected a 405; it
//! ignores the event `endpoint`, and the channel ends as idle. All other requests pass untouched.
//!
//! Bounds: channels count as standing streams of [`HttpSseLayer::limit`]; each has so many calls in flight ([`HttpSseSettings::calls`], those of a batch counted one by one; then a call fails with an error on
//! the stream), so many bytes that wait for a slow reader ([`HttpSseSettings::buffer`], then it ends), and may be quiet for [`HttpSseSettings::idle`]. In a drain a channel
//! finishes its calls and ends.
//!
//! Place: on the route, just inside [`inspect`](crate::inspect), whose facts it reads; what it sends itself passes [`HttpSseLayer::own`] and then the layers inside. Readiness: the
//! inner service's. Errors: [`NoChannel`], [`Shed`](crate::limit::Shed), [`SlowReader`] (of the stream); on the stream [`UpstreamStatus`] and [`NoAnswer`]. Bodies: forwarded; those of the calls of a
//! channel are read, and their messages written anew as events, bytes unchanged but for line breaks. Rules: MCP 2024-11-05, transports, "HTTP with SSE".
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, http_sse::{Channels, HttpSseLayer, HttpSseSettings}, inspect::{InspectLayer, InspectSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(InspectLayer::new(InspectSettings::mcp()))
//!     .layer(HttpSseLayer::new(HttpSseSettings::default(), Channels::default()))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod body;
mod channel;
mod channels;
mod relay;
mod standing;

use std::{
    mem,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use self::{
    body::ChannelBody,
    channel::Leave,
    relay::{Relay, requests},
};
pub use self::{body::HttpSseBody, channels::Channels};
use crate::{
    Body,
    drain::EndsByItself,
    error::BoxError,
    exchange::{Exchange, Origin},
    fault::Fault,
    limit::LimitLayer,
    mcp::{
        CallFacts, Verb,
        headers::{LAST_EVENT_ID, SESSION_ID, asks_for_events},
        wire,
    },
    rescue::RescueLayer,
};

/// How old clients are served.
#[derive(Debug, Clone)]
pub struct HttpSseSettings {
    /// Which GETs open a channel. Default: those that the upstream has no stream for.
    pub serve: Serve,
    /// The most calls of a channel that may be in flight. Default: 256.
    pub calls: NonZeroUsize,
    /// The most bytes that wait for a client that reads slowly. Default: 8 MiB.
    pub buffer: usize,
    /// The longest message of the upstream. Default: 16 MiB.
    pub message_limit: usize,
    /// How long a channel may be quiet: no message in either direction, no call in flight. Default: 30 minutes.
    pub idle: Duration,
    /// Says that channels are to finish their calls and end.
    pub draining: CancellationToken,
}

/// Which GETs open a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serve {
    /// Those of old clients for which the upstream has no stream.
    #[default]
    Auto,
    /// All of old clients; the upstream is not asked.
    Always,
    /// None.
    Off,
}

/// Serves old clients. `L` stands above what the layer sends itself.
#[derive(Debug, Clone)]
pub struct HttpSseLayer<L = RescueLayer> {
    shared: Arc<Shared>,
    own: L,
}

/// The service of [`HttpSseLayer`].
#[derive(Debug, Clone)]
pub struct HttpSse<S, O> {
    inner: S,
    own: O,
    shared: Arc<Shared>,
}

/// The future of [`HttpSse`].
#[pin_project]
pub struct HttpSseFuture<F, B>(#[pin] State<F, B>);

/// There is no channel with the token of this POST: it has ended, or is another's. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event stream of this endpoint does not exist or has ended; open another with GET")]
pub struct NoChannel;

/// The client reads its stream too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client did not read its stream; more than {limit} bytes were waiting")]
pub struct SlowReader {
    /// The limit.
    pub limit: usize,
}

/// The upstream refused a call with this status, and without an answer for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream answered {status}")]
pub struct UpstreamStatus {
    /// The status.
    pub status: StatusCode,
}

/// The response to a call ended without its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's response ended without an answer")]
pub struct NoAnswer;

#[derive(Debug, Clone)]
struct Shared {
    settings: HttpSseSettings,
    channels: Channels,
    limit: LimitLayer,
    rescue: RescueLayer,
}

/// What a request is to this layer.
enum Concern {
    /// It may open a channel.
    Opens,
    /// It posts to the one with this token.
    Posts(Box<str>),
}

type Result<B> = std::result::Result<Response<HttpSseBody<B>>, BoxError>;

#[pin_project(project = StateProj)]
enum State<F, B> {
    /// No business of old clients.
    Passing(#[pin] F),
    /// Asks the upstream, or forwards what was posted.
    Going(Pin<Box<dyn Future<Output = Result<B>> + Send>>),
}

/// What stands before the token in the query.
const PARAMETER: &str = "ziggurat-channel=";

/// The first revision with Streamable HTTP.
const STREAMABLE: &str = "2025-03-26";

// === impl HttpSseSettings ===

impl Default for HttpSseSettings {
    fn default() -> Self {
        const CALLS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
        Self {
            serve: Serve::default(),
            calls: CALLS,
            buffer: 8 << 20,
            message_limit: 16 << 20,
            idle: Duration::from_secs(30 * 60),
            draining: CancellationToken::new(),
        }
    }
}

// === impl HttpSseLayer ===

impl HttpSseLayer {
    /// A layer with these settings, and these channels, which other layers may use too: they tell routes apart.
    pub fn new(settings: HttpSseSettings, channels: Channels) -> Self {
        let rescue = RescueLayer::new();
        Self {
            own: rescue.clone(),
            shared: Arc::new(Shared {
                settings,
                channels,
                limit: LimitLayer::default(),
                rescue,
            }),
        }
    }
}

impl<L> HttpSseLayer<L> {
    /// Counts channels as standing streams of this layer. Without it there is no cap.
    #[must_use]
    pub fn limit(self, limit: LimitLayer) -> Self {
        let shared = Shared {
            limit,
            ..(*self.shared).clone()
        };
        Self {
            shared: Arc::new(shared),
            ..self
        }
    }

    /// What stands above what the layer sends itself, in place of rescue alone: logs, metrics, rescue, drain.
    #[must_use]
    pub fn own<M>(self, own: M) -> HttpSseLayer<M> {
        HttpSseLayer {
            shared: self.shared,
            own,
        }
    }
}

impl<S: Clone, L: Layer<S>> Layer<S> for HttpSseLayer<L> {
    type Service = HttpSse<S, L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpSse {
            own: self.own.layer(inner.clone()),
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl HttpSse ===

impl<S, O, Req, Res, Own> Service<Request<Req>> for HttpSse<S, O>
where
    S: Service<Request<Body>, Response = Response<Res>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    O: Service<Request<Body>, Response = Response<Own>> + Clone + Send + 'static,
    O::Error: Into<BoxError>,
    O::Future: Send + 'static,
    Req: HttpBody<Data = Bytes> + Send + 'static,
    Req::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes> + Send + 'static,
    Res::Error: Into<BoxError>,
    Own: HttpBody<Data = Bytes> + Send + 'static,
    Own::Error: Into<BoxError>,
{
    type Response = Response<HttpSseBody<Res>>;
    type Error = BoxError;
    type Future = HttpSseFuture<S::Future, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let request = request.map(Body::new);
        let Some((concern, exchange)) = self.shared.concern(&request) else {
            return HttpSseFuture(State::Passing(self.inner.call(request)));
        };
        let (shared, own) = (self.shared.clone(), self.own.clone());
        HttpSseFuture(State::Going(match concern {
            Concern::Opens => {
                let other = self.inner.clone();
                let inner = mem::replace(&mut self.inner, other);
                Box::pin(open(shared, exchange, inner, own, request))
            }
            Concern::Posts(token) => Box::pin(post(shared, exchange, own, request, token)),
        }))
    }
}

impl Shared {
    fn concern(&self, request: &Request<Body>) -> Option<(Concern, Arc<Exchange>)> {
        if self.settings.serve == Serve::Off {
            return None;
        }
        let exchange = Exchange::get(request)?;
        let call = exchange.call()?;
        let concern = match call.verb {
            Verb::Get if is_old(call, request) => Concern::Opens,
            Verb::Post => Concern::Posts(token(request.uri())?.into()),
            Verb::Get | Verb::Delete | Verb::Other => return None,
        };
        Some((concern, exchange.clone()))
    }
}

/// A GET that only the old transport has: without a session, a stream to resume, or a revision that has sessions.
fn is_old(call: &CallFacts, request: &Request<Body>) -> bool {
    let headers = request.headers();
    call.version.as_deref().is_none_or(|v| v < STREAMABLE)
        && !headers.contains_key(SESSION_ID)
        && !headers.contains_key(LAST_EVENT_ID)
        && asks_for_events(headers)
}

/// The token in a query.
fn token(uri: &Uri) -> Option<&str> {
    let mut pairs = uri.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix(PARAMETER))
}

/// The same URL without a token.
fn without_token(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    let pairs = uri.query().unwrap_or_default().split('&');
    let rest: Vec<_> = pairs.filter(|pair| !pair.starts_with(PARAMETER)).collect();
    let path = match &*rest.join("&") {
        "" => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or_default()
}

/// Where a client of this URL is to post: the path as it came, since most clients take that as it stands.
fn endpoint(uri: &Uri, token: &str) -> String {
    let query = uri.query().map(|query| format!("{query}&"));
    format!(
        "{}?{}{PARAMETER}{token}",
        uri.path(),
        query.unwrap_or_default()
    )
}

// === GET ===

/// Opens a channel, unless the upstream has a stream of its own.
async fn open<S, O, Res, Own>(
    shared: Arc<Shared>,
    exchange: Arc<Exchange>,
    mut inner: S,
    own: O,
    request: Request<Body>,
) -> Result<Res>
where
    S: Service<Request<Body>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    O: Service<Request<Body>, Response = Response<Own>> + Clone + Send + 'static,
    O::Error: Into<BoxError>,
    O::Future: Send + 'static,
    Own: HttpBody<Data = Bytes> + Send + 'static,
    Own::Error: Into<BoxError>,
{
    let (uri, headers) = (without_token(request.uri()), request.headers().clone());
    let origin = Origin::new(uri, headers, exchange.clone());
    if shared.settings.serve == Serve::Auto {
        let result = inner.call(request).await.map_err(Into::into);
        if !lacks_stream(&result) {
            return result.map(|response| response.map(HttpSseBody::inner));
        }
        // The refusal holds its places until its body is gone.
        drop(result);
        exchange.response().reset();
    }
    let permit = shared.limit.stream()?;
    let (token, channel) = shared.channels.open(&exchange, &shared.settings)?;
    channel.push(Bytes::from(format!(
        "event: endpoint\ndata: {}\n\n",
        endpoint(&origin.uri, &token)
    )));
    channel.on_close(Leave {
        channels: shared.channels.clone(),
        token,
        farewell: relay::farewell(own, origin),
    });
    let body = ChannelBody::new(channel, &shared.settings, permit);
    let mut response = wire::event_stream(HttpSseBody::channel(body));
    response.extensions_mut().insert(EndsByItself);
    Ok(response)
}

/// The upstream says that it has no stream for such a GET.
fn lacks_stream<B>(result: &std::result::Result<Response<B>, BoxError>) -> bool {
    match result {
        Ok(response) => matches!(response.status().as_u16(), 400 | 404..=406),
        Err(error) => matches!(
            Fault::of(&**error),
            Fault::SessionRequired | Fault::NotAllowed
        ),
    }
}

// === POST ===

/// Takes what a client posts to its channel.
async fn post<O, Res, Own>(
    shared: Arc<Shared>,
    exchange: Arc<Exchange>,
    own: O,
    request: Request<Body>,
    token: Box<str>,
) -> Result<Res>
where
    O: Service<Request<Body>, Response = Response<Own>> + Clone + Send + 'static,
    O::Error: Into<BoxError>,
    O::Future: Send + 'static,
    Own: HttpBody<Data = Bytes> + Send + 'static,
    Own::Error: Into<BoxError>,
{
    let channel = shared.channels.find(&token, &exchange).ok_or(NoChannel)?;
    let relay = Relay {
        channel,
        rescue: shared.rescue.clone(),
        message_limit: shared.settings.message_limit,
    };
    let request = relay.request(request, &exchange)?;
    let calls = exchange.call().map_or(0, |call| call.requests().count());
    if calls > 0 {
        match relay.channel.begin(calls)? {
            // From here on the operation has an exchange of its own.
            Ok(held) => {
                exchange.hand_over();
                relay.start(own, request, held);
            }
            Err(shed) => relay.fail(&shed.into(), &exchange, &requests(&exchange)),
        }
        let mut accepted = Response::new(HttpSseBody::own(Body::empty()));
        *accepted.status_mut() = StatusCode::ACCEPTED;
        return Ok(accepted);
    }
    exchange.hand_over();
    let response = relay.tell(own, request).await?;
    Ok(response.map(|body| HttpSseBody::own(Body::new(body))))
}

impl<F, B, E> Future for HttpSseFuture<F, B>
where
    F: Future<Output = std::result::Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
{
    type Output = Result<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Passing(inner) => inner
                .poll(cx)
                .map_ok(|response| response.map(HttpSseBody::inner))
                .map_err(Into::into),
            StateProj::Going(going) => going.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
