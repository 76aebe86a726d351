//! The body that owns its reconnecting.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Service, ServiceExt, util::Oneshot};

use super::{
    Kept, Shared,
    asking::{Head, Kind, Means},
    schedule::Schedule,
};
use crate::{
    error::BoxError,
    exchange::Exchange,
    fault::{Blame, Fault},
    rescue::{self, Row},
};

/// The response body of [`Resume`](super::Resume).
#[pin_project]
pub struct ResumeBody<S: Service<Request<Req>>, Req, B> {
    // Before `inner`: when both go, the questions that were asked on the one go with it.
    life: Option<Box<Life<S, Req>>>,
    /// None while the stream is away, and after its end.
    #[pin]
    inner: Option<B>,
}

/// What watches over a stream.
pub(super) struct Life<S: Service<Request<Req>>, Req> {
    service: S,
    head: Head,
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
    schedule: Schedule,
    phase: Phase<S, Req>,
    /// The body of a request for the rest.
    empty: fn() -> Req,
    /// The messages that had passed when the stream was away for the last time.
    messages: u32,
}

/// How far the stream is.
enum Phase<S: Service<Request<Req>>, Req> {
    Flows,
    Away(Box<Away<S, Req>>),
}

/// The request for the rest, on its way.
type Asked<S, Req> = Pin<Box<Oneshot<S, Request<Req>>>>;

/// A stream that broke.
struct Away<S: Service<Request<Req>>, Req> {
    /// What broke it; nothing if it ended.
    cause: Option<BoxError>,
    /// The server ended it, to be asked again.
    polls: bool,
    /// The end of the pause, and then of the time that there is for an answer.
    clock: Pin<Box<Sleep>>,
    next: Try<S, Req>,
}

/// The next try.
enum Try<S: Service<Request<Req>>, Req> {
    /// After the pause.
    Pausing,
    /// The rest has been asked for.
    Asked(Asked<S, Req>),
}

/// What a break, or an end, means.
#[derive(Debug, PartialEq, Eq)]
enum Broke {
    /// It is for the reader.
    Passes,
    /// The stream is to be resumed.
    Resumes,
    /// The server wants to be asked again after this time.
    Polls(Duration),
}

/// What comes after the tries.
enum Next<B> {
    /// The stream goes on in this body.
    Body(B),
    /// It ends, as if by itself.
    End,
    /// What broke it comes out.
    Cause(Option<BoxError>),
}

// === impl Life ===

impl<S: Service<Request<Req>>, Req> Life<S, Req> {
    pub(super) fn new(kept: Kept<S>) -> Self
    where
        Req: Default,
    {
        let Kept {
            service,
            head,
            exchange,
            shared,
        } = kept;
        exchange.response().keep_questions(true);
        let standing = head.kind != Kind::Call;
        Self {
            service,
            head,
            schedule: Schedule::new(shared.settings, standing, Instant::now()),
            exchange,
            shared,
            phase: Phase::Flows,
            empty: Req::default,
            messages: 0,
        }
    }

    /// A frame passes to the reader.
    fn passes(&mut self) {
        let messages = self.exchange.response().events();
        if messages != self.messages {
            self.messages = messages;
            self.schedule.passed();
        }
    }

    /// What it means that the stream ended, with this error or without.
    fn broke(&self, error: Option<&BoxError>) -> Broke {
        let facts = self.exchange.response();
        let over = self.exchange.gave_up().is_some()
            || (self.head.kind != Kind::Plain && self.exchange.is_answered());
        let torn = !facts.at_boundary() && !facts.is_unfinished();
        if over || torn || error.is_some_and(|e| !is_theirs(e)) {
            return Broke::Passes;
        }
        let known = self.head.cursor(&self.exchange).is_some();
        match (self.head.kind, error) {
            (Kind::Standing, Some(_)) => Broke::Resumes,
            (Kind::Call | Kind::Plain, Some(_)) if known => Broke::Resumes,
            (Kind::Call, None) if known && facts.ended_unanswered() => match facts.retry() {
                // An end in the middle of an event is none that the server meant.
                Some(_) if !facts.is_unfinished() && self.exchange.may_poll() => Broke::Passes,
                Some(retry) if !facts.is_unfinished() => Broke::Polls(retry),
                Some(_) | None => Broke::Resumes,
            },
            (Kind::Call | Kind::Plain | Kind::Standing, _) => Broke::Passes,
        }
    }

    /// The stream is away from now on. Without a pause there is no try.
    fn away(&mut self, broke: &Broke, cause: Option<BoxError>) -> Result<(), Option<BoxError>> {
        let now = Instant::now();
        // Of half an event nothing has passed: others may speak meanwhile.
        self.exchange.response().set_torn(false);
        let (pause, polls) = match broke {
            Broke::Polls(retry) => (Some(self.schedule.poll(*retry, fastrand::f64())), true),
            Broke::Resumes | Broke::Passes => {
                self.schedule.broke(now);
                (self.pause(now), false)
            }
        };
        tracing::debug!(
            request_id = self.exchange.id(),
            error = cause.as_ref().map(tracing::field::display),
            pause_ms = pause.map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
            "an event stream broke",
        );
        let Some(pause) = pause else {
            self.shared.meters.gave_up.increment(1);
            return Err(cause);
        };
        self.phase = Phase::Away(Box::new(Away {
            cause,
            polls,
            clock: Box::pin(sleep(pause)),
            next: Try::Pausing,
        }));
        Ok(())
    }

    fn pause(&mut self, now: Instant) -> Option<Duration> {
        let retry = self.exchange.response().retry();
        self.schedule.next(now, retry, fastrand::f64())
    }

    /// The tries are over, and the stream ends.
    fn gives_up<B>(&mut self, refused: bool) -> Next<B> {
        let meters = &self.shared.meters;
        if refused {
            meters.refused.increment(1);
        } else {
            meters.gave_up.increment(1);
        }
        let Phase::Away(away) = std::mem::replace(&mut self.phase, Phase::Flows) else {
            return Next::End;
        };
        if away.cause.is_none() {
            // Forgotten when the rest was asked for.
            self.exchange.response().set_ended_unanswered();
        }
        Next::Cause(away.cause)
    }

    fn is_away(&self) -> bool {
        matches!(self.phase, Phase::Away(_))
    }

    /// During a pause the upstream service has nothing of the call by whose end it would learn that the call was given up: so it gets the
    /// request for the rest, and loses it at once. Nothing is sent of what is not polled, but for the cancellation. Nobody is there to
    /// hear of a panic.
    fn cancel(&mut self) {
        let pauses = matches!(&self.phase, Phase::Away(away) if matches!(away.next, Try::Pausing));
        let given_up = self.head.kind == Kind::Call
            && self.exchange.gave_up().is_some()
            && !self.exchange.is_answered();
        if !pauses || !given_up {
            return;
        }
        let request = self.head.request(&self.exchange, (self.empty)());
        let service = &mut self.service;
        let told = rescue::catch(|| {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(())) = service.poll_ready(&mut context) {
                drop(service.call(request));
            }
        });
        if let Err(error) = told {
            let request_id = self.exchange.id();
            tracing::error!(request_id, %error, "a call that was given up could not be cancelled");
        }
    }
}

impl<S, Req, B> Life<S, Req>
where
    S: Service<Request<Req>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
{
    /// Tries, until the stream goes on or is given up.
    fn poll_back(&mut self, cx: &mut Context<'_>) -> Poll<Next<B>> {
        loop {
            let Phase::Away(away) = &mut self.phase else {
                return Poll::Ready(Next::End);
            };
            let Try::Asked(asked) = &mut away.next else {
                ready!(away.clock.as_mut().poll(cx));
                self.ask();
                continue;
            };
            let Poll::Ready(answer) = asked.as_mut().poll(cx) else {
                ready!(away.clock.as_mut().poll(cx));
                return Poll::Ready(self.gives_up(false));
            };
            away.next = Try::Pausing;
            let answer = answer.map_err(Into::into);
            let now = Instant::now();
            match (self.head.judge(&answer), answer) {
                (Means::GoesOn, Ok(answer)) => {
                    self.back(now);
                    return Poll::Ready(Next::Body(answer.into_body()));
                }
                (Means::SessionGone, _) => {
                    self.shared.meters.refused.increment(1);
                    return Poll::Ready(Next::End);
                }
                (Means::Never, _) => return Poll::Ready(self.gives_up(true)),
                (Means::Later | Means::GoesOn, _) => {
                    self.schedule.broke(now);
                    let Some(pause) = self.pause(now) else {
                        return Poll::Ready(self.gives_up(false));
                    };
                    if let Phase::Away(away) = &mut self.phase {
                        away.polls = false;
                        away.clock.as_mut().reset(now + pause);
                    }
                }
            }
        }
    }

    /// The pause is over.
    fn ask(&mut self) {
        let now = Instant::now();
        let request = self.head.request(&self.exchange, (self.empty)());
        self.exchange.response().go_on();
        let left = self.schedule.left(now);
        if let Phase::Away(away) = &mut self.phase {
            let asked = self.service.clone().oneshot(request);
            away.next = Try::Asked(Box::pin(asked));
            away.clock.as_mut().reset(now + left.max(LEAST));
        }
    }

    /// The stream is there again.
    fn back(&mut self, now: Instant) {
        self.schedule.connected(now);
        let Phase::Away(away) = std::mem::replace(&mut self.phase, Phase::Flows) else {
            return;
        };
        let meters = &self.shared.meters;
        let outcome = if away.polls {
            &meters.polled
        } else if self.head.cursor(&self.exchange).is_some() {
            &meters.resumed
        } else {
            &meters.reopened
        };
        outcome.increment(1);
        self.messages = self.exchange.response().events();
        tracing::debug!(request_id = self.exchange.id(), "an event stream goes on");
    }
}

impl<S, Req> Drop for Life<S, Req>
where
    S: Service<Request<Req>>,
{
    fn drop(&mut self) {
        self.cancel();
        self.exchange.response().keep_questions(false);
    }
}

/// The last try gets this much time for its answer, though the time for tries is over.
const LEAST: Duration = Duration::from_secs(1);

/// The upstream, or the way to it, broke the stream, and not a limit of ours.
fn is_theirs(error: &BoxError) -> bool {
    let fault = Fault::of(&**error);
    fault == Fault::Bug || Row::of(&fault).blame == Blame::Upstream
}

// === impl ResumeBody ===

impl<S: Service<Request<Req>>, Req, B> ResumeBody<S, Req, B> {
    pub(super) fn new(inner: B, life: Option<Box<Life<S, Req>>>) -> Self {
        Self {
            life,
            inner: Some(inner),
        }
    }
}

impl<S, Req, B> HttpBody for ResumeBody<S, Req, B>
where
    S: Service<Request<Req>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
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
        loop {
            if let Some(life) = this.life.as_mut().filter(|life| life.is_away()) {
                let next = ready!(life.poll_back(cx));
                let cause = match next {
                    Next::Body(body) => {
                        this.inner.set(Some(body));
                        continue;
                    }
                    Next::End => None,
                    Next::Cause(cause) => cause,
                };
                *this.life = None;
                return Poll::Ready(cause.map(Err));
            }
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                return Poll::Ready(None);
            };
            let frame = ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into));
            let Some(life) = this.life else {
                return Poll::Ready(frame);
            };
            let cause = match frame {
                Some(Ok(frame)) if frame.is_trailers() => {
                    // Nothing may come after them.
                    *this.life = None;
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Ok(frame)) => {
                    let facts = life.exchange.response();
                    if !facts.is_unfinished() || life.broke(None) == Broke::Passes {
                        life.passes();
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    // Part of an event that the rest begins with.
                    None
                }
                Some(Err(error)) => Some(error),
                None => None,
            };
            let broke = life.broke(cause.as_ref());
            let cause = match broke {
                Broke::Passes => cause,
                Broke::Resumes | Broke::Polls(_) => {
                    // Its connection closes at once.
                    this.inner.set(None);
                    match life.away(&broke, cause) {
                        Ok(()) => continue,
                        Err(cause) => cause,
                    }
                }
            };
            *this.life = None;
            this.inner.set(None);
            return Poll::Ready(cause.map(Err));
        }
    }

    fn is_end_stream(&self) -> bool {
        match (&self.life, &self.inner) {
            (None, None) => true,
            (None, Some(inner)) => inner.is_end_stream(),
            (Some(life), Some(inner)) => inner.is_end_stream() && life.broke(None) == Broke::Passes,
            (Some(_), None) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.life, &self.inner) {
            (None, Some(inner)) => inner.size_hint(),
            (None, None) => SizeHint::with_exact(0),
            (Some(_), _) => SizeHint::default(),
        }
    }
}
