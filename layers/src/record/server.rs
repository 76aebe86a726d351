//! Calls as the client saw them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::metrics::{Counter, Gauge, Histogram};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use super::{cancelled_by, verdict};
use crate::{
    body::{End, Track, Tracked},
    error::BoxError,
    exchange::Exchange,
    metrics::{Operations, Requests, Tools, UpWhile, counter, gauge, histogram, names},
    observe::Media,
};

/// Counts calls as clients see them.
#[derive(Debug, Clone)]
pub struct ServerRecordLayer {
    meters: Arc<Meters>,
    streams: bool,
}

/// The service of [`ServerRecordLayer`].
#[derive(Debug, Clone)]
pub struct ServerRecord<S> {
    inner: S,
    meters: Arc<Meters>,
    streams: bool,
}

/// The future of [`ServerRecord`].
#[pin_project]
pub struct ServerRecordFuture<F> {
    #[pin]
    inner: F,
    call: Option<ServerCall>,
}

/// A call that is being counted; rides on its response body.
#[derive(Debug)]
pub struct ServerCall {
    exchange: Arc<Exchange>,
    meters: Arc<Meters>,
    method: Method,
    status: u16,
    streams: bool,
    stream: Option<UpWhile>,
    over: bool,
}

#[derive(Debug)]
struct Meters {
    routes: HashMap<Box<str>, Route, foldhash::fast::RandomState>,
    none: Route,
    streams: Gauge,
    cancelled: [(&'static str, Counter); 5],
}

#[derive(Debug)]
struct Route {
    operations: Operations,
    requests: Requests,
    overhead: Histogram,
}

impl ServerRecordLayer {
    /// A layer that knows the routes of these names; a request that reaches none is counted under an empty name.
    pub fn new<'a>(routes: impl IntoIterator<Item = &'a str>, tools: &Tools) -> Self {
        let cancelled = ["client", "timeout", "operator", "drain", "proxy"]
            .map(|origin| (origin, counter(names::CANCELLATIONS, &[("origin", origin)])));
        Self {
            meters: Arc::new(Meters {
                routes: routes
                    .into_iter()
                    .map(|name| (name.into(), Route::new(name, tools)))
                    .collect(),
                none: Route::new("", tools),
                streams: gauge(names::SSE_STREAMS, &[("direction", "downstream")]),
                cancelled,
            }),
            streams: true,
        }
    }

    /// Counts operations alone: their responses go to a stream that another layer of this kind counts.
    #[must_use]
    pub fn without_streams(self) -> Self {
        Self {
            streams: false,
            ..self
        }
    }
}

impl Route {
    fn new(name: &str, tools: &Tools) -> Self {
        let label = [("route", name)];
        Self {
            operations: Operations::new(names::SERVER_OPERATION, &label, true, tools.clone()),
            requests: Requests::new(names::SERVER_REQUEST, "route", name),
            overhead: histogram(names::OVERHEAD, &label),
        }
    }
}

impl<S> Layer<S> for ServerRecordLayer {
    type Service = ServerRecord<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerRecord {
            inner,
            meters: self.meters.clone(),
            streams: self.streams,
        }
    }
}

impl<S, Req, Res> Service<Request<Req>> for ServerRecord<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, ServerCall>>;
    type Error = S::Error;
    type Future = ServerRecordFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let call = ServerCall {
            exchange: Exchange::of(&mut request),
            meters: self.meters.clone(),
            method: request.method().clone(),
            status: 0,
            streams: self.streams,
            stream: None,
            over: false,
        };
        ServerRecordFuture {
            inner: self.inner.call(request),
            call: Some(call),
        }
    }
}

impl<F, Res, E> Future for ServerRecordFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, ServerCall>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let mut call = this.call.take().expect("polled once");
        call.status = response.status().as_u16();
        if call.streams && Media::of(response.headers()) == Media::Events {
            call.stream = Some(UpWhile::new(&call.meters.streams));
        }
        Poll::Ready(Ok(response.map(|body| Tracked::new(body, call))))
    }
}

impl ServerCall {
    fn finish(&mut self, end: Option<&End<'_>>) {
        if std::mem::replace(&mut self.over, true) || self.exchange.is_handed_over() {
            return;
        }
        let Self {
            exchange, meters, ..
        } = self;
        let route = exchange
            .route()
            .and_then(|r| meters.routes.get(&*r.name))
            .unwrap_or(&meters.none);
        let took = exchange.started().elapsed();
        let error = verdict(exchange, self.status, end);
        let mut counted = false;
        if let Some(call) = exchange.asked() {
            for message in call.messages().iter().filter(|m| m.method.is_some()) {
                route.operations.record(message, call.era, error, took);
                counted = true;
            }
        }
        if !counted {
            route.requests.record(&self.method, self.status, took);
        }
        if exchange.attempts() > 0 {
            route
                .overhead
                .record(took.saturating_sub(exchange.upstream_time()).as_secs_f64());
        }
        if let Some(origin) = cancelled_by(exchange, end)
            && let Some((_, counter)) = meters.cancelled.iter().find(|(name, _)| *name == origin)
        {
            counter.increment(1);
        }
    }
}

impl Track for ServerCall {
    fn end(mut self, end: End<'_>) {
        self.finish(Some(&end));
    }
}

impl Drop for ServerCall {
    /// Without a response: the client went away before there was one.
    fn drop(&mut self) {
        self.finish(None);
    }
}
