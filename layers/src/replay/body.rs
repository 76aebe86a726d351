//! The response body: a reader of a stream, or something that passes.

use std::{
    collections::VecDeque,
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;

use super::{
    out::Out,
    store::{Outcome, ReplayStore},
    stream::{Leave, Step, Stream, lost},
};
use crate::{error::BoxError, exchange::Exchange};

/// The response body of [`Replay`](super::Replay).
#[pin_project]
pub struct ReplayBody<B>(#[pin] Kind<B>);

#[pin_project(project = KindProj)]
enum Kind<B> {
    /// No business of replay.
    Passing(#[pin] B),
    Reading(Box<Reader>),
    /// A few bytes of our own.
    Said(Option<Bytes>),
}

/// A client that reads a stream.
pub(super) struct Reader {
    store: ReplayStore,
    stream: Arc<Stream>,
    /// That of the request that is answered here.
    exchange: Arc<Exchange>,
    turn: u64,
    /// It is the request that opened the stream.
    own: bool,
    /// No observer stands below, as it does not below an answer from memory.
    counts: bool,
    /// It has all events up to this one, or will have with what is in `out`.
    cursor: u64,
    out: VecDeque<Out>,
    /// An event has begun to go out and has not ended.
    halfway: bool,
    /// The newest event that went out whole.
    seen: Option<u64>,
    told: bool,
    state: State,
}

enum State {
    Reading,
    /// What is in `out` comes before this.
    Failing(BoxError),
    /// What is in `out` is the last.
    Ending,
}

// === impl Reader ===

impl Reader {
    /// The reader of the request that opened the stream.
    pub(super) fn own(store: &ReplayStore, stream: Arc<Stream>, exchange: Arc<Exchange>) -> Self {
        let mut reader = Self::new(store, stream, exchange, 1, 0);
        reader.own = true;
        reader.told = false;
        reader.stream.prime(&mut reader.out);
        reader
    }

    /// One that comes back, and has all events up to this one.
    pub(super) fn again(
        store: &ReplayStore,
        stream: Arc<Stream>,
        exchange: Arc<Exchange>,
        turn: u64,
        after: u64,
        counts: bool,
    ) -> Self {
        let mut reader = Self::new(store, stream, exchange, turn, after);
        reader.counts = counts;
        reader
    }

    fn new(
        store: &ReplayStore,
        stream: Arc<Stream>,
        exchange: Arc<Exchange>,
        turn: u64,
        after: u64,
    ) -> Self {
        Self {
            store: store.clone(),
            stream,
            exchange,
            turn,
            own: false,
            counts: false,
            cursor: after,
            out: VecDeque::new(),
            halfway: false,
            seen: None,
            told: true,
            state: State::Reading,
        }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if !self.stream.is_turn(self.turn) {
                self.give_way();
            }
            if let Some(next) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(self.goes(next))));
            }
            match mem::replace(&mut self.state, State::Ending) {
                State::Reading => self.state = State::Reading,
                State::Failing(error) => return Poll::Ready(Some(Err(error))),
                State::Ending => return Poll::Ready(None),
            }
            let Self {
                stream,
                turn,
                own,
                cursor,
                out,
                ..
            } = self;
            match ready!(stream.poll_next(cx, *turn, *own, cursor, out)) {
                Step::More { torn } if self.counts => self.exchange.response().set_torn(torn),
                Step::More { .. } => {}
                Step::End | Step::Superseded => self.state = State::Ending,
                Step::Failed(error) => self.state = State::Failing(error),
                Step::Lost => self.miss(),
            }
        }
    }

    /// Another reader has come: what has begun to go out may end, nothing else goes out here.
    fn give_way(&mut self) {
        self.state = State::Ending;
        if !self.halfway {
            self.out.clear();
        } else if let Some(end) = self.out.iter().position(|out| out.begins) {
            self.out.truncate(end);
        }
    }

    /// Something goes out.
    fn goes(&mut self, out: Out) -> Frame<Bytes> {
        let next = self.out.front().is_some_and(|next| !next.begins);
        self.halfway = next && out.ends.is_none();
        if let Some(number) = out.ends {
            self.seen = self.seen.max(Some(number));
            self.told = true;
            if self.counts && number > 0 {
                self.exchange.saw_event();
            }
        }
        out.frame
    }

    /// What it wants was let go while it read.
    fn miss(&mut self) {
        self.state = State::Ending;
        self.store.count(Outcome::Lost);
        let exchange = self.stream.exchange();
        let id = exchange.call().and_then(|call| call.request()?.id());
        if let Some(id) = id.filter(|_| !self.own) {
            self.out.push_back(Out {
                frame: Frame::data(lost(exchange, id)),
                begins: true,
                ends: None,
            });
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let why = self.exchange.gave_up();
        // Who is given up after another has come gives up nothing of the call.
        let speaks = !self.own && self.stream.is_turn(self.turn);
        if let Some(why) = why.filter(|_| speaks && self.exchange.response().resumes_call()) {
            self.stream.exchange().give_up(why);
        }
        let leave = Leave {
            turn: self.turn,
            seen: self.seen,
            told: self.told,
            given_up: why.is_some(),
        };
        if let Some((turn, time)) = self.stream.leave(leave) {
            self.store.read_on(self.stream.clone(), turn, time);
        }
    }
}

// === impl ReplayBody ===

impl<B> ReplayBody<B> {
    pub(super) fn passing(inner: B) -> Self {
        Self(Kind::Passing(inner))
    }

    pub(super) fn reading(reader: Reader) -> Self {
        Self(Kind::Reading(Box::new(reader)))
    }

    pub(super) fn said(bytes: Bytes) -> Self {
        Self(Kind::Said(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

impl<B> HttpBody for ReplayBody<B>
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
            KindProj::Passing(inner) => inner
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            KindProj::Reading(reader) => reader.poll(cx),
            KindProj::Said(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Passing(inner) => inner.is_end_stream(),
            Kind::Reading(_) => false,
            Kind::Said(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Passing(inner) => inner.size_hint(),
            Kind::Reading(_) => SizeHint::default(),
            Kind::Said(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
