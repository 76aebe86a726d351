//! How calls are spread over the endpoints.

use serde_json::{Value, json};

use super::{
    Case, Given, Scenario, case, merge,
    player::{call, end_of, hang, player, result},
    scenario,
};
use crate::harness::{
    BIN, Ziggurat,
    mcp::{Session, request},
    until,
    upstream::{Received, Upstream, Wire},
};

/// How many calls are spread: by chance they all go to one of two endpoints, or to each in turn, once in a million times.
const CALLS: usize = 21;

fn balance(settings: &Value) -> Value {
    json!({ "upstream": { "balance": settings } })
}

/// How an endpoint is chosen.
pub(super) fn of_policies() -> Vec<Case> {
    let keyed = json!({ "route": { "session": "off" } });
    let mut by_key = keyed.clone();
    merge(&mut by_key, &balance(&json!({ "policy": "hash" })));
    let unforced = balance(&json!({ "forced": "0%" }));
    let policies = [
        ("round_robin", "in turn"),
        ("random", "mixed"),
        ("hash", "one"),
    ];
    let keys = [
        ("session", "one"),
        ("header:x-same", "one"),
        ("header:x-other", "mixed"),
        ("/same", "one"),
        ("/other", "mixed"),
    ];
    let busy = [
        ("p2c", "one"),
        ("least_request", "one"),
        ("random", "mixed"),
    ];
    let failing = [("p2c", "avoided"), ("least_request", "used")];
    let policy = "upstream.balance.policy";
    vec![
        case("upstream.balance", keyed.clone(), one_key(), policies),
        case(policy, keyed, one_key(), policies),
        case("upstream.balance.key", by_key, one_key(), keys),
        case(policy, unforced.clone(), scenario(one_is_busy), busy),
        case(policy, unforced, scenario(one_fails), failing),
    ]
}

/// What else the balancer is told, and what its endpoints say of their share.
pub(super) fn of_shares() -> Vec<Case> {
    let in_turn = balance(&json!({ "policy": "round_robin" }));
    let mut at_once = in_turn.clone();
    merge(&mut at_once, &balance(&json!({ "slow_start": "0s" })));
    let forced = [("0%", "avoided"), ("100%", "used")];
    let slow_start = [("0s", "half"), ("1h", "few")];
    let panic = [("0%", "one"), ("50%", "one"), ("100%", "in turn")];
    let at = |key: &str| format!("upstream.balance.{key}");
    let mut cases = vec![
        case(at("forced"), json!({}), scenario(one_fails), forced),
        case(
            at("slow_start"),
            in_turn.clone(),
            scenario(one_is_new),
            slow_start,
        ),
        case(at("panic"), at_once, scenario(one_is_sick), panic),
    ];
    for (kind, scenario) in [
        ("url", scenario(shares)),
        ("command", scenario(shares_of_commands)),
    ] {
        let at = |key: &str| format!("upstream.endpoints[{kind}].{key}");
        let weight = [("1", "8 8"), ("3", "12 4")];
        let priority = [("0", "8 8"), ("1", "0 16")];
        cases.push(case(
            at("weight"),
            in_turn.clone(),
            scenario.clone(),
            weight,
        ));
        cases.push(case(at("priority"), in_turn.clone(), scenario, priority));
    }
    cases.push(case(
        "upstream.endpoints[url].each_address",
        json!({}),
        self::scenario(names_an_address),
        [("off", "false"), ("1s", "true")],
    ));
    cases
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

/// One of two fails, as is known after the first time.
async fn one_fails(given: Given) -> String {
    let fine = player("fine").await;
    let bad = async |_: Received, wire: Wire| wire.answer("500 Bad", "", "").await;
    let bad = Upstream::start(bad).await;
    let z = given.over(&[&fine, &bad]).await;
    let caller = z.target().stateless("/mcp");
    let failures = async || {
        until("no call is in hand", async || in_hand(&z).await == 0).await;
        end_of(call(&caller, "ok").await).await;
        bad.received().len()
    };
    until("it has failed", async || failures().await > 0).await;
    for _ in 0..CALLS {
        if failures().await > 1 {
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
    let probed = json!({ "upstream": { "health": health } });
    merge(&mut given.base, &probed);
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

/// Whether an endpoint at a name is named by an address.
async fn names_an_address(given: Given) -> String {
    let server = player("a").await;
    let url = server.url("/mcp").replace("127.0.0.1", "localhost");
    let z = given.with(json!([{ "url": url }])).await;
    place(&z.target().stateless("/mcp")).await;
    let report = z.report("upstreams").await;
    let name = report[0]["endpoints"][0]["name"].to_string();
    name.contains('@').to_string()
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
