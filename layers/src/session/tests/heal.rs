//! Sessions that their upstream lost.

use super::*;
use crate::{
    deadline::DeadlineExceeded,
    intercept::{Asked, InterceptLayer, InterceptSettings, Interceptor, Interest},
    limit::{LimitLayer, LimitSettings},
    rescue::AnswerMissing,
};

const LEVEL: &str =
    r#"{"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"debug"}}"#;
const SUBSCRIBE_A: &str =
    r#"{"jsonrpc":"2.0","id":4,"method":"resources/subscribe","params":{"uri":"x:a"}}"#;
const SUBSCRIBE_B: &str =
    r#"{"jsonrpc":"2.0","id":5,"method":"resources/subscribe","params":{"uri":"x:b"}}"#;
const UNSUBSCRIBE_A: &str =
    r#"{"jsonrpc":"2.0","id":6,"method":"resources/unsubscribe","params":{"uri":"x:a"}}"#;

/// Healing as by default, or otherwise.
pub(super) fn healing(heal: Heal) -> Rig {
    Rig::new(SessionSettings {
        heal,
        ..SessionSettings::default()
    })
}

impl Rig {
    /// Begins a session, in which these things are said, and lets the server forget it.
    pub(super) async fn lose(&self, said: &[&'static str]) -> String {
        let id = self.initialize().await;
        for body in said {
            let status = self.try_send(Method::POST, &id, body).await;
            assert!(matches!(status, Ok(200)), "{status:?}");
        }
        let mut script = self.server.script();
        script.known.clear();
        script.seen.clear();
        script.bodies.clear();
        id
    }

    pub(super) fn bodies(&self) -> Vec<String> {
        self.server.seen();
        std::mem::take(&mut self.server.script().bodies)
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_begun_anew_as_it_was() {
    let rig = healing(Heal::Safe);
    let said = [NOTE, LEVEL, SUBSCRIBE_A, SUBSCRIBE_B, UNSUBSCRIBE_A, PING];
    let id = rig.lose(&said).await;
    let response = rig.send(rig.request(Method::POST, Some(&id), PING)).await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(session_of(&response), Some(id.clone()));
    let seen = rig.server.script().seen.clone();
    let sessions: Vec<_> = seen.iter().map(|s| s.session.as_deref()).collect();
    let (old, new) = (Some("up-1"), Some("up-2"));
    assert_eq!(sessions, [old, None, new, new, new, new]);
    assert!(
        seen.iter()
            .all(|s| s.pinned.is_some() == s.session.is_some())
    );
    let expected = [PING, INITIALIZE, NOTE, LEVEL, SUBSCRIBE_B, PING];
    assert_eq!(rig.bodies(), expected);
    assert_eq!(rig.list().await[0].healed, 1);
    assert_eq!(rig.ping(&id).await, Ok(200));
    assert_eq!(rig.server.seen()[0].session.as_deref(), new);
}

/// It looks at each request.
#[derive(Debug)]
struct Curious;

impl Interceptor for Curious {
    fn name(&self) -> &str {
        "curious"
    }

    fn wants(&self, _: &Asked<'_>) -> Interest {
        Interest {
            request: true,
            ..Interest::default()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_says_of_its_request_is_not_said_of_the_handshake() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[NOTE, LEVEL]).await;
    let server = rig.server.clone();
    let leaf = service_fn(move |request: Request<Body>| {
        let answer = server.answer(&request);
        async move { answer }
    });
    let curious = InterceptLayer::new(InterceptSettings::default(), vec![Arc::new(Curious)]);
    let mut request = rig.request(Method::POST, Some(&id), CALL);
    for (name, value) in [
        ("mcp-method", "tools/call"),
        ("mcp-name", "pay"),
        ("mcp-param-currency", "EUR"),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let service = rig.layer.layer(curious.layer(leaf));
    let response = service.oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let messages = [CALL, INITIALIZE, NOTE, LEVEL, CALL];
    assert_eq!(rig.bodies(), messages);
}

#[tokio::test(start_paused = true)]
async fn a_session_in_which_something_was_done_is_healed_only_if_that_is_wanted() {
    for (heal, stateless, healed) in [
        (Heal::Safe, false, false),
        (Heal::Safe, true, true),
        (Heal::Always, false, true),
        (Heal::Never, true, false),
    ] {
        let rig = Rig::new(SessionSettings {
            heal,
            stateless,
            ..SessionSettings::default()
        });
        let id = rig.lose(&[NOTE, CALL, PING]).await;
        let expected = if healed { 200 } else { 404 };
        assert_eq!(rig.ping(&id).await, Ok(expected), "{heal:?}");
        assert_eq!(rig.list().await.len(), usize::from(healed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_rejected_is_sent_again_once_and_counts_from_then_on() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[PING]).await;
    assert_eq!(rig.try_send(Method::POST, &id, CALL).await, Ok(200));
    assert_eq!(rig.bodies(), [CALL, INITIALIZE, CALL]);
    rig.server.script().known.clear();
    assert_eq!(rig.ping(&id).await, Ok(404));
    assert_eq!(rig.bodies(), [PING], "not begun anew a second time");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_never_sent_did_nothing() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[PING]).await;
    rig.server.script().down = true;
    let down = rig.try_send(Method::POST, &id, CALL).await;
    assert!(matches!(down, Err(Fault::NoEndpoint(..))));
    rig.server.script().down = false;
    assert_eq!(rig.ping(&id).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_still_out_keeps_a_session_from_being_healed() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[]).await;
    let service = rig.layer.layer(service_fn(|_: Request<Body>| {
        std::future::pending::<std::result::Result<Response<Body>, BoxError>>()
    }));
    let request = rig.request(Method::POST, Some(&id), CALL);
    let mut out = tokio_test::task::spawn(service.oneshot(request));
    tokio_test::assert_pending!(out.poll());
    assert_eq!(rig.ping(&id).await, Ok(404));
}

#[tokio::test(start_paused = true)]
async fn requests_that_find_out_together_begin_one_session() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[NOTE]).await;
    let pings = futures_util::future::join_all((0..20).map(|_| rig.ping(&id))).await;
    assert!(pings.iter().all(|ping| *ping == Ok(200)));
    assert_eq!(rig.server.script().begun, 2);
    assert_eq!(rig.bodies().iter().filter(|b| *b == PING).count(), 40);
    assert_eq!(rig.list().await[0].healed, 1);
}

#[tokio::test(start_paused = true)]
async fn requests_that_find_out_together_fail_together() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[NOTE]).await;
    rig.server.script().sessionless = true;
    let pings = futures_util::future::join_all((0..20).map(|_| rig.ping(&id))).await;
    assert!(pings.iter().all(|ping| *ping == GONE), "{pings:?}");
    let tries = rig.bodies().iter().filter(|b| *b == INITIALIZE).count();
    assert_eq!(tries, 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_begun_anew_is_gone() {
    let refused: fn(&mut Script) = |script| script.statuses = vec![500, 404];
    let sessionless: fn(&mut Script) = |script| script.sessionless = true;
    for prepare in [refused, sessionless] {
        let rig = healing(Heal::Safe);
        let id = rig.lose(&[NOTE, PING]).await;
        prepare(&mut rig.server.script());
        assert_eq!(rig.ping(&id).await, GONE);
        assert_eq!(rig.list().await, []);
        assert_eq!(rig.bodies(), [PING, INITIALIZE]);
    }
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[PING]).await;
    let rig = rig.restarted(rig.keys.clone());
    assert_eq!(rig.ping(&id).await, Ok(404), "nothing is known of it");
    assert_eq!(rig.bodies(), [PING]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_another_revision_now_is_left_and_told_so() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[NOTE]).await;
    rig.server.script().revision = Some("2025-06-18");
    let mut request = rig.request(Method::POST, Some(&id), PING);
    let mut headers = request.headers().clone();
    headers.insert(
        "mcp-protocol-version",
        HeaderValue::from_static("2025-11-25"),
    );
    *request.headers_mut() = headers.clone();
    let exchange = Arc::new(Exchange::new("x"));
    let old = Exchange::get(&request).expect("an exchange");
    exchange.set_route(old.route().expect("a route").clone());
    let body = Bytes::from_static(PING.as_bytes());
    exchange.set_call(CallFacts::read(&Method::POST, &headers, &body).expect("a call"));
    request.extensions_mut().insert(exchange);
    let gone = rig.send(request).await.expect_err("it is gone");
    assert_eq!(Fault::of(&*gone), Fault::SessionGone);
    let last = rig.server.seen().pop().expect("a request");
    let expected = (Method::DELETE, Some("up-2".to_owned()));
    assert_eq!((last.method, last.session), expected);
}

#[tokio::test(start_paused = true)]
async fn while_the_upstream_is_down_the_session_waits() {
    let rig = healing(Heal::Safe);
    let id = rig.initialize().await;
    rig.server.script().known.clear();
    let service = rig.layer.layer(service_fn(|request: Request<Body>| {
        let pinned = request.extensions().get::<Pinned>().is_some();
        let none = NoEndpoint {
            retry_after: None,
            reasons: Vec::new(),
        };
        std::future::ready(Err::<Response<Body>, BoxError>(if pinned {
            PinnedGone.into()
        } else {
            none.into()
        }))
    }));
    let ping = rig.request(Method::POST, Some(&id), PING);
    let error = service.oneshot(ping).await.expect_err("nobody is there");
    assert!(error.is::<NoEndpoint>(), "{error}");
    assert_eq!(rig.ping(&id).await, Ok(200));
    assert_eq!(rig.list().await[0].healed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_in_the_middle_of_a_heal_costs_no_session() {
    for lost in [INITIALIZE, NOTE] {
        let rig = healing(Heal::Safe);
        let id = rig.lose(&[NOTE]).await;
        let server = rig.server.clone();
        let service = rig.layer.layer(service_fn(move |request: Request<Body>| {
            let body = request.body().bytes().cloned().unwrap_or_default();
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let dies: serde_json::Value = serde_json::from_str(lost).expect("JSON");
            std::future::ready(if said["method"] == dies["method"] {
                Err(AnswerMissing.into())
            } else {
                server.answer(&request)
            })
        }));
        let ping = rig.request(Method::POST, Some(&id), PING);
        let error = service.oneshot(ping).await.expect_err("it broke off");
        assert!(error.is::<AnswerMissing>(), "{error}");
        assert_eq!(rig.ping(&id).await, Ok(200), "another try has more luck");
        assert_eq!(rig.list().await[0].healed, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_the_old_session_end_and_are_opened_at_the_new_one() {
    let rig = healing(Heal::Safe);
    let id = rig.initialize().await;
    let mut stream = tokio_test::task::spawn(rig.stream(&id).await);
    tokio_test::assert_pending!(stream.enter(|cx, body| body.poll_frame(cx)));
    rig.server.script().known.clear();
    assert_eq!(rig.ping(&id).await, Ok(200));
    let end = stream.enter(|cx, body| body.poll_frame(cx));
    assert!(matches!(end, Poll::Ready(None)));

    rig.server.script().known.clear();
    let mut request = rig.request(Method::GET, Some(&id), "");
    let last = HeaderValue::from_static("7");
    request.headers_mut().insert("last-event-id", last.clone());
    let response = rig.send(request).await.expect("a stream");
    assert_eq!(response.status(), 200);
    let mut stream = tokio_test::task::spawn(response.into_body());
    tokio_test::assert_pending!(stream.enter(|cx, body| body.poll_frame(cx)));
    let told = rig.server.script().last_event_ids.clone();
    assert_eq!(told, [last], "only the server that knew it");
}

#[test]
fn what_is_kept_of_a_session_has_a_bound() {
    let mut history = History::new(Some(Bytes::from_static(INITIALIZE.as_bytes())));
    history.note(Note::Risky);
    let request = Bytes::from(vec![b'x'; 1000]);
    for number in 0..40 {
        history.note(Note::Subscribed(number.to_string().into(), request.clone()));
    }
    let risky = |risky| History {
        risky,
        ..History::default()
    };
    assert_eq!(history, risky(1), "nothing after the overflow either");
    let long = Bytes::from(vec![b'x'; History::MAX + 1]);
    assert_eq!(History::new(Some(long)), risky(0));
}

#[test]
fn without_an_initialize_only_what_is_counted_is_kept() {
    let mut history = History::default();
    let request = Bytes::from_static(LEVEL.as_bytes());
    history.note(Note::Level(request.clone()));
    history.note(Note::Subscribed("x:a".into(), request));
    assert_eq!(history, History::default());
    for note in [
        Note::Risky,
        Note::Risky,
        Note::Rejected,
        Note::Streamed,
        Note::Initialized,
    ] {
        history.note(note);
    }
    let (risky, streamed, initialized) = (1, true, true);
    let expected = History {
        risky,
        streamed,
        initialized,
        ..History::default()
    };
    assert_eq!(history, expected);
}

#[tokio::test(start_paused = true)]
async fn an_initialize_is_kept_only_where_it_may_be_said_again() {
    for (heal, kept) in [
        (Heal::Safe, true),
        (Heal::Always, true),
        (Heal::Never, false),
    ] {
        let rig = healing(heal);
        let id = rig.initialize().await;
        let principal = None;
        let bound = seal::Bound {
            route: rig.route,
            principal,
        };
        let serial = rig.keys.open(&id, bound).expect("a ticket").serial;
        let key = SessionKey {
            route: rig.route.into(),
            serial,
        };
        let (_, history) = rig.store.recall(&key).await.expect("a session");
        let initialize = kept.then_some(Bytes::from_static(INITIALIZE.as_bytes()));
        assert_eq!(history.initialize, initialize, "{heal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_holds_no_place_by_the_refusal_of_its_own() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[NOTE]).await;
    let server = rig.server.clone();
    let slow = service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            server.answer(&request)
        }
    });
    let calls = NonZeroUsize::new(1);
    let streams = None;
    let one = LimitLayer::new(LimitSettings { calls, streams });
    let service = rig.layer.layer(one.layer(slow));
    // A notification needs no place. It begins the session anew until 30 ms; the place is free while that says its own notification.
    let note = service
        .clone()
        .oneshot(rig.request(Method::POST, Some(&id), NOTE));
    let ping = async {
        tokio::time::sleep(Duration::from_millis(25)).await;
        service
            .clone()
            .oneshot(rig.request(Method::POST, Some(&id), PING))
            .await
    };
    let (note, ping) = tokio::join!(note, ping);
    assert_eq!(note.expect("an answer").status(), 200);
    assert_eq!(ping.expect("an answer").status(), 200);
    let expected = [NOTE, INITIALIZE, NOTE, PING, NOTE, PING];
    assert_eq!(rig.bodies(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_the_heal_of_another_has_an_end() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[]).await;
    let server = rig.server.clone();
    let service = rig.layer.layer(service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let begins = request.headers().get(SESSION_ID).is_none();
            if begins {
                tokio::time::sleep(Duration::from_secs(25)).await;
                server.script().down = true;
            }
            let result = server.answer(&request);
            server.script().down = false;
            result
        }
    }));
    let start = tokio::time::Instant::now();
    let ask = |due: Option<u64>| {
        let request = rig.request(Method::POST, Some(&id), PING);
        if let Some(due) = due {
            let exchange = Exchange::get(&request).expect("an exchange");
            exchange.set_due(start + Duration::from_secs(due));
        }
        let service = service.clone();
        async move {
            let error = service.oneshot(request).await.err();
            (error.expect("an error"), start.elapsed())
        }
    };
    let (first, second, third, fourth) =
        tokio::join!(ask(None), ask(Some(60)), ask(None), ask(Some(5)));
    for ((error, after), expected) in [(first, 25), (second, 50)] {
        assert!(error.is::<NoEndpoint>(), "{error}");
        assert_eq!(after.as_secs(), expected);
    }
    for ((error, after), seconds) in [(third, 30), (fourth, 5)] {
        let (limit, sent) = (Duration::from_secs(seconds), false);
        assert_eq!(after.as_secs(), seconds);
        let error: DeadlineExceeded = *error.downcast().expect("that it took too long");
        assert_eq!(error, DeadlineExceeded { limit, sent });
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_under_an_id_that_cannot_be_sent_is_none() {
    for bad in ["", "up 2"] {
        let rig = healing(Heal::Safe);
        let id = rig.lose(&[PING]).await;
        rig.server.script().next_id = Some(bad);
        assert_eq!(rig.ping(&id).await, GONE, "{bad:?}");
        assert_eq!(rig.list().await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_for_which_the_service_was_not_ready_did_nothing() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[]).await;
    // The future is made while the service is ready, as for the first request of a connection.
    let service = rig.layer.layer(Unready);
    let request = rig.request(Method::POST, Some(&id), CALL);
    let mut service = service;
    let error = service
        .call(request)
        .await
        .map(|_| ())
        .expect_err("not ready");
    assert_eq!(error.to_string(), "not ready");
    assert_eq!(rig.ping(&id).await, Ok(200), "healed");
}

/// A service that is never ready.
#[derive(Clone)]
struct Unready;

impl Service<Request<Body>> for Unready {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = std::future::Pending<std::result::Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Err("not ready".into()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        std::future::pending()
    }
}

#[test]
fn each_heal_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let rig = healing(Heal::Safe);
            let id = rig.lose(&[PING]).await;
            assert_eq!(rig.ping(&id).await, Ok(200));
            let id = rig.lose(&[CALL]).await;
            assert_eq!(rig.ping(&id).await, Ok(404));
            let id = rig.lose(&[PING]).await;
            rig.server.script().sessionless = true;
            assert_eq!(rig.ping(&id).await, GONE);
            let id = {
                rig.server.script().sessionless = false;
                rig.lose(&[PING]).await
            };
            let rig = rig.restarted(rig.keys.clone());
            assert_eq!(rig.ping(&id).await, Ok(404));
        });
    });
    let text = handle.render();
    for outcome in ["healed", "unsafe", "failed", "unknown"] {
        let series =
            format!(r#"ziggurat_reinitialize_total{{upstream="tools",outcome="{outcome}"}} 1"#);
        assert!(text.contains(&series), "{series}\n{text}");
    }
}
