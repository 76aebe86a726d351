//! Which endpoints may be chosen for a call, before a policy chooses.
//!
//! 1. An endpoint may be chosen if its gate is open; a busy one too, for what passes its caps.
//! 2. Where fewer than a share of the endpoints are up, the sick are taken for well: those that only probes or the comparison with others hold back
//!    are chosen too, whatever their priority (*panic*). What the operator or an open circuit holds back never is.
//!    What the operator holds back does not count as a member here. What passes the caps is sent to any endpoint, whoever holds it back, where there is no other.
//! 3. Endpoints where the call was tried before are left out while there are others.
//! 4. Only the best priority that is left is chosen from. So a busy endpoint sends its calls to the next priority.
//! 5. A new or healed endpoint is left out by chance, less and less often, until its slow start is over.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::time::Instant;

use super::{BalanceSettings, Endpoint, NoEndpoint, few::Few, hash, policy::Candidate};
use crate::gate::{Look, Reason};

/// What a call wants of its endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    /// Where it was tried.
    pub(super) tried: &'a [Arc<str>],
    /// It passes the caps on calls.
    pub(super) free: bool,
    /// What it is placed by.
    pub(super) key: Option<u64>,
}

/// What there is.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one: a box would cost each call an allocation"
)]
pub(super) enum Survey<'a> {
    /// These may be chosen.
    Some(Few<Candidate<'a>>),
    /// None, but some are only busy.
    Busy,
    /// All are held back.
    Held(NoEndpoint),
}

/// What was seen at one pass.
#[derive(Default)]
struct Tally {
    /// Members that are not out on purpose.
    counted: usize,
    /// Of those, the ones that are not held back.
    up: usize,
    /// One could be used in a panic, but has no room.
    sick_and_busy: bool,
    /// Which reasons were seen.
    seen: [bool; Reason::ALL.len()],
    lapse: Option<Instant>,
}

/// Looks at all endpoints but those of which `skip` says that they are not ready.
pub(super) fn survey<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
    skip: impl Fn(&Endpoint) -> bool,
    wish: Wish<'_>,
    settings: &BalanceSettings,
    now: Instant,
    rng: &mut Rng,
) -> Survey<'a> {
    let Some(filler) = endpoints.clone().next() else {
        return Survey::Held(NoEndpoint {
            retry_after: None,
            reasons: Vec::new(),
        });
    };
    let candidate = |at, endpoint: &'a Endpoint| Candidate {
        at,
        endpoint,
        fresh: !wish.tried.contains(endpoint.name()),
        warm: true,
    };
    let mut chosen = Few::new(candidate(0, filler));
    let mut sick = None;
    let mut tally = Tally::default();
    for (at, endpoint) in endpoints.enumerate() {
        let look = endpoint.observe();
        tally.add(look);
        match look {
            _ if skip(endpoint) => {}
            Look::Open => chosen.push(candidate(at, endpoint)),
            Look::Busy if wish.free => chosen.push(candidate(at, endpoint)),
            Look::Busy => {}
            // Calls that were let in before may be waiting for just this message.
            Look::Held { .. } if wish.free => sick
                .get_or_insert_with(|| Few::new(candidate(0, filler)))
                .push(candidate(at, endpoint)),
            Look::Held { reason, .. } if !may_panic(endpoint, reason) => {}
            Look::Held { .. } if endpoint.gate().is_shut_by(Reason::Busy) => {
                tally.sick_and_busy = true;
            }
            Look::Held { .. } => sick
                .get_or_insert_with(|| Few::new(candidate(0, filler)))
                .push(candidate(at, endpoint)),
        }
    }
    let panic = (tally.up as f64) < settings.panic.get() * tally.counted as f64;
    let last_resort = wish.free && chosen.as_slice().is_empty();
    if (panic || last_resort)
        && let Some(sick) = sick
    {
        sick.as_slice().iter().for_each(|c| chosen.push(*c));
    }
    if !wish.tried.is_empty() {
        chosen.prefer(|c| c.fresh);
    }
    let Some((best, worst)) = priorities(chosen.as_slice()) else {
        return if tally.up > 0 || (panic && tally.sick_and_busy) {
            Survey::Busy
        } else {
            Survey::Held(tally.into_error(now))
        };
    };
    if best != worst && !panic {
        chosen.prefer(|c| c.endpoint.priority() == best);
    }
    Survey::Some(thin(chosen, wish.key, settings.slow_start, now, rng))
}

/// The best and the worst priority among these.
fn priorities(candidates: &[Candidate<'_>]) -> Option<(u32, u32)> {
    let mut all = candidates.iter().map(|c| c.endpoint.priority());
    let first = all.next()?;
    Some(all.fold((first, first), |(best, worst), priority| {
        (best.min(priority), worst.max(priority))
    }))
}

/// Only probes or the comparison with others hold it back.
fn may_panic(endpoint: &Endpoint, reason: Reason) -> bool {
    matches!(reason, Reason::Health | Reason::Outlier)
        && !endpoint.gate().is_shut_by(Reason::Circuit)
}

/// Leaves endpoints in their slow start out by chance, unless nothing else is left. What has a key is drawn by it, so that a key moves to
/// the new endpoint once, and stays.
fn thin<'a>(
    chosen: Few<Candidate<'a>>,
    key: Option<u64>,
    slow_start: Duration,
    now: Instant,
    rng: &mut Rng,
) -> Few<Candidate<'a>> {
    let list = chosen.as_slice();
    if list.len() < 2 || list.iter().all(|c| c.endpoint.ramp(now, slow_start) >= 1.0) {
        return chosen;
    }
    let mut thinned = Few::new(list[0]);
    for candidate in list {
        let ramp = candidate.endpoint.ramp(now, slow_start);
        let draw = match key {
            Some(key) => hash::draw(key, candidate.endpoint.seed(), 1),
            None => rng.f64(),
        };
        thinned.push(Candidate {
            warm: draw < ramp,
            ..*candidate
        });
    }
    thinned.prefer(|c| c.warm);
    thinned
}

impl Tally {
    fn add(&mut self, look: Look) {
        let Look::Held { reason, until } = look else {
            self.counted += 1;
            self.up += 1;
            return;
        };
        if reason != Reason::Operator {
            self.counted += 1;
        }
        self.seen[reason as usize] = true;
        self.lapse = match (self.lapse, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn into_error(self, now: Instant) -> NoEndpoint {
        NoEndpoint {
            retry_after: self.lapse.map(|at| at.saturating_duration_since(now)),
            reasons: Reason::ALL
                .into_iter()
                .filter(|reason| self.seen[*reason as usize])
                .collect(),
        }
    }
}
