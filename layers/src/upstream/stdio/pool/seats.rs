//! How many children there may be: a seat for each, given back when the process is gone. The most may change at any time; what was let in
//! under the old bound counts under the new one. What nobody waits for gets no seat that somebody does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, futures::Notified};

/// The seats of a pool.
#[derive(Debug, Default)]
pub(in crate::upstream::stdio) struct Seats {
    count: Mutex<Count>,
    /// Tells those who wait that they should look again.
    look: Notify,
    /// Told of each seat that was given back, and when nobody waits any more.
    wake: Arc<Notify>,
}

/// How many seats are taken, and how many are waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) taken: usize,
    pub(super) waiting: usize,
}

/// A seat for a child.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Seat(Arc<Seats>);

/// Somebody who waits for a seat, for as long as this lives.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Seats>);

impl Seats {
    pub(super) fn new(wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            wake,
            ..Self::default()
        })
    }

    /// Whether there is one of `most` that nobody waits for.
    pub(super) fn has_room(&self, most: usize) -> bool {
        let count = self.count();
        count.waiting == 0 && count.taken < most
    }

    pub(super) fn count(&self) -> Count {
        *self.lock()
    }

    /// A seat for somebody who needs it now, if fewer than `most` are taken.
    pub(super) fn take(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let mut count = self.lock();
        (count.taken < most).then(|| self.seat(&mut count))
    }

    /// A seat for what nobody needs yet: none that somebody waits for.
    pub(super) fn take_free(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let mut count = self.lock();
        (count.waiting == 0 && count.taken < most).then(|| self.seat(&mut count))
    }

    fn seat(self: &Arc<Self>, count: &mut Count) -> Seat {
        count.taken += 1;
        Seat(self.clone())
    }

    /// Somebody waits from now on.
    pub(super) fn wait(self: &Arc<Self>) -> Waiter {
        self.lock().waiting += 1;
        Waiter(self.clone())
    }

    /// Tells those who wait that they should look again: a seat was given back, or its child is known now.
    pub(super) fn tell(&self) {
        self.look.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Done once there may be something new, counted from this call.
    pub(super) fn told(&self) -> Notified<'_> {
        self.0.look.notified()
    }

    /// A seat, if fewer than `most` are taken. Whoever has one is to wait no more.
    pub(super) fn take(&self, most: usize) -> Option<Seat> {
        self.0.take(most)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let seats = &self.0;
        let mut count = seats.lock();
        count.waiting -= 1;
        let last = count.waiting == 0;
        drop(count);
        if last {
            seats.wake.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.0;
        seats.lock().taken -= 1;
        seats.tell();
        seats.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn the_most_may_change_beneath_those_who_have_seats() {
        let seats = Seats::new(Arc::default());
        let one = seats.take(1).expect("a seat");
        assert!(seats.take(1).is_none());
        let two = seats.take(2).expect("the most has grown");
        drop(one);
        assert!(seats.take(1).is_none(), "the most has shrunk");
        drop(two);
        assert_eq!(seats.count(), Count::default());
    }

    #[test]
    fn a_seat_that_is_given_back_is_for_those_who_wait() {
        let seats = Seats::new(Arc::default());
        let seat = seats.take(1).expect("a seat");
        let (waiter, other) = (seats.wait(), seats.wait());
        let mut told = task::spawn(waiter.told());
        assert_pending!(told.poll());
        drop(seat);
        assert_ready!(told.poll());
        assert!(!seats.has_room(1) && seats.take_free(1).is_none());
        let seat = waiter.take(1).expect("a seat");
        assert!(other.take(1).is_none());
        drop(told);
        drop((waiter, other, seat));
        assert!(seats.has_room(1) && seats.take_free(1).is_some());
    }

    #[test]
    fn whoever_is_told_before_they_listen_is_told() {
        let seats = Seats::new(Arc::default());
        let waiter = seats.wait();
        let told = waiter.told();
        seats.tell();
        assert_ready!(task::spawn(told).poll());
    }

    #[test]
    fn the_keeper_is_woken_when_the_last_has_gone() {
        let wake = Arc::new(Notify::new());
        let seats = Seats::new(wake.clone());
        let (one, two) = (seats.wait(), seats.wait());
        let mut woken = task::spawn(wake.notified());
        drop(one);
        assert_pending!(woken.poll());
        drop(two);
        assert_ready!(woken.poll());
    }
}
