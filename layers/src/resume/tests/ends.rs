//! When it is over, and how that is told.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_without_ids_and_one_of_the_modern_era_fail_at_once() {
    let anonymous = "data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n";
    let modern = Bytes::from_static(
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
    );
    for (request, first) in [
        (call("2025-06-18"), anonymous),
        (mcp(Method::POST, "2026-07-28", modern), ONE),
    ] {
        let server = Server::new([Act::Cut(vec![first])]);
        let (text, ended) = whole(&server, request).await;
        assert_eq!((&*text, ended), (first, Ended::Cut));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_without_the_answer_is_told_if_nothing_can_be_resumed() {
    let anonymous = "data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n";
    for acts in [
        vec![Act::End(vec![anonymous])],
        vec![Act::End(vec![])],
        vec![Act::End(vec![ONE]), Act::Answer(400, "application/json")],
        vec![Act::End(vec![ONE]), Act::Down],
    ] {
        let server = Server::new(acts.clone());
        let request = call("2025-06-18");
        let exchange = Exchange::get(&request).expect("one").clone();
        let (_, ended) = whole(&server, request).await;
        assert_eq!(ended, Ended::Well);
        assert!(exchange.is_left_unanswered(), "{acts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_that_there_is_nothing_ends_it_at_once() {
    for (status, media) in [
        (400, "application/json"),
        (401, "text/plain"),
        (404, "application/json"),
        (405, "text/plain"),
        (406, "text/plain"),
        (200, "application/json"),
        (204, ""),
        (302, ""),
        (501, ""),
    ] {
        for request in [call("2025-06-18"), plain()] {
            let server = Server::new([Act::Cut(vec![ONE]), Act::Answer(status, media)]);
            let (text, ended) = whole(&server, request).await;
            assert_eq!((&*text, ended), (ONE, Ended::Cut), "{status}");
            assert_eq!(server.seen().len(), 2, "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again() {
    for act in [
        Act::Down,
        Act::Answer(500, "text/plain"),
        Act::Answer(503, "text/plain"),
        Act::Answer(409, "application/json"),
        Act::Answer(429, "application/json"),
    ] {
        for request in [call("2025-06-18"), stream(), plain()] {
            let acts = [Act::Cut(vec![ONE]), act.clone(), act.clone()];
            let server = Server::new(acts.into_iter().chain([Act::End(vec![ANSWER])]));
            let (text, ended) = whole(&server, request).await;
            assert_eq!(
                (text, ended),
                ([ONE, ANSWER].concat(), Ended::Well),
                "{act:?}"
            );
            assert_eq!(server.cursors(), ["1", "1", "1"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_session_is_gone_just_ends() {
    let server = Server::new([Act::Cut(vec![ONE]), Act::Answer(404, "application/json")]);
    assert_eq!(whole(&server, stream()).await, (ONE.into(), Ended::Well));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_given_up_in_time() {
    for (request, limit) in [(call("2025-06-18"), 30), (stream(), 300), (plain(), 300)] {
        for act in [Act::Down, Act::Never, Act::Answer(502, "")] {
            let server = Server::new([Act::Cut(vec![ONE]), act.clone()]);
            let began = Instant::now();
            let request = Request::from_parts(request_parts(&request), Body::empty());
            let (text, ended) = whole(&server, request).await;
            assert_eq!((&*text, ended), (ONE, Ended::Cut), "{act:?}");
            assert!(began.elapsed() <= Duration::from_secs(limit + 2), "{act:?}");
        }
    }
}

/// The head of a request, with an exchange of its own.
fn request_parts(request: &Request<Body>) -> http::request::Parts {
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    let call = Exchange::get(request).and_then(|e| e.call().cloned());
    if let Some(call) = call {
        Exchange::of(&mut again).set_call(call);
    }
    again.into_parts().0
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_each_connection_at_once_is_given_up() {
    let server = Server::new([Act::Cut(vec![ONE]), Act::Cut(vec![":\n\n"])]);
    let (_, ended) = whole(&server, call("2025-06-18")).await;
    assert_eq!(ended, Ended::Cut);
    assert!((4..=11).contains(&server.seen().len()));
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_and_what_is_torn_is_not_resumed() {
    let server = Server::new([Act::Cut(vec![ONE])]);
    let request = call("2025-06-18");
    let exchange = Exchange::get(&request).expect("one").clone();
    exchange.give_up(GiveUp::Operator);
    assert_eq!(whole(&server, request).await.1, Ended::Cut);
    assert_eq!(server.seen().len(), 1);

    let long: &'static str = Box::leak(format!("data: {}", "x".repeat(2 << 20)).into_boxed_str());
    let server = Server::new([Act::Cut(vec![ONE, long])]);
    let request = call("2025-06-18");
    let exchange = Exchange::get(&request).expect("one").clone();
    assert_eq!(whole(&server, request).await.1, Ended::Cut);
    assert_eq!(server.seen().len(), 1);
    assert!(!exchange.response().at_boundary());

    // Nor if it just ends there: the half that passed stays a half.
    for rest in ["", "xx"] {
        let acts = [Act::End(vec![ONE, long, rest]), Act::End(vec![ANSWER])];
        let server = Server::new(acts);
        let request = call("2025-06-18");
        let exchange = Exchange::get(&request).expect("one").clone();
        let (text, ended) = whole(&server, request).await;
        assert!(text == [ONE, long, rest].concat() && ended == Ended::Well);
        assert_eq!(server.seen().len(), 1);
        assert!(!exchange.response().at_boundary() && exchange.is_left_unanswered());
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_that_was_left_out_is_no_half_for_who_speaks_meanwhile() {
    let half = "id: 2\ndata: {\"jso";
    let later = "id: 1\nretry: 5000\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"one\"}\n\n";
    let server = Server::new([Act::End(vec![later, half]), Act::End(vec![ANSWER])]);
    let request = call("2025-06-18");
    let exchange = Exchange::get(&request).expect("one").clone();
    let mut body = open(&server, request).await;
    let _first = body.frame().await.expect("a frame").expect("no error");
    let pause = tokio::time::timeout(Duration::from_secs(1), body.frame());
    assert!(pause.await.is_err());
    assert!(exchange.response().at_boundary(), "a heartbeat may pass");
    assert_eq!(read(body).await, (ANSWER.into(), Ended::Well));
    // Where there is no time for a try, the error may be an event.
    let server = Server::new([Act::End(vec![later, half])]);
    let request = call("2025-06-18");
    let exchange = Exchange::get(&request).expect("one").clone();
    let service = server.behind(ResumeSettings {
        limit: Duration::from_secs(1),
        ..ResumeSettings::default()
    });
    let response = service.oneshot(request).await.expect("a head");
    let (text, ended) = read(response.into_body()).await;
    assert_eq!((&*text, ended), (later, Ended::Well));
    assert!(exchange.is_left_unanswered() && exchange.response().at_boundary());
}

#[tokio::test(start_paused = true)]
async fn off_is_off() {
    let server = Server::new([Act::Cut(vec![ONE])]);
    let inner = server.clone();
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new("u", None))
        .layer(ObserveLayer::new("u"))
        .service(service_fn(move |request: Request<Body>| {
            let act = inner.takes(&request);
            async move { act.answer().await }
        }));
    let response = service.oneshot(call("2025-06-18")).await.expect("a head");
    let body = Body::new(response.into_body());
    assert_eq!(read(body).await.1, Ended::Cut);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_during_a_pause_is_told_below_whose_panic_harms_nobody() {
    let later = "id: 1\nretry: 5000\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"one\"}\n\n";
    for panics in [false, true] {
        let server = Server::new([Act::Cut(vec![later]), Act::Never]);
        let inner = server.clone();
        let service = ServiceBuilder::new()
            .layer(ResumeLayer::new("u", Some(ResumeSettings::default())))
            .layer(ObserveLayer::new("u"))
            .service(service_fn(move |request: Request<Body>| {
                let act = inner.takes(&request);
                assert!(!panics || request.method() != Method::GET, "as it shall");
                async move { act.answer().await }
            }));
        let request = call("2025-06-18");
        let exchange = Exchange::get(&request).expect("one").clone();
        let response = service.oneshot(request).await.expect("a head");
        let mut body = Body::new(response.into_body());
        let _first = body.frame().await.expect("a frame").expect("no error");
        let pause = tokio::time::timeout(Duration::from_secs(1), body.frame());
        assert!(pause.await.is_err());
        assert_eq!(server.seen().len(), 1);
        exchange.give_up(GiveUp::Operator);
        drop(body);
        assert_eq!(
            server.cursors(),
            ["1"],
            "it is asked for the rest, and no more"
        );
    }
}
