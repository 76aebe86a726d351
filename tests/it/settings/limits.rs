//! How much may be in hand: calls, and standing streams.

use std::time::Duration;

use futures_util::future::join;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Case, Given, case,
    player::{self, plays},
    scenario,
};
use crate::harness::upstream::{Received, Upstream, Wire};

pub(super) fn cases() -> Vec<Case> {
    let own = json!({ "upstream": { "tools": [{ "tool": "t" }] } });
    let no_queue = json!({ "upstream": { "balance": { "queue": "off" } } });
    let calls = |path: &str, base: Value, refusal| {
        let rows = [("1", refusal), ("2", "ok"), ("off", "ok")];
        case(path, base, plays("hang ok"), rows)
    };
    vec![
        calls("server.concurrency", json!({}), "overloaded"),
        calls("route.concurrency", json!({}), "overloaded"),
        calls("upstream.concurrency", no_queue, "queue_full"),
        calls("upstream.tools[].concurrency", own, "tool_busy"),
        case(
            "server.streams",
            json!({}),
            scenario(streams),
            [("1", "200 503"), ("2", "200 200"), ("off", "200 200")],
        ),
        case(
            "upstream.balance.queue",
            json!({ "upstream": { "concurrency": 1, "balance": { "queue_time": "1s" } } }),
            scenario(two_wait),
            [
                ("off", "queue_full queue_full"),
                ("1", "queue_full queue_timeout"),
                ("2", "queue_timeout queue_timeout"),
            ],
        ),
        case(
            "upstream.balance.queue_time",
            json!({ "upstream": { "concurrency": 1 } }),
            scenario(waits),
            [("100ms", "queue_timeout"), ("1m", "waits")],
        ),
    ]
}

/// One stream after another; both stay.
async fn streams(given: Given) -> String {
    let server = Upstream::start(async |_: Received, wire: Wire| {
        wire.sse().await.drip(": here\n\n").await.stall().await
    });
    let server = server.await;
    let z = given.over(&[&server]).await;
    let client = z.target().stateless("/mcp");
    let first = client.stream().await;
    let second = client.stream().await;
    format!("{} {}", first.status.as_str(), second.status.as_str())
}

/// Two calls that find the only place taken.
async fn two_wait(given: Given) -> String {
    let server = player::player("a").await;
    let z = given.over(&[&server]).await;
    let caller = z.target().stateless("/mcp");
    let _hanging = player::hang(&caller, &[&server]).await;
    let one = async || player::end_of(player::call(&caller, "ok").await).await;
    let (first, second) = join(one(), one()).await;
    let mut ends = [first, second];
    ends.sort();
    ends.join(" ")
}

/// How a call ends that finds the only place taken.
async fn waits(given: Given) -> String {
    let server = player::player("a").await;
    let z = given.over(&[&server]).await;
    let caller = z.target().stateless("/mcp");
    let _hanging = player::hang(&caller, &[&server]).await;
    let end = async { player::end_of(player::call(&caller, "ok").await).await };
    let end = timeout(Duration::from_millis(1500), end).await;
    end.unwrap_or_else(|_| "waits".to_owned())
}
