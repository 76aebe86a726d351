//! Which of the candidates gets a call.
//!
//! | policy | rule |
//! | --- | --- |
//! | [`Policy::P2c`] | the cheaper of two drawn at random, see below |
//! | [`Policy::LeastRequest`] | the fewest in hand for its weight; among equals at random, by weight |
//! | [`Policy::RoundRobin`] | smooth weighted round robin, as nginx does it: exact over a cycle, and never in bursts |
//! | [`Policy::Random`] | at random, by weight |
//! | [`Policy::Hash`] | the same key to the same endpoint: weighted rendezvous, with bounded load |
//!
//! **p2c** ("The Power of Two Choices in Randomized Load Balancing", Mitzenmacher) compares cost: time to head × penalty for failures × (1 + calls in
//! hand for its weight). Costs within a tenth of each other are equal, and equals are chosen at random, by weight: estimates are never
//! quite equal, and the plain rule would send everything to one endpoint where calls come one by one. An endpoint of which no time is known is taken to be as
//! quick as the other. A small share of calls is *forced*: it goes to any candidate, so that one with a bad estimate gets the chance to show
//! a better one.
//!
//! **hash** is highest random weight: the endpoint with the highest `-weight / ln(u)` wins, where `u` is drawn from key and endpoint. If an endpoint goes, only
//! its own keys move. An endpoint that has its share of all calls in hand already, by a factor of 1.25, is passed over (Mirrokni, Thorup, Zadimoghaddam:
//! "Consistent Hashing with Bounded Loads"); so a single hot key is spread as soon as it has several calls at once. A call without a
//! key is placed by p2c.

use std::sync::{Mutex, PoisonError, atomic::Ordering};

use fastrand::Rng;
use tokio::time::Instant;

use super::{Endpoint, HashKey, hash};
use crate::share::Share;

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// The cheaper of two drawn at random.
    #[default]
    P2c,
    /// The fewest calls in hand.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The same key to the same endpoint.
    Hash(HashKey),
}

/// An endpoint that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// Its place among the members.
    pub(super) at: usize,
    pub(super) endpoint: &'a Endpoint,
    /// The call was not tried there.
    pub(super) fresh: bool,
    /// It is past its slow start, or was drawn in spite of it.
    pub(super) warm: bool,
}

/// A policy and what it keeps between choices.
#[derive(Debug)]
pub(super) struct Picker {
    policy: Policy,
    forced: Share,
    /// The round robin's credits change together.
    turn: Mutex<()>,
}

/// Costs closer than this factor are equal.
const EQUAL: f64 = 1.1;

/// How much more than its share of the load an endpoint may have under [`Policy::Hash`].
const BOUND: f64 = 1.25;

impl Picker {
    pub(super) fn new(policy: Policy, forced: Share) -> Self {
        Self {
            policy,
            forced,
            turn: Mutex::new(()),
        }
    }

    /// What calls are placed by, if by anything.
    pub(super) fn key(&self) -> Option<&HashKey> {
        match &self.policy {
            Policy::Hash(key) => Some(key),
            Policy::P2c | Policy::LeastRequest | Policy::RoundRobin | Policy::Random => None,
        }
    }

    /// One of the candidates, by its place in the list, which is not empty.
    pub(super) fn pick(
        &self,
        candidates: &[Candidate<'_>],
        key: Option<u64>,
        now: Instant,
        rng: &mut Rng,
    ) -> usize {
        if candidates.len() < 2 {
            return 0;
        }
        match (&self.policy, key) {
            (Policy::Hash(_), Some(key)) => rendezvous(candidates, key),
            (Policy::P2c | Policy::Hash(_), _) => p2c(candidates, self.forced, now, rng),
            (Policy::LeastRequest, _) => least_request(candidates, rng),
            (Policy::Random, _) => random(candidates, rng),
            (Policy::RoundRobin, _) => {
                let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                round_robin(candidates)
            }
        }
    }
}

fn p2c(candidates: &[Candidate<'_>], forced: Share, now: Instant, rng: &mut Rng) -> usize {
    let n = candidates.len();
    let first = rng.usize(..n);
    if rng.f64() < forced.get() {
        return first;
    }
    let other = rng.usize(..n - 1);
    let second = if other >= first { other + 1 } else { other };
    let (a, b) = (candidates[first].endpoint, candidates[second].endpoint);
    let (weight_a, weight_b) = (f64::from(a.weight()), f64::from(b.weight()));
    // Before the first answer, as quick as the other.
    let (time_a, time_b) = match (a.load().seconds(now), b.load().seconds(now)) {
        (Some(a), Some(b)) => (a, b),
        (None, _) | (_, None) => (1.0, 1.0),
    };
    let most = weight_a.max(weight_b);
    let cost = |endpoint: &Endpoint, time: f64, weight: f64| {
        let load = endpoint.load();
        time * load.penalty(now) * (1.0 + load.in_hand() * most / weight)
    };
    let (cost_a, cost_b) = (cost(a, time_a, weight_a), cost(b, time_b, weight_b));
    let a_wins = if cost_a > cost_b * EQUAL {
        false
    } else if cost_b > cost_a * EQUAL {
        true
    } else {
        rng.f64() * (weight_a + weight_b) < weight_a
    };
    if a_wins { first } else { second }
}

fn least_request(candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
    let (mut best, mut least, mut equals) = (0, f64::INFINITY, 0.0);
    for (at, candidate) in candidates.iter().enumerate() {
        let weight = f64::from(candidate.endpoint.weight());
        let load = candidate.endpoint.load().in_hand() / weight;
        if load < least {
            (best, least, equals) = (at, load, weight);
        } else if load <= least {
            equals += weight;
            if rng.f64() * equals < weight {
                best = at;
            }
        }
    }
    best
}

fn random(candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
    let total: u32 = candidates.iter().map(|c| c.endpoint.weight()).sum();
    let mut left = rng.u32(..total);
    for (at, candidate) in candidates.iter().enumerate() {
        let weight = candidate.endpoint.weight();
        if left < weight {
            return at;
        }
        left -= weight;
    }
    0
}

/// Each gets its weight as credit; who has the most is chosen, and pays what all got.
fn round_robin(candidates: &[Candidate<'_>]) -> usize {
    let (mut best, mut most, mut total) = (0, i64::MIN, 0);
    for (at, candidate) in candidates.iter().enumerate() {
        let weight = i64::from(candidate.endpoint.weight());
        let credit = candidate.endpoint.credit();
        let now = credit.fetch_add(weight, Ordering::Relaxed) + weight;
        total += weight;
        if now > most {
            (best, most) = (at, now);
        }
    }
    candidates[best]
        .endpoint
        .credit()
        .fetch_sub(total, Ordering::Relaxed);
    best
}

fn rendezvous(candidates: &[Candidate<'_>], key: u64) -> usize {
    let calls = |c: &Candidate<'_>| f64::from(c.endpoint.load().calls());
    let weight = |c: &Candidate<'_>| f64::from(c.endpoint.weight());
    let all_calls: f64 = candidates.iter().map(calls).sum::<f64>() + 1.0;
    let all_weight: f64 = candidates.iter().map(weight).sum();
    let (mut best, mut highest) = (None, 0.0);
    for (at, candidate) in candidates.iter().enumerate() {
        let bound = (BOUND * all_calls * weight(candidate) / all_weight).ceil();
        if calls(candidate) + 1.0 > bound {
            continue;
        }
        let score = -weight(candidate) / hash::draw(key, candidate.endpoint.seed(), 0).ln();
        if best.is_none() || score > highest {
            (best, highest) = (Some(at), score);
        }
    }
    // The bounds add up to more than all calls, so there is one, unless the counts moved meanwhile.
    best.unwrap_or(0)
}
