//! The access log: one line for each JSON-RPC operation, or for each HTTP request where there is none.
//!
//! A line is a `tracing` event at INFO with the target `ziggurat::access`, written when the response body has ended: request id, client,
//! route, upstream and endpoint, method and tool, era, status, how it failed, milliseconds in all and of them upstream, attempts, bytes
//! sent. No ids of sessions, no arguments, no headers.
//!
//! Place: outermost, beside the server metrics. Readiness and errors: the inner service's. Bodies: forwarded and counted.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, access_log::AccessLogLayer};
//!
//! let service = ServiceBuilder::new()
//!     .layer(AccessLogLayer::new(true))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as HttpBody, Frame};
use pin_project::pin_project;
use tower::{Layer, Service};

use crate::{
    body::{End, Track, Tracked},
    error::{BoxError, Outcome},
    exchange::Exchange,
    mcp::{MessageFacts, peek::Answer},
};

/// Logs each operation when it has ended.
#[derive(Debug, Clone, Copy)]
pub struct AccessLogLayer {
    on: bool,
}

/// The service of [`AccessLogLayer`].
#[derive(Debug, Clone)]
pub struct AccessLog<S> {
    inner: S,
    on: bool,
}

/// The future of [`AccessLog`].
#[pin_project]
pub struct AccessLogFuture<F> {
    #[pin]
    inner: F,
    line: Option<Line>,
}

/// What becomes a line; rides on the response body.
#[derive(Debug)]
pub struct Line {
    exchange: Arc<Exchange>,
    method: Method,
    path: Box<str>,
    status: u16,
    bytes: u64,
    on: bool,
}

impl AccessLogLayer {
    /// A layer that logs, or does nothing.
    pub fn new(on: bool) -> Self {
        Self { on }
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLog<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLog { inner, on: self.on }
    }
}

impl<S, Req, Res> Service<Request<Req>> for AccessLog<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Line>>;
    type Error = S::Error;
    type Future = AccessLogFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let line = Line {
            exchange: Exchange::of(&mut request),
            method: request.method().clone(),
            path: if self.on {
                request.uri().path().into()
            } else {
                "".into()
            },
            status: 0,
            bytes: 0,
            on: self.on,
        };
        AccessLogFuture {
            inner: self.inner.call(request),
            line: Some(line),
        }
    }
}

impl<F, Res, E> Future for AccessLogFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Line>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let mut line = this.line.take().expect("polled once");
        line.status = response.status().as_u16();
        Poll::Ready(Ok(response.map(|body| Tracked::new(body, line))))
    }
}

impl Track for Line {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
    }

    fn end(mut self, end: End<'_>) {
        let cut = match end {
            End::Complete => "",
            End::Failed(_) => "failed",
            End::Dropped => "dropped",
        };
        self.write(cut);
    }
}

impl Drop for Line {
    /// Without a response: the client went away before.
    fn drop(&mut self) {
        self.write("dropped");
    }
}

impl Line {
    fn write(&mut self, cut: &'static str) {
        if !std::mem::replace(&mut self.on, false)
            || self.exchange.is_handed_over()
            || !tracing::enabled!(target: "ziggurat::access", tracing::Level::INFO)
        {
            return;
        }
        let messages = self
            .exchange
            .asked()
            .map(|call| call.messages())
            .unwrap_or_default();
        let operations = messages.iter().filter(|m| m.method.is_some());
        let mut written = false;
        for message in operations {
            self.event(Some(message), cut);
            written = true;
        }
        if !written {
            self.event(None, cut);
        }
    }

    fn event(&self, message: Option<&MessageFacts>, cut: &str) {
        let Self { exchange, .. } = self;
        let endpoint = exchange.endpoint();
        let call = exchange.asked();
        let answered = exchange.response().answer();
        let error = match (exchange.fault(), answered) {
            (Some(fault), _) => fault,
            (None, Some(Answer::ToolError)) => "tool_error",
            (None, Some(Answer::Error(_))) => "error",
            (None, Some(Answer::Result) | None) => "",
        };
        let code = match answered {
            Some(Answer::Error(code)) => Some(code),
            Some(Answer::Result | Answer::ToolError) | None => None,
        };
        let took = exchange.started().elapsed();
        tracing::info!(
            target: "ziggurat::access",
            request_id = exchange.id(),
            client = exchange.client().and_then(|c| c.text().to_str().ok()).map(tracing::field::display),
            route = exchange.route().map(|r| &*r.name),
            upstream = endpoint.as_ref().map(|e| &*e.upstream),
            endpoint = endpoint.as_ref().map(|e| &*e.endpoint),
            http = self.method.as_str(),
            path = message.is_none().then_some(&*self.path),
            method = message.and_then(|m| m.method.as_ref()).map(|m| m.as_str()),
            tool = message.and_then(|m| m.tool()),
            era = call.map(|c| c.era.as_str()),
            status = self.status,
            error = (!error.is_empty()).then_some(error),
            code,
            cut = (!cut.is_empty() && !exchange.is_answered()).then_some(cut),
            ms = milliseconds(took),
            upstream_ms = milliseconds(exchange.upstream_time()),
            attempts = exchange.attempts(),
            bytes = self.bytes,
            outcome_unknown = (exchange.outcome() == Some(Outcome::Unknown)).then_some(true),
        );
    }
}

/// With three digits: what is beyond them is noise, and a line that is longer.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
