//! Ends what is open when the proxy shuts down, so that nobody loses more than they must.
//!
//! Two signals ([`CancellationToken`]s) drive it. At *draining*, standing event streams end: a legacy GET stream gets `retry:`
//! (1 to 3 s, so that clients do not all come back at once) and closes; a `subscriptions/listen` just closes. Calls go on, also those whose rest comes on
//! a GET, and streams that end by themselves once their calls have ([`EndsByItself`]). At *closing*, calls that are still in flight fail with [`Draining`], so
//! that each gets a clear answer; a GET that resumes one has no id to answer, and its connection breaks.
//!
//! Place: directly inside rescue. Readiness: the inner service's. Errors: [`Draining`], from the call or as the error of its body; the
//! exchange is told before ([`GiveUp::Drain`]). Bodies: forwarded.
//!
//! ```
//! use tokio_util::sync::CancellationToken;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, drain::{DrainLayer, DrainSignals}};
//!
//! let signals = DrainSignals { draining: CancellationToken::new(), closing: CancellationToken::new() };
//! let service = ServiceBuilder::new()
//!     .layer(DrainLayer::new(signals))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};

use crate::{
    error::BoxError,
    exchange::{Exchange, GiveUp},
    mcp::Verb,
    observe::Media,
};

/// The two signals of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct DrainSignals {
    /// Standing streams are to end.
    pub draining: CancellationToken,
    /// Everything is to end.
    pub closing: CancellationToken,
}

/// Ends streams and calls on signals.
#[derive(Debug, Clone)]
pub struct DrainLayer {
    signals: DrainSignals,
}

/// The service of [`DrainLayer`].
#[derive(Debug, Clone)]
pub struct Drain<S> {
    inner: S,
    signals: DrainSignals,
}

/// The future of [`Drain`].
#[pin_project]
pub struct DrainFuture<F> {
    #[pin]
    inner: F,
    #[pin]
    closing: Option<WaitForCancellationFutureOwned>,
    signals: DrainSignals,
    exchange: Arc<Exchange>,
}

/// The response body of [`Drain`].
#[pin_project]
pub struct DrainBody<B> {
    #[pin]
    inner: B,
    signal: CancellationToken,
    #[pin]
    wait: Option<WaitForCancellationFutureOwned>,
    exchange: Arc<Exchange>,
    how: How,
}

/// In the extensions of a response: its body obeys the signals by itself, since it carries calls that are to finish first.
#[derive(Debug, Clone, Copy)]
pub struct EndsByItself;

/// The proxy is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proxy is shutting down")]
pub struct Draining {
    /// An upstream was asked.
    pub sent: bool,
}

/// How a body ends at its signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// With `retry:`, then as if by itself.
    Stream,
    /// With an error.
    Call,
    /// Not here.
    Itself,
    /// It has ended.
    Over,
}

impl DrainLayer {
    /// A layer that obeys these signals.
    pub fn new(signals: DrainSignals) -> Self {
        Self { signals }
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Drain<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Drain {
            inner,
            signals: self.signals.clone(),
        }
    }
}

impl<S, Req, Res> Service<Request<Req>> for Drain<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<DrainBody<Res>>;
    type Error = BoxError;
    type Future = DrainFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        DrainFuture {
            inner: self.inner.call(request),
            closing: None,
            signals: self.signals.clone(),
            exchange,
        }
    }
}

impl<F, Res, E> Future for DrainFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<DrainBody<Res>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            let response = result.map_err(Into::into)?;
            let events = Media::of(response.headers()) == Media::Events;
            let standing = this.exchange.call().is_none_or(|call| call.is_standing())
                && !this.exchange.response().resumes_call();
            let itself = response.extensions().get::<EndsByItself>().is_some();
            let (how, signal) = if itself {
                (How::Itself, &this.signals.closing)
            } else if events && standing {
                (How::Stream, &this.signals.draining)
            } else {
                (How::Call, &this.signals.closing)
            };
            return Poll::Ready(Ok(response.map(|inner| DrainBody {
                inner,
                signal: signal.clone(),
                wait: None,
                exchange: this.exchange.clone(),
                how,
            })));
        }
        if this.closing.is_none() {
            let wait = this.signals.closing.clone().cancelled_owned();
            this.closing.set(Some(wait));
        }
        match this.closing.as_pin_mut().map(|wait| wait.poll(cx)) {
            Some(Poll::Ready(())) => {
                this.exchange.give_up(GiveUp::Drain);
                let sent = this.exchange.attempts() > 0;
                Poll::Ready(Err(Draining { sent }.into()))
            }
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

impl<B> HttpBody for DrainBody<B>
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
        let mut this = self.project();
        if *this.how == How::Over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        if *this.how == How::Itself {
            return Poll::Pending;
        }
        if this.wait.is_none() {
            let wait = this.signal.clone().cancelled_owned();
            this.wait.set(Some(wait));
        }
        match this.wait.as_pin_mut().map(|wait| wait.poll(cx)) {
            Some(Poll::Ready(())) => {}
            Some(Poll::Pending) | None => return Poll::Pending,
        }
        this.exchange.give_up(GiveUp::Drain);
        let how = std::mem::replace(this.how, How::Over);
        if how == How::Call {
            return Poll::Ready(Some(Err(Draining { sent: true }.into())));
        }
        // A plain SSE stream and a GET stream of MCP have clients that come back by themselves.
        let returns = this
            .exchange
            .call()
            .is_none_or(|call| call.verb == Verb::Get);
        Poll::Ready(
            (returns && this.exchange.response().at_boundary()).then(|| {
                let retry = 1000 + fastrand::u32(..2000);
                Ok(Frame::data(Bytes::from(format!("retry: {retry}\n\n"))))
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.how == How::Over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.how {
            How::Call | How::Itself => self.inner.size_hint(),
            How::Stream | How::Over => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{Body, error, mcp::CallFacts};

    async fn open(verb: http::Method, signals: &DrainSignals) -> Pin<Box<DrainBody<Body>>> {
        let service =
            DrainLayer::new(signals.clone()).layer(service_fn(async |_: Request<Body>| {
                let never = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
                let response = Response::builder().header("content-type", "text/event-stream");
                Ok::<_, BoxError>(
                    response
                        .body(Body::new(StreamBody::new(never)))
                        .expect("valid"),
                )
            }));
        let mut request = Request::new(Body::empty());
        let exchange = Exchange::of(&mut request);
        let call = Bytes::from_static(br#"{"id":1,"method":"tools/call"}"#);
        exchange.set_call(CallFacts::read(&verb, request.headers(), &call).expect("a call"));
        exchange.response().observe(&crate::waits::Waits::default());
        Box::pin(service.oneshot(request).await.expect("a head").into_body())
    }

    #[tokio::test]
    async fn a_standing_stream_is_told_to_come_back_and_ends() {
        let signals = DrainSignals::default();
        let mut body = open(http::Method::GET, &signals).await;
        signals.draining.cancel();
        let last = body
            .frame()
            .await
            .expect("a frame")
            .expect("no error")
            .into_data()
            .expect("data");
        assert!(last.starts_with(b"retry: ") && last.ends_with(b"\n\n"));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_call_goes_on_until_closing_and_then_fails_clearly() {
        let signals = DrainSignals::default();
        let mut body = open(http::Method::POST, &signals).await;
        signals.draining.cancel();
        assert!(futures_util::poll!(body.frame()).is_pending());
        signals.closing.cancel();
        let error = body.frame().await.expect("a frame").expect_err("cut");
        assert_eq!(error::find(&*error), Some(&Draining { sent: true }));
        assert_eq!(body.exchange.gave_up(), Some(GiveUp::Drain));
    }
}
