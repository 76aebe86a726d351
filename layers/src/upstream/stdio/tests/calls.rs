//! Calls and their answers.

use super::*;
use crate::mcp::{CallFacts, headers};

#[tokio::test]
async fn an_answer_that_comes_first_is_json_with_the_id_as_it_was() {
    let rig = Rig::plain();
    let session = rig.open().await;
    for id in [
        json!(0),
        json!("0"),
        json!("a\"\\é"),
        json!(-7),
        json!(9007199254740993_u64),
    ] {
        let reply = rig
            .reply(post(&session, tool(id.clone(), "echo", "x")))
            .await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.json()["id"], id);
        assert_eq!(reply.json()["result"]["mark"], "x");
    }
    let reply = rig.reply(modern_tool("m", "echo", 5)).await;
    assert_eq!(
        (&reply.json()["id"], &reply.json()["result"]["mark"]),
        (&json!("m"), &json!(5))
    );
}

#[tokio::test]
async fn progress_makes_a_stream_and_the_answer_comes_last() {
    let rig = Rig::plain();
    let session = rig.open().await;
    for token in [json!("t"), json!(3), json!("3")] {
        let reply = rig
            .reply(post(
                &session,
                with_token(tool(1, "steps", 0), token.clone()),
            ))
            .await;
        assert!(reply.is_stream());
        assert_eq!(reply.messages.len(), 4);
        for (step, message) in reply.messages[..3].iter().enumerate() {
            assert_eq!(message["params"]["progressToken"], token);
            assert_eq!(message["params"]["progress"], step + 1);
        }
        assert_eq!(reply.last()["id"], 1);
    }
}

#[tokio::test]
async fn progress_that_nobody_asked_for_is_dropped() {
    // Without a token the server makes one up; it names the wire's number of the call.
    let arms = r#"*'"name":"made-up"'*) token=$id; progress 1; token=999; progress 1; token='"x"'; progress 1; answer '{}' ;;"#;
    let rig = Rig::new(arms, |_| {});
    let session = rig.open().await;
    let reply = rig.reply(post(&session, tool(1, "made-up", 0))).await;
    assert_eq!(reply.json()["id"], 1);
}

#[tokio::test]
async fn many_calls_are_in_flight_at_once() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let held: Vec<_> = (0..20)
        .map(|_| rig.start(post(&session, tool(1, "hold", 0))))
        .collect();
    rig.pending(20).await;
    rig.reply(post(&session, tool(1, "release", 0))).await;
    for call in held {
        let reply = call.await.expect("no panic").expect("a reply");
        assert_eq!(reply.json()["result"]["held"], true);
    }
    assert_eq!(rig.upstream.report().pending, 0);
}

#[tokio::test]
async fn the_header_says_which_session_it_is_whatever_the_client_sent() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let facts = |request: &mut Request<Body>| {
        let sealed =
            HeaderMap::from_iter([(headers::SESSION_ID, "sealed".parse().expect("a value"))]);
        let body = request.body().bytes().cloned().unwrap_or_default();
        let facts = CallFacts::read(request.method(), &sealed, &body);
        Exchange::of(request).set_call(facts.expect("a call"));
    };
    let mut call = post(&session, tool(1, "echo", 0));
    facts(&mut call);
    assert_eq!(rig.reply(call).await.status, 200);
    let mut unknown = post("sealed", tool(1, "echo", 0));
    facts(&mut unknown);
    let error = rig.send(unknown).await.expect_err("no such session");
    assert!(matches!(
        error.downcast_ref(),
        Some(StdioError::SessionGone)
    ));
    let mut stream = get(&session);
    facts(&mut stream);
    rig.send(stream).await.expect("a stream");
    let mut end = delete(&session);
    facts(&mut end);
    assert_eq!(rig.reply(end).await.status, 200);
}

#[tokio::test]
async fn silence_makes_a_stream() {
    let rig = Rig::new("", |s| s.silence = Duration::from_millis(20));
    let session = rig.open().await;
    let response = rig
        .send(post(&session, tool(1, "hold", 0)))
        .await
        .expect("a head");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    rig.reply(post(&session, tool(2, "release", 0))).await;
    let reply = read(response).await;
    assert_eq!((reply.messages.len(), &reply.last()["id"]), (1, &json!(1)));
}

#[tokio::test]
async fn whoever_takes_json_alone_gets_the_answer_alone() {
    let rig = Rig::new("", |s| s.silence = Duration::from_millis(20));
    let session = rig.open().await;
    let headers = [
        ("accept", "application/json"),
        ("mcp-session-id", &*session),
    ];
    let body = text(with_token(tool(1, "steps", 0), "t"));
    let reply = rig.reply(request(Method::POST, &headers, body)).await;
    assert_eq!(reply.json()["result"]["steps"], 3);
}

#[tokio::test]
async fn errors_of_the_server_pass_with_the_status_of_their_era() {
    let arms = r#"*'"name":"refuse"'*) fail "$mark" ;;"#;
    let rig = Rig::new(arms, |_| {});
    let session = rig.open().await;
    for (code, status) in [
        (-32601, 404),
        (-32020, 400),
        (-32021, 400),
        (-32602, 200),
        (-32603, 200),
    ] {
        let legacy = rig.reply(post(&session, tool(1, "refuse", code))).await;
        assert_eq!(
            (legacy.status.as_u16(), &legacy.json()["error"]["code"]),
            (200, &json!(code))
        );
        let modern = rig.reply(modern_tool(1, "refuse", code)).await;
        assert_eq!(
            (modern.status.as_u16(), &modern.json()["error"]["code"]),
            (status, &json!(code))
        );
    }
}

#[tokio::test]
async fn notifications_and_responses_are_taken_with_202() {
    let rig = Rig::plain();
    let session = rig.open().await;
    for body in [
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": "ask-1", "result": {"roots": []}}),
    ] {
        let reply = rig.reply(post(&session, body)).await;
        assert_eq!(
            (reply.status, reply.messages.len()),
            (StatusCode::ACCEPTED, 0)
        );
    }
    let heard = rig.reply(post(&session, tool(1, "heard", 0))).await.heard();
    assert_eq!(heard[0]["method"], "notifications/initialized");
    assert_eq!(heard[1]["id"], "ask-1");
}

fn batch(session: &str, accept: &str, messages: &[Value]) -> Request<Body> {
    let texts: Vec<String> = messages.iter().cloned().map(text).collect();
    let headers = [
        ("accept", accept),
        ("mcp-session-id", session),
        ("mcp-protocol-version", "2025-03-26"),
    ];
    request(Method::POST, &headers, format!("[{}]", texts.join(",\n")))
}

#[tokio::test]
async fn a_batch_gets_every_answer_as_a_stream_or_as_one_array() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let calls = [
        tool("a", "echo", 1),
        tool(2, "echo", 2),
        tool("2", "echo", 3),
    ];
    let reply = rig.reply(batch(&session, BOTH, &calls)).await;
    assert!(reply.is_stream() && reply.messages.len() == 3, "{reply:?}");
    let reply = rig.reply(batch(&session, "application/json", &calls)).await;
    let all = reply.json().as_array().expect("an array").clone();
    let ids: Vec<_> = all.iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, [json!("a"), json!(2), json!("2")]);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_is_not_sent_in_part() {
    let rig = Rig::new("", |s| s.max_pending = 2.try_into().expect("not zero"));
    let session = rig.open().await;
    let calls = [tool(1, "hold", 0), tool(2, "hold", 0), tool(3, "hold", 0)];
    let error = rig.error(batch(&session, BOTH, &calls)).await;
    assert!(matches!(error, StdioError::Busy { .. }) && rig.upstream.report().pending == 0);

    // Alone it may be longer than the buffer, as a single request may.
    let rig = Rig::new("", |s| s.buffer = 300);
    let session = rig.open().await;
    let all = rig.start(batch(&session, BOTH, &calls));
    rig.pending(3).await;
    rig.reply(post(&session, tool(1, "release", 0))).await;
    assert_eq!(
        all.await
            .expect("no panic")
            .expect("a reply")
            .messages
            .len(),
        3
    );
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_and_the_child_lives() {
    let rig = Rig::new("", |s| s.line_limit = 2000);
    let session = rig.open().await;
    let error = rig
        .error(post(&session, tool(1, "echo", "x".repeat(3000))))
        .await;
    assert!(matches!(error, StdioError::RequestTooLong { limit: 2000 }));
    rig.reply(post(&session, tool(1, "echo", 0))).await;
}

#[tokio::test]
async fn line_breaks_in_a_request_do_not_break_the_line() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let body = "{\r\n\"jsonrpc\":\"2.0\",\n\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{\"mark\":\"a\\nb\"}}\r\n}\n";
    let headers = [("accept", BOTH), ("mcp-session-id", &*session)];
    let reply = rig
        .reply(request(Method::POST, &headers, body.to_owned()))
        .await;
    assert_eq!(reply.json()["result"]["mark"], "a\nb");
}

#[tokio::test]
async fn what_the_endpoint_does_not_have_is_refused() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let modern_header = ("mcp-protocol-version", "2026-07-28");
    type Check = fn(&StdioError) -> bool;
    let cases: [(Request<Body>, Check); 9] = [
        (post("unknown", tool(1, "echo", 0)), |e| {
            matches!(e, StdioError::SessionGone)
        }),
        (request(Method::POST, &[], text(tool(1, "echo", 0))), |e| {
            matches!(e, StdioError::SessionRequired)
        }),
        (get("unknown"), |e| matches!(e, StdioError::SessionGone)),
        (
            request(Method::GET, &[("accept", BOTH)], String::new()),
            |e| matches!(e, StdioError::SessionRequired),
        ),
        (
            request(
                Method::GET,
                &[
                    ("accept", "application/json"),
                    ("mcp-session-id", &*session),
                ],
                String::new(),
            ),
            |e| matches!(e, StdioError::NotAcceptable),
        ),
        (
            request(
                Method::GET,
                &[("accept", BOTH), modern_header],
                String::new(),
            ),
            |e| matches!(e, StdioError::NotAllowed),
        ),
        (
            request(Method::DELETE, &[modern_header], String::new()),
            |e| matches!(e, StdioError::NotAllowed),
        ),
        (request(Method::PUT, &[], String::new()), |e| {
            matches!(e, StdioError::NotAllowed)
        }),
        (delete("unknown"), |e| matches!(e, StdioError::SessionGone)),
    ];
    for (request, is) in cases {
        let error = rig.error(request).await;
        assert!(is(&error), "{error}");
    }
    assert_eq!(rig.noted("starts").len(), 1);
}

#[tokio::test]
async fn modern_requests_are_held_against_their_headers_and_the_server() {
    let rig = Rig::plain();
    let mut bare = modern_tool(1, "echo", 0);
    bare.headers_mut().remove("mcp-name");
    let error = rig.send(bare).await.expect_err("a mismatch");
    assert!(find::<crate::mcp::headers::HeaderMismatch>(&*error).is_some());
    assert!(
        rig.noted("starts").is_empty(),
        "refused before anything is started"
    );
    let mut other = modern(1, "tools/list", json!({}));
    *other
        .headers_mut()
        .get_mut("mcp-protocol-version")
        .expect("there") = "2027-01-01".parse().expect("a value");
    let body = text(
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2027-01-01", "io.modelcontextprotocol/clientCapabilities": {}}}}),
    );
    *other.body_mut() = Body::full(body);
    let error = rig.error(other).await;
    assert!(
        matches!(error, StdioError::UnsupportedVersion { ref supported, .. } if supported == &["2026-07-28"])
    );
    let error = rig.error(modern(1, "initialize", json!({}))).await;
    assert!(matches!(error, StdioError::NoSuchMethod));
    // A cancellation over modern HTTP names nobody.
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
    let reply = rig
        .reply(request(Method::POST, &[("accept", BOTH)], text(cancel)))
        .await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
}

#[test]
fn nothing_secret_is_shown_for_debugging() {
    let mut settings = StdioSettings::new("files", ["/opt/server", "--key=s3cret"]);
    settings.env.push(("TOKEN".into(), "s3cret".into()));
    let shown = format!("{settings:?}");
    assert!(
        shown.contains("TOKEN") && !shown.contains("s3cret") && !shown.contains("/opt"),
        "{shown}"
    );
}

#[tokio::test]
async fn no_session_id_is_shown_for_debugging() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let stream = rig.send(get(&session)).await.expect("a stream");
    let shown = format!("{:?} {stream:?}", rig.upstream);
    assert!(!shown.contains(&session));
}

#[tokio::test]
async fn a_legacy_revision_that_is_unknown_is_refused() {
    let rig = Rig::plain();
    let session = rig.open().await;
    for (version, known) in [
        ("2024-11-05", true),
        ("2025-11-25", true),
        ("1999-01-01", false),
    ] {
        let mut request = post(&session, tool(1, "echo", 0));
        let value = version.parse().expect("a value");
        request.headers_mut().insert("mcp-protocol-version", value);
        let sent = rig.send(request).await;
        assert_eq!(sent.is_ok(), known, "{version}");
        if let Err(error) = sent {
            assert!(
                matches!(stdio(&*error), StdioError::Misplaced(_)),
                "{error}"
            );
        }
    }
}
