//! The operator's switch: an upstream, or tools of it, that take no calls until they are switched on again.
//!
//! [`Switches`] is what the operator turns; the layer looks at it with each request. While the upstream is off, every call and every new stream
//! is refused; while tools are off, a request that calls one of them is, in both eras, and a batch with such a call as a whole: nothing
//! of it is sent. A `tools/call` whose tool cannot be read is refused while any tool is off. What was let in before goes on, and what calls may be waiting for
//! (notifications, answers to the server's questions, DELETE) passes.
//!
//! Place: on the route, inside [`inspect`](crate::inspect), whose facts it reads, and outside whatever holds a place for a call. Readiness: the inner service's.
//! Errors: [`SwitchedOff`]; nothing was sent. Bodies: untouched. With everything on it costs the load of one atomic.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, pattern::Pattern, switch::{SwitchLayer, Switches}};
//!
//! let switches = Switches::new();
//! let service = ServiceBuilder::new()
//!     .layer(SwitchLayer::new(&switches))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! switches.set_tools(vec![Pattern::new("delete_*")]);
//! assert!(!switches.is_off());
//! ```

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::Request;
use pin_project::pin_project;
use tower::{Layer, Service};

use crate::{class::Class, error::BoxError, exchange::Exchange, mcp::CallFacts, pattern::Pattern};

/// What of an upstream is switched off. Clones are the same switches.
#[derive(Debug, Clone, Default)]
pub struct Switches {
    shared: Arc<Shared>,
}

/// Refuses calls of what is switched off.
#[derive(Debug, Clone)]
pub struct SwitchLayer {
    switches: Switches,
}

/// The service of [`SwitchLayer`].
#[derive(Debug, Clone)]
pub struct Switched<S> {
    inner: S,
    switches: Switches,
}

/// The future of [`Switched`].
#[pin_project]
pub struct SwitchedFuture<F>(#[pin] Either<F, Ready<SwitchedOff>>);

/// The operator switched this off. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this {} is switched off by the operator", what.as_str())]
pub struct SwitchedOff {
    /// What is off.
    pub what: Scope,
}

/// What can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of an upstream.
    Upstream,
    /// A tool.
    Tool,
}

#[derive(Debug, Default)]
struct Shared {
    /// Something is off: without that there is nothing to look at.
    any: AtomicBool,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    upstream: bool,
    tools: Vec<Pattern>,
}

// === impl Scope ===

impl Scope {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Tool => "tool",
        }
    }
}

// === impl Switches ===

impl Switches {
    /// Everything is on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Switches the whole upstream off, or on.
    pub fn set_upstream(&self, off: bool) {
        self.change(|state| state.upstream = off);
    }

    /// Switches off the tools with these names, and all others on.
    pub fn set_tools(&self, off: Vec<Pattern>) {
        self.change(|state| state.tools = off);
    }

    /// Whether the whole upstream is off.
    pub fn is_off(&self) -> bool {
        self.shared.any.load(Ordering::Acquire) && self.read(|state| state.upstream)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let state = self.shared.state.write();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        // Under the lock, so that the last change has the last word.
        let any = state.upstream || !state.tools.is_empty();
        self.shared.any.store(any, Ordering::Release);
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let state = self.shared.state.read();
        read(&state.unwrap_or_else(PoisonError::into_inner))
    }

    /// What keeps this request out, if anything does.
    fn refusal<B>(&self, request: &Request<B>) -> Option<SwitchedOff> {
        if !self.shared.any.load(Ordering::Acquire) || Class::of(request) == Class::Free {
            return None;
        }
        let call = Exchange::get(request).and_then(|exchange| exchange.call());
        self.read(|state| {
            let what = if state.upstream {
                Scope::Upstream
            } else if call.is_some_and(|call| state.stops(call)) {
                Scope::Tool
            } else {
                return None;
            };
            Some(SwitchedOff { what })
        })
    }
}

impl State {
    fn stops(&self, call: &CallFacts) -> bool {
        let is_off = |tool: Option<&str>| {
            tool.is_none_or(|tool| self.tools.iter().any(|pattern| pattern.fits(tool)))
        };
        !self.tools.is_empty()
            && call
                .messages()
                .iter()
                .any(|message| message.is("tools/call") && is_off(message.tool()))
    }
}

// === impl SwitchLayer ===

impl SwitchLayer {
    /// A layer that obeys these switches.
    pub fn new(switches: &Switches) -> Self {
        Self {
            switches: switches.clone(),
        }
    }
}

impl<S> Layer<S> for SwitchLayer {
    type Service = Switched<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Switched {
            inner,
            switches: self.switches.clone(),
        }
    }
}

// === impl Switched ===

impl<S, B> Service<Request<B>> for Switched<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = SwitchedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        SwitchedFuture(match self.switches.refusal(&request) {
            None => Either::Left(self.inner.call(request)),
            Some(off) => Either::Right(ready(off)),
        })
    }
}

impl<F, T, E> Future for SwitchedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.as_pin_mut() {
            Either::Left(inner) => inner.poll(cx).map_err(Into::into),
            Either::Right(refused) => refused.poll(cx).map(|off| Err(off.into())),
        }
    }
}

#[cfg(test)]
mod tests;
