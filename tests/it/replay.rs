//! Clients that come back to a stream: of a command, whose streams ziggurat keeps, and of an HTTP server that gives no ids.

use serde_json::{Value, json};

use crate::harness::{
    Start, Ziggurat,
    client::Answer,
    config, demo,
    mcp::Session,
    stdio, until,
    upstream::{Received, Upstream, Wire},
};

/// Reads so many messages; gives them, with the id of the last event.
async fn read(answer: &mut Answer, messages: usize) -> (Vec<Value>, String) {
    let (mut all, mut last) = (Vec::new(), String::new());
    while all.len() < messages {
        let event = answer.event().await.expect("the stream has ended");
        last = event.id.expect("each event has an id");
        if !event.data.is_empty() {
            all.push(serde_json::from_str(&event.data).unwrap());
        }
    }
    (all, last)
}

/// Begins a call that says so many things.
async fn begin(session: &Session, steps: u32, interval_ms: u32) -> Answer {
    let arguments = json!({"steps": steps, "interval_ms": interval_ms});
    session.call_with_token(7, "p", "progress", arguments).await
}

fn assert_complete(messages: &[Value], steps: u64) {
    let told: Vec<_> = messages
        .iter()
        .filter_map(|m| m["params"]["progress"].as_f64())
        .collect();
    let expected: Vec<_> = (1..=steps).map(|step| step as f64).collect();
    assert_eq!(told, expected);
    let answers = messages.iter().filter(|m| m["id"] == 7).count();
    assert_eq!((answers, messages.len() as u64), (1, steps + 1));
    assert!(messages.last().unwrap()["result"].is_object());
}

/// Waits until so many streams are read on without a client.
async fn detached(z: &Ziggurat, streams: f64) {
    until("streams are read on", async || {
        let metrics = z.metrics().await;
        metrics.sum("ziggurat_replay_detached_streams", &[]) == streams
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_cut_off_comes_back_to_the_rest() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let baseline = z.warm().await;
    let session = z.target().session().await;
    let mut first = begin(&session, 20, 30).await;
    let (mut all, id) = read(&mut first, 3).await;
    drop(first);
    detached(&z, 1.0).await;
    let mut second = session.resume(&id).await;
    let (more, id) = read(&mut second, 2).await;
    all.extend(more);
    // Again, with the old connection still open.
    let third = session.resume(&id).await;
    // That ends; what was on its way there already counts for nothing.
    let _before = second.messages().await;
    all.extend(third.messages().await);
    assert_complete(&all, 20);
    session.delete().await;
    until("nothing is kept", async || {
        z.metrics().await.sum("ziggurat_replay_buffer_bytes", &[]) == 0.0
    })
    .await;
    z.assert_back_to(&baseline).await;
}

#[tokio::test]
async fn an_answer_waits_for_its_client_also_across_a_reload() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let mut first = begin(&session, 10, 20).await;
    let (mut all, id) = read(&mut first, 1).await;
    drop(first);
    detached(&z, 1.0).await;
    let other = config("", "replay: { events: 5, age: 1m },", "", &demo(""));
    z.reload(&other, "ok").await;
    detached(&z, 0.0).await;
    let mut again = session.resume(&id).await;
    let (more, last) = read(&mut again, 10).await;
    all.extend(more);
    assert_complete(&all, 10);
    assert!(again.event().await.is_none());
    assert_eq!(session.resume(&last).await.status, 204);
}

#[tokio::test]
async fn what_the_server_says_while_no_stream_is_open_arrives() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let mut stream = session.stream().await;
    let id = stream.event().await.unwrap().id.expect("a first id");
    drop(stream);
    detached(&z, 1.0).await;
    let tick = session.call(1, "tick", json!({"list": "tools"})).await;
    assert!(tick.last().await["result"].is_object());
    let mut stream = session.resume(&id).await;
    let (told, id) = read(&mut stream, 1).await;
    assert_eq!(told[0]["method"], "notifications/tools/list_changed");
    // On the same stream, with its numbers.
    session.call(2, "tick", json!({"list": "prompts"})).await;
    let (told, next) = read(&mut stream, 1).await;
    assert_eq!(told[0]["method"], "notifications/prompts/list_changed");
    assert_eq!(
        id.rsplit_once('-').unwrap().0,
        next.rsplit_once('-').unwrap().0
    );
}

#[tokio::test]
async fn another_session_does_not_get_it() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let (session, other) = (z.target().session().await, z.target().session().await);
    let mut first = begin(&session, 20, 20).await;
    let (mut all, id) = read(&mut first, 2).await;
    drop(first);
    let mut foreign = other.resume(&id).await;
    let event = foreign.event().await.unwrap();
    assert!(
        event.data.is_empty() && event.id.unwrap().starts_with("zg-"),
        "a stream of its own"
    );
    all.extend(session.resume(&id).await.messages().await);
    assert_complete(&all, 20);
}

#[tokio::test]
async fn after_a_restart_the_call_has_an_error_and_the_session_is_no_worse() {
    const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let yaml = config(&format!("session_keys: [{KEY}]"), "", "", &demo(""));
    let z = Ziggurat::yaml(&yaml).await;
    let session = z.target().session().await;
    let (_, id) = read(&mut begin(&session, 1000, 20).await, 1).await;
    drop(z);
    let z = Start::yaml(&yaml).up().await;
    let session = Session {
        target: z.target(),
        ..session
    };
    let error = session.resume(&id).await.last().await;
    assert_eq!(
        (&error["id"], &error["error"]["data"]["outcome"]),
        (&json!(7), &json!("unknown"))
    );
}

/// A server that says two things, waits for the gate, and answers; without ids.
async fn plain(received: Received, wire: Wire) -> Option<Wire> {
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    let result =
        json!({"jsonrpc": "2.0", "id": body["id"], "result": {"protocolVersion": "2025-11-25"}});
    match body["method"].as_str() {
        Some("initialize") => {
            let headers = "content-type: application/json\r\nmcp-session-id: s\r\n";
            wire.answer("200 OK", headers, &result.to_string()).await
        }
        Some("tools/call") => {
            let mut wire = wire.sse().await;
            for step in 1..=5 {
                let said = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "p", "progress": step}});
                wire = wire.drip(&format!("data: {said}\n\n")).await;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            wire.drip(&format!("data: {result}\n\n")).await;
            None
        }
        _ => wire.answer("202 Accepted", "", "").await,
    }
}

#[tokio::test]
async fn an_http_server_without_ids_is_helped_where_the_operator_says_so() {
    let upstream = Upstream::start(plain).await;
    let endpoint = format!("url: \"{}\"", upstream.url("/mcp"));
    let z = Ziggurat::yaml(&config("", "replay: always,", "", &endpoint)).await;
    let session = z.target().session().await;
    let mut first = begin(&session, 5, 50).await;
    let (mut all, id) = read(&mut first, 1).await;
    drop(first);
    detached(&z, 1.0).await;
    all.extend(session.resume(&id).await.messages().await);
    assert_complete(&all, 5);
    session.delete().await;
}
