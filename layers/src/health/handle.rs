//! What is known of an endpoint's health: its state, its gate, its metrics and its log lines.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use ::metrics::Histogram;
use tokio::time::Instant;

use super::{
    probe::ProbeError,
    state::{HealthState, Machine},
};
use crate::{
    gate::{Gate, Reason},
    metrics::{histogram, names},
};

/// The health of one endpoint. Clones are the same; it lives on while probers come and go, as on a reload.
#[derive(Clone)]
pub struct HealthHandle {
    shared: Arc<Shared>,
}

/// How an endpoint's health stands, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// The state.
    pub state: HealthState,
    /// It sleeps, and is not probed.
    pub asleep: bool,
    /// The newest probe.
    pub last: Option<LastProbe>,
    /// How the newest failure came about, also if probes succeeded since. Shows no header, argument or answer.
    pub error: Option<Arc<str>>,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
}

/// A probe that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastProbe {
    /// How long ago.
    pub ago: Duration,
    /// How long it took.
    pub took: Duration,
    /// What it said.
    pub result: ProbeResult,
}

/// What a probe said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeResult {
    /// The endpoint answered.
    Success,
    /// It did not answer as expected.
    Failure,
    /// It did not answer in time. Counts as a failure.
    Timeout,
    /// Nothing of the endpoint: a limit of the proxy's own was in the way. Changes nothing.
    Neutral,
}

/// The right of one prober to write. It ends when the next begins; when it ends and there is no next, the gate is opened.
#[derive(Debug)]
pub(super) struct Tenure {
    handle: HealthHandle,
    number: u64,
    has_session: AtomicBool,
}

struct Shared {
    upstream: Box<str>,
    endpoint: Box<str>,
    /// In the order of the results.
    took: [Histogram; 4],
    /// Of all its probers: while one takes over from another there may be two.
    sessions: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// How many probers there were.
    tenures: u64,
    /// The gate of the prober that is at work, if one is.
    gate: Option<Gate>,
    machine: Machine,
    asleep: bool,
    last: Option<(Instant, Duration, ProbeResult)>,
    error: Option<Arc<str>>,
}

// === impl ProbeResult ===

impl ProbeResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Timeout, Self::Neutral];

    /// The label of metrics, and the word for the operator.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Neutral => "neutral",
        }
    }
}

// === impl HealthHandle ===

impl HealthHandle {
    /// An endpoint of which nothing is known; both names as metrics and logs show them.
    pub fn new(upstream: &str, endpoint: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                upstream: upstream.into(),
                endpoint: endpoint.into(),
                took: ProbeResult::ALL.map(|result| {
                    let labels = [("upstream", upstream), ("result", result.as_str())];
                    histogram(names::HEALTH_PROBE, &labels)
                }),
                sessions: AtomicU32::new(0),
                inner: Mutex::default(),
            }),
        }
    }

    /// How it stands; `None` while there is no prober.
    pub fn look(&self) -> Option<HealthReport> {
        let inner = self.lock();
        inner.gate.as_ref()?;
        Some(HealthReport {
            state: inner.machine.state,
            asleep: inner.asleep,
            last: inner.last.map(|(at, took, result)| LastProbe {
                ago: at.elapsed(),
                took,
                result,
            }),
            error: inner.error.clone(),
            successes: inner.machine.successes,
            failures: inner.machine.failures,
        })
    }

    /// How many sessions of its probers' own are open: so many of those that the upstream counts are no clients'.
    pub fn sessions(&self) -> u32 {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    /// A prober begins, with this gate. It takes over what the one before it knew, if that is still at work.
    pub(super) fn begin(&self, gate: Gate) -> Tenure {
        let mut inner = self.lock();
        if let Some(before) = inner.gate.take()
            && !before.is(&gate)
        {
            before.open(Reason::Health);
        }
        if inner.machine.state == HealthState::Unhealthy {
            gate.shut(Reason::Health, None);
        }
        inner.gate = Some(gate);
        inner.tenures += 1;
        Tenure {
            handle: self.clone(),
            number: inner.tenures,
            has_session: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, state: HealthState, machine: Machine, error: Option<&str>) {
        let (upstream, endpoint) = (&*self.shared.upstream, &*self.shared.endpoint);
        if state == HealthState::Unhealthy {
            let failures = machine.failures;
            tracing::warn!(upstream, endpoint, failures, error, "endpoint is unhealthy");
        } else {
            let state = state.as_str();
            tracing::info!(upstream, endpoint, state, "endpoint health changed");
        }
    }
}

impl fmt::Debug for HealthHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthHandle")
            .field("upstream", &self.shared.upstream)
            .field("endpoint", &self.shared.endpoint)
            .finish_non_exhaustive()
    }
}

// === impl Tenure ===

impl Tenure {
    pub(super) fn handle(&self) -> &HealthHandle {
        &self.handle
    }

    /// Whether the prober has a session of its own open.
    pub(super) fn set_session(&self, has_session: bool) {
        let sessions = &self.handle.shared.sessions;
        match (
            self.has_session.swap(has_session, Ordering::Relaxed),
            has_session,
        ) {
            (false, true) => sessions.fetch_add(1, Ordering::Relaxed),
            (true, false) => sessions.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => return,
        };
    }

    /// A probe ended.
    pub(super) fn record(
        &self,
        outcome: Result<(), ProbeError>,
        took: Duration,
        (fall, rise): (NonZeroU32, NonZeroU32),
    ) {
        let result = outcome
            .as_ref()
            .map_or_else(ProbeError::result, |()| ProbeResult::Success);
        self.handle.shared.took[result as usize].record(took.as_secs_f64());
        let mut inner = self.handle.lock();
        if inner.tenures != self.number || inner.gate.is_none() {
            return;
        }
        inner.asleep = false;
        inner.last = Some((Instant::now(), took, result));
        if result == ProbeResult::Neutral {
            return;
        }
        if let Err(error) = outcome {
            inner.error = Some(error.to_string().into());
        }
        let success = result == ProbeResult::Success;
        let Some(state) = inner.machine.observe(success, fall, rise) else {
            return;
        };
        // Told under the lock, so that the last word of the gate is that of the state.
        if let Some(gate) = &inner.gate {
            match state {
                HealthState::Unhealthy => gate.shut(Reason::Health, None),
                HealthState::Unknown | HealthState::Healthy => gate.open(Reason::Health),
            }
        }
        let (machine, error) = (inner.machine, inner.error.clone());
        drop(inner);
        self.handle.log(state, machine, error.as_deref());
    }

    /// The endpoint sleeps: what was learnt of the process that it had says nothing of its next one.
    pub(super) fn sleeps(&self) {
        let mut inner = self.handle.lock();
        if inner.tenures != self.number || inner.asleep {
            return;
        }
        let Some(gate) = &inner.gate else { return };
        gate.open(Reason::Health);
        inner.asleep = true;
        let before = std::mem::take(&mut inner.machine);
        drop(inner);
        if before.state == HealthState::Unhealthy {
            self.handle.log(HealthState::Unknown, before, None);
        }
    }

    /// The prober ends. Without a next one nothing is known any more, and the gate is opened.
    pub(super) fn end(&self) {
        let mut inner = self.handle.lock();
        if inner.tenures != self.number {
            return;
        }
        if let Some(gate) = inner.gate.take() {
            gate.open(Reason::Health);
        }
        *inner = Inner {
            tenures: inner.tenures,
            ..Inner::default()
        };
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.set_session(false);
        self.end();
    }
}
