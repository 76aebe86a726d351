//! How many children there may be: a seat for each, given back when the process is gone. The most may change at any time; what was let in
//! under the old bound counts under the new one. Who has waited longest gets the next seat; neither a newcomer nor what nobody waits for gets
//! one before.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, futures::Notified};

/// The seats of a pool.
#[derive(Debug, Default)]
pub(in crate::upstream::stdio) struct Seats {
    book: Mutex<Book>,
    /// Tells those who wait that they should look again.
    look: Notify,
    /// Told of each seat that was given back, and when nobody waits any more.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Book {
    taken: usize,
    /// The tickets of those who wait, the oldest first.
    waiting: BTreeSet<u64>,
    tickets: u64,
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
pub(super) struct Waiter {
    seats: Arc<Seats>,
    ticket: u64,
}

impl Seats {
    pub(super) fn new(wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            wake,
            ..Self::default()
        })
    }

    /// Nobody waits for a seat.
    pub(super) fn is_calm(&self) -> bool {
        self.book().waiting.is_empty()
    }

    /// Whether there is one of `most` that nobody waits for.
    pub(super) fn has_room(&self, most: usize) -> bool {
        self.book().has_room(most)
    }

    pub(super) fn count(&self) -> Count {
        let book = self.book();
        Count {
            taken: book.taken,
            waiting: book.waiting.len(),
        }
    }

    /// A seat, if fewer than `most` are taken and nobody waits for one.
    pub(super) fn take(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let mut book = self.book();
        book.has_room(most).then(|| self.seat(&mut book))
    }

    fn seat(self: &Arc<Self>, book: &mut Book) -> Seat {
        book.taken += 1;
        Seat(self.clone())
    }

    /// Somebody waits from now on.
    pub(super) fn wait(self: &Arc<Self>) -> Waiter {
        let mut book = self.book();
        let ticket = book.tickets;
        book.tickets += 1;
        book.waiting.insert(ticket);
        Waiter {
            seats: self.clone(),
            ticket,
        }
    }

    /// Tells those who wait that they should look again: a seat was given back, its child is known now, or there may be more of them.
    pub(super) fn tell(&self) {
        self.look.notify_waiters();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn has_room(&self, most: usize) -> bool {
        self.waiting.is_empty() && self.taken < most
    }

    fn is_first(&self, ticket: u64) -> bool {
        self.waiting.first() == Some(&ticket)
    }
}

impl Waiter {
    /// Done once there may be something new, counted from this call.
    pub(super) fn told(&self) -> Notified<'_> {
        self.seats.look.notified()
    }

    /// Nobody has waited for longer.
    pub(super) fn is_first(&self) -> bool {
        self.seats.book().is_first(self.ticket)
    }

    /// A seat, if fewer than `most` are taken and nobody has waited for longer. Whoever has one is to wait no more.
    pub(super) fn take(&self, most: usize) -> Option<Seat> {
        let mut book = self.seats.book();
        let mine = book.is_first(self.ticket) && book.taken < most;
        mine.then(|| self.seats.seat(&mut book))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let seats = &self.seats;
        let mut book = seats.book();
        book.waiting.remove(&self.ticket);
        let last = book.waiting.is_empty();
        drop(book);
        if last {
            seats.wake.notify_one();
        } else {
            // Somebody else may be the first now.
            seats.tell();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.0;
        seats.book().taken -= 1;
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
        assert!(!seats.has_room(1) && seats.take(1).is_none());
        let seat = waiter.take(1).expect("a seat");
        assert!(other.take(1).is_none());
        drop(told);
        drop((waiter, other, seat));
        assert!(seats.has_room(1) && seats.take(1).is_some());
    }

    #[test]
    fn who_has_waited_longest_comes_first_and_no_newcomer() {
        let seats = Seats::new(Arc::default());
        let taken = seats.take(1).expect("a seat");
        let (first, second) = (seats.wait(), seats.wait());
        drop(taken);
        assert!(seats.take(1).is_none(), "somebody waits");
        assert!(second.take(1).is_none(), "for longer");
        let mut told = task::spawn(second.told());
        assert_pending!(told.poll());
        drop(first);
        assert_ready!(told.poll(), "it is the first now");
        assert!(second.take(1).is_some());
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
