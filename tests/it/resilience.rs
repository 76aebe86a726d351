//! Several endpoints, and upstreams that fail: what is repeated, what is not, and who is left alone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat, config, demo, endpoints,
    mcp::{LEGACY, Session, initialize},
    until,
    upstream::{Received, Upstream, Wire, nobody},
};

/// Repeats at once.
const REPEATS: &str = "retry: { backoff: { base: 1ms } },";
/// Never repeats.
const ONCE: &str = "retry: off,";
/// Each endpoint in its turn, whatever became of the calls before.
const IN_TURN: &str = "circuit: off, health: off, balance: round_robin,";
/// Each in its turn, until three of its calls in a row have failed.
const BREAKER: &str =
    "circuit: { consecutive: 3, open: 1h, open_max: 1h }, health: off, balance: round_robin,";

/// Two failures in a row are enough.
const SENSITIVE: &str = "circuit: { consecutive: 2 },";

/// A ziggurat over these endpoints.
async fn over(route: &str, upstream: &str, urls: &[String]) -> Ziggurat {
    Ziggurat::yaml(&config("", route, upstream, &endpoints(urls))).await
}

fn caller(z: &Ziggurat) -> Session {
    z.target().stateless("/mcp")
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
    let z = over("", "balance: round_robin, health: off,", &urls).await;
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
    let z = over(REPEATS, IN_TURN, &urls).await;
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
    let (_kept, address) = nobody();
    let fine = good("fine").await;
    let urls = [format!("http://{address}/mcp"), fine.url("/mcp")];
    let z = over(REPEATS, IN_TURN, &urls).await;
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
    let z = over(ONCE, BREAKER, &urls).await;
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
    let z = over(ONCE, BREAKER, &urls[..1]).await;
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
    let text = config("", ONCE, BREAKER, &endpoints(&urls));
    let z = Ziggurat::yaml(&text).await;
    let caller = caller(&z);
    for id in 0..10 {
        caller.call(id, "write", json!({})).await.last().await;
    }
    assert_eq!(bad.received().len(), 3);
    z.reload(&text.replace("round_robin", "random"), "ok").await;
    for id in 0..20 {
        let answer = caller.call(id, "write", json!({})).await.last().await;
        assert_eq!(answer["result"]["name"], "fine", "{answer}");
    }
    assert_eq!(bad.received().len(), 3);
}

#[tokio::test]
async fn a_front_that_says_200_while_its_server_hangs_is_found_by_its_probes_and_let_in_again() {
    let wedged = Arc::new(AtomicBool::new(false));
    let hangs = wedged.clone();
    let liar = Upstream::start(move |received, wire| {
        let hangs = hangs.load(Ordering::SeqCst);
        async move {
            if !hangs {
                return named(received, wire, "liar").await;
            }
            // The head of an event stream, comments, and never an answer.
            wire.sse()
                .await
                .drip(": still here\n\n")
                .await
                .stall()
                .await
        }
    })
    .await;
    let fine = good("fine").await;
    let urls = [liar.url("/mcp"), fine.url("/mcp")];
    let settings = "health: { interval: 50ms, timeout: 200ms, fall: 2, rise: 2 }, \
                    balance: { policy: round_robin, slow_start: 0s }, circuit: off,";
    let z = over(ONCE, settings, &urls).await;
    let state = async |at: usize| {
        let report = z.report("upstreams").await;
        let endpoint = &report[0]["endpoints"][at];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (word(&endpoint["health"]["state"]), word(&endpoint["state"]))
    };
    let healthy = ("healthy".to_owned(), "open".to_owned());
    until("both are healthy", async || {
        state(0).await == healthy && state(1).await == healthy
    })
    .await;
    wedged.store(true, Ordering::SeqCst);
    until("the liar is found out", async || {
        state(0).await == ("unhealthy".to_owned(), "health".to_owned())
    })
    .await;
    let caller = caller(&z);
    for id in 0..10 {
        let answer = caller.call(id, "echo", json!({})).await.last().await;
        assert_eq!(answer["result"]["name"], "fine", "{answer}");
    }
    wedged.store(false, Ordering::SeqCst);
    until("it is let in again", async || state(0).await == healthy).await;
    until("it gets calls", async || {
        let answer = caller.call(99, "echo", json!({})).await.last().await;
        answer["result"]["name"] == "liar"
    })
    .await;
}

#[tokio::test]
async fn probes_leave_nothing_behind_and_do_not_wake_what_sleeps() {
    let both = [demo("idle: 1h"), demo("idle: 1h")].join(" }, { ");
    let z = Ziggurat::yaml(&config("", "", "health: { interval: 30ms },", &both)).await;
    let asleep = async || {
        let report = z.report("upstreams").await;
        let endpoints = report[0]["endpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        endpoints.len() == 2 && endpoints.iter().all(|e| e["health"]["asleep"] == true)
    };
    until("both are known to sleep", asleep).await;
    assert!(z.servers().is_empty());
    let modern = z
        .target()
        .modern_call(1, "echo", json!({"text": "up"}))
        .await;
    assert!(modern.last().await.get("result").is_some());
    until("the one that runs is probed", async || {
        let probes = z.metrics().await;
        probes.sum("ziggurat_health_probe_duration_seconds_count", &["tools"]) > 0.0
    })
    .await;
    assert_eq!(z.servers().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_does_worse_than_the_others_is_left_alone_for_a_while() {
    let (a, b, bad) = (good("a").await, good("b").await, breaking().await);
    let urls = [a.url("/mcp"), b.url("/mcp"), bad.url("/mcp")];
    let settings = "circuit: off, balance: round_robin, health: off, outlier: { consecutive: 3, base: 1h, max: 1h },";
    let z = over(ONCE, settings, &urls).await;
    let caller = caller(&z);
    for id in 0..30 {
        caller.call(id, "echo", json!({})).await.last().await;
    }
    assert_eq!(bad.received().len(), 3);
    let report = z.report("upstreams").await;
    assert_eq!(report[0]["endpoints"][2]["state"], "outlier", "{report}");
    let ejections = z.metrics().await;
    assert_eq!(ejections.sum("ziggurat_outlier_ejections_total", &[]), 1.0);
}

#[tokio::test]
async fn what_a_call_may_wait_for_passes_an_open_breaker() {
    let server = Upstream::start(async |received: Received, wire: Wire| {
        if received.body.contains("\"id\"") && received.body.contains("method") {
            return wire.answer("500 Internal Server Error", "", "").await;
        }
        wire.answer("202 Accepted", "", "").await
    })
    .await;
    let settings = "circuit: { consecutive: 2, open: 1h, open_max: 1h }, ";
    let z = over(ONCE, settings, &[server.url("/mcp")]).await;
    let caller = caller(&z);
    for id in 0..2 {
        caller.call(id, "write", json!({})).await;
    }
    let refused = caller.call(3, "write", json!({})).await.last().await;
    assert_eq!(error(&refused), ("no_endpoint", "not_sent"), "{refused}");
    let answer = json!({"jsonrpc": "2.0", "id": "asked", "result": {}});
    assert_eq!(caller.post(&answer).await.status, 202);
    caller
        .tell("notifications/cancelled", json!({"requestId": 1}))
        .await;
    assert_eq!(server.received().len(), 4);
}

#[tokio::test]
async fn a_full_pool_of_children_is_no_failure_of_the_endpoint() {
    let z = Ziggurat::yaml(&config("", "", SENSITIVE, &demo("max: 1"))).await;
    let session = z.target().session().await;
    for _ in 0..4 {
        let body = initialize(LEGACY).to_string();
        let refused = z.target().post("/mcp", &[], body).await.last().await;
        assert_eq!(error(&refused), ("server_busy", "not_sent"), "{refused}");
    }
    let answer = session.call(1, "echo", json!({"text": "fine"})).await;
    assert!(answer.last().await.get("result").is_some());
}

#[tokio::test]
async fn a_tool_that_kills_its_server_takes_no_other_session_down() {
    let z = Ziggurat::yaml(&config("", ONCE, SENSITIVE, &demo(""))).await;
    let session = z.target().session().await;
    for _ in 0..4 {
        let clumsy = z.target().session().await;
        let gone = clumsy.call(1, "crash", json!({})).await.last().await;
        assert_eq!(error(&gone).0, "server_gone", "{gone}");
    }
    let answer = session.call(1, "echo", json!({"text": "fine"})).await;
    assert!(answer.last().await.get("result").is_some());
}
