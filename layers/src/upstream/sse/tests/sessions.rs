//! How sessions begin, stand and end.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_delete_with_its_stream_and_when_it_is_idle() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.idle = Duration::from_secs(60);
    });
    let id = begin(&upstream).await;
    let delete = request(Method::DELETE, Some(&id), &Value::Null);
    assert_eq!(
        upstream
            .clone()
            .oneshot(delete)
            .await
            .expect("an answer")
            .status(),
        200
    );
    let gone = post(&upstream, Some(&id), &message(1, "ping")).await;
    assert_eq!(gone.expect("the server's word").status(), 404);

    let id = begin(&upstream).await;
    let hang = message(1, "hang");
    let (ended, ()) = tokio::join!(post(&upstream, Some(&id), &hang), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.streams.lock().expect("not poisoned").clear();
    });
    assert_eq!(refusal(ended), SseError::Gone { sent: true });
    tokio::task::yield_now().await;
    assert_eq!(upstream.sessions(), 0);

    let id = begin(&upstream).await;
    let get = request(Method::GET, Some(&id), &Value::Null);
    let stream = upstream.clone().oneshot(get).await.expect("a stream");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(upstream.sessions(), 1, "somebody reads");
    drop(stream);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn handshakes_on_their_way_count_as_sessions() {
    let server = server(Kind::Mute);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.max_sessions = NonZeroUsize::MIN;
    });
    let hello = message(0, "initialize");
    let greet = async || refusal(post(&upstream, None, &hello).await);
    let (first, second) = tokio::join!(greet(), greet());
    let limit = Duration::from_secs(30);
    assert_eq!(first, SseError::NoEndpoint { limit });
    assert!(matches!(second, SseError::Full { limit: 1, .. }));
    // What was in vain has given its place back.
    assert_eq!(greet().await, SseError::NoEndpoint { limit });
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanished_in_a_call_keeps_no_session() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.idle = Duration::from_secs(60);
    });
    let id = begin(&upstream).await;
    let response = post(&upstream, Some(&id), &message(1, "hang")).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(upstream.sessions(), 1, "somebody waits");
    drop(response);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_reader_left_behind_comes_on_the_next_stream() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let open = async || {
        let get = request(Method::GET, Some(&id), &Value::Null);
        let response = upstream.clone().oneshot(get).await.expect("a stream");
        assert!(response.extensions().get::<Unresumable>().is_some());
        response
    };
    let left = open().await;
    for n in 0..3 {
        server.say(&json!({"jsonrpc": "2.0", "method": "tick", "params": {"n": n}}));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut body = left.into_body();
    for expected in [":\n\n", "\"n\":0"] {
        let frame = body.frame().await.expect("a frame").expect("no error");
        let data = frame.into_data().expect("data");
        assert!(
            data.windows(expected.len())
                .any(|w| w == expected.as_bytes())
        );
    }
    drop(body);
    let again = open().await;
    upstream.close().await;
    let all = text(again).await;
    let at = |n: u32| all.find(&format!("\"n\":{n}"));
    assert!(at(0).is_none() && at(1) < at(2) && at(1).is_some(), "{all}");
}

#[tokio::test(start_paused = true)]
async fn no_session_is_left_of_an_initialize_that_failed() {
    let refused = server(Kind::Old);
    let upstream_of = |server: &Server| upstream(server, |s| s.transport = Transport::Sse);
    let upstream = upstream_of(&refused);
    let mut refuse = message(0, "initialize");
    refuse["params"]["refuse"] = json!(true);
    let answer = post(&upstream, None, &refuse).await.expect("an answer");
    assert!(!answer.headers().contains_key(SESSION_ID));
    assert_eq!(upstream.sessions(), 0);

    let mute = upstream_of(&server(Kind::Mute));
    let limit = Duration::from_secs(30);
    assert_eq!(
        refusal(post(&mute, None, &message(0, "initialize")).await),
        SseError::NoEndpoint { limit }
    );
}

#[tokio::test(start_paused = true)]
async fn modern_requests_and_those_without_a_session_are_refused() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.max_sessions = NonZeroUsize::MIN;
    });
    let mut modern = message(1, "tools/list");
    modern["params"] = json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }});
    assert_eq!(
        refusal(post(&upstream, None, &modern).await),
        SseError::LegacyServer
    );
    assert_eq!(
        refusal(post(&upstream, None, &message(1, "ping")).await),
        SseError::SessionRequired
    );
    begin(&upstream).await;
    let full = refusal(post(&upstream, None, &message(0, "initialize")).await);
    assert!(matches!(full, SseError::Full { limit: 1, .. }));
    upstream.close().await;
    begin(&upstream).await;
}

#[tokio::test(start_paused = true)]
async fn a_404_to_an_initialize_is_no_session_that_is_gone() {
    let server = server(Kind::Deaf);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let refused = post(&upstream, None, &message(0, "initialize")).await;
    let status = StatusCode::NOT_FOUND;
    assert_eq!(refusal(refused), SseError::Refused { status });
    assert_eq!(upstream.sessions(), 0);
}
