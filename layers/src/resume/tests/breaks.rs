//! What is resumed, and how it is asked for.

use http::HeaderValue;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_goes_on_where_it_was() {
    let server = Server::new([
        Act::Cut(vec![ONE, "id: 2\nda"]),
        Act::End(vec![TWO, ANSWER]),
    ]);
    let (text, ended) = whole(&server, call("2025-06-18")).await;
    assert_eq!((text, ended), ([ONE, TWO, ANSWER].concat(), Ended::Well));
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    let asked = &seen[1];
    assert_eq!(
        (&asked.method, &*asked.uri),
        (&Method::GET, "http://u/mcp?x=1")
    );
    assert_eq!(asked.headers[LAST_EVENT_ID], "1");
    assert_eq!(asked.headers[header::ACCEPT], "text/event-stream");
    assert_eq!(asked.headers[header::AUTHORIZATION], "Bearer t");
    assert_eq!(asked.headers[SESSION_ID], "s");
    assert_eq!(asked.headers["mcp-protocol-version"], "2025-06-18");
    assert!(!asked.headers.contains_key(header::CONTENT_TYPE));
    assert!(asked.at - seen[0].at <= Duration::from_millis(201));
}

#[tokio::test(start_paused = true)]
async fn an_end_before_the_answer_is_a_break_also_in_the_middle_of_an_event() {
    let server = Server::new([
        Act::End(vec![ONE, "id: 2\ndata: {\"jso"]),
        Act::End(vec![TWO]),
        Act::End(vec![ANSWER]),
    ]);
    let (text, ended) = whole(&server, call("2025-11-25")).await;
    assert_eq!((text, ended), ([ONE, TWO, ANSWER].concat(), Ended::Well));
    assert_eq!(server.cursors(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_the_answer_is_no_break() {
    for act in [Act::Cut(vec![ONE, ANSWER]), Act::End(vec![ONE, ANSWER])] {
        let server = Server::new([act]);
        let (text, _) = whole(&server, call("2025-06-18")).await;
        assert_eq!(text, [ONE, ANSWER].concat());
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_stream_goes_on_after_its_newest_id_or_is_opened_anew() {
    let anonymous = "data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n";
    for (first, cursor) in [(ONE, "1"), (anonymous, ""), (":\n\n", "")] {
        let server = Server::new([Act::Cut(vec![first]), Act::End(vec![TWO])]);
        let (text, ended) = whole(&server, stream()).await;
        assert_eq!((text, ended), ([first, TWO].concat(), Ended::Well));
        assert_eq!(server.cursors(), [cursor]);
    }
    // Its end is the server's word.
    let server = Server::new([Act::End(vec![ONE])]);
    assert_eq!(whole(&server, stream()).await, (ONE.into(), Ended::Well));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_client_resumes_is_resumed_from_there() {
    let server = Server::new([Act::Cut(vec![]), Act::Cut(vec![ONE]), Act::End(vec![TWO])]);
    let mut request = stream();
    let cursor = "0".parse().expect("a value");
    request.headers_mut().insert(LAST_EVENT_ID, cursor);
    let (text, _) = whole(&server, request).await;
    assert_eq!(text, [ONE, TWO].concat());
    assert_eq!(server.cursors(), ["0", "1"]);
    // The answer that it came for ends it.
    let server = Server::new([Act::Cut(vec![ANSWER])]);
    assert_eq!(whole(&server, stream()).await.0, ANSWER);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn plain_events_go_on_if_they_have_ids() {
    let server = Server::new([
        Act::Cut(vec!["id: a\ndata: 1\n\nid"]),
        Act::End(vec!["data: 2\n\n"]),
    ]);
    let (text, ended) = whole(&server, plain()).await;
    assert_eq!(
        (&*text, ended),
        ("id: a\ndata: 1\n\ndata: 2\n\n", Ended::Well)
    );
    assert_eq!(server.cursors(), ["a"]);
    let server = Server::new([Act::Cut(vec!["data: 1\n\n"])]);
    assert_eq!(whole(&server, plain()).await.1, Ended::Cut);
    assert_eq!(server.seen().len(), 1);
    let server = Server::new([Act::End(vec!["id: a\ndata: 1\n\n"])]);
    assert_eq!(whole(&server, plain()).await.1, Ended::Well);
    assert_eq!(server.seen().len(), 1);
    // A download is none, whatever it is called.
    let server = Server::new([Act::Cut(vec!["id: a\ndata: 1\n\n"])]);
    let download = Request::get("http://u/x").body(Body::empty());
    assert_eq!(whole(&server, download.expect("valid")).await.1, Ended::Cut);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_a_stream_to_be_asked_again_is_asked_again_for_old_clients_alone() {
    const PRIMED: &str = "id: 5\nretry: 3000\ndata:\n\n";
    let server = Server::new([
        Act::End(vec![PRIMED]),
        Act::End(vec!["id: 6\ndata:\n\n"]),
        Act::End(vec![ANSWER]),
    ]);
    let (text, _) = whole(&server, call("2025-06-18")).await;
    assert_eq!(text, [PRIMED, "id: 6\ndata:\n\n", ANSWER].concat());
    assert_eq!(server.cursors(), ["5", "6"]);
    for pair in server.seen().windows(2) {
        let pause = pair[1].at - pair[0].at;
        let asked = Duration::from_secs(3)..=Duration::from_millis(3201);
        assert!(asked.contains(&pause), "{pause:?}");
    }
    let server = Server::new([Act::End(vec![PRIMED])]);
    let request = call("2025-11-25");
    let exchange = Exchange::get(&request).expect("one").clone();
    assert_eq!(whole(&server, request).await, (PRIMED.into(), Ended::Well));
    assert_eq!(server.seen().len(), 1);
    assert!(!exchange.is_left_unanswered(), "its client comes back");
}

#[tokio::test(start_paused = true)]
async fn polling_uses_up_no_try() {
    let polls = (0..40).map(|_| Act::End(vec!["id: 5\nretry: 1000\ndata:\n\n"]));
    let server = Server::new(polls.chain([Act::End(vec![ANSWER])]));
    let (text, ended) = whole(&server, call("2025-03-26")).await;
    assert!(text.ends_with(ANSWER) && ended == Ended::Well);
    assert_eq!(server.seen().len(), 41);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_repeats_is_left_out() {
    let half = &TWO[..9];
    let rest = &TWO[9..];
    for again in [
        vec![":\n\n", TWO, ANSWER],
        vec![":\n\n", half, rest, ANSWER],
        vec![TWO, ":\n\n", ANSWER],
    ] {
        let server = Server::new([Act::Cut(vec![ONE, TWO]), Act::End(again)]);
        let request = call("2025-06-18");
        let exchange = Exchange::get(&request).expect("one").clone();
        let (text, _) = whole(&server, request).await;
        assert_eq!(text, [ONE, TWO, ":\n\n", ANSWER].concat());
        assert_eq!(exchange.response().events(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_answer_began_is_the_one_to_ask_in() {
    let init = br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
    let mut request = mcp(Method::POST, "2025-06-18", Bytes::from_static(init));
    request.headers_mut().remove(SESSION_ID);
    let server = Server::new([Act::Cut(vec![ONE]), Act::End(vec![ANSWER])]);
    assert_eq!(whole(&server, request).await.0, [ONE, ANSWER].concat());
    assert_eq!(server.seen()[1].headers[SESSION_ID], "begun");
}

#[tokio::test(start_paused = true)]
async fn a_question_outlives_the_connection_that_it_was_asked_on() {
    let ask =
        "id: 3\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"elicitation/create\"}\n\n";
    let server = Server::new([Act::Cut(vec![ask]), Act::Stall(vec![TWO])]);
    let request = call("2025-06-18");
    let exchange = Exchange::get(&request).expect("one").clone();
    let mut body = open(&server, request).await;
    for _ in 0..2 {
        let _frame = body.frame().await.expect("a frame").expect("no error");
        assert!(exchange.wait().open, "no clock may run");
    }
    assert_eq!(server.seen().len(), 2);
    drop(body);
    assert!(!exchange.wait().open, "it ends with its stream");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_body_ends_its_reconnecting() {
    for act in [Act::Down, Act::Never] {
        let server = Server::new([Act::Cut(vec![ONE]), act]);
        let mut body = open(&server, stream()).await;
        let _first = body.frame().await.expect("a frame").expect("no error");
        let more = tokio::time::timeout(Duration::from_secs(20), body.frame()).await;
        assert!(more.is_err());
        let asked = server.seen().len();
        assert!(asked > 1);
        drop(body);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(server.seen().len(), asked);
        assert_eq!(Arc::strong_count(&server.0), 1, "nothing is left of it");
    }
}

#[test]
fn ids_that_cannot_be_asked_with_are_none() {
    let mut request = call("2025-06-18");
    let exchange = Exchange::of(&mut request);
    let head = asking::Head::of(&request, &exchange).expect("a call");
    assert_eq!(head.cursor(&exchange), None);
    for (id, known) in [("a b", true), ("é", true), ("a\u{7}", false), ("", false)] {
        exchange.response().saw_event_id(id.into());
        assert_eq!(head.cursor(&exchange).is_some(), known, "{id:?}");
    }
    assert!(!exchange.response().has_event_id());
}

#[test]
fn what_a_stream_keeps_of_its_request_is_not_the_buffer_that_it_came_in() {
    let buffer = Bytes::from("/mcp?x=1s-1Bearer secret17".as_bytes().to_vec());
    let piece = |range| HeaderValue::from_maybe_shared(buffer.slice(range)).expect("a value");
    let mut request = Request::new(());
    *request.uri_mut() = http::Uri::from_maybe_shared(buffer.slice(..8)).expect("a URI");
    let headers = request.headers_mut();
    headers.insert("mcp-session-id", piece(8..11));
    let mut secret = piece(11..24);
    secret.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, secret);
    headers.insert("last-event-id", piece(24..26));
    let exchange = Exchange::of(&mut request);
    let facts = CallFacts::read(&Method::GET, request.headers(), &Bytes::new()).expect("a stream");
    exchange.set_call(facts);
    let mut head = asking::Head::of(&request, &exchange).expect("a stream");
    let before = head.request(&exchange, ());
    head.detach();
    let after = head.request(&exchange, ());
    assert_eq!(after.uri(), before.uri());
    assert_eq!(after.headers(), before.headers());
    assert!(after.headers()[header::AUTHORIZATION].is_sensitive());
    assert_eq!(after.headers()["last-event-id"], "17");
    drop((request, before));
    assert!(buffer.is_unique());
}
