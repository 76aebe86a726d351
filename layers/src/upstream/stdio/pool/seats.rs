//! How many children there may be: a seat for each, given back when the process is gone. The most may change at any time; what was let in
//! under the old bound counts under the new one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// The seats of a pool.
#[derive(Debug, Default)]
pub(in crate::upstream::stdio) struct Seats {
    taken: Mutex<usize>,
    freed: Notify,
    /// Told of each seat that was given back.
    wake: Arc<Notify>,
}

/// A seat for a child.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Seat(Arc<Seats>);

impl Seats {
    pub(super) fn new(wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            wake,
            ..Self::default()
        })
    }

    /// Whether fewer than `most` are taken.
    pub(super) fn has_room(&self, most: usize) -> bool {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) < most
    }

    /// A seat, if fewer than `most` are taken.
    pub(super) fn take(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Seat(self.clone()))
    }

    /// The same, if one is given back within `limit`.
    pub(super) async fn wait(self: &Arc<Self>, most: usize, limit: Duration) -> Option<Seat> {
        let place = async {
            loop {
                let freed = self.freed.notified();
                if let Some(place) = self.take(most) {
                    return place;
                }
                freed.await;
            }
        };
        tokio::time::timeout(limit, place).await.ok()
    }

    #[cfg(test)]
    fn taken(&self) -> usize {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.0;
        *seats.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        seats.freed.notify_waiters();
        seats.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seat_is_given_back_and_waited_for() {
        let seats = Seats::new(Arc::default());
        let one = seats.take(1).expect("a seat");
        assert!(seats.take(1).is_none());
        let two = seats.take(2).expect("the most has grown");
        drop(one);
        assert!(seats.take(1).is_none(), "the most has shrunk");
        assert!(seats.wait(1, Duration::from_secs(1)).await.is_none());
        let (late, ()) = tokio::join!(seats.wait(1, Duration::from_secs(9)), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(two);
        });
        assert_eq!(seats.taken(), 1);
        drop(late.expect("in time"));
        assert_eq!(seats.taken(), 0);
    }
}
