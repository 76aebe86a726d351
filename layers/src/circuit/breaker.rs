//! The breaker as a pure state machine: no clock, no task, no lock. What happens comes in, with the time since some beginning; whether
//! a call is admitted comes out.
//!
//! Every transition begins a new *generation*; how a call of an earlier one ends is not counted, so a straggler from
//! before an opening can neither close the breaker nor open it again.

use std::time::Duration;

use super::{
    settings::{CircuitSettings, Window},
    window::{Counts, Tally},
};
use crate::verdict::Verdict;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls pass, and are counted.
    Closed,
    /// A few calls pass, to see how it goes.
    HalfOpen,
    /// Calls are refused.
    Open,
}

/// A state that the operator forces on a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forced {
    /// Every call is refused, until further notice.
    Open,
    /// Every call passes, whatever comes of it.
    Closed,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Breaker {
    phase: Phase,
    forced: Option<Forced>,
    generation: u64,
    window: Window,
    tally: Tally,
    /// Failures in a row.
    streak: u32,
    /// How often in a row it opened.
    openings: u32,
    /// How long it was open the last time.
    last_open: Duration,
    random: fastrand::Rng,
}

/// Whether a call would be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Admits,
    /// Not before this time; `None` when nobody knows.
    Refuses(Option<Duration>),
}

/// What a call that was admitted holds. It must come back to [`Breaker::end`].
#[derive(Debug)]
#[must_use]
pub(super) struct Token {
    generation: u64,
    probe: Option<u64>,
}

/// How a call went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    /// The time to its head, or to its end without one; `None` where that says nothing.
    pub(super) took: Option<Duration>,
}

#[derive(Debug)]
enum Phase {
    Closed {
        since: Duration,
    },
    Open {
        until: Duration,
    },
    HalfOpen {
        /// Those that are out, the oldest first.
        probes: Vec<Probe>,
        next: u64,
        successes: u32,
    },
}

#[derive(Debug)]
struct Probe {
    id: u64,
    since: Duration,
}

/// How much longer it may be open than it should, as a share.
const JITTER: f64 = 0.2;

// === impl State ===

impl State {
    /// The word for logs, metrics and the operator.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

// === impl Breaker ===

impl Breaker {
    pub(super) fn new(window: Window, random: fastrand::Rng) -> Self {
        Self {
            phase: Phase::Closed {
                since: Duration::ZERO,
            },
            forced: None,
            generation: 0,
            window,
            tally: Tally::new(window),
            streak: 0,
            openings: 0,
            last_open: Duration::ZERO,
            random,
        }
    }

    /// Takes the window of new settings. Everything else of them is looked at when it is needed.
    pub(super) fn adapt(&mut self, settings: &CircuitSettings) {
        if self.window != settings.window {
            self.window = settings.window;
            self.tally = Tally::new(settings.window);
        }
    }

    /// Where it stands; what is forced goes first.
    pub(super) fn state(&self) -> State {
        match (self.forced, &self.phase) {
            (Some(Forced::Open), _) => State::Open,
            (Some(Forced::Closed), _) | (None, Phase::Closed { .. }) => State::Closed,
            (None, Phase::HalfOpen { .. }) => State::HalfOpen,
            (None, Phase::Open { .. }) => State::Open,
        }
    }

    pub(super) fn forced(&self) -> Option<Forced> {
        self.forced
    }

    pub(super) fn openings(&self) -> u32 {
        self.openings
    }

    pub(super) fn counts(&self, now: Duration) -> Counts {
        self.tally.counts(now)
    }

    /// Forces a state, or takes that back: then it begins anew, closed and with an empty window.
    pub(super) fn force(&mut self, forced: Option<Forced>, now: Duration) {
        if self.forced != forced {
            self.forced = forced;
            self.openings = 0;
            self.close(now);
        }
    }

    /// Lets time pass: what was open long enough is half-open.
    pub(super) fn tick(&mut self, now: Duration) {
        if let Phase::Open { until } = self.phase
            && now >= until
        {
            self.turn(Phase::HalfOpen {
                probes: Vec::new(),
                next: 0,
                successes: 0,
            });
        }
    }

    /// Whether a call would be admitted, as things stand without time passing.
    pub(super) fn admission(&self, settings: &CircuitSettings) -> Admission {
        match (self.forced, &self.phase) {
            (Some(Forced::Open), _) => Admission::Refuses(None),
            (Some(Forced::Closed), _) | (None, Phase::Closed { .. }) => Admission::Admits,
            (None, Phase::Open { until }) => Admission::Refuses(Some(*until)),
            (None, Phase::HalfOpen { probes, .. }) => {
                let most = settings.probes.get() as usize;
                // The one whose place has to come free.
                match probes.len().checked_sub(most).and_then(|n| probes.get(n)) {
                    Some(probe) => Admission::Refuses(Some(lapse(probe, settings))),
                    None => Admission::Admits,
                }
            }
        }
    }

    /// Admits a call, or says after what time to try again, where that is known.
    pub(super) fn admit(
        &mut self,
        settings: &CircuitSettings,
        now: Duration,
    ) -> Result<Token, Option<Duration>> {
        self.tick(now);
        if let Some(until) = self.admission(settings).refusal(now) {
            return Err(until.map(|at| at.saturating_sub(now)));
        }
        let probe = match &mut self.phase {
            Phase::HalfOpen { probes, next, .. } => {
                probes.retain(|probe| now < lapse(probe, settings));
                *next += 1;
                probes.push(Probe {
                    id: *next,
                    since: now,
                });
                Some(*next)
            }
            Phase::Closed { .. } | Phase::Open { .. } => None,
        };
        Ok(Token {
            generation: self.generation,
            probe,
        })
    }

    /// A call that was admitted is over.
    pub(super) fn end(
        &mut self,
        token: Token,
        ended: Ended,
        settings: &CircuitSettings,
        now: Duration,
    ) {
        if token.generation != self.generation {
            return;
        }
        let slow = match (settings.slow, ended.took) {
            (Some(slow), Some(took)) => took > slow.call,
            _ => false,
        };
        if let Phase::HalfOpen { probes, .. } = &mut self.phase {
            probes.retain(|probe| Some(probe.id) != token.probe);
        }
        let failed = match ended.verdict {
            Verdict::Neutral => return,
            Verdict::Failure => true,
            Verdict::Success => false,
        };
        match &mut self.phase {
            Phase::Closed { since } => {
                let since = *since;
                self.count(failed, slow, now);
                if self.forced.is_none() && self.trips(settings, now) {
                    if now.saturating_sub(since) >= self.last_open {
                        self.openings = 0;
                    }
                    self.open(settings, now);
                }
            }
            Phase::HalfOpen { .. } if failed || slow => self.open(settings, now),
            Phase::HalfOpen { successes, .. } => {
                *successes += 1;
                if *successes >= settings.successes.get() {
                    self.close(now);
                }
            }
            Phase::Open { .. } => {}
        }
    }

    fn count(&mut self, failed: bool, slow: bool, now: Duration) {
        self.tally.add(failed, slow, now);
        self.streak = if failed {
            self.streak.saturating_add(1)
        } else {
            0
        };
    }

    fn trips(&self, settings: &CircuitSettings, now: Duration) -> bool {
        if settings.consecutive.is_some_and(|n| self.streak >= n.get()) {
            return true;
        }
        let counts = self.tally.counts(now);
        let least = match settings.window {
            Window::Calls(most) => settings.min_calls.get().min(most.get().into()),
            Window::Time(_) => settings.min_calls.get(),
        };
        let failing = settings
            .failure_rate
            .is_some_and(|rate| rate.is_reached(counts.failures, counts.calls));
        let slow = settings
            .slow
            .is_some_and(|slow| slow.rate.is_reached(counts.slow, counts.calls));
        counts.calls >= least && (failing || slow)
    }

    fn open(&mut self, settings: &CircuitSettings, now: Duration) {
        let longest = settings.open_max.max(settings.open).min(MOST);
        let factor = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        let base = settings.open.saturating_mul(factor).min(longest);
        // Only ever longer, so that endpoints which failed together do not come back together.
        self.last_open = base + base.mul_f64(JITTER * self.random.f64());
        self.openings = self.openings.saturating_add(1);
        self.turn(Phase::Open {
            until: now + self.last_open,
        });
    }

    fn close(&mut self, now: Duration) {
        self.tally.clear();
        self.streak = 0;
        self.turn(Phase::Closed { since: now });
    }

    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

/// The longest that a setting can ask for: a year, which no clock overflows with.
const MOST: Duration = Duration::from_secs(365 * 86_400);

/// When a probe no longer holds its place, though it may still be out: a call that takes long must not keep the
/// endpoint out for as long. The breaker is open for at least this time, so no probe outlasts an opening in its place.
fn lapse(probe: &Probe, settings: &CircuitSettings) -> Duration {
    probe.since + settings.open.min(MOST)
}

// === impl Admission ===

impl Admission {
    /// If a call at this time would be refused: until when.
    pub(super) fn refusal(self, now: Duration) -> Option<Option<Duration>> {
        match self {
            Self::Refuses(until) if until.is_none_or(|at| now < at) => Some(until),
            Self::Refuses(_) | Self::Admits => None,
        }
    }
}

#[cfg(test)]
mod tests;
