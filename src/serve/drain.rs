//! The two-stage shutdown, as a value that one side drives and any number of others watch.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

/// How far a shutdown has come. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No shutdown.
    Serving,
    /// Nothing new; what is under way finishes.
    Draining,
    /// The limit: what is still open ends now.
    Closing,
}

/// Drives a shutdown. When the last clone is dropped, those who watch take it as [`Phase::Closing`].
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// Sees a shutdown coming.
#[derive(Clone, Debug)]
pub struct DrainWatch {
    phase: watch::Receiver<Phase>,
}

// === impl Drain ===

impl Drain {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
        }
    }

    /// A view of it, for a listener or for a layer that ends streams.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            phase: self.phase.subscribe(),
        }
    }

    /// Begins to drain.
    pub fn start(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends what is still open.
    pub fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Drains, waits at most `limit` for `running` to end, then closes and waits for the rest.
    pub async fn finish<F: Future>(&self, limit: Duration, running: F) -> F::Output {
        let mut running = pin!(running);
        self.start();
        if let Ok(done) = tokio::time::timeout(limit, &mut running).await {
            return done;
        }
        self.close();
        running.await
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

// === impl DrainWatch ===

impl DrainWatch {
    /// How far it is now.
    pub fn phase(&self) -> Phase {
        if self.phase.has_changed().is_err() {
            return Phase::Closing;
        }
        *self.phase.borrow()
    }

    /// Waits until the drain has begun.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until the limit.
    pub async fn closing(&mut self) {
        self.reached(Phase::Closing).await;
    }

    async fn reached(&mut self, at: Phase) {
        // An error means that the driving side is gone, which counts as the end.
        drop(self.phase.wait_for(|phase| *phase >= at).await);
    }
}
