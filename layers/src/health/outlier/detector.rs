//! The endpoints of one upstream, what is counted of each, and who is ejected.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::metrics::Counter;
use tokio::time::Instant;

use super::{
    compare::{Sample, forgiven, lasts, may_eject, outliers},
    settings::OutlierSettings,
};
use crate::{
    gate::{Gate, Look, Reason},
    metrics::{counter, names},
    verdict::Verdict,
};

/// Compares the endpoints of one upstream. Clones are the same detector; it lives on while layers over it come and go, as on a reload. It
/// is off until it is given settings.
#[derive(Clone)]
pub struct OutlierDetector {
    shared: Arc<Shared>,
}

/// One endpoint, as its upstream's detector sees it. Clones are the same; when the last one is dropped the endpoint is no longer compared,
/// and its gate is opened.
#[derive(Debug, Clone)]
pub struct OutlierHandle {
    seat: Arc<Seat>,
}

/// How an endpoint stands among the others, for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierReport {
    /// For how long it is still ejected.
    pub ejected: Option<Duration>,
    /// How often in a row it was ejected; good conduct makes that less.
    pub ejections: u32,
    /// The calls of this interval.
    pub calls: u32,
    /// Those of them that failed.
    pub failures: u32,
    /// Gateway errors in a row.
    pub consecutive: u32,
}

/// What an attempt showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) verdict: Verdict,
    /// A failure on the way to the server, not of the server: no connection, no answer, 502, 503, 504.
    pub(super) gateway: bool,
}

/// The endpoint is in use as long as this lives.
#[derive(Debug)]
pub(super) struct InUse(Arc<Member>);

struct Shared {
    upstream: Box<str>,
    epoch: Instant,
    /// Milliseconds from `epoch`: when rates are to be compared; [`OFF`] without settings.
    due: AtomicU64,
    /// Gateway errors in a row at which to look closer; 0 is never.
    consecutive: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    settings: Option<Arc<OutlierSettings>>,
    entries: Vec<Entry>,
}

struct Entry {
    seat: Weak<Seat>,
    /// How often in a row it was ejected.
    ejections: u32,
    /// The end of its newest ejection, and whether that was told.
    until: Option<(Instant, bool)>,
}

/// What makes a member one of the fleet. Calls, which may outlive that, have the member without it.
#[derive(Debug)]
struct Seat(Arc<Member>);

struct Member {
    name: Box<str>,
    detector: Arc<Shared>,
    gate: Gate,
    ejections: Counter,
    calls: AtomicU32,
    failures: AtomicU32,
    consecutive: AtomicU32,
    /// Calls and streams that are open.
    in_use: AtomicU32,
    /// Milliseconds from the detector's start to the end of the newest.
    used: AtomicU64,
}

const OFF: u64 = u64::MAX;

// === impl OutlierDetector ===

impl OutlierDetector {
    /// A detector for the upstream of this name, without endpoints.
    pub fn new(upstream: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                upstream: upstream.into(),
                epoch: Instant::now(),
                due: AtomicU64::new(OFF),
                consecutive: AtomicU32::new(0),
                inner: Mutex::default(),
            }),
        }
    }

    /// Takes new settings, and keeps what is known. `None` turns it off: what was ejected is let in again, and all is forgotten.
    pub fn set(&self, settings: Option<OutlierSettings>) {
        let shared = &self.shared;
        let mut inner = shared.lock();
        // An interval that has begun goes on.
        if inner.settings.as_deref() == settings.as_ref() {
            return;
        }
        let (due, consecutive) = match &settings {
            Some(settings) => (
                shared.after(settings.interval),
                settings.consecutive.map_or(0, std::num::NonZero::get),
            ),
            None => (OFF, 0),
        };
        shared.due.store(due, Ordering::Relaxed);
        shared.consecutive.store(consecutive, Ordering::Relaxed);
        if settings.is_none() {
            for entry in &mut inner.entries {
                entry.forget();
            }
        }
        inner.settings = settings.map(Arc::new);
    }

    /// The endpoint of this name, with its gate. One that is known already, and still held by somebody, is the same as before if
    /// its gate is.
    pub fn endpoint(&self, name: &str, gate: &Gate) -> OutlierHandle {
        let shared = &self.shared;
        let mut inner = shared.lock();
        inner.entries.retain(|e| e.seat.strong_count() > 0);
        let mut known = inner.entries.iter().filter_map(|e| e.seat.upgrade());
        if let Some(seat) = known.find(|s| *s.0.name == *name && s.0.gate.is(gate)) {
            return OutlierHandle { seat };
        }
        let labels = [("upstream", &*shared.upstream), ("endpoint", name)];
        let member = Arc::new(Member {
            name: name.into(),
            detector: shared.clone(),
            gate: gate.clone(),
            ejections: counter(names::OUTLIER_EJECTIONS, &labels),
            calls: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            used: AtomicU64::new(shared.now()),
        });
        let seat = Arc::new(Seat(member));
        inner.entries.push(Entry {
            seat: Arc::downgrade(&seat),
            ejections: 0,
            until: None,
        });
        OutlierHandle { seat }
    }
}

impl fmt::Debug for OutlierDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutlierDetector")
            .field("upstream", &self.shared.upstream)
            .finish_non_exhaustive()
    }
}

// === impl OutlierHandle ===

impl OutlierHandle {
    /// How it stands; `None` while the detector is off.
    pub fn look(&self) -> Option<OutlierReport> {
        let member = &self.seat.0;
        let inner = member.detector.lock();
        inner.settings.as_ref()?;
        let entry = inner.entries.iter().find(|e| e.is(member))?;
        let now = Instant::now();
        let left = entry.until.map(|(at, _)| at.saturating_duration_since(now));
        Some(OutlierReport {
            ejected: left.filter(|left| !left.is_zero()),
            ejections: entry.ejections,
            calls: member.calls.load(Ordering::Relaxed),
            failures: member.failures.load(Ordering::Relaxed),
            consecutive: member.consecutive.load(Ordering::Relaxed),
        })
    }

    /// For how long there has been no call and no open stream. Probes, which pass below, are none.
    pub fn quiet(&self) -> Duration {
        let member = &self.seat.0;
        if member.in_use.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let used = Duration::from_millis(member.used.load(Ordering::Relaxed));
        member.detector.epoch.elapsed().saturating_sub(used)
    }

    /// A call comes.
    pub(super) fn begin(&self) -> InUse {
        let member = &self.seat.0;
        member.in_use.fetch_add(1, Ordering::Relaxed);
        InUse(member.clone())
    }
}

// === impl InUse ===

impl InUse {
    /// The attempt is over.
    pub(super) fn end(&self, shown: Shown) {
        let (member, shared) = (&self.0, &self.0.detector);
        let due = shared.due.load(Ordering::Relaxed);
        if due == OFF || shown.verdict == Verdict::Neutral {
            return;
        }
        member.calls.fetch_add(1, Ordering::Relaxed);
        if shown.verdict == Verdict::Failure {
            member.failures.fetch_add(1, Ordering::Relaxed);
        }
        if !shown.gateway {
            member.consecutive.store(0, Ordering::Relaxed);
        } else if !member.gate.is_shut_by(Reason::Outlier) {
            // What was on its way when it was ejected does not count in the row.
            let row = member.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
            let limit = shared.consecutive.load(Ordering::Relaxed);
            if limit > 0 && row >= limit {
                shared.eject_for_row(member, limit);
            }
        }
        if shared.now() >= due {
            shared.compare();
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let member = &self.0;
        member.used.store(member.detector.now(), Ordering::Relaxed);
        member.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(OFF - 1)
    }

    fn after(&self, time: Duration) -> u64 {
        let time = u64::try_from(time.as_millis()).unwrap_or(OFF);
        self.now().saturating_add(time.max(1)).min(OFF - 1)
    }

    /// It has failed so often in a row.
    fn eject_for_row(&self, member: &Arc<Member>, limit: u32) {
        let mut inner = self.lock();
        // Another may have done it just now.
        if member.consecutive.load(Ordering::Relaxed) < limit {
            return;
        }
        let Some(settings) = inner.settings.clone() else {
            return;
        };
        inner.entries.retain(|e| e.seat.strong_count() > 0);
        inner.tell_returned(self);
        let Some(at) = inner.entries.iter().position(|e| e.is(member)) else {
            return;
        };
        if may_eject(&inner.samples(), at, &settings) {
            inner.entries[at].eject(&settings, self, "gateway_errors");
        }
    }

    /// Compares the rates of an interval, and begins the next.
    fn compare(&self) {
        let mut inner = self.lock();
        let due = self.due.load(Ordering::Relaxed);
        if due == OFF || self.now() < due {
            return;
        }
        let Some(settings) = inner.settings.clone() else {
            return;
        };
        self.due
            .store(self.after(settings.interval), Ordering::Relaxed);
        inner.entries.retain(|e| e.seat.strong_count() > 0);
        inner.tell_returned(self);
        let samples = inner.samples();
        for at in outliers(&samples, &settings) {
            inner.entries[at].eject(&settings, self, "failure_rate");
        }
        for member in inner.entries.iter().filter_map(Entry::member) {
            member.calls.store(0, Ordering::Relaxed);
            member.failures.store(0, Ordering::Relaxed);
        }
    }
}

impl Inner {
    /// How all entries stand, in their order.
    fn samples(&self) -> Vec<Sample> {
        let sample = |entry: &Entry| {
            let Some(member) = entry.member() else {
                return Sample::default();
            };
            Sample {
                calls: member.calls.load(Ordering::Relaxed),
                failures: member.failures.load(Ordering::Relaxed),
                ejected: entry.is_ejected(),
                open: !matches!(member.gate.look(), Look::Held { .. }),
            }
        };
        self.entries.iter().map(sample).collect()
    }

    /// Says of those whose time was over since the last look that they are back.
    fn tell_returned(&mut self, shared: &Shared) {
        for entry in &mut self.entries {
            if entry.is_ejected() {
                continue;
            }
            let member = entry.member();
            if let (Some((_, told @ false)), Some(member)) = (&mut entry.until, member) {
                *told = true;
                let (upstream, endpoint) = (&*shared.upstream, &*member.name);
                tracing::info!(upstream, endpoint, "outlier is let in again");
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    fn is(&self, member: &Arc<Member>) -> bool {
        self.member().is_some_and(|m| Arc::ptr_eq(&m, member))
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.seat.upgrade().map(|seat| seat.0.clone())
    }

    fn is_ejected(&self) -> bool {
        self.until.is_some_and(|(at, _)| at > Instant::now())
    }

    fn eject(&mut self, settings: &OutlierSettings, shared: &Shared, reason: &'static str) {
        let Some(member) = self.member() else {
            return;
        };
        let now = Instant::now();
        if let Some((back, _)) = self.until {
            let since = now.saturating_duration_since(back);
            self.ejections = forgiven(self.ejections, since, settings.interval);
        }
        self.ejections = self.ejections.saturating_add(1);
        let time = lasts(self.ejections, settings);
        let until = now + time;
        self.until = Some((until, false));
        member.gate.shut(Reason::Outlier, Some(until));
        member.ejections.increment(1);
        member.consecutive.store(0, Ordering::Relaxed);
        let (upstream, endpoint, number) = (&*shared.upstream, &*member.name, self.ejections);
        tracing::warn!(
            upstream,
            endpoint,
            reason,
            number,
            ?time,
            "outlier is ejected"
        );
    }

    fn forget(&mut self) {
        self.ejections = 0;
        self.until = None;
        if let Some(member) = self.member() {
            member.gate.open(Reason::Outlier);
            member.calls.store(0, Ordering::Relaxed);
            member.failures.store(0, Ordering::Relaxed);
            member.consecutive.store(0, Ordering::Relaxed);
        }
    }
}

// === impl Seat ===

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.gate.open(Reason::Outlier);
    }
}

// === impl Member ===

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
