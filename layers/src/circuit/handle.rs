//! One breaker with all that goes with it: its lock, its gate, its metrics and its log lines.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::metrics::{Counter, Gauge};
use tokio::time::Instant;

use super::{
    breaker::{Admission, Breaker, Ended, Forced, State, Token},
    settings::CircuitSettings,
};
use crate::{
    gate::{Gate, Reason},
    metrics::{counter, gauge, names},
    verdict::{Judge, Verdict},
};

/// The breaker of one endpoint. Clones are the same breaker; it lives on while layers over it come and go, as on a reload.
#[derive(Debug, Clone)]
pub struct CircuitHandle {
    pub(super) switch: Arc<Switch>,
}

/// What a breaker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// An endpoint.
    Endpoint,
    /// A tool of an upstream.
    Tool,
}

/// How a breaker stands, for the operator.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitReport {
    /// The state, a forced one included.
    pub state: State,
    /// What the operator forced on it.
    pub forced: Option<Forced>,
    /// The calls in the window.
    pub calls: u32,
    /// Those of them that failed.
    pub failures: u32,
    /// Those of them that were slow.
    pub slow: u32,
    /// How often in a row it opened.
    pub openings: u32,
    /// After this time a call may be admitted; `None` when that is so now, or nobody knows.
    pub retry_after: Option<Duration>,
}

/// A breaker that is shared.
pub(super) struct Switch {
    scope: Scope,
    name: Box<str>,
    epoch: Instant,
    /// Its name is that of something that exists.
    proven: AtomicBool,
    inner: Mutex<Inner>,
}

/// A call that a breaker admitted. Dropped without an end it is neutral.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) switch: Arc<Switch>,
    token: Option<Token>,
    pub(super) judge: Judge,
    /// The breaker of a tool that has not had a result yet.
    pub(super) unproven: bool,
}

struct Inner {
    /// `None` is off.
    settings: Option<Arc<CircuitSettings>>,
    breaker: Breaker,
    gate: Option<Gate>,
    /// What the gate was told.
    told: Admission,
    meters: Option<Meters>,
}

#[derive(Debug)]
struct Meters {
    /// Not where several breakers share a name.
    state: Option<Gauge>,
    /// In the order of the states.
    to: [Counter; 3],
}

// === impl CircuitHandle ===

impl CircuitHandle {
    /// A closed breaker for an endpoint of an upstream; both names as metrics and logs show them. It is off until a layer
    /// is made with it.
    pub fn new(upstream: &str, endpoint: &str) -> Self {
        let name = format!("{upstream}/{endpoint}");
        let switch = Switch::new(Scope::Endpoint, &name);
        switch.measure(&name, true);
        Self {
            switch: Arc::new(switch),
        }
    }

    /// How it stands; `None` while it is off. What was open long enough is half-open from this look on, and the gauge says what it is.
    pub fn look(&self) -> Option<CircuitReport> {
        self.switch.look()
    }

    /// Forces a state, or takes that back: then it begins anew, closed. Whether there was a breaker to force: none while it is
    /// off.
    pub fn force(&self, forced: Option<Forced>) -> bool {
        self.switch.force(forced)
    }
}

impl Default for CircuitHandle {
    /// A breaker without a name and without metrics.
    fn default() -> Self {
        Self {
            switch: Arc::new(Switch::new(Scope::Endpoint, "")),
        }
    }
}

// === impl Scope ===

impl Scope {
    /// The label of metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Tool => "tool",
        }
    }
}

// === impl Switch ===

impl Switch {
    pub(super) fn new(scope: Scope, name: &str) -> Self {
        let settings = CircuitSettings::default();
        Self {
            scope,
            name: name.into(),
            epoch: Instant::now(),
            proven: AtomicBool::new(scope == Scope::Endpoint),
            inner: Mutex::new(Inner {
                settings: None,
                breaker: Breaker::new(settings.window, fastrand::Rng::new()),
                gate: None,
                told: Admission::Admits,
                meters: None,
            }),
        }
    }

    /// Makes its metrics, under this name; `alone` if no other breaker has that. One that had metrics, and was turned off, gets no others: the name may be
    /// another's by now.
    pub(super) fn measure(&self, name: &str, alone: bool) {
        let scope = self.scope.as_str();
        let to = [State::Closed, State::HalfOpen, State::Open].map(|state| {
            let labels = [("scope", scope), ("name", name), ("to", state.as_str())];
            counter(names::BREAKER_TRANSITIONS, &labels)
        });
        let state = alone.then(|| gauge(names::BREAKER_STATE, &[("scope", scope), ("name", name)]));
        let mut inner = self.lock();
        if inner.meters.is_some() && inner.settings.is_none() {
            return;
        }
        if let Some(state) = &state {
            state.set(level(inner.breaker.state()));
        }
        inner.meters = Some(Meters { state, to });
    }

    /// Takes new settings; `None` turns it off, and a breaker that is off forgets everything.
    pub(super) fn set(&self, settings: Option<Arc<CircuitSettings>>) {
        if settings.is_none() {
            self.act(|breaker, _, now| {
                breaker.force(Some(Forced::Closed), now);
                breaker.force(None, now);
            });
        }
        self.lock().settings = settings;
        self.act(|breaker, settings, _| breaker.adapt(settings));
    }

    /// Lets the breaker write its state into this gate, and no longer into another.
    pub(super) fn set_gate(&self, gate: Gate) {
        let mut inner = self.lock();
        if let Some(before) = inner.gate.take() {
            before.open(Reason::Circuit);
        }
        tell(&gate, inner.told, self.epoch);
        inner.gate = Some(gate);
    }

    /// Admits a call, or says after what time to try again, where that is known. `None` when the breaker is off.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Option<Ticket>, Option<Duration>> {
        let ticket = self.act(|breaker, settings, now| {
            breaker.admit(settings, now).map(|token| Ticket {
                switch: self.clone(),
                token: Some(token),
                judge: settings.judge,
                unproven: !self.proven.load(Ordering::Relaxed),
            })
        });
        ticket.transpose()
    }

    /// Whether a call would be refused now. Reserves nothing.
    pub(super) fn refuses(&self) -> bool {
        self.act(|breaker, settings, now| breaker.admission(settings).refusal(now).is_some())
            .unwrap_or_default()
    }

    /// Its name is that of something that exists.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Not to be thrown away for another: its name is real, or the operator gave it.
    pub(super) fn is_kept(&self) -> bool {
        self.proven.load(Ordering::Relaxed) || self.lock().breaker.forced().is_some()
    }

    pub(super) fn look(&self) -> Option<CircuitReport> {
        let report = self.report()?;
        let inner = self.lock();
        // Another breaker of this name may have written into the gauge when it went.
        let state = inner.meters.as_ref().and_then(|m| m.state.as_ref());
        if let (Some(state), Some(_)) = (state, &inner.settings) {
            state.set(level(inner.breaker.state()));
        }
        Some(report)
    }

    fn report(&self) -> Option<CircuitReport> {
        self.act(|breaker, settings, now| {
            breaker.tick(now);
            let counts = breaker.counts(now);
            let until = breaker.admission(settings).refusal(now).flatten();
            CircuitReport {
                state: breaker.state(),
                forced: breaker.forced(),
                calls: counts.calls,
                failures: counts.failures,
                slow: counts.slow,
                openings: breaker.openings(),
                retry_after: until.map(|at| at.saturating_sub(now)),
            }
        })
    }

    pub(super) fn force(&self, forced: Option<Forced>) -> bool {
        self.act(|breaker, _, now| breaker.force(forced, now))
            .is_some()
    }

    /// Does something with the breaker, and tells gate, metrics and log what came of it. Nothing when it is off.
    fn act<T>(&self, act: impl FnOnce(&mut Breaker, &CircuitSettings, Duration) -> T) -> Option<T> {
        let now = self.epoch.elapsed();
        let mut inner = self.lock();
        let Inner {
            settings,
            breaker,
            gate,
            told,
            meters,
            ..
        } = &mut *inner;
        let settings = settings.as_deref()?;
        let before = breaker.state();
        let result = act(breaker, settings, now);
        let after = breaker.state();
        // Told under the lock, so that the last word of the gate and the gauge is the breaker's.
        let admission = breaker.admission(settings);
        if *told != admission {
            *told = admission;
            if let Some(gate) = gate {
                tell(gate, admission, self.epoch);
            }
        }
        if before != after {
            if let Some(meters) = meters {
                if let Some(state) = &meters.state {
                    state.set(level(after));
                }
                meters.to[after as usize].increment(1);
            }
            let (forced, openings) = (breaker.forced().is_some(), breaker.openings());
            drop(inner);
            self.log(after, forced, openings);
        }
        Some(result)
    }

    fn log(&self, state: State, forced: bool, openings: u32) {
        let (scope, name) = (self.scope.as_str(), &*self.name);
        let is_open = state == State::Open;
        let state = state.as_str();
        if is_open {
            tracing::warn!(
                scope,
                name,
                state,
                forced,
                openings,
                "circuit breaker opened"
            );
        } else {
            tracing::info!(scope, name, state, forced, "circuit breaker changed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    /// A breaker that is gone is not open. One that was turned off has said so, and its gauge may be another's by now.
    fn drop(&mut self) {
        let inner = self.lock();
        let state = inner.meters.as_ref().and_then(|m| m.state.as_ref());
        if let (Some(state), Some(_)) = (state, &inner.settings) {
            state.set(level(State::Closed));
        }
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch")
            .field("scope", &self.scope)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn level(state: State) -> f64 {
    match state {
        State::Closed => 0.0,
        State::HalfOpen => 1.0,
        State::Open => 2.0,
    }
}

fn tell(gate: &Gate, admission: Admission, epoch: Instant) {
    match admission {
        Admission::Admits => gate.open(Reason::Circuit),
        Admission::Refuses(until) => gate.shut(Reason::Circuit, until.map(|at| epoch + at)),
    }
}

// === impl Ticket ===

impl Ticket {
    /// The call is over.
    pub(super) fn end(mut self, verdict: Verdict, took: Option<Duration>) {
        self.give_back(Ended { verdict, took });
    }

    fn give_back(&mut self, ended: Ended) {
        if let Some(token) = self.token.take() {
            self.switch
                .act(|breaker, settings, now| breaker.end(token, ended, settings, now));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give_back(Ended {
            verdict: Verdict::Neutral,
            took: None,
        });
    }
}
