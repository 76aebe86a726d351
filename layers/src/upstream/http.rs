//! The HTTP upstream: one endpoint over HTTP/1.1 or HTTP/2, with or without TLS.
//!
//! A request goes to the endpoint's URL: a path in that URL takes the place of the prefix that the route matched (see
//! [`HttpUpstreamSettings::url`]). Connections are pooled. A request is written again only where it was provably not sent, which is
//! when the server closes an idle connection just then. Hop-by-hop headers end here in both directions (RFC 9110, 7.6.1),
//! `Via` (RFC 9110, 7.6.3), `Forwarded` (RFC 7239) and `X-Forwarded-*` are added to requests, `Host` is the upstream's, `Origin` and
//! `Expect: 100-continue` are dropped. Everything else passes as it is; a redirect too.
//!
//! When a response is dropped before its end, its connection is closed (HTTP/2: its stream is reset): modern servers take that as the
//! cancel, legacy servers keep the call for resumption. A legacy call that somebody gave up with a word
//! ([`Exchange::give_up`]) is also cancelled with a `notifications/cancelled`.
//!
//! Without MCP facts (plain HTTP) an HTTP/1.1 upgrade passes: after a 101 the two connections are joined, and the request's
//! [`Permit`](crate::limit::Permit) is held until they end.
//!
//! Place: the leaf. Readiness: always ready. Errors: [`ConnectTimeout`], [`ConnectFailed`] and [`Unforwardable`] (nothing was
//! sent), [`UpstreamBroken`] (its phase tells), [`RequestBroken`] (the request's own body failed). Bodies: streamed both
//! ways; errors of the response body are [`UpstreamBroken`]. Clones share everything; the last one to go closes idle connections,
//! joined connections and notices. Responses that are still being read live on.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::ServiceBuilder;
//! use ziggurat_layers::{exchange::ExchangeLayer, upstream::http::{HttpUpstream, HttpUpstreamSettings}};
//!
//! let settings = HttpUpstreamSettings::new("tools", "http://127.0.0.1:3001/mcp".parse()?);
//! let service = ServiceBuilder::new()
//!     .layer(ExchangeLayer::new())
//!     .service(HttpUpstream::new(settings)?);
//! # let _ = service;
//! # Ok(()) }
//! ```

mod body;
mod cancel;
mod connect;
mod error;
mod headers;
mod settings;
mod target;
mod tasks;
mod tls;
mod tunnel;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, request::Parts, uri::PathAndQuery};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as HyperClient, ResponseFuture};
use tower::Service;

pub use self::{
    body::HttpBody,
    error::{
        ConnectFailed, ConnectProblem, ConnectTimeout, Phase, RequestBroken, Unforwardable,
        UpstreamBroken,
    },
    settings::{
        ClientIdentity, Forwarded, HttpUpstreamError, HttpUpstreamSettings, Pem, TlsSettings,
    },
};
use self::{
    body::RequestBody, cancel::Guard, connect::Connector, headers::Outgoing, target::Target,
    tasks::Tasks, tunnel::Tunnel,
};
use crate::{Body, error::BoxError, exchange::Exchange};

/// One HTTP endpoint.
#[derive(Debug, Clone)]
pub struct HttpUpstream {
    shared: Arc<Shared>,
}

/// In the extensions of a request: it goes to this path and query at the endpoint's origin, whatever the rest of the endpoint's URL says.
#[derive(Debug, Clone)]
pub struct Exact(pub PathAndQuery);

/// The future of [`HttpUpstream`].
pub struct HttpFuture(State);

enum State {
    Refused(Option<Unforwardable>),
    Sent(Sent),
}

struct Sent {
    response: ResponseFuture,
    shared: Arc<Shared>,
    guard: Option<Box<Guard>>,
    tunnel: Option<Box<Tunnel>>,
}

type Client = HyperClient<Connector, RequestBody>;

/// What all clones share.
#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    client: Client,
    /// The client for upgrades, which exist only in HTTP/1.1.
    upgrades: Option<Client>,
    target: Target,
    outgoing: Outgoing,
    tasks: Tasks,
}

// === impl HttpUpstream ===

impl HttpUpstream {
    /// The upstream of these settings. Reads certificates; connects to nothing yet.
    ///
    /// # Errors
    /// When the URL, a header or a certificate is of no use; the error says which and why.
    pub fn new(settings: HttpUpstreamSettings) -> Result<Self, HttpUpstreamError> {
        let target = Target::new(&settings.url)?;
        let outgoing = Outgoing::new(&settings, &target)?;
        let client = connect::client(&settings, connect::Versions::of(&settings))?;
        let upgrades = match (settings.http2, target.is_tls()) {
            (true, _) => None,
            (false, false) => Some(client.clone()),
            (false, true) => Some(connect::client(&settings, connect::Versions::Http1)?),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                name: settings.name,
                client,
                upgrades,
                target,
                outgoing,
                tasks: Tasks::default(),
            }),
        })
    }

    /// Lets cancellations that are on their way arrive (5 s at most), then ends joined connections. To be called when no more
    /// calls come; dropping the last clone without it does the same at once.
    pub async fn close(&self) {
        self.shared.tasks.close().await;
    }
}

impl<B> Service<Request<B>> for HttpUpstream
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<HttpBody>;
    type Error = BoxError;
    type Future = HttpFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> HttpFuture {
        let (parts, body) = request.into_parts();
        HttpFuture(match self.shared.send(parts, Body::new(body)) {
            Ok(sent) => State::Sent(sent),
            Err(error) => State::Refused(Some(error)),
        })
    }
}

// === impl Shared ===

impl Shared {
    fn send(self: &Arc<Self>, mut parts: Parts, body: Body) -> Result<Sent, Unforwardable> {
        if parts.method == Method::CONNECT {
            return Err(Unforwardable::Connect);
        }
        // What the extensions hold is not kept longer than needed.
        let mut extensions = std::mem::take(&mut parts.extensions);
        let exchange = extensions.remove::<Arc<Exchange>>();
        let route = exchange.as_ref().and_then(|e| e.route());
        let uri = match extensions.remove::<Exact>() {
            Some(Exact(path)) => self.target.at(path)?,
            None => {
                let prefix = route.map(|route| &*route.prefix);
                self.target.uri(&parts.uri, prefix)?
            }
        };
        let plain = exchange.as_ref().is_none_or(|e| e.call().is_none());
        let upgrades = self.upgrades.as_ref().filter(|_| plain);
        let tunnel = upgrades.and_then(|_| Tunnel::wanted(&parts, &mut extensions));
        self.outgoing.apply(
            &mut parts,
            exchange.as_ref().and_then(|e| e.client()),
            tunnel.as_ref().map(Tunnel::protocol),
        );
        parts.uri = uri;
        parts.version = Version::HTTP_11;
        let guard = exchange.and_then(|exchange| Guard::new(self, exchange, &parts));
        let client = match upgrades {
            Some(upgrades) if tunnel.is_some() => upgrades,
            Some(_) | None => &self.client,
        };
        Ok(Sent {
            response: client.request(Request::from_parts(parts, RequestBody(body))),
            shared: self.clone(),
            guard,
            tunnel: tunnel.map(Box::new),
        })
    }
}

// === impl HttpFuture ===

impl Future for HttpFuture {
    type Output = Result<Response<HttpBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Refused(error) => {
                Poll::Ready(Err(error.take().expect("polled until ready").into()))
            }
            State::Sent(sent) => {
                let result = ready!(Pin::new(&mut sent.response).poll(cx));
                Poll::Ready(match result {
                    Ok(response) => sent.answer(response),
                    Err(error) => {
                        sent.disarm();
                        Err(error::classify(error, sent.shared.target.address()))
                    }
                })
            }
        }
    }
}

impl Sent {
    fn disarm(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.disarm();
        }
    }

    fn answer(&mut self, mut response: Response<Incoming>) -> Result<Response<HttpBody>, BoxError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.disarm();
            let tunnel = self.tunnel.take().ok_or_else(UpstreamBroken::unasked)?;
            tunnel.join(&mut response, &self.shared);
        } else {
            headers::strip_response(response.headers_mut());
        }
        *response.version_mut() = Version::HTTP_11;
        // A call that was refused with a status is over.
        if !response.status().is_success() {
            self.disarm();
        }
        let guard = self.guard.take();
        Ok(response.map(|body| HttpBody::new(body, guard)))
    }
}

#[cfg(test)]
mod tests;
