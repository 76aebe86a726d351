//! Buckets in the memory of this process.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;

use super::{
    bucket::{Bucket, Denied, Quota, Standing},
    store::{RateStore, Reply, Usage},
};

/// The buckets of one limit in the memory of this process: so many at most, in several tables, each behind a lock of its own.
///
/// A bucket that is full again is no different from a new one, so it is forgotten when its table has doubled, or has no more room. A bucket that is not
/// full is never forgotten: else whoever floods the table with keys would give himself, or anybody, a new one. While there is no room, keys that are new share one
/// bucket, so that a flood costs newcomers and nobody else. A bucket costs about 140 bytes, and a call no allocation, but for the first of a key.
#[derive(Debug)]
pub struct MemoryStore {
    shards: Box<[Mutex<Shard>]>,
    /// Tells which table a key belongs to.
    choice: RandomState,
    most: AtomicUsize,
    epoch: Instant,
    /// What keys share for which there is no room.
    common: Mutex<Bucket>,
    crowded: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<Box<[u8]>, Bucket, RandomState>,
    /// With so many buckets the table is looked through for full ones.
    look_at: usize,
    /// It is not looked through again before.
    look_from: u64,
}

/// The fewest buckets for which a table is looked through.
const FEW: usize = 64;

/// The pause between two looks through a table, in nanoseconds: a flood of keys must not buy much work.
const PAUSE: u64 = 100_000_000;

/// With fewer keys one table is enough, and the bound is exact.
const SHARDED: usize = 4096;

const SHARDS: usize = 16;

impl MemoryStore {
    /// A store for so many keys.
    pub fn new(most: NonZeroUsize) -> Self {
        let shards = if most.get() < SHARDED { 1 } else { SHARDS };
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            choice: RandomState::new(),
            most: AtomicUsize::new(most.get()),
            epoch: Instant::now(),
            common: Mutex::default(),
            crowded: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let at = match self.shards.len() {
            1 => 0,
            many => (self.choice.hash_one(key) as usize) % many,
        };
        lock(&self.shards[at])
    }

    fn take_now(&self, key: &[u8], quota: Quota, calls: u32) -> Result<Standing, Denied> {
        let now = self.now();
        let mut shard = self.shard(key);
        if let Some(bucket) = shard.buckets.get_mut(key) {
            return bucket.take(quota, calls, now);
        }
        let most = (self.most.load(Ordering::Relaxed) / self.shards.len()).max(1);
        if !shard.has_room(most, now) {
            drop(shard);
            self.crowded.fetch_add(1, Ordering::Relaxed);
            return lock(&self.common).take(quota, calls, now);
        }
        let mut bucket = Bucket::default();
        let standing = bucket.take(quota, calls, now)?;
        shard.buckets.insert(key.into(), bucket);
        Ok(standing)
    }
}

impl RateStore for MemoryStore {
    fn take(&self, key: &[u8], quota: Quota, calls: u32) -> Reply {
        Reply::Now(self.take_now(key, quota, calls))
    }

    fn give_back(&self, key: &[u8], quota: Quota, calls: u32) {
        let mut shard = self.shard(key);
        match shard.buckets.get_mut(key) {
            Some(bucket) => bucket.give_back(quota, calls),
            None => {
                drop(shard);
                lock(&self.common).give_back(quota, calls);
            }
        }
    }

    fn nearest(&self, most: usize) -> Vec<Usage> {
        let now = self.now();
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let used = shard.buckets.iter().filter(|(_, b)| !b.is_full(now));
            all.extend(used.map(|(key, bucket)| (bucket.look(now), key.clone())));
            drop(shard);
            // The part that is used, compared without a fraction; then who waits longest.
            all.sort_unstable_by(|((used, burst, wait), key), (other, name)| {
                let (mine, theirs) = (u64::from(*used), u64::from(other.0));
                let order = (theirs * u64::from(*burst)).cmp(&(mine * u64::from(other.1)));
                order.then(other.2.cmp(wait)).then_with(|| key.cmp(name))
            });
            all.truncate(most);
        }
        let usage = |((used, burst, wait), key)| Usage {
            key,
            used,
            burst,
            wait,
        };
        all.into_iter().map(usage).collect()
    }

    fn sweep(&self) -> usize {
        let now = self.now();
        let sweep = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            shard.forget_full(now);
            shard.buckets.len()
        };
        self.shards.iter().map(sweep).sum()
    }

    /// If there are more, they stay until their buckets are full.
    fn resize(&self, most: NonZeroUsize) {
        self.most.store(most.get(), Ordering::Relaxed);
    }

    fn crowded(&self) -> u64 {
        self.crowded.load(Ordering::Relaxed)
    }
}

impl Shard {
    /// Whether there is room for one more. Forgets what is full if the table has doubled since that was done, or if there is none.
    fn has_room(&mut self, most: usize, now: u64) -> bool {
        let len = self.buckets.len();
        if len < self.look_at.max(FEW) && len < most {
            return true;
        }
        if now >= self.look_from {
            self.forget_full(now);
        }
        if self.buckets.len() < most {
            return true;
        }
        false
    }

    fn forget_full(&mut self, now: u64) {
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        self.look_at = self.buckets.len().saturating_mul(2).max(FEW);
        self.look_from = now.saturating_add(PAUSE);
        self.buckets.shrink_to(self.look_at);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, sync::Arc, time::Duration};

    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;
    use crate::rate_limit::bucket::Rate;

    fn quota(burst: u32) -> Quota {
        let burst = NonZeroU32::new(burst).expect("not zero");
        Quota::new(Rate::per_second(NonZeroU32::MIN), burst)
    }

    fn store(most: usize) -> MemoryStore {
        MemoryStore::new(NonZeroUsize::new(most).expect("not zero"))
    }

    fn key(n: usize) -> [u8; 8] {
        (n as u64).to_be_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_gives_nobody_a_new_bucket() {
        for most in [10, SHARDED * 2] {
            let (store, quota) = (store(most), quota(2));
            let take = |n| store.take_now(&key(n), quota, 1);
            for _ in 0..2 {
                take(0).expect("passes");
            }
            let passed = (1..most * 3).filter(|n| take(*n).is_ok()).count();
            // What has no room shares one bucket; tables that are not filled alike leave some.
            assert!(
                passed < most + 2 && passed > most * 9 / 10,
                "{passed} of {most}"
            );
            assert!(store.sweep() <= most);
            assert!(take(0).is_err(), "the bucket of the first is as it was");
            assert!(store.crowded() > most as u64);
            assert!(take(most * 3).is_err(), "newcomers share a bucket");
            advance(Duration::from_secs(1)).await;
            assert!(take(0).is_ok());
            assert!(take(0).is_err());
            advance(Duration::from_secs(2)).await;
            assert!(take(most * 3).is_ok() && take(most * 3 + 1).is_ok());
            assert_eq!(store.sweep(), 2, "what is full is forgotten");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_come_once_do_not_pile_up() {
        let (store, quota) = (store(1_000_000), quota(1));
        for n in 0..10_000 {
            store.take_now(&key(n), quota, 1).expect("passes");
            advance(Duration::from_millis(100)).await;
        }
        let kept: usize = store.shards.iter().map(|s| lock(s).buckets.len()).sum();
        assert!(kept <= SHARDS * (FEW + 1), "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_full_is_not_searched_with_each_call() {
        let (store, quota) = (store(2), quota(1));
        for n in 0..2 {
            store.take_now(&key(n), quota, 1).expect("passes");
        }
        advance(Duration::from_millis(950)).await;
        store.take_now(&key(2), quota, 1).expect("the common one");
        let from = lock(&store.shards[0]).look_from;
        assert!(store.take_now(&key(3), quota, 1).is_err());
        assert_eq!(lock(&store.shards[0]).look_from, from);
        // Room comes with the next search.
        advance(Duration::from_millis(60)).await;
        assert!(store.take_now(&key(3), quota, 1).is_err());
        advance(Duration::from_millis(60)).await;
        assert!(store.take_now(&key(3), quota, 1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_keys_nearest_to_their_limits_come_first() {
        let store = store(SHARDED);
        store.take_now(b"half", quota(10), 5).expect("passes");
        store.take_now(b"empty", quota(4), 4).expect("passes");
        store.take_now(b"little", quota(100), 6).expect("passes");
        let nearest = store.nearest(2);
        let keys: Vec<&[u8]> = nearest.iter().map(|usage| &*usage.key).collect();
        assert_eq!(keys, [&b"empty"[..], b"half"]);
        assert_eq!((nearest[0].used, nearest[0].burst), (4, 4));
        assert_eq!(nearest[0].wait, Duration::from_secs(1));
        advance(Duration::from_secs(5)).await;
        assert_eq!(store.nearest(9).len(), 1, "the others are full again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_smaller_store_keeps_what_it_has() {
        let (store, quota) = (store(3), quota(2));
        for n in 0..3 {
            store.take_now(&key(n), quota, 2).expect("passes");
        }
        store.resize(NonZeroUsize::MIN);
        assert!(store.take_now(&key(0), quota, 1).is_err());
        store.give_back(&key(0), quota, 1);
        assert!(store.take_now(&key(0), quota, 1).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_take_no_more_than_there_is() {
        let rate = "1/h".parse().expect("a rate");
        let quota = Quota::new(rate, NonZeroU32::new(1000).expect("not zero"));
        let store = Arc::new(store(SHARDED));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let store = store.clone();
                let take = move |_: &u32| store.take_now(b"k", quota, 1).is_ok();
                tokio::spawn(async move { (0..1000_u32).filter(take).count() })
            })
            .collect();
        let mut passed = 0;
        for task in tasks {
            passed += task.await.expect("no panic");
        }
        assert_eq!(passed, 1000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn keys_know_nothing_of_each_other(calls in prop::collection::vec((0_usize..8, 0_u64..900), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
            runtime.block_on(async {
                let (store, quota) = (store(SHARDED), quota(3));
                let mut alone = [Bucket::default(); 8];
                for (n, pause) in calls {
                    advance(Duration::from_millis(pause)).await;
                    let expected = alone[n].take(quota, 1, store.now());
                    assert_eq!(store.take_now(&key(n), quota, 1), expected);
                }
            });
        }
    }
}
