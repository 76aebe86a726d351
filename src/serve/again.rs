//! A future that is polled again at once when it wakes itself.
//!
//! hyper's connection does that with every request that has a body: the service asks for the body, and so wakes the connection that it is polled by.
//! Left to the scheduler, such a wake-up sends the task to the end of the queue and rouses another thread of the runtime, which costs
//! a light call two system calls and a change of threads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use pin_project::pin_project;

/// How often it is polled before others have their turn.
const TURNS: usize = 3;

/// A future with a waker of its own.
#[pin_project]
pub(super) struct Again<F> {
    #[pin]
    inner: F,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Nobody has rung since it was polled.
const QUIET: u8 = 0;
/// It is being polled, and nobody has rung.
const POLLED: u8 = 1;
/// Somebody has: it will be polled.
const RUNG: u8 = 2;

// === impl Again ===

impl<F> Again<F> {
    pub(super) fn new(inner: F) -> Self {
        let bell = Arc::<Bell>::default();
        Self {
            inner,
            waker: bell.clone().into(),
            bell,
        }
    }
}

impl<F: Future> Future for Again<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.bell.task.register(cx.waker());
        for _ in 0..TURNS {
            this.bell.state.store(POLLED, Ordering::SeqCst);
            let polled = this
                .inner
                .as_mut()
                .poll(&mut Context::from_waker(this.waker));
            if polled.is_ready() || this.bell.rest() {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

// === impl Bell ===

impl Bell {
    /// Whether nobody rang during the poll that is over.
    fn rest(&self) -> bool {
        let rest = self
            .state
            .compare_exchange(POLLED, QUIET, Ordering::SeqCst, Ordering::SeqCst);
        rest.is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::SeqCst) == QUIET {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::ready;

    use futures_util::task::noop_waker_ref;
    use tokio::sync::oneshot;
    use tokio_test::task::spawn;

    use super::*;

    #[test]
    fn what_wakes_itself_is_polled_again_and_its_task_is_not_woken() {
        let mut polls = 0;
        let mut task = spawn(Again::new(poll_fn(|cx| {
            polls += 1;
            match polls {
                1 => cx.waker().wake_by_ref(),
                _ => return Poll::Ready(()),
            }
            Poll::Pending
        })));
        assert!(task.poll().is_ready());
        assert!(!task.is_woken());
    }

    #[test]
    fn what_wakes_itself_for_ever_lets_others_have_their_turn() {
        let mut task = spawn(Again::new(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        })));
        assert!(task.poll().is_pending());
        assert!(task.is_woken());
    }

    #[test]
    fn a_wake_from_elsewhere_wakes_the_task_after_each_poll() {
        let outside = Arc::new(AtomicWaker::new());
        let inside = outside.clone();
        let mut task = spawn(Again::new(poll_fn(move |cx| {
            inside.register(cx.waker());
            Poll::<()>::Pending
        })));
        for _ in 0..3 {
            assert!(task.poll().is_pending());
            assert!(!task.is_woken());
            outside.wake();
            assert!(task.is_woken());
        }
    }

    #[test]
    fn the_task_that_polled_last_is_woken() {
        let (sender, mut receiver) = oneshot::channel::<()>();
        let mut again = Box::pin(Again::new(poll_fn(move |cx| {
            let _closed = ready!(Pin::new(&mut receiver).poll(cx));
            Poll::Ready(())
        })));
        let first = again
            .as_mut()
            .poll(&mut Context::from_waker(noop_waker_ref()));
        assert!(first.is_pending());
        let mut task = spawn(again);
        assert!(task.poll().is_pending());
        sender.send(()).expect("it listens");
        assert!(task.is_woken());
        assert!(task.poll().is_ready());
    }

    /// A wake that comes while another thread polls is never lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_is_lost_between_threads() {
        for _ in 0..2000 {
            let (sender, receiver) = oneshot::channel::<()>();
            let waits = tokio::spawn(Again::new(async move { receiver.await.is_ok() }));
            let sends = tokio::spawn(async move { sender.send(()) });
            let (waited, sent) = tokio::join!(waits, sends);
            assert!(waited.expect("no panic") && sent.expect("no panic").is_ok());
        }
    }
}
