//! The clocks of one attempt: until the response head, and between frames.
//!
//! `head` runs from the call to the response head; `idle` runs while the body is silent. On an MCP event stream only
//! messages count as a sign of life, comments do not. Neither runs on a standing stream (GET, `subscriptions/listen`), on an
//! upgraded connection, nor while a request of the server waits for its client's answer. On MCP both are off by default, since the
//! route's [`deadline`](crate::deadline) rules there; on plain HTTP they are the upstream's. (The connect clock belongs to the HTTP upstream.)
//!
//! Place: at the endpoint, inside the circuit breaker, so that a timeout counts as a failure. Readiness: the inner
//! service's. Errors: [`HeadTimeout`], and [`IdleTimeout`] as the error of the response body; the exchange is told before. Bodies:
//! forwarded; a finished answer wins over the clock.
//!
//! ```
//! use std::time::Duration;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, timeout::{TimeoutLayer, TimeoutSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(TimeoutSettings {
//!         head: Some(Duration::from_secs(60)),
//!         idle: Some(Duration::from_secs(300)),
//!     }))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::{
    by_tool::ByTool,
    clock::{self, Clock},
    error::BoxError,
    exchange::{Exchange, GiveUp},
};

/// The two times; `None` is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// Until the response head.
    pub head: Option<Duration>,
    /// Between two frames (on MCP: messages) of the body.
    pub idle: Option<Duration>,
}

/// Gives up attempts that are silent for too long.
#[derive(Debug, Clone, Default)]
pub struct TimeoutLayer {
    settings: ByTool<TimeoutSettings>,
}

/// The service of [`TimeoutLayer`].
#[derive(Debug, Clone)]
pub struct Timeout<S> {
    inner: S,
    settings: ByTool<TimeoutSettings>,
}

/// The future of [`Timeout`].
#[pin_project]
pub struct TimeoutFuture<F> {
    #[pin]
    inner: F,
    head: Option<(Duration, Clock)>,
    idle: Option<Duration>,
    exchange: Arc<Exchange>,
    start: Instant,
}

/// The response body of [`Timeout`].
#[pin_project]
pub struct TimeoutBody<B> {
    #[pin]
    inner: B,
    idle: Option<Idle>,
}

/// No response head came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream sent no response head within {limit:?}")]
pub struct HeadTimeout {
    /// The limit.
    pub limit: Duration,
}

/// The response stopped in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream was silent for {limit:?} in the middle of its response")]
pub struct IdleTimeout {
    /// The limit.
    pub limit: Duration,
}

#[derive(Debug)]
struct Idle {
    limit: Duration,
    clock: Clock,
    exchange: Arc<Exchange>,
    last: Instant,
}

// === impl TimeoutLayer ===

impl TimeoutLayer {
    /// A layer with these settings, for all calls or by tool.
    pub fn new(settings: impl Into<ByTool<TimeoutSettings>>) -> Self {
        Self {
            settings: settings.into(),
        }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout {
            inner,
            settings: self.settings.clone(),
        }
    }
}

// === impl Timeout ===

impl<S, Req, Res> Service<Request<Req>> for Timeout<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<TimeoutBody<Res>>;
    type Error = BoxError;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let off = exchange.call().is_some_and(|call| call.is_standing());
        let TimeoutSettings { head, idle } = if off {
            TimeoutSettings::default()
        } else {
            *self.settings.of_exchange(&exchange)
        };
        TimeoutFuture {
            inner: self.inner.call(request),
            head: head.map(|limit| (limit, Clock::default())),
            idle,
            exchange,
            start: Instant::now(),
        }
    }
}

impl<F, Res, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<TimeoutBody<Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            let response = result.map_err(Into::into)?;
            let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let idle = this.idle.filter(|_| !upgraded).map(|limit| Idle {
                limit,
                clock: Clock::default(),
                exchange: this.exchange.clone(),
                last: Instant::now(),
            });
            return Poll::Ready(Ok(response.map(|inner| TimeoutBody { inner, idle })));
        }
        let Some((limit, clock)) = this.head else {
            return Poll::Pending;
        };
        let limit = *limit;
        clock
            .poll(cx, || clock::due(this.exchange, *this.start, limit))
            .map(|()| {
                this.exchange.give_up(GiveUp::Timeout);
                Err(HeadTimeout { limit }.into())
            })
    }
}

// === impl TimeoutBody ===

impl<B> HttpBody for TimeoutBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            if let Some(idle) = this.idle {
                idle.last = Instant::now();
            }
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        match this.idle {
            Some(idle) if !(idle.exchange.call().is_some() && idle.exchange.is_answered()) => {
                idle.poll(cx).map(|error| Some(Err(error.into())))
            }
            Some(_) | None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<IdleTimeout> {
        let Self {
            limit,
            clock,
            exchange,
            last,
        } = self;
        let limit = *limit;
        let since = || match exchange.call() {
            Some(_) => exchange.last_event().unwrap_or(*last),
            None => *last,
        };
        clock
            .poll(cx, || clock::due(exchange, since(), limit))
            .map(|()| {
                exchange.give_up(GiveUp::Timeout);
                IdleTimeout { limit }
            })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{Body, by_tool::tests::calls, error};

    const SETTINGS: TimeoutSettings = TimeoutSettings {
        head: Some(Duration::from_secs(2)),
        idle: Some(Duration::from_secs(5)),
    };

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_fails_the_call() {
        let service = TimeoutLayer::new(SETTINGS).layer(service_fn(async |_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, BoxError>>().await
        }));
        let mut request = Request::new(Body::empty());
        let exchange = Exchange::of(&mut request);
        let error = service
            .oneshot(request)
            .await
            .map(|_| ())
            .expect_err("too late");
        assert_eq!(
            error::find(&*error),
            Some(&HeadTimeout {
                limit: Duration::from_secs(2)
            })
        );
        assert_eq!(exchange.gave_up(), Some(GiveUp::Timeout));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_long_but_not_be_silent() {
        let service = TimeoutLayer::new(SETTINGS).layer(service_fn(async |_: Request<Body>| {
            let stream = futures_util::stream::unfold(0, async |n| {
                tokio::time::sleep(Duration::from_secs(if n < 9 { 4 } else { 6 })).await;
                Some((
                    Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))),
                    n + 1,
                ))
            });
            Ok::<_, BoxError>(Response::new(Body::new(http_body_util::StreamBody::new(
                stream,
            ))))
        }));
        let mut body = service
            .oneshot(Request::new(Body::empty()))
            .await
            .expect("a head")
            .into_body();
        let mut frames = 0;
        let error = loop {
            match body.frame().await.expect("endless") {
                Ok(_) => frames += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(frames, 9);
        assert!(error::find::<IdleTimeout>(&*error).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_may_have_clocks_of_its_own() {
        let patient = TimeoutSettings {
            head: Some(Duration::from_secs(600)),
            idle: None,
        };
        let settings = ByTool::new(SETTINGS, [("slow_*".into(), patient)]);
        let service = TimeoutLayer::new(settings).layer(service_fn(async |_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, BoxError>>().await
        }));
        for (tools, limit) in [
            (&["slow_report"][..], 600),
            (&["search"], 2),
            (&["slow_report", "search"], 2),
        ] {
            let answer = service.clone().oneshot(calls(tools)).await;
            let error = answer.map(|_| ()).expect_err("too late");
            let late: &HeadTimeout = error::find(&*error).expect("its clock");
            assert_eq!(late.limit, Duration::from_secs(limit), "{tools:?}");
        }
    }
}
