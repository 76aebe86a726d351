//! Policies and load meters against simulated endpoints, in simulated time, with fixed seeds.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use fastrand::Rng;
use tokio::time::Instant;

use super::{
    BalanceSettings, Endpoint, Share,
    policy::{Picker, Policy},
    survey::{Survey, Wish, survey},
};
use crate::{class::Class, verdict::Verdict};

/// What an endpoint does with a call.
#[derive(Clone, Copy)]
enum Nature {
    /// Answers after about this many milliseconds.
    Answers(f64),
    /// Fails after this many milliseconds.
    Fails(f64),
    /// Answers so, but one of so many calls fails.
    Flaky(f64, u32),
}

struct Outcome {
    /// The share of calls of each endpoint.
    shares: Vec<f64>,
    /// The 95th percentile of the times of all answers, in milliseconds.
    p95: f64,
}

/// Calls arrive at random, `rate` a second, for `seconds`; the first tenth is left out of the count.
fn run(natures: &[Nature], policy: Policy, rate: f64, seconds: f64, seed: u64) -> Outcome {
    let settings = BalanceSettings {
        policy: policy.clone(),
        ..BalanceSettings::default()
    };
    let picker = Picker::new(policy, Share::percent(1));
    let mut rng = Rng::with_seed(seed);
    let start = Instant::now();
    let endpoints: Vec<_> = (0..natures.len())
        .map(|n| Endpoint::new("u", &format!("e{n}"), 1, 0))
        .collect();
    let mut counts = vec![0_u32; natures.len()];
    let mut times = Vec::new();
    // What ends when: nanoseconds, endpoint, nanoseconds it took.
    let mut ends: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut clock = 0.0;
    while clock < seconds {
        clock += -rng.f64().max(1e-12).ln() / rate;
        let nanos = (clock * 1e9) as u64;
        while let Some(Reverse((end, at, took))) = ends.peek().copied()
            && end <= nanos
        {
            ends.pop();
            let fails = match natures[at] {
                Nature::Answers(_) => false,
                Nature::Fails(_) => true,
                Nature::Flaky(_, of) => rng.u32(..of) == 0,
            };
            finish(
                &endpoints[at],
                fails,
                start + Duration::from_nanos(end),
                took,
            );
        }
        let now = start + Duration::from_nanos(nanos);
        let wish = Wish {
            tried: &[],
            free: false,
            key: Some(rng.u64(..100)),
        };
        let seen = survey(endpoints.iter(), |_| false, wish, &settings, now, &mut rng);
        let Survey::Some(candidates) = seen else {
            panic!("all are open");
        };
        let list = candidates.as_slice();
        let at = list[picker.pick(list, wish.key, now, &mut rng)].at;
        endpoints[at].load().begin(Class::Call);
        let took = match natures[at] {
            // Half of it fixed, half with a tail.
            Nature::Answers(mean) | Nature::Flaky(mean, _) => {
                mean * (0.5 - 0.5 * rng.f64().max(1e-12).ln())
            }
            Nature::Fails(took) => took,
        };
        let took = (took * 1e6) as u64;
        ends.push(Reverse((nanos + took, at, took)));
        if clock > seconds / 10.0 {
            counts[at] += 1;
            if !matches!(natures[at], Nature::Fails(_)) {
                times.push(took as f64 / 1e6);
            }
        }
    }
    let total = f64::from(counts.iter().sum::<u32>());
    times.sort_by(f64::total_cmp);
    Outcome {
        shares: counts.iter().map(|n| f64::from(*n) / total).collect(),
        p95: times[times.len() * 95 / 100],
    }
}

fn finish(endpoint: &Endpoint, fails: bool, now: Instant, took: u64) {
    let load = endpoint.load();
    let took = Duration::from_nanos(took);
    if fails {
        load.headless(now, took);
        load.verdict(now, Verdict::Failure);
    } else {
        load.head(now, took);
        load.verdict(now, Verdict::Success);
    }
    load.end(Class::Call);
}

/// From calls that come one by one to a hundred in flight at each endpoint.
const RATES: [f64; 4] = [5.0, 50.0, 500.0, 5_000.0];

const WELL: Nature = Nature::Answers(50.0);

fn seconds(rate: f64) -> f64 {
    (50_000.0 / rate).clamp(20.0, 2_000.0)
}

fn say(name: &str, rate: f64, outcome: &Outcome) {
    let percent: Vec<_> = outcome
        .shares
        .iter()
        .map(|share| format!("{:.2} %", share * 100.0))
        .collect();
    println!("{name}, {rate}/s: {percent:?}, p95 {:.1} ms", outcome.p95);
}

fn runs() -> impl Iterator<Item = (f64, u64)> {
    RATES
        .into_iter()
        .flat_map(|rate| (1..=2).map(move |seed| (rate, seed)))
}

#[test]
fn one_that_is_ten_times_slower_gets_under_two_percent() {
    for (rate, seed) in runs() {
        let slow = [WELL, WELL, Nature::Answers(500.0)];
        let outcome = run(&slow, Policy::P2c, rate, seconds(rate), seed);
        let healthy = run(&[WELL; 3], Policy::P2c, rate, seconds(rate), seed);
        say("one slow", rate, &outcome);
        assert!(outcome.shares[2] < 0.02, "{}", outcome.shares[2]);
        assert!(outcome.p95 < 1.5 * healthy.p95);
    }
}

#[test]
fn one_that_fails_at_once_gets_under_two_percent() {
    for (rate, seed) in runs() {
        let failing = [WELL, WELL, Nature::Fails(0.1)];
        let outcome = run(&failing, Policy::P2c, rate, seconds(rate), seed);
        say("one fails", rate, &outcome);
        assert!(outcome.shares[2] < 0.02, "{}", outcome.shares[2]);
    }
}

#[test]
fn a_failure_now_and_then_does_not_take_an_endpoint_out() {
    for (rate, seed) in runs() {
        let flaky = [Nature::Flaky(50.0, 100); 3];
        let outcome = run(&flaky, Policy::P2c, rate, seconds(rate), seed);
        say("flaky", rate, &outcome);
        assert!(outcome.shares.iter().all(|share| *share < 0.4));
    }
}

#[test]
fn of_equal_ones_none_gets_more_than_forty_percent() {
    for (rate, seed) in runs() {
        let outcome = run(&[WELL; 3], Policy::P2c, rate, seconds(rate), seed);
        say("equal", rate, &outcome);
        assert!(outcome.shares.iter().all(|share| *share < 0.4));
    }
    for policy in [Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        let outcome = run(&[WELL; 3], policy.clone(), 200.0, 300.0, 31);
        say(&format!("equal, {policy:?}"), 200.0, &outcome);
        assert!(outcome.shares.iter().all(|share| *share < 0.4));
    }
}

#[test]
fn least_request_goes_around_a_slow_one_by_what_it_has_in_hand() {
    let slow = [WELL, WELL, Nature::Answers(500.0)];
    let outcome = run(&slow, Policy::LeastRequest, 500.0, 200.0, 41);
    say("one slow, least_request", 500.0, &outcome);
    assert!(outcome.shares[2] < 0.07);
}
