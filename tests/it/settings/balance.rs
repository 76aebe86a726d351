//! How calls are spread over the endpoints.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Case, Given, Scenario, case,
    player::{call, hang, player, result},
    scenario,
};
use crate::harness::{
    BIN, Ziggurat,
    mcp::{Session, request},
    until,
    upstream::{Received, Upstream, Wire},
};

/// How many calls are spread: by chance they all go to one of two endpoints, or to each in turn, once in many millions of times.
const CALLS: usize = 27;

pub(super) fn cases() -> Vec<Case> {
    let balance = |settings: Value| json!({ "upstream": { "balance": settings } });
    let keyed = json!({ "route": { "session": "off" } });
    let by_key =
        json!({ "route": { "session": "off" }, "upstream": { "balance": { "policy": "hash" } } });
    let in_turn = balance(json!({ "policy": "round_robin" }));
    let policies = [
        ("round_robin", "in turn"),
        ("random", "mixed"),
        ("hash", "one"),
    ];
    let mut cases = vec![
        case("upstream.balance", keyed.clone(), one_key(), policies),
        case("upstream.balance.policy", keyed, one_key(), policies),
        case(
            "upstream.balance.policy",
            balance(json!({ "forced": "0%" })),
            scenario(one_is_busy),
            [
                ("p2c", "one"),
                ("least_request", "one"),
                ("random", "mixed"),
            ],
        ),
        case(
            "upstream.balance.policy",
            balance(json!({ "forced": "0%" })),
            scenario(one_is_slow),
            [("p2c", "avoided"), ("least_request", "used")],
        ),
        case(
            "upstream.balance.key",
            by_key,
            one_key(),
            [
                ("session", "one"),
                ("header:x-same", "one"),
                ("header:x-other", "mixed"),
                ("/same", "one"),
                ("/other", "mixed"),
            ],
        ),
        case(
            "upstream.balance.forced",
            balance(json!({ "policy": "p2c" })),
            scenario(one_is_slow),
            [("0%", "avoided"), ("100%", "used")],
        ),
        case(
            "upstream.balance.slow_start",
            in_turn.clone(),
            scenario(one_is_new),
            [("0s", "half"), ("1h", "few")],
        ),
        case(
            "upstream.balance.panic",
            balance(json!({ "policy": "round_robin", "slow_start": "0s" })),
            scenario(one_is_sick),
            [("0%", "one"), ("50%", "one"), ("100%", "in turn")],
        ),
    ];
    cases.extend(endpoints(&in_turn));
    cases
}

/// What an endpoint says of its share.
fn endpoints(in_turn: &Value) -> Vec<Case> {
    let weights = [("1", "8 8"), ("3", "12 4")];
    let ranks = [("0", "8 8"), ("1", "0 16")];
    let urls = || scenario(shares);
    let commands = || scenario(shares_of_commands);
    let case = |path, scenario, rows| case(path, in_turn.clone(), scenario, rows);
    vec![
        case("upstream.endpoints[url].weight", urls(), weights),
        case("upstream.endpoints[url].priority", urls(), ranks),
        case("upstream.endpoints[command].weight", commands(), weights),
        case("upstream.endpoints[command].priority", commands(), ranks),
    ]
}

/// How calls were spread, from the endpoint of each.
fn spread(places: &[String]) -> String {
    if places.iter().all(|place| *place == places[0]) {
        return "one".to_owned();
    }
    let alternates = places.windows(2).all(|two| two[0] != two[1]);
    if alternates { "in turn" } else { "mixed" }.to_owned()
}

/// Makes a call, and tells which server answered.
async fn place(caller: &Session) -> String {
    let answer = call(caller, "ok").await.last().await;
    answer["result"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn places(caller: &Session, calls: usize) -> Vec<String> {
    let mut places = Vec::new();
    for _ in 0..calls {
        places.push(place(caller).await);
    }
    places
}

/// Calls that have the same session and one header and one argument in common, and another header and argument for each.
fn one_key() -> Scenario {
    scenario(async |given: Given| {
        let (a, b) = (player("a").await, player("b").await);
        let z = given.over(&[&a, &b]).await;
        let mut places = Vec::new();
        for id in 0..CALLS {
            let other = id.to_string();
            let arguments = json!({ "same": "s", "other": other });
            let params = json!({ "name": "t", "arguments": arguments });
            let body = request(&json!(id), "tools/call", &params).to_string();
            let headers = [
                ("mcp-protocol-version", "2025-11-25"),
                ("mcp-session-id", "one"),
                ("x-same", "s"),
                ("x-other", &other),
            ];
            let answer = z.target().post("/mcp", &headers, body).await.last().await;
            places.push(answer["result"]["name"].to_string());
        }
        spread(&places)
    })
}

/// One of two has a call in hand.
async fn one_is_busy(given: Given) -> String {
    let (a, b) = (player("a").await, player("b").await);
    let z = given.over(&[&a, &b]).await;
    let caller = z.target().stateless("/mcp");
    let _hanging = hang(&caller, &[&a, &b]).await;
    let mut places = Vec::new();
    for _ in 0..CALLS {
        // Whoever has just answered may still be taken for busy.
        until("one call is in hand", async || in_hand(&z).await == 1).await;
        places.push(place(&caller).await);
    }
    spread(&places)
}

async fn in_hand(z: &Ziggurat) -> u64 {
    let report = z.report("upstreams").await;
    let calls = |at: usize| report[0]["endpoints"][at]["calls"].as_u64();
    calls(0).unwrap() + calls(1).unwrap()
}

/// One of two takes its time, as is known of both.
async fn one_is_slow(given: Given) -> String {
    let quick = player("quick").await;
    let slow = Upstream::start(async |received: Received, wire: Wire| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let named = json!({ "content": [], "name": "slow" });
        wire.json(&result(&received, &named)).await
    });
    let slow = slow.await;
    let z = given.over(&[&quick, &slow]).await;
    let caller = z.target().stateless("/mcp");
    until("both have answered", async || {
        place(&caller).await;
        !quick.received().is_empty() && !slow.received().is_empty()
    })
    .await;
    for _ in 0..CALLS {
        if place(&caller).await == "slow" {
            return "used".to_owned();
        }
    }
    "avoided".to_owned()
}

/// One of two is added while the other is used.
async fn one_is_new(given: Given) -> String {
    let (a, b) = (player("a").await, player("b").await);
    let z = given.over(&[&a]).await;
    let both = json!([{ "url": a.url("/mcp") }, { "url": b.url("/mcp") }]);
    z.reload(&given.config(both), "ok").await;
    let places = places(&z.target().stateless("/mcp"), CALLS).await;
    let new = places.iter().filter(|place| *place == "b").count();
    if new < CALLS / 3 { "few" } else { "half" }.to_owned()
}

/// One of two fails its probes.
async fn one_is_sick(mut given: Given) -> String {
    let health = json!({ "probe": "http", "interval": "20ms", "fall": 1, "rise": 1 });
    super::merge(
        &mut given.base,
        &json!({ "upstream": { "health": health } }),
    );
    let well = player("a").await;
    let sick = Upstream::start(async |received: Received, wire: Wire| {
        if received.method == "GET" {
            return wire.answer("500 Sick", "", "").await;
        }
        let named = json!({ "content": [], "name": "b" });
        wire.json(&result(&received, &named)).await
    });
    let sick = sick.await;
    let z = given.over(&[&well, &sick]).await;
    until("it is known", async || {
        let report = z.report("upstreams").await;
        report[0]["endpoints"][1]["health"]["state"] == "unhealthy"
    })
    .await;
    spread(&places(&z.target().stateless("/mcp"), CALLS).await)
}

/// The calls that each of two servers got.
async fn shares(given: Given) -> String {
    let (a, b) = (player("a").await, player("b").await);
    let z = given.over(&[&a, &b]).await;
    places(&z.target().stateless("/mcp"), 16).await;
    format!("{} {}", a.received().len(), b.received().len())
}

/// The sessions that each of two commands got.
async fn shares_of_commands(given: Given) -> String {
    let command = json!({ "command": [BIN, "demo"], "isolation": "shared" });
    let z = given.with(json!([command, command])).await;
    for _ in 0..16 {
        z.target().session().await;
    }
    let report = z.report("upstreams").await;
    let endpoints = &report[0]["endpoints"];
    format!("{} {}", endpoints[0]["sessions"], endpoints[1]["sessions"])
}
