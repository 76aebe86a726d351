//! A cap on request bodies.
//!
//! A request whose `Content-Length` is over the cap is refused before anything is read; a body of unknown length is counted as it
//! passes, one whose length is known and allowed passes as it is. `None` is off.
//!
//! Place: the server terrace, outside everything that reads a body. Readiness: the inner service's. Errors:
//! [`BodyTooLarge`], from the call or as the error of the request body; whoever reads that body hands it on as a
//! cause. Bodies: requests are counted, responses untouched.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, body_limit::BodyLimitLayer};
//!
//! let service = ServiceBuilder::new()
//!     .layer(BodyLimitLayer::new(Some(4 << 20)))
//!     .service(service_fn(async |_: http::Request<Body>| {
//!         Ok::<_, BoxError>(http::Response::new(Body::empty()))
//!     }));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

pub use crate::cap::BodyTooLarge;
use crate::{
    Body,
    cap::{self, Capped},
    error::BoxError,
};

/// Caps request bodies. `None` is off.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimitLayer {
    limit: Option<u64>,
}

/// The service of [`BodyLimitLayer`].
#[derive(Debug, Clone)]
pub struct BodyLimit<S> {
    inner: S,
    limit: Option<u64>,
}

/// The future of [`BodyLimit`].
#[pin_project]
pub struct BodyLimitFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProj)]
enum State<F> {
    Refused(BodyTooLarge),
    Admitted(#[pin] F),
}

// === impl BodyLimitLayer ===

impl BodyLimitLayer {
    /// A layer that lets bodies of at most `limit` bytes pass; `None` turns it off.
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BodyLimit {
            inner,
            limit: self.limit,
        }
    }
}

// === impl BodyLimit ===

impl<S, B> Service<Request<B>> for BodyLimit<S>
where
    S: Service<Request<Body>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BodyLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let checked = match self.limit {
            Some(limit) => cap::check(&request, limit),
            None => Ok(()),
        };
        BodyLimitFuture(match checked {
            Err(refused) => State::Refused(refused),
            Ok(()) => {
                let request = request.map(|body| match self.limit {
                    // A transport holds a body to the length that it says.
                    Some(limit) if body.size_hint().upper().is_none_or(|most| most > limit) => {
                        Body::new(Capped::new(body, Some(limit)))
                    }
                    Some(_) | None => Body::new(body),
                });
                State::Admitted(self.inner.call(request))
            }
        })
    }
}

impl<F, T, E> Future for BodyLimitFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Refused(refused) => Poll::Ready(Err((*refused).into())),
            StateProj::Admitted(inner) => inner.poll(cx).map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests;
