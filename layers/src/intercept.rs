//! Shows exchanges to interceptors, which change, refuse, answer or hold them.
//!
//! An [`Interceptor`] is a trait object with three hooks: for the request, for the head of the response, and for each message of the server (of a JSON
//! body or of an event stream). A hook changes what it is given, and says how it goes on ([`Decision`]): continue, block with words for the client, mock (answer
//! without the upstream), delay, pause for an operator ([`Paused`]). The interceptors of a route are asked in their order, in both directions; who blocks or
//! mocks ends the row, and a mock is final: it is not shown as a response. For operators there are [rules], each of which is an interceptor.
//!
//! Before anything is read, each says from method and name alone what it may want of an exchange ([`Interest`]). Where nobody wants anything the exchange
//! passes as it is: no body is held, no event decoded, nothing allocated. Of what is wanted:
//! - an MCP request is shown message by message, a batch too. What is changed is changed where it stands in the text, so unknown fields, the order of keys
//!   and the spelling of numbers survive; then `Content-Length`, `Mcp-Name`, the `Mcp-Param-*` headers and the facts of the [exchange](crate::exchange)
//!   follow. Kind, id, method, tokens and revision of a message cannot be changed. Which argument an `Mcp-Param-*` header mirrors is told by its value;
//!   where that is not clear, the change is refused.
//! - a JSON response is held as a whole before its head goes out; an event only until its end has come. A batch in either is shown message by message. An event that is changed keeps its id, and one whose message
//!   nobody changes its bytes. A blocked answer on a stream becomes a JSON-RPC error in its place; a blocked notification leaves an event without data; a blocked question of the
//!   server ends the call, since nobody would answer it. On a stream that answers no call (a GET) what is refused is left out, but for its id: its client would
//!   come back and get it once more.
//! - what waits for an operator, and is taken back by its client (`notifications/cancelled` in the same session), is blocked: nobody lets it go on any more.
//! - on plain HTTP the hooks see method, path and headers, and bodies only where asked for, up to the cap.
//!
//! What would be seen otherwise by another reader never passes those who must see it: a body that contradicts `Mcp-Method` or `Mcp-Name` (in any era), a message with a
//! key that stands twice, a message longer than the cap, an answer that is encoded although it was asked for plain. Each is refused, on an
//! event stream by an error for the call that waits, unless the layer is `lenient`.
//!
//! Place: on the route, inside sessions and limits, outside deadline and retry: the hooks run once for each exchange, also if it is sent again, and no clock of
//! the call runs while an operator decides about its request; while one decides about its answer they do. Readiness: the inner service's; the instance that was ready
//! is kept for the call. Errors: [`Blocked`], [`Unreadable`], [`PauseFull`], [`HeaderMismatch`](crate::mcp::headers::HeaderMismatch), and those of the inner service. Bodies: as said; trailers pass.
//!
//! ```
//! use std::sync::Arc;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError};
//! use ziggurat_layers::intercept::{Asked, Block, Context, Decision, Hook, InterceptLayer, InterceptSettings, Interceptor, Interest, Message};
//!
//! #[derive(Debug)]
//! struct NoShell;
//!
//! impl Interceptor for NoShell {
//!     fn name(&self) -> &str {
//!         "no-shell"
//!     }
//!
//!     fn wants(&self, asked: &Asked<'_>) -> Interest {
//!         let shell = asked.messages().iter().any(|message| message.tool() == Some("shell"));
//!         Interest { request: shell, ..Interest::default() }
//!     }
//!
//!     fn request<'a>(&'a self, _: &'a Context, _: &'a mut http::HeaderMap, _: Option<&'a mut Message>) -> Hook<'a> {
//!         Hook::now(Decision::Block(Block { message: "no shell here".into() }))
//!     }
//! }
//!
//! let service = ServiceBuilder::new()
//!     .layer(InterceptLayer::new(InterceptSettings::default(), vec![Arc::new(NoShell)]))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod answer;
mod body;
mod chain;
mod consistent;
mod events;
mod hooks;
mod json;
mod message;
mod paused;
pub mod rules;
mod way;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

pub use self::{
    body::InterceptBody,
    hooks::{Asked, Block, Context, Decision, Hook, Interceptor, Interest, Mock},
    message::{BadPointer, Direction, Edit, EditError, Message, NotChanged, PatchOp, Pointer},
    paused::{AtLimit, NotDecided, PauseSettings, Paused, PausedExchange, Resolution},
};
use self::{chain::Chain, way::Way};
use crate::{Body, error::BoxError, exchange::Exchange};

/// What the layer goes by beside its interceptors.
#[derive(Debug, Clone)]
pub struct InterceptSettings {
    /// The most bytes of a message, or of a plain body, that is shown. Default: 4 MiB.
    pub cap: usize,
    /// What cannot be shown passes unseen: for interceptors that only look. Default: no, it is refused.
    pub lenient: bool,
    /// Where exchanges wait for an operator, or for their time. Default: a place of the layer's own.
    pub paused: Paused,
}

/// Shows exchanges to interceptors.
#[derive(Debug, Clone)]
pub struct InterceptLayer {
    /// `None` is off.
    chain: Option<Arc<Chain>>,
}

/// The service of [`InterceptLayer`].
#[derive(Debug, Clone)]
pub struct Intercept<S> {
    inner: S,
    chain: Option<Arc<Chain>>,
}

/// The future of [`Intercept`].
#[pin_project]
pub struct InterceptFuture<F, B>(#[pin] State<F, B>);

/// An interceptor refused the exchange, or its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Blocked {
    /// What the client is told.
    pub message: String,
    /// An upstream was asked.
    pub sent: bool,
}

/// A message that must be seen could not be, or could not be changed as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message could not be inspected: {problem}")]
pub struct Unreadable {
    /// Why; nothing of the message is in it.
    pub problem: String,
    /// An upstream was asked.
    pub sent: bool,
}

/// Too many exchanges wait already, for an operator or for their time. This one ends here; its upstream may have done what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{most} calls are held back already")]
pub struct PauseFull {
    /// The most that may.
    pub most: usize,
    /// An upstream was asked.
    pub sent: bool,
}

#[pin_project(project = StateProj)]
enum State<F, B> {
    /// Nobody wants it.
    Passing(#[pin] F),
    Going(Going<B>),
}

type Going<B> = Pin<Box<dyn Future<Output = Answer<B>> + Send>>;
type Answer<B> = Result<Response<InterceptBody<B>>, BoxError>;

// === impl InterceptSettings ===

impl Default for InterceptSettings {
    fn default() -> Self {
        Self {
            cap: 4 << 20,
            lenient: false,
            paused: Paused::default(),
        }
    }
}

// === impl InterceptLayer ===

impl InterceptLayer {
    /// A layer with these interceptors, which are asked in this order.
    pub fn new(settings: InterceptSettings, links: Vec<Arc<dyn Interceptor>>) -> Self {
        let chain = Chain { links, settings };
        Self {
            chain: (!chain.links.is_empty()).then(|| Arc::new(chain)),
        }
    }

    /// A layer that lets everything pass.
    pub fn off() -> Self {
        Self { chain: None }
    }
}

impl<S> Layer<S> for InterceptLayer {
    type Service = Intercept<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Intercept {
            inner,
            chain: self.chain.clone(),
        }
    }
}

// === impl Intercept ===

impl<S, Req, Res> Service<Request<Req>> for Intercept<S>
where
    S: Service<Request<Body>, Response = Response<Res>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    Req: HttpBody<Data = Bytes> + Send + 'static,
    Req::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes> + Send + 'static,
    Res::Error: Into<BoxError>,
{
    type Response = Response<InterceptBody<Res>>;
    type Error = BoxError;
    type Future = InterceptFuture<S::Future, Res>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let mut request = request.map(Body::new);
        let Some(chain) = &self.chain else {
            return InterceptFuture(State::Passing(self.inner.call(request)));
        };
        let exchange = Exchange::of(&mut request);
        chain.settings.paused.heed(&exchange);
        let asked = Asked::new(&exchange, &request);
        let Some(wanted) = chain.wanted(&asked) else {
            return InterceptFuture(State::Passing(self.inner.call(request)));
        };
        let way = Way::new(chain.clone(), wanted, exchange, &request);
        let other = self.inner.clone();
        let inner = mem::replace(&mut self.inner, other);
        InterceptFuture(State::Going(Box::pin(way.go(inner, request))))
    }
}

impl<F, B, E> Future for InterceptFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
{
    type Output = Answer<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Passing(inner) => {
                let passes = |response: Response<B>| response.map(InterceptBody::passing);
                inner.poll(cx).map(|r| r.map(passes).map_err(Into::into))
            }
            StateProj::Going(going) => going.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
