//! CORS for the origins that the guard lets pass: preflights are answered, and responses may be read by the page.
//!
//! Nothing is refused here: what is not allowed goes on to the guard, and comes back without a word of CORS. The answer
//! names the one origin that asked, never `*`, and never allows credentials. What an upstream says of CORS itself is replaced.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use pin_project::pin_project;
use tower::{Layer, Service};

use super::GuardSettings;

/// Speaks CORS for the origins that are allowed.
#[derive(Debug, Clone)]
pub struct CorsLayer {
    settings: Arc<GuardSettings>,
}

/// The service of [`CorsLayer`].
#[derive(Debug, Clone)]
pub struct Cors<S> {
    inner: S,
    settings: Arc<GuardSettings>,
}

/// The future of [`Cors`].
#[pin_project]
pub struct CorsFuture<F, Res>(#[pin] State<F, Res>);

#[pin_project(project = StateProj)]
enum State<F, Res> {
    Preflight(Option<Response<Res>>),
    Passed(#[pin] F, Option<HeaderValue>),
}

/// What a page may send where it does not ask, or asks for too much at once.
const REQUEST_HEADERS: &str = "Content-Type, Accept, Authorization, Mcp-Session-Id, MCP-Protocol-Version, \
     Last-Event-ID, Mcp-Method, Mcp-Name";
/// What a page may read.
const RESPONSE_HEADERS: &str = "Mcp-Session-Id, MCP-Protocol-Version, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id";
const PREFLIGHT_VARY: &str =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
const METHODS: &str = "GET, POST, DELETE, OPTIONS";
/// The most bytes of header names that a preflight may ask for.
const MAX_ASKED: usize = 4096;

// === impl CorsLayer ===

impl CorsLayer {
    /// A layer for the origins in these settings, which it shares with the guard.
    pub fn new(settings: impl Into<Arc<GuardSettings>>) -> Self {
        Self {
            settings: settings.into(),
        }
    }
}

impl<S> Layer<S> for CorsLayer {
    type Service = Cors<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Cors {
            inner,
            settings: self.settings.clone(),
        }
    }
}

// === impl Cors ===

impl<S, Req, Res> Service<Request<Req>> for Cors<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Default,
{
    type Response = Response<Res>;
    type Error = S::Error;
    type Future = CorsFuture<S::Future, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let origin = self.settings.check_origin(request.headers());
        let origin = origin.ok().flatten().cloned();
        CorsFuture(match (&origin, asked_method(&request)) {
            (Some(origin), Some(method)) if self.settings.check_host(&request).is_ok() => {
                State::Preflight(Some(preflight(origin, &method, request.headers())))
            }
            _ => State::Passed(self.inner.call(request), origin),
        })
    }
}

/// The method that a preflight asks for; none if the request is no preflight.
fn asked_method<B>(request: &Request<B>) -> Option<Method> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    let asked = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_METHOD)?
        .as_bytes();
    (asked.len() <= 32).then(|| Method::from_bytes(asked).ok())?
}

fn preflight<Res: Default>(
    origin: &HeaderValue,
    method: &Method,
    asked: &HeaderMap,
) -> Response<Res> {
    let mut response = Response::new(Res::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let usual = METHODS.split(", ").any(|m| m == method.as_str());
    let methods = if usual {
        HeaderValue::from_static(METHODS)
    } else {
        HeaderValue::from_str(&format!("{METHODS}, {method}"))
            .unwrap_or(HeaderValue::from_static(METHODS))
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked_headers(asked));
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    headers.insert(header::VARY, HeaderValue::from_static(PREFLIGHT_VARY));
    response
}

/// The headers that a preflight asks for, if that is one sane list; else those of MCP.
fn asked_headers(headers: &HeaderMap) -> HeaderValue {
    let mut values = headers
        .get_all(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .iter();
    match (values.next(), values.next()) {
        (Some(asked), None) if is_list_of_names(asked) => asked.clone(),
        _ => HeaderValue::from_static(REQUEST_HEADERS),
    }
}

fn is_list_of_names(value: &HeaderValue) -> bool {
    let name =
        |name: &[u8]| !name.contains(&b'*') && HeaderName::from_bytes(name.trim_ascii()).is_ok();
    value.len() <= MAX_ASKED && value.as_bytes().split(|b| *b == b',').all(name)
}

/// Lets the page at `origin` read a response.
fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
    headers.append(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(RESPONSE_HEADERS),
    );
    let varies = headers.get_all(header::VARY).iter().any(|value| {
        let mut names = value.as_bytes().split(|b| *b == b',');
        names.any(|n| n.trim_ascii() == b"*" || n.trim_ascii().eq_ignore_ascii_case(b"origin"))
    });
    if !varies {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

impl<F, Res, E> Future for CorsFuture<F, Res>
where
    F: Future<Output = Result<Response<Res>, E>>,
{
    type Output = Result<Response<Res>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().0.project() {
            StateProj::Preflight(response) => Ok(response.take().expect("polled after its end")),
            StateProj::Passed(inner, origin) => {
                let mut response = ready!(inner.poll(cx))?;
                if let Some(origin) = origin.take() {
                    allow(response.headers_mut(), origin);
                }
                Ok(response)
            }
        })
    }
}
