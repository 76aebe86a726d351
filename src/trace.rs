//! One span for each exchange, with its request id, so that what is logged below can be brought together.
//!
//! The span is made at DEBUG, so that it costs nothing where nobody reads it; events at WARN and above carry the request id themselves.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use pin_project::pin_project;
use tower::{Layer, Service};
use tracing::Span;
use ziggurat_layers::exchange::Exchange;

/// Enters a span for each exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TraceLayer;

/// The service of [`TraceLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Trace<S> {
    inner: S,
}

/// The future of [`Trace`].
#[pin_project]
pub(crate) struct TraceFuture<F> {
    #[pin]
    inner: F,
    span: Span,
}

impl TraceLayer {
    /// The layer. It has no settings.
    pub(crate) fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Trace { inner }
    }
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request_id = Exchange::get(&request).map(|e| e.id());
        let span = tracing::debug_span!("exchange", request_id, http = %request.method());
        let inner = span.in_scope(|| self.inner.call(request));
        TraceFuture { inner, span }
    }
}

impl<F: Future> Future for TraceFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        this.inner.poll(cx)
    }
}
