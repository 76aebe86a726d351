//! The clock of one HTTP/2 stream: it is reset when its client has left its window shut for too long.
//!
//! Clients open a window when they have read a part of it, often half, so one that reads less than that in the time is taken for one that does
//! not read. What of the last [`PIECE`] is still to be sent when a body is over has no clock but the connection's.
//!
//! hyper asks a response body for more as soon as the stream's window takes a byte, in the same turn in which it got the frame before. So a frame that
//! was handed out, and after which it asked for no more, is one that the client has not taken. hyper runs each stream as a task of its own,
//! and a task that ends before its stream has resets that. So the body only says what it was asked, in a cell of
//! the thread, and the clock stands around the task (`tests/it/streams.rs` sees to it that hyper goes on like that). Frames are handed out in [`PIECE`]s, so that the clock does not wait for a large one as a whole.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Instant, Sleep};

use super::meter::Meter;

/// The most bytes that are handed out at once.
pub(super) const PIECE: usize = 64 * 1024;

/// The task of a stream, and its clock.
#[pin_project]
pub(super) struct Stream<F> {
    #[pin]
    task: F,
    limit: Option<Duration>,
    meter: Meter,
    /// When what the client has not taken was handed out.
    since: Option<Instant>,
    /// It may fire early.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What happened to the body in this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing.
    Unasked,
    /// It was asked for more, and there was none.
    Asked,
    /// A frame was handed out.
    Handed,
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::Unasked) };
}

/// A body is asked for more.
pub(super) fn asked() {
    TURN.set(Turn::Asked);
}

/// It had a frame.
pub(super) fn handed() {
    TURN.set(Turn::Handed);
}

// === impl Stream ===

impl<F> Stream<F> {
    pub(super) fn new(task: F, limit: Option<Duration>, meter: Meter) -> Self {
        Self {
            task,
            limit,
            meter,
            since: None,
            timer: None,
        }
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        TURN.set(Turn::Unasked);
        if this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match TURN.get() {
            Turn::Unasked => {}
            Turn::Asked => *this.since = None,
            Turn::Handed => *this.since = Some(Instant::now()),
        }
        let Some((since, limit)) = this.since.zip(*this.limit) else {
            return Poll::Pending;
        };
        let due = since + limit;
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                this.meter.write_stalled();
                tracing::debug!("a stream was reset, since its client did not take what there was");
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A task whose next turns are these; then nothing happens to its body.
    fn stream(limit: Option<Duration>, turns: &[Turn]) -> Stream<impl Future<Output = ()>> {
        let mut turns = turns.iter().copied();
        let task = poll_fn(move |_| {
            match turns.next() {
                Some(Turn::Asked) => asked(),
                Some(Turn::Handed) => {
                    asked();
                    handed();
                }
                Some(Turn::Unasked) | None => {}
            }
            Poll::Pending
        });
        Stream::new(task, limit, Meter::new("test"))
    }

    async fn wait(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_has_not_taken_a_frame_for_the_limit() {
        let mut stream = spawn(stream(Some(LIMIT), &[Turn::Handed]));
        assert_pending!(stream.poll());
        for _ in 0..2 {
            wait(29).await;
            assert_pending!(stream.poll());
        }
        assert!(!stream.is_woken());
        wait(2).await;
        assert!(stream.is_woken());
        assert_ready!(stream.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_asked_for_more_has_time_however_long_there_is_none() {
        let mut stream = spawn(stream(Some(LIMIT), &[Turn::Handed, Turn::Asked]));
        assert_pending!(stream.poll());
        wait(59).await;
        assert_pending!(stream.poll());
        wait(3600).await;
        assert_pending!(stream.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn each_frame_has_its_own_time() {
        let mut stream = spawn(stream(Some(LIMIT), &[Turn::Handed; 4]));
        for _ in 0..4 {
            assert_pending!(stream.poll());
            wait(59).await;
        }
        assert_pending!(stream.poll());
        wait(2).await;
        assert!(stream.is_woken());
        assert_ready!(stream.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_waits_for_ever() {
        let mut stream = spawn(stream(None, &[Turn::Handed]));
        assert_pending!(stream.poll());
        wait(3600).await;
        assert_pending!(stream.poll());
    }
}
