//! One connection, as the listener sees it: what it is doing, since when, and what is asked of it.
//!
//! A connection's clocks cost nothing while it works: this keeps a few atomics, and one timer for each connection looks
//! at them when it fires. Only a request head that arrives in pieces moves that timer.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// What the listener asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Go on.
    Serve,
    /// Finish what is under way, and close.
    Drain,
    /// End now.
    Cut,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// It is new, and nothing has arrived.
    Fresh(Instant),
    /// Part of a request head has arrived.
    Head(Instant),
    /// It waits for the next request.
    Idle(Instant),
    /// An exchange is under way, or the connection was upgraded.
    Busy,
}

/// The state of one connection, shared by its task, its socket and its exchanges.
#[derive(Debug)]
pub(super) struct Line {
    began: Instant,
    order: AtomicU8,
    stage: AtomicU8,
    since: AtomicU64,
    /// Milliseconds, and one, from the beginning to when a write had to wait; 0 while none does.
    stalled: AtomicU64,
    exchanges: AtomicU32,
    multiplexed: AtomicBool,
    upgraded: AtomicBool,
    /// Wakes the connection's task.
    pub(super) task: AtomicWaker,
    /// Wake whoever reads or writes the connection after an upgrade.
    pub(super) reader: AtomicWaker,
    pub(super) writer: AtomicWaker,
}

const FRESH: u8 = 0;
const HEAD: u8 = 1;
const BETWEEN: u8 = 2;

// === impl Line ===

impl Line {
    pub(super) fn new(order: Order) -> Self {
        Self {
            began: Instant::now(),
            order: AtomicU8::new(order as u8),
            stage: AtomicU8::new(FRESH),
            since: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            exchanges: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            task: AtomicWaker::new(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    pub(super) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Asks something of the connection, and wakes it.
    pub(super) fn give(&self, order: Order) {
        self.order.store(order as u8, Ordering::Release);
        self.task.wake();
        self.reader.wake();
        self.writer.wake();
    }

    pub(super) fn doing(&self) -> Doing {
        if self.upgraded() || self.exchanges.load(Ordering::Acquire) > 0 {
            return Doing::Busy;
        }
        let since = self.began + Duration::from_millis(self.since.load(Ordering::Acquire));
        match self.stage.load(Ordering::Acquire) {
            FRESH => Doing::Fresh(since),
            HEAD => Doing::Head(since),
            _ => Doing::Idle(since),
        }
    }

    /// Whether a drain waits for it: it may close, and no half-read request would be lost.
    pub(super) fn should_close(&self) -> bool {
        self.order() == Order::Drain && !matches!(self.doing(), Doing::Head(_))
    }

    /// The handshake is over, and the wait for the first request begins.
    pub(super) fn opened(&self) {
        self.touch();
    }

    /// Bytes have arrived.
    pub(super) fn received(&self) {
        match self.stage.load(Ordering::Relaxed) {
            HEAD => {}
            FRESH => self.stage.store(HEAD, Ordering::Release),
            // On HTTP/2 pings and window updates arrive at any time, so bytes do not mean that a head has begun.
            _ if self.multiplexed.load(Ordering::Relaxed) => {}
            _ if self.exchanges.load(Ordering::Relaxed) > 0 => {}
            _ => {
                self.touch();
                self.stage.store(HEAD, Ordering::Release);
            }
        }
    }

    /// Bytes were sent. After an exchange that is what its client still had to read, so the connection is not idle.
    pub(super) fn sent(&self) {
        if self.exchanges.load(Ordering::Relaxed) == 0 {
            self.touch();
        }
    }

    /// The socket took something, or had no room for it.
    pub(super) fn wrote(&self, took: bool) {
        let stalled = self.stalled.load(Ordering::Relaxed) > 0;
        if took && stalled {
            self.stalled.store(0, Ordering::Release);
        } else if !took && !stalled {
            let since = u64::try_from(self.began.elapsed().as_millis());
            let since = since.unwrap_or(u64::MAX).saturating_add(1);
            self.stalled.store(since, Ordering::Release);
        }
    }

    /// Since when the socket has had no room for what there is to send.
    pub(super) fn stalled(&self) -> Option<Instant> {
        let since = self.stalled.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.began + Duration::from_millis(since))
    }

    /// A request head is complete, and its exchange begins.
    pub(super) fn begin(&self, multiplexed: bool) {
        self.exchanges.fetch_add(1, Ordering::AcqRel);
        self.stage.store(BETWEEN, Ordering::Release);
        if multiplexed {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
    }

    /// An exchange is over.
    pub(super) fn end(&self) {
        self.touch();
        self.exchanges.fetch_sub(1, Ordering::AcqRel);
    }

    /// The connection no longer carries HTTP; it counts as one exchange until its socket closes.
    pub(super) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    pub(super) fn upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Acquire)
    }

    fn touch(&self) {
        let since = self.began.elapsed().as_millis();
        self.since
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_knows_what_it_is_doing() {
        let line = Line::new(Order::Serve);
        let start = Instant::now();
        assert_eq!(line.doing(), Doing::Fresh(start));
        line.received();
        assert_eq!(line.doing(), Doing::Head(start));
        line.begin(false);
        assert_eq!(line.doing(), Doing::Busy);
        line.received();
        tokio::time::advance(Duration::from_secs(1)).await;
        line.end();
        assert_eq!(line.doing(), Doing::Idle(start + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        line.received();
        assert_eq!(line.doing(), Doing::Head(start + Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_lasts_from_the_first_write_that_waits_to_the_next_that_does_not() {
        let line = Line::new(Order::Serve);
        let start = Instant::now();
        assert_eq!(line.stalled(), None);
        for _ in 0..3 {
            line.wrote(false);
            assert_eq!(line.stalled(), Some(start));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        line.wrote(true);
        assert_eq!(line.stalled(), None);
        line.wrote(false);
        assert_eq!(line.stalled(), Some(start + Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn on_http2_bytes_alone_do_not_begin_a_head() {
        let line = Line::new(Order::Serve);
        line.begin(true);
        line.end();
        line.received();
        assert_eq!(line.doing(), Doing::Idle(Instant::now()));
    }
}
