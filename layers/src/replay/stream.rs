//! One stream that is kept: where it comes from, what of it is kept, and who reads it.
//!
//! Readers take turns: whoever comes last has the turn, and the one before it ends. The reader that has the turn polls the upstream's body itself, under the
//! stream's lock, so that there is no task and no queue between them; what it takes in is kept for the next one.

use std::{
    collections::VecDeque,
    error::Error,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    EventsLost,
    budget::Budget,
    buffer::{Bounds, Buffer},
    id::{Kind, StreamId},
    split::{Part, Splitter},
};
use crate::{
    Body,
    attempt::{Hold, InSession},
    error::BoxError,
    exchange::Exchange,
    rescue::{AnswerMissing, catch, error_event},
};

/// A stream that clients may come back to.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    me: Weak<Self>,
    budget: Arc<Budget>,
    times: Times,
    /// The end of its session.
    pub(super) ended: CancellationToken,
    /// That of the request that opened it.
    exchange: Arc<Exchange>,
    /// It begins with an event without data, so that its client has an id to come back with.
    primes: bool,
    /// Who may read. Changes under the lock only.
    turn: AtomicU64,
    state: Mutex<State>,
}

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Events, and calls that nobody reads.
    pub(super) age: Duration,
    /// A stream that was read to its end.
    pub(super) linger: Duration,
    /// A standing stream that nobody reads.
    pub(super) grace: Duration,
    /// What comes for a standing stream waits at its source while there is none.
    pub(super) waits: bool,
}

#[derive(Debug)]
struct State {
    inner: Option<Source>,
    splitter: Splitter,
    ids: Ids,
    buffer: Buffer,
    /// It stands among the holders of the budget.
    listed: bool,
    /// The newest event that went out whole.
    seen: u64,
    /// The turn that got the beginning of an event that goes out in pieces.
    torn: Option<u64>,
    reader: Reader,
    waker: Option<Waker>,
    /// Nobody can come back to it.
    forgotten: bool,
    expires: Option<Instant>,
}

/// Where it comes from.
struct Source {
    body: Body,
    /// A call keeps its session in use.
    _hold: Option<Hold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A client.
    Client,
    /// A task, for a client that went away.
    Task,
    Nobody,
}

/// Whose the ids of its events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// The first event will tell.
    Unknown,
    Ours,
    /// The upstream's: it can resume the stream itself.
    Theirs,
}

/// Something that goes out.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) frame: Frame<Bytes>,
    /// It begins an event, or is all there is.
    pub(super) begins: bool,
    /// With it this event is out.
    pub(super) ends: Option<u64>,
}

/// What a reader got.
#[derive(Debug)]
pub(super) enum Step {
    /// Something to go out.
    More,
    /// The end.
    End,
    /// The failure of the upstream.
    Failed(BoxError),
    /// What it wants is not kept any more.
    Lost,
    /// Another reader has the turn.
    Superseded,
}

/// How a reader left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leave {
    pub(super) turn: u64,
    /// The newest event that it got whole, if any.
    pub(super) seen: Option<u64>,
    /// It has an id to come back with.
    pub(super) told: bool,
    /// The call was given up, by somebody other than its client.
    pub(super) given_up: bool,
}

/// How a stream stands, for a client that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) newest: u64,
    pub(super) seen: u64,
    /// More may come.
    pub(super) live: bool,
    /// A client reads it.
    pub(super) read: bool,
    /// All after the event asked for is kept.
    pub(super) whole: bool,
}

/// How many events a task takes at a time.
const BATCH: usize = 64;

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

// === impl Source ===

impl Source {
    /// A panic would leave the stream to nobody, for ever: it is an error of the body, too.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut context = Context::from_waker(cx.waker());
        let polled = catch(|| Pin::new(&mut self.body).poll_frame(&mut context));
        polled.unwrap_or_else(|panic| Poll::Ready(Some(Err(panic))))
    }
}

// === impl Stream ===

impl Stream {
    #[expect(clippy::too_many_arguments, reason = "all that a stream is")]
    pub(super) fn new(
        id: StreamId,
        budget: &Arc<Budget>,
        bounds: Bounds,
        times: Times,
        exchange: Arc<Exchange>,
        primes: bool,
        ids: Ids,
        member: &InSession,
        body: Body,
    ) -> Arc<Self> {
        let kind = id.kind;
        Arc::new_cyclic(|me| Self {
            id,
            me: me.clone(),
            budget: budget.clone(),
            times,
            ended: member.ended.clone(),
            exchange,
            primes,
            turn: AtomicU64::new(1),
            state: Mutex::new(State {
                inner: Some(Source {
                    body,
                    _hold: (kind == Kind::Call).then(|| member.hold()).flatten(),
                }),
                splitter: Splitter::new(),
                ids,
                buffer: Buffer::new(bounds),
                listed: false,
                seen: 0,
                torn: None,
                reader: Reader::Client,
                waker: None,
                forgotten: false,
                expires: None,
            }),
        })
    }

    /// Whether it is this reader's turn.
    pub(super) fn is_turn(&self, turn: u64) -> bool {
        self.turn.load(Ordering::Acquire) == turn
    }

    /// That of the request that opened it.
    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// How it stands for a client that has all up to this event.
    pub(super) fn look(&self, after: u64) -> Look {
        let state = self.lock();
        Look {
            newest: state.buffer.newest(),
            seen: state.seen,
            live: state.inner.is_some(),
            read: state.reader == Reader::Client,
            whole: state.buffer.has_all_after(after),
        }
    }

    /// A client comes to read. The reader before it ends.
    pub(super) fn join(&self) -> u64 {
        let mut state = self.lock();
        self.next_turn(&mut state, Reader::Client)
    }

    /// The same, for a standing stream that goes on with another body.
    pub(super) fn adopt(&self, body: Body) -> u64 {
        let mut state = self.lock();
        let new = Source { body, _hold: None };
        let old = state.inner.replace(new);
        state.splitter = Splitter::new();
        state.torn = None;
        let turn = self.next_turn(&mut state, Reader::Client);
        drop(state);
        drop(old);
        turn
    }

    fn next_turn(&self, state: &mut State, reader: Reader) -> u64 {
        state.reader = reader;
        state.expires = None;
        let turn = self.turn.load(Ordering::Acquire) + 1;
        self.turn.store(turn, Ordering::Release);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        turn
    }

    /// The event that tells the client an id, if it gets one, and when to come back.
    pub(super) fn prime(&self, out: &mut VecDeque<Out>) {
        if !self.primes || self.lock().ids != Ids::Ours {
            return;
        }
        self.prime_now(out);
    }

    fn prime_now(&self, out: &mut VecDeque<Out>) {
        let retry = 1000 + fastrand::u64(..2000);
        let line = self.id.line(0, Some(retry));
        put(
            out,
            [line, Bytes::from_static(b"data: \n\n")],
            true,
            Some(0),
        );
    }

    /// The next thing for the reader that has this turn and all events up to `cursor`. The request's `own` reader gets a failure as an error;
    /// another one, of a call, as an event.
    pub(super) fn poll_next(
        &self,
        cx: &Context<'_>,
        turn: u64,
        own: bool,
        cursor: &mut u64,
        out: &mut VecDeque<Out>,
    ) -> Poll<Step> {
        let mut state = self.lock();
        if !self.is_turn(turn) {
            return Poll::Ready(Step::Superseded);
        }
        if *cursor < state.buffer.newest() {
            return Poll::Ready(self.recall(&state, cursor, out));
        }
        let Some(source) = &mut state.inner else {
            return Poll::Ready(Step::End);
        };
        let Poll::Ready(frame) = source.poll(cx) else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        let before = state.buffer.bytes();
        let ended = source_ended(&state, frame.as_ref());
        let missing = ended && !matches!(frame, Some(Err(_))) && self.exchange.is_left_unanswered();
        let reader = (turn, own);
        let mut step = match frame {
            Some(Ok(frame)) => {
                self.take(&mut state, turn, frame, out);
                *cursor = state.buffer.newest();
                Step::More
            }
            Some(Err(error)) if self.fail(&mut state, reader, &*error, cursor) => Step::More,
            Some(Err(error)) => Step::Failed(error),
            None => Step::End,
        };
        if missing && self.fail(&mut state, reader, &AnswerMissing, cursor) {
            step = Step::More;
        }
        let gone = ended.then(|| self.end(&mut state, out)).flatten();
        self.settle(&mut state, before);
        drop(state);
        drop(gone);
        self.budget.make_room();
        Poll::Ready(step)
    }

    /// The next thing that is kept.
    fn recall(&self, state: &State, cursor: &mut u64, out: &mut VecDeque<Out>) -> Step {
        if self.id.kind == Kind::Call && !state.buffer.has_all_after(*cursor) {
            return Step::Lost;
        }
        match state.buffer.next_after(*cursor) {
            Some((number, pieces)) => {
                *cursor = number;
                let line = [self.id.line(number, None)];
                let event = line.into_iter().chain(pieces.iter().cloned());
                put(out, event, true, Some(number));
            }
            None => *cursor = state.buffer.newest(),
        }
        Step::More
    }

    /// Takes in a frame, and passes it on.
    fn take(&self, state: &mut State, turn: u64, frame: Frame<Bytes>, out: &mut VecDeque<Out>) {
        let data = match frame.into_data() {
            Ok(data) if state.ids == Ids::Theirs => return put(out, [data], true, None),
            Ok(data) => data,
            Err(trailers) => {
                out.push_back(Out {
                    frame: trailers,
                    begins: true,
                    ends: None,
                });
                return;
            }
        };
        let State {
            splitter,
            ids,
            buffer,
            torn,
            forgotten,
            ..
        } = state;
        let now = Instant::now();
        splitter.feed(&data, |part| match part {
            Part::Event { pieces, named } if named || *ids == Ids::Theirs => {
                *ids = Ids::Theirs;
                put(out, pieces, true, None);
            }
            Part::Event { pieces, .. } => {
                if *ids == Ids::Unknown {
                    *ids = Ids::Ours;
                    if self.primes {
                        self.prime_now(out);
                    }
                }
                let number = if *forgotten {
                    buffer.skip()
                } else {
                    buffer.push(&pieces, now)
                };
                let line = [self.id.line(number, None)];
                put(out, line.into_iter().chain(pieces), true, Some(number));
            }
            Part::Other(pieces) => put(out, pieces, true, None),
            Part::Begin(pieces) => {
                *torn = Some(turn);
                let number = buffer.skip();
                let line = [self.id.line(number, None)];
                put(out, line.into_iter().chain(pieces), true, None);
            }
            Part::More { pieces, ends } if *torn == Some(turn) => {
                if ends {
                    *torn = None;
                }
                put(out, pieces, false, ends.then(|| buffer.newest()));
            }
            Part::More { .. } => {}
        });
        if *ids == Ids::Theirs {
            *forgotten = true;
            buffer.clear();
            put(out, splitter.rest(), true, None);
        }
    }

    /// The call failed. The event that says so is kept for whoever comes back; says whether it is for this reader, too, which it is not for the
    /// request's `own`, nor for one that has half an event.
    fn fail(
        &self,
        state: &mut State,
        (turn, own): (u64, bool),
        why: &(dyn Error + 'static),
        cursor: &mut u64,
    ) -> bool {
        let call = self.exchange.call();
        let id = call.and_then(|call| call.request()?.id());
        let told = self.id.kind == Kind::Call && !self.exchange.is_answered();
        let Some(id) = id.filter(|_| told && state.ids != Ids::Theirs) else {
            return false;
        };
        let event = error_event(why, &self.exchange, id);
        state.buffer.push(&[event], Instant::now());
        if own || state.torn == Some(turn) {
            *cursor = state.buffer.newest();
            return false;
        }
        // Half an event before it would be taken for its beginning.
        state.splitter.rest();
        true
    }

    /// Nothing more comes from the upstream.
    fn end(&self, state: &mut State, out: &mut VecDeque<Out>) -> Option<Source> {
        put(out, state.splitter.rest(), false, None);
        if state.reader != Reader::Client {
            state.reader = Reader::Nobody;
            state.expires = Some(Instant::now() + self.times.age);
        }
        state.inner.take()
    }

    /// A reader goes. Gives the turn of the task that is to read on, and for how long, if one is.
    pub(super) fn leave(&self, leave: Leave) -> Option<(u64, Duration)> {
        let mut state = self.lock();
        if let Some(seen) = leave.seen {
            state.seen = state.seen.max(seen);
        }
        if !self.is_turn(leave.turn) {
            return None;
        }
        let now = Instant::now();
        let standing = self.id.kind == Kind::Standing;
        let all_seen = state.seen >= state.buffer.newest();
        let useless = state.forgotten || leave.given_up || state.ids != Ids::Ours;
        if state.inner.is_none() {
            state.reader = Reader::Nobody;
            let time = if all_seen && !standing {
                self.times.linger.min(self.times.age)
            } else {
                self.times.age
            };
            state.expires = Some(now + time);
            return None;
        }
        if useless || (standing && self.times.waits) || (!standing && !leave.told) {
            state.reader = Reader::Nobody;
            let keeps = standing && !useless;
            state.expires = Some(if keeps { now + self.times.age } else { now });
            let gone = state.inner.take();
            drop(state);
            drop(gone);
            return None;
        }
        let turn = self.next_turn(&mut state, Reader::Task);
        let time = if standing {
            self.times.grace
        } else {
            self.times.age
        };
        Some((turn, time))
    }

    /// Reads on for a client that went away, until the end or until somebody else has the turn.
    pub(super) fn poll_on(&self, cx: &Context<'_>, turn: u64) -> Poll<()> {
        let (mut out, mut cursor) = (VecDeque::new(), u64::MAX);
        for _ in 0..BATCH {
            out.clear();
            match self.poll_next(cx, turn, false, &mut cursor, &mut out) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Step::More) => cursor = u64::MAX,
                Poll::Ready(Step::End | Step::Failed(_) | Step::Lost | Step::Superseded) => {
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The task that read on stops, if it still has the turn.
    pub(super) fn stop(&self, turn: u64) {
        let mut state = self.lock();
        if !self.is_turn(turn) || state.reader != Reader::Task {
            return;
        }
        state.reader = Reader::Nobody;
        let now = Instant::now();
        // A call that nobody came back to in all this time is no more to be had.
        let standing = self.id.kind == Kind::Standing;
        let keeps = standing || state.inner.is_none();
        state.expires = Some(if keeps { now + self.times.age } else { now });
        let gone = state.inner.take();
        drop(state);
        drop(gone);
    }

    /// The reader with this turn has the beginning of an event that has not ended.
    pub(super) fn is_torn(&self, turn: u64) -> bool {
        self.lock().torn == Some(turn)
    }

    /// Nobody can come back to it from now on.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.forgotten = true;
        let before = state.buffer.bytes();
        state.buffer.clear();
        self.settle(&mut state, before);
        let gone = if state.reader == Reader::Client {
            None
        } else {
            self.next_turn(&mut state, Reader::Nobody);
            state.inner.take()
        };
        drop(state);
        drop(gone);
    }

    /// Lets go of what it holds, for others.
    pub(super) fn let_go(&self) {
        let mut state = self.lock();
        state.listed = false;
        let before = state.buffer.bytes();
        state.buffer.clear();
        self.settle(&mut state, before);
    }

    /// Lets go of what is too old; says whether anybody could still come for it.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let before = state.buffer.bytes();
        state.buffer.trim(now);
        self.settle(&mut state, before);
        if state.forgotten {
            return false;
        }
        match state.expires {
            // Of a call of which nothing is kept, nothing more is to be had.
            Some(at) => now < at && (self.id.kind == Kind::Standing || state.buffer.bytes() > 0),
            None => true,
        }
    }

    /// Makes known what it holds now.
    fn settle(&self, state: &mut State, before: usize) {
        let now = state.buffer.bytes();
        if now != before {
            self.budget.change(before, now);
        }
        if now > 0 && !state.listed {
            state.listed = true;
            self.budget.add(self.me.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With this frame nothing more comes.
fn source_ended(state: &State, frame: Option<&Result<Frame<Bytes>, BoxError>>) -> bool {
    match frame {
        Some(Ok(_)) => state
            .inner
            .as_ref()
            .is_some_and(|source| source.body.is_end_stream()),
        Some(Err(_)) | None => true,
    }
}

fn put(
    out: &mut VecDeque<Out>,
    pieces: impl IntoIterator<Item = Bytes>,
    begins: bool,
    ends: Option<u64>,
) {
    let mut begins = begins;
    let before = out.len();
    for piece in pieces {
        out.push_back(Out {
            frame: Frame::data(piece),
            begins: std::mem::take(&mut begins),
            ends: None,
        });
    }
    if out.len() > before
        && let Some(last) = out.back_mut()
    {
        last.ends = ends;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let held = state.unwrap_or_else(PoisonError::into_inner).buffer.bytes();
        self.budget.change(held, 0);
    }
}

/// The event that tells a client that what it missed is not kept.
pub(super) fn lost(exchange: &Exchange, id: &crate::mcp::Id) -> Bytes {
    error_event(&EventsLost, exchange, id)
}
