//! The limits of a route: what they are set to, and what of them outlives that.

use std::{
    collections::HashMap,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::metrics::{Counter, Gauge};
use http::HeaderValue;

use super::{
    RateLimitLayer,
    bucket::{Quota, Rate},
    key::{self, KeyBuffer, KeyPart, Subject},
    memory::MemoryStore,
    refusal,
    selector::Selector,
    store::RateStore,
    streams::OpenStreams,
};
use crate::{
    expression::{Expression, Unclear},
    metrics::{counter, gauge, names},
};

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// Its name, for errors, metrics and reports. Two limits of a route must not share one: the later one would count in the buckets of the other.
    pub name: String,
    /// How calls are told apart: each different key has a bucket of its own. Default: nothing, so that all calls share one.
    pub per: Vec<KeyPart>,
    /// The value of this expression is a part of the key, too; of what it says null the limit does not count. Where it fails, the session (else the principal, else the client) stands in its place; messages that are too large for it count together. Default: none.
    pub expression: Option<Expression>,
    /// Which calls it is for. Default: all.
    pub selector: Selector,
    /// What a key is allowed. Default: anything.
    pub allowance: Allowance,
    /// What some calls are allowed instead: the first tier whose selector takes a call has its own buckets. Default: none. At most 255.
    pub tiers: Vec<Tier>,
    /// For how many keys there are buckets. Default: 100000.
    pub keys: NonZeroUsize,
    /// How many of the first bits of an IPv6 address are the client. Default: 64, since whoever has one address has all that begin like it.
    pub ipv6_prefix: u8,
}

/// What a key is allowed. By default anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// So many calls in so much time.
    pub rate: Option<Rate>,
    /// So many at once, at most [`Quota::MAX_BURST`]. Default: what the rate says for its unit.
    pub burst: Option<NonZeroU32>,
    /// So many standing streams at a time.
    pub streams: Option<NonZeroUsize>,
}

/// What some calls are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tier {
    /// Which calls.
    pub selector: Selector,
    /// What they are allowed.
    pub allowance: Allowance,
}

/// The buckets, and the open streams, of one route's limits, by the limits' names. Clones are the same ones.
///
/// They outlive the layers that count in them, so that new settings give nobody a new bucket.
#[derive(Clone)]
pub struct RateLimits {
    shared: Arc<Shared>,
}

/// Makes the store of a limit, whose name and number of keys it is told.
type Make = dyn Fn(&str, NonZeroUsize) -> Arc<dyn RateStore> + Send + Sync;

struct Shared {
    route: Box<str>,
    make: Box<Make>,
    kept: Mutex<HashMap<Arc<str>, Arc<Kept>>>,
}

/// What outlives the settings of a limit.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) store: Arc<dyn RateStore>,
    pub(super) streams: Arc<OpenStreams>,
    pub(super) limited: Counter,
    crowded: Counter,
    /// How much of it the counter has been told.
    told: AtomicU64,
    keys: Gauge,
}

/// A limit at work.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) name: Arc<str>,
    /// The name as the fields of HTTP have it.
    pub(super) item: Box<str>,
    pub(super) kept: Arc<Kept>,
    settings: RateLimitSettings,
    /// What its expression says may be a secret.
    secret: bool,
    /// It has been said that its expression fails.
    complained: AtomicBool,
    /// The limit's own allowance, and then those of its tiers.
    allowances: Vec<Allowed>,
}

/// An allowance, worked out.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) pace: Option<Pace>,
    pub(super) streams: Option<NonZeroUsize>,
}

/// How many calls pass, and how that is told.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    pub(super) rate: Rate,
    pub(super) quota: Quota,
    pub(super) policy: HeaderValue,
}

/// How a limit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReport {
    /// Its name.
    pub limit: Arc<str>,
    /// How many keys have buckets that are not full.
    pub keys: usize,
    /// The keys that are nearest to the limit, the nearest first.
    pub nearest: Vec<KeyReport>,
    /// The keys with the most open streams, where streams are limited.
    pub streams: Vec<(KeyText, usize)>,
}

/// How a key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReport {
    /// The key.
    pub key: KeyText,
    /// How many calls its bucket is short of full.
    pub used: u32,
    /// How many it allows at once.
    pub burst: u32,
    /// After which time it would let another one through.
    pub wait: Duration,
}

/// The parts of a key, for people; of a session the first bytes alone.
pub type KeyText = Vec<(&'static str, String)>;

// === impl RateLimitSettings ===

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            name: "route".to_owned(),
            per: Vec::new(),
            expression: None,
            selector: Selector::default(),
            allowance: Allowance::default(),
            tiers: Vec::new(),
            keys: NonZeroUsize::new(100_000).unwrap_or(NonZeroUsize::MIN),
            ipv6_prefix: 64,
        }
    }
}

// === impl Allowance ===

impl Allowance {
    /// A rate, and how many at once.
    pub fn new(rate: Rate, burst: NonZeroU32) -> Self {
        Self {
            rate: Some(rate),
            burst: Some(burst),
            streams: None,
        }
    }

    /// How many calls at once, where there is a rate.
    pub fn quota(&self) -> Option<Quota> {
        let rate = self.rate?;
        Some(Quota::new(rate, self.burst.unwrap_or(rate.count)))
    }
}

// === impl RateLimits ===

impl RateLimits {
    /// None yet, for the route of this name, in the memory of this process.
    pub fn new(route: &str) -> Self {
        Self::with_stores(route, |_, keys| Arc::new(MemoryStore::new(keys)))
    }

    /// None yet; the store of each limit is made by `make`, from the limit's name and its number of keys. `make`, and the store's `resize`, `sweep` and
    /// `crowded`, are called under a lock: they must not call back.
    pub fn with_stores<F>(route: &str, make: F) -> Self
    where
        F: Fn(&str, NonZeroUsize) -> Arc<dyn RateStore> + Send + Sync + 'static,
    {
        Self {
            shared: Arc::new(Shared {
                route: route.into(),
                make: Box::new(make),
                kept: Mutex::default(),
            }),
        }
    }

    /// A layer with these limits, which count where those of the same names counted before.
    pub fn layer(&self, limits: &[RateLimitSettings]) -> RateLimitLayer {
        let limits = limits.iter().map(|settings| self.limit(settings));
        RateLimitLayer::of(limits.collect())
    }

    /// Only these limits are in force from now on: what was kept for others is forgotten.
    pub fn retain(&self, limits: &[RateLimitSettings]) {
        let mut kept = self.lock();
        kept.retain(|name, kept| {
            let settings = limits.iter().find(|settings| settings.name == **name);
            match settings {
                Some(settings) => kept.store.resize(settings.keys),
                None => kept.keys.set(0.0),
            }
            settings.is_some()
        });
    }

    /// How the limits stand, with so many keys of each.
    pub fn look(&self, most: usize) -> Vec<LimitReport> {
        let mut kept: Vec<_> = self.all();
        kept.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let report = |(limit, kept): (Arc<str>, Arc<Kept>)| LimitReport {
            limit,
            keys: kept.store.sweep(),
            nearest: kept
                .store
                .nearest(most)
                .into_iter()
                .map(|usage| KeyReport {
                    key: key::show(&usage.key),
                    used: usage.used,
                    burst: usage.burst,
                    wait: usage.wait,
                })
                .collect(),
            streams: kept
                .streams
                .most(most)
                .into_iter()
                .map(|(key, open)| (key::show(&key), open))
                .collect(),
        };
        kept.into_iter().map(report).collect()
    }

    /// Brings the metrics up to date that nobody moves with each call; to be called before they are read.
    pub fn publish(&self) {
        // Under the lock, so that a limit that is taken out meanwhile leaves no gauge up. No call takes it.
        for kept in self.lock().values() {
            kept.keys.set(kept.store.sweep() as f64);
            let crowded = kept.store.crowded();
            let told = kept.told.swap(crowded, Ordering::Relaxed);
            kept.crowded.increment(crowded.saturating_sub(told));
        }
    }

    pub(super) fn limit(&self, settings: &RateLimitSettings) -> Arc<Limit> {
        let name: Arc<str> = settings.name.as_str().into();
        let kept = self
            .lock()
            .entry(name.clone())
            .or_insert_with(|| Arc::new(self.make(settings)))
            .clone();
        let item = refusal::quoted(&name);
        let own = std::iter::once(&settings.allowance);
        let tiers = settings.tiers.iter().map(|tier| &tier.allowance);
        Arc::new(Limit {
            allowances: own.chain(tiers).map(|a| Allowed::new(&item, a)).collect(),
            settings: RateLimitSettings {
                per: each_once(&settings.per),
                ..settings.clone()
            },
            secret: settings
                .expression
                .as_ref()
                .is_some_and(Expression::may_tell_secrets),
            complained: AtomicBool::new(false),
            name,
            item: item.into(),
            kept,
        })
    }

    fn make(&self, settings: &RateLimitSettings) -> Kept {
        let labels = [
            ("route", &*self.shared.route),
            ("scope", settings.name.as_str()),
        ];
        Kept {
            store: (self.shared.make)(&settings.name, settings.keys),
            streams: Arc::default(),
            limited: counter(names::RATE_LIMITED, &labels),
            crowded: counter(names::RATE_LIMIT_CROWDED, &labels),
            told: AtomicU64::new(0),
            keys: gauge(names::RATE_LIMIT_KEYS, &labels),
        }
    }

    fn all(&self) -> Vec<(Arc<str>, Arc<Kept>)> {
        let kept = self.lock();
        kept.iter().map(|(n, k)| (n.clone(), k.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Kept>>> {
        self.shared
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimits")
            .field("route", &self.shared.route)
            .finish_non_exhaustive()
    }
}

/// In one order, so that a key is the same however the parts are listed.
fn each_once(per: &[KeyPart]) -> Vec<KeyPart> {
    let all = KeyPart::ALL.into_iter();
    all.filter(|part| per.contains(part)).collect()
}

// === impl Limit ===

impl Limit {
    /// What this call is allowed, if the limit is for it; its key is in `buffer` then.
    pub(super) fn find(&self, subject: &Subject<'_>, buffer: &mut KeyBuffer) -> Option<&Allowed> {
        let settings = &self.settings;
        let by_tool = settings.per.contains(&KeyPart::Tool);
        if (by_tool && subject.tool().is_none()) || !settings.selector.takes(subject) {
            return None;
        }
        let tier = settings
            .tiers
            .iter()
            .position(|t| t.selector.takes(subject));
        let at = tier.map_or(0, |tier| tier + 1);
        buffer.clear();
        for part in &settings.per {
            buffer.push(*part, subject, settings.ipv6_prefix);
        }
        match settings.expression.as_ref().map(|e| subject.value(e)) {
            None => {}
            Some(Ok(Some(value))) => buffer.push_value(&value, self.secret),
            Some(Ok(None)) => return None,
            // Nobody gets another bucket by adding to a message.
            Some(Err(Unclear::TooLarge)) => buffer.push_too_large(),
            Some(Err(Unclear::Fails(problem))) => {
                self.complain(&problem);
                buffer.push(KeyPart::Session, subject, settings.ipv6_prefix);
            }
        }
        if at > 0 {
            buffer.push_tier(u8::try_from(at).unwrap_or(u8::MAX));
        }
        self.allowances.get(at)
    }

    /// Says once that its expression has failed; any client can make that happen again.
    fn complain(&self, problem: &str) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let limit = &*self.name;
            tracing::warn!(
                limit,
                problem,
                "a limit counts by session or client: its expression cannot be worked out for each call"
            );
        }
    }
}

impl Allowed {
    fn new(item: &str, allowance: &Allowance) -> Self {
        let pace = |(rate, quota)| Pace {
            rate,
            quota,
            policy: refusal::policy(item, quota),
        };
        Self {
            pace: allowance.rate.zip(allowance.quota()).map(pace),
            streams: allowance.streams,
        }
    }
}
