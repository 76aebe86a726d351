//! Revision 2026-07-28: no sessions, everything in each request.

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat,
    client::Target,
    http,
    mcp::{MODERN, call, modern_params, request, text},
    process::Server,
    stdio, until,
};

/// What a modern client can do, whatever is behind the proxy.
async fn all_modern_things(target: Target) {
    let found = target.modern(1, "server/discover", json!({})).await;
    assert_eq!(found.status, 200);
    let found = found.last().await;
    let versions = found["result"]["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!(MODERN)));

    let mut params = call("progress", json!({"steps": 3}));
    params["_meta"] = json!({"progressToken": 9});
    let messages = target.modern("p", "tools/call", params).await;
    let messages = messages.messages().await;
    let seen: Vec<_> = messages
        .iter()
        .filter_map(|m| m["params"]["progress"].as_u64())
        .collect();
    assert_eq!(seen, [1, 2, 3]);
    assert!(
        messages[..3]
            .iter()
            .all(|m| m["params"]["progressToken"] == 9)
    );
    assert_eq!(messages.last().unwrap()["id"], "p");

    // What the server needs to know comes back as a result, and the client calls again.
    let asked = target.modern_call(2, "ask", json!({"question": "Who?"}));
    let asked = asked.await.last().await;
    assert_eq!(asked["result"]["resultType"], "input_required");
    let mut again = call("ask", json!({"question": "Who?"}));
    again["requestState"] = asked["result"]["requestState"].clone();
    again["inputResponses"] = json!({"answer": {"action": "accept", "content": {"name": "Grace"}}});
    let answered = target.modern(3, "tools/call", again).await.last().await;
    assert!(text(&answered).contains("Grace"), "{answered}");

    // A subscription gets what it asked for.
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let mut stream = target.modern("s", "subscriptions/listen", listen).await;
    assert!(stream.is_stream());
    let acknowledged = stream.next().await;
    assert_eq!(
        acknowledged["method"],
        "notifications/subscriptions/acknowledged"
    );
    let told = target.modern_call(4, "tick", json!({"list": "tools"}));
    told.await.last().await;
    let changed = stream.next().await;
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    assert_eq!(
        changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "s"
    );
}

#[tokio::test]
async fn a_modern_client_over_stdio_does_all_that_it_may() {
    let z = Ziggurat::yaml(&stdio("")).await;
    z.target()
        .modern_call(0, "echo", json!({"text": "warm"}))
        .await;
    let before = z.baseline().await;
    all_modern_things(z.target()).await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_modern_client_over_http_does_all_that_it_may() {
    let demo = Server::demo().await;
    let z = Ziggurat::yaml(&http(&format!("http://{}/mcp", demo.address))).await;
    let before = z.baseline().await;
    all_modern_things(z.target()).await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_parameter_that_is_also_a_header_must_be_the_same_in_both() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let weather = call("weather", json!({"city": "Ur", "region": "Sumer"}));
    let ask = async |headers: &[(&str, &str)]| {
        let answer = z
            .target()
            .modern_with(1, "tools/call", weather.clone(), headers)
            .await;
        (answer.status.as_u16(), answer.last().await)
    };
    let (status, fine) = ask(&[("mcp-param-region", "Sumer")]).await;
    assert_eq!(status, 200);
    assert!(text(&fine).contains("Ur"));
    let (status, _) = ask(&[("mcp-param-region", "=?base64?U3VtZXI=?=")]).await;
    assert_eq!(status, 200);
    for wrong in [&[("mcp-param-region", "Akkad")][..], &[]] {
        let (status, error) = ask(wrong).await;
        assert_eq!(status, 400);
        assert_eq!(error["error"]["code"], -32020);
        assert_eq!(error["id"], 1);
    }
}

async fn posted(z: &Ziggurat, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let answer = z.target().post("/mcp", headers, body.to_string()).await;
    (answer.status.as_u16(), answer.json().await)
}

#[tokio::test]
async fn headers_that_contradict_the_body_are_refused() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let body = request(
        &json!("x"),
        "tools/call",
        &modern_params(call("echo", json!({"text": "t"}))),
    );
    let right = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
    ];
    assert_eq!(posted(&z, &right, &body).await.0, 200);
    let wrong = [
        vec![right[0], ("mcp-method", "tools/list"), right[2]],
        vec![right[0], right[1], ("mcp-name", "env")],
        vec![right[0], right[1]],
        vec![right[0], right[2]],
        vec![right[1], right[2]],
        vec![("mcp-protocol-version", "2025-11-25"), right[1], right[2]],
    ];
    for headers in wrong {
        let (status, error) = posted(&z, &headers, &body).await;
        assert_eq!(status, 400, "{headers:?}");
        assert_eq!(error["error"]["code"], -32020, "{headers:?}");
        assert_eq!(error["id"], "x");
    }
}

#[tokio::test]
async fn a_revision_that_nobody_knows_is_refused_with_those_that_are_known() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let mut params = modern_params(json!({}));
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    let body = request(&json!(1), "tools/list", &params);
    let headers = [
        ("mcp-protocol-version", "2099-01-01"),
        ("mcp-method", "tools/list"),
    ];
    let (status, error) = posted(&z, &headers, &body).await;
    assert_eq!(status, 400);
    assert_eq!(error["error"]["code"], -32022);
    assert_eq!(error["error"]["data"]["requested"], "2099-01-01");
    let supported = error["error"]["data"]["supported"].as_array().unwrap();
    assert!(supported.contains(&json!(MODERN)));
}

#[tokio::test]
async fn a_method_that_the_revision_has_not_is_404() {
    let z = Ziggurat::yaml(&stdio("")).await;
    for method in ["initialize", "ping", "logging/setLevel", "no/such"] {
        let answer = z.target().modern(1, method, json!({})).await;
        assert_eq!(answer.status, 404, "{method}");
        let error = answer.last().await;
        assert_eq!(error["error"]["code"], -32601, "{method}");
        assert_eq!(error["id"], 1);
    }
}

#[tokio::test]
async fn get_and_delete_are_not_allowed() {
    let z = Ziggurat::yaml(&stdio("")).await;
    for method in ["GET", "DELETE"] {
        let headers = [
            ("mcp-protocol-version", MODERN),
            ("accept", "text/event-stream"),
        ];
        let answer = z.target().request(method, "/mcp", &headers, "").await;
        assert_eq!(answer.status, 405, "{method}");
    }
}

#[tokio::test]
async fn a_posted_cancellation_names_nobody_and_has_no_effect() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let mut params = call("progress", json!({"steps": 4, "interval_ms": 30}));
    params["_meta"] = json!({"progressToken": 1});
    let mut running = z.target().modern(5, "tools/call", params).await;
    running.next().await;
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": modern_params(json!({"requestId": 5})),
    });
    let headers = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "notifications/cancelled"),
    ];
    let answer = z.target().post("/mcp", &headers, cancel.to_string()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(text(&running.last().await), "4 steps done");
}

#[tokio::test]
async fn a_modern_client_that_goes_away_cancels_its_call_at_the_child() {
    let z = Ziggurat::yaml(&stdio("")).await;
    z.target()
        .modern_call(0, "echo", json!({"text": "warm"}))
        .await;
    let before = z.baseline().await;
    // It would run for an hour.
    let mut params = call("progress", json!({"steps": 100_000, "interval_ms": 36}));
    params["_meta"] = json!({"progressToken": 1});
    let mut running = z.target().modern(1, "tools/call", params).await;
    running.next().await;
    drop(running);
    z.assert_back_to(&before).await;
    until("the cancellation is counted", async || {
        z.metrics()
            .await
            .sum("ziggurat_cancellations_total", &["origin=\"client\""])
            == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_client_of_each_era_can_use_the_same_route() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let old = session.call(1, "whoami", json!({})).await.last().await;
    let target = z.target();
    let new = target
        .modern_call(1, "whoami", json!({}))
        .await
        .last()
        .await;
    assert_eq!(old["result"]["structuredContent"]["era"], "legacy");
    assert_eq!(new["result"]["structuredContent"]["era"], "modern");
    assert_eq!(z.servers().len(), 2, "a child speaks one era");
}
