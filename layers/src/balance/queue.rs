//! The place where calls wait while every endpoint is busy.
//!
//! First in, first out: only who has the turn watches the endpoints; whoever waits behind it waits for the turn alone. So one place that
//! comes free wakes one call, not a thousand, and a newcomer cannot pass those who wait, because it joins them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ::metrics::{Gauge, Histogram};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_util::sync::PollSemaphore;

use super::{QueueFull, QueueTimeout};
use crate::metrics::{UpWhile, gauge, histogram, names};

/// Who waits for one thing.
#[derive(Debug)]
pub(super) struct Queue {
    turn: Arc<Semaphore>,
    waiters: AtomicUsize,
}

/// The bounds of a queue, and what shows how long it is.
#[derive(Debug)]
pub(super) struct Bounds {
    limit: usize,
    time: Duration,
    waiters: Gauge,
    waits: Histogram,
}

/// One call that waits. Its place is given back when it is dropped.
pub(super) struct Wait {
    clock: Pin<Box<Sleep>>,
    limit: Duration,
    turn: Turn,
    /// What ends the wait: any change of an endpoint or of the set.
    changes: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Option<Place>,
}

enum Turn {
    Coming(PollSemaphore),
    Has(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit),
    /// Waits beside the queue.
    Beside,
}

struct Place {
    queue: Arc<Queue>,
    waits: Histogram,
    since: Instant,
    _shown: UpWhile,
}

// === impl Queue ===

impl Default for Queue {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            waiters: AtomicUsize::new(0),
        }
    }
}

impl Queue {
    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) == 0
    }

    /// Joins the queue.
    pub(super) fn join(self: &Arc<Self>, bounds: &Bounds) -> Result<Wait, QueueFull> {
        let limit = bounds.limit;
        if self.waiters.fetch_add(1, Ordering::Relaxed) >= limit {
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            return Err(QueueFull { limit });
        }
        Ok(Wait {
            turn: Turn::Coming(PollSemaphore::new(self.turn.clone())),
            _place: Some(Place {
                queue: self.clone(),
                waits: bounds.waits.clone(),
                since: Instant::now(),
                _shown: UpWhile::new(&bounds.waiters),
            }),
            ..Wait::beside(bounds)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiters.fetch_sub(1, Ordering::Relaxed);
        self.waits.record(self.since.elapsed().as_secs_f64());
    }
}

// === impl Bounds ===

impl Bounds {
    pub(super) fn new(upstream: &str, limit: usize, time: Duration) -> Self {
        let labels = [("upstream", upstream)];
        let waiters = gauge(names::POOL_WAITERS, &labels);
        // Not set: calls of an older balancer may still be waiting.
        waiters.increment(0.0);
        Self {
            limit,
            time,
            waiters,
            waits: histogram(names::POOL_WAIT, &labels),
        }
    }
}

// === impl Wait ===

impl Wait {
    /// A wait of what must not stand behind calls: it has the clock, but no place.
    pub(super) fn beside(bounds: &Bounds) -> Self {
        Self {
            clock: Box::pin(tokio::time::sleep(bounds.time)),
            limit: bounds.time,
            turn: Turn::Beside,
            changes: Vec::new(),
            _place: None,
        }
    }

    /// Ready when it has the turn, and from then on.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Turn::Coming(coming) = &mut self.turn
            && let Some(turn) = ready!(coming.poll_acquire(cx))
        {
            self.turn = Turn::Has(turn);
        }
        Poll::Ready(())
    }

    /// Watches for changes from now on, if it does not yet. To be called before looking whether there is something to wait for.
    pub(super) fn watch<F>(&mut self, changes: impl FnOnce() -> F)
    where
        F: IntoIterator<Item = Pin<Box<dyn Future<Output = ()> + Send>>>,
    {
        if self.changes.is_empty() {
            self.changes.extend(changes());
        }
    }

    /// Ready when something changed since the watch began.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut changed = false;
        for change in &mut self.changes {
            changed |= change.as_mut().poll(cx).is_ready();
        }
        if !changed {
            return Poll::Pending;
        }
        self.changes.clear();
        Poll::Ready(())
    }

    /// Ready when it has waited for too long.
    pub(super) fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<QueueTimeout> {
        self.clock
            .as_mut()
            .poll(cx)
            .map(|()| QueueTimeout { limit: self.limit })
    }
}
