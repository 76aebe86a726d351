//! Several endpoints, and upstreams that fail: what is repeated, what is not, and who is left alone.

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat,
    mcp::Session,
    until,
    upstream::{Received, Upstream, Wire},
};

/// A config with one MCP route and these endpoints.
fn over(route: &str, upstream: &str, urls: &[String]) -> String {
    let urls: Vec<_> = urls
        .iter()
        .map(|url| format!("{{ url: \"{url}\" }}"))
        .collect();
    format!(
        "routes: [{{ match: {{ path: /mcp }}, upstream: tools, {route} }}]\n\
         upstreams: {{ tools: {{ {upstream} endpoints: [{}] }} }}\n",
        urls.join(", ")
    )
}

fn caller(z: &Ziggurat) -> Session {
    Session {
        target: z.target(),
        path: "/mcp".to_owned(),
        id: String::new(),
        version: "2025-11-25".to_owned(),
    }
}

/// Answers each call with the name of the server.
async fn named(received: Received, wire: Wire, name: &str) -> Option<Wire> {
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    let result =
        json!({"jsonrpc": "2.0", "id": body["id"], "result": {"content": [], "name": name}});
    wire.json(&result.to_string()).await
}

/// A server of this name that answers.
async fn good(name: &'static str) -> Upstream {
    Upstream::start(move |received, wire| named(received, wire, name)).await
}

/// A server that breaks off each request after it has read it.
async fn breaking() -> Upstream {
    Upstream::start(async |_, wire: Wire| wire.reset()).await
}

fn error(answer: &Value) -> (&str, &str) {
    let data = &answer["error"]["data"];
    let word = |key: &str| data[key].as_str().unwrap_or_default();
    (word("kind"), word("outcome"))
}

#[tokio::test]
async fn calls_are_spread_over_the_endpoints() {
    let (a, b) = (good("a").await, good("b").await);
    let urls = [a.url("/mcp"), b.url("/mcp")];
    let z = Ziggurat::yaml(&over("", "balance: round_robin,", &urls)).await;
    let caller = caller(&z);
    for id in 0..10 {
        let answer = caller.call(id, "echo", json!({})).await.last().await;
        assert!(answer["result"]["name"].is_string(), "{answer}");
    }
    assert_eq!((a.received().len(), b.received().len()), (5, 5));
}

#[tokio::test]
async fn a_safe_call_is_repeated_at_another_endpoint_and_an_unsafe_one_never() {
    let (bad, fine) = (breaking().await, good("fine").await);
    let urls = [bad.url("/mcp"), fine.url("/mcp")];
    let quiet = "retry: { backoff: { base: 1ms } },";
    let z = Ziggurat::yaml(&over(quiet, "circuit: off, balance: round_robin,", &urls)).await;
    let caller = caller(&z);
    for id in 0..6 {
        let answer = caller.ask(id, "tools/list", json!({})).await.last().await;
        assert_eq!(answer["result"]["name"], "fine", "{answer}");
    }
    assert!(!bad.received().is_empty());

    // Each of these is executed at most once, wherever it went; who got no answer is told that nobody knows.
    let before = bad.received().len();
    let mut unknown = 0_u32;
    for id in 0..6 {
        let answer = caller.call(id, "write", json!({})).await.last().await;
        if answer.get("result").is_none() {
            assert_eq!(error(&answer), ("upstream_broken", "unknown"), "{answer}");
            unknown += 1;
        }
    }
    assert_eq!(bad.received().len() - before, unknown as usize);
    assert!(unknown > 0);
    let refused = z
        .metrics()
        .await
        .sum("ziggurat_retry_refused_unsafe_total", &[]);
    assert_eq!(refused, f64::from(unknown));
}

#[tokio::test]
async fn what_was_not_sent_is_repeated_whatever_it_does() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}/mcp", listener.local_addr().unwrap());
    drop(listener);
    let fine = good("fine").await;
    let urls = [nobody, fine.url("/mcp")];
    let quiet = "retry: { backoff: { base: 1ms } },";
    let z = Ziggurat::yaml(&over(quiet, "circuit: off, balance: round_robin,", &urls)).await;
    let caller = caller(&z);
    for id in 0..6 {
        let answer = caller.call(id, "write", json!({})).await.last().await;
        assert_eq!(answer["result"]["name"], "fine", "{answer}");
    }
    assert_eq!(fine.received().len(), 6);
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_alone_and_shown() {
    let (bad, fine) = (breaking().await, good("fine").await);
    let urls = [bad.url("/mcp"), fine.url("/mcp")];
    let settings = "circuit: { consecutive: 3, open: 1h, open_max: 1h }, balance: round_robin,";
    let z = Ziggurat::yaml(&over("retry: off,", settings, &urls)).await;
    let caller = caller(&z);
    let mut failed = 0;
    for id in 0..20 {
        let answer = caller.call(id, "write", json!({})).await.last().await;
        failed += u32::from(answer.get("result").is_none());
    }
    assert_eq!((failed, bad.received().len()), (3, 3));
    let report = z.report("upstreams").await;
    let endpoints = &report[0]["endpoints"];
    assert_eq!(endpoints[0]["state"], "circuit", "{report}");
    assert_eq!(endpoints[0]["circuit"]["state"], "open", "{report}");
    assert_eq!(endpoints[0]["usable"], false, "{report}");
    assert_eq!(endpoints[1]["state"], "open", "{report}");
    let metrics = z.metrics().await;
    let name = format!("tools/{}", bad.address);
    let is_open = metrics.sum("ziggurat_breaker_state", &[&name]);
    let ready = |endpoint: &Upstream| {
        let address = endpoint.address.to_string();
        metrics.sum("ziggurat_endpoint_ready", &[&address])
    };
    assert_eq!((is_open, ready(&bad), ready(&fine)), (2.0, 0.0, 1.0));

    // The last endpoint goes too: who asks now is told at once.
    let z = Ziggurat::yaml(&over("retry: off,", settings, &urls[..1])).await;
    let caller = self::caller(&z);
    for id in 0..3 {
        caller.call(id, "write", json!({})).await.last().await;
    }
    let answer = caller.call(4, "write", json!({})).await.last().await;
    assert_eq!(error(&answer), ("no_endpoint", "not_sent"), "{answer}");
    assert!(answer["error"]["data"]["retry_after_ms"].as_u64() > Some(1_000_000));
    until("nothing is ready", async || {
        z.admin().get("/readyz").await.status == 503
    })
    .await;
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_an_endpoint_that_stays() {
    let (bad, fine) = (breaking().await, good("fine").await);
    let urls = [bad.url("/mcp"), fine.url("/mcp")];
    let settings = "circuit: { consecutive: 3, open: 1h, open_max: 1h }, balance: round_robin,";
    let text = over("retry: off,", settings, &urls);
    let z = Ziggurat::yaml(&text).await;
    let caller = caller(&z);
    for id in 0..10 {
        caller.call(id, "write", json!({})).await.last().await;
    }
    assert_eq!(bad.received().len(), 3);
    z.reload(&text.replace("round_robin", "random"));
    until("the config is in force", async || {
        let ok = z.metrics().await;
        ok.sum("ziggurat_config_reloads_total", &["ok"]) == 1.0
    })
    .await;
    for id in 0..20 {
        let answer = caller.call(id, "write", json!({})).await.last().await;
        assert_eq!(answer["result"]["name"], "fine", "{answer}");
    }
    assert_eq!(bad.received().len(), 3);
}
