//! The loop: one attempt after another, until one ends the call.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Service, retry::budget::Budget as _};

use super::{
    Shared,
    annotations::Learning,
    judge::{Failed, Reason, Says},
    meters::Outcome,
    replay::Replay,
};
use crate::{
    Body,
    attempt::{Pinned, Tried},
    body::Tracked,
    error::BoxError,
    exchange::{Exchange, GiveUp},
    mcp::Era,
    observe::Media,
};

/// The future of [`Retry`](super::Retry).
#[pin_project]
pub struct RetryFuture<S, F, Res> {
    #[pin]
    state: State<S, F, Res>,
    /// What another attempt needs; none where there is to be none.
    call: Option<Call<S>>,
}

#[pin_project(project = StateProj)]
enum State<S, F, Res> {
    Calling(#[pin] F),
    Pausing(Pin<Box<Sleep>>, Option<Rest<Res>>),
    Readying(S),
    Over,
}

/// What is kept of a call for another attempt.
pub(super) struct Call<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) service: Arc<Mutex<S>>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) parts: Parts,
    pub(super) replay: Replay,
    /// How many attempts were made.
    pub(super) made: u32,
    /// The retry that runs.
    pub(super) running: Option<Running>,
    /// The error so far that says most of the call.
    pub(super) worst: Option<BoxError>,
}

/// A retry that runs; counts how it ended.
pub(super) struct Running {
    shared: Arc<Shared>,
    reason: Reason,
    outcome: Outcome,
}

/// The body of a response that is not passed on: read to its end during the pause if it is short, so that its connection can be used again.
struct Rest<B> {
    body: Pin<Box<B>>,
    room: usize,
}

/// The longest body that is read to its end.
const REST: usize = 64 << 10;

// === impl RetryFuture ===

impl<S, F, Res> RetryFuture<S, F, Res> {
    /// The first attempt.
    pub(super) fn new(attempt: F, call: Option<Call<S>>) -> Self {
        Self {
            state: State::Calling(attempt),
            call,
        }
    }
}

impl<S, Res> Future for RetryFuture<S, S::Future, Res>
where
    S: Service<Request<Body>, Response = Response<Res>> + Clone,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Learning>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let result = match this.state.as_mut().project() {
                StateProj::Calling(attempt) => ready!(attempt.poll(cx)).map_err(Into::into),
                StateProj::Pausing(pause, rest) => {
                    if rest.as_mut().is_some_and(|rest| rest.read(cx).is_ready()) {
                        *rest = None;
                    }
                    ready!(pause.as_mut().poll(cx));
                    *rest = None;
                    let call = this.call.as_ref().expect("a call that pauses is kept");
                    let service = call.service();
                    this.state.set(State::Readying(service));
                    continue;
                }
                StateProj::Readying(service) => match ready!(service.poll_ready(cx)) {
                    Err(error) => Err(error.into()),
                    Ok(()) => {
                        let call = this.call.as_mut().expect("a call that pauses is kept");
                        let attempt = service.call(call.request());
                        this.state.set(State::Calling(attempt));
                        continue;
                    }
                },
                StateProj::Over => panic!("polled after its end"),
            };
            // Taken out, so that nothing is kept beside a response that goes out.
            let Some(mut call) = this.call.take() else {
                return Poll::Ready(result.map(pass));
            };
            // The attempt goes first: it may hold the request body.
            this.state.set(State::Over);
            let Some(pause) = call.next(&result) else {
                return Poll::Ready(call.end(result));
            };
            let rest = call.set_aside(result);
            this.state.set(if pause.is_zero() && rest.is_none() {
                State::Readying(call.service())
            } else {
                State::Pausing(Box::pin(sleep(pause)), rest)
            });
            *this.call = Some(call);
        }
    }
}

/// A response that is nobody's business here.
fn pass<B>(response: Response<B>) -> Response<Tracked<B, Learning>>
where
    B: HttpBody<Data = Bytes>,
{
    response.map(|body| Tracked::new(body, Learning::default()))
}

// === impl Call ===

impl<S: Clone> Call<S> {
    /// A service for another attempt; not ready yet.
    fn service(&self) -> S {
        let service = self.service.lock();
        service.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pause before another attempt; none if there is to be none.
    fn next<B>(&mut self, result: &Result<Response<B>, BoxError>) -> Option<Duration> {
        let failed = match result {
            Ok(response) => Failed::of_head(
                response.status(),
                response.headers(),
                &self.shared.settings.statuses,
            ),
            Err(error) => Failed::of_error(error),
        };
        if let Some(running) = self.running.take() {
            running.ended(failed.is_none() && result.is_ok());
        }
        let failed = failed.filter(|failed| !self.is_vain(failed))?;
        let Shared {
            settings,
            safe,
            budget,
            meters,
        } = &*self.shared;
        let repeatable =
            || safe.may_repeat(&self.exchange, &self.parts.method) && !self.is_cancelled(&failed);
        if !failed.unsent && !repeatable() {
            meters.refused_unsafe.increment(1);
            return None;
        }
        if self.made >= settings.attempts.get() {
            return None;
        }
        let pause = match failed.elsewhere {
            true => Duration::ZERO,
            false => {
                let jitter = settings.backoff.pause(self.made, fastrand::f64());
                failed.wait.unwrap_or_default().saturating_add(jitter)
            }
        };
        let too_long = failed.wait.is_some_and(|wait| wait > settings.retry_after);
        let why_not = if !self.replay.is_there() {
            Outcome::NoBody
        } else if too_long || self.is_late(pause) {
            Outcome::NoTime
        } else if !failed.elsewhere && !budget.withdraw() {
            meters.budget.set(budget.left());
            Outcome::NoBudget
        } else {
            meters.budget.set(budget.left());
            self.running = Some(Running::new(&self.shared, failed.reason));
            self.tell(&failed, pause);
            return Some(pause);
        };
        meters.retry(failed.reason, why_not);
        tracing::debug!(
            request_id = self.exchange.id(),
            reason = failed.reason.as_str(),
            outcome = why_not.as_str(),
            "no other attempt",
        );
        None
    }

    /// No other attempt can help, whatever the settings say.
    fn is_vain(&self, failed: &Failed) -> bool {
        // It can go nowhere else.
        if failed.refused && self.parts.extensions.get::<Pinned>().is_some() {
            return true;
        }
        if failed.elsewhere && !self.exchange.may_go_elsewhere() {
            return true;
        }
        // Somebody ended the call as a whole; a clock may have been that of the attempt.
        matches!(
            self.exchange.gave_up(),
            Some(GiveUp::Operator | GiveUp::Drain | GiveUp::Proxy)
        )
    }

    /// The server was told to cancel the call under an id that belongs to its session: what repeats that id might be cancelled
    /// instead.
    fn is_cancelled(&self, failed: &Failed) -> bool {
        failed.reason == Reason::Timeout
            && self
                .exchange
                .call()
                .is_some_and(|call| call.era == Era::Legacy && call.session.is_some())
    }

    /// The deadline of the call would come first.
    fn is_late(&self, pause: Duration) -> bool {
        self.exchange
            .due()
            .is_some_and(|due| due.saturating_duration_since(Instant::now()) <= pause)
    }

    fn tell(&self, failed: &Failed, pause: Duration) {
        let endpoint = self.exchange.endpoint();
        tracing::info!(
            request_id = self.exchange.id(),
            reason = failed.reason.as_str(),
            attempt = self.made + 1,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            failed_at = endpoint.as_ref().map(|e| &*e.endpoint),
            "another attempt",
        );
    }

    /// The request of another attempt. What the last one left in the exchange is forgotten.
    fn request(&mut self) -> Request<Body> {
        self.made += 1;
        if let Some(at) = self.exchange.endpoint() {
            let tried = self.parts.extensions.get_or_insert_default::<Tried>();
            if !tried.0.contains(&at.endpoint) {
                tried.0 = tried.0.iter().chain([&at.endpoint]).cloned().collect();
            }
        }
        self.exchange.go_on();
        self.exchange.response().reset();
        let body = self.replay.body().unwrap_or_default();
        Request::from_parts(self.parts.clone(), body)
    }

    /// Keeps of a failed attempt what is needed.
    fn set_aside<B: HttpBody>(&mut self, result: Result<Response<B>, BoxError>) -> Option<Rest<B>> {
        match result {
            Ok(response) => Rest::of(response),
            Err(error) => {
                let before = self.worst.as_ref().map(Says::of);
                if before.is_none_or(|before| before < Says::of(&error)) {
                    self.worst = Some(error);
                }
                None
            }
        }
    }

    /// The result of the call. That the last attempt was not sent does not say so of the call, if an earlier one may have been; and why one
    /// failed says more than that another was refused.
    fn end<B>(
        self,
        result: Result<Response<B>, BoxError>,
    ) -> Result<Response<Tracked<B, Learning>>, BoxError>
    where
        B: HttpBody<Data = Bytes>,
    {
        match (result, self.worst) {
            (Ok(response), _) => {
                let learning = match &self.shared.safe.hints {
                    Some(hints) => hints.follow(&self.exchange, &response),
                    None => Learning::default(),
                };
                Ok(response.map(|body| Tracked::new(body, learning)))
            }
            (Err(error), Some(earlier)) if Says::of(&earlier) > Says::of(&error) => Err(earlier),
            (Err(error), _) => Err(error),
        }
    }
}

// === impl Rest ===

impl<B: HttpBody> Rest<B> {
    fn of(response: Response<B>) -> Option<Self> {
        let short = response.body().size_hint().lower() <= REST as u64;
        let read = short && Media::of(response.headers()) != Media::Events;
        read.then(|| Self {
            body: Box::pin(response.into_body()),
            room: REST,
        })
    }

    /// Ready when there is no more to read, or too much.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        B: HttpBody<Data = Bytes>,
    {
        while let Some(Ok(frame)) = ready!(self.body.as_mut().poll_frame(cx)) {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match self.room.checked_sub(length) {
                Some(room) => self.room = room,
                None => break,
            }
        }
        Poll::Ready(())
    }
}

// === impl Running ===

impl Running {
    fn new(shared: &Arc<Shared>, reason: Reason) -> Self {
        Self {
            shared: shared.clone(),
            reason,
            outcome: Outcome::Dropped,
        }
    }

    fn ended(mut self, well: bool) {
        self.outcome = if well {
            Outcome::Success
        } else {
            Outcome::Failure
        };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.meters.retry(self.reason, self.outcome);
    }
}
