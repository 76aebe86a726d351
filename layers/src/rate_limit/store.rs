//! Where the buckets of a limit are kept.

use std::{fmt, num::NonZeroUsize, pin::Pin, time::Duration};

use super::bucket::{Denied, Quota, Standing};

/// Keeps the buckets of one limit, by keys, which are bytes without a meaning to it.
///
/// The one that there is, [`MemoryStore`](super::MemoryStore), answers at once. One that replicas share may have to ask: it answers with a
/// future, which the layer awaits before the call goes on. A store that cannot ask decides for itself whether calls pass meanwhile. Times are the store's own.
pub trait RateStore: fmt::Debug + Send + Sync {
    /// Lets so many calls through at once, or none of them.
    fn take(&self, key: &[u8], quota: Quota, calls: u32) -> Reply;

    /// Takes back that so many were let through, since another limit did not. Never blocks.
    fn give_back(&self, key: &[u8], quota: Quota, calls: u32);

    /// The keys that are nearest to their limits, the nearest first, as far as this process knows.
    fn nearest(&self, most: usize) -> Vec<Usage>;

    /// Forgets the keys whose buckets are full, and so no different from new ones. Says how many are left.
    fn sweep(&self) -> usize;

    /// Sets anew how many keys there may be.
    fn resize(&self, most: NonZeroUsize);

    /// How many calls so far had a key for which there was no room.
    fn crowded(&self) -> u64;
}

/// What a store answers.
pub enum Reply {
    /// At once.
    Now(Result<Standing, Denied>),
    /// When the future is ready. It is dropped if the call is given up.
    Later(Later),
}

/// An answer that has to be waited for.
pub type Later = Pin<Box<dyn Future<Output = Result<Standing, Denied>> + Send>>;

/// How much of its bucket a key has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The key.
    pub key: Box<[u8]>,
    /// How many calls the bucket is short of full.
    pub used: u32,
    /// How many calls it allows at once.
    pub burst: u32,
    /// After which time it would let another one through.
    pub wait: Duration,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}
