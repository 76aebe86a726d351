//! What goes on after a call: each task is owned by its upstream, and ends with it.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of an upstream. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Tasks {
    notices: TaskTracker,
    tunnels: TaskTracker,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The most cancellations on their way at once; more are not sent.
const MAX_NOTICES: usize = 256;

impl Default for Tasks {
    fn default() -> Self {
        Self {
            notices: TaskTracker::new(),
            tunnels: TaskTracker::new(),
            places: Arc::new(Semaphore::new(MAX_NOTICES)),
            stop: CancellationToken::new(),
        }
    }
}

impl Tasks {
    /// Joins two connections until they end. Their number is that of the calls that asked.
    pub(super) fn tunnel(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn(&self.tunnels, &self.stop, task);
    }

    /// Tells the server something; false if too much is being told already.
    pub(super) fn notice(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return false;
        };
        spawn(&self.notices, &self.stop, async move {
            task.await;
            drop(place);
        });
        true
    }

    /// Waits for the notices, then ends the tunnels.
    pub(super) async fn close(&self) {
        self.notices.close();
        self.notices.wait().await;
        self.stop.cancel();
        self.tunnels.close();
        self.tunnels.wait().await;
    }
}

fn spawn(
    tracker: &TaskTracker,
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    // A call may be dropped after its runtime; then there is nobody to tell.
    if let Ok(runtime) = Handle::try_current() {
        let task = stop.clone().run_until_cancelled_owned(task);
        let _owned = tracker.spawn_on(async move { task.await.unwrap_or_default() }, &runtime);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
