//! One stream that is kept: where it comes from, what of it is kept, and who reads it.
//!
//! Readers take turns: whoever comes last has the turn, and the one before it ends. The reader that has the turn polls the upstream's body itself, under the
//! stream's lock, so that there is no task and no queue between them; what it takes in is kept for the next one.

mod life;
mod source;

use std::{
    collections::VecDeque,
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::source::Source;
use super::{
    EventsLost,
    budget::Budget,
    buffer::{Bounds, Buffer},
    id::{Kind, Lines, StreamId},
    out::{Out, put},
    split::{Part, Splitter},
};
use crate::{
    Body,
    attempt::InSession,
    error::BoxError,
    exchange::Exchange,
    rescue::{AnswerMissing, error_event},
};

/// A stream that clients may come back to.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    lines: Lines,
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

/// What a reader got.
#[derive(Debug)]
pub(super) enum Step {
    /// Something to go out.
    More {
        /// Of an event the beginning has gone out, and not the end.
        torn: bool,
    },
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
            lines: id.lines(),
            id,
            me: me.clone(),
            budget: budget.clone(),
            times,
            ended: member.ended.clone(),
            exchange,
            primes,
            turn: AtomicU64::new(1),
            state: Mutex::new(State {
                inner: Some(Source::new(
                    body,
                    (kind == Kind::Call).then(|| member.hold()).flatten(),
                )),
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
        let old = state.inner.replace(Source::new(body, None));
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
        let line = self.lines.line(0, Some(retry));
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
            return Poll::Ready(self.recall(&state, turn, cursor, out));
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
        let ended = source.is_over(frame.as_ref());
        let before = state.buffer.bytes();
        let missing = ended && !matches!(frame, Some(Err(_))) && self.exchange.is_left_unanswered();
        let reader = (turn, own);
        let mut last = match frame {
            Some(Ok(frame)) => {
                self.take(&mut state, turn, frame, out);
                *cursor = state.buffer.newest();
                None
            }
            Some(Err(error)) if self.fail(&mut state, reader, &*error, cursor) => None,
            Some(Err(error)) => Some(Step::Failed(error)),
            None => Some(Step::End),
        };
        if missing && self.fail(&mut state, reader, &AnswerMissing, cursor) {
            last = None;
        }
        let gone = ended.then(|| self.end(&mut state, out)).flatten();
        let step = last.unwrap_or_else(|| state.more(turn));
        self.settle(&mut state, before);
        drop(state);
        drop(gone);
        self.budget.make_room();
        Poll::Ready(step)
    }

    /// The next thing that is kept.
    fn recall(&self, state: &State, turn: u64, cursor: &mut u64, out: &mut VecDeque<Out>) -> Step {
        if self.id.kind == Kind::Call && !state.buffer.has_all_after(*cursor) {
            return Step::Lost;
        }
        match state.buffer.next_after(*cursor) {
            Some((number, pieces)) => {
                *cursor = number;
                let line = [self.lines.line(number, None)];
                let event = line.into_iter().chain(pieces.iter().cloned());
                put(out, event, true, Some(number));
            }
            None => *cursor = state.buffer.newest(),
        }
        state.more(turn)
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
                let line = [self.lines.line(number, None)];
                put(out, line.into_iter().chain(pieces), true, Some(number));
            }
            Part::Other(pieces) => put(out, pieces, true, None),
            Part::Begin(pieces) => {
                *torn = Some(turn);
                let number = buffer.skip();
                let line = [self.lines.line(number, None)];
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

    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl State {
    /// The reader with this turn got something.
    fn more(&self, turn: u64) -> Step {
        Step::More {
            torn: self.torn == Some(turn),
        }
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
