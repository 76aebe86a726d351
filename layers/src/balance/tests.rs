mod choice;

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::Response;
use tokio::{sync::Notify, time::Instant};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{
    Layer, ServiceExt,
    util::{BoxCloneSyncService, service_fn},
};

use super::*;
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
    // Long enough for a machine that is busy with other things.
    let patient = BalanceSettings {
        queue_time: Duration::from_secs(60),
        ..BalanceSettings::default()
    };
    let boxed = Boxed::new(Balance::new(patient, set.clone()));
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
async fn the_exchange_knows_whether_there_is_another_endpoint_for_a_call() {
    let set = set(&["a", "b", "c"]);
    let balance = balance(&set);
    let elsewhere = async |names: &[&str]| {
        let mut request = request();
        let exchange = Exchange::of(&mut request);
        let names: Vec<Arc<str>> = names.iter().map(|n| Arc::from(*n)).collect();
        request.extensions_mut().insert(Tried(names.into()));
        let _response = balance.clone().oneshot(request).await.expect("one of them");
        exchange.may_go_elsewhere()
    };
    assert!(elsewhere(&[]).await);
    assert!(elsewhere(&["a"]).await);
    assert!(!elsewhere(&["a", "c"]).await, "only b is left");
    assert!(!elsewhere(&["a", "b", "c"]).await);
    set.get("c").expect("a member").endpoint.set_priority(1);
    assert!(elsewhere(&["a"]).await, "also one of another priority");
    let gate = |name| set.get(name).expect("a member").endpoint.gate().clone();
    gate("b").shut(Reason::Busy, None);
    assert!(elsewhere(&[]).await);
    assert!(!elsewhere(&["c"]).await, "it would wait at the other one");
    gate("c").shut(Reason::Operator, None);
    assert!(!elsewhere(&[]).await);
    set.remove("b");
    set.remove("c");
    assert!(!elsewhere(&[]).await);
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

#[tokio::test(start_paused = true)]
async fn its_metrics_move() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let (set, balance) = ::metrics::with_local_recorder(&recorder, || {
        let set = EndpointSet::new("u");
        set.insert(narrow(&set, "a"));
        let balance = balance(&set);
        (set, balance)
    });
    let has = |line: &str| {
        let text = shown.render();
        assert!(
            text.lines().any(|l| l.starts_with(line)),
            "{line} in {text}"
        );
    };
    let labels = r#"{upstream="u",endpoint="a"}"#;
    let first = balance.clone().oneshot(request()).await;
    let mut second = task::spawn(balance.clone().oneshot(request()));
    assert_pending!(second.poll());
    has(r#"ziggurat_pool_waiters{upstream="u"} 1"#);
    has(&format!("ziggurat_endpoint_ready{labels} 1"));
    tokio::time::advance(Duration::from_millis(200)).await;
    drop(first);
    drop(assert_ready!(second.poll()));
    has(r#"ziggurat_pool_waiters{upstream="u"} 0"#);
    has(r#"ziggurat_pool_wait_seconds_sum{upstream="u"} 0.2"#);
    has(&format!("ziggurat_endpoint_load{labels} 0"));
    let endpoint = set.get("a").expect("a member").endpoint;
    endpoint.load().head(Instant::now(), Duration::from_secs(3));
    endpoint.gate().shut(Reason::Operator, None);
    set.publish();
    has(&format!("ziggurat_endpoint_load{labels} 3"));
    has(&format!("ziggurat_endpoint_ready{labels} 0"));

    // The gauges belong to the name: another endpoint may have it before the last clone of this one goes.
    let other = EndpointSet::new("u");
    let newcomer = ::metrics::with_local_recorder(&recorder, || member(&other, "a"));
    other.insert(newcomer);
    drop((set, balance, endpoint, second));
    has(&format!("ziggurat_endpoint_ready{labels} -1"));
    has(&format!("ziggurat_endpoint_load{labels} 0"));
    other.publish();
    has(&format!("ziggurat_endpoint_ready{labels} 1"));
    drop(other);
    has(&format!("ziggurat_endpoint_ready{labels} -1"));
}
