//! What is different for some tools: their clocks, their room, their breakers, and what a reload makes of them.

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat, config, demo, endpoints,
    mcp::{Session, text},
    until,
    upstream::{Received, Upstream, Wire},
};

/// A config for the demo server, which never repeats a call, with these entries of tools.
fn with(entries: &str) -> String {
    // The endpoint's own breaker would count their failures, too.
    let upstream = format!("circuit: off, tools: [{entries}],");
    config("", "retry: off", &upstream, &demo(""))
}

fn kind(answer: &Value) -> &str {
    answer["error"]["data"]["kind"].as_str().unwrap_or_default()
}

/// How a call that takes longer than any clock of these tests ends.
async fn sleeps(session: &Session, path: &str) -> String {
    let session = session.at(path);
    let arguments = json!({"ms": 3_600_000});
    let answer = session.call("slow", "sleep", arguments).await.last().await;
    kind(&answer).to_owned()
}

/// A call that takes longer than the short clocks, and says nothing until its end.
async fn works(session: &Session, path: &str) -> Value {
    let arguments = json!({"steps": 1, "interval_ms": 700});
    let answer = session.at(path).call("work", "progress", arguments).await;
    answer.last().await
}

#[tokio::test]
async fn a_tool_has_less_time_than_the_others_and_another_has_more() {
    let yaml = |entries: &str| {
        format!(
            "routes:\n- {{ match: {{ path: /mcp }}, upstream: tools, session: off }}\n\
             - {{ match: {{ path: /hasty }}, upstream: tools, session: off, deadline: 300ms }}\n\
             upstreams: {{ tools: {{ tools: [{entries}], endpoints: [{{ {} }}] }} }}\n",
            demo("")
        )
    };
    let z = Ziggurat::yaml(&yaml("{ tool: \"sl*\", deadline: 300ms }")).await;
    let session = z.target().session().await;
    let servers = z.servers();
    assert_eq!(sleeps(&session, "/mcp").await, "deadline_exceeded");
    assert_eq!(text(&works(&session, "/mcp").await), "1 steps done");
    assert_eq!(
        kind(&works(&session, "/hasty").await),
        "deadline_exceeded",
        "the route's"
    );

    let patient = "{ tool: progress, deadline: { limit: 1m } }, { tool: sleep, deadline: 400ms }";
    z.reload(&yaml(patient), "ok").await;
    assert_eq!(text(&works(&session, "/hasty").await), "1 steps done");
    assert_eq!(sleeps(&session, "/hasty").await, "deadline_exceeded");
    assert_eq!(sleeps(&session, "/mcp").await, "deadline_exceeded");
    assert_eq!(z.servers(), servers, "no server was started anew");
}

#[tokio::test]
async fn the_head_of_a_response_is_waited_for_as_long_as_its_tool_may_take() {
    let server = Upstream::start(async |received: Received, wire: Wire| {
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        if body["params"]["name"] == "stuck" {
            return wire.stall().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        let result = json!({"content": [{"type": "text", "text": "late"}]});
        let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": result});
        wire.json(&answer.to_string()).await
    })
    .await;
    let tools = "tools: [{ tool: stuck, timeouts: { head: 300ms } }],";
    let endpoint = format!("url: \"{}\"", server.url("/mcp"));
    let z = Ziggurat::yaml(&config("", "retry: off", tools, &endpoint)).await;
    let caller = z.target().stateless("/mcp");
    let stuck = caller.call(1, "stuck", json!({})).await.last().await;
    assert_eq!(kind(&stuck), "upstream_timeout", "{stuck}");
    let late = caller.call(2, "late", json!({})).await.last().await;
    assert_eq!(text(&late), "late");
    let metrics = z.metrics().await;
    assert_eq!(metrics.sum("ziggurat_timeouts_total", &["head"]), 1.0);
}

#[tokio::test]
async fn a_tool_has_room_of_its_own_within_that_of_the_endpoint() {
    let room = |calls: u32| with(&format!("{{ tool: \"prog*\", concurrency: {calls} }}"));
    let z = Ziggurat::yaml(&room(1)).await;
    let session = z.target().session().await;
    let servers = z.servers();
    let echo = async |id: &str| {
        let answer = session.call(id, "echo", json!({"text": id})).await;
        text(&answer.last().await).to_owned()
    };
    let refused = async |id: &str| {
        let answer = session.call(id, "progress", json!({"steps": 1})).await;
        let answer = answer.last().await;
        assert_eq!(kind(&answer), "tool_busy", "{answer}");
        let data = &answer["error"]["data"];
        assert_eq!(
            (&data["outcome"], &answer["id"]),
            (&json!("not_sent"), &json!(id))
        );
    };
    let mut first = session.endless("first").await;
    first.next().await;
    refused("second").await;
    assert_eq!(echo("other").await, "other");

    z.reload(&room(2), "ok").await;
    let mut second = session.endless("second").await;
    second.next().await;
    refused("third").await;
    // Nothing is cut, and nobody comes in until there is room.
    z.reload(&room(1), "ok").await;
    first.next().await;
    second.next().await;
    refused("third").await;
    assert_eq!(echo("another").await, "another");
    for id in ["first", "second"] {
        let cancelled = json!({"requestId": id});
        session.tell("notifications/cancelled", cancelled).await;
    }
    drop((first, second));
    until("there is room again", async || {
        let answer = session.call("third", "progress", json!({"steps": 1}));
        answer.await.last().await["result"].is_object()
    })
    .await;
    assert_eq!(z.servers(), servers);
}

/// Starts a server that never answers a call of the tool `stuck`, and answers others at once.
async fn half_stuck() -> Upstream {
    Upstream::start(async |received: Received, wire: Wire| {
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        if body["params"]["name"] == "stuck" {
            return wire.stall().await;
        }
        let result = json!({"content": [{"type": "text", "text": "done"}]});
        let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": result});
        wire.json(&answer.to_string()).await
    })
    .await
}

/// What these metrics say of retries: how many there were, and what is left for others.
async fn retries(z: &Ziggurat) -> (f64, f64) {
    let metrics = z.metrics().await;
    let made = metrics.sum("ziggurat_retries_total", &["tools"]);
    let left = metrics.sum("ziggurat_retry_budget_ratio", &["tools"]);
    (made, left)
}

#[tokio::test]
async fn a_tool_without_room_is_asked_for_at_each_endpoint_once_and_costs_the_others_nothing() {
    let room = "tools: [{ tool: stuck, concurrency: 1 }],";
    let servers = [half_stuck().await, half_stuck().await];
    let urls: Vec<_> = servers.iter().map(|server| server.url("/mcp")).collect();
    let in_flight = || servers.iter().map(|server| server.received().len());
    let hang = |caller: &Session, id: u32| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call(id, "stuck", json!({})).await.last().await })
    };
    let refused = async |caller: &Session, id: u32| {
        let answer = caller.call(id, "stuck", json!({})).await.last().await;
        assert_eq!(kind(&answer), "tool_busy", "{answer}");
        assert_eq!(answer["error"]["data"]["outcome"], "not_sent");
    };

    let z = Ziggurat::yaml(&config("", "", room, &endpoints(&urls[..1]))).await;
    let caller = z.target().stateless("/mcp");
    let only = hang(&caller, 1);
    until("a call is in flight", async || in_flight().eq([1, 0])).await;
    for id in 10..40 {
        refused(&caller, id).await;
    }
    assert_eq!(retries(&z).await, (0.0, 1.0));
    only.abort();
    drop(z);

    let z = Ziggurat::yaml(&config("", "", room, &endpoints(&urls))).await;
    let caller = z.target().stateless("/mcp");
    // Wherever the second one is sent first, it finds the other endpoint.
    let both = [hang(&caller, 1), hang(&caller, 2)];
    until("both have one", async || in_flight().eq([2, 1])).await;
    let (before, _) = retries(&z).await;
    assert!(before <= 1.0);
    for id in 10..40 {
        refused(&caller, id).await;
    }
    assert_eq!(retries(&z).await, (before + 30.0, 1.0));
    both.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_tool_has_a_breaker_of_its_own_where_the_others_have_none() {
    let breaker = |circuit: &str| {
        with(&format!(
            "{{ tool: sleep, deadline: 200ms, circuit: {circuit} }}, \
             {{ tool: progress, deadline: 200ms }}"
        ))
    };
    let z = Ziggurat::yaml(&breaker("{ consecutive: 2, open: 1h, open_max: 1h }")).await;
    let session = z.target().session().await;
    let ends = async || sleeps(&session, "/mcp").await;
    for _ in 0..2 {
        assert_eq!(ends().await, "deadline_exceeded");
        let late = works(&session, "/mcp").await;
        assert_eq!(kind(&late), "deadline_exceeded");
    }
    assert_eq!(ends().await, "circuit_open");
    assert_eq!(kind(&works(&session, "/mcp").await), "deadline_exceeded");
    let report = z.report("upstreams").await;
    let tools = report[0]["tools"].as_array().unwrap();
    assert_eq!(tools.len(), 1, "{report}");
    assert_eq!(tools[0]["tool"], "sleep");
    assert_eq!(tools[0]["circuit"]["state"], "open");

    // Other settings leave its state alone; without any there is no breaker.
    z.reload(&breaker("{ consecutive: 3, open: 1h, open_max: 1h }"), "ok")
        .await;
    assert_eq!(ends().await, "circuit_open");
    z.reload(&breaker("off"), "ok").await;
    assert_eq!(ends().await, "deadline_exceeded");
}
