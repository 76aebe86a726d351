//! Hostile input. After each, everything that ziggurat holds is what it was.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    Baseline, Start, Ziggurat,
    client::{read_all, read_until},
    config, demo,
    mcp::{Session, initialize, request, text},
    process, stdio, until, within,
};

/// A ziggurat before the demo server, warmed up, with how it stands.
async fn calm() -> (Ziggurat, Baseline) {
    let z = Ziggurat::yaml(&stdio("")).await;
    let before = z.warm().await;
    (z, before)
}

/// The head of a POST to /mcp, without what says how long its body is.
fn head(z: &Ziggurat, more: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost:{}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{more}",
        z.listen.port()
    )
}

async fn post(z: &Ziggurat, body: impl Into<bytes::Bytes>) -> (u16, Value) {
    let answer = z.target().post("/mcp", &[], body).await;
    (answer.status.as_u16(), answer.json().await)
}

#[tokio::test]
async fn what_is_not_a_message_is_refused_and_starts_nothing() {
    let (z, before) = calm().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}{}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("empty", b"".to_vec()),
        ("malformed", br#"{"jsonrpc":"2.0","id":1,"method":"initialize""#.to_vec()),
        ("trailing", br#"{"jsonrpc":"2.0","id":1,"method":"initialize"} x"#.to_vec()),
        ("two", br#"{"jsonrpc":"2.0","id":1,"method":"initialize"}{"jsonrpc":"2.0","id":2,"method":"initialize"}"#.to_vec()),
        ("a string", br#""initialize""#.to_vec()),
        ("an empty batch", b"[]".to_vec()),
        ("deep", deep.into_bytes()),
        ("deep and unfinished", "[".repeat(1_000_000).into_bytes()),
        ("invalid UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"init\xff\"}".to_vec()),
        ("duplicate method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"initialize"}"#.to_vec()),
        ("duplicate id", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"initialize"}"#.to_vec()),
        ("duplicate, escaped", br#"{"jsonrpc":"2.0","id":1,"method":"ping","meth\u006fd":"initialize"}"#.to_vec()),
        ("null id", br#"{"jsonrpc":"2.0","id":null,"method":"initialize"}"#.to_vec()),
        ("fractional id", br#"{"jsonrpc":"2.0","id":1.5,"method":"initialize"}"#.to_vec()),
        ("object id", br#"{"jsonrpc":"2.0","id":{},"method":"initialize"}"#.to_vec()),
        ("boolean id", br#"{"jsonrpc":"2.0","id":true,"method":"initialize"}"#.to_vec()),
        ("method not a string", br#"{"jsonrpc":"2.0","id":1,"method":7}"#.to_vec()),
    ];
    for (what, body) in bodies {
        let (status, error) = post(&z, body).await;
        assert_eq!(status, 400, "{what}: {error}");
        let kind = error["kind"]
            .as_str()
            .or(error["error"]["data"]["kind"].as_str());
        assert_eq!(kind, Some("bad_message"), "{what}: {error}");
    }
    z.assert_back_to(&before).await;
    assert!(z.servers().is_empty());
}

#[tokio::test]
async fn a_tool_call_whose_name_stands_twice_is_refused() {
    let (z, _) = calm().await;
    let session = z.target().session().await;
    let before = z.baseline().await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"},"name":"env"}}"#;
    let headers = [
        ("mcp-session-id", &*session.id),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    let answer = z.target().post("/mcp", &headers, body).await;
    assert_eq!(answer.status, 400);
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_by_their_length_before_they_are_sent() {
    let (z, before) = calm().await;
    let mut stream = z.target().connect().await;
    let head = head(&z, "content-length: 104857600\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    drop(stream);
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_hundred_megabytes_in_chunks_are_refused_at_the_limit() {
    let (z, before) = calm().await;
    let peak = process::peak(z.pid());
    let (mut reading, mut writing) = z.target().connect().await.into_split();
    let head = head(&z, "transfer-encoding: chunked\r\n\r\n");
    let sending = tokio::spawn(async move {
        writing.write_all(head.as_bytes()).await.unwrap();
        let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
        for _ in 0..100 {
            if writing.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let mut some = [0; 4096];
    within("an answer", async {
        while let Ok(n @ 1..) = reading.read(&mut some).await {
            answer.extend_from_slice(&some[..n]);
        }
    })
    .await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    within("the sender stops", sending).await.unwrap();
    // What came after the limit was thrown away, not kept.
    let most = process::peak(z.pid());
    assert!(most < peak + (24 << 20), "{peak} -> {most}");
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_refused() {
    let (z, before) = calm().await;
    let body = initialize("2025-11-25").to_string();
    let length = body.len();
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (what, more) in [
        (
            "two lengths",
            format!("content-length: {length}\r\ncontent-length: 0\r\n\r\n"),
        ),
        (
            "a folded line",
            format!("x-one: 1\r\n two\r\ncontent-length: {length}\r\n\r\n"),
        ),
        (
            "a space before the colon",
            format!("content-length : {length}\r\n\r\n"),
        ),
        (
            "a length that is no number",
            format!("content-length: +{length}\r\n\r\n"),
        ),
        (
            "chunked is not last",
            "transfer-encoding: chunked, gzip\r\n\r\n".to_owned(),
        ),
    ] {
        let answer = z
            .target()
            .raw(format!("{}{body}{smuggled}", head(&z, &more)))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
    }
    // RFC 9112, 6.3: it is refused, or the length is ignored and the connection closed after it; never read twice.
    let both = format!(
        "{}0\r\n\r\n{smuggled}",
        head(
            &z,
            "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
        )
    );
    let answer = z.target().raw(both).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_costs_its_connection_alone() {
    let z = Ziggurat::yaml(&config("header_timeout: 200ms", "", "", &demo(""))).await;
    let before = z.warm().await;
    let mut slow = z.target().connect().await;
    slow.write_all(b"POST /mcp HTTP/1.1\r\nhost: loc")
        .await
        .unwrap();
    let mut silent = z.target().connect().await;
    read_all(&mut slow).await;
    read_all(&mut silent).await;
    z.target().session().await.delete().await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (z, before) = calm().await;
    let answer = z
        .target()
        .raw(head(&z, &format!("x-big: {}\r\n\r\n", "x".repeat(200_000))))
        .await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing_behind() {
    let (z, before) = calm().await;
    for framing in [
        "content-length: 1000\r\n\r\n{",
        "transfer-encoding: chunked\r\n\r\n5\r\n{",
    ] {
        let mut stream = z.target().connect().await;
        stream
            .write_all(head(&z, framing).as_bytes())
            .await
            .unwrap();
        until("the request is being read", async || {
            z.look().await != before
        })
        .await;
        drop(stream);
        z.assert_back_to(&before).await;
    }
    assert!(z.servers().is_empty());
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_taken() {
    let (z, before) = calm().await;
    let body = initialize("2025-11-25").to_string();
    let mut stream = z.target().connect().await;
    stream.set_nodelay(true).unwrap();
    let head = head(&z, &format!("content-length: {}\r\n\r\n", body.len()));
    for byte in head.bytes().chain(body.bytes()) {
        stream.write_all(&[byte]).await.unwrap();
    }
    let answer = read_until(&mut stream, "\"result\"").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let id = answer
        .lines()
        .find_map(|line| line.strip_prefix("mcp-session-id: "))
        .unwrap();
    let session = Session {
        target: z.target(),
        path: "/mcp".into(),
        id: id.trim().to_owned(),
        version: "2025-11-25".into(),
    };
    drop(stream);
    session.delete().await;
    z.assert_back_to(&before).await;
}

/// Asks for something large, and takes nothing of the answer but its head.
async fn slow_reader(
    z: &Ziggurat,
    session: &Session,
    tool: &str,
    arguments: Value,
) -> tokio::net::TcpStream {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": 1}});
    let body = request(&json!("slow"), "tools/call", &params).to_string();
    let more = format!(
        "mcp-session-id: {}\r\nmcp-protocol-version: {}\r\ncontent-length: {}\r\n\r\n",
        session.id,
        session.version,
        body.len()
    );
    let mut stream = z.target().narrow().await;
    stream
        .write_all(format!("{}{body}", head(z, &more)).as_bytes())
        .await
        .unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream
}

#[tokio::test]
async fn a_slow_reader_of_a_shared_child_stalls_nobody() {
    let z = Ziggurat::yaml(&stdio("isolation: shared")).await;
    let other = z.target().session().await;
    let session = z.target().session().await;
    other
        .call(0, "echo", json!({"text": "warm"}))
        .await
        .last()
        .await;
    let before = z.baseline().await;
    let flood = slow_reader(&z, &session, "flood", json!({"lines": 60_000})).await;
    let big = slow_reader(&z, &session, "big", json!({"bytes": 6_000_000})).await;
    for round in 0..5 {
        let answer = other.call(round, "echo", json!({"text": "quick"})).await;
        assert_eq!(text(&answer.last().await), "quick");
    }
    drop((flood, big));
    z.assert_back_to(&before).await;
}

/// A server that floods as fast as a shell can: 30 MB for each call.
const FLOOD: &str = r#"
long=$(head -c 1400 /dev/zero | tr '\0' x)
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"initialize"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"flood","version":"0"}}}\n' "$id" ;;
    *'"tools/call"'*)
      yes '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"'"$long"'"}}' | head -n 20000
      printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}\n' "$id" ;;
  esac
done
"#;

#[tokio::test]
async fn a_flood_that_nobody_reads_fails_its_own_call_at_a_bound() {
    let z = Start::yaml(&config("", "", "", "command: [sh, flood.sh]"))
        .file("flood.sh", FLOOD)
        .up()
        .await;
    let before = z.warm().await;
    let session = z.target().session().await;
    let mut flood = slow_reader(&z, &session, "flood", json!({})).await;
    // It is past the bound of what waits for one reader; only then does it read.
    until("the call has failed", async || {
        z.metrics()
            .await
            .sum("ziggurat_stdio_pending_requests", &[])
            == 0.0
    })
    .await;
    let rest = read_until(&mut flood, "0\r\n\r\n").await;
    let last = rest.lines().rev().find_map(|l| l.strip_prefix("data: "));
    let last: Value = serde_json::from_str(last.unwrap()).unwrap();
    assert_eq!(last["id"], "slow");
    assert_eq!(last["error"]["data"]["kind"], "slow_reader", "{last}");
    drop(flood);
    session.delete().await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_a_stream_leaves_nothing_behind() {
    let (z, before) = calm().await;
    let session = z.target().session().await;
    let mut get = session.stream().await;
    let mut call = session
        .call_with_token(1, 1, "progress", json!({"steps": 20, "interval_ms": 20}))
        .await;
    call.next().await;
    drop(call);
    session.call(2, "tick", json!({"list": "tools"})).await;
    get.next().await;
    drop(get);
    until("its streams are gone", async || {
        z.metrics().await.sum("ziggurat_sse_streams", &[]) == 0.0
    })
    .await;
    session.delete().await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_line_of_a_child_that_is_no_message_costs_nothing() {
    let (z, before) = calm().await;
    let session = z.target().session().await;
    let answer = session.call(1, "garbage", json!({})).await.last().await;
    assert_eq!(answer["id"], 1);
    assert!(text(&answer).contains("not JSON"));
    let metrics = z.metrics().await;
    assert_eq!(
        metrics.sum("ziggurat_stdio_noise_total", &["reason=\"not_json\""]),
        1.0
    );
    session.delete().await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn an_answer_over_the_line_limit_fails_its_own_call() {
    let z = Ziggurat::yaml(&stdio("line_limit: 64KiB")).await;
    let before = z.warm().await;
    let session = z.target().session().await;
    let error = session.call("big", "big", json!({"bytes": 1_000_000}));
    let error = error.await.last().await;
    assert_eq!(error["id"], "big");
    assert_eq!(error["error"]["data"]["kind"], "answer_too_long", "{error}");
    let fine = session.call(2, "echo", json!({"text": "on"})).await;
    assert_eq!(text(&fine.last().await), "on");
    session.delete().await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_child_that_floods_its_stdout_with_anything_is_bounded() {
    let z = Ziggurat::yaml(&config(
        "",
        "",
        "",
        "command: [sh, -c, \"yes garbage\"], handshake: 300ms, stop: { stdin: 0s, term: 50ms }",
    ))
    .await;
    let (_, error) = post(&z, initialize("2025-11-25").to_string()).await;
    assert_eq!(error["error"]["data"]["kind"], "start_timeout", "{error}");
    until("it is gone", async || {
        z.metrics().await.sum("ziggurat_stdio_processes", &[]) == 0.0
    })
    .await;
    assert!(z.metrics().await.sum("ziggurat_stdio_noise_total", &[]) > 100.0);
}

#[tokio::test]
async fn a_host_that_is_not_served_is_refused_before_anything_else() {
    let (z, before) = calm().await;
    let body = initialize("2025-11-25").to_string();
    let ask = async |lines: &str| {
        let text = format!(
            "POST /mcp HTTP/1.1\r\n{lines}connection: close\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = z.target().raw(text).await;
        answer.get(9..12).unwrap_or_default().to_owned()
    };
    assert_eq!(ask("host: evil.example\r\n").await, "403");
    assert_eq!(ask("host: localhost.evil.example\r\n").await, "403");
    assert_eq!(ask("host: 127.0.0.1.nip.io:80\r\n").await, "403");
    assert_eq!(ask("").await, "400");
    assert_eq!(ask("host: localhost\r\nhost: localhost\r\n").await, "400");
    assert_eq!(ask("host: a b\r\n").await, "400");
    for origin in [
        "null",
        "http://evil.example",
        "http://localhost.evil.example",
    ] {
        let lines = format!("host: localhost\r\norigin: {origin}\r\n");
        assert_eq!(ask(&lines).await, "403", "{origin}");
    }
    let twice = "host: localhost\r\norigin: http://localhost\r\norigin: http://localhost\r\n";
    assert_eq!(ask(twice).await, "403");
    z.assert_back_to(&before).await;
    assert!(z.servers().is_empty());
    assert!(z.metrics().await.sum("ziggurat_origin_rejected_total", &[]) >= 8.0);
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_is_answered_as_browsers_need_it() {
    let (z, before) = calm().await;
    let origin = ("origin", "http://localhost:5173");
    let headers = [
        origin,
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "content-type, mcp-session-id, mcp-protocol-version",
        ),
    ];
    let preflight = z.target().request("OPTIONS", "/mcp", &headers, "").await;
    assert!(preflight.status.is_success(), "{}", preflight.status);
    assert_eq!(preflight.header("access-control-allow-origin"), origin.1);
    assert!(
        preflight
            .header("access-control-allow-methods")
            .contains("DELETE")
    );
    let allowed = preflight
        .header("access-control-allow-headers")
        .to_lowercase();
    for name in ["content-type", "mcp-session-id", "mcp-protocol-version"] {
        assert!(allowed.contains(name), "{allowed}");
    }
    drop(preflight);
    let body = initialize("2025-11-25").to_string();
    let answer = z.target().post("/mcp", &[origin], body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), origin.1);
    let exposed = answer
        .header("access-control-expose-headers")
        .to_lowercase();
    assert!(exposed.contains("mcp-session-id"), "{exposed}");
    let id = answer.header("mcp-session-id").to_owned();
    drop(answer);
    let foreign = [("origin", "http://evil.example"), headers[1]];
    let refused = z.target().request("OPTIONS", "/mcp", &foreign, "").await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
    drop(refused);
    let gone = [("mcp-session-id", &*id)];
    z.target().request("DELETE", "/mcp", &gone, "").await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_body_that_is_encoded_or_of_another_type_is_refused() {
    let (z, before) = calm().await;
    let body = initialize("2025-11-25").to_string();
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "text/plain")] {
        let mut headers = vec![
            ("accept", "application/json, text/event-stream"),
            (name, value),
        ];
        if name != "content-type" {
            headers.push(("content-type", "application/json"));
        }
        let answer = z
            .target()
            .request("POST", "/mcp", &headers, body.clone())
            .await;
        assert_eq!(answer.status, 415, "{name}");
    }
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_stream_that_opens_and_closes_many_times_leaves_nothing_behind() {
    let (z, before) = calm().await;
    let session = z.target().session().await;
    for _ in 0..50 {
        let stream = session.stream().await;
        assert_eq!(stream.status, 200);
    }
    session.delete().await;
    z.assert_back_to(&before).await;
}
