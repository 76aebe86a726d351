//! What all streams of the process may hold together: the oldest give way first.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::metrics::Gauge;

use super::stream::Stream;
use crate::metrics::{gauge, names};

/// The bytes that are held, and who holds them.
#[derive(Debug)]
pub(super) struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    /// The streams that hold something, in the order in which they began to.
    holders: Mutex<VecDeque<Weak<Stream>>>,
    gauge: Gauge,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        let gauge = gauge(names::REPLAY_BUFFER, &[]);
        gauge.increment(0.0);
        Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            holders: Mutex::default(),
            gauge,
        }
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.make_room();
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A stream that held so much holds something else now.
    pub(super) fn change(&self, from: usize, to: usize) {
        if to >= from {
            self.held.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(from - to, Ordering::Relaxed);
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.gauge.increment(to as f64 - from as f64);
    }

    /// A stream begins to hold something. It must be told when it is taken out.
    pub(super) fn add(&self, stream: Weak<Stream>) {
        self.holders().push_back(stream);
    }

    /// Lets the oldest let go until the rest fits. Not to be called by whoever holds a stream's lock.
    pub(super) fn make_room(&self) {
        while self.held() > self.limit.load(Ordering::Relaxed) {
            let Some(oldest) = self.holders().pop_front() else {
                return;
            };
            if let Some(stream) = oldest.upgrade() {
                stream.let_go();
            }
        }
    }

    /// Forgets streams that are gone.
    pub(super) fn sweep(&self) {
        self.holders().retain(|stream| stream.strong_count() > 0);
    }

    fn holders(&self) -> std::sync::MutexGuard<'_, VecDeque<Weak<Stream>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
