//! All open connections of a listener, so that a drain can reach each of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Served;
use super::drain::{DrainWatch, Phase};
use super::line::{Line, Order};
use super::meter::Meter;

/// The open connections, and what became of exchanges since the drain began.
#[derive(Debug)]
pub(super) struct Floor {
    lines: Mutex<Lines>,
    drain: DrainWatch,
    draining: AtomicBool,
    finished: AtomicU64,
    cut: AtomicU64,
}

/// A place on the floor. The socket holds it; dropping it means that the socket is closed.
#[derive(Debug)]
pub(super) struct Lease {
    id: u64,
    line: Arc<Line>,
    floor: Arc<Floor>,
    meter: Meter,
    _permit: OwnedSemaphorePermit,
}

/// An exchange that is under way. Dropping it ends the exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    line: Arc<Line>,
    floor: Arc<Floor>,
    upgraded: bool,
}

/// Cuts all connections when the listener's future is dropped.
pub(super) struct CutOnDrop(pub(super) Arc<Floor>);

#[derive(Debug)]
struct Lines {
    order: Order,
    next: u64,
    open: HashMap<u64, Arc<Line>>,
}

// === impl Floor ===

impl Floor {
    pub(super) fn new(drain: DrainWatch) -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::new(Lines {
                order: Order::Serve,
                next: 0,
                open: HashMap::new(),
            }),
            drain,
            draining: AtomicBool::new(false),
            finished: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        })
    }

    /// Takes in a new connection.
    pub(super) fn enter(self: &Arc<Self>, permit: OwnedSemaphorePermit, meter: Meter) -> Lease {
        let mut lines = self.lines();
        let id = lines.next;
        lines.next += 1;
        let line = Arc::new(Line::new(lines.order));
        lines.open.insert(id, line.clone());
        drop(lines);
        meter.opened();
        Lease {
            id,
            line,
            floor: self.clone(),
            meter,
            _permit: permit,
        }
    }

    /// Asks something of every connection, and of those that come later.
    pub(super) fn order(&self, order: Order) {
        let mut lines = self.lines();
        self.draining
            .store(order != Order::Serve, Ordering::Release);
        lines.order = order;
        for line in lines.open.values() {
            line.give(order);
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.lines().open.len()
    }

    /// What became of the exchanges that ended since the drain began.
    pub(super) fn served(&self) -> Served {
        Served {
            finished: self.finished.load(Ordering::Acquire),
            cut: self.cut.load(Ordering::Acquire),
        }
    }

    /// An exchange has ended. By the phase at this moment it is told whether it was let finish.
    fn end(&self) {
        if !self.draining.load(Ordering::Acquire) {
            return;
        }
        let ended = match self.drain.phase() {
            Phase::Serving | Phase::Draining => &self.finished,
            Phase::Closing => &self.cut,
        };
        ended.fetch_add(1, Ordering::AcqRel);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.floor.lines().open.remove(&self.id);
        if self.line.upgraded() {
            self.floor.end();
        }
        self.meter.closed();
    }
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn begin(line: Arc<Line>, floor: Arc<Floor>, multiplexed: bool) -> Self {
        line.begin(multiplexed);
        Self {
            line,
            floor,
            upgraded: false,
        }
    }

    /// The connection turned into something else; from here on its lease counts for the exchange.
    pub(super) fn upgrade(mut self) {
        self.line.upgrade();
        self.upgraded = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.line.end();
        if !self.upgraded {
            self.floor.end();
        }
    }
}

// === impl CutOnDrop ===

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.order(Order::Cut);
    }
}
