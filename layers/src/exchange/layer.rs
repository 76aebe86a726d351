//! The layer that puts the exchange there.

use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use super::Exchange;

/// Puts an [`Exchange`] into each request that has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExchangeLayer;

/// The service of [`ExchangeLayer`].
#[derive(Debug, Clone)]
pub struct SetExchange<S> {
    inner: S,
}

// === impl ExchangeLayer ===

impl ExchangeLayer {
    /// The layer. It has no settings.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for ExchangeLayer {
    type Service = SetExchange<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SetExchange { inner }
    }
}

impl<S, B> Service<Request<B>> for SetExchange<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let _exchange = Exchange::of(&mut request);
        self.inner.call(request)
    }
}
