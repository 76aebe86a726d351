//! Batches, and answers that come from no upstream.

use super::*;

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
