//! Picks the service of a request by its path, host and headers.
//!
//! The first route that matches wins, and is filed in the exchange. A path prefix covers whole segments: `/mcp` covers `/mcp`, `/mcp/`
//! and `/mcp/x`, not `/mcpx`; `/` covers everything. Paths are passed on as they are, so one that an upstream might read in
//! another way must not slip past a rule: dot segments are refused, also encoded ones, and so is a path that would take
//! another route if encoded characters, doubled or turned slashes and segment parameters (`;`) were resolved.
//!
//! Place: the end of the server terrace. Readiness: always ready, since it can choose only when it sees the request; the chosen
//! service is cloned for the call and waited for there. Clones share the routes. Errors: [`NoRoute`], [`UnsafePath`]. Bodies: untouched.
//!
//! ```
//! use std::sync::Arc;
//! use tower::service_fn;
//! use ziggurat_layers::{Body, BoxError, exchange::RouteInfo, route::{Match, Route, Router}};
//!
//! let service = Router::new([Route {
//!     matcher: Match { path: "/mcp".parse()?, ..Match::default() },
//!     info: Arc::new(RouteInfo { name: "tools".into(), prefix: "/mcp".into(), errors: Default::default() }),
//!     service: service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))),
//! }]);
//! # let _ = service;
//! # Ok::<_, BoxError>(())
//! ```

mod path;

use std::{
    cell::LazyCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderName, HeaderValue, Request};
use pin_project::pin_project;
use tower::Service;

pub use self::path::{BadPath, PathPrefix};
pub use crate::host::{BadName, HostName};
use crate::{
    error::BoxError,
    exchange::{Exchange, RouteInfo},
    host::Host,
    ready::{self, Called},
};

/// What a request must have to take a route: all that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// The beginning of its path.
    pub path: PathPrefix,
    /// Its host.
    pub host: Option<HostName>,
    /// Headers, each with just this value (among others of that name).
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// A rule, and the service of the requests that it matches.
#[derive(Debug, Clone)]
pub struct Route<S> {
    /// The rule.
    pub matcher: Match,
    /// What the exchange is told.
    pub info: Arc<RouteInfo>,
    /// The service. Each clone of the router takes its own clone when it first needs it.
    pub service: S,
}

/// Sends each request to the first route that matches.
#[derive(Debug)]
pub struct Router<S> {
    routes: Arc<[Route<S>]>,
    /// What this router has called before, by the number of its route.
    own: Vec<Option<S>>,
}

/// The future of [`Router`]: `F` is that of the chosen service, its readiness included.
#[pin_project]
pub struct RouteFuture<F>(#[pin] State<F>);

/// No route matches. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no route matches the request")]
pub struct NoRoute;

/// The path has dot segments, or could be read as one of another route. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path of the request can be read in two ways")]
pub struct UnsafePath;

#[pin_project(project = StateProj)]
enum State<F> {
    Refused(Option<BoxError>),
    Routed(#[pin] F),
}

// === impl Match ===

impl Match {
    /// Whether the request matches, with `path` in place of its own.
    fn covers<'a, B>(
        &self,
        path: &[u8],
        host: impl FnOnce() -> Option<Host<'a>>,
        request: &Request<B>,
    ) -> bool {
        self.path.covers(path)
            && self
                .host
                .as_ref()
                .is_none_or(|wanted| host().is_some_and(|host| wanted.allows(&host)))
            && self.headers.iter().all(|(name, wanted)| {
                let mut values = request.headers().get_all(name).iter();
                values.any(|value| value == wanted)
            })
    }
}

// === impl Router ===

impl<S> Router<S> {
    /// A router over these routes, in this order.
    pub fn new(routes: impl IntoIterator<Item = Route<S>>) -> Self {
        Self {
            routes: routes.into_iter().collect(),
            own: Vec::new(),
        }
    }

    /// The route of a request.
    ///
    /// # Errors
    /// When none matches ([`NoRoute`]), or when that is open to two readings ([`UnsafePath`]).
    pub fn route<B>(&self, request: &Request<B>) -> Result<&Route<S>, BoxError> {
        self.find(request).map(|(_, route)| route)
    }

    fn find<B>(&self, request: &Request<B>) -> Result<(usize, &Route<S>), BoxError> {
        // Read only if a rule wants it; one that cannot be read matches no rule that names one.
        let host = LazyCell::new(|| Host::of(request).ok());
        let find = |path: &[u8]| {
            let mut routes = self.routes.iter();
            routes.position(|route| route.matcher.covers(path, || *host, request))
        };
        let path = request.uri().path();
        let found = find(path.as_bytes());
        if let Some(resolved) = path::resolve(path)?
            && find(&resolved) != found
        {
            return Err(UnsafePath.into());
        }
        found
            .and_then(|at| Some((at, self.routes.get(at)?)))
            .ok_or_else(|| NoRoute.into())
    }

    /// This router's own service of the route.
    fn own(&mut self, at: usize) -> &mut S
    where
        S: Clone,
    {
        if self.own.len() <= at {
            self.own.resize_with(self.routes.len(), || None);
        }
        self.own[at].get_or_insert_with(|| self.routes[at].service.clone())
    }
}

impl<S> Clone for Router<S> {
    fn clone(&self) -> Self {
        Self {
            routes: self.routes.clone(),
            own: Vec::new(),
        }
    }
}

impl<S, B> Service<Request<B>> for Router<S>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RouteFuture<Called<S, Request<B>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        RouteFuture(match self.find(&request) {
            Err(refused) => State::Refused(Some(refused)),
            Ok((at, route)) => {
                Exchange::of(&mut request).set_route(route.info.clone());
                State::Routed(ready::call(self.own(at), request))
            }
        })
    }
}

impl<F, T, E> Future for RouteFuture<F>
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
            StateProj::Routed(inner) => inner.poll(cx).map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests;
