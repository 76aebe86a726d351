//! Standing streams that are open, by key.

use std::{
    collections::HashMap,
    hash::RandomState,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many streams each key has open. There are as many keys as open streams, which the server caps.
#[derive(Debug, Default)]
pub(super) struct OpenStreams {
    counts: Mutex<HashMap<Box<[u8]>, usize, RandomState>>,
}

/// A place for a stream, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    streams: Arc<OpenStreams>,
    key: Box<[u8]>,
}

/// The places of one stream, under each limit that counts it. Given back when they are dropped.
#[derive(Debug, Default)]
pub struct Places(#[expect(dead_code, reason = "held for its Drop")] pub(super) Vec<Place>);

impl OpenStreams {
    /// A place, unless the key has `most` of them.
    pub(super) fn open(self: &Arc<Self>, key: &[u8], most: NonZeroUsize) -> Option<Place> {
        let mut counts = self.lock();
        match counts.get_mut(key) {
            Some(count) if *count >= most.get() => return None,
            Some(count) => *count += 1,
            None => drop(counts.insert(key.into(), 1)),
        }
        Some(Place {
            streams: self.clone(),
            key: key.into(),
        })
    }

    /// The keys with the most open streams.
    pub(super) fn most(&self, most: usize) -> Vec<(Box<[u8]>, usize)> {
        let mut all: Vec<_> = self.lock().iter().map(|(k, n)| (k.clone(), *n)).collect();
        all.sort_unstable_by(|(key, count), (name, other)| other.cmp(count).then(key.cmp(name)));
        all.truncate(most);
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, usize, RandomState>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.streams.lock();
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_so_many_places_and_gets_them_back() {
        let streams = Arc::new(OpenStreams::default());
        let two = NonZeroUsize::new(2).expect("not zero");
        let first = streams.open(b"a", two).expect("a place");
        let _second = streams.open(b"a", two).expect("a place");
        assert!(streams.open(b"a", two).is_none());
        let other = streams.open(b"b", two).expect("a place");
        let shown = streams.most(9);
        assert_eq!((&*shown[0].0, shown[0].1), (&b"a"[..], 2));
        drop((first, other));
        assert_eq!(streams.most(9).len(), 1, "what has none is forgotten");
        assert!(streams.open(b"a", two).is_some());
    }
}
