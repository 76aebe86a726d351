//! Exchanges that wait.

use super::*;

#[tokio::test]
async fn who_finds_no_place_to_wait_is_told_whether_the_upstream_was_asked() {
    let event: &'static str = Box::leak(format!("data: {ANSWER}\n\n").into_boxed_str());
    for (interest, media, frame, outcome) in [
        (REQUEST, JSON, ANSWER, "not_sent"),
        (MESSAGES, JSON, ANSWER, "unknown"),
        (MESSAGES, EVENTS, event, "unknown"),
    ] {
        let settings = InterceptSettings {
            paused: Paused::new(0),
            ..InterceptSettings::default()
        };
        let pause = PauseSettings {
            limit: Duration::from_secs(60),
            then: AtLimit::Block,
        };
        let (layer, _) = script_with(settings, interest, move |_, _| Decision::Pause(pause));
        let (status, body, given) = send(&layer, call(CALL, &[]), media, vec![frame]).await;
        let text = body.strip_prefix("data: ").unwrap_or(&body);
        let answer: Value = serde_json::from_str(text).expect("JSON");
        let data = &answer["error"]["data"];
        assert_eq!((status.as_u16(), &answer["id"]), (200, &json!("seven")));
        assert_eq!(
            (&data["kind"], &data["outcome"]),
            (&json!("too_many_paused"), &json!(outcome))
        );
        // What may have been done must not be done again.
        assert_eq!(data.get("retry_after_ms").is_some(), interest == REQUEST);
        assert_eq!(
            given.lock().expect("not poisoned").is_empty(),
            interest == REQUEST
        );
    }
}
