//! Keeps the client's credentials from upstreams that they were not made for.
//!
//! `Authorization`, `Cookie` and `Proxy-Authorization` are taken out of each request, unless `forward` lists them: a token is for
//! the server that it was issued for, and is not passed on (MCP 2026-07-28, authorization, "Token Handling"). When the
//! upstream answers 401 to a request that lost one, the log says so, and what to set; at most once a minute.
//!
//! Place: on the route, outside whatever adds the upstream's own credentials. Readiness and errors: the inner service's.
//! Bodies and responses (`Set-Cookie` and `WWW-Authenticate` too): untouched.
//!
//! ```
//! use http::header::AUTHORIZATION;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, credentials::{CredentialsLayer, CredentialsSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(CredentialsLayer::new(CredentialsSettings { forward: vec![AUTHORIZATION] }))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderName, Request, Response, StatusCode, header};
use pin_project::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::exchange::Exchange;

/// What is let through although it is a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialsSettings {
    /// The headers; others than those of [`CREDENTIALS`] pass anyhow.
    pub forward: Vec<HeaderName>,
}

/// The headers that carry a client's credentials.
pub const CREDENTIALS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

/// Holds back the client's credentials.
#[derive(Debug, Clone)]
pub struct CredentialsLayer {
    shared: Arc<Shared>,
}

/// The service of [`CredentialsLayer`].
#[derive(Debug, Clone)]
pub struct Credentials<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// The future of [`Credentials`].
#[pin_project]
pub struct CredentialsFuture<F> {
    #[pin]
    inner: F,
    held: Option<Held>,
}

#[derive(Debug)]
struct Shared {
    /// The headers that are held back.
    stopped: Vec<HeaderName>,
    warned: Mutex<Option<Instant>>,
}

/// What one request lost.
#[derive(Debug)]
struct Held {
    header: HeaderName,
    exchange: Option<Arc<Exchange>>,
    shared: Arc<Shared>,
}

/// Between two warnings.
const PAUSE: Duration = Duration::from_secs(60);

// === impl CredentialsLayer ===

impl CredentialsLayer {
    /// A layer with these settings; its clones and services warn together.
    pub fn new(settings: CredentialsSettings) -> Self {
        let mut stopped = CREDENTIALS.to_vec();
        stopped.retain(|name| !settings.forward.contains(name));
        Self {
            shared: Arc::new(Shared {
                stopped,
                warned: Mutex::new(None),
            }),
        }
    }
}

impl<S> Layer<S> for CredentialsLayer {
    type Service = Credentials<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Credentials {
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Takes the credentials out of a request; the first that was there.
    fn strip<B>(self: &Arc<Self>, request: &mut Request<B>) -> Option<Held> {
        let mut first = None;
        for name in &self.stopped {
            if request.headers_mut().remove(name).is_some() {
                first.get_or_insert(name);
            }
        }
        first.map(|name| Held {
            header: name.clone(),
            exchange: Exchange::get(request).cloned(),
            shared: self.clone(),
        })
    }

    /// Whether it is time for a warning; it is then taken as given.
    fn may_warn(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|last| now.duration_since(last) >= PAUSE);
        if due {
            *warned = Some(now);
        }
        due
    }
}

impl Held {
    /// The upstream wanted what was held back.
    fn warn(&self) {
        if !self.shared.may_warn(Instant::now()) {
            return;
        }
        let exchange = self.exchange.as_ref();
        let route = exchange.and_then(|e| e.route()).map(|r| r.name.clone());
        tracing::warn!(
            header = self.header.as_str(),
            route = route.as_deref(),
            request_id = exchange.map(|e| e.id()),
            "the upstream answered 401, and the client's {name} was held back: if the upstream is to see it, set \
             `forward: [{name}]` on the route; if the upstream has a credential of its own, set it under `headers:` \
             at the endpoint",
            name = self.header,
        );
    }
}

// === impl Credentials ===

impl<S, Req, Res> Service<Request<Req>> for Credentials<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
{
    type Response = Response<Res>;
    type Error = S::Error;
    type Future = CredentialsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let held = self.shared.strip(&mut request);
        CredentialsFuture {
            inner: self.inner.call(request),
            held,
        }
    }
}

impl<F, Res, E> Future for CredentialsFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
{
    type Output = Result<Response<Res>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        if let Some(held) = this.held.take()
            && response.status() == StatusCode::UNAUTHORIZED
        {
            held.warn();
        }
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests;
