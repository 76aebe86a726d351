//! Calls that end before their answer.

use super::*;

fn cancelled(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id.into(), "reason": "enough"}})
}

/// The cancellations that the server heard, on the session's child.
async fn heard(rig: &Rig, session: &str) -> Vec<Value> {
    rig.reply(post(session, tool("h", "heard", 0)))
        .await
        .heard()
}

#[tokio::test]
async fn a_client_cancels_its_own_call_under_the_wires_id() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let number = rig.start(post(&session, tool(1, "hold", 0)));
    let string = rig.start(post(&session, tool("1", "hold", 0)));
    rig.pending(2).await;
    rig.reply(post(&session, cancelled("1"))).await;
    let reply = string.await.expect("no panic").expect("a reply");
    assert!(reply.messages.is_empty() && reply.error.is_none());
    rig.pending(1).await;
    let heard = heard(&rig, &session).await;
    assert_eq!(
        (heard.len(), &heard[0]["params"]["reason"]),
        (1, &json!("enough"))
    );
    let wire = heard[0]["params"]["requestId"].as_u64().expect("a number");
    // Its late answer is dropped; the other's is not.
    rig.reply(post(&session, tool(2, "release", 0))).await;
    let reply = number.await.expect("no panic").expect("a reply");
    assert_eq!(reply.json()["id"], 1);
    assert!(wire > 1);
    // What is unknown is not passed on.
    rig.reply(post(&session, cancelled(77))).await;
    assert_eq!(self::heard(&rig, &session).await.len(), 1);
}

#[tokio::test]
async fn cancelling_one_call_of_a_batch_leaves_the_others() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let calls = [tool(1, "hold", 0), tool(2, "hold", 0)];
    let texts: Vec<String> = calls.into_iter().map(text).collect();
    let headers = [
        ("accept", BOTH),
        ("mcp-session-id", &*session),
        ("mcp-protocol-version", "2025-03-26"),
    ];
    let batch = rig.start(request(
        Method::POST,
        &headers,
        format!("[{}]", texts.join(",")),
    ));
    rig.pending(2).await;
    rig.reply(post(&session, cancelled(1))).await;
    rig.pending(1).await;
    rig.reply(post(&session, tool(3, "release", 0))).await;
    let reply = batch.await.expect("no panic").expect("a reply");
    assert_eq!((reply.messages.len(), &reply.last()["id"]), (1, &json!(2)));
}

#[tokio::test]
async fn a_legacy_client_that_goes_away_leaves_its_call_and_what_it_holds() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let held = std::sync::Arc::new(());
    let mut request = post(&session, tool(1, "hold", 0));
    request.extensions_mut().insert(held.clone());
    let call = rig.start(request);
    rig.pending(1).await;
    call.abort();
    let _gone = call.await;
    assert!(heard(&rig, &session).await.is_empty());
    assert_eq!(
        (
            rig.upstream.report().pending,
            std::sync::Arc::strong_count(&held)
        ),
        (1, 2)
    );
    rig.reply(post(&session, tool(2, "release", 0))).await;
    rig.pending(0).await;
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn a_detached_call_ends_with_its_deadline() {
    let rig = Rig::new("", |s| s.idle = Duration::from_millis(400));
    let session = rig.open().await;
    let mut request = post(&session, tool(1, "hold", 0));
    let soon = tokio::time::Instant::now() + Duration::from_millis(100);
    request
        .extensions_mut()
        .insert(crate::deadline::ExpiresAt(soon));
    let call = rig.start(request);
    rig.pending(1).await;
    call.abort();
    rig.pending(0).await;
    let heard = heard(&rig, &session).await;
    assert_eq!(heard[0]["params"]["reason"], "timeout");
}

#[tokio::test]
async fn a_modern_client_that_goes_away_cancels_its_call() {
    let rig = Rig::plain();
    rig.modern_is_up().await;
    let call = rig.start(modern_tool(1, "hold", 0));
    rig.pending(1).await;
    call.abort();
    rig.pending(0).await;
    let heard = rig.reply(modern_tool(2, "heard", 0)).await.heard();
    assert_eq!(heard[0]["method"], "notifications/cancelled");
}

#[tokio::test]
async fn a_call_given_up_for_a_reason_is_cancelled_in_both_eras() {
    let rig = Rig::plain();
    let session = rig.open().await;
    rig.modern_is_up().await;
    for (mut request, ask) in [
        (
            post(&session, tool(1, "hold", 0)),
            post(&session, tool(2, "heard", 0)),
        ),
        (modern_tool(1, "hold", 0), modern_tool(2, "heard", 0)),
    ] {
        given_up(&mut request, GiveUp::Timeout);
        let call = rig.start(request);
        rig.pending(1).await;
        call.abort();
        rig.pending(0).await;
        let heard = rig.reply(ask).await.heard();
        assert_eq!(heard[0]["params"]["reason"], "timeout");
    }
}

#[tokio::test]
async fn an_initialize_that_is_given_up_ends_its_child_and_is_never_cancelled() {
    let rig = Rig::new(r#"*'"method":"initialize"'*) note x asked ;;"#, |_| {});
    let mut request = initialize();
    given_up(&mut request, GiveUp::Timeout);
    let call = rig.start(request);
    rig.until("asked", |rig| rig.noted("asked").len() == 1)
        .await;
    call.abort();
    rig.until("ended", |rig| rig.noted("ends").len() == 1).await;
    assert!(rig.noted("heard").is_empty());
    assert!(rig.upstream.is_usable(), "it is no fault of the server");
}

#[tokio::test]
async fn delete_fails_what_is_in_flight_as_of_a_session_that_is_gone() {
    for isolation in [Isolation::PerSession, Isolation::Shared] {
        let rig = Rig::new("", |s| s.isolation = isolation);
        let session = rig.open().await;
        let call = rig.start(post(&session, tool(1, "hold", 0)));
        rig.pending(1).await;
        assert_eq!(rig.reply(delete(&session)).await.status, StatusCode::OK);
        let error = call.await.expect("no panic").expect_err("it has failed");
        assert!(matches!(stdio(&*error), StdioError::SessionGone), "{error}");
        let error = rig.error(post(&session, tool(1, "echo", 0))).await;
        assert!(matches!(error, StdioError::SessionGone));
    }
}
