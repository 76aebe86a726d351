use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Body,
    error::Outcome,
    fault::{Blame, Fault},
    limit::Shed,
    mcp::CallFacts,
    timeout::IdleTimeout,
};

fn request(call: Option<&'static str>) -> (Request<Body>, Arc<Exchange>) {
    let mut request = Request::new(Body::empty());
    let exchange = Exchange::of(&mut request);
    if let Some(call) = call {
        let facts = CallFacts::read(
            &http::Method::POST,
            request.headers(),
            &Bytes::from_static(call.as_bytes()),
        );
        exchange.set_call(facts.expect("a call"));
    }
    (request, exchange)
}

async fn fail(
    call: Option<&'static str>,
    error: impl Into<BoxError> + Clone + Send + 'static,
) -> (http::StatusCode, Value) {
    let service = RescueLayer::new().layer(service_fn(move |_: Request<Body>| {
        let error = error.clone().into();
        async { Err::<Response<Body>, BoxError>(error) }
    }));
    let (request, _) = request(call);
    let Ok(response) = service.oneshot(request).await;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

const SHED: Shed = Shed {
    limit: 5,
    what: "calls in flight",
};

#[tokio::test]
async fn a_call_with_an_id_gets_a_json_rpc_error_in_200() {
    let (status, body) = fail(Some(r#"{"id":"a","method":"tools/call"}"#), SHED).await;
    assert_eq!(status, 200);
    assert_eq!(body["id"], "a");
    assert_eq!(body["error"]["code"], 503);
    assert_eq!(body["error"]["data"]["source"], "proxy");
    assert_eq!(body["error"]["data"]["kind"], "overloaded");
    assert_eq!(body["error"]["data"]["outcome"], "not_sent");
    assert_eq!(body["error"]["data"]["retry_after_ms"], 1000);
}

#[test]
fn what_the_balancer_refuses_was_not_sent_and_says_when_to_come_back() {
    use std::time::Duration;

    use crate::balance::{NoEndpoint, PinnedGone, QueueFull, QueueTimeout};

    let none = NoEndpoint {
        retry_after: Some(Duration::from_secs(7)),
        reasons: Vec::new(),
    };
    let late = QueueTimeout {
        limit: Duration::from_secs(1),
    };
    let errors: [(BoxError, &str, Option<u64>, Blame); 4] = [
        (none.into(), "no_endpoint", Some(7), Blame::Upstream),
        (PinnedGone.into(), "endpoint_gone", None, Blame::Upstream),
        (
            QueueFull { limit: 1 }.into(),
            "queue_full",
            Some(1),
            Blame::Proxy,
        ),
        (late.into(), "queue_timeout", Some(1), Blame::Proxy),
    ];
    for (error, kind, again, blame) in errors {
        let row = Row::of(&Fault::of(&*error));
        assert!(table::KINDS.contains(&("balance", kind)));
        assert_eq!(
            (row.kind, row.status.as_u16(), row.outcome, row.blame),
            (kind, 503, Outcome::NotSent, blame)
        );
        assert_eq!(row.retry_after, again.map(Duration::from_secs));
    }
}

#[cfg(feature = "session")]
#[test]
fn a_session_that_is_gone_is_a_404_and_one_too_many_is_told_when_to_come_back() {
    use std::time::Duration;

    use crate::session::{BadSessionId, SessionGone, SessionsFull};

    let full = SessionsFull {
        limit: 1,
        own: true,
        retry_after: Duration::from_secs(9),
    };
    let errors: [(BoxError, &str, u16, Outcome); 3] = [
        (
            SessionGone::default().into(),
            "session_gone",
            404,
            Outcome::Rejected,
        ),
        (full.into(), "too_many_sessions", 503, Outcome::NotSent),
        (BadSessionId.into(), "bad_session_id", 502, Outcome::Unknown),
    ];
    for (error, kind, status, outcome) in errors {
        let row = Row::of(&Fault::of(&*error));
        assert!(table::KINDS.contains(&("session", kind)));
        assert_eq!(
            (row.kind, row.status.as_u16(), row.outcome),
            (kind, status, outcome)
        );
        assert_eq!(row.keeps_status, status == 404);
    }
    assert_eq!(
        Row::of(&Fault::of(&full)).retry_after,
        Some(full.retry_after)
    );
}

#[tokio::test]
async fn each_call_of_a_batch_gets_its_error() {
    let (_, body) = fail(
        Some(r#"[{"id":1,"method":"ping"},{"method":"x"},{"id":2,"method":"ping"}]"#),
        SHED,
    )
    .await;
    assert_eq!(body.as_array().map(Vec::len), Some(2));
    assert_eq!(body[1]["id"], 2);
}

#[tokio::test]
async fn without_an_id_there_is_a_status_and_a_problem() {
    for call in [None, Some(r#"{"method":"notifications/initialized"}"#)] {
        let (status, body) = fail(call, SHED).await;
        assert_eq!(status, 503);
        assert_eq!(body["kind"], "overloaded");
    }
}

#[tokio::test]
async fn a_panic_and_an_unknown_error_are_answered() {
    let (status, _) = fail(None, "what").await;
    assert_eq!(status, 500);
    let service = RescueLayer::new().layer(service_fn(
        async |_: Request<Body>| -> Result<Response<Body>, BoxError> { panic!("as a test") },
    ));
    let Ok(response) = service.oneshot(request(None).0).await;
    assert_eq!(response.status(), 500);
}

async fn stream(answered: bool, torn: bool) -> (String, bool) {
    let service = RescueLayer::new().layer(service_fn(async |_: Request<Body>| {
        let frames: [Result<Frame<Bytes>, BoxError>; 2] = [
            Ok(Frame::data(Bytes::from_static(b"data: 1\n\n"))),
            Err(IdleTimeout {
                limit: std::time::Duration::from_secs(1),
            }
            .into()),
        ];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        Ok::<_, BoxError>(
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .expect("valid"),
        )
    }));
    let (request, exchange) = request(Some(r#"{"id":7,"method":"tools/call"}"#));
    exchange.response().observe(&crate::waits::Waits::default());
    exchange.response().set_torn(torn);
    if answered {
        exchange
            .response()
            .saw_answer(crate::mcp::peek::Answer::Result);
    }
    let Ok(response) = service.oneshot(request).await;
    let mut body = response.into_body();
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                text += std::str::from_utf8(frame.data_ref().expect("data")).expect("text")
            }
            Err(_) => return (text, true),
        }
    }
    (text, false)
}

#[tokio::test]
async fn a_stream_that_has_begun_ends_with_the_error_as_its_last_event() {
    let (text, broken) = stream(false, false).await;
    assert!(!broken);
    let last = text.rsplit("data: ").next().expect("an event");
    let error: Value = serde_json::from_str(last.trim()).expect("JSON");
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&Value::from(7), &Value::from(504))
    );
    assert_eq!(error["error"]["data"]["phase"], "idle");
}

#[tokio::test]
async fn a_stream_that_is_torn_or_answered_is_broken_off() {
    for (answered, torn) in [(false, true), (true, false)] {
        let (text, broken) = stream(answered, torn).await;
        assert!(broken);
        assert_eq!(text, "data: 1\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_over_a_rate_limit_is_told_when_to_come_back() {
    use crate::rate_limit::{Allowance, RateLimitLayer, RateLimitSettings};

    let limit = RateLimitSettings {
        allowance: Allowance {
            rate: "3/h".parse().ok(),
            burst: Some(std::num::NonZeroU32::MIN),
            streams: None,
        },
        ..RateLimitSettings::default()
    };
    let inner =
        service_fn(async |_: Request<Body>| Ok::<_, BoxError>(Response::new(Body::empty())));
    let limited = RateLimitLayer::new("r", &[limit]).layer(inner);
    let service = RescueLayer::new().layer(limited);
    let send = async |call| {
        let Ok(response) = service.clone().oneshot(request(call).0).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        (parts, body)
    };
    let call = Some(r#"{"id":"a","method":"tools/call"}"#);
    assert_eq!(send(call).await.0.status, 200);
    let (head, body) = send(call).await;
    // With its id it is an answer, which costs no session.
    assert_eq!(
        (head.status.as_u16(), &body["id"]),
        (200, &Value::from("a"))
    );
    assert!(!head.headers.contains_key("retry-after"));
    assert_eq!(head.headers["ratelimit"], "\"route\";r=0;t=1200");
    assert_eq!(head.headers["ratelimit-policy"], "\"route\";q=1;w=1200");
    assert_eq!(body["error"]["code"], 429);
    assert_eq!(body["error"]["data"]["kind"], "rate_limited");
    assert_eq!(body["error"]["data"]["outcome"], "not_sent");
    assert_eq!(body["error"]["data"]["retry_after_ms"], 1_200_000);
    let (head, body) = send(None).await;
    assert_eq!(
        (head.status.as_u16(), &body["kind"]),
        (429, &Value::from("rate_limited"))
    );
    assert_eq!(head.headers["retry-after"], "1200");
    assert!(table::KINDS.contains(&("rate_limit", "rate_limited")));
}

/// What a client reads of an event stream that ends after this event, and whether it was broken off.
async fn ended_after(event: &'static str, version: &'static str) -> (String, bool) {
    let service = RescueLayer::new().layer(crate::observe::ObserveLayer::new("u").layer(
        service_fn(move |_: Request<Body>| async move {
            let response = Response::builder().header("content-type", "text/event-stream");
            response.body(Body::full(event)).map_err(BoxError::from)
        }),
    ));
    let mut request = Request::new(Body::empty());
    let version = http::HeaderValue::from_static(version);
    request
        .headers_mut()
        .insert("mcp-protocol-version", version);
    let call = Bytes::from_static(br#"{"id":"a","method":"tools/call"}"#);
    let facts = CallFacts::read(&http::Method::POST, request.headers(), &call);
    Exchange::of(&mut request).set_call(facts.expect("a call"));
    let Ok(response) = service.oneshot(request).await;
    let mut body = response.into_body();
    let mut text = String::new();
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().expect("data");
                text.push_str(std::str::from_utf8(&data).expect("text"));
            }
            Some(Err(_)) => return (text, true),
            None => break,
        }
    }
    (text, false)
}

#[tokio::test]
async fn a_stream_that_ends_without_its_answer_says_so() {
    let (text, cut) = ended_after("data: {\"method\":\"x\"}\n\n", "2025-11-25").await;
    assert!(
        text.contains("answer_missing") && text.contains("unknown") && !cut,
        "{text}"
    );
    // The end of an event is missing, too.
    let (text, cut) = ended_after("data: {\"meth", "2025-11-25").await;
    assert!(!text.contains("answer_missing") && cut, "{text}");
    // Nothing is missing: it is there, or its client comes for it.
    let answer = "data: {\"id\":\"a\",\"result\":{}}\n\n";
    assert_eq!(
        ended_after(answer, "2025-06-18").await,
        (answer.into(), false)
    );
    let primed = "id: 1\nretry: 10\ndata:\n\n";
    assert_eq!(
        ended_after(primed, "2025-11-25").await,
        (primed.into(), false)
    );
    assert!(
        ended_after(primed, "2025-06-18")
            .await
            .0
            .contains("answer_missing")
    );
}
