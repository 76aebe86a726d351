//! What others are told in its own time: a call that was given up, a session that is over. Nobody waits for it.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinSet, time::timeout};

/// The notices on their way. Dropping it ends them.
#[derive(Default)]
pub(crate) struct Notices(Mutex<JoinSet<()>>);

/// The most on their way at once; more are not sent.
const MOST: usize = 256;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(5);

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl Notices {
    /// Sends one, unless there are too many.
    pub(crate) fn tell(&self, notice: impl Future<Output = ()> + Send + 'static) {
        // A call, or a body, may be dropped after its runtime; then there is nobody to tell.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut notices = self.lock();
        while notices.try_join_next().is_some() {}
        if notices.len() < MOST {
            let notice = async move {
                let _late = timeout(LIMIT, notice).await;
            };
            notices.spawn_on(notice, &runtime);
        }
    }

    /// Waits until all that are on their way have been sent, [`LIMIT`] at most. One that begins meanwhile is not waited for.
    pub(crate) async fn close(&self) {
        let mut notices = std::mem::take(&mut *self.lock());
        while notices.join_next().await.is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn notices_are_bounded_in_number_and_time() {
        let (notices, held) = (Notices::default(), Arc::new(()));
        for _ in 0..2 * MOST {
            let held = held.clone();
            notices.tell(async move {
                pending::<()>().await;
                drop(held);
            });
        }
        assert_eq!(Arc::strong_count(&held), MOST + 1);
        let begun = tokio::time::Instant::now();
        notices.close().await;
        assert_eq!(begun.elapsed(), LIMIT);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
