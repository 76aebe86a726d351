//! Goes on with an event stream that broke, so that its client never notices.
//!
//! When an upstream's legacy event stream (or, without MCP, a GET whose `Accept` names event streams) breaks before its end, the rest is asked for with a
//! GET and `Last-Event-ID`, and comes in the same response body. The GET takes the same way as the first request did, with its URL, session,
//! revision and credentials.
//!
//! | stream | what is a break | and without any id |
//! | --- | --- | --- |
//! | the answer to a call | an error, or the end before the last answer | the call fails, as without this layer |
//! | a GET stream of MCP | an error; its end is the server's word | it is opened anew |
//! | plain server-sent events | an error | it fails |
//!
//! A server of 2025-11-25 may end the stream of a call after an event with an id and a `retry:`, for its client to ask again (transports, "Sending
//! Messages to the Server"). A client of that revision knows it, so that the end passes; for others this layer asks again after that time, which
//! is no failure and no try. The modern era has no ids, and is never resumed. Neither is a stream of which part of an event has
//! passed, or one that was given up.
//!
//! When to try, and for how long, stands in [`ResumeSettings`]: an exponential pause with full jitter on top of the server's
//! `retry:`. An answer that says that there is nothing to resume (a 4xx that is not for the moment, another media type) ends the tries at once.
//! When they end, what broke the stream is what its reader sees; but a GET stream whose session is gone (404) just ends, so that its client finds that out with
//! its next request. An event that the upstream repeats (its id is that of the one delivered last) is left out by the
//! [observer](crate::observe), which also says which ids passed; without one below, nothing is resumed.
//!
//! Place: at the endpoint, above the observer, below the clocks, which go on running. Readiness: the inner service's; a clone
//! of it, kept for each such request, is made ready when the rest is asked for. Of a call that is given up during a pause the service learns by such a
//! request, which it is given and which is dropped unpolled. Errors: none of its own. Bodies: forwarded; the body owns its
//! reconnecting, so that dropping it ends everything. Allocations: one for each request whose answer may be such a stream, another for each stream; a timer
//! only once one broke.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, observe::ObserveLayer, resume::{ResumeLayer, ResumeSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(ResumeLayer::new("tools", Some(ResumeSettings::default())))
//!     .layer(ObserveLayer::new("tools"))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod asking;
mod body;
mod schedule;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::metrics::Counter;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use self::{asking::Head, body::Life};
pub use self::{body::ResumeBody, schedule::ResumeSettings};
use crate::{
    error::BoxError,
    exchange::Exchange,
    metrics::{counter, names},
    observe::Media,
};

/// Resumes the event streams of one upstream.
#[derive(Debug, Clone)]
pub struct ResumeLayer {
    shared: Option<Arc<Shared>>,
}

/// The service of [`ResumeLayer`].
#[derive(Debug, Clone)]
pub struct Resume<S> {
    inner: S,
    shared: Option<Arc<Shared>>,
}

/// The future of [`Resume`].
#[pin_project]
pub struct ResumeFuture<S: Service<Request<Req>>, Req> {
    #[pin]
    inner: S::Future,
    kept: Option<Kept<S>>,
}

/// What is kept of a request, should its answer be a stream that breaks.
struct Kept<S> {
    service: S,
    head: Head,
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: ResumeSettings,
    meters: Meters,
}

/// How resuming went.
#[derive(Debug)]
struct Meters {
    /// The stream goes on where it broke.
    resumed: Counter,
    /// It begins anew.
    reopened: Counter,
    /// It goes on where the server had ended it for a while.
    polled: Counter,
    /// The upstream says that it cannot go on.
    refused: Counter,
    /// Too many tries, or too much time.
    gave_up: Counter,
}

// === impl ResumeLayer ===

impl ResumeLayer {
    /// A layer for the upstream of this name, which is the label of its metrics. Without settings it is off.
    pub fn new(upstream: &str, settings: Option<ResumeSettings>) -> Self {
        let meter = |outcome| {
            counter(
                names::RESUMES,
                &[("upstream", upstream), ("outcome", outcome)],
            )
        };
        Self {
            shared: settings.map(|settings| {
                Arc::new(Shared {
                    settings,
                    meters: Meters {
                        resumed: meter("resumed"),
                        reopened: meter("reopened"),
                        polled: meter("polled"),
                        refused: meter("refused"),
                        gave_up: meter("gave_up"),
                    },
                })
            }),
        }
    }
}

impl<S> Layer<S> for ResumeLayer {
    type Service = Resume<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Resume {
            inner,
            shared: self.shared.clone(),
        }
    }
}

// === impl Resume ===

impl<S, Req, Res> Service<Request<Req>> for Resume<S>
where
    S: Service<Request<Req>, Response = Response<Res>> + Clone,
    S::Error: Into<BoxError>,
    Req: Default,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<ResumeBody<S, Req, Res>>;
    type Error = BoxError;
    type Future = ResumeFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let kept = self.shared.as_ref().and_then(|shared| {
            let exchange = Exchange::of(&mut request);
            let head = Head::of(&request, &exchange)?;
            Some(Kept {
                // Not the instance that is ready, which makes this call.
                service: self.inner.clone(),
                head,
                exchange,
                shared: shared.clone(),
            })
        });
        ResumeFuture {
            inner: self.inner.call(request),
            kept,
        }
    }
}

// === impl ResumeFuture ===

impl<S, Req, Res> Future for ResumeFuture<S, Req>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Req: Default,
{
    type Output = Result<Response<ResumeBody<S, Req, Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx)).map_err(Into::into)?;
        let events =
            response.status() == StatusCode::OK && Media::of(response.headers()) == Media::Events;
        let life = this.kept.take().filter(|_| events).map(|mut kept| {
            kept.head.began(response.headers());
            kept.head.detach();
            Box::new(Life::new(kept))
        });
        Poll::Ready(Ok(response.map(|inner| ResumeBody::new(inner, life))))
    }
}

#[cfg(test)]
mod tests;
