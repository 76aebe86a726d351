//! What is answered to calls.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_silent_call_becomes_a_stream_and_an_answer_first_is_json() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let begun = Instant::now();
    let waiting = post(&upstream, Some(&id), &message(1, "hang")).await;
    let waiting = waiting.expect("a head");
    assert_eq!(begun.elapsed(), Duration::from_secs(15));
    server.say(&json!({"jsonrpc": "2.0", "id": 1, "result": {"late": true}}));
    let all = text(waiting).await;
    assert!(all.starts_with(":\n\n") && all.contains("late"), "{all}");
    let plain = post(&upstream, Some(&id), &message(2, "bad"))
        .await
        .expect("an answer");
    assert_eq!(plain.headers()[header::CONTENT_TYPE], "application/json");
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_who_takes_json_alone_is_answered_with_an_array() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let batch = json!([message(1, "ping"), message(2, "bad")]);
    let mut request = request(Method::POST, Some(&id), &batch);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::ACCEPT, json);
    let response = upstream.clone().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let all: Value = serde_json::from_str(&text(response).await).expect("JSON");
    let ids: Vec<_> = all
        .as_array()
        .expect("an array")
        .iter()
        .map(|a| &a["id"])
        .collect();
    assert_eq!(ids, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_overtakes_its_202_does_not_cost_the_connection() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let begun = Instant::now();
    let answer = post(&upstream, Some(&id), &message(1, "late 202")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(server.taken.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.taken.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_sent_in_part_is_not_said_to_be_unsent() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    for last in ["unreachable", "400", "404"] {
        let batch = json!([message(1, "hang"), message(2, last)]);
        let torn = post(&upstream, Some(&id), &batch).await;
        assert_eq!(refusal(torn), SseError::Gone { sent: true }, "{last}");
    }
    assert_eq!(upstream.sessions(), 0);
    // What has no id may be executed just as well.
    let id = begin(&upstream).await;
    let call = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a"}});
    let batch = json!([call, message(1, "404")]);
    let torn = post(&upstream, Some(&id), &batch).await;
    assert_eq!(refusal(torn), SseError::Gone { sent: true });
    let id = begin(&upstream).await;
    let lost = post(&upstream, Some(&id), &message(3, "404")).await;
    assert_eq!(lost.expect("the server's word").status(), 404);
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_that_cannot_be_expected_nothing_is_posted() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let hang = post(&upstream, Some(&id), &message(1, "hang")).await;
    let _held = hang.expect("a head");
    let before = server.seen().len();
    let call = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a"}});
    let twice = post(&upstream, Some(&id), &json!([call, message(1, "ping")])).await;
    assert_eq!(refusal(twice), SseError::Duplicate);
    assert_eq!(server.seen().len(), before);
}

#[tokio::test(start_paused = true)]
async fn going_away_is_no_cancel_but_giving_up_is() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let cancelled = |server: &Server| {
        let seen = server.seen().into_iter().map(|(_, _, body)| body);
        let mut seen = seen.filter(|b| b["method"] == "notifications/cancelled");
        seen.next().map(|b| b["params"]["requestId"].clone())
    };
    for (call, why) in [(1, None), (2, Some(GiveUp::Timeout))] {
        let request = request(Method::POST, Some(&id), &message(call, "hang"));
        let exchange = Exchange::get(&request).expect("one").clone();
        let response = upstream.clone().oneshot(request).await.expect("a head");
        if let Some(why) = why {
            exchange.give_up(why);
        }
        drop(response);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cancelled(&server), why.map(|_| json!(2)));
    }
    assert_eq!(upstream.pending(), 1, "the first goes on");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_left_is_kept_for_as_long_as_it_may_take() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let cancelled = |server: &Server| {
        let seen = server.seen().into_iter().map(|(_, _, body)| body);
        let seen = seen.filter(|b| b["method"] == "notifications/cancelled");
        seen.map(|b| b["params"]["requestId"].clone())
            .collect::<Vec<_>>()
    };
    // While its POST is under way it may never have been sent.
    let call = request(Method::POST, Some(&id), &message(1, "never 202"));
    let left = timeout(Duration::from_secs(1), upstream.clone().oneshot(call)).await;
    assert!(left.is_err());
    assert_eq!(upstream.pending(), 0);
    // So it is with what would have come after it; what was taken goes on.
    let batch = json!([
        message(1, "hang"),
        message(2, "never 202"),
        message(3, "hang")
    ]);
    let call = request(Method::POST, Some(&id), &batch);
    let left = timeout(Duration::from_secs(1), upstream.clone().oneshot(call)).await;
    assert!(left.is_err());
    assert_eq!(upstream.pending(), 1);
    // Its deadline ends it, also where the session is in use.
    let mut call = request(Method::POST, Some(&id), &message(4, "hang"));
    let expires = ExpiresAt(Instant::now() + Duration::from_secs(60));
    call.extensions_mut().insert(expires);
    drop(upstream.clone().oneshot(call).await.expect("a head"));
    assert_eq!(upstream.pending(), 2);
    let get = request(Method::GET, Some(&id), &Value::Null);
    let _stream = upstream.clone().oneshot(get).await.expect("a stream");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(
        (upstream.pending(), cancelled(&server)),
        (1, vec![json!(4)])
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let both = [json!(4), json!(1)];
    assert_eq!((upstream.pending(), cancelled(&server)), (0, both.into()));
    assert_eq!(upstream.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_question_for_a_call_that_left_waits_for_the_sessions_stream() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let call = message(1, "hang");
    let left = post(&upstream, Some(&id), &call).await.expect("a head");
    server.say(&json!({"jsonrpc": "2.0", "id": 7, "method": "roots/list"}));
    server.say(&json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(left);
    let get = request(Method::GET, Some(&id), &Value::Null);
    let stream = upstream.clone().oneshot(get).await.expect("a stream");
    upstream.close().await;
    let all = text(stream).await;
    assert!(
        all.contains("roots/list") && !all.contains("result"),
        "{all}"
    );
}

#[tokio::test(start_paused = true)]
async fn cancellations_are_sent_before_the_end() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let call = request(Method::POST, Some(&id), &message(1, "hang"));
    let exchange = Exchange::get(&call).expect("one").clone();
    let response = upstream.clone().oneshot(call).await.expect("a head");
    exchange.give_up(GiveUp::Drain);
    drop(response);
    upstream.close().await;
    let last = server.seen().pop().expect("a message").2;
    assert_eq!(last["method"], "notifications/cancelled");
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_together_with_the_failure_of_its_post_is_kept() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let answer = post(&upstream, Some(&id), &message(1, "answer, then 500")).await;
    let answer: Value =
        serde_json::from_str(&text(answer.expect("an answer")).await).expect("JSON");
    assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    // Of a batch not all may have been taken, which one answer says nothing of.
    let batch = json!([message(2, "ping"), message(3, "answer, then 500")]);
    let torn = post(&upstream, Some(&id), &batch).await;
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(refusal(torn), SseError::Refused { status });
    assert_eq!(upstream.pending(), 0);
    let after = post(&upstream, Some(&id), &message(4, "ping")).await;
    assert_eq!(after.expect("an answer").status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_twice_takes_the_place_of_no_other() {
    for accept in ["application/json", "application/json, text/event-stream"] {
        let server = server(Kind::Old);
        let upstream = upstream(&server, |s| s.transport = Transport::Sse);
        let id = begin(&upstream).await;
        let batch = json!([message(1, "hang"), message(2, "first twice")]);
        let mut request = request(Method::POST, Some(&id), &batch);
        let accept = HeaderValue::from_static(accept);
        request.headers_mut().insert(header::ACCEPT, accept);
        let response = upstream.clone().oneshot(request).await.expect("an answer");
        let all = text(response).await;
        assert_eq!(all.matches("\"result\"").count(), 2, "{all}");
        assert_eq!(upstream.pending(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_on_a_stream_whose_reader_panics_is_told() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let hang = post(&upstream, Some(&id), &message(1, "hang")).await;
    let hang = hang.expect("a head").into_body();
    server.panic();
    let told = timeout(Duration::from_secs(60), hang.collect()).await;
    let error = told.expect("in time").expect_err("no answer");
    let error = error.downcast_ref::<SseError>();
    assert_eq!(error, Some(&SseError::Gone { sent: true }));
    assert_eq!(upstream.sessions(), 0);
    let next = begin(&upstream).await;
    let after = post(&upstream, Some(&next), &message(2, "ping")).await;
    assert_eq!(after.expect("an answer").status(), 200);
}
