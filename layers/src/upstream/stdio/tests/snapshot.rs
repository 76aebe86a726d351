//! Sessions that begin with what the command has answered before.

use super::*;

/// A server whose `initialize` waits for a gate once there is a file `slow`, and then does this.
fn rig(then: &str, change: impl FnOnce(&mut StdioSettings)) -> Rig {
    let usual = r#"answer '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}'"#;
    let then = if then.is_empty() { usual } else { then };
    let arms = format!(
        r#"*'"method":"initialize"'*) note x asked; if [ -e "$DIR/slow" ]; then await gate; {then}; else {usual}; fi ;;"#
    );
    Rig::new(&arms, |s| {
        s.snapshot = true;
        change(s);
    })
}

async fn slow(rig: &Rig) {
    rig.open().await;
    rig.gate("slow");
}

fn counted(rig: &Rig, outcome: &str) -> Option<f64> {
    let labels = format!("outcome=\"{outcome}\"");
    rig.metric("ziggurat_stdio_snapshots_total", &labels)
}

#[tokio::test]
async fn a_session_begins_at_once_and_its_calls_wait_for_its_child() {
    let rig = rig("", |_| {});
    let first = rig.reply(initialize()).await;
    rig.gate("slow");
    let reply = rig.reply(initialize()).await;
    assert_eq!(reply.json(), first.json());
    let id = reply.headers["mcp-session-id"].to_str().expect("text");
    assert_ne!(
        reply.headers["mcp-session-id"],
        first.headers["mcp-session-id"]
    );
    let stream = rig.send(get(id)).await.expect("a stream");
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let ready = rig.start(post(id, ready));
    let call = rig.start(post(id, tool(1, "heard", 0)));
    rig.until("it is asked", |rig| rig.noted("asked").len() == 2)
        .await;
    assert!(!call.is_finished() && !ready.is_finished());
    assert_eq!(rig.noted("starts").len(), 2);
    rig.gate("gate");
    ready.await.expect("no panic").expect("a reply");
    call.await.expect("no panic").expect("a reply");
    assert_eq!(counted(&rig, "confirmed"), Some(1.0));
    rig.reply(delete(id)).await;
    drop(stream);
}

#[tokio::test]
async fn a_child_that_answers_otherwise_ends_the_session() {
    let other = r#"answer '{"protocolVersion":"2025-11-25","capabilities":{}}'"#;
    for then in [other, "fail -32602"] {
        let rig = rig(then, |_| {});
        slow(&rig).await;
        let session = rig.open().await;
        let stream = rig.send(get(&session)).await.expect("a stream");
        let call = rig.start(post(&session, tool(1, "echo", 0)));
        rig.until("it is asked", |rig| rig.noted("asked").len() == 2)
            .await;
        rig.gate("gate");
        let error = call.await.expect("no panic").expect_err("it has ended");
        assert!(matches!(stdio(&*error), StdioError::SessionGone));
        assert!(read(stream).await.messages.is_empty());
        assert_eq!(counted(&rig, "differs"), Some(1.0));
        rig.until("its child has ended", |rig| rig.exited("snapshot") == 1)
            .await;
        // What was known is forgotten: the next client hears the truth.
        let truth = rig.reply(initialize()).await;
        assert_ne!(truth.json()["result"]["capabilities"], json!({"tools": {}}));
        assert!(rig.upstream.is_usable());
    }
}

#[tokio::test]
async fn a_child_that_does_not_come_up_ends_the_session_and_the_next_client_is_told() {
    let rig = rig("exit 3", |_| {});
    slow(&rig).await;
    let session = rig.open().await;
    let call = rig.start(post(&session, tool(1, "echo", 0)));
    rig.gate("gate");
    let error = call.await.expect("no panic").expect_err("it has ended");
    assert!(matches!(stdio(&*error), StdioError::SessionGone));
    rig.until("it is counted", |rig| counted(rig, "failed") == Some(1.0))
        .await;
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Backoff { .. }
    ));
}

#[tokio::test]
async fn a_session_may_end_before_its_child_has_answered() {
    let rig = rig("", |_| {});
    slow(&rig).await;
    let session = rig.open().await;
    let call = rig.start(post(&session, tool(1, "echo", 0)));
    rig.until("it is asked", |rig| rig.noted("asked").len() == 2)
        .await;
    rig.reply(delete(&session)).await;
    let error = call.await.expect("no panic").expect_err("it has ended");
    assert!(matches!(stdio(&*error), StdioError::SessionGone));
    rig.until("its child has ended", |rig| rig.exited("delete") == 1)
        .await;
    assert!(rig.upstream.is_usable());
    assert_eq!(counted(&rig, "failed"), None);
}

#[tokio::test]
async fn who_says_something_else_or_does_not_want_it_hears_the_child() {
    let other = || {
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": {"name": "t", "version": "1"}
        }});
        request(Method::POST, &[("accept", BOTH)], text(body))
    };
    for (wanted, ask) in [(true, other()), (false, initialize())] {
        let rig = rig("", |s| s.snapshot = wanted);
        slow(&rig).await;
        let begun = rig.start(ask);
        rig.until("it is asked", |rig| rig.noted("asked").len() == 2)
            .await;
        assert!(!begun.is_finished());
        rig.gate("gate");
        begun.await.expect("no panic").expect("a reply");
        assert_eq!(counted(&rig, "confirmed"), None);
    }
}
