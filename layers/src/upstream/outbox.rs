//! What a server says to its client outside of calls: the session's standing stream, and what waits for one.
//!
//! Its owner keeps it under a lock. So nothing here wakes a reader by itself: who is to be woken is given back ([`Wake`]), for when the lock is gone.

use std::{collections::VecDeque, sync::Arc};

use super::mailbox::{Letter, Mailbox, Wake};

/// The standing stream of a session, and what waits for it.
#[derive(Debug)]
pub(super) struct Outbox<T: Letter> {
    stream: Option<Arc<Mailbox<T>>>,
    waiting: VecDeque<T>,
    bytes: usize,
    ended: bool,
}

/// The most messages that wait for a stream; then the oldest is dropped.
const WAITING: usize = 256;

impl<T: Letter> Outbox<T> {
    /// Without a stream.
    pub(super) fn new() -> Self {
        Self {
            stream: None,
            waiting: VecDeque::new(),
            bytes: 0,
            ended: false,
        }
    }

    /// Opens the stream, in place of one that is open; what waited for it comes first.
    pub(super) fn open(&mut self, limit: usize) -> (Arc<Mailbox<T>>, Wake) {
        let stream = Arc::new(Mailbox::new(0, limit));
        for letter in self.take_waiting() {
            let (_over, nobody) = stream.put(letter);
            nobody.up();
        }
        if self.ended {
            stream.end();
        }
        let old = self.stream.replace(stream.clone());
        (stream, Wake::end_of(old))
    }

    /// Gives a message to the stream, or keeps it for the next one.
    pub(super) fn deliver(&mut self, letter: T, limit: usize) -> Wake {
        let Some(stream) = self.stream.as_ref().filter(|s| s.is_live()) else {
            self.keep(letter, limit);
            return Wake::nobody();
        };
        // A stream that overflows ends, and its client comes back for a new one; what finds it ended waits for that.
        let (refused, wake) = stream.put(letter);
        if let Some(letter) = refused {
            self.keep(letter, limit);
        }
        wake
    }

    /// Nobody reads this stream any more; what its reader had not taken waits for the next one, or is in it already.
    pub(super) fn leave(&mut self, stream: &Arc<Mailbox<T>>) -> Wake {
        // Under the owner's lock, so that nothing comes after it before it is put back.
        let unread = stream.detach();
        if self.stream.as_ref().is_some_and(|s| Arc::ptr_eq(s, stream)) {
            self.stream = None;
        }
        if self.ended {
            return Wake::nobody();
        }
        if let Some(newer) = self.stream.as_ref().filter(|s| s.is_live()) {
            return newer.refill(unread);
        }
        for letter in unread.into_iter().rev() {
            let letter = letter.compact();
            self.bytes += letter.len();
            self.waiting.push_front(letter);
        }
        self.trim(stream.limit());
        Wake::nobody()
    }

    /// Takes what waits.
    pub(super) fn take_waiting(&mut self) -> VecDeque<T> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Ends the stream; the client may open another.
    pub(super) fn close_stream(&mut self) -> Wake {
        Wake::end_of(self.stream.take())
    }

    /// Nothing more will come, and nothing waits any more.
    pub(super) fn end(&mut self) -> Wake {
        self.ended = true;
        drop(self.take_waiting());
        self.close_stream()
    }

    /// Somebody reads the stream.
    pub(super) fn has_stream(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.is_live())
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    fn keep(&mut self, letter: T, limit: usize) {
        if self.ended {
            return;
        }
        // It may wait for long, so it holds no more than its own bytes.
        let letter = letter.compact();
        self.bytes += letter.len();
        self.waiting.push_back(letter);
        self.trim(limit);
    }

    /// Drops the oldest of what waits, if it is too much.
    fn trim(&mut self, limit: usize) {
        while self.waiting.len() > WAITING || (self.bytes > limit && self.waiting.len() > 1) {
            if let Some(oldest) = self.waiting.pop_front() {
                self.bytes -= oldest.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::{super::mailbox::SlowReader, *};

    #[derive(Debug)]
    struct Note(usize);

    impl Letter for Note {
        type Error = SlowReader;

        fn len(&self) -> usize {
            self.0
        }

        fn is_answer(&self) -> bool {
            false
        }

        fn compact(self) -> Self {
            self
        }
    }

    fn read(stream: &Mailbox<Note>) -> Vec<usize> {
        let cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(Ok(note))) = stream.poll_next(&cx) {
            all.push(note.0);
        }
        all
    }

    #[test]
    fn what_was_not_read_waits_in_its_order() {
        let mut outbox = Outbox::new();
        outbox.deliver(Note(1), 100).up();
        let (first, wake) = outbox.open(100);
        wake.up();
        for n in 2..5 {
            outbox.deliver(Note(n), 100).up();
        }
        assert!(outbox.has_stream());
        outbox.leave(&first).up();
        assert!(!outbox.has_stream());
        outbox.deliver(Note(5), 100).up();
        let (second, wake) = outbox.open(100);
        wake.up();
        assert_eq!(read(&second), [1, 2, 3, 4, 5]);
        // One that is replaced gives what is left to the next.
        outbox.deliver(Note(6), 100).up();
        outbox.deliver(Note(7), 100).up();
        let (third, wake) = outbox.open(100);
        wake.up();
        outbox.deliver(Note(8), 100).up();
        outbox.leave(&second).up();
        assert_eq!(read(&third), [6, 7, 8]);
    }

    #[test]
    fn what_is_left_never_fails_the_next_stream_nor_waits_beyond_the_limit() {
        for replaced in [true, false] {
            let mut outbox = Outbox::new();
            let (first, wake) = outbox.open(10);
            wake.up();
            for n in [1, 4, 5] {
                outbox.deliver(Note(n), 10).up();
            }
            if replaced {
                let (second, wake) = outbox.open(10);
                wake.up();
                outbox.deliver(Note(2), 10).up();
                outbox.leave(&first).up();
                assert!(second.is_live());
                assert_eq!(read(&second), [5, 2]);
            } else {
                // It has ended, and its reader has not gone yet.
                outbox.close_stream().up();
                outbox.deliver(Note(2), 10).up();
                outbox.leave(&first).up();
                let waiting: Vec<_> = outbox.take_waiting().iter().map(|n| n.0).collect();
                assert_eq!(waiting, [5, 2]);
            }
        }
    }

    #[test]
    fn the_oldest_goes_where_too_much_waits_and_nothing_waits_for_ever() {
        let mut outbox = Outbox::new();
        for n in 1..5 {
            outbox.deliver(Note(n), 7).up();
        }
        let waiting: Vec<_> = outbox.take_waiting().iter().map(|n| n.0).collect();
        assert_eq!(waiting, [3, 4]);
        for _ in 0..2 * WAITING {
            outbox.deliver(Note(0), 7).up();
        }
        assert_eq!(outbox.take_waiting().len(), WAITING);
        outbox.end().up();
        outbox.deliver(Note(1), 7).up();
        assert!(outbox.take_waiting().is_empty() && outbox.is_ended());
        let (stream, wake) = outbox.open(7);
        wake.up();
        assert!(stream.is_drained());
    }
}
