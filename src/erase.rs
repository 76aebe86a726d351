//! Where types meet: bodies of every kind become [`Body`].

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use pin_project::pin_project;
use tower::Service;
use ziggurat_layers::{Body, BoxError};

/// A service whose response body becomes [`Body`].
#[derive(Clone, Debug)]
pub(crate) struct Erase<S> {
    inner: S,
}

/// The future of [`Erase`].
#[pin_project]
pub(crate) struct EraseFuture<F>(#[pin] F);

/// `service`, with [`Body`] as its response body.
pub(crate) fn erase<S>(service: S) -> Erase<S> {
    Erase { inner: service }
}

impl<S, Req, B> Service<Req> for Erase<S>
where
    S: Service<Req, Response = Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = EraseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        EraseFuture(self.inner.call(request))
    }
}

impl<F, B, E> Future for EraseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().0.poll(cx))?;
        Poll::Ready(Ok(response.map(Body::new)))
    }
}
