//! Reads what an MCP request is, once, for all layers inside.
//!
//! On an MCP route the body of a POST is collected, up to a cap and within a time, and its [`CallFacts`] are filed in the exchange;
//! then the headers of a modern request are held against them. The request goes on with the same bytes and their exact length. Of
//! GET, DELETE and other methods only the headers are read. On a plain HTTP route (`mcp: false`) nothing is.
//!
//! Place: first on the route, since every other layer reads the facts. Readiness: the inner service's; the instance
//! that was ready is kept for the call while its body arrives. Errors: [`BodyTooLarge`], [`NotJson`], [`Encoded`],
//! [`UploadTimeout`], [`UploadFailed`], [`EnvelopeError`](crate::mcp::EnvelopeError), [`HeaderMismatch`](headers::HeaderMismatch); the facts are
//! filed before the last one, so that the answer can carry the call's id. Bodies: those of POST requests become one piece, without
//! a copy if they came as one; trailers are dropped; others and responses are untouched.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, inspect::{InspectLayer, InspectSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(InspectLayer::new(InspectSettings::mcp()))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod upload;

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header, request::Parts};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use self::upload::Upload;
pub use crate::cap::BodyTooLarge;
use crate::{
    Body, cap,
    error::BoxError,
    exchange::Exchange,
    mcp::{CallFacts, headers},
    observe,
};

/// What is read, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectSettings {
    /// Requests are MCP; otherwise they pass as they are.
    pub mcp: bool,
    /// The most bytes that the body of a POST may have.
    pub cap: u64,
    /// How long it may take to arrive.
    pub upload: Duration,
}

/// Files the facts of each call in its exchange.
#[derive(Debug, Clone, Copy)]
pub struct InspectLayer {
    settings: InspectSettings,
}

/// The service of [`InspectLayer`].
#[derive(Debug)]
pub struct Inspect<S> {
    inner: S,
    settings: InspectSettings,
    spare: Spare<S>,
}

/// An instance of the inner service that has done its call: the next request takes it in place of a clone. Each clone of
/// [`Inspect`] has its own.
#[derive(Debug)]
struct Spare<S>(Arc<Mutex<Option<S>>>);

/// The future of [`Inspect`].
#[pin_project]
pub struct InspectFuture<S, B, F>(#[pin] State<S, B, F>);

/// The body of a POST is not said to be JSON. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Content-Type of the request is not application/json")]
pub struct NotJson;

/// The body of a POST is encoded, so that it cannot be read. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request body has a Content-Encoding")]
pub struct Encoded;

/// The request body did not arrive in time. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request body took longer than {limit:?} to arrive")]
pub struct UploadTimeout {
    /// The limit.
    pub limit: Duration,
}

/// The request body broke off: most often its client is gone. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("the request body could not be read")]
pub struct UploadFailed {
    /// Why.
    #[source]
    pub source: BoxError,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one: a box would cost each call an allocation"
)]
#[pin_project(project = StateProj)]
enum State<S, B, F> {
    Refused(Option<BoxError>),
    /// The body arrives.
    Reading(#[pin] Upload<B>, Option<Waiting<S>>),
    Calling(#[pin] F),
}

/// A request without its body, and the service that is ready for it.
struct Waiting<S> {
    service: S,
    spare: Spare<S>,
    parts: Parts,
    exchange: Arc<Exchange>,
}

// === impl InspectSettings ===

impl InspectSettings {
    /// For MCP: 4 MiB, 30 seconds.
    pub fn mcp() -> Self {
        Self {
            mcp: true,
            cap: 4 << 20,
            upload: Duration::from_secs(30),
        }
    }

    /// For plain HTTP: nothing is read.
    pub fn off() -> Self {
        Self {
            mcp: false,
            ..Self::mcp()
        }
    }
}

// === impl InspectLayer ===

impl InspectLayer {
    /// A layer with these settings.
    pub fn new(settings: InspectSettings) -> Self {
        Self { settings }
    }
}

impl<S> Layer<S> for InspectLayer {
    type Service = Inspect<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Inspect {
            inner,
            settings: self.settings,
            spare: Spare::default(),
        }
    }
}

// === impl Spare ===

impl<S> Default for Spare<S> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<S> Spare<S> {
    fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn give_back(&self, service: S) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
    }
}

// === impl Inspect ===

impl<S: Clone> Clone for Inspect<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings,
            spare: Spare::default(),
        }
    }
}

impl<S, B> Service<Request<B>> for Inspect<S>
where
    S: Service<Request<Body>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = InspectFuture<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if !self.settings.mcp {
            return InspectFuture(State::Calling(self.inner.call(request.map(Body::new))));
        }
        let exchange = Exchange::of(&mut request);
        if request.method() != Method::POST {
            return InspectFuture(
                match CallFacts::read(request.method(), request.headers(), &Bytes::new()) {
                    Err(error) => State::Refused(Some(error.into())),
                    Ok(facts) => {
                        exchange.set_call(facts);
                        State::Calling(self.inner.call(request.map(Body::new)))
                    }
                },
            );
        }
        if let Err(refused) = admit(&request, self.settings.cap) {
            return InspectFuture(State::Refused(Some(refused)));
        }
        // The instance that is ready goes into the future; another stays, to become ready for the next call.
        let other = self.spare.take().unwrap_or_else(|| self.inner.clone());
        let (parts, body) = request.into_parts();
        let waiting = Waiting {
            service: mem::replace(&mut self.inner, other),
            spare: Spare(self.spare.0.clone()),
            parts,
            exchange,
        };
        let upload = Upload::new(body, self.settings.cap, self.settings.upload);
        InspectFuture(State::Reading(upload, Some(waiting)))
    }
}

/// What can be said of a POST before its body is read.
fn admit<B: HttpBody>(request: &Request<B>, cap: u64) -> Result<(), BoxError> {
    if !observe::is_plain(request.headers()) {
        return Err(Encoded.into());
    }
    if !is_json(request.headers()) {
        return Err(NotJson.into());
    }
    Ok(cap::check(request, cap)?)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers::single(headers, &header::CONTENT_TYPE).is_some_and(|value| {
        let essence = || value.split(';').next().unwrap_or_default().trim();
        value == "application/json" || essence().eq_ignore_ascii_case("application/json")
    })
}

impl<S> Waiting<S> {
    /// Reads the facts of the whole body, files them, and lets the request go on.
    fn go_on(self, body: Bytes) -> Result<S::Future, BoxError>
    where
        S: Service<Request<Body>>,
    {
        let Self {
            mut service,
            spare,
            mut parts,
            exchange,
        } = self;
        let facts = CallFacts::read(&parts.method, &parts.headers, &body)?;
        exchange.set_call(facts);
        if let Some(call) = exchange.call() {
            headers::check(call, &parts.headers)?;
        }
        parts.headers.remove(header::TRANSFER_ENCODING);
        parts.headers.remove(header::TRAILER);
        let length = HeaderValue::from(body.len() as u64);
        parts.headers.insert(header::CONTENT_LENGTH, length);
        let inner = service.call(Request::from_parts(parts, Body::full(body)));
        spare.give_back(service);
        Ok(inner)
    }
}

impl<S, B, T, E> Future for InspectFuture<S, B, S::Future>
where
    S: Service<Request<Body>, Response = T, Error = E>,
    E: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        loop {
            match state.as_mut().project() {
                StateProj::Refused(refused) => {
                    return Poll::Ready(Err(refused.take().expect("polled after its end")));
                }
                StateProj::Reading(upload, waiting) => {
                    let body = ready!(upload.poll(cx))?;
                    let waiting = waiting.take().expect("polled after its end");
                    let inner = waiting.go_on(body)?;
                    state.set(State::Calling(inner));
                }
                StateProj::Calling(inner) => return inner.poll(cx).map_err(Into::into),
            }
        }
    }
}

#[cfg(test)]
mod tests;
