//! What waits for one reader: bounded, pushed by the task that reads the server, taken by a response body.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::SseError;

/// The messages of one response.
#[derive(Debug)]
pub(super) struct Mailbox {
    cell: Mutex<Cell>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Cell {
    queue: VecDeque<Item>,
    bytes: usize,
    /// Answers that are still to come.
    open: usize,
    ended: bool,
    failed: Option<SseError>,
    detached: bool,
    waker: Option<Waker>,
}

/// One message for the client.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Bytes,
    /// It is the answer to a request of this call.
    pub(super) answer: bool,
    /// And that answer is an error.
    pub(super) error: bool,
}

impl Mailbox {
    /// Of a call that waits for so many answers; none for a stream that stands until somebody ends it.
    pub(super) fn new(answers: usize, limit: usize) -> Self {
        Self {
            cell: Mutex::new(Cell {
                open: answers,
                ..Cell::default()
            }),
            limit,
        }
    }

    /// Something has come. False if there is nobody to take it, or no room: the call has failed then.
    pub(super) fn push(&self, item: Item) -> bool {
        let mut cell = self.lock();
        if item.answer {
            cell.open = cell.open.saturating_sub(1);
            cell.ended |= cell.open == 0;
        }
        if cell.detached || cell.failed.is_some() {
            return false;
        }
        cell.bytes += item.message.len();
        let fits = cell.bytes <= self.limit || cell.queue.is_empty();
        if fits {
            cell.queue.push_back(item);
        } else {
            cell.queue.clear();
            cell.failed = Some(SseError::SlowReader { limit: self.limit });
            cell.ended = true;
        }
        wake(cell);
        fits
    }

    /// Nothing more will come, for this reason.
    pub(super) fn fail(&self, error: SseError) {
        let mut cell = self.lock();
        if !cell.ended {
            cell.failed = Some(error);
            cell.ended = true;
            wake(cell);
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut cell = self.lock();
        cell.ended = true;
        wake(cell);
    }

    /// One of its requests will have no answer; what has no other to wait for ends.
    pub(super) fn forgo(&self) {
        let mut cell = self.lock();
        cell.open = cell.open.saturating_sub(1);
        if cell.open == 0 {
            cell.ended = true;
            wake(cell);
        }
    }

    /// The reader has gone; what comes from now on is dropped.
    pub(super) fn detach(&self) {
        let mut cell = self.lock();
        cell.detached = true;
        cell.queue.clear();
        cell.waker = None;
    }

    /// Somebody reads it, and it has not ended.
    pub(super) fn is_live(&self) -> bool {
        let cell = self.lock();
        !cell.detached && !cell.ended
    }

    /// The next message, the failure, or the end.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Result<Item, SseError>>> {
        let mut cell = self.lock();
        if let Some(item) = cell.queue.pop_front() {
            cell.bytes -= item.message.len();
            return Poll::Ready(Some(Ok(item)));
        }
        if let Some(error) = cell.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if cell.ended {
            return Poll::Ready(None);
        }
        match &mut cell.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Nothing is left to read.
    pub(super) fn is_drained(&self) -> bool {
        let cell = self.lock();
        cell.ended && cell.queue.is_empty() && cell.failed.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the reader, outside the lock.
fn wake(mut cell: MutexGuard<'_, Cell>) {
    let waker = cell.waker.take();
    drop(cell);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    fn item(text: &'static str, answer: bool) -> Item {
        Item {
            message: Bytes::from_static(text.as_bytes()),
            answer,
            error: false,
        }
    }

    #[tokio::test]
    async fn a_call_ends_with_its_last_answer_and_a_slow_reader_loses_it_alone() {
        let mailbox = Mailbox::new(2, 3);
        assert!(mailbox.push(item("a", true)) && mailbox.is_live());
        mailbox.forgo();
        assert!(!mailbox.is_live() && !mailbox.is_drained());
        let first = poll_fn(|cx| mailbox.poll_next(cx)).await;
        assert_eq!(first.expect("one").expect("no error").message, "a");
        assert!(mailbox.is_drained());
        let slow = Mailbox::new(1, 3);
        assert!(slow.push(item("longer, but alone", false)));
        assert!(!slow.push(item("x", false)));
        let end = poll_fn(|cx| slow.poll_next(cx)).await;
        assert!(matches!(end, Some(Err(SseError::SlowReader { limit: 3 }))));
    }
}
