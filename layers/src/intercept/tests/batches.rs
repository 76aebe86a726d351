//! Batches, and answers that come from no upstream.

use super::*;
use crate::observe::ObserveLayer;

#[tokio::test]
async fn a_mocked_call_has_its_result_in_the_form_of_its_era() {
    let (layer, _) = script(REQUEST, |_, _| {
        Decision::Mock(Mock::Result(json!({"content": []})))
    });
    let (_, body, given) = send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    assert_eq!(
        body,
        r#"{"jsonrpc":"2.0","id":"seven","result":{"content":[]}}"#
    );
    assert!(given.lock().expect("not poisoned").is_empty());
    let modern = r#"{"id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let (_, body, _) = send(&layer, call(modern, &[]), JSON, vec![]).await;
    assert!(body.contains(r#""resultType":"complete""#), "{body}");
    let batch = r#"[{"id":1,"method":"ping"},{"method":"notifications/initialized"},{"id":2,"method":"ping"}]"#;
    let (_, body, _) = send(&layer, call(batch, &[]), JSON, vec![]).await;
    let answers: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&answers[0]["id"], &answers[1]["id"]),
        (&json!(1), &json!(2))
    );
    let told = r#"{"method":"notifications/initialized"}"#;
    let (status, body, _) = send(&layer, call(told, &[]), JSON, vec![]).await;
    assert_eq!((status.as_u16(), body.as_str()), (202, ""));
}

#[tokio::test]
async fn a_batch_is_shown_and_changed_element_by_element() {
    let (layer, seen) = script(REQUEST, |message, _| {
        let is_call = message
            .as_ref()
            .is_some_and(|m| m.facts().is_some_and(|f| f.tool().is_some()));
        if is_call {
            edits(message, set("/params/name", "\"b\""))
        } else {
            Decision::Continue
        }
    });
    let text =
        r#"[ {"id":1,"method":"ping"}, {"id":2,"method":"tools/call","params":{"name":"a"}} ]"#;
    let (_, _, given) = send(&layer, call(text, &[]), JSON, vec!["[]"]).await;
    assert_eq!(
        given.lock().expect("not poisoned")[0].1,
        text.replace("\"a\"", "\"b\"")
    );
    assert_eq!(seen.lock().expect("not poisoned").len(), 2);
    // A part of it cannot be answered without the rest.
    let (layer, _) = script(REQUEST, |message, _| {
        let is_call = message.is_some_and(|m| m.facts().is_some_and(|f| f.tool().is_some()));
        if is_call {
            Decision::Mock(Mock::Result(json!({})))
        } else {
            Decision::Continue
        }
    });
    let (status, body, _) = send(&layer, call(text, &[]), JSON, vec![]).await;
    assert_eq!(status, 400);
    assert!(body.contains("unreadable"), "{body}");
    // Nor can a notification be left behind.
    let text =
        r#"[{"id":2,"method":"tools/call","params":{"name":"a"}},{"method":"notifications/x"}]"#;
    let (status, body, given) = send(&layer, call(text, &[]), JSON, vec![]).await;
    assert_eq!(status, 400, "{body}");
    assert!(given.lock().expect("not poisoned").is_empty());
}

/// Two calls in one request, and a server's answer to both, with what it tells beside.
const CALLS: &str = r#"[{"id":1,"method":"tools/call","params":{"name":"a"}},{"id":2,"method":"tools/call","params":{"name":"b"}}]"#;
const ANSWERS: &str = r#"[ {"id":1,"result":{"n":1.0}}, {"method":"notifications/message"},{"id":2, "result":{"n":2.0}} ]"#;

/// Has the answers to these messages go on, changed, or refused.
fn judged(of: impl Fn(&Message) -> Decision + Send + Sync + 'static) -> (InterceptLayer, Seen) {
    script(MESSAGES, move |message, _| {
        let message = message.expect("a message");
        match of(message) {
            Decision::Delay(_) => edits(Some(message), set("/result/n", "5")),
            other => other,
        }
    })
}

fn answers(message: &Message, id: &str) -> bool {
    let id = |facts: &crate::mcp::MessageFacts| facts.id().is_some_and(|own| own.as_json() == id);
    message.direction() == Direction::Response && message.facts().is_some_and(id)
}

#[tokio::test]
async fn a_batch_of_answers_is_shown_element_by_element_in_a_body_and_in_an_event() {
    for media in [JSON, EVENTS] {
        let wrapped = |text: &str| match media {
            JSON => text.to_owned(),
            _ => format!("id: 4\ndata: {text}\n\n"),
        };
        let frame: &'static str = Box::leak(wrapped(ANSWERS).into_boxed_str());
        let (layer, seen) = judged(|_| Decision::Continue);
        let (_, body, _) = send(&layer, call(CALLS, &[]), media, vec![frame]).await;
        assert_eq!(body, frame);
        assert_eq!(seen.lock().expect("not poisoned").len(), 3);
        // One is changed where it stands.
        let (layer, _) = judged(|message| match answers(message, "2") {
            true => Decision::Delay(Duration::ZERO),
            false => Decision::Continue,
        });
        let (_, body, _) = send(&layer, call(CALLS, &[]), media, vec![frame]).await;
        assert_eq!(body, wrapped(&ANSWERS.replace("2.0", "5")));
        // One is refused, and another is left out: who waits for the rest gets it.
        let (layer, _) = judged(|message| match answers(message, "1") {
            true => Decision::Continue,
            false => block(),
        });
        let (_, body, _) = send(&layer, call(CALLS, &[]), media, vec![frame]).await;
        let text = body.strip_prefix("id: 4\ndata: ").unwrap_or(&body);
        let all: Vec<Value> = serde_json::from_str(text).expect("JSON");
        assert_eq!(all.len(), 2, "{body}");
        assert_eq!(all[0], json!({"id": 1, "result": {"n": 1.0}}));
        assert_eq!(
            (&all[1]["id"], &all[1]["error"]["code"]),
            (&json!(2), &json!(403))
        );
    }
}

#[tokio::test]
async fn a_batch_on_a_stream_that_answers_no_call_is_shown_as_well() {
    let told =
        "id: 7\ndata: [{\"method\":\"notifications/a\"},{\"method\":\"notifications/b\"}]\n\n";
    let standing = || {
        let mut request = Request::new(Body::empty());
        let facts = CallFacts::read(&Method::GET, &HeaderMap::new(), &Bytes::new());
        Exchange::of(&mut request).set_call(facts.expect("facts"));
        request
    };
    let (layer, seen) = judged(|_| Decision::Continue);
    let (_, body, _) = send(&layer, standing(), EVENTS, vec![told]).await;
    assert_eq!(body, told);
    assert_eq!(seen.lock().expect("not poisoned").len(), 2);
    let is = |name: &'static str| {
        move |message: &Message| match message.facts().is_some_and(|facts| facts.is(name)) {
            true => block(),
            false => Decision::Continue,
        }
    };
    let (layer, _) = judged(is("notifications/a"));
    let (_, body, _) = send(&layer, standing(), EVENTS, vec![told]).await;
    assert_eq!(body, "id: 7\ndata: [{\"method\":\"notifications/b\"}]\n\n");
    let (layer, _) = judged(|_| block());
    // What is no batch, though it begins as one, is left out as anything else that cannot be read.
    for text in [told, "id: 7\ndata: [{\n\n", "id: 7\ndata: [[],5]\n\n"] {
        let (_, body, _) = send(&layer, standing(), EVENTS, vec![text]).await;
        assert_eq!(body, "id: 7\n\n", "{text}");
    }
}

#[tokio::test]
async fn each_answer_of_a_batch_in_an_event_counts() {
    let request = call(CALLS, &[]);
    let exchange = Exchange::get(&request).expect("an exchange").clone();
    let event: &'static str = Box::leak(format!("data: {ANSWERS}\n\n").into_boxed_str());
    let service = ObserveLayer::new("one").layer(server(EVENTS, vec![event], &Given::default()));
    let response = service.oneshot(request).await.expect("a head");
    response.into_body().collect().await.expect("a body");
    assert!(exchange.is_answered() && !exchange.is_left_unanswered());
    assert_eq!(exchange.response().events(), 1);
}
