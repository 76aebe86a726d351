//! The events of one stream that are kept, within bounds. The time is an argument.

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

/// The bounds of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) age: Duration,
}

/// The newest events of a stream, which are numbered from 1 on.
#[derive(Debug)]
pub(super) struct Buffer {
    bounds: Bounds,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The number of the newest event, kept or not.
    newest: u64,
}

#[derive(Debug)]
struct Kept {
    at: Instant,
    pieces: Vec<Bytes>,
    cost: usize,
}

/// What an event costs beside its bytes.
const COST: usize = 128;

/// Events up to this size are copied, so that they do not hold on to all that was read with them.
const COPY: usize = 16 << 10;

impl Buffer {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            kept: VecDeque::new(),
            bytes: 0,
            newest: 0,
        }
    }

    /// What it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the newest event.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Keeps the next event, and says its number.
    pub(super) fn push(&mut self, pieces: &[Bytes], now: Instant) -> u64 {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        if len + COST > self.bounds.bytes {
            return self.skip();
        }
        let pieces = if len <= COPY {
            let mut copy = BytesMut::with_capacity(len);
            pieces.iter().for_each(|p| copy.extend_from_slice(p));
            vec![copy.freeze()]
        } else {
            pieces.to_vec()
        };
        self.newest += 1;
        self.bytes += len + COST;
        self.kept.push_back(Kept {
            at: now,
            pieces,
            cost: len + COST,
        });
        self.trim(now);
        self.newest
    }

    /// The next event is one that is too long to be kept; nothing before it can be given without it.
    pub(super) fn skip(&mut self) -> u64 {
        self.newest += 1;
        self.clear();
        self.newest
    }

    /// Lets go of what is too old or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        let Bounds { events, bytes, age } = self.bounds;
        let old = |kept: &Kept| now.saturating_duration_since(kept.at) >= age;
        while self.kept.len() > events || self.bytes > bytes || self.kept.front().is_some_and(old) {
            match self.kept.pop_front() {
                Some(gone) => self.bytes -= gone.cost,
                None => return,
            }
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.kept = VecDeque::new();
        self.bytes = 0;
    }

    /// All that came after this one is there.
    pub(super) fn has_all_after(&self, number: u64) -> bool {
        number + 1 >= self.oldest()
    }

    /// The first event after this one that is there.
    pub(super) fn next_after(&self, number: u64) -> Option<(u64, &[Bytes])> {
        let oldest = self.oldest();
        let wanted = (number + 1).max(oldest);
        let at = usize::try_from(wanted - oldest).ok()?;
        self.kept.get(at).map(|kept| (wanted, &*kept.pieces))
    }

    /// The number of the oldest event that is there, or of the next one.
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.kept.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        events: 3,
        bytes: 1000,
        age: Duration::from_secs(60),
    };

    fn push(buffer: &mut Buffer, len: usize, now: Instant) -> u64 {
        buffer.push(&[Bytes::from(vec![b'x'; len])], now)
    }

    fn numbers(buffer: &Buffer, mut after: u64) -> Vec<u64> {
        let mut found = Vec::new();
        while let Some((number, _)) = buffer.next_after(after) {
            found.push(number);
            after = number;
        }
        found
    }

    #[test]
    fn the_newest_are_kept_within_each_bound() {
        let start = Instant::now();
        let mut buffer = Buffer::new(BOUNDS);
        for number in 1..=5 {
            assert_eq!(push(&mut buffer, 10, start), number);
        }
        assert_eq!(numbers(&buffer, 0), [3, 4, 5]);
        assert_eq!(numbers(&buffer, 4), [5]);
        assert!(!buffer.has_all_after(1) && buffer.has_all_after(2));
        push(&mut buffer, 800, start + Duration::from_secs(30));
        assert_eq!(numbers(&buffer, 0), [6], "by bytes");
        buffer.trim(start + Duration::from_secs(90));
        assert_eq!((numbers(&buffer, 0), buffer.bytes()), (vec![], 0), "by age");
        assert!(buffer.has_all_after(6) && !buffer.has_all_after(5));
    }

    #[test]
    fn one_that_is_too_long_leaves_a_gap() {
        let mut buffer = Buffer::new(BOUNDS);
        push(&mut buffer, 1, Instant::now());
        assert_eq!(push(&mut buffer, 1000, Instant::now()), 2);
        assert!(!buffer.has_all_after(0) && buffer.has_all_after(2));
        push(&mut buffer, 1, Instant::now());
        assert_eq!(numbers(&buffer, 0), [3]);
    }

    #[test]
    fn a_short_event_does_not_hold_on_to_what_was_read_with_it() {
        let mut buffer = Buffer::new(BOUNDS);
        let read = Bytes::from(vec![0; 100_000]);
        buffer.push(&[read.slice(5..9), read.slice(9..10)], Instant::now());
        assert!(read.is_unique(), "copied");
        assert_eq!(buffer.bytes(), 5 + COST);
    }
}
