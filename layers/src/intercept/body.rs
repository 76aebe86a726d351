//! The response body: passing, whole, or an event stream whose messages are shown as they come.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use pin_project::pin_project;

use super::{
    answer::{Left, Show},
    chain::Stage,
    events::{Cutter, Part, Torn, data_of, id_alone, with_data},
};
use crate::{body::Gathered, error::BoxError};

/// The response body of [`Intercept`](super::Intercept).
#[pin_project]
pub struct InterceptBody<B>(#[pin] State<B>);

#[pin_project(project = StateProj)]
enum State<B> {
    Passing(#[pin] B),
    Whole(Option<Bytes>, Option<HeaderMap>),
    /// What was read before it was too long, and the rest.
    Long(Option<Bytes>, Pin<Box<B>>),
    Events(Pin<Box<Events<B>>>),
}

/// An event stream: each whole event is shown, and goes out when that is done.
#[pin_project(project = EventsProj)]
pub(super) struct Events<B> {
    #[pin]
    inner: B,
    show: Show,
    cutter: Cutter,
    shown: Option<Showing>,
    /// An answer went out.
    answered: bool,
    /// What follows the events.
    trailers: Option<Frame<Bytes>>,
    ended: bool,
}

type Showing = Pin<Box<dyn Future<Output = Result<Shown, BoxError>> + Send>>;

/// What goes out in the place of an event.
struct Shown {
    event: Bytes,
    /// Its message was an answer.
    answers: bool,
}

// === impl InterceptBody ===

impl<B> InterceptBody<B> {
    pub(super) fn passing(inner: B) -> Self {
        Self(State::Passing(inner))
    }

    pub(super) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self(State::Whole(bytes, trailers))
    }

    pub(super) fn long(read: Bytes, rest: Pin<Box<B>>) -> Self {
        Self(State::Long((!read.is_empty()).then_some(read), rest))
    }

    pub(super) fn events(events: Events<B>) -> Self {
        Self(State::Events(Box::pin(events)))
    }
}

impl<B> fmt::Debug for InterceptBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptBody").finish_non_exhaustive()
    }
}

impl<B> HttpBody for InterceptBody<B>
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
        match self.project().0.project() {
            StateProj::Passing(inner) => inner
                .poll_frame(cx)
                .map(|f| f.map(|f| f.map_err(Into::into))),
            StateProj::Whole(bytes, trailers) => {
                let data = bytes.take().map(Frame::data);
                let frame = data.or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            StateProj::Long(read, rest) => match read.take() {
                Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
                None => {
                    let rest = rest.as_mut().poll_frame(cx);
                    rest.map(|f| f.map(|f| f.map_err(Into::into)))
                }
            },
            StateProj::Events(events) => events.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Passing(inner) => inner.is_end_stream(),
            State::Whole(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            State::Long(read, rest) => read.is_none() && rest.is_end_stream(),
            State::Events(events) => events.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Passing(inner) => inner.size_hint(),
            State::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            // An event may grow.
            State::Long(..) | State::Events(_) => SizeHint::default(),
        }
    }
}

// === impl Events ===

impl<B> Events<B> {
    pub(super) fn new(inner: B, show: Show) -> Self {
        Self {
            inner,
            show,
            cutter: Cutter::default(),
            shown: None,
            answered: false,
            trailers: None,
            ended: false,
        }
    }
}

impl<B> Events<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn is_over(&self) -> bool {
        let waiting = !self.cutter.is_empty() || self.shown.is_some() || self.trailers.is_some();
        !waiting && (self.ended || self.inner.is_end_stream())
    }

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if let Some(showing) = this.shown {
                let shown = ready!(showing.as_mut().poll(cx));
                *this.shown = None;
                match shown {
                    Ok(shown) => {
                        *this.answered |= shown.answers;
                        if !shown.event.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(shown.event))));
                        }
                    }
                    Err(error) => return Poll::Ready(Some(this.end(error))),
                }
                continue;
            }
            if let Some(part) = this.cutter.next.pop_front() {
                match this.part(part) {
                    Some(frame) => return Poll::Ready(Some(frame)),
                    None => continue,
                }
            }
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            if *this.ended {
                return Poll::Ready(None);
            }
            if this.cutter.held.len() > this.show.cap() {
                match this.too_long() {
                    Some(frame) => return Poll::Ready(Some(frame)),
                    None => continue,
                }
            }
            match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.cutter.take(&data),
                    Err(trailers) => {
                        this.cutter.release();
                        *this.trailers = Some(trailers);
                    }
                },
                Some(Err(error)) => {
                    *this.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    this.cutter.release();
                    *this.ended = true;
                }
            }
        }
    }
}

impl<B> EventsProj<'_, B> {
    /// What goes out of this part at once; an event with a message is shown first.
    fn part(&mut self, part: Part) -> Option<Result<Frame<Bytes>, BoxError>> {
        let (event, id, marked) = match part {
            Part::Event { bytes, id, marked } => (bytes, id, marked),
            Part::Other(bytes) => return passes(bytes),
        };
        if event.len() > self.show.cap() {
            if self.show.is_lenient() {
                return passes(event);
            }
            if !self.show.answers_nobody() {
                return Some(self.end(too_long()));
            }
            self.show.leaves_out();
            return passes(id_alone(id));
        }
        match data_of(&event, marked) {
            Some(data) => {
                let show = self.show.clone();
                *self.shown = Some(Box::pin(shown(show, event, data, marked)));
                None
            }
            None => passes(event),
        }
    }

    /// An event is longer than may be held before its end has come.
    fn too_long(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let piece = mem::take(&mut self.cutter.held).freeze();
        if self.show.is_lenient() {
            // Its rest will follow, and is no event by itself.
            self.cutter.torn = Torn::GoneOn;
            return Some(Ok(Frame::data(piece)));
        }
        if self.show.answers_nobody() {
            if self.cutter.torn == Torn::Not {
                self.show.leaves_out();
            }
            self.cutter.torn = Torn::LeftOut;
            return None;
        }
        Some(self.end(too_long()))
    }

    /// Nothing follows what could not be shown but a word to whoever waits, where nobody else would say it: those below have seen an answer.
    fn end(&mut self, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        self.cutter.next.clear();
        self.cutter.held.clear();
        *self.trailers = None;
        *self.ended = true;
        let last = self.show.last_word(error, *self.answered);
        last.map(Frame::data)
    }
}

/// A body that was read up to a cap.
pub(super) enum Read<B> {
    Whole(Bytes, Option<HeaderMap>),
    /// It is longer: what was read of it, and the rest.
    Long(Bytes, Pin<Box<B>>),
}

/// Reads a body, but little more than `cap` bytes of it.
pub(super) async fn read<B>(body: B, cap: usize) -> Result<Read<B>, BoxError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = Box::pin(body);
    let mut all = Gathered::default();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(Into::into)?.into_data() {
            Ok(data) => all.add(data, 0),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if all.size() > cap {
            return Ok(Read::Long(all.take(), body));
        }
    }
    Ok(Read::Whole(all.take(), trailers))
}

/// A frame, unless there is nothing in it.
fn passes(bytes: Bytes) -> Option<Result<Frame<Bytes>, BoxError>> {
    (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)))
}

fn too_long() -> BoxError {
    Stage::Answering.unreadable("an event is too long")
}

/// Shows what an event carries; what goes out in its place.
async fn shown(show: Show, event: Bytes, data: Bytes, marked: bool) -> Result<Shown, BoxError> {
    let (left, answers) = show.in_event(data).await?;
    let event = match left {
        Left::Same => event,
        Left::Other(new) => with_data(&event, Some(&new), marked),
        Left::Nothing => with_data(&event, None, marked),
    };
    Ok(Shown { event, answers })
}
