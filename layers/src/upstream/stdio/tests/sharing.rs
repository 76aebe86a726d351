//! Clients that share a child, and ids that collide.

use proptest::prelude::*;

use super::*;

fn shared(arms: &str) -> Rig {
    Rig::new(arms, |s| s.isolation = Isolation::Shared)
}

#[tokio::test]
async fn one_handshake_serves_all_sessions_each_with_its_own_id_and_revision() {
    let rig = shared("");
    let first = rig.reply(initialize()).await;
    let body = json!({"jsonrpc": "2.0", "id": "x", "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let second = rig
        .reply(request(Method::POST, &[("accept", BOTH)], text(body)))
        .await;
    assert_eq!(
        (
            &first.json()["id"],
            &first.json()["result"]["protocolVersion"]
        ),
        (&json!(0), &json!("2025-11-25"))
    );
    assert_eq!(
        (
            &second.json()["id"],
            &second.json()["result"]["protocolVersion"]
        ),
        (&json!("x"), &json!("2025-06-18"))
    );
    assert_eq!(second.json()["result"]["serverInfo"]["name"], "sh");
    assert_ne!(
        first.headers["mcp-session-id"],
        second.headers["mcp-session-id"]
    );
    assert_eq!(rig.noted("starts").len(), 1);
    assert_eq!(rig.upstream.report().sessions, 2);
}

#[tokio::test]
async fn a_client_cannot_cancel_a_strangers_call() {
    let rig = shared("");
    let (one, other) = (rig.open().await, rig.open().await);
    let call = rig.start(post(&one, tool(1, "hold", 0)));
    rig.pending(1).await;
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    rig.reply(post(&other, cancel)).await;
    rig.reply(post(&other, tool(1, "release", 0))).await;
    let reply = call.await.expect("no panic").expect("a reply");
    assert_eq!(reply.json()["result"]["held"], true);
    let heard = rig.reply(post(&one, tool(1, "heard", 0))).await.heard();
    assert_eq!(
        heard.len(),
        1,
        "only the proxy's own `initialized`: {heard:?}"
    );
}

#[tokio::test]
async fn what_changed_is_told_to_all_and_an_update_to_those_who_subscribed() {
    let arms = r#"
    *'"method":"resources/subscribe"'*|*'"method":"resources/unsubscribe"'*) note x subscribed; answer '{}' ;;
    *'"name":"update"'*) say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{\"uri\":$mark}}"; answer '{}' ;;"#;
    let rig = shared(arms);
    let (one, other) = (rig.open().await, rig.open().await);
    let subscribe = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": "a:1"}});
    let streams = (
        rig.send(get(&one)).await.expect("a stream"),
        rig.send(get(&other)).await.expect("a stream"),
    );
    rig.reply(post(&one, subscribe("resources/subscribe")))
        .await;
    rig.reply(post(&one, tool(1, "update", "a:1"))).await;
    rig.reply(post(&one, tool(1, "update", "a:2"))).await;
    rig.reply(post(&other, subscribe("resources/subscribe")))
        .await;
    // The first one goes, the second one stays: the child is not told.
    let told = rig.noted("subscribed").len();
    rig.reply(post(&one, subscribe("resources/unsubscribe")))
        .await;
    assert_eq!(rig.noted("subscribed").len(), told);
    rig.reply(post(&one, tool(1, "change", 0))).await;
    rig.upstream.end_streams();
    assert_eq!(
        read(streams.0).await.methods(),
        [
            "notifications/resources/updated",
            "notifications/tools/list_changed"
        ]
    );
    assert_eq!(
        read(streams.1).await.methods(),
        ["notifications/tools/list_changed"]
    );
}

#[tokio::test]
async fn the_subscriptions_of_a_session_end_with_it() {
    let arms = r#"*'"method":"resources/'*) note "$line" subscribed; answer '{}' ;;"#;
    let rig = shared(arms);
    let (one, other) = (rig.open().await, rig.open().await);
    for (session, uri) in [(&one, "a:1"), (&one, "a:2"), (&other, "a:2")] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}});
        rig.reply(post(session, body)).await;
    }
    rig.reply(delete(&one)).await;
    rig.until("unsubscribed", |rig| rig.noted("subscribed").len() == 4)
        .await;
    let last = rig.noted("subscribed").pop().expect("a line");
    assert!(
        last.contains("resources/unsubscribe") && last.contains("a:1"),
        "{last}"
    );
    rig.reply(post(&other, tool(1, "echo", 0))).await;
    assert_eq!(rig.upstream.report().pending, 0);
}

#[tokio::test]
async fn logging_is_at_the_lowest_level_and_filtered_for_each_client() {
    let arms = r#"*'"method":"logging/setLevel"'*) note "$line" levels; answer '{}' ;;
    *'"name":"debug"'*) log x debug; log y error; answer '{}' ;;"#;
    let rig = shared(arms);
    let (one, other) = (rig.open().await, rig.open().await);
    let level = |level: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": level}});
    rig.reply(post(&one, level("debug"))).await;
    rig.reply(post(&other, level("error"))).await;
    assert_eq!(rig.noted("levels").len(), 1, "the lower one stands");
    let quiet = rig.reply(post(&other, tool(1, "debug", 0))).await;
    assert_eq!(
        (quiet.messages.len(), &quiet.messages[0]["params"]["data"]),
        (2, &json!("y"))
    );
    let loud = rig.reply(post(&one, tool(1, "debug", 0))).await;
    assert_eq!(loud.messages.len(), 3);
    // Once nobody wants that much any more, the server need not say it.
    rig.reply(post(&one, level("critical"))).await;
    rig.until("it is told", |rig| rig.noted("levels").len() == 2)
        .await;
    rig.reply(delete(&other)).await;
    rig.until("it is told again", |rig| rig.noted("levels").len() == 3)
        .await;
    let levels = rig.noted("levels");
    for (told, level) in levels.iter().zip(["debug", "error", "critical"]) {
        assert!(
            told.contains(&format!(r#"{{"level":"{level}"}}"#)),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_shared_server_that_asks_gets_an_answer_from_the_proxy() {
    let rig = shared(
        r#"*'"name":"asks"'*) ask 1; say '{"jsonrpc":"2.0","id":8,"method":"ping"}'; answer '{}' ;;
    *'"error"'*) heard="$heard$line," ;;"#,
    );
    let session = rig.open().await;
    let reply = rig.reply(post(&session, tool(1, "asks", 0))).await;
    assert_eq!(reply.methods(), ["answer"]);
    let heard = rig.reply(post(&session, tool(1, "heard", 0))).await.heard();
    assert_eq!(
        (&heard[1]["id"], &heard[1]["error"]["code"]),
        (&json!("ask-1"), &json!(-32601))
    );
    assert_eq!(
        (&heard[2]["id"], &heard[2]["result"]),
        (&json!(8), &json!({}))
    );
}

#[tokio::test]
async fn the_proxys_handshake_with_a_shared_server_that_fails_is_told_to_the_client() {
    let rig = shared(r#"*'"method":"initialize"'*) exit 9 ;;"#);
    let error = rig.error(initialize()).await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Exited(9),
                ..
            }
        ),
        "{error}"
    );
    let error = rig.error(initialize()).await;
    assert!(matches!(error, StdioError::Backoff { .. }), "{error}");
}

/// Ids and tokens that collide in value or in text.
fn colliding() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..3_u64).prop_map(Value::from),
        (0..3_u64).prop_map(|n| Value::from(n.to_string())),
        Just(Value::from("\"")),
        Just(Value::from("é,}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn colliding_ids_of_many_clients_are_never_crossed(
        calls in prop::collection::vec((colliding(), prop::option::of(colliding()), 0..4_usize), 2..12),
        order in any::<prop::sample::Index>(),
        modern_era: bool,
    ) {
        // Each call is held with its mark; `release` answers them from the given one on, each after its progress.
        let arms = r#"*'"name":"keep"'*) n=$((${n:-0}+1)); eval "i$n=\$id t$n=\$token m$n=\$mark"; case $line in *progressToken*) ;; *) eval "t$n=" ;; esac ;;
        *'"name":"free"'*) at=$mark; left=$n; while [ "$left" -gt 0 ]; do at=$((at % n + 1)); eval "i=\$i$at token=\$t$at m=\$m$at"
            [ -n "$token" ] && progress "$m"; say "{\"jsonrpc\":\"2.0\",\"id\":$i,\"result\":{\"mark\":$m}}"; left=$((left-1)); done; n=0; answer '{}' ;;"#;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let rig = shared(arms);
            let mut sessions = Vec::new();
            for _ in 0..4 {
                sessions.push(rig.open().await);
            }
            rig.modern_is_up().await;
            let total = calls.len();
            let mut running = Vec::new();
            for (mark, (id, token, who)) in calls.iter().enumerate() {
                let request = if modern_era {
                    let mut params = json!({"name": "keep", "arguments": {"mark": mark}});
                    if let Some(token) = token {
                        params["_meta"]["progressToken"] = token.clone();
                    }
                    modern(id.clone(), "tools/call", params)
                } else {
                    let mut call = tool(id.clone(), "keep", mark);
                    if let Some(token) = token {
                        call = with_token(call, token.clone());
                    }
                    post(&sessions[*who], call)
                };
                running.push(rig.start(request));
                rig.pending(mark + 1).await;
            }
            let from = order.index(total);
            let free = if modern_era { modern_tool(0, "free", from) } else { post(&sessions[0], tool(0, "free", from)) };
            rig.reply(free).await;
            for (mark, ((id, token, _), call)) in calls.iter().zip(running).enumerate() {
                let reply = call.await.expect("no panic").expect("a reply");
                assert_eq!((&reply.last()["id"], &reply.last()["result"]["mark"]), (id, &json!(mark)));
                assert_eq!(reply.messages.len(), 1 + usize::from(token.is_some()));
                if let Some(token) = token {
                    let params = &reply.messages[0]["params"];
                    assert_eq!((&params["progressToken"], &params["progress"]), (token, &json!(mark)));
                }
            }
            rig.upstream.close().await;
        });
    }
}
