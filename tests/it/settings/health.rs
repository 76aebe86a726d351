//! How endpoints are probed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Case, Given, Scenario, case, merge, player::result, scenario, soon};
use crate::harness::{
    BIN, Ziggurat, until,
    upstream::{Received, Upstream, Wire},
};

pub(super) fn cases() -> Vec<Case> {
    let quick = |more: Value| {
        let mut health = json!({ "probe": "http", "interval": "20ms", "fall": 1, "rise": 1 });
        merge(&mut health, &more);
        json!({ "upstream": { "health": health } })
    };
    let at = |key: &str| format!("upstream.health.{key}");
    let mut cases = vec![
        case(
            "upstream.health",
            json!({}),
            scenario(first_probe),
            [
                (json!("off"), "none"),
                (json!({ "interval": "20ms" }), "POST /mcp server/discover"),
            ],
        ),
        case(
            at("probe"),
            json!({ "upstream": { "health": { "interval": "20ms" } } }),
            scenario(first_probe),
            [
                ("mcp", "POST /mcp server/discover"),
                ("http", "GET /mcp"),
                ("tcp", "connection"),
            ],
        ),
        case(
            at("http.path"),
            quick(json!({})),
            scenario(first_probe),
            [("/one", "GET /mcp/one"), ("/other", "GET /mcp/other")],
        ),
        case(
            at("http.status"),
            quick(json!({})),
            settles("204 Fine", "", Duration::ZERO),
            [("200", "unhealthy"), ("200-204", "healthy")],
        ),
        case(
            at("http.contains"),
            quick(json!({})),
            settles("200 OK", "I am ready.", Duration::ZERO),
            [("ready", "healthy"), ("steady", "unhealthy")],
        ),
        case(
            at("timeout"),
            quick(json!({})),
            settles("200 OK", "", Duration::from_millis(500)),
            [("50ms", "unhealthy"), ("20s", "healthy")],
        ),
        // Each request of a probe has that time: these four take longer together.
        case(
            at("timeout"),
            quick(json!({ "probe": "mcp" })),
            found(async |received, wire| {
                tokio::time::sleep(Duration::from_millis(300)).await;
                legacy(received, wire).await
            }),
            [("50ms", "unhealthy"), ("1s", "healthy")],
        ),
        case(
            at("interval"),
            quick(json!({})),
            scenario(how_often),
            [("20ms", "often"), ("1h", "rarely")],
        ),
        case(
            at("jitter"),
            quick(json!({ "interval": "60ms" })),
            scenario(how_even),
            [("0%", "even"), ("100%", "uneven")],
        ),
    ];
    cases.extend(thresholds(&quick));
    cases.push(case(
        at("wake"),
        json!({ "upstream": { "health": { "interval": "20ms" } } }),
        scenario(asleep),
        [("false", "asleep"), ("true", "woken")],
    ));
    cases
}

fn thresholds(quick: &dyn Fn(Value) -> Value) -> Vec<Case> {
    vec![
        // What is out once does not come back.
        case(
            "upstream.health.fall",
            quick(json!({ "rise": 1000 })),
            fails_first(2),
            [("2", "unhealthy"), ("3", "healthy")],
        ),
        case(
            "upstream.health.rise",
            quick(json!({})),
            fails_first(1),
            [("2", "healthy"), ("1000", "unhealthy")],
        ),
    ]
}

/// What is known of the endpoint's health.
async fn health(z: &Ziggurat) -> Value {
    z.report("upstreams").await[0]["endpoints"][0]["health"].clone()
}

/// The first probe of one of two servers, as it sees it.
async fn first_probe(given: Given) -> String {
    let modern = async |received: Received, wire: Wire| {
        let supported = json!({ "supportedVersions": ["2026-07-28"] });
        wire.json(&result(&received, &supported)).await
    };
    let server = Upstream::start(modern).await;
    let other = Upstream::start(modern).await;
    let z = given.over(&[&server, &other]).await;
    if health(&z).await.is_null() {
        return "none".to_owned();
    }
    until("it was probed", async || {
        !health(&z).await["last"].is_null()
    })
    .await;
    assert_eq!(health(&z).await["last"]["result"], "success");
    let received = server.received();
    let Some(first) = received.first() else {
        return "connection".to_owned();
    };
    let body: Value = serde_json::from_str(&first.body).unwrap_or_default();
    let method = body["method"].as_str().unwrap_or_default();
    let probe = format!("{} {} {method}", first.method, first.path);
    probe.trim_end().to_owned()
}

/// What a server that answers like this is found to be.
fn settles(status: &'static str, body: &'static str, after: Duration) -> Scenario {
    found(move |_, wire| async move {
        tokio::time::sleep(after).await;
        wire.answer(status, "", body).await
    })
}

/// A server of the legacy era.
async fn legacy(received: Received, wire: Wire) -> Option<Wire> {
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    match body["method"].as_str() {
        Some("initialize") => {
            let version = json!({ "protocolVersion": "2025-11-25" });
            wire.json(&result(&received, &version)).await
        }
        Some("ping") => wire.json(&result(&received, &json!({}))).await,
        Some("notifications/initialized") => wire.answer("202 Accepted", "", "").await,
        _ => wire.answer("400 Bad Request", "", "").await,
    }
}

/// What a server that plays this script is found to be.
fn found<F, Fut>(script: F) -> Scenario
where
    F: Fn(Received, Wire) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = Option<Wire>> + Send + 'static,
{
    scenario(move |given: Given| {
        let server = Upstream::start(script.clone());
        found_out(given, server)
    })
}

async fn found_out(given: Given, server: impl Future<Output = Upstream>) -> String {
    let server = server.await;
    let z = given.over(&[&server]).await;
    let mut state = Value::Null;
    until("it is known", async || {
        state = health(&z).await["state"].clone();
        state != "unknown"
    })
    .await;
    state.as_str().unwrap_or_default().to_owned()
}

/// What a server whose first probes fail is found to be later.
fn fails_first(failures: usize) -> Scenario {
    scenario(move |given: Given| async move {
        let probes = Arc::new(AtomicUsize::new(0));
        let seen = probes.clone();
        let server = Upstream::start(move |_: Received, wire: Wire| {
            let probe = seen.fetch_add(1, Ordering::SeqCst);
            let bad = probe < failures;
            let status = if bad { "500 Bad" } else { "200 OK" };
            async move { wire.answer(status, "", "").await }
        });
        let server = server.await;
        let z = given.over(&[&server]).await;
        until("some were good", async || {
            probes.load(Ordering::SeqCst) > failures + 4
        })
        .await;
        let health = health(&z).await;
        health["state"].as_str().unwrap_or_default().to_owned()
    })
}

async fn how_often(given: Given) -> String {
    let server = Upstream::start(async |_: Received, wire: Wire| wire.json("{}").await).await;
    let _z = given.over(&[&server]).await;
    let often = async || server.received().len() > 3;
    let often = soon(Duration::from_secs(2), often).await;
    if often { "often" } else { "rarely" }.to_owned()
}

/// Whether some pause is clearly shorter than the interval. A probe is noted before it is answered, so none looks shorter than it was.
async fn how_even(given: Given) -> String {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = times.clone();
    let server = Upstream::start(move |_: Received, wire: Wire| {
        noted.lock().unwrap().push(Instant::now());
        async move { wire.json("{}").await }
    });
    let server = server.await;
    let _z = given.over(&[&server]).await;
    let short = || {
        let times = times.lock().unwrap();
        let mut pauses = times.windows(2).map(|two| two[1] - two[0]);
        pauses.any(|pause| pause < Duration::from_millis(50))
    };
    until("there were many", async || {
        short() || times.lock().unwrap().len() > 25
    })
    .await;
    if short() { "uneven" } else { "even" }.to_owned()
}

/// What becomes of a command that nobody uses.
async fn asleep(given: Given) -> String {
    let command = json!([BIN, "demo"]);
    let z = given.with(json!([{ "command": command }])).await;
    until("it is known", async || {
        let health = health(&z).await;
        health["asleep"] == true || !health["last"].is_null()
    })
    .await;
    let sleeps = z.servers().is_empty();
    if sleeps { "asleep" } else { "woken" }.to_owned()
}
