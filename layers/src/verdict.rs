//! The verdict: how an attempt at an endpoint went, judged in one place.
//!
//! Breaker, outlier ejection, load meter and retry all ask the same question; [`Judge`] answers it, and [`Watched`] sees to it
//! that each attempt is judged exactly once, whichever way it ends.
//!
//! | what happened | verdict |
//! | --- | --- |
//! | an error for which the upstream is to blame (connection, clock, broken answer, a program that does not start) | failure |
//! | a server program that went away under the call: another takes its place, and one call may have been too much for it | neutral |
//! | an error that none of our layers makes | failure |
//! | an error for which the client or the proxy's own limits are to blame | neutral |
//! | an event stream that ended without the answer to its call | failure |
//! | status 5xx | failure |
//! | a JSON-RPC error, a result with `isError` | success, or failure by setting |
//! | given up because a clock ran out, also one outside the endpoint | failure |
//! | given up by the client, the operator, a drain or the proxy, or dropped before the end | neutral |
//! | anything else that came to its end | success |
//!
//! A 501 is a success: it says what the server cannot do, and would say so again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use pin_project::pin_project;

use crate::{
    body::{End, Track, Tracked},
    error::BoxError,
    exchange::{Exchange, GiveUp},
    fault::{Blame, Fault},
    mcp::peek::Answer,
    rescue::Row,
};

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint did its work.
    Success,
    /// It did not.
    Failure,
    /// Nothing was learnt of it.
    Neutral,
}

/// Judges attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judge {
    /// A JSON-RPC error is a failure. Default: no, since most are the caller's mistakes.
    pub rpc_errors: bool,
    /// A tool result with `isError` is a failure. Default: no.
    pub tool_errors: bool,
}

/// What wants to know how one attempt goes. Lives as long as the attempt, so it may hold a permit.
pub trait Watch {
    /// The response head came.
    fn head(&mut self, _status: StatusCode) {}

    /// The attempt is over. Called exactly once.
    fn end(self, verdict: Verdict);
}

/// A future that watches its attempt: until the head itself, then from the response body.
#[pin_project]
pub struct Watched<F, W: Watch> {
    #[pin]
    inner: F,
    attempt: Option<Attempt<W>>,
}

/// An attempt that is being watched; rides on its response body.
#[derive(Debug)]
pub struct Attempt<W: Watch> {
    watch: Option<W>,
    judge: Judge,
    exchange: Arc<Exchange>,
    status: StatusCode,
}

// === impl Judge ===

impl Judge {
    /// Of an attempt that ended with this error.
    pub fn error(&self, error: &BoxError) -> Verdict {
        let fault = Fault::of(&**error);
        if fault == Fault::Bug {
            // Not one of ours: the inner service's own.
            return Verdict::Failure;
        }
        if matches!(fault, Fault::ServerGone { .. }) {
            return Verdict::Neutral;
        }
        match Row::of(&fault).blame {
            Blame::Upstream => Verdict::Failure,
            Blame::Client | Blame::Proxy => Verdict::Neutral,
        }
    }

    /// Of a response head, as far as that alone tells.
    pub fn head(&self, status: StatusCode) -> Verdict {
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            Verdict::Failure
        } else {
            Verdict::Success
        }
    }

    /// Of a response whose body ended.
    pub fn body(&self, exchange: &Exchange, status: StatusCode, end: &End<'_>) -> Verdict {
        if self.head(status) == Verdict::Failure {
            return Verdict::Failure;
        }
        if exchange.is_answered() {
            return match exchange.response().answer() {
                Some(Answer::Error(_)) if self.rpc_errors => Verdict::Failure,
                Some(Answer::ToolError) if self.tool_errors => Verdict::Failure,
                Some(Answer::Result | Answer::ToolError | Answer::Error(_)) | None => {
                    Verdict::Success
                }
            };
        }
        match end {
            End::Complete if exchange.is_left_unanswered() => Verdict::Failure,
            End::Complete => Verdict::Success,
            End::Failed(error) => self.error(error),
            End::Dropped => self.dropped(exchange),
        }
    }

    /// Of an attempt that was dropped before its end.
    pub fn dropped(&self, exchange: &Exchange) -> Verdict {
        match exchange.gave_up() {
            Some(GiveUp::Timeout) => Verdict::Failure,
            Some(GiveUp::Operator | GiveUp::Drain | GiveUp::Proxy) | None => Verdict::Neutral,
        }
    }
}

// === impl Watched ===

impl<F, W: Watch> Watched<F, W> {
    /// Watches `inner`, an attempt of this exchange.
    pub fn new(inner: F, exchange: Arc<Exchange>, judge: Judge, watch: W) -> Self {
        Self {
            inner,
            attempt: Some(Attempt {
                watch: Some(watch),
                judge,
                exchange,
                status: StatusCode::OK,
            }),
        }
    }
}

impl<F, W, Res, E> Future for Watched<F, W>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    W: Watch,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Attempt<W>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        let mut attempt = this.attempt.take().expect("polled once");
        Poll::Ready(match result {
            Err(error) => {
                let verdict = attempt.judge.error(&error);
                attempt.finish(verdict);
                Err(error)
            }
            Ok(response) => {
                attempt.status = response.status();
                if let Some(watch) = &mut attempt.watch {
                    watch.head(response.status());
                }
                Ok(response.map(|body| Tracked::new(body, attempt)))
            }
        })
    }
}

// === impl Attempt ===

impl<W: Watch> Attempt<W> {
    fn finish(&mut self, verdict: Verdict) {
        if let Some(watch) = self.watch.take() {
            watch.end(verdict);
        }
    }
}

impl<W: Watch> Track for Attempt<W> {
    /// The call is over with its last answer, though the stream may stay open a little longer.
    fn frame(&mut self, _frame: &Frame<Bytes>) {
        if self.watch.is_some() && self.exchange.call().is_some() && self.exchange.is_answered() {
            let verdict = self.judge.body(&self.exchange, self.status, &End::Complete);
            self.finish(verdict);
        }
    }

    fn end(mut self, end: End<'_>) {
        let verdict = self.judge.body(&self.exchange, self.status, &end);
        self.finish(verdict);
    }
}

impl<W: Watch> Drop for Attempt<W> {
    /// Dropped before its response head.
    fn drop(&mut self) {
        if self.watch.is_some() {
            let verdict = self.judge.dropped(&self.exchange);
            self.finish(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Request;
    use http_body_util::BodyExt;

    use super::*;
    use crate::{Body, timeout::HeadTimeout};

    type Log = Arc<Mutex<Vec<Verdict>>>;

    struct Note(Log);

    impl Watch for Note {
        fn end(self, verdict: Verdict) {
            self.0.lock().expect("not poisoned").push(verdict);
        }
    }

    fn watched<F>(inner: F, exchange: &Arc<Exchange>) -> (Watched<F, Note>, Log) {
        let log = Log::default();
        let note = Note(log.clone());
        (
            Watched::new(inner, exchange.clone(), Judge::default(), note),
            log,
        )
    }

    fn exchange() -> Arc<Exchange> {
        Exchange::of(&mut Request::new(()))
    }

    fn answer(status: u16) -> Result<Response<Body>, BoxError> {
        let mut response = Response::new(Body::full("x"));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        Ok(response)
    }

    #[tokio::test]
    async fn a_response_is_judged_when_its_body_ends() {
        for (status, verdict) in [
            (200, Verdict::Success),
            (404, Verdict::Success),
            (501, Verdict::Success),
            (500, Verdict::Failure),
            (503, Verdict::Failure),
        ] {
            let (future, log) = watched(std::future::ready(answer(status)), &exchange());
            let response = future.await.expect("a response");
            assert!(log.lock().expect("not poisoned").is_empty());
            response.into_body().collect().await.expect("a body");
            assert_eq!(*log.lock().expect("not poisoned"), [verdict]);
        }
    }

    #[tokio::test]
    async fn an_error_is_judged_by_who_is_to_blame() {
        let silent = HeadTimeout {
            limit: std::time::Duration::from_secs(1),
        };
        let shed = crate::limit::Shed {
            limit: 1,
            what: "calls",
        };
        for (error, verdict) in [
            (BoxError::from("its own"), Verdict::Failure),
            (BoxError::from(silent), Verdict::Failure),
            (BoxError::from(shed), Verdict::Neutral),
        ] {
            let failed = std::future::ready(Err::<Response<Body>, _>(error));
            let (future, log) = watched(failed, &exchange());
            assert!(future.await.is_err());
            assert_eq!(*log.lock().expect("not poisoned"), [verdict]);
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_its_answer_is_a_failure() {
        let exchange = exchange();
        exchange.response().set_ended_unanswered();
        let (future, log) = watched(std::future::ready(answer(200)), &exchange);
        let body = future.await.expect("a response").into_body();
        body.collect().await.expect("no error");
        assert_eq!(*log.lock().expect("not poisoned"), [Verdict::Failure]);
    }

    #[tokio::test]
    async fn what_is_dropped_is_neutral_unless_a_clock_ran_out() {
        for (why, verdict) in [
            (None, Verdict::Neutral),
            (Some(GiveUp::Drain), Verdict::Neutral),
            (Some(GiveUp::Proxy), Verdict::Neutral),
            (Some(GiveUp::Timeout), Verdict::Failure),
        ] {
            let exchange = exchange();
            let pending = std::future::pending::<Result<Response<Body>, BoxError>>();
            let (before_head, log) = watched(pending, &exchange);
            let (after_head, log2) = watched(std::future::ready(answer(200)), &exchange);
            let response = after_head.await.expect("a response");
            if let Some(why) = why {
                exchange.give_up(why);
            }
            drop(before_head);
            drop(response);
            assert_eq!(*log.lock().expect("not poisoned"), [verdict]);
            assert_eq!(*log2.lock().expect("not poisoned"), [verdict]);
        }
    }
}
