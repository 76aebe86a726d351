//! When an endpoint that does worse than the others is left alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Case, Given, Scenario, case, merge,
    player::{call, end_of, player},
    scenario, soon,
};
use crate::harness::{
    Ziggurat,
    mcp::Session,
    until,
    upstream::{Received, Upstream, Wire},
};

/// A little more than the interval that the cases have.
const INTERVAL: Duration = Duration::from_millis(700);

pub(super) fn cases() -> Vec<Case> {
    let with = |mut outlier: Value, more: Value| {
        merge(&mut outlier, &more);
        let balance = json!({ "policy": "round_robin", "slow_start": "0s" });
        json!({ "upstream": { "outlier": outlier, "balance": balance } })
    };
    let row = |more| with(json!({ "consecutive": 1, "deviations": "off" }), more);
    // One of five that fails lies two deviations above their mean.
    let rates = json!({
        "consecutive": "off", "deviations": 1.9, "min_calls": 2, "floor": "0%", "interval": "600ms", "base": "1h", "max": "1h",
    });
    let rate = |more| with(rates.clone(), more);
    let at = |key: &str| format!("upstream.outlier.{key}");
    let in_turn = json!({ "upstream": { "balance": "round_robin" } });
    let half = scenario(|given| compared(given, 2));
    let all = || scenario(|given| compared(given, 1));
    let (out, kept) = ("left alone", "kept");
    vec![
        case(
            "upstream.outlier",
            in_turn,
            failures_before(),
            [(json!("off"), "8"), (json!({}), "5")],
        ),
        case(
            at("consecutive"),
            row(json!({})),
            failures_before(),
            [("2", "2"), ("off", "8")],
        ),
        case(
            at("deviations"),
            rate(json!({})),
            all(),
            [("1.9", out), ("3", kept), ("off", kept)],
        ),
        case(
            at("min_calls"),
            rate(json!({})),
            all(),
            [("2", out), ("1000", kept)],
        ),
        case(
            at("min_endpoints"),
            rate(json!({})),
            all(),
            [("5", out), ("6", kept)],
        ),
        case(
            at("floor"),
            rate(json!({})),
            half,
            [("10%", out), ("90%", kept)],
        ),
        case(
            at("interval"),
            rate(json!({})),
            all(),
            [("600ms", out), ("1h", kept)],
        ),
        case(
            at("base"),
            row(json!({})),
            scenario(comes_back),
            [("50ms", "back"), ("1h", "away")],
        ),
        case(
            at("max"),
            row(json!({ "base": "250ms" })),
            scenario(fourth_time),
            [("250ms", "as long"), ("1h", "longer")],
        ),
        case(
            at("max_ejected"),
            row(json!({})),
            scenario(how_many),
            [("40%", "2"), ("60%", "3")],
        ),
    ]
}

/// A server where every so many calls fail, counted from the first.
async fn bad(every: usize) -> Upstream {
    let calls = Arc::new(AtomicUsize::new(0));
    let script = move |_: Received, wire: Wire| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            let fails = call.is_multiple_of(every);
            let status = if fails { "503 Bad" } else { "200 OK" };
            wire.answer(status, "", "").await
        }
    };
    Upstream::start(script).await
}

/// Five servers, the first of which are as bad as that.
async fn five(bad_ones: usize, every: usize) -> Vec<Upstream> {
    let mut servers = Vec::new();
    for at in 0..5 {
        servers.push(if at < bad_ones {
            bad(every).await
        } else {
            player("fine").await
        });
    }
    servers
}

async fn over(given: &Given, servers: &[Upstream]) -> Ziggurat {
    let servers: Vec<_> = servers.iter().collect();
    given.over(&servers).await
}

/// Two calls for each of the servers.
async fn round(caller: &Session) {
    join_all((0..10).map(|_| async { end_of(call(caller, "ok").await).await })).await;
}

async fn outlier(z: &Ziggurat) -> Value {
    z.report("upstreams").await[0]["endpoints"][0]["outlier"].clone()
}

async fn is_ejected(z: &Ziggurat) -> bool {
    outlier(z).await["ejected_for_ms"].is_u64()
}

/// How many of eight calls each the bad one of two servers got.
fn failures_before() -> Scenario {
    scenario(async |given: Given| {
        let (bad, fine) = (bad(1).await, player("fine").await);
        let z = given.over(&[&bad, &fine]).await;
        let caller = z.target().stateless("/mcp");
        for _ in 0..16 {
            end_of(call(&caller, "ok").await).await;
        }
        bad.received().len().to_string()
    })
}

/// Whether one of five is left alone for the rate of its failures, once an interval is over in which all have had calls.
async fn compared(given: Given, every: usize) -> String {
    let servers = five(1, every).await;
    let z = over(&given, &servers).await;
    let caller = z.target().stateless("/mcp");
    until("all have had calls", async || {
        round(&caller).await;
        is_ejected(&z).await || calls(&z).await.iter().all(|calls| *calls >= 2)
    })
    .await;
    sleep(INTERVAL).await;
    // The next call that ends finds that the interval is over.
    round(&caller).await;
    if is_ejected(&z).await {
        "left alone"
    } else {
        "kept"
    }
    .to_owned()
}

/// The calls of this interval that count.
async fn calls(z: &Ziggurat) -> Vec<u64> {
    let report = z.report("upstreams").await;
    let endpoints = report[0]["endpoints"].as_array().unwrap().iter();
    endpoints
        .map(|endpoint| endpoint["outlier"]["calls"].as_u64().unwrap())
        .collect()
}

/// Whether what was left alone is used again soon.
async fn comes_back(given: Given) -> String {
    let (bad, fine) = (bad(1).await, player("fine").await);
    let z = given.over(&[&bad, &fine]).await;
    let caller = z.target().stateless("/mcp");
    let used = async |times: usize| {
        end_of(call(&caller, "ok").await).await;
        bad.received().len() >= times
    };
    until("it fails", async || used(1).await).await;
    let again = soon(Duration::from_secs(1), async || used(2).await).await;
    if again { "back" } else { "away" }.to_owned()
}

/// Whether the fourth time is longer than the first.
async fn fourth_time(given: Given) -> String {
    let (bad, fine) = (bad(1).await, player("fine").await);
    let z = given.over(&[&bad, &fine]).await;
    let caller = z.target().stateless("/mcp");
    until("it was left alone for the fourth time", async || {
        end_of(call(&caller, "ok").await).await;
        bad.received().len() >= 4
    })
    .await;
    let left = outlier(&z).await["ejected_for_ms"].as_u64();
    if left > Some(300) {
        "longer"
    } else {
        "as long"
    }
    .to_owned()
}

/// How many of three bad ones are left alone at once.
async fn how_many(given: Given) -> String {
    let servers = five(3, 1).await;
    let z = over(&given, &servers).await;
    let caller = z.target().stateless("/mcp");
    for _ in 0..3 {
        round(&caller).await;
    }
    let report = z.report("upstreams").await;
    let endpoints = report[0]["endpoints"].as_array().unwrap();
    let out = endpoints.iter().filter(|e| e["state"] == "outlier");
    out.count().to_string()
}
