//! Event streams: what becomes of them where something on them is refused, or cannot be seen.

use super::*;
use crate::{exchange::GiveUp, mcp::peek::Answer, observe::ObserveLayer};

/// A client that comes back for a stream, or that listens to a standing one.
fn get() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let facts = CallFacts::read(&Method::GET, &HeaderMap::new(), &Bytes::new()).expect("facts");
    Exchange::of(&mut request).set_call(facts);
    request
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

const STREAM: [&str; 3] = [
    ": hi\n\nid: 1\ndata: {\"method\":\"notifications/progress\",\"params\":{\"n\":1}}\n\nid: 2\nda",
    "ta: {\"jsonrpc\":\"2.0\",\"id\":\"seven\",\ndata:  \"result\":{\"n\":1}}\nretry: 9",
    "\n\n",
];

#[tokio::test]
async fn a_message_of_a_stream_is_changed_in_its_event() {
    let (layer, seen) = script(MESSAGES, |message, _| {
        let answers = message
            .as_ref()
            .is_some_and(|m| m.direction() == Direction::Response);
        if answers {
            edits(message, set("/result/n", "2"))
        } else {
            Decision::Continue
        }
    });
    let (_, body, _) = send(&layer, call(CALL, &[]), EVENTS, STREAM.to_vec()).await;
    let (kept, changed) = body.split_at(STREAM[0].len() - 8);
    assert_eq!(kept, &STREAM[0][..STREAM[0].len() - 8]);
    assert_eq!(changed, "id: 2\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"seven\",\ndata: \"result\":{\"n\":2}}\nretry: 9\n\n".replace("data: \"r", "data:  \"r"));
    assert_eq!(seen.lock().expect("not poisoned").len(), 2);
}

#[tokio::test]
async fn what_is_refused_on_a_stream_leaves_an_honest_event() {
    let (layer, _) = script(MESSAGES, |_, _| block());
    let (_, body, _) = send(&layer, call(CALL, &[]), EVENTS, STREAM.to_vec()).await;
    assert!(body.starts_with(": hi\n\nid: 1\n\nid: 2\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"seven\",\"error\":{\"code\":403"), "{body}");
    assert!(body.ends_with("retry: 9\n\n"), "{body}");
}

#[tokio::test]
async fn a_question_that_nobody_would_answer_ends_its_call_and_says_why() {
    let question = "data: {\"id\":1,\"method\":\"sampling/createMessage\"}\n\n";
    let (blocked, _) = script(MESSAGES, |_, _| block());
    let (unreadable, _) = script(MESSAGES, |_, _| Decision::Unreadable("no".to_owned()));
    for (layer, why) in [(blocked, GiveUp::Operator), (unreadable, GiveUp::Proxy)] {
        let request = call(CALL, &[]);
        let exchange = Exchange::get(&request).expect("an exchange").clone();
        let service = layer.layer(server(EVENTS, vec![question], &Given::default()));
        let response = service.oneshot(request).await.expect("a head");
        // To the one who waits, what could not be shown is told in the stream.
        let read = response.into_body().collect().await;
        let error = read.as_ref().err().map(|error| &**error);
        assert_eq!(
            error.is_some_and(|error| find::<Blocked>(error).is_some()),
            why == GiveUp::Operator
        );
        assert_eq!(exchange.gave_up(), Some(why));
    }
}

#[tokio::test]
async fn what_is_too_long_or_encoded_is_refused_or_passes_as_set() {
    let long = ANSWER.replace("[]", &format!("[\"{}\"]", "x".repeat(300)));
    let event = leak(format!("data: {long}\n\n"));
    for lenient in [false, true] {
        let settings = InterceptSettings {
            cap: 200,
            lenient,
            ..InterceptSettings::default()
        };
        let (layer, _) = script_with(settings, Interest::ALL, |_, _| Decision::Continue);
        let stream = layer.layer(server(EVENTS, vec![event], &Given::default()));
        let response = stream.oneshot(call(CALL, &[])).await.expect("a head");
        let read = response.into_body().collect().await;
        assert_eq!(read.is_ok_and(|body| body.to_bytes() == event), lenient);
        let request = call(&CALL.replace("1.50", &"1".repeat(200)), &[]);
        let (_, body, _) = send(&layer, request, JSON, vec![ANSWER]).await;
        assert_eq!(body == ANSWER, lenient, "{body}");
    }
    let (layer, _) = script(MESSAGES, |_, _| Decision::Continue);
    let zipped = layer.layer(service_fn(async |_: Request<Body>| {
        let mut response = Response::new(Body::full("zipped"));
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        Ok::<_, BoxError>(response)
    }));
    let error = zipped.oneshot(call(CALL, &[])).await.expect_err("refused");
    assert!(find::<Unreadable>(&*error).is_some_and(|e| e.sent));
}

#[tokio::test]
async fn what_is_refused_on_a_stream_that_answers_no_call_leaves_its_id() {
    let question = r#"{"id":1,"method":"sampling/createMessage"}"#;
    let told = r#"{"method":"notifications/message"}"#;
    let settings = InterceptSettings {
        cap: 200,
        ..InterceptSettings::default()
    };
    let (layer, _) = script_with(settings, MESSAGES, |message, _| {
        let facts = message.as_ref().and_then(|m| m.facts());
        match facts.is_some_and(|facts| facts.is("sampling/createMessage")) {
            true => block(),
            false => Decision::Continue,
        }
    });
    let long = told.replace(
        "message\"}",
        &format!("message\",\"x\":\"{}\"}}", "x".repeat(300)),
    );
    for refused in [question, "{", &long] {
        // Whole, in pieces, and with the id behind.
        let before = leak(format!("id: 4\ndata: {told}\n\n"));
        let event = leak(format!("id: 5\ndata: {refused}\n\n"));
        let other = leak(format!("data: {refused}\nid: 5\n\n"));
        let after = leak(format!("id: 6\ndata: {told}\n\n"));
        let (one, two) = event.split_at(event.len() - 10);
        let (three, four) = other.split_at(other.len() - 10);
        for frames in [
            vec![before, event, after],
            vec![before, one, two, after],
            vec![before, three, four, after],
        ] {
            let (_, body, _) = send(&layer, get(), EVENTS, frames).await;
            assert_eq!(body, format!("{before}id: 5\n\n{after}"), "{refused}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_shown_becomes_an_error_on_its_stream() {
    let settings = InterceptSettings {
        cap: 1000,
        ..InterceptSettings::default()
    };
    let (layer, _) = script_with(settings, MESSAGES, |_, _| Decision::Continue);
    let over = |bytes: usize| ANSWER.replace("[]", &format!("[\"{}\"]", "x".repeat(bytes)));
    let twice = ANSWER.replace("{\"jsonrpc\"", "{\"id\":\"seven\",\"jsonrpc\"");
    // The observer lets go of what is longer than it holds.
    for answer in [over(2000), over(3 << 20), twice] {
        let event = leak(format!("id: 1\ndata: {answer}\n\n"));
        let pieces = event.as_bytes().chunks(64 << 10);
        let pieces = pieces.map(|p| std::str::from_utf8(p).expect("ASCII"));
        let frames: Vec<_> = std::iter::once(": hi\n\n").chain(pieces).collect();
        let given = Given::default();
        let observed = ObserveLayer::new("one").layer(server(EVENTS, frames, &given));
        let service = RescueLayer::new().layer(layer.layer(observed));
        let response = service.oneshot(call(CALL, &[])).await.expect("rescued");
        let body = response.into_body().collect().await.expect("it ends well");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let data = body.strip_prefix(": hi\n\nevent: message\ndata: ");
        let data: Value = serde_json::from_str(data.expect("one event")).expect("JSON");
        assert_eq!(
            (
                &data["id"],
                &data["error"]["data"]["kind"],
                &data["error"]["data"]["outcome"]
            ),
            (&json!("seven"), &json!("unreadable"), &json!("unknown")),
        );
    }
}

#[tokio::test]
async fn a_call_that_has_its_answer_gets_no_other_one() {
    let settings = InterceptSettings {
        cap: 200,
        ..InterceptSettings::default()
    };
    let (layer, _) = script_with(settings, MESSAGES, |_, _| Decision::Continue);
    let answer = leak(format!("data: {ANSWER}\n\n"));
    let long = leak(format!("data: {}\n\n", "x".repeat(300)));
    let stream = layer.layer(server(EVENTS, vec![answer, long], &Given::default()));
    let response = stream.oneshot(call(CALL, &[])).await.expect("a head");
    let mut body = response.into_body();
    let first = body.frame().await.expect("a frame").expect("an answer");
    assert_eq!(first.into_data().expect("data"), answer);
    let error = body.frame().await.expect("an end").expect_err("too long");
    assert!(find::<Unreadable>(&*error).is_some_and(|e| e.sent));
}

#[tokio::test]
async fn what_was_changed_keeps_no_digest_behind_it() {
    let trailing = |body: &'static str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("repr-digest", HeaderValue::from_static("sha-256=:x:"));
        trailers.insert("x-took", HeaderValue::from_static("5"));
        let frames = [Frame::data(Bytes::from(body)), Frame::trailers(trailers)];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, BoxError>));
        Body::new(StreamBody::new(frames))
    };
    for changes in [true, false] {
        let (layer, _) = script(Interest::ALL, move |message, _| match message {
            Some(message) if changes => {
                message.replace("{\"b\":2}".to_owned()).expect("it fits");
                Decision::Continue
            }
            _ => Decision::Continue,
        });
        let trailers = Arc::new(Mutex::new(Vec::new()));
        let seen = trailers.clone();
        let service = layer.layer(service_fn(move |request: Request<Body>| {
            let seen = seen.clone();
            async move {
                let asked = request.into_body().collect().await?;
                let trailers = asked.trailers().cloned().expect("trailers");
                seen.lock().expect("not poisoned").push(trailers);
                let mut response = Response::new(trailing("{\"c\":3}"));
                let json = HeaderValue::from_static(JSON);
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Ok::<_, BoxError>(response)
            }
        }));
        let response = service.oneshot(Request::new(trailing("{\"a\":1}"))).await;
        let body = response.expect("a head").into_body().collect().await;
        let told = body.expect("a body").trailers().cloned();
        let mut trailers = trailers.lock().expect("not poisoned");
        trailers.push(told.expect("trailers"));
        for trailers in trailers.iter() {
            assert_eq!(trailers.contains_key("repr-digest"), !changes);
            assert_eq!(trailers["x-took"], "5");
        }
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_one_at_the_beginning_of_a_stream_only() {
    let (layer, seen) = script(MESSAGES, |_, _| block());
    // To a client a later one is a part of a field's name, which it does not know.
    let hidden = leak(format!("\u{feff}event: ping\ndata: {ANSWER}\n\n"));
    let begins = "\u{feff}data: {\"method\":\"x\"}\n\n";
    let (_, body, _) = send(&layer, call(CALL, &[]), EVENTS, vec![begins, hidden]).await;
    assert_eq!(seen.lock().expect("not poisoned").len(), 2, "{body}");
    assert!(
        body.contains(r#""id":"seven","error":{"code":403"#),
        "{body}"
    );
    assert!(!body.contains("result"), "{body}");
}

#[tokio::test]
async fn what_comes_first_is_read_behind_a_byte_order_mark() {
    let text = leak(format!("\u{feff}id: 5\r\ndata: {ANSWER}\r\n\r\n"));
    for at in 0..=8 {
        let request = call(CALL, &[]);
        let exchange = Exchange::get(&request).expect("an exchange").clone();
        let service = ObserveLayer::new("one").layer(service_fn(move |_: Request<Body>| {
            let (one, two) = text.as_bytes().split_at(at);
            let frames = [one, two].map(|piece| Frame::data(Bytes::from_static(piece)));
            let frames = futures_util::stream::iter(frames.map(Ok::<_, BoxError>));
            let mut response = Response::new(Body::new(StreamBody::new(frames)));
            let events = HeaderValue::from_static(EVENTS);
            response.headers_mut().insert(header::CONTENT_TYPE, events);
            async move { Ok::<_, BoxError>(response) }
        }));
        let response = service.oneshot(request).await.expect("a head");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), text);
        assert!(exchange.is_answered(), "{at}");
        assert_eq!(exchange.response().event_id().as_deref(), Some("5"));
    }
    // One that is left out keeps its id.
    let settings = InterceptSettings {
        cap: 20,
        ..InterceptSettings::default()
    };
    let (layer, _) = script_with(settings, MESSAGES, |_, _| Decision::Continue);
    let (_, body, _) = send(&layer, get(), EVENTS, vec![text]).await;
    assert_eq!(body, "id: 5\n\n");
}

#[tokio::test]
async fn a_layer_that_only_looks_refuses_and_holds_nothing() {
    let settings = || InterceptSettings {
        lenient: true,
        ..InterceptSettings::default()
    };
    let (layer, seen) = script_with(settings(), Interest::ALL, |_, _| Decision::Continue);
    let request = call(CALL, &[("mcp-name", "other")]);
    let (_, body, _) = send(&layer, request, JSON, vec![ANSWER]).await;
    assert_eq!(body, ANSWER);
    let (_, body, _) = send(&layer, call(CALL, &[]), JSON, vec!["[{]"]).await;
    assert_eq!(body, "[{]");
    // Of what is encoded nobody can tell where an event ends: it must not wait for that.
    let zipped = |coding: &'static str| {
        layer.layer(service_fn(move |_: Request<Body>| async move {
            let frames = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data("zip".into()))]);
            let frames = futures_util::StreamExt::chain(frames, futures_util::stream::pending());
            let mut response = Response::new(Body::new(StreamBody::new(frames)));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
            headers.append(
                header::CONTENT_ENCODING,
                HeaderValue::from_static("identity"),
            );
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            Ok::<_, BoxError>(response)
        }))
    };
    let response = zipped("gzip")
        .oneshot(call(CALL, &[]))
        .await
        .expect("a head");
    let mut body = response.into_body();
    let first = futures_util::FutureExt::now_or_never(body.frame());
    let first = first.expect("it does not wait").expect("a frame");
    assert_eq!(first.expect("data").into_data().expect("data"), "zip");
    // What is plain by any spelling is shown.
    let response = zipped("Identity").oneshot(call(CALL, &[])).await;
    let mut body = response.expect("a head").into_body();
    assert!(futures_util::FutureExt::now_or_never(body.frame()).is_none());
    assert!(seen.lock().expect("not poisoned").len() > 2);
}

#[tokio::test]
async fn an_answer_in_the_place_of_another_counts_once() {
    let (layer, _) = script(MESSAGES, |_, _| {
        Decision::Mock(Mock::Result(json!({"isError": true})))
    });
    let request = call(&format!("[{CALL},{}]", CALL.replace("seven", "eight")), &[]);
    let exchange = Exchange::get(&request).expect("an exchange").clone();
    let answer = leak(format!("data: {ANSWER}\n\n"));
    let observed = ObserveLayer::new("one").layer(server(EVENTS, vec![answer], &Given::default()));
    let response = layer.layer(observed).oneshot(request).await;
    let body = response.expect("a head").into_body();
    let body = body.collect().await.expect("a body").to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("isError"));
    assert_eq!(exchange.response().answer(), Some(Answer::ToolError));
    assert!(!exchange.is_answered(), "one of two");
}
