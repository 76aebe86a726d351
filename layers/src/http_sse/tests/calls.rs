//! What becomes of calls.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_old_client_speaks_streamable_http_inside() {
    let rig = rig(HttpSseSettings::default(), lonely(405));
    let mut client = rig.open().await;
    assert!(
        client
            .endpoint
            .starts_with("http://h/mcp?k=v&ziggurat-channel=")
    );
    client.greet().await;
    assert_eq!(client.post(request(1, "progress")).await, 202);
    assert_eq!(client.message().await["method"], "notifications/progress");
    assert_eq!(
        client.message().await,
        json!({"jsonrpc": "2.0", "id": 1, "result": {"done": true}})
    );
    let seen: Vec<_> = rig
        .server
        .seen()
        .into_iter()
        .filter(|s| s.method == Method::POST)
        .collect();
    assert_eq!((&*seen[0].session, &*seen[0].version), ("", ""));
    for later in &seen[1..] {
        assert_eq!((&*later.session, &*later.version), ("s1", "2024-11-05"));
        assert_eq!(later.uri, "http://h/mcp?k=v", "the token stays here");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_over_with_its_answer_whatever_becomes_of_its_stream() {
    let settings = HttpSseSettings {
        calls: NonZeroUsize::MIN,
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    for (id, method) in [
        (1, "break after the answer"),
        (2, "stay after the answer"),
        (3, "ping"),
    ] {
        assert_eq!(client.post(request(id, method)).await, 202);
        let done = json!({"jsonrpc": "2.0", "id": id, "result": {}});
        assert_eq!(client.message().await, done);
        sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_an_error_on_the_stream() {
    let rig = rig(HttpSseSettings::default(), lonely(406));
    let mut client = rig.open().await;
    client.greet().await;
    for (id, method, kind) in [
        (1, "fail", "overloaded"),
        (2, "refuse", "upstream_status"),
        (3, "silent", "upstream_broken"),
    ] {
        assert_eq!(client.post(request(id, method)).await, 202);
        let message = client.message().await;
        assert_eq!(message["id"], id);
        assert_eq!(message["error"]["data"]["kind"], kind, "{message}");
    }
    // The end of the session is the end of the stream.
    assert_eq!(client.post(request(4, "lost")).await, 202);
    assert_eq!(client.message().await["error"]["code"], 404);
    assert_eq!(client.event().await, None);
    assert!(rig.channels.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_cancelled_has_no_answer() {
    let rig = observed(lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "ends later")).await, 202);
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1},
    });
    assert_eq!(client.post(cancel).await, 202);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(client.post(request(2, "ping")).await, 202);
    assert_eq!(client.message().await["id"], 2);
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_batch_is_answered_or_fails() {
    let settings = HttpSseSettings {
        calls: NonZeroUsize::new(2).expect("not zero"),
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let mut client = rig.open().await;
    let done = |id: u32| json!({"jsonrpc": "2.0", "id": id, "result": {}});
    for (method, answers, kind) in [
        ("ping", json!([done(1), done(2)]), None),
        ("half", json!([done(1)]), Some("upstream_broken")),
        ("silent", json!([]), Some("upstream_broken")),
        ("refuse", json!([]), Some("upstream_status")),
    ] {
        let batch = json!([request(1, method), request(2, "ping")]);
        assert_eq!(client.post(batch).await, 202);
        let answered = answers.as_array().expect("a list").len();
        if answered > 0 {
            assert_eq!(client.message().await, answers);
        }
        for id in answered + 1..3 {
            let message = client.message().await;
            assert_eq!(message["id"], id);
            let said = &message["error"]["data"]["kind"];
            assert_eq!(said.as_str(), kind, "{message}");
        }
    }
    // An answer that comes twice takes the place of no other.
    let twice = json!([request(1, "first twice"), request(2, "ping")]);
    assert_eq!(client.post(twice).await, 202);
    for id in [1, 1, 2] {
        assert_eq!(client.message().await, done(id));
    }
    // It counts as the calls that it is.
    let hangs = json!([request(1, "hang")]);
    assert_eq!(client.post(hangs).await, 202);
    let over = json!([request(2, "ping"), request(3, "ping")]);
    assert_eq!(client.post(over).await, 202);
    for id in [2, 3] {
        let message = client.message().await;
        assert_eq!(message["id"], id);
        assert_eq!(message["error"]["data"]["kind"], "overloaded", "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_bound_fail_and_a_slow_reader_loses_its_stream() {
    let settings = HttpSseSettings {
        calls: NonZeroUsize::MIN,
        buffer: 1500,
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "big")).await, 202);
    assert_eq!(client.message().await["id"], 1);
    assert_eq!(client.post(request(2, "hang")).await, 202);
    let mut over = post(&client.endpoint, &request(3, "ping"));
    let exchange = Exchange::of(&mut over);
    assert_eq!(rig.send(over).await.expect("an answer").status(), 202);
    assert_eq!(
        client.message().await["error"]["data"]["kind"],
        "overloaded"
    );
    // It never got an exchange of its own, so this one accounts for it.
    assert!(!exchange.is_handed_over());
    assert_eq!(exchange.fault(), Some("overloaded"));

    let mut slow = rig.open().await;
    for id in 1..3 {
        assert_eq!(slow.post(request(id, "big")).await, 202);
        sleep(Duration::from_millis(1)).await;
    }
    let end = slow
        .body
        .frame()
        .await
        .expect("an end")
        .expect_err("an error");
    assert_eq!(crate::error::find(&*end), Some(&SlowReader { limit: 1500 }));
    assert_eq!(rig.channels.len(), 1);
}
