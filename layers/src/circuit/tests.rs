use std::num::NonZeroU32;

use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Body,
    by_tool::ByTool,
    error::{Outcome, find},
    exchange::GiveUp,
    fault::{Blame, Fault},
    gate::{GateLayer, Look, Reason},
    limit::Shed,
    mcp::{CallFacts, peek::Answer},
    metrics::Tools,
    rescue::Row,
};

const OPEN: Duration = Duration::from_secs(10);

fn settings() -> CircuitSettings {
    CircuitSettings {
        consecutive: NonZeroU32::new(2),
        successes: NonZeroU32::MIN,
        open: OPEN,
        ..CircuitSettings::default()
    }
}

/// What the service below does with a request, as its path says.
async fn below(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let exchange = Exchange::get(&request).expect("an exchange").clone();
    let answered = |answer| {
        exchange.response().saw_answer(answer);
        Ok(Response::new(Body::full("x")))
    };
    match request.uri().path() {
        "/fails" => Err("its own".into()),
        "/neutral" => Err(Shed {
            limit: 1,
            what: "calls",
        }
        .into()),
        "/broken" => {
            let mut response = Response::new(Body::full("x"));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            Ok(response)
        }
        "/hangs" => std::future::pending().await,
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(Response::new(Body::full("x")))
        }
        "/stream" => Ok(Response::new(Body::new(http_body_util::StreamBody::new(
            futures_util::stream::pending::<Result<http_body::Frame<Bytes>, BoxError>>(),
        )))),
        "/tool_error" => answered(Answer::ToolError),
        "/result" => answered(Answer::Result),
        _ => Ok(Response::new(Body::full("x"))),
    }
}

type Below = Circuit<tower::util::BoxCloneService<Request<Body>, Response<Body>, BoxError>>;

fn service(layer: &CircuitLayer) -> Below {
    layer.layer(tower::util::BoxCloneService::new(service_fn(below)))
}

fn request(path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().expect("a path");
    request
}

/// The same as an MCP message.
fn message(path: &str, text: &str) -> Request<Body> {
    let mut request = request(path);
    let facts = CallFacts::read(
        &Method::POST,
        request.headers(),
        &Bytes::copy_from_slice(text.as_bytes()),
    );
    Exchange::of(&mut request).set_call(facts.expect("a call"));
    request
}

fn tool_call(path: &str, tool: &str) -> Request<Body> {
    let text = format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    message(path, &text)
}

/// One whole call: its status, or how it was refused.
async fn send(service: &Below, request: Request<Body>) -> Result<StatusCode, Option<CircuitOpen>> {
    match service.clone().oneshot(request).await {
        Ok(response) => {
            let status = response.status();
            response.into_body().collect().await.expect("a body");
            Ok(status)
        }
        Err(error) => Err(find::<CircuitOpen>(&*error).copied()),
    }
}

async fn call(service: &Below, path: &str) -> Result<StatusCode, Option<CircuitOpen>> {
    send(service, request(path)).await
}

/// Fails until it is open, and says how long that will be.
async fn open(service: &Below) -> Duration {
    loop {
        if let Err(Some(open)) = call(service, "/fails").await {
            return open.retry_after.expect("a time");
        }
    }
}

fn made(settings: CircuitSettings) -> (Below, CircuitHandle, Gate) {
    let (handle, gate) = (CircuitHandle::new("up", "end"), Gate::new());
    let layer = CircuitLayer::with(&handle, Some(settings)).gate(gate.clone());
    (service(&layer), handle, gate)
}

fn state(handle: &CircuitHandle) -> State {
    handle.look().expect("it is on").state
}

#[tokio::test(start_paused = true)]
async fn it_opens_refuses_probes_and_closes() {
    let (service, handle, gate) = made(settings());
    assert_eq!(call(&service, "/ok").await, Ok(StatusCode::OK));
    assert_eq!(call(&service, "/fails").await, Err(None));
    assert_eq!(gate.look(), Look::Open);
    assert_eq!(call(&service, "/broken").await, Ok(StatusCode::BAD_GATEWAY));
    let refused = call(&service, "/ok").await.expect_err("open");
    let CircuitOpen { scope, retry_after } = refused.expect("by the breaker");
    let after = retry_after.expect("a time");
    assert_eq!(scope, Scope::Endpoint);
    assert!(after >= OPEN && after <= OPEN.mul_f64(1.2));
    let until = Some(Instant::now() + after);
    let reason = Reason::Circuit;
    assert_eq!(gate.look(), Look::Held { reason, until });
    assert_eq!(handle.look().expect("on").retry_after, retry_after);

    tokio::time::advance(after).await;
    assert_eq!(gate.look(), Look::Open);
    let mut probe = task::spawn(service.clone().oneshot(request("/hangs")));
    assert!(probe.poll().is_pending());
    assert_eq!(state(&handle), State::HalfOpen);
    assert!(matches!(gate.look(), Look::Held { until: Some(_), .. }));
    assert!(matches!(call(&service, "/ok").await, Err(Some(_))));
    drop(probe);
    assert_eq!(gate.look(), Look::Open);
    assert_eq!(call(&service, "/ok").await, Ok(StatusCode::OK));
    assert_eq!(state(&handle), State::Closed);
}

#[test]
fn a_refusal_says_that_nothing_was_sent_and_when_to_try_again() {
    for (retry_after, told) in [(Some(OPEN), OPEN), (None, Duration::from_secs(1))] {
        let scope = Scope::Tool;
        let open = CircuitOpen { scope, retry_after };
        let row = Row::of(&Fault::of(&open));
        assert_eq!((row.layer, row.kind), ("circuit", "circuit_open"));
        assert_eq!((row.outcome, row.blame), (Outcome::NotSent, Blame::Proxy));
        assert_eq!(
            (row.status, row.retry_after),
            (StatusCode::SERVICE_UNAVAILABLE, Some(told))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_it_for_longer() {
    let (service, handle, _) = made(settings());
    tokio::time::advance(open(&service).await).await;
    assert_eq!(call(&service, "/fails").await, Err(None));
    assert!(open(&service).await >= 2 * OPEN);
    assert_eq!(handle.look().expect("on").openings, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_neutral_gives_the_place_back() {
    let (service, handle, gate) = made(settings());
    tokio::time::advance(open(&service).await).await;
    for _ in 0..3 {
        assert_eq!(call(&service, "/neutral").await, Err(None));
        let response = service.clone().oneshot(request("/stream")).await;
        drop(response.expect("a head"));
        assert_eq!(state(&handle), State::HalfOpen);
        assert_eq!(gate.look(), Look::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn the_balancer_sees_it_become_ready() {
    let (service, _, gate) = made(settings());
    let after = open(&service).await;
    let mut gated = task::spawn(GateLayer::new(gate).layer(service));
    assert_pending!(gated.enter(|cx, mut s| s.poll_ready(cx)));
    // Timers go by whole milliseconds.
    tokio::time::advance(after + Duration::from_millis(1)).await;
    assert!(gated.is_woken());
    assert_ready_ok!(gated.enter(|cx, mut s| s.poll_ready(cx)));
    let mut probe = task::spawn(gated.enter(|_, mut s| s.call(request("/hangs"))));
    assert!(probe.poll().is_pending());
    assert_pending!(gated.enter(|cx, mut s| s.poll_ready(cx)));
    drop(probe);
    assert!(gated.is_woken());
    assert_ready_ok!(gated.enter(|cx, mut s| s.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn an_outer_clock_counts_and_a_client_that_leaves_does_not() {
    let (service, handle, _) = made(settings());
    for (why, state_after) in [
        (None, State::Closed),
        (Some(GiveUp::Drain), State::Closed),
        (Some(GiveUp::Timeout), State::Open),
    ] {
        for _ in 0..2 {
            let mut request = request("/hangs");
            let exchange = Exchange::of(&mut request);
            let mut attempt = task::spawn(service.clone().oneshot(request));
            assert!(attempt.poll().is_pending());
            if let Some(why) = why {
                exchange.give_up(why);
            }
            drop(attempt);
        }
        assert_eq!(state(&handle), state_after);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_is_the_time_to_the_head() {
    let (service, handle, _) = made(CircuitSettings {
        min_calls: NonZeroU32::MIN,
        slow: Some(SlowCalls {
            call: Duration::from_secs(2),
            rate: crate::share::Share::ALL,
        }),
        ..settings()
    });
    let long = service.clone().oneshot(request("/stream")).await;
    let long = long.expect("a head");
    tokio::time::advance(Duration::from_secs(60)).await;
    drop(long);
    assert_eq!(state(&handle), State::Closed);
    assert_eq!(call(&service, "/slow").await, Ok(StatusCode::OK));
    assert_eq!(state(&handle), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_standing_stream_counts_with_its_head() {
    let (service, handle, _) = made(settings());
    tokio::time::advance(open(&service).await).await;
    let mut listen = request("/stream");
    let accept = "text/event-stream".parse().expect("a value");
    listen.headers_mut().insert(header::ACCEPT, accept);
    let _stream = service.clone().oneshot(listen).await.expect("a head");
    assert_eq!(state(&handle), State::Closed);
    assert_eq!(handle.look().expect("on").calls, 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_passes_an_open_breaker() {
    let (service, handle, _) = made(settings());
    open(&service).await;
    for text in [
        r#"{"method":"notifications/cancelled"}"#,
        r#"{"id":1,"result":{}}"#,
    ] {
        assert_eq!(
            send(&service, message("/ok", text)).await,
            Ok(StatusCode::OK)
        );
    }
    assert_eq!(state(&handle), State::Open);
    let asked = message("/ok", r#"{"id":1,"method":"ping"}"#);
    assert!(matches!(send(&service, asked).await, Err(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn the_operator_has_the_last_word() {
    let (service, handle, gate) = made(settings());
    assert!(handle.force(Some(Forced::Open)));
    let refused = call(&service, "/ok").await.expect_err("forced");
    assert_eq!(refused.expect("by the breaker").retry_after, None);
    assert!(matches!(gate.look(), Look::Held { until: None, .. }));
    assert!(handle.force(Some(Forced::Closed)));
    for _ in 0..20 {
        assert_eq!(call(&service, "/fails").await, Err(None));
    }
    assert_eq!(handle.look().expect("on").failures, 20);
    assert_eq!(gate.look(), Look::Open);
    assert!(handle.force(None));
    assert_eq!(handle.look().expect("on").failures, 0);
}

#[tokio::test(start_paused = true)]
async fn its_state_outlives_a_layer_until_it_is_turned_off() {
    let (service, handle, gate) = made(settings());
    open(&service).await;
    let fresh = Gate::new();
    let layer = CircuitLayer::with(&handle, Some(CircuitSettings::default())).gate(fresh.clone());
    assert_eq!(gate.look(), Look::Open);
    assert!(fresh.is_shut_by(Reason::Circuit));
    assert!(matches!(
        call(&self::service(&layer), "/ok").await,
        Err(Some(_))
    ));

    let layer = CircuitLayer::with(&handle, None).gate(fresh.clone());
    assert_eq!(handle.look(), None);
    assert!(!handle.force(Some(Forced::Open)));
    assert_eq!(fresh.look(), Look::Open);
    for service in [&self::service(&layer), &service] {
        for _ in 0..20 {
            assert_eq!(call(service, "/fails").await, Err(None));
        }
    }
    let again = CircuitLayer::with(&handle, Some(settings()));
    assert_eq!(
        call(&self::service(&again), "/ok").await,
        Ok(StatusCode::OK)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stuck_service_does_not_hide_an_open_breaker() {
    let handle = CircuitHandle::default();
    let layer = CircuitLayer::with(&handle, Some(settings()));
    let (mock, mut control) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let mut stuck = task::spawn(layer.layer(mock));
    control.allow(0);
    assert_pending!(stuck.enter(|cx, mut s| s.poll_ready(cx)));
    handle.force(Some(Forced::Open));
    assert_ready_ok!(stuck.enter(|cx, mut s| s.poll_ready(cx)));
    handle.force(None);
    // It is closed by now, but was not when the service was asked.
    let mut refused = task::spawn(stuck.enter(|_, mut s| s.call(request("/ok"))));
    let error = assert_ready!(refused.poll()).map(|_| ()).expect_err("open");
    assert!(find::<CircuitOpen>(&*error).is_some());
}

#[tokio::test(start_paused = true)]
async fn one_broken_tool_is_left_alone_and_no_other() {
    let tools = ToolCircuits::new("up", &Tools::default());
    tools.set(Some(CircuitSettings {
        judge: Judge {
            tool_errors: true,
            ..Judge::default()
        },
        ..settings()
    }));
    let (handle, gate) = (CircuitHandle::new("up", "end"), Gate::new());
    let layer = CircuitLayer::with(&handle, Some(settings()));
    let service = service(&layer.gate(gate.clone()).tools(&tools));
    let send = async |path: &str, tool: &str| send(&service, tool_call(path, tool)).await;

    // A tool that never had a result may be made up.
    for _ in 0..20 {
        assert_eq!(send("/tool_error", "fake").await, Ok(StatusCode::OK));
    }
    assert!(tools.look().is_empty());
    assert_eq!(send("/result", "good").await, Ok(StatusCode::OK));
    assert_eq!(send("/result", "bad").await, Ok(StatusCode::OK));
    for _ in 0..2 {
        assert_eq!(send("/tool_error", "bad").await, Ok(StatusCode::OK));
    }
    let refused = send("/result", "bad").await.expect_err("open");
    assert_eq!(refused.map(|open| open.scope), Some(Scope::Tool));
    assert_eq!(send("/result", "good").await, Ok(StatusCode::OK));
    assert_eq!((state(&handle), gate.look()), (State::Closed, Look::Open));

    tokio::time::advance(2 * OPEN).await;
    assert_eq!(send("/result", "bad").await, Ok(StatusCode::OK));
    assert!(tools.look().iter().all(|(_, r)| r.state == State::Closed));
    assert!(tools.force("new", Some(Forced::Open)));
    assert!(matches!(send("/result", "new").await, Err(Some(_))));
    tools.set(None);
    assert_eq!(send("/result", "new").await, Ok(StatusCode::OK));
    assert!(!tools.force("new", Some(Forced::Open)));
}

/// Every way to call this tool, and only this one.
fn ways(path: &str, tool: &str) -> Vec<Request<Body>> {
    let call = format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    let unanswered = call.replace(r#""id":1,"#, "");
    let note = r#"{"method":"notifications/foo"}"#;
    let texts = [
        format!("[{call}]"),
        format!("[{unanswered}]"),
        format!("[{note},{call}]"),
        format!("[{call},{call}]"),
        call,
        unanswered,
    ];
    texts.iter().map(|text| message(path, text)).collect()
}

#[tokio::test(start_paused = true)]
async fn nobody_walks_around_the_breaker_of_a_tool() {
    let tools = ToolCircuits::new("up", &Tools::default());
    tools.set(Some(settings()));
    let service = service(&CircuitLayer::off().tools(&tools));
    // A failure of each counts.
    for at in 0..ways("/fails", "").len() {
        let tool = format!("tool_{at}");
        for _ in 0..2 {
            let call = ways("/fails", &tool).swap_remove(at);
            assert_eq!(send(&service, call).await, Err(None), "{tool}");
        }
        let refused = send(&service, tool_call("/result", &tool)).await;
        assert!(matches!(refused, Err(Some(_))), "{tool}");
    }
    assert!(tools.force("forced", Some(Forced::Open)));
    for (at, call) in ways("/result", "forced").into_iter().enumerate() {
        let refused = send(&service, call).await;
        assert!(matches!(refused, Err(Some(_))), "{at}");
    }
    let both =
        r#"[{"id":1,"method":"tools/call","params":{"name":"forced"}},{"id":2,"method":"ping"}]"#;
    let passed = send(&service, message("/result", both)).await;
    assert_eq!(passed, Ok(StatusCode::OK), "it is not the tool's alone");
}

#[tokio::test(start_paused = true)]
async fn what_has_no_answer_does_not_close_the_breaker_of_a_tool() {
    let tools = ToolCircuits::new("up", &Tools::default());
    tools.set(Some(settings()));
    let service = service(&CircuitLayer::off().tools(&tools));
    for _ in 0..2 {
        assert_eq!(send(&service, tool_call("/fails", "t")).await, Err(None));
    }
    tokio::time::advance(2 * OPEN).await;
    let state = || tools.look().first().map(|(_, report)| report.state);
    let unanswered = r#"{"method":"tools/call","params":{"name":"t"}}"#;
    for _ in 0..3 {
        let taken = send(&service, message("/ok", unanswered)).await;
        assert_eq!(
            (taken, state()),
            (Ok(StatusCode::OK), Some(State::HalfOpen))
        );
    }
    assert_eq!(
        send(&service, tool_call("/result", "t")).await,
        Ok(StatusCode::OK)
    );
    assert_eq!(state(), Some(State::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_tool_may_have_a_breaker_of_its_own_kind_or_none() {
    let tools = ToolCircuits::new("up", &Tools::default());
    let patient = CircuitSettings {
        consecutive: NonZeroU32::new(4),
        ..settings()
    };
    let rules = |own: CircuitSettings| [("flaky_*".into(), Some(own)), ("wild".into(), None)];
    tools.set(ByTool::new(Some(settings()), rules(patient.clone())));
    let service = service(&CircuitLayer::off().tools(&tools));
    let send = async |path: &str, tool: &str| send(&service, tool_call(path, tool)).await;
    // How many of these calls were let through.
    let fail = async |tool: &str| {
        let mut passed = 0;
        for _ in 0..9 {
            passed += u32::from(send("/fails", tool).await == Err(None));
        }
        passed
    };
    assert_eq!((fail("wild").await, fail("any").await), (9, 2));
    assert_eq!(fail("flaky_one").await, 4);
    assert_eq!(tools.look().len(), 2);
    assert!(!tools.force("wild", Some(Forced::Open)));

    // The breakers that stay keep their state, those that go forget it.
    tools.set(ByTool::new(None, rules(settings())));
    assert!(matches!(send("/result", "flaky_one").await, Err(Some(_))));
    assert_eq!((fail("flaky_two").await, fail("any").await), (2, 9));
    tools.set(ByTool::new(Some(settings()), []));
    assert!(matches!(send("/result", "flaky_one").await, Err(Some(_))));
    assert_eq!((fail("wild").await, fail("any").await), (2, 2));
    tools.set(None);
    assert!(tools.look().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_breakers_of_tools_are_bounded() {
    let tools = ToolCircuits::new("up", &Tools::default());
    tools.set(Some(CircuitSettings {
        consecutive: None,
        ..settings()
    }));
    let service = service(&CircuitLayer::off().tools(&tools));
    let send = async |path: &str, tool: &str| send(&service, tool_call(path, tool)).await;
    for n in 0..ToolCircuits::MAX {
        assert_eq!(send("/fails", &format!("fake{n}")).await, Err(None));
    }
    assert_eq!(tools.look().len(), ToolCircuits::MAX);
    // What may be made up makes room for what is not.
    assert_eq!(send("/result", "real").await, Ok(StatusCode::OK));
    assert_eq!(tools.look().len(), 1);
    assert_eq!(send("/result", &"x".repeat(129)).await, Ok(StatusCode::OK));
    assert_eq!(tools.look().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_was_taken_away_says_nothing_of_the_one_after_it() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let has = |line: &str| rendered.render().lines().any(|l| l == line);
    let state = |n| format!(r#"ziggurat_breaker_state{{scope="tool",name="up/t"}} {n}"#);
    ::metrics::with_local_recorder(&recorder, || {
        let tools = ToolCircuits::new("up", &Tools::default());
        let service = service(&CircuitLayer::off().tools(&tools));
        let call = |path: &str| {
            let call = service.clone().oneshot(tool_call(path, "t"));
            task::spawn(async move { call.await?.into_body().collect().await })
        };
        tools.set(Some(settings()));
        // The breaker is made for the first call that has a result; these know it before that, and after.
        assert!(tools.force("t", Some(Forced::Closed)));
        let (mut unproven, mut hangs) = (call("/result"), call("/hangs"));
        let (mut early, mut late) = (call("/stream"), call("/stream"));
        assert!(early.poll().is_pending());
        assert!(assert_ready!(unproven.poll()).is_ok());
        assert!(hangs.poll().is_pending() && late.poll().is_pending());
        assert!(has(&state(0)));

        tools.set(None);
        tools.set(Some(settings()));
        assert!(assert_ready!(call("/result").poll()).is_ok());
        assert!(tools.force("t", Some(Forced::Open)));
        assert!(has(&state(2)));
        drop((hangs, early, late, unproven));
        assert!(has(&state(2)), "it is open still");
        drop((service, tools));
        assert!(has(&state(0)));
    });
}

#[tokio::test(start_paused = true)]
async fn its_metrics_move() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let (handle, tools) = ::metrics::with_local_recorder(&recorder, || {
        let labels = Tools::default();
        (
            CircuitHandle::new("up", "end"),
            ToolCircuits::new("up", &labels),
        )
    });
    let layer = CircuitLayer::with(&handle, Some(settings())).tools(&tools);
    let service = service(&layer);
    let has = |line: &str| rendered.render().lines().any(|l| l == line);
    let state = |n| format!(r#"ziggurat_breaker_state{{scope="endpoint",name="up/end"}} {n}"#);
    let to = |state: &str, n| {
        let labels = format!(r#"scope="endpoint",name="up/end",to="{state}""#);
        format!("ziggurat_breaker_transitions_total{{{labels}}} {n}")
    };
    assert!(has(&state(0)));
    tokio::time::advance(open(&service).await).await;
    assert!(has(&state(2)) && has(&to("open", 1)));
    let mut probe = task::spawn(service.clone().oneshot(request("/hangs")));
    assert!(probe.poll().is_pending());
    assert!(has(&state(1)) && has(&to("half_open", 1)));
    drop(probe);
    assert_eq!(call(&service, "/ok").await, Ok(StatusCode::OK));
    assert!(has(&state(0)) && has(&to("closed", 1)));
    ::metrics::with_local_recorder(&recorder, || {
        tools.set(Some(settings()));
        let call = send(&service, tool_call("/result", "t"));
        let mut call = task::spawn(call);
        assert_eq!(assert_ready!(call.poll()), Ok(StatusCode::OK));
        assert!(tools.force("t", Some(Forced::Open)));
    });
    assert!(has(r#"ziggurat_breaker_state{scope="tool",name="up/t"} 2"#));
    handle.force(Some(Forced::Open));
    assert!(has(&state(2)));
    drop((service, layer, handle));
    assert!(has(&state(0)), "a breaker that is gone is not open");
}
