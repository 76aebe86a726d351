//! A call in the hands of a child: what has come for it, and who reads that.
//!
//! The child's reader pushes, the response body takes. Between them is a bounded buffer, so that a slow reader never holds up the
//! child; past the bound the call fails, and only that call.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{error::StdioError, message::Message};

/// The buffer of one response.
#[derive(Debug)]
pub(super) struct Call {
    cell: Mutex<Cell>,
    limit: usize,
}

#[derive(Debug)]
struct Cell {
    queue: VecDeque<Item>,
    bytes: usize,
    /// Answers that are still to come.
    open: usize,
    ended: bool,
    failed: Option<StdioError>,
    detached: bool,
    waker: Option<Waker>,
}

/// One message for the client.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Message,
    /// It is the answer to a request of this call; with the code of its error.
    pub(super) answer: Option<Option<i64>>,
}

impl Call {
    /// A call that waits for this many answers; none for a stream that stands until somebody ends it.
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
    pub(super) fn push(&self, item: Item) -> bool {
        let mut cell = self.lock();
        if let Some(_answer) = &item.answer {
            cell.open = cell.open.saturating_sub(1);
            cell.ended |= cell.open == 0;
        }
        if cell.detached || cell.failed.is_some() {
            return false;
        }
        cell.bytes += item.message.len();
        if cell.bytes > self.limit && !cell.queue.is_empty() {
            cell.queue.clear();
            cell.bytes = 0;
            cell.failed = Some(StdioError::SlowReader { limit: self.limit });
            cell.ended = true;
            wake(cell);
            return false;
        }
        cell.queue.push_back(item);
        wake(cell);
        true
    }

    /// Nothing more will come, for this reason.
    pub(super) fn fail(&self, error: StdioError) {
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

    /// The reader has gone; what comes from now on is dropped. Gives back what it has not taken.
    pub(super) fn detach(&self) -> VecDeque<Item> {
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
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Result<Item, StdioError>>> {
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
    use bytes::Bytes;
    use futures_util::future::poll_fn;

    use super::*;

    fn item(text: &'static str, answer: bool) -> Item {
        Item {
            message: Message::One(Bytes::from_static(text.as_bytes())),
            answer: answer.then_some(None),
        }
    }

    async fn next(call: &Call) -> Option<Result<usize, StdioError>> {
        poll_fn(|cx| call.poll_next(cx))
            .await
            .map(|r| r.map(|i| i.message.len()))
    }

    #[tokio::test]
    async fn a_call_ends_with_its_last_answer() {
        let call = Call::new(2, 100);
        assert!(call.push(item("a", true)) && call.is_live());
        assert!(call.push(item("bc", true)) && !call.is_live());
        assert!(matches!(next(&call).await, Some(Ok(1))));
        assert!(!call.is_drained());
        assert!(matches!(next(&call).await, Some(Ok(2))));
        assert!(call.is_drained() && next(&call).await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_loses_the_call_alone() {
        let call = Call::new(1, 3);
        assert!(call.push(item("longer than that, but alone", false)));
        assert!(!call.push(item("x", false)));
        assert!(matches!(
            next(&call).await,
            Some(Err(StdioError::SlowReader { limit: 3 }))
        ));
        assert!(next(&call).await.is_none());
    }
}
