//! A child's output is cut into lines, whatever it writes.

use super::*;

/// A tool that writes `bytes` (for `printf`) before it answers.
fn writes(bytes: &str) -> String {
    format!(r#"*'"name":"write"'*) printf '{bytes}'; answer '{{}}' ;;"#)
}

#[tokio::test]
async fn what_is_no_message_is_dropped_and_the_next_line_is_read() {
    for bytes in [
        r"hello\n",
        r"\n\n\r\n",
        r"\000\001\n",
        r"\377\376\n",
        r"{}\n",
        r"[1,2]\n",
        r"null\n",
        r"{ not json\n",
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}\n"#,
        r#"{"jsonrpc":"2.0","id":999,"result":{}}\n"#,
        r#"{"jsonrpc":"2.0","id":"x","result":{}}\n"#,
    ] {
        let rig = Rig::new(&writes(bytes), |_| {});
        let session = rig.open().await;
        let reply = rig.reply(post(&session, tool(1, "write", 0))).await;
        assert_eq!(reply.json()["id"], 1, "{bytes}");
    }
}

#[tokio::test]
async fn lines_may_end_in_crlf_and_come_in_parts() {
    let arms = r#"*'"name":"parts"'*) printf '{"jsonrpc":"2.0",'; await gate; printf '"id":%s,"result":{}}\r\n' "$id" ;;"#;
    let rig = Rig::new(arms, |_| {});
    let session = rig.open().await;
    let call = rig.start(post(&session, tool(1, "parts", 0)));
    rig.pending(1).await;
    rig.gate("gate");
    assert_eq!(
        call.await.expect("no panic").expect("a reply").json()["id"],
        1
    );
}

#[tokio::test]
async fn an_answer_that_is_no_json_fails_its_call_and_no_other() {
    // Invalid UTF-8, a cut-off text, an id twice.
    for bytes in [
        r#"{"id":%s,"result":"\377"}\n"#,
        r#"{"id":%s,"result":{"a":tru}}\n"#,
    ] {
        let arms = format!(r#"*'"name":"garble"'*) printf '{bytes}' "$id" ;;"#);
        let rig = Rig::new(&arms, |_| {});
        let session = rig.open().await;
        let other = rig.start(post(&session, tool(1, "hold", 0)));
        rig.pending(1).await;
        let error = rig.error(post(&session, tool(1, "garble", 0))).await;
        assert!(matches!(error, StdioError::Garbled), "{error}");
        rig.reply(post(&session, tool(2, "release", 0))).await;
        assert_eq!(
            other
                .await
                .expect("no panic")
                .expect("a reply")
                .messages
                .len(),
            1
        );
    }
}

/// Writes so many bytes as a string.
const LONG: &str = r#"long() { head -c "$1" /dev/zero | tr '\0' x; }"#;

#[tokio::test]
async fn an_answer_that_is_too_long_fails_its_call_and_no_other() {
    let arms = format!(
        r#"*'"name":"long"'*) {LONG}; printf '{{"jsonrpc":"2.0","result":{{"a":"'; long 300000; printf '"}},"id":%s}}\n' "$id" ;;"#
    );
    let rig = Rig::new(&arms, |s| s.line_limit = 100_000);
    let session = rig.open().await;
    let other = rig.start(post(&session, tool(1, "hold", 0)));
    rig.pending(1).await;
    let error = rig.error(post(&session, tool(1, "long", 0))).await;
    assert!(
        matches!(error, StdioError::LineTooLong { limit: 100_000 }),
        "{error}"
    );
    rig.reply(post(&session, tool(2, "release", 0))).await;
    assert_eq!(
        other
            .await
            .expect("no panic")
            .expect("a reply")
            .messages
            .len(),
        1
    );
}

#[tokio::test]
async fn a_notification_or_request_that_is_too_long_fails_nobody() {
    let arms = format!(
        r#"*'"name":"long"'*) {LONG}; printf '{{"method":"notifications/message","params":"'; long 300000; printf '"}}\n'
        printf '{{"id":"q","method":"sampling/createMessage","params":"'; long 300000; printf '"}}\n'; answer '{{}}' ;;
        *'"error"'*) heard="$heard$line," ;;"#
    );
    let rig = Rig::new(&arms, |s| s.line_limit = 100_000);
    let session = rig.open().await;
    let reply = rig.reply(post(&session, tool(1, "long", 0))).await;
    assert_eq!(reply.json()["id"], 1);
    // Nobody else will tell the server that its request got lost.
    let heard = rig.reply(post(&session, tool(1, "heard", 0))).await.heard();
    assert_eq!(
        (&heard[0]["id"], &heard[0]["error"]["code"]),
        (&json!("q"), &json!(-32603))
    );
}

#[tokio::test]
async fn a_large_answer_passes_in_pieces_unchanged() {
    let arms = format!(
        r#"*'"name":"long"'*) {LONG}; printf '{{"jsonrpc":"2.0","id":%s,"result":{{"a":"' "$id"; long 300000; printf '"}}}}\n' ;;"#
    );
    let rig = Rig::new(&arms, |_| {});
    let session = rig.open().await;
    let reply = rig.reply(post(&session, tool("abc", "long", 0))).await;
    assert_eq!(reply.json()["id"], "abc");
    assert_eq!(
        reply.json()["result"]["a"].as_str().map(str::len),
        Some(300_000)
    );
}

#[tokio::test]
async fn what_a_server_says_before_its_session_is_bounded_in_bytes() {
    let pad = "x".repeat(1500);
    let arms = format!(
        r#"*'"method":"initialize"'*) for n in 1 2 3; do say '{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"pad":"{pad}"}}}}'; done; answer '{{"protocolVersion":"2025-11-25","capabilities":{{}}}}' ;;"#
    );
    let rig = Rig::new(&arms, |s| s.buffer = 4000);
    let session = rig.open().await;
    let nobody = rig.metric("ziggurat_stdio_noise_total", "reason=\"nobody\"");
    assert_eq!(nobody, Some(1.0));
    let stream = rig.send(get(&session)).await.expect("a stream");
    rig.reply(delete(&session)).await;
    assert_eq!(read(stream).await.messages.len(), 2);
}
