//! Exchanges that wait.

use super::*;

/// Until one waits.
async fn waits_one(paused: &Paused) {
    let waits = async {
        while paused.list().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, waits).await.expect("it waits");
}

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

#[tokio::test(start_paused = true)]
async fn a_delay_takes_its_time_and_a_pause_waits_for_a_decision() {
    let (layer, _) = script(REQUEST, |_, _| Decision::Delay(Duration::from_secs(7)));
    let start = Instant::now();
    send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    let unfit = Resolution::ResumeWith(CALL.replace("seven", "eight"));
    for (resolution, mut told) in [
        (Resolution::Resume, ANSWER),
        (
            Resolution::ResumeWith(CALL.replace("\"x\"", "\"y\"")),
            ANSWER,
        ),
        (unfit.clone(), "the id of a message must stay"),
        (
            Resolution::Block(Block {
                message: "no".to_owned(),
            }),
            "\"message\":\"no\"",
        ),
    ] {
        let settings = PauseSettings {
            limit: Duration::from_secs(60),
            then: AtLimit::Block,
        };
        let paused = Paused::default();
        let of = InterceptSettings {
            paused: paused.clone(),
            ..InterceptSettings::default()
        };
        let (layer, _) = script_with(of, REQUEST, move |_, _| Decision::Pause(settings));
        let waits =
            tokio::spawn(async move { send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await });
        waits_one(&paused).await;
        let id = paused.list()[0].id;
        match paused.decide(id, resolution.clone()) {
            Ok(()) => {}
            Err(unfit) => {
                assert!(unfit.to_string().contains(told), "{unfit}");
                told = ANSWER;
                paused
                    .decide(id, Resolution::Resume)
                    .expect("it still waits");
            }
        }
        let (_, body, given) = waits.await.expect("an answer");
        assert!(body.contains(told), "{resolution:?} {body}");
        if let Resolution::ResumeWith(text) = &resolution
            && resolution != unfit
        {
            assert_eq!(given.lock().expect("not poisoned")[0].1, text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_takes_back_what_waits_and_only_in_its_own_session() {
    let paused = Paused::default();
    let of = InterceptSettings {
        paused: paused.clone(),
        ..InterceptSettings::default()
    };
    let pause = PauseSettings {
        limit: Duration::from_secs(60),
        then: AtLimit::Resume,
    };
    for (interest, outcome) in [(REQUEST, "rejected"), (MESSAGES, "unknown")] {
        let (layer, _) = script_with(of.clone(), interest, move |message, _| {
            let call = message.and_then(|message| message.facts()?.id());
            call.map_or(Decision::Continue, |_| Decision::Pause(pause))
        });
        let waits = tokio::spawn({
            let (layer, request) = (layer.clone(), call(CALL, &[("mcp-session-id", "mine")]));
            async move { send(&layer, request, JSON, vec![ANSWER]).await }
        });
        waits_one(&paused).await;
        let cancel = |id: &str, session: &[(&'static str, &'static str)]| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            );
            (call(&text, session), layer.clone())
        };
        for (id, session) in [
            ("\"seven\"", &[("mcp-session-id", "another")][..]),
            ("\"seven\"", &[]),
            ("7", &[("mcp-session-id", "mine")]),
        ] {
            let (request, layer) = cancel(id, session);
            send(&layer, request, EVENTS, vec![]).await;
            assert_eq!(paused.list().len(), 1, "{id} {session:?}");
        }
        let (request, layer) = cancel("\"seven\"", &[("mcp-session-id", "mine")]);
        let (_, _, given) = send(&layer, request, EVENTS, vec![]).await;
        assert_eq!(
            given.lock().expect("not poisoned").len(),
            1,
            "the server is told, too"
        );
        assert!(paused.list().is_empty());
        let (_, body, given) = waits.await.expect("no panic");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["error"]["message"], "the client took the call back");
        assert_eq!(answer["error"]["data"]["outcome"], outcome);
        let asked = given.lock().expect("not poisoned").len();
        assert_eq!(asked == 0, interest == REQUEST);
    }
}
