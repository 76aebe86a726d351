//! What an interceptor is: what it says it wants, what it is shown, what it may decide.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, response};
use serde_json::Value;

use super::{Message, PauseSettings, chain::ChangedBy};
use crate::{
    exchange::Exchange,
    mcp::{CallFacts, MessageFacts},
};

/// Looks at exchanges, and may change, refuse, answer or hold them. Hooks that are not written continue.
pub trait Interceptor: fmt::Debug + Send + Sync {
    /// Its name, for logs and operators.
    fn name(&self) -> &str;

    /// What it may want of an exchange, as far as what is known before it is shown tells. It must not say less than it will want. Where one before it changes the name
    /// of a message, it is asked about that message once more, with its new name.
    fn wants(&self, asked: &Asked<'_>) -> Interest;

    /// Sees the request on its way in: each message of a POST to an MCP route; else the request once, with its body if that was asked for. The
    /// headers are those that go on.
    fn request<'a>(
        &'a self,
        context: &'a Context,
        headers: &'a mut HeaderMap,
        message: Option<&'a mut Message>,
    ) -> Hook<'a> {
        let _unseen = (context, headers, message);
        Hook::now(Decision::Continue)
    }

    /// Sees the head of the response, before anything of its body.
    fn response<'a>(&'a self, context: &'a Context, head: &'a mut response::Parts) -> Hook<'a> {
        let _unseen = (context, head);
        Hook::now(Decision::Continue)
    }

    /// Sees a message on its way out: an answer, a notification or a question of the server; of plain HTTP a JSON body or the data of an event.
    fn message<'a>(&'a self, context: &'a Context, message: &'a mut Message) -> Hook<'a> {
        let _unseen = (context, message);
        Hook::now(Decision::Continue)
    }
}

/// How an exchange goes on after a hook. What was changed stays changed.
#[derive(Debug)]
pub enum Decision {
    /// On to the next.
    Continue,
    /// It is refused: the client gets an error.
    Block(Block),
    /// It is answered with this; an answer of the upstream is replaced by it.
    Mock(Mock),
    /// It waits for so long, at most an hour, and goes on.
    Delay(Duration),
    /// It waits for an operator.
    Pause(PauseSettings),
    /// It is refused because it cannot be judged, for this reason, which the client is told.
    Unreadable(String),
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What the client is told.
    pub message: String,
}

/// An answer that comes from no upstream.
#[derive(Debug)]
pub enum Mock {
    /// To an MCP request: its result. In the modern era `resultType` is added where it is missing.
    Result(Value),
    /// To an MCP request: a JSON-RPC error.
    Error {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
        /// What else it says.
        data: Option<Value>,
    },
    /// To any request: a whole response.
    Response(Response<Bytes>),
}

/// What an interceptor may want of an exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interest {
    /// The request; on an MCP route with its messages.
    pub request: bool,
    /// On plain HTTP also the body of the request.
    pub body: bool,
    /// The head of the response.
    pub head: bool,
    /// The messages of the response.
    pub messages: bool,
}

/// What a request is, as far as that is known before it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// The path.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Who the client is, where that is known.
    pub principal: Option<&'a str>,
    /// The facts of an MCP call; none on plain HTTP.
    pub call: Option<&'a CallFacts>,
}

/// What is known of an exchange while its hooks run.
#[derive(Debug, Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    exchange: Arc<Exchange>,
    /// Who made of the call what it is here.
    before: Option<usize>,
    method: Method,
    path: Box<str>,
    headers: HeaderMap,
}

/// A decision that is there, or will be.
#[must_use = "a hook does nothing unless it is awaited"]
pub struct Hook<'a>(State<'a>);

enum State<'a> {
    Now(Option<Decision>),
    Later(Pin<Box<dyn Future<Output = Decision> + Send + 'a>>),
}

// === impl Decision ===

impl Decision {
    /// The longest [`Delay`](Self::Delay), whatever is asked for.
    pub const LONGEST_DELAY: Duration = Duration::from_secs(60 * 60);
}

// === impl Interest ===

impl Interest {
    /// Everything.
    pub const ALL: Self = Self {
        request: true,
        body: true,
        head: true,
        messages: true,
    };

    /// Anything at all.
    pub fn any(self) -> bool {
        self.request || self.body || self.head || self.messages
    }

    /// What this or the other wants.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            request: self.request || other.request,
            body: self.body || other.body,
            head: self.head || other.head,
            messages: self.messages || other.messages,
        }
    }
}

// === impl Asked ===

impl<'a> Asked<'a> {
    pub(super) fn new<B>(exchange: &'a Exchange, request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            principal: exchange.principal().map(|principal| &**principal),
            call: exchange.came_from(ChangedBy::of(request)),
        }
    }

    /// The messages of the call; none on plain HTTP, and none of a GET or DELETE.
    pub fn messages(&self) -> &'a [MessageFacts] {
        self.call.map(CallFacts::messages).unwrap_or_default()
    }
}

// === impl Context ===

impl Context {
    pub(super) fn new(
        exchange: Arc<Exchange>,
        before: Option<usize>,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                exchange,
                before,
                method,
                path: path.into(),
                headers,
            }),
        }
    }

    /// The exchange: the call as its client sent it, the principal, the route.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.inner.exchange
    }

    /// The facts of the MCP call as it came to this layer; none on plain HTTP.
    pub fn call(&self) -> Option<&CallFacts> {
        self.inner.exchange.came_from(self.inner.before)
    }

    /// What is known beforehand of a call that goes on as this one.
    pub(super) fn as_asked<'a>(&'a self, call: &'a CallFacts) -> Asked<'a> {
        Asked {
            method: self.method(),
            path: self.path(),
            headers: self.headers(),
            principal: self.exchange().principal().map(|principal| &**principal),
            call: Some(call),
        }
    }

    /// The HTTP method.
    pub fn method(&self) -> &Method {
        &self.inner.method
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    /// The headers of the request as they came to this layer.
    pub fn headers(&self) -> &HeaderMap {
        &self.inner.headers
    }

    /// The name of the route.
    pub fn route(&self) -> &str {
        self.inner.exchange.route().map_or("", |route| &*route.name)
    }

    /// The message of the client, as it came to this layer, that an answer belongs to, or, of what is no answer, the one request that the client sent.
    pub fn asked(&self, message: &Message) -> Option<&MessageFacts> {
        let call = self.call()?;
        match message.facts().and_then(MessageFacts::id) {
            Some(id) if message.direction() == super::Direction::Response => {
                call.requests().find(|request| request.id() == Some(id))
            }
            Some(_) | None => call.request(),
        }
    }
}

// === impl Hook ===

impl<'a> Hook<'a> {
    /// A decision that is there: costs no allocation.
    pub fn now(decision: Decision) -> Self {
        Self(State::Now(Some(decision)))
    }

    /// A decision that will be there.
    pub fn later(decision: impl Future<Output = Decision> + Send + 'a) -> Self {
        Self(State::Later(Box::pin(decision)))
    }
}

impl Future for Hook<'_> {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Decision> {
        match &mut self.0 {
            State::Now(decision) => Poll::Ready(decision.take().expect("polled after its end")),
            State::Later(decision) => decision.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Hook<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").finish_non_exhaustive()
    }
}
