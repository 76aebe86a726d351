//! Many clients share a child, and use the same ids: nobody ever gets what belongs to somebody else.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    Ziggurat,
    mcp::{Session, text},
    stdio,
};

const CLIENTS: usize = 64;

/// Ids that collide: numbers, the same numbers as text, and texts that look like the proxy's own.
fn colliding() -> Vec<Value> {
    vec![
        json!(0),
        json!(1),
        json!("1"),
        json!(-1),
        json!("0"),
        json!(9_007_199_254_740_993_i64),
        json!("a \"quoted\" é id"),
        json!(""),
    ]
}

/// Calls `echo` with its own text under this id, and checks that its own answer comes back.
async fn echo_on(session: &Session, client: usize, id: &Value) {
    let said = format!("client {client} id {id}");
    let answer = session
        .call(id.clone(), "echo", json!({"text": said}))
        .await
        .last()
        .await;
    assert_eq!(&answer["id"], id);
    assert_eq!(text(&answer), said);
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_clients_of_a_shared_child_never_get_each_others_answers() {
    let z = Ziggurat::yaml(&stdio("isolation: shared")).await;
    let target = z.target();
    target.session().await;
    let clients = (0..CLIENTS).map(|client| {
        let target = target.clone();
        async move {
            let session = target.session().await;
            let ids = colliding();
            join_all(ids.iter().map(|id| echo_on(&session, client, id))).await;
        }
    });
    join_all(clients).await;
    assert_eq!(z.servers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_clients_never_get_each_others_answers() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let target = z.target();
    let clients = (0..CLIENTS).map(|client| {
        let target = target.clone();
        async move {
            let calls = colliding().into_iter().map(|id| {
                let target = target.clone();
                async move {
                    let said = format!("client {client} id {id}");
                    let answer = target
                        .modern_call(id.clone(), "echo", json!({"text": said}))
                        .await
                        .last()
                        .await;
                    assert_eq!(answer["id"], id);
                    assert_eq!(text(&answer), said);
                }
            });
            join_all(calls).await;
        }
    });
    join_all(clients).await;
    assert_eq!(z.servers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_goes_to_the_call_whose_token_it_carries_and_precedes_the_result() {
    let z = Ziggurat::yaml(&stdio("isolation: shared")).await;
    let target = z.target();
    target.session().await;
    let tokens = [json!(1), json!("1"), json!("token"), json!(0)];
    let clients = (0..CLIENTS).map(|client| {
        let (target, token) = (target.clone(), tokens[client % tokens.len()].clone());
        async move {
            let session = target.session().await;
            // How many steps it asked for tells whose progress it is.
            let steps = 2 + client % 7;
            let messages = session
                .call_with_token(1, token.clone(), "progress", json!({"steps": steps}))
                .await
                .messages()
                .await;
            let (result, progress) = messages.split_last().unwrap();
            assert_eq!(result["id"], 1);
            assert_eq!(text(result), format!("{steps} steps done"));
            assert_eq!(progress.len(), steps, "{messages:?}");
            for (at, message) in progress.iter().enumerate() {
                assert_eq!(message["method"], "notifications/progress");
                assert_eq!(message["params"]["progressToken"], token);
                assert_eq!(message["params"]["total"], steps);
                assert_eq!(message["params"]["progress"], at + 1);
            }
        }
    });
    join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_reaches_its_own_senders_call_only() {
    let z = Ziggurat::yaml(&stdio("isolation: shared")).await;
    let (one, other) = (z.target().session().await, z.target().session().await);
    // Both wait under the same id.
    let waiting = one
        .call_with_token(7, "t", "progress", json!({"steps": 2, "interval_ms": 400}))
        .await;
    let mut cancelled = other
        .call_with_token(
            7,
            "t",
            "progress",
            json!({"steps": 1000, "interval_ms": 400}),
        )
        .await;
    cancelled.next().await;
    other
        .tell("notifications/cancelled", json!({"requestId": 7}))
        .await;
    while cancelled.event().await.is_some() {}
    assert_eq!(text(&waiting.last().await), "2 steps done");
}
