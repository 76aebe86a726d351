//! Who may be talked through, and from which web pages: the check of Host and Origin, and CORS for the origins that pass.
//!
//! A web page can make its reader's browser send requests to a proxy on the loopback or behind a firewall, and by DNS rebinding even
//! under a name of its own. [`GuardLayer`] refuses requests whose Host is not one of `hosts`, or whose Origin is not one of
//! `origins`; a request without an Origin does not come from a page, and passes. Without a list anything is allowed that can be read:
//! a Host must always be there exactly once, and an Origin that stands twice, is `null` or malformed is always refused. (MCP
//! 2025-11-25 and 2026-07-28, transports, "Security Warning".) [`CorsLayer`] speaks CORS for the origins that are allowed.
//!
//! Place: the guard on the server terrace, before anything is allocated, inside rescue; CORS outside rescue, so that a page can read
//! errors too. Readiness: the inner service's. Errors: [`HostRefused`] and [`OriginRefused`] from the guard, none from
//! CORS. Bodies: untouched.
//!
//! ```
//! use std::sync::Arc;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, guard::{CorsLayer, GuardLayer, GuardSettings}};
//!
//! let settings = Arc::new(GuardSettings {
//!     hosts: Some(vec!["mcp.example.com".parse()?]),
//!     origins: Some(vec!["https://app.example.com".parse()?, "localhost".parse()?]),
//! });
//! let service = ServiceBuilder::new()
//!     .layer(CorsLayer::new(settings.clone()))
//!     .layer(GuardLayer::new(settings))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! # Ok::<_, BoxError>(())
//! ```

mod cors;
mod origin;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, header};
use metrics::Counter;
use pin_project::pin_project;
use tower::{Layer, Service};

pub use self::{
    cors::{Cors, CorsFuture, CorsLayer},
    origin::{Origin, OriginName},
};
pub use crate::host::{BadName, HostName, Problem};
use crate::{
    error::BoxError,
    host::{Host, shown},
    metrics::{counter, names},
};

/// What Host and Origin may be; `None` is anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSettings {
    /// The hosts.
    pub hosts: Option<Vec<HostName>>,
    /// The origins.
    pub origins: Option<Vec<OriginName>>,
}

/// Refuses requests for strange hosts and from strange web pages.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    settings: Arc<GuardSettings>,
    refused: Counter,
}

/// The service of [`GuardLayer`].
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

/// The future of [`Guard`].
#[pin_project]
pub struct GuardFuture<F>(#[pin] State<F>);

/// The request is for a host that is not served here, or does not say for which. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request's Host {problem}{}", Said(said, "hosts", *problem))]
pub struct HostRefused {
    /// What is wrong with it.
    pub problem: Problem,
    /// What was said, for a log: one line, shortened, never empty unless nothing was said.
    pub said: Box<str>,
}

/// The request comes from a web page that may not send it. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request's Origin {problem}{}", Said(said, "origins", *problem))]
pub struct OriginRefused {
    /// What is wrong with it.
    pub problem: Problem,
    /// What was said, for a log: one line, shortened.
    pub said: Box<str>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Refused(Option<BoxError>),
    Admitted(#[pin] F),
}

// === impl GuardSettings ===

impl GuardSettings {
    /// Only the names of the loopback, as Host and as Origin.
    pub fn loopback() -> Self {
        Self {
            hosts: Some(vec![HostName::loopback()]),
            origins: Some(vec![OriginName::from(HostName::loopback())]),
        }
    }

    /// Any host and any origin that can be read.
    pub fn any() -> Self {
        Self {
            hosts: None,
            origins: None,
        }
    }

    /// Checks the Host of a request.
    ///
    /// # Errors
    /// When it is not one of those allowed.
    pub fn check_host<B>(&self, request: &Request<B>) -> Result<(), HostRefused> {
        let problem = match (Host::of(request), &self.hosts) {
            (Err(problem), _) => problem,
            (Ok(_), None) => return Ok(()),
            (Ok(host), Some(allowed)) if allowed.iter().any(|a| a.allows(&host)) => return Ok(()),
            (Ok(_), Some(_)) => Problem::Foreign,
        };
        let header = request.headers().get(header::HOST);
        let said = match (header, request.uri().authority()) {
            (Some(header), _) => shown(header.as_bytes()),
            (None, Some(authority)) => shown(authority.as_str().as_bytes()),
            (None, None) => Box::default(),
        };
        Err(HostRefused { problem, said })
    }

    /// Checks the Origin of a request: none, or the one that is allowed.
    ///
    /// # Errors
    /// When there is one that is not allowed.
    pub fn check_origin<'a>(
        &self,
        headers: &'a HeaderMap,
    ) -> Result<Option<&'a HeaderValue>, OriginRefused> {
        let mut values = headers.get_all(header::ORIGIN).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let origin = value.to_str().ok().and_then(Origin::parse);
        let problem = match (values.next(), origin, &self.origins) {
            (Some(_), _, _) => Problem::Twice,
            (None, None, _) if value.as_bytes() == b"null" => Problem::Foreign,
            (None, None, _) => Problem::Malformed,
            (None, Some(_), None) => return Ok(Some(value)),
            (None, Some(origin), Some(allowed)) if allowed.iter().any(|a| a.allows(&origin)) => {
                return Ok(Some(value));
            }
            (None, Some(_), Some(_)) => Problem::Foreign,
        };
        Err(OriginRefused {
            problem,
            said: shown(value.as_bytes()),
        })
    }
}

/// The end of a message: what was said, and which list it is not in.
struct Said<'a>(&'a str, &'static str, Problem);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(said, list, problem) = self;
        if !said.is_empty() {
            write!(f, ": `{said}`")?;
        }
        if *problem == Problem::Foreign {
            write!(f, " (the setting `{list}` lists what is)")?;
        }
        Ok(())
    }
}

// === impl GuardLayer ===

impl GuardLayer {
    /// A layer with these settings, which it may share with a [`CorsLayer`].
    pub fn new(settings: impl Into<Arc<GuardSettings>>) -> Self {
        Self {
            settings: settings.into(),
            refused: counter(names::ORIGIN_REJECTED, &[]),
        }
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), BoxError> {
        let result = match self.settings.check_host(request) {
            Err(error) => Err(error.into()),
            Ok(()) => match self.settings.check_origin(request.headers()) {
                Err(error) => Err(error.into()),
                Ok(_) => Ok(()),
            },
        };
        if result.is_err() {
            self.refused.increment(1);
        }
        result
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard {
            inner,
            layer: self.clone(),
        }
    }
}

// === impl Guard ===

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = GuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        GuardFuture(match self.layer.check(&request) {
            Err(refused) => State::Refused(Some(refused)),
            Ok(()) => State::Admitted(self.inner.call(request)),
        })
    }
}

impl<F, T, E> Future for GuardFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Refused(refused) => {
                Poll::Ready(Err(refused.take().expect("polled after its end")))
            }
            StateProj::Admitted(inner) => inner.poll(cx).map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests;
