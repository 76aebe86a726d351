//! How long a stream lives: what becomes of it when its reader goes, and when it is let go.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{Ids, Kind, Leave, Reader, Step, Stream};

/// How many events a task takes at a time.
const BATCH: usize = 64;

impl Stream {
    /// A reader goes. Gives the turn of the task that is to read on, and for how long, if one is.
    pub(in crate::replay) fn leave(&self, leave: Leave) -> Option<(u64, Duration)> {
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
        if useless || (!standing && !leave.told) {
            state.reader = Reader::Nobody;
            state.expires = Some(now);
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
    pub(in crate::replay) fn poll_on(&self, cx: &Context<'_>, turn: u64) -> Poll<()> {
        let (mut out, mut cursor) = (VecDeque::new(), u64::MAX);
        for _ in 0..BATCH {
            out.clear();
            match self.poll_next(cx, turn, false, &mut cursor, &mut out) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Step::More { .. }) => cursor = u64::MAX,
                Poll::Ready(Step::End | Step::Failed(_) | Step::Lost | Step::Superseded) => {
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The task that read on stops, if it still has the turn.
    pub(in crate::replay) fn stop(&self, turn: u64) {
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

    /// Nobody can come back to it from now on.
    pub(in crate::replay) fn forget(&self) {
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
    pub(in crate::replay) fn let_go(&self) {
        let mut state = self.lock();
        state.listed = false;
        let before = state.buffer.bytes();
        state.buffer.clear();
        self.settle(&mut state, before);
    }

    /// Lets go of what is too old; says whether anybody could still come for it. For whoever holds the table of all streams, and so may not wait for
    /// a reader, who has the lock while its upstream is polled: what is being read is wanted.
    pub(in crate::replay) fn is_wanted(&self, now: Instant) -> bool {
        let Some(mut state) = self.try_lock() else {
            return true;
        };
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

    /// Nothing more comes, and no client reads it. Waits for nobody, as [`is_wanted`](Self::is_wanted).
    pub(in crate::replay) fn is_over(&self) -> bool {
        self.try_lock()
            .is_some_and(|state| state.inner.is_none() && state.reader != Reader::Client)
    }
}
