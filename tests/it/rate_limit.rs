//! Rate limits: who is refused is told when to come back, and nobody gets around them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{
    Ziggurat, config, demo,
    mcp::{LEGACY, MODERN, call, modern_params, request},
    until,
    upstream::{Received, Upstream, Wire},
};

/// The demo server behind these limits.
async fn limited(limits: &str) -> Ziggurat {
    let route = format!("rate_limit: {limits}");
    Ziggurat::yaml(&config("", &route, "", &demo(""))).await
}

fn is_refused(answer: &Value) -> bool {
    answer["error"]["data"]["kind"] == "rate_limited"
}

/// When to come back, as a refusal tells it.
fn told(answer: &Value) -> Duration {
    let error = &answer["error"];
    assert_eq!(error["code"], 429, "{answer}");
    assert_eq!(error["data"]["outcome"], "not_sent", "{answer}");
    assert_eq!(error["data"]["source"], "proxy", "{answer}");
    let words = error["message"].as_str().unwrap();
    assert!(words.contains("try again in"), "{answer}");
    Duration::from_millis(error["data"]["retry_after_ms"].as_u64().unwrap())
}

/// What a field says: its name, and its parameters as numbers.
fn field(text: &str) -> (String, Vec<(String, u64)>) {
    let mut parts = text.split(';');
    let name = parts.next().unwrap();
    let name = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
    let number = |part: &str| {
        let (key, value) = part.split_once('=').unwrap();
        (key.to_owned(), value.parse().unwrap())
    };
    (name.unwrap().to_owned(), parts.map(number).collect())
}

#[tokio::test]
async fn a_legacy_session_that_asks_too_much_is_told_when_to_come_back_and_lives_on() {
    let z = limited("{ per: session, rate: 4/s, burst: 3 }").await;
    let session = z.target().session().await;
    let mut refused = Value::Null;
    for id in 0..50 {
        let answer = session.call(id, "echo", json!({"text": "x"})).await;
        assert_eq!(answer.status, 200, "the session is not lost");
        refused = answer.last().await;
        if is_refused(&refused) {
            assert_eq!(refused["id"], id);
            break;
        }
    }
    sleep(told(&refused)).await;
    let answer = session.call(99, "echo", json!({"text": "x"})).await;
    let left = field(answer.header("ratelimit"));
    assert_eq!(left.0, "session");
    assert!(answer.last().await["result"].is_object());
    // Another session has a bucket of its own.
    let other = z.target().session().await;
    assert!(other.ask(1, "ping", json!({})).await.last().await["result"].is_object());
    let limited = z
        .metrics()
        .await
        .sum("ziggurat_rate_limited_total", &["scope=\"session\""]);
    assert!(limited >= 1.0);
}

#[tokio::test]
async fn a_modern_client_is_limited_by_its_address_also_where_sessions_are_meant() {
    let z = limited("{ per: session, rate: 1/h, burst: 2 }").await;
    let mut refused = Value::Null;
    for id in 0..50 {
        let answer = z
            .target()
            .modern_call(id, "echo", json!({"text": "x"}))
            .await;
        refused = answer.last().await;
        if is_refused(&refused) {
            break;
        }
    }
    told(&refused);
    // Headers with ids that nobody gave make no other keys.
    for n in 0..10 {
        let id = format!("forged-{n}");
        let forged = [("mcp-session-id", &*id)];
        let target = z.target();
        let answer = target.modern_with(1, "tools/list", json!({}), &forged);
        assert!(is_refused(&answer.await.last().await), "{id}");
    }
}

#[tokio::test]
async fn ids_that_are_made_up_are_no_sessions_and_no_keys() {
    let z = limited("{ per: session, rate: 1/h, burst: 2 }").await;
    for n in 0..20 {
        let forged = format!("forged-{n}");
        let headers = [
            ("mcp-session-id", &*forged),
            ("mcp-protocol-version", LEGACY),
        ];
        let body = request(&json!(n), "tools/list", &json!({})).to_string();
        let answer = z.target().post("/mcp", &headers, body).await;
        assert_eq!(answer.status, 404);
    }
    let report = z.report("limits").await;
    assert_eq!(report[0]["limit"], "session", "{report}");
    assert_eq!(report[0]["keys"], 0, "{report}");
    // One that is real is shown as its first bytes.
    let session = z.target().session().await;
    session.ask(1, "ping", json!({})).await.last().await;
    let report = z.report("limits").await;
    assert_eq!(
        report[0]["keys"], 2,
        "itself, and the client that began it: {report}"
    );
    assert!(!report.to_string().contains(&session.id), "{report}");
    let nearest = report[0]["nearest"].as_array().unwrap();
    let keys: Vec<_> = nearest.iter().map(|one| &one["key"]).collect();
    let own = keys.iter().find_map(|key| key["session"].as_str()).unwrap();
    assert_eq!(own.len(), 8, "{report}");
    assert!(
        keys.iter().any(|key| key["client"] == "127.0.0.1"),
        "{report}"
    );
    assert_eq!(nearest[0]["burst"], 2, "{report}");
}

#[tokio::test]
async fn on_plain_http_a_refusal_is_a_429_with_its_fields() {
    let upstream =
        Upstream::start(async |_: Received, wire: Wire| wire.answer("200 OK", "", "fine").await)
            .await;
    let z = Ziggurat::yaml(&format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: plain, rate_limit: {{ per: client, rate: 4/s, burst: 2 }} }}]\n\
         upstreams: {{ plain: {{ endpoints: [{{ url: \"{}\" }}] }} }}\n",
        upstream.url("")
    ))
    .await;
    let answer = z.target().get("/a").await;
    let (name, parts) = field(answer.header("ratelimit"));
    assert_eq!((answer.status.as_u16(), &*name), (200, "client"));
    assert_eq!(parts[0], ("r".to_owned(), 1));
    let mut refused = answer;
    for _ in 0..50 {
        refused = z.target().get("/a").await;
        if refused.status == 429 {
            break;
        }
    }
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), "1");
    let (name, parts) = field(refused.header("ratelimit"));
    assert_eq!(name, "client");
    assert_eq!(parts, [("r".to_owned(), 0), ("t".to_owned(), 1)]);
    let (name, parts) = field(refused.header("ratelimit-policy"));
    assert_eq!(name, "client");
    assert_eq!(parts, [("q".to_owned(), 2), ("w".to_owned(), 1)]);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let problem = refused.json().await;
    assert_eq!(problem["kind"], "rate_limited", "{problem}");
    let told = problem["retry_after_ms"].as_u64().unwrap();
    sleep(Duration::from_millis(told)).await;
    assert_eq!(z.target().get("/a").await.text().await, "fine");
}

#[tokio::test]
async fn what_a_header_says_of_the_tool_gets_nobody_around_its_limit() {
    let z = limited("{ per: tool, match: { tools: [echo] }, rate: 1/h }").await;
    let session = z.target().session().await;
    let arguments = || json!({"text": "x"});
    let first = session.call(1, "echo", arguments()).await.last().await;
    assert!(first["result"].is_object(), "{first}");
    // Legacy: the headers mean nothing, whatever they say.
    let headers = [
        ("mcp-session-id", &*session.id),
        ("mcp-protocol-version", LEGACY),
        ("mcp-method", "tools/call"),
        ("mcp-name", "sleep"),
    ];
    let body = request(&json!(2), "tools/call", &call("echo", arguments()));
    let answer = z.target().post("/mcp", &headers, body.to_string()).await;
    assert!(is_refused(&answer.last().await));
    // Written otherwise, it is the same name.
    let escaped = body.to_string().replace("\"echo\"", "\"\\u0065cho\"");
    let answer = z.target().post("/mcp", &headers[..2], escaped).await;
    assert!(is_refused(&answer.last().await));
    // Modern: headers that contradict the body are refused before anything counts.
    let body = request(
        &json!(3),
        "tools/call",
        &modern_params(call("echo", arguments())),
    );
    for name in ["sleep", "=?base64?c2xlZXA=?="] {
        let headers = [
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", name),
        ];
        let answer = z.target().post("/mcp", &headers, body.to_string()).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.last().await["error"]["code"], -32020);
    }
    let plain = z.target().modern_call(4, "echo", arguments()).await;
    assert!(is_refused(&plain.last().await));
    let other = z.target().modern_call(5, "sleep", json!({"ms": 1})).await;
    assert!(other.last().await["result"].is_object());
}

#[tokio::test]
async fn the_calls_of_a_batch_count_one_by_one() {
    let z = limited("{ per: method, match: { methods: [ping] }, rate: 1/h, burst: 5 }").await;
    let session = z.target().session_at("/mcp", "2025-03-26").await;
    let batch = |size: u32| {
        let pings = (0..size).map(|id| request(&json!(id), "ping", &json!({})));
        Value::Array(pings.collect())
    };
    for (size, passes) in [(3, true), (3, false), (2, true), (1, false)] {
        let answers = session.post(&batch(size)).await.messages().await;
        assert_eq!(answers.len(), size as usize);
        assert!(
            answers.iter().all(|a| is_refused(a) != passes),
            "{answers:?}"
        );
    }
    let answers = session.post(&batch(6)).await.messages().await;
    assert_eq!(answers[0]["error"]["data"].get("retry_after_ms"), None);
    // What calls may wait for passes.
    session
        .tell(
            "notifications/progress",
            json!({"progressToken": 1, "progress": 1}),
        )
        .await;
    assert!(session.delete().await.status.is_success());
}

#[tokio::test]
async fn a_session_has_so_many_streams_and_gets_them_back() {
    let z = limited("{ per: session, streams: 1 }").await;
    let session = z.target().session().await;
    let stream = session.stream().await;
    assert_eq!(stream.status, 200);
    let second = session.stream().await;
    assert_eq!(second.status, 429);
    assert!(!second.header("retry-after").is_empty());
    assert!(
        second.json().await["detail"]
            .as_str()
            .unwrap()
            .contains("1 open streams")
    );
    let report = z.report("limits").await;
    assert_eq!(report[0]["streams"][0]["open"], 1, "{report}");
    assert!(session.ask(1, "ping", json!({})).await.last().await["result"].is_object());
    let other = z.target().session().await;
    assert_eq!(other.stream().await.status, 200);
    drop(stream);
    until("its place is free again", async || {
        session.stream().await.status == 200
    })
    .await;
}

#[tokio::test]
async fn what_was_counted_outlives_a_reload_and_tiers_are_told_apart() {
    let with = |rate: &str| {
        let limits = format!(
            "[{{ name: own, per: client, match: {{ methods: [ping] }}, rate: {rate}, tiers: [{{ match: {{ clients: [10.0.0.0/8] }}, rate: off }}] }}]"
        );
        config("", &format!("rate_limit: {limits}"), "", &demo(""))
    };
    let z = Ziggurat::yaml(&with("3/h")).await;
    let session = z.target().session().await;
    let passed = async || {
        let mut passed = 0;
        for id in 0..9 {
            let answer = session.ask(id, "ping", json!({})).await.last().await;
            passed += u32::from(!is_refused(&answer));
        }
        passed
    };
    assert_eq!(passed().await, 3);
    z.reload(&with("5/h"), "ok").await;
    assert_eq!(passed().await, 2, "three of five were used");
    let none = config("", "", "", &demo(""));
    z.reload(&none, "ok").await;
    assert_eq!(passed().await, 9);
    assert_eq!(z.report("limits").await, json!([]));
}

#[tokio::test]
async fn each_tenant_has_a_bucket_and_what_is_read_in_two_ways_has_none() {
    let z = limited("{ expression: 'has(args.tenant) ? args.tenant : null', rate: 1/h }").await;
    let session = z.target().session().await;
    let refused = async |tenant: &str| {
        let arguments = json!({"text": "x", "tenant": tenant});
        is_refused(&session.call(1, "echo", arguments).await.last().await)
    };
    assert!(!refused("red").await && !refused("blue").await);
    assert!(refused("red").await && refused("blue").await);
    let other = session.call(2, "echo", json!({"text": "x"})).await;
    assert!(!is_refused(&other.last().await), "it does not count");

    // A server could take the other one. Once, by its client, and then no more.
    let twice = |tenant: &str| {
        let params = call("echo", json!({"text": "x", "tenant": "new"}));
        let body = request(&json!(3), "tools/call", &params).to_string();
        body.replacen(
            "\"tenant\":",
            &format!("\"tenant\":\"{tenant}\",\"tenant\":"),
            1,
        )
    };
    let headers = [
        ("mcp-session-id", &*session.id),
        ("mcp-protocol-version", LEGACY),
    ];
    let mut passed = 0;
    for tenant in ["a", "b", "c"] {
        let answer = z.target().post("/mcp", &headers, twice(tenant)).await;
        passed += usize::from(!is_refused(&answer.last().await));
    }
    assert!(passed <= 1, "{passed}");
    let limits = z.report("limits").await.to_string();
    assert!(limits.contains("\"expression\":\"red\""), "{limits}");
}
