use std::collections::HashMap;

use fastrand::Rng;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    super::{
        policy::Candidate,
        survey::{Survey, Wish, survey},
        *,
    },
    Boxed, member, set,
};
use crate::gate::Look;

fn endpoints(n: usize) -> Vec<Endpoint> {
    let endpoint = |n| Endpoint::new("u", &format!("e{n}"), 1, 0);
    (0..n).map(endpoint).collect()
}

const ANY: Wish<'_> = Wish {
    tried: &[],
    free: false,
    key: None,
};

/// Where the call goes, by the default settings but for the policy.
fn choose(endpoints: &[Endpoint], picker: &Picker, wish: Wish<'_>, rng: &mut Rng) -> Option<usize> {
    let (settings, now) = (BalanceSettings::default(), Instant::now());
    match survey(endpoints.iter(), |_| false, wish, &settings, now, rng) {
        Survey::Some(candidates) => {
            let list: &[Candidate<'_>] = candidates.as_slice();
            Some(list[picker.pick(list, wish.key, now, rng)].at)
        }
        Survey::Busy | Survey::Held(_) => None,
    }
}

fn picker(policy: Policy) -> Picker {
    Picker::new(policy, Share::percent(1))
}

fn policies() -> impl Strategy<Value = Policy> {
    prop::sample::select(vec![
        Policy::P2c,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::Random,
        Policy::Hash(HashKey::Session),
    ])
}

proptest! {
    #[test]
    fn what_is_held_back_is_never_chosen(
        policy in policies(),
        // For each endpoint: priority, and by what it is held.
        states in prop::collection::vec((0_u32..3, 0_usize..8), 1..40),
        seed: u64,
    ) {
        let endpoints = endpoints(states.len());
        for (endpoint, (priority, held)) in endpoints.iter().zip(&states) {
            endpoint.set_priority(*priority);
            if let Some(reason) = Reason::ALL.get(*held) {
                endpoint.gate().shut(*reason, None);
            }
        }
        let (picker, mut rng) = (picker(policy), Rng::with_seed(seed));
        let out = |e: &Endpoint| matches!(
            e.gate().look(),
            Look::Busy | Look::Held { reason: Reason::Operator | Reason::Circuit, .. }
        );
        let is = |wanted: Look| endpoints.iter().filter(|e| e.gate().look() == wanted).count();
        let purposely = endpoints.iter().filter(|e| matches!(
            e.gate().look(), Look::Held { reason: Reason::Operator, .. }
        )).count();
        let panic = (is(Look::Open) + is(Look::Busy)) * 2 < endpoints.len() - purposely;
        let best = endpoints.iter().filter(|e| e.gate().look() == Look::Open).map(Endpoint::priority).min();
        for key in 0..50 {
            let wish = Wish { key: Some(key), ..ANY };
            match choose(&endpoints, &picker, wish, &mut rng) {
                None => prop_assert!(endpoints.iter().all(|e| out(e) || (!panic && e.gate().look() != Look::Open))),
                Some(at) => {
                    prop_assert!(!out(&endpoints[at]));
                    if !panic {
                        prop_assert_eq!(endpoints[at].gate().look(), Look::Open);
                        prop_assert_eq!(Some(endpoints[at].priority()), best);
                    }
                }
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_a_cycle(weights in prop::collection::vec(1_u32..9, 1..20)) {
        let endpoints = endpoints(weights.len());
        for (endpoint, weight) in endpoints.iter().zip(&weights) {
            endpoint.set_weight(*weight);
        }
        let (picker, mut rng) = (picker(Policy::RoundRobin), Rng::with_seed(1));
        for _ in 0..3 {
            let mut counts = vec![0; weights.len()];
            for _ in 0..weights.iter().sum() {
                counts[choose(&endpoints, &picker, ANY, &mut rng).expect("open")] += 1;
            }
            prop_assert_eq!(&counts, &weights);
        }
    }

    #[test]
    fn only_the_keys_of_one_that_leaves_move(n in 2_usize..20, leaves: prop::sample::Index, seed: u64) {
        let endpoints = endpoints(n);
        let (picker, mut rng) = (picker(Policy::Hash(HashKey::Session)), Rng::with_seed(seed));
        let mut place = |key| {
            let wish = Wish { key: Some(key), ..ANY };
            choose(&endpoints, &picker, wish, &mut rng).expect("open")
        };
        let before: HashMap<u64, usize> = (0..200).map(|key| (key, place(key))).collect();
        let leaves = leaves.index(n);
        endpoints[leaves].gate().shut(Reason::Operator, None);
        for (key, at) in before {
            let after = place(key);
            let right = if at == leaves { after != leaves } else { after == at };
            prop_assert!(right);
        }
    }

    #[test]
    fn bounded_load_keeps_its_bound(weights in prop::collection::vec(1_u32..5, 2..10), keys in prop::collection::vec(0_u64..3, 1..200)) {
        let endpoints = endpoints(weights.len());
        for (endpoint, weight) in endpoints.iter().zip(&weights) {
            endpoint.set_weight(*weight);
        }
        let (picker, mut rng) = (picker(Policy::Hash(HashKey::Session)), Rng::with_seed(1));
        let all_weight = f64::from(weights.iter().sum::<u32>());
        for (calls, key) in keys.into_iter().enumerate() {
            let wish = Wish { key: Some(key), ..ANY };
            let at = choose(&endpoints, &picker, wish, &mut rng).expect("open");
            endpoints[at].load().begin(crate::class::Class::Call);
            let share = f64::from(weights[at]) / all_weight;
            let bound = (1.25 * (calls + 1) as f64 * share).ceil();
            prop_assert!(f64::from(endpoints[at].load().calls()) <= bound);
        }
    }
}

fn shares(endpoints: &[Endpoint], picker: &Picker, picks: u32) -> Vec<f64> {
    let mut rng = Rng::with_seed(7);
    let mut counts = vec![0.0; endpoints.len()];
    for _ in 0..picks {
        counts[choose(endpoints, picker, ANY, &mut rng).expect("open")] += 1.0;
    }
    counts.iter().map(|n| n / f64::from(picks)).collect()
}

#[tokio::test(start_paused = true)]
async fn weights_count_in_every_policy() {
    for policy in [
        Policy::P2c,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::Random,
    ] {
        let endpoints = endpoints(2);
        endpoints[0].set_weight(3);
        let shares = shares(&endpoints, &picker(policy), 20_000);
        assert!((shares[0] - 0.75).abs() < 0.02, "{shares:?}");
    }
    let endpoints = endpoints(2);
    endpoints[0].set_weight(3);
    let (picker, mut rng) = (picker(Policy::Hash(HashKey::Session)), Rng::with_seed(1));
    let first = (0..20_000).filter(|key| {
        let key = Some(hash::of(&u64::to_le_bytes(*key)));
        choose(&endpoints, &picker, Wish { key, ..ANY }, &mut rng) == Some(0)
    });
    let share = first.count() as f64 / 20_000.0;
    assert!((share - 0.75).abs() < 0.02, "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_healed_endpoint_comes_back_slowly() {
    let endpoints = endpoints(3);
    let policy = picker(Policy::Random);
    let gate = endpoints[0].gate();
    gate.shut(Reason::Circuit, None);
    assert_eq!(shares(&endpoints, &policy, 100)[0], 0.0);
    gate.open(Reason::Circuit);
    assert!(shares(&endpoints, &policy, 1_000)[0] < 0.02);
    for (seconds, wanted) in [(10, 1.0 / 9.0), (10, 2.0 / 9.0), (10, 1.0 / 3.0)] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let share = shares(&endpoints, &policy, 20_000)[0];
        // Left out with the chance 1 - ramp: a third of a third, and a little more for what the others share.
        assert!((share - wanted).abs() < 0.04, "{share} at {wanted}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_starts_slowly_unless_all_are_new() {
    let set = set(&["a", "b"]);
    let of = |set: &EndpointSet<Boxed>| {
        let members = set.load();
        let endpoints: Vec<_> = members.iter().map(|m| m.endpoint.clone()).collect();
        shares(&endpoints, &picker(Policy::Random), 2_000)
    };
    assert!(of(&set).iter().all(|share| *share > 0.4));
    set.insert(member(&set, "c"));
    assert!(of(&set)[2] < 0.02);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(of(&set)[2] > 0.3);
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_the_sick_are_used_too() {
    let endpoints = endpoints(5);
    endpoints[4].gate().shut(Reason::Circuit, None);
    endpoints[3].gate().shut(Reason::Health, None);
    let policy = picker(Policy::Random);
    assert_eq!(shares(&endpoints, &policy, 1_000)[3], 0.0);
    endpoints[2].gate().shut(Reason::Outlier, None);
    // Two of five are up.
    let shares = shares(&endpoints, &policy, 1_000);
    assert!(shares[..4].iter().all(|share| *share > 0.2));
    assert_eq!(shares[4], 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_next_priority_stands_in() {
    let endpoints = endpoints(3);
    endpoints[2].set_priority(1);
    let policy = picker(Policy::P2c);
    assert_eq!(shares(&endpoints, &policy, 1_000)[2], 0.0);
    endpoints[0].gate().shut(Reason::Circuit, None);
    assert_eq!(shares(&endpoints, &policy, 1_000)[2], 0.0);
    endpoints[1].gate().shut(Reason::Busy, None);
    assert_eq!(shares(&endpoints, &policy, 1_000)[2], 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_key_moves_to_a_new_endpoint_once() {
    let endpoints = endpoints(3);
    let gate = endpoints[0].gate();
    gate.shut(Reason::Circuit, None);
    let (policy, mut rng) = (picker(Policy::Hash(HashKey::Session)), Rng::with_seed(1));
    let mut place = |key| {
        let wish = Wish {
            key: Some(key),
            ..ANY
        };
        choose(&endpoints, &policy, wish, &mut rng).expect("open")
    };
    let mut before: Vec<_> = (0..300).map(&mut place).collect();
    assert!(!before.contains(&0));
    gate.open(Reason::Circuit);
    let mut moved = 0;
    for _ in 0..7 {
        let after: Vec<_> = (0..300).map(&mut place).collect();
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *after == 0, "from {before} to {after}");
        }
        let now = after.iter().filter(|at| **at == 0).count();
        assert!(now >= moved);
        (before, moved) = (after, now);
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    assert!((70..130).contains(&moved), "{moved}");
}

#[tokio::test(start_paused = true)]
async fn the_sick_and_busy_are_waited_for_in_a_panic() {
    let endpoints = endpoints(1);
    let gate = endpoints[0].gate();
    gate.shut(Reason::Health, None);
    gate.shut(Reason::Busy, None);
    let (settings, now) = (BalanceSettings::default(), Instant::now());
    let mut rng = Rng::with_seed(1);
    let seen = survey(endpoints.iter(), |_| false, ANY, &settings, now, &mut rng);
    assert!(matches!(seen, Survey::Busy));
    gate.open(Reason::Busy);
    assert_eq!(
        choose(&endpoints, &picker(Policy::P2c), ANY, &mut rng),
        Some(0)
    );
}
