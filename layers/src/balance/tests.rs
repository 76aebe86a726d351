use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use fastrand::Rng;
use http::Response;
use proptest::prelude::*;
use tokio::{sync::Notify, time::Instant};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{
    Layer, ServiceExt,
    util::{BoxCloneSyncService, service_fn},
};

use super::{
    policy::Candidate,
    survey::{Survey, Wish, survey},
    *,
};
use crate::{
    attempt::{Pinned, Tried},
    error::find,
    exchange::Exchange,
    gate::{GateShut, Look},
    limit::{LimitLayer, LimitSettings, Shed},
    mcp::CallFacts,
};

type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A member whose answer is its name.
fn member(set: &EndpointSet<Boxed>, name: &'static str) -> Member<Boxed> {
    let endpoint = set.keep(name, 1, 0);
    let service = service_fn(move |_: Request<Body>| async move {
        Ok::<_, BoxError>(Response::new(Body::full(name)))
    });
    Member {
        service: Boxed::new(
            LoadLayer::new(endpoint.clone())
                .layer(service)
                .map_response(erase),
        ),
        endpoint,
    }
}

/// A member that takes one call at a time; a call lasts until its response is dropped.
fn narrow(set: &EndpointSet<Boxed>, name: &'static str) -> Member<Boxed> {
    let Member { endpoint, service } = member(set, name);
    let limit = LimitLayer::new(LimitSettings {
        calls: NonZeroUsize::new(1),
        streams: None,
    });
    let service = limit.gate(endpoint.gate().clone()).layer(service);
    Member {
        service: Boxed::new(service.map_response(erase)),
        endpoint,
    }
}

fn erase<B>(response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    response.map(Body::new)
}

fn set(names: &[&'static str]) -> EndpointSet<Boxed> {
    let set = EndpointSet::new("u");
    set.replace_all(names.iter().map(|name| member(&set, name)));
    set
}

fn balance(set: &EndpointSet<Boxed>) -> Balance<Boxed> {
    Balance::new(BalanceSettings::default(), set.clone())
}

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

fn pinned(name: &str) -> Request<Body> {
    let mut request = request();
    request.extensions_mut().insert(Pinned(name.into()));
    request
}

async fn name(response: Result<Response<Body>, BoxError>) -> Bytes {
    use http_body_util::BodyExt;
    let body = response.expect("a response").into_body();
    body.collect().await.expect("a body").to_bytes()
}

fn failure<E: std::error::Error + Clone + 'static>(result: Result<Response<Body>, BoxError>) -> E {
    let error = result.map(|_| ()).expect_err("a refusal");
    find::<E>(&*error).expect("of this kind").clone()
}

// The service.

#[tokio::test(start_paused = true)]
async fn all_held_back_is_told_at_once_with_the_soonest_return() {
    let set = set(&["a", "b"]);
    let at = |s| Some(Instant::now() + Duration::from_secs(s));
    for (name, seconds) in [("a", 7), ("b", 3)] {
        let gate = set.get(name).expect("a member").endpoint;
        gate.gate().shut(Reason::Circuit, at(seconds));
    }
    let error: NoEndpoint = failure(balance(&set).oneshot(request()).await);
    assert_eq!(error.retry_after, Some(Duration::from_secs(3)));
    assert_eq!(error.reasons, [Reason::Circuit]);
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(name(balance(&set).oneshot(request()).await).await, "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_few_places_without_a_loss() {
    let set = EndpointSet::new("u");
    set.replace_all([narrow(&set, "a"), narrow(&set, "b"), member(&set, "c")]);
    set.remove("c");
    // A route is boxed, and its futures are spawned.
    let boxed = Boxed::new(balance(&set));
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let boxed = boxed.clone();
            tokio::spawn(async move {
                match boxed.oneshot(request()).await {
                    Ok(response) => {
                        tokio::task::yield_now().await;
                        drop(response);
                        true
                    }
                    // Two saw the last place.
                    Err(error) => {
                        assert!(find::<Shed>(&*error).is_some(), "{error}");
                        false
                    }
                }
            })
        })
        .collect();
    let mut served = 0;
    for call in calls {
        served += usize::from(call.await.expect("no panic"));
    }
    assert!(served > 400, "{served}");
    assert!(
        set.view()
            .iter()
            .all(|e| e.calls == 0 && e.look == Look::Open)
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_told_at_once() {
    let before = Instant::now();
    let error: NoEndpoint = failure(balance(&set(&[])).oneshot(request()).await);
    assert_eq!(
        error.to_string(),
        "no endpoint takes calls now (there is none)"
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_busy_set_lets_calls_wait_in_their_order() {
    let set = EndpointSet::new("u");
    set.insert(narrow(&set, "a"));
    let balance = balance(&set);
    let first = balance.clone().oneshot(request()).await;
    let mut second = task::spawn(balance.clone().oneshot(request()));
    let mut third = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    drop(first);
    assert!(second.is_woken() && !third.is_woken());
    // A newcomer does not pass those who wait.
    let mut fourth = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(fourth.poll());
    let second = assert_ready!(second.poll());
    assert!(third.is_woken());
    assert_pending!(third.poll());
    drop(second);
    let third = assert_ready!(third.poll());
    assert_eq!(name(third).await, "a");
    drop(assert_ready!(fourth.poll()).expect("a response"));
    assert!(balance.shared.queue.is_empty());
    assert_eq!(set.view()[0].calls, 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_has_a_bound_and_a_clock() {
    let set = EndpointSet::new("u");
    set.insert(narrow(&set, "a"));
    let settings = BalanceSettings {
        queue: 1,
        ..BalanceSettings::default()
    };
    let balance = Balance::new(settings, set.clone());
    let _first = balance.clone().oneshot(request()).await.expect("a place");
    let mut second = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(second.poll());
    let full: QueueFull = failure(balance.clone().oneshot(request()).await);
    assert_eq!(full.limit, 1);
    let before = Instant::now();
    let late: QueueTimeout = failure(second.await);
    assert_eq!(late.limit, Duration::from_secs(1));
    assert!(before.elapsed() >= Duration::from_secs(1));
    assert!(balance.shared.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_makes_way_for_the_next() {
    let set = EndpointSet::new("u");
    set.insert(narrow(&set, "a"));
    let balance = balance(&set);
    let first = balance.clone().oneshot(request()).await;
    let mut second = task::spawn(balance.clone().oneshot(request()));
    let mut third = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    drop(second);
    assert_pending!(third.poll());
    drop(first);
    assert_eq!(name(assert_ready!(third.poll())).await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_hears_of_new_members_and_of_held_ones() {
    let set = EndpointSet::new("u");
    set.insert(narrow(&set, "a"));
    let balance = balance(&set);
    let _first = balance.clone().oneshot(request()).await;
    let mut second = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(second.poll());
    set.insert(member(&set, "b"));
    assert!(second.is_woken());
    assert_eq!(name(assert_ready!(second.poll())).await, "b");
    set.remove("b");
    let mut third = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(third.poll());
    let gate = set.get("a").expect("a member").endpoint;
    gate.gate().shut(Reason::Operator, None);
    let none: NoEndpoint = failure(assert_ready!(third.poll()));
    assert_eq!(none.reasons, [Reason::Operator]);
}

#[tokio::test(start_paused = true)]
async fn what_wants_no_answer_and_what_stands_do_not_wait_behind_calls() {
    let set = EndpointSet::new("u");
    set.insert(narrow(&set, "a"));
    let balance = balance(&set);
    let _first = balance.clone().oneshot(request()).await;
    let mut waiting = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(waiting.poll());
    let mut note = request();
    let body = Bytes::from_static(br#"{"method":"notifications/cancelled"}"#);
    let facts = CallFacts::read(&http::Method::POST, note.headers(), &body);
    Exchange::of(&mut note).set_call(facts.expect("a call"));
    assert_eq!(name(balance.clone().oneshot(note).await).await, "a");
    let stream = Request::get("/").header("accept", "text/event-stream");
    let stream = stream.body(Body::empty()).expect("valid");
    assert_eq!(name(balance.clone().oneshot(stream).await).await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_pinned_call_goes_to_its_endpoint_or_nowhere() {
    let set = set(&["a", "b", "c"]);
    let balance = balance(&set);
    for _ in 0..50 {
        assert_eq!(name(balance.clone().oneshot(pinned("b")).await).await, "b");
    }
    let endpoint = set.get("b").expect("a member").endpoint;
    endpoint.gate().shut(Reason::Circuit, None);
    let shut: GateShut = failure(balance.clone().oneshot(pinned("b")).await);
    assert_eq!(shut.reason, Reason::Circuit);
    set.remove("b");
    let _gone: PinnedGone = failure(balance.clone().oneshot(pinned("b")).await);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_call_waits_for_its_endpoint_though_others_are_free() {
    let set = set(&["b"]);
    set.insert(narrow(&set, "a"));
    let balance = balance(&set);
    let first = balance.clone().oneshot(pinned("a")).await;
    let mut second = task::spawn(balance.clone().oneshot(pinned("a")));
    assert_pending!(second.poll());
    assert_eq!(name(balance.clone().oneshot(request()).await).await, "b");
    drop(first);
    assert_eq!(name(assert_ready!(second.poll())).await, "a");
}

#[tokio::test(start_paused = true)]
async fn where_it_was_tried_is_avoided_while_there_are_others() {
    let set = set(&["a", "b", "c"]);
    let balance = balance(&set);
    let tried = |names: &[&str]| {
        let mut request = request();
        let names: Vec<Arc<str>> = names.iter().map(|n| Arc::from(*n)).collect();
        request.extensions_mut().insert(Tried(names.into()));
        request
    };
    for _ in 0..50 {
        let answer = balance.clone().oneshot(tried(&["a", "c"])).await;
        assert_eq!(name(answer).await, "b");
    }
    balance
        .clone()
        .oneshot(tried(&["a", "b", "c"]))
        .await
        .expect("one of them");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_taken_out_drains_and_lets_go_of_its_service() {
    let set = set(&["a"]);
    let alive = Arc::new(());
    let (go, held) = (Arc::new(Notify::new()), Arc::downgrade(&alive));
    let endpoint = set.keep("b", 1, 0);
    let service = {
        let go = go.clone();
        service_fn(move |_: Request<Body>| {
            let (go, alive) = (go.clone(), alive.clone());
            async move {
                go.notified().await;
                drop(alive);
                Ok::<_, BoxError>(Response::new(Body::full("b")))
            }
        })
    };
    set.replace_all([Member {
        endpoint,
        service: Boxed::new(service),
    }]);
    let mut call = task::spawn(balance(&set).oneshot(request()));
    assert_pending!(call.poll());
    set.replace_all([member(&set, "a")]);
    assert_eq!(name(balance(&set).oneshot(request()).await).await, "a");
    assert_eq!(held.strong_count(), 1);
    go.notify_one();
    assert_eq!(name(assert_ready!(call.poll())).await, "b");
    assert_eq!(held.strong_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_not_ready_is_passed_over_and_asked_again() {
    #[derive(Clone)]
    struct Slow(Arc<Mutex<(bool, Option<std::task::Waker>)>>);
    impl Service<Request<Body>> for Slow {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<Body>, BoxError>>;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            let mut state = self.0.lock().expect("not poisoned");
            if state.0 {
                return Poll::Ready(Ok(()));
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(Body::full("slow"))))
        }
    }
    let state = Arc::new(Mutex::new((false, None::<std::task::Waker>)));
    let set = set(&["a"]);
    set.insert(Member {
        endpoint: Endpoint::new("u", "slow", 1000, 0),
        service: Boxed::new(Slow(state.clone())),
    });
    let balance = balance(&set);
    for _ in 0..20 {
        assert_eq!(name(balance.clone().oneshot(request()).await).await, "a");
    }
    set.remove("a");
    let mut waiting = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(waiting.poll());
    let waker = {
        let mut state = state.lock().expect("not poisoned");
        state.0 = true;
        state.1.take()
    };
    waker.expect("it waits").wake();
    assert!(waiting.is_woken());
    assert_eq!(name(assert_ready!(waiting.poll())).await, "slow");
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_readiness_fails_is_passed_over_but_stays() {
    #[derive(Clone)]
    struct Broken(Arc<AtomicUsize>);
    impl Service<Request<Body>> for Broken {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = std::future::Pending<Result<Response<Body>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Err("broken".into()))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let set = set(&[]);
    set.replace_all([
        member(&set, "a"),
        Member {
            endpoint: set.keep("broken", 1, 0),
            service: Boxed::new(Broken(asked.clone())),
        },
    ]);
    for _ in 0..40 {
        assert_eq!(name(balance(&set).oneshot(request()).await).await, "a");
    }
    assert!(asked.load(Ordering::Relaxed) > 1);
    set.remove("a");
    let error = balance(&set).oneshot(request()).await.map(|_| ());
    assert_eq!(error.expect_err("broken").to_string(), "broken");
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_is_known_of_those_that_stay() {
    let set = set(&["a", "b"]);
    let before = set.get("a").expect("a member").endpoint;
    before.gate().shut(Reason::Operator, None);
    before.load().head(Instant::now(), Duration::from_millis(5));
    set.replace_all([member(&set, "a"), member(&set, "c")]);
    let names: Vec<_> = set.view().iter().map(|v| v.name.to_string()).collect();
    assert_eq!(names, ["a", "c"]);
    let view = &set.view()[0];
    let shut = Look::Held {
        reason: Reason::Operator,
        until: None,
    };
    assert_eq!((view.look, view.time.is_some()), (shut, true));
}

// The choice.

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
    Picker::new(policy, Share(0.01))
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
            Look::Busy | Look::Held { reason: Reason::Operator | Reason::Era | Reason::Circuit, .. }
        );
        let is = |wanted: Look| endpoints.iter().filter(|e| e.gate().look() == wanted).count();
        let purposely = endpoints.iter().filter(|e| matches!(
            e.gate().look(), Look::Held { reason: Reason::Operator | Reason::Era, .. }
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
        let key = Some(super::hash::of(&u64::to_le_bytes(*key)));
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
