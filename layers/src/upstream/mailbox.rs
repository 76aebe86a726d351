//! What waits for one reader: bounded, pushed by whoever reads the server, taken by a response body.
//!
//! A slow reader never holds up the server: past the bound its call fails, and only that call.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// One message for a client.
pub(super) trait Letter: Sized {
    /// What a reader is told if the call fails.
    type Error: From<SlowReader> + fmt::Debug;

    /// Its bytes.
    fn len(&self) -> usize;

    /// It answers a request of its call.
    fn is_answer(&self) -> bool;

    /// The same with memory of its own, for when it may wait for long.
    #[must_use]
    fn compact(self) -> Self;
}

/// The reader has fallen too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlowReader {
    /// The most bytes that wait.
    pub(super) limit: usize,
}

/// Who is to be woken, once no lock is held.
#[must_use]
pub(super) struct Wake(Option<Waker>);

/// The messages of one response.
#[derive(Debug)]
pub(super) struct Mailbox<T: Letter> {
    cell: Mutex<Cell<T, T::Error>>,
    limit: usize,
}

#[derive(Debug)]
struct Cell<T, E> {
    queue: VecDeque<T>,
    bytes: usize,
    /// Answers that are still to come.
    open: usize,
    ended: bool,
    failed: Option<E>,
    detached: bool,
    waker: Option<Waker>,
}

impl<T: Letter> Mailbox<T> {
    /// For a call that waits for so many answers; none for a stream that stands until somebody ends it.
    pub(super) fn new(answers: usize, limit: usize) -> Self {
        Self {
            cell: Mutex::new(Cell {
                queue: VecDeque::new(),
                bytes: 0,
                open: answers,
                ended: false,
                failed: None,
                detached: false,
                waker: None,
            }),
            limit,
        }
    }

    /// Something has come. False if there is nobody to take it, or no room: the call has failed then.
    pub(super) fn push(&self, item: T) -> bool {
        let (refused, wake) = self.put(item);
        wake.up();
        refused.is_none()
    }

    /// The same without waking anybody. What is not taken is given back.
    pub(super) fn put(&self, item: T) -> (Option<T>, Wake) {
        let mut cell = self.lock();
        if item.is_answer() {
            cell.open = cell.open.saturating_sub(1);
            cell.ended |= cell.open == 0;
        }
        if cell.detached || cell.failed.is_some() {
            return (Some(item), Wake::nobody());
        }
        cell.bytes += item.len();
        if cell.bytes > self.limit && !cell.queue.is_empty() {
            cell.queue.clear();
            cell.bytes = 0;
            cell.failed = Some(SlowReader { limit: self.limit }.into());
            cell.ended = true;
            return (Some(item), cell.wake());
        }
        cell.queue.push_back(item);
        (None, cell.wake())
    }

    /// Puts what came earlier before all that waits. Where there is no room for it the oldest is dropped; the reader does not fail by it.
    pub(super) fn refill(&self, earlier: VecDeque<T>) -> Wake {
        let mut cell = self.lock();
        for item in earlier.into_iter().rev() {
            if cell.bytes + item.len() > self.limit && !cell.queue.is_empty() {
                break;
            }
            cell.bytes += item.len();
            cell.queue.push_front(item);
        }
        cell.wake()
    }

    /// The most bytes that wait.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Nothing more will come, for this reason.
    pub(super) fn fail(&self, error: T::Error) {
        let mut cell = self.lock();
        if !cell.ended {
            cell.failed = Some(error);
            cell.ended = true;
            wake(cell);
        }
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

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut cell = self.lock();
        cell.ended = true;
        wake(cell);
    }

    /// The same without waking anybody.
    fn end_quietly(&self) -> Wake {
        let mut cell = self.lock();
        cell.ended = true;
        cell.wake()
    }

    /// The reader has gone; what comes from now on is dropped. Gives back what it has not taken.
    pub(super) fn detach(&self) -> VecDeque<T> {
        let mut cell = self.lock();
        cell.detached = true;
        cell.waker = None;
        cell.bytes = 0;
        std::mem::take(&mut cell.queue)
    }

    /// Somebody reads it, and it has not ended.
    pub(super) fn is_live(&self) -> bool {
        let cell = self.lock();
        !cell.detached && !cell.ended
    }

    /// The next message, the failure, or the end.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Result<T, T::Error>>> {
        let mut cell = self.lock();
        if let Some(item) = cell.queue.pop_front() {
            cell.bytes -= item.len();
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

    fn lock(&self) -> MutexGuard<'_, Cell<T, T::Error>> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the reader, outside the lock.
fn wake<T, E>(mut cell: MutexGuard<'_, Cell<T, E>>) {
    let wake = cell.wake();
    drop(cell);
    wake.up();
}

impl<T, E> Cell<T, E> {
    fn wake(&mut self) -> Wake {
        Wake(self.waker.take())
    }
}

impl Wake {
    /// Nobody.
    pub(super) fn nobody() -> Self {
        Self(None)
    }

    /// Ends this mailbox, if there is one.
    pub(super) fn end_of<T: Letter>(mailbox: Option<Arc<Mailbox<T>>>) -> Self {
        mailbox.map_or_else(Self::nobody, |mailbox| mailbox.end_quietly())
    }

    /// Wakes them.
    pub(super) fn up(self) {
        if let Some(waker) = self.0 {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    /// Its bytes, and whether it is an answer.
    #[derive(Debug)]
    struct Note(usize, bool);

    impl Letter for Note {
        type Error = SlowReader;

        fn len(&self) -> usize {
            self.0
        }

        fn is_answer(&self) -> bool {
            self.1
        }

        fn compact(self) -> Self {
            self
        }
    }

    async fn next(mailbox: &Mailbox<Note>) -> Option<Result<usize, SlowReader>> {
        let next = poll_fn(|cx| mailbox.poll_next(cx)).await;
        next.map(|r| r.map(|note| note.0))
    }

    #[tokio::test]
    async fn a_call_ends_with_its_last_answer() {
        let mailbox = Mailbox::new(2, 100);
        assert!(mailbox.push(Note(1, true)) && mailbox.is_live());
        assert!(mailbox.push(Note(2, true)) && !mailbox.is_live());
        assert_eq!(next(&mailbox).await, Some(Ok(1)));
        assert!(!mailbox.is_drained());
        assert_eq!(next(&mailbox).await, Some(Ok(2)));
        assert!(mailbox.is_drained());
        assert_eq!(next(&mailbox).await, None);
    }

    #[tokio::test]
    async fn an_answer_that_will_not_come_is_not_waited_for() {
        let mailbox = Mailbox::new(2, 100);
        assert!(mailbox.push(Note(1, true)) && mailbox.is_live());
        mailbox.forgo();
        assert!(!mailbox.is_live() && !mailbox.is_drained());
        assert_eq!(next(&mailbox).await, Some(Ok(1)));
        assert!(mailbox.is_drained());
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_loses_the_call_alone() {
        let mailbox = Mailbox::new(1, 3);
        assert!(mailbox.push(Note(30, false)), "longer, but alone");
        assert!(!mailbox.push(Note(1, false)));
        assert_eq!(next(&mailbox).await, Some(Err(SlowReader { limit: 3 })));
        assert_eq!(next(&mailbox).await, None);
    }

    #[test]
    fn what_was_not_read_is_given_back() {
        let mailbox = Mailbox::new(0, 100);
        assert!(mailbox.push(Note(1, false)));
        assert_eq!(mailbox.detach().len(), 1);
        assert!(!mailbox.push(Note(1, false)) && !mailbox.is_live());
    }
}
