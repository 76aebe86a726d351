//! What a child says goes to whom it concerns, or to nobody.

use super::*;

/// A server whose tool `late` says something about the first call that is held.
const LATE: &str = r#"*'"name":"late"'*) log late; answer '{}' ;;"#;

#[tokio::test]
async fn a_log_of_a_cancelled_modern_call_does_not_reach_a_stranger() {
    let rig = Rig::new(LATE, |_| {});
    rig.modern_is_up().await;
    let call = rig.start(modern_tool(1, "hold", 0));
    rig.pending(1).await;
    call.abort();
    rig.pending(0).await;
    // The server may still be at the first call: whose message this is, nobody knows.
    let reply = rig.reply(modern_tool(1, "late", 0)).await;
    assert_eq!(reply.methods(), ["answer"]);
}

#[tokio::test]
async fn a_log_of_a_detached_call_does_not_reach_a_stranger_at_a_shared_child() {
    let rig = Rig::new(LATE, |s| s.isolation = Isolation::Shared);
    let (one, other) = (rig.open().await, rig.open().await);
    let call = rig.start(post(&one, tool(1, "hold", 0)));
    rig.pending(1).await;
    call.abort();
    let _gone = call.await;
    let reply = rig.reply(post(&other, tool(1, "late", 0))).await;
    assert_eq!(reply.methods(), ["answer"]);
}

#[tokio::test]
async fn with_one_call_in_flight_its_owner_is_certain() {
    for isolation in [Isolation::PerSession, Isolation::Shared] {
        let rig = Rig::new("", |s| s.isolation = isolation);
        let session = rig.open().await;
        let reply = rig.reply(post(&session, tool(1, "log", "m"))).await;
        assert_eq!(reply.methods(), ["notifications/message", "answer"]);
        let reply = rig.reply(modern_tool(1, "log", "m")).await;
        assert_eq!(reply.methods(), ["notifications/message", "answer"]);
    }
}

#[tokio::test]
async fn with_two_calls_in_flight_nothing_is_guessed() {
    let rig = Rig::plain();
    rig.modern_is_up().await;
    let held = rig.start(modern_tool(1, "hold", 0));
    rig.pending(1).await;
    let reply = rig.reply(modern_tool(1, "log", "m")).await;
    assert_eq!(reply.methods(), ["answer"]);
    held.abort();
}

#[tokio::test]
async fn a_log_never_comes_on_a_subscription() {
    // The second log finds nothing but the subscription.
    let arms = r#"*'"name":"after"'*) answer '{}'; log after ;;"#;
    let rig = Rig::new(arms, |_| {});
    let stream = rig.send(listen("sub")).await.expect("a stream");
    let reply = rig.reply(modern_tool(1, "log", "m")).await;
    assert_eq!(reply.methods(), ["notifications/message", "answer"]);
    let reply = rig.reply(modern_tool(2, "after", 0)).await;
    assert_eq!(reply.methods(), ["answer"]);
    drop(stream);
}

#[tokio::test]
async fn a_subscription_has_its_clients_id_everywhere() {
    let arms = r#"*'"name":"tell"'*)
        say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":$listen}}}"
        say "{\"jsonrpc\":\"2.0\",\"id\":$listen,\"result\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":$listen}}}"
        answer '{}' ;;"#;
    let rig = Rig::new(arms, |_| {});
    for id in [json!("sub"), json!(4)] {
        let stream = rig.send(listen(id.clone())).await.expect("a stream");
        rig.reply(modern_tool(1, "tell", 0)).await;
        let reply = read(stream).await;
        let key = "io.modelcontextprotocol/subscriptionId";
        assert_eq!(
            reply.methods(),
            [
                "notifications/subscriptions/acknowledged",
                "notifications/tools/list_changed",
                "answer"
            ]
        );
        assert_eq!(reply.messages[0]["params"]["_meta"][key], id);
        assert_eq!(reply.messages[1]["params"]["_meta"][key], id);
        assert_eq!(
            (&reply.last()["id"], &reply.last()["result"]["_meta"][key]),
            (&id, &id)
        );
    }
    assert_eq!(rig.upstream.report().pending, 0);
}

#[tokio::test]
async fn the_server_ends_a_subscription_by_cancelling_it() {
    let arms = r#"*'"name":"tell"'*) say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":$listen}}"; answer '{}' ;;"#;
    let rig = Rig::new(arms, |_| {});
    let stream = rig.send(listen(1)).await.expect("a stream");
    rig.reply(modern_tool(1, "tell", 0)).await;
    assert_eq!(
        read(stream).await.methods(),
        ["notifications/subscriptions/acknowledged"]
    );
    assert_eq!(rig.upstream.report().pending, 0);
}

#[tokio::test]
async fn a_modern_server_that_asks_is_not_answered() {
    let rig = Rig::new(r#"*'"name":"asks"'*) ask 1; answer '{}' ;;"#, |_| {});
    let reply = rig.reply(modern_tool(1, "asks", 0)).await;
    assert_eq!(reply.methods(), ["answer"]);
    let heard = rig.reply(modern_tool(1, "heard", 0)).await.heard();
    assert_eq!(heard, Vec::<Value>::new());
    let dropped = rig.metric("ziggurat_stdio_noise_total", "reason=\"nobody\"");
    assert_eq!(dropped, Some(1.0));
}

#[tokio::test]
async fn a_legacy_server_asks_on_the_calls_stream_and_gets_the_answer() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let stream = rig
        .send(post(&session, tool(1, "ask", 0)))
        .await
        .expect("a stream");
    let answer = json!({"jsonrpc": "2.0", "id": "ask-2", "result": {"roots": []}});
    rig.reply(post(&session, answer.clone())).await;
    let heard = rig.reply(post(&session, tool(5, "heard", 0))).await.heard();
    assert_eq!(heard, [answer]);
    rig.reply(post(&session, tool(5, "release", 0))).await;
    let reply = read(stream).await;
    assert_eq!(reply.methods(), ["roots/list", "answer"]);
    assert_eq!(reply.messages[0]["id"], "ask-2");
}
