//! Attempts as an upstream served them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::metrics::Gauge;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::verdict;
use crate::{
    body::{End, Track, Tracked},
    error::BoxError,
    exchange::{EndpointInfo, Exchange},
    metrics::{ErrorType, Operations, Requests, Tools, UpWhile, gauge, names},
    observe::Media,
};

/// Counts the attempts at one endpoint, and says in the exchange that they go there.
#[derive(Debug, Clone)]
pub struct ClientRecordLayer {
    meters: Arc<Meters>,
}

/// The service of [`ClientRecordLayer`].
#[derive(Debug, Clone)]
pub struct ClientRecord<S> {
    inner: S,
    meters: Arc<Meters>,
}

/// The future of [`ClientRecord`].
#[pin_project]
pub struct ClientRecordFuture<F> {
    #[pin]
    inner: F,
    attempt: Option<Attempt>,
}

/// An attempt that is being counted; rides on its response body.
#[derive(Debug)]
pub struct Attempt {
    exchange: Arc<Exchange>,
    meters: Arc<Meters>,
    method: Method,
    started: Instant,
    status: u16,
    failed: bool,
    over: bool,
    _inflight: Option<UpWhile>,
    stream: Option<UpWhile>,
}

#[derive(Debug)]
struct Meters {
    endpoint: Arc<EndpointInfo>,
    operations: Operations,
    requests: Requests,
    inflight: Gauge,
    streams: Gauge,
}

impl ClientRecordLayer {
    /// A layer for an endpoint of an upstream; `transport` is `tcp` or `pipe`.
    pub fn new(upstream: &str, endpoint: &str, transport: &str, tools: &Tools) -> Self {
        let labels = [("upstream", upstream), ("transport", transport)];
        Self {
            meters: Arc::new(Meters {
                endpoint: Arc::new(EndpointInfo {
                    upstream: upstream.into(),
                    endpoint: endpoint.into(),
                }),
                operations: Operations::new(names::CLIENT_OPERATION, &labels, false, tools.clone()),
                requests: Requests::new(names::CLIENT_REQUEST, "upstream", upstream),
                inflight: gauge(names::INFLIGHT, &[("upstream", upstream)]),
                streams: gauge(names::SSE_STREAMS, &[("direction", "upstream")]),
            }),
        }
    }
}

impl<S> Layer<S> for ClientRecordLayer {
    type Service = ClientRecord<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientRecord {
            inner,
            meters: self.meters.clone(),
        }
    }
}

impl<S, Req, Res> Service<Request<Req>> for ClientRecord<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Attempt>>;
    type Error = BoxError;
    type Future = ClientRecordFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        exchange.attempt(self.meters.endpoint.clone());
        let standing = exchange.call().is_some_and(|call| call.is_standing());
        let attempt = Attempt {
            method: request.method().clone(),
            started: Instant::now(),
            status: 0,
            failed: false,
            over: false,
            _inflight: (!standing).then(|| UpWhile::new(&self.meters.inflight)),
            stream: None,
            exchange,
            meters: self.meters.clone(),
        };
        ClientRecordFuture {
            inner: self.inner.call(request),
            attempt: Some(attempt),
        }
    }
}

impl<F, Res, E> Future for ClientRecordFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Attempt>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        let mut attempt = this.attempt.take().expect("polled once");
        attempt.failed = result.is_err();
        let response = result?;
        attempt.status = response.status().as_u16();
        if Media::of(response.headers()) == Media::Events {
            attempt.stream = Some(UpWhile::new(&attempt.meters.streams));
        }
        Poll::Ready(Ok(response.map(|body| Tracked::new(body, attempt))))
    }
}

impl Attempt {
    fn finish(&mut self, end: Option<&End<'_>>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let Self {
            exchange, meters, ..
        } = self;
        let took = self.started.elapsed();
        exchange.add_upstream_time(took);
        let error = match end {
            None if self.failed && exchange.gave_up().is_none() => ErrorType::Kind("failed"),
            None => verdict(exchange, 0, Some(&End::Dropped)),
            Some(end) => verdict(exchange, self.status, Some(end)),
        };
        let mut counted = false;
        if let Some(call) = exchange.call() {
            for message in call.messages().iter().filter(|m| m.method.is_some()) {
                meters.operations.record(message, call.era, error, took);
                counted = true;
            }
        }
        if !counted {
            meters.requests.record(&self.method, self.status, took);
        }
    }
}

impl Track for Attempt {
    fn end(mut self, end: End<'_>) {
        self.finish(Some(&end));
    }
}

impl Drop for Attempt {
    /// Without a response: it failed, or was dropped before.
    fn drop(&mut self) {
        self.finish(None);
    }
}
