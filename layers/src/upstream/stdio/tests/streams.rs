//! Standing streams, and readers that are slow.

use super::*;

#[tokio::test]
async fn what_belongs_to_no_call_waits_for_the_sessions_stream() {
    let rig = Rig::plain();
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "change", 0))).await;
    let stream = rig.send(get(&session)).await.expect("a stream");
    rig.reply(post(&session, tool(1, "change", 0))).await;
    assert_eq!(rig.upstream.report().streams, 1);
    rig.upstream.end_streams();
    let reply = read(stream).await;
    assert_eq!(reply.methods(), ["notifications/tools/list_changed"; 2]);
    assert_eq!(reply.error.map(|e| e.to_string()), None);
}

#[tokio::test]
async fn a_client_without_a_stream_gets_it_with_its_next_call() {
    let rig = Rig::plain();
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "change", 0))).await;
    // Not one that takes JSON alone: that would lose it.
    let headers = [
        ("accept", "application/json"),
        ("mcp-session-id", &*session),
    ];
    rig.reply(request(Method::POST, &headers, text(tool(2, "echo", 0))))
        .await;
    let reply = rig.reply(post(&session, tool(3, "echo", 0))).await;
    assert_eq!(
        reply.methods(),
        ["notifications/tools/list_changed", "answer"]
    );
}

#[tokio::test]
async fn a_newer_stream_takes_the_place_of_an_older_one() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let old = rig.send(get(&session)).await.expect("a stream");
    let new = rig.send(get(&session)).await.expect("a stream");
    assert!(read(old).await.messages.is_empty());
    rig.reply(post(&session, tool(1, "change", 0))).await;
    rig.reply(delete(&session)).await;
    assert_eq!(read(new).await.messages.len(), 1);
}

#[tokio::test]
async fn what_a_stream_had_not_read_when_it_went_away_comes_with_the_next_one() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let stream = rig.send(get(&session)).await.expect("a stream");
    rig.reply(post(&session, tool(1, "change", 0))).await;
    drop(stream);
    let next = rig.send(get(&session)).await.expect("a stream");
    rig.upstream.end_streams();
    let reply = read(next).await;
    assert_eq!(reply.methods(), ["notifications/tools/list_changed"]);
}

#[tokio::test]
async fn a_slow_reader_loses_its_call_and_stalls_nobody() {
    let arms = r#"*'"name":"flood"'*) progress 0; await gate; i=1; while [ $i -lt 200 ]; do progress $i; i=$((i+1)); done; answer '{}' ;;"#;
    let rig = Rig::new(arms, |s| s.buffer = 4000);
    let session = rig.open().await;
    let slow = rig
        .send(post(&session, with_token(tool(1, "flood", 0), 1)))
        .await
        .expect("a head");
    rig.gate("gate");
    // It comes after the flood on the same pipe.
    rig.reply(post(&session, tool(2, "echo", 0))).await;
    let reply = read(slow).await;
    let error = reply.error.expect("an error");
    assert!(matches!(
        stdio(&*error),
        StdioError::SlowReader { limit: 4000 }
    ));
    assert_eq!(rig.upstream.report().pending, 0);
}

#[tokio::test]
async fn a_standing_stream_that_overflows_ends_and_the_session_goes_on() {
    let arms = r#"*'"name":"flood"'*) i=0; while [ $i -lt 100 ]; do changed; i=$((i+1)); done; answer '{}' ;;"#;
    let rig = Rig::new(arms, |s| s.buffer = 2000);
    let session = rig.open().await;
    let slow = rig.send(get(&session)).await.expect("a stream");
    rig.reply(post(&session, tool(1, "flood", 0))).await;
    assert!(matches!(
        stdio(&*read(slow).await.error.expect("an error")),
        StdioError::SlowReader { .. }
    ));
    // What came after that waits, within bounds, for the next stream.
    let stream = rig.send(get(&session)).await.expect("a stream");
    rig.upstream.end_streams();
    let waited = read(stream).await.messages.len();
    assert!((1..=2000 / 61).contains(&waited), "{waited}");
}

#[tokio::test]
async fn what_a_stream_did_not_get_to_send_waits_for_the_next() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let stream = rig.send(get(&session)).await.expect("a stream");
    drop(stream);
    rig.reply(post(&session, tool(1, "change", 0))).await;
    let reply = rig.reply(post(&session, tool(2, "echo", 0))).await;
    assert_eq!(
        reply.methods(),
        ["notifications/tools/list_changed", "answer"]
    );
}
