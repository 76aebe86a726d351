//! How often, and when, a call that failed is tried again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use super::{Case, Given, Scenario, case, merge, player::end_of, player::result, scenario};
use crate::harness::upstream::{Received, Upstream, Wire};

pub(super) fn cases() -> Vec<Case> {
    let retry = |more: Value| {
        let mut retry = json!({ "backoff": { "base": "1ms" }, "budget": "100%" });
        merge(&mut retry, &more);
        json!({ "route": { "retry": retry } })
    };
    let at = |key: &str| format!("route.retry.{key}");
    let hasty =
        |backoff: Value| json!({ "route": { "retry": { "backoff": backoff }, "deadline": "10s" } });
    let mut plain = retry(json!({}));
    merge(&mut plain, &json!({ "route": { "protocol": "http" } }));
    vec![
        case(
            "route.retry",
            json!({}),
            ends("tools/list", ""),
            [
                (json!("off"), "503"),
                (json!({ "backoff": { "base": "1ms" } }), "ok"),
            ],
        ),
        case(
            at("attempts"),
            retry(json!({})),
            attempts_of(1),
            [("1", "1"), ("2", "2"), ("5", "5")],
        ),
        case(
            at("budget"),
            retry(json!({ "attempts": 2, "least": 0 })),
            attempts_of(10),
            [("0%", "10"), ("50%", "15"), ("100%", "20")],
        ),
        case(
            at("least"),
            retry(json!({ "attempts": 2, "budget": "0%" })),
            attempts_of(10),
            [("0", "10"), ("0.3", "13"), ("1", "20")],
        ),
        // A random part of a thousand hours comes hardly ever before the deadline, and then it is not waited for.
        case(
            at("backoff.base"),
            hasty(json!({ "max": "1000h" })),
            ends("tools/list", ""),
            [("1ms", "ok"), ("1000h", "503")],
        ),
        case(
            at("backoff.max"),
            hasty(json!({ "base": "1000h" })),
            ends("tools/list", ""),
            [("1ms", "ok"), ("1000h", "503")],
        ),
        case(
            at("retry_after"),
            retry(json!({})),
            ends("tools/list", "retry-after: 1\r\n"),
            [("0s", "503"), ("5s", "ok")],
        ),
        // So the server says that nothing was done.
        case(
            at("retry_after"),
            retry(json!({ "statuses": [] })),
            ends("tools/call", "retry-after: 1\r\n"),
            [("0s", "503"), ("5s", "ok")],
        ),
        case(
            at("body_cap"),
            retry(json!({})),
            ends("tools/list", ""),
            [("1KiB", "503"), ("16KiB", "ok")],
        ),
        case(
            at("body_cap"),
            plain,
            scenario(put),
            [("1KiB", "503"), ("16KiB", "200")],
        ),
        case(
            at("safe_tools"),
            retry(json!({})),
            ends("tools/call", ""),
            [
                (json!([]), "503"),
                (json!(["other", "t*"]), "ok"),
                (json!(["other"]), "503"),
            ],
        ),
        case(
            at("statuses"),
            retry(json!({})),
            ends("tools/list", ""),
            [(json!([502]), "503"), (json!([502, 503]), "ok")],
        ),
        case(
            "upstream.trust_annotations",
            retry(json!({})),
            scenario(what_it_said),
            [("false", "503"), ("true", "ok")],
        ),
    ]
}

/// A server where the first calls fail.
async fn failing(first: usize, headers: &'static str) -> Upstream {
    let calls = Arc::new(AtomicUsize::new(0));
    let script = move |received: Received, wire: Wire| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            if call < first {
                return wire.answer("503 Busy", headers, "").await;
            }
            wire.json(&result(&received, &json!({}))).await
        }
    };
    Upstream::start(script).await
}

/// Parameters for any method, two thousand bytes long.
fn params() -> Value {
    json!({ "name": "tool", "arguments": { "much": "x".repeat(2000) } })
}

/// How a call ends of which the first attempt fails.
fn ends(method: &'static str, headers: &'static str) -> Scenario {
    scenario(move |given: Given| async move {
        let server = failing(1, headers).await;
        let z = given.over(&[&server]).await;
        let caller = z.target().stateless("/mcp");
        end_of(caller.ask(1, method, params()).await).await
    })
}

/// The status of a plain PUT, whose body streams, where the first attempt fails.
async fn put(given: Given) -> String {
    let server = failing(1, "").await;
    let z = given.over(&[&server]).await;
    let body = params().to_string();
    let answer = z.target().request("PUT", "/mcp", &[], body).await;
    answer.status.as_str().to_owned()
}

/// How many attempts there are at so many calls that always fail.
fn attempts_of(calls: usize) -> Scenario {
    scenario(move |given: Given| async move {
        let server = failing(usize::MAX, "").await;
        let z = given.over(&[&server]).await;
        let caller = z.target().stateless("/mcp");
        for id in 0..calls {
            end_of(caller.ask(id, "tools/list", params()).await).await;
        }
        server.received().len().to_string()
    })
}

/// How a call ends of which the first attempt fails, once the server has said that its tool only reads.
async fn what_it_said(given: Given) -> String {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = Upstream::start(move |received: Received, wire: Wire| {
        let lists = received.body.contains("tools/list");
        let call = calls.fetch_add(usize::from(!lists), Ordering::SeqCst);
        async move {
            if !lists && call == 0 {
                return wire.answer("503 Busy", "", "").await;
            }
            let tool = json!({ "name": "tool", "annotations": { "readOnlyHint": true } });
            wire.json(&result(&received, &json!({ "tools": [tool] })))
                .await
        }
    });
    let server = server.await;
    let z = given.over(&[&server]).await;
    let caller = z.target().stateless("/mcp");
    end_of(caller.ask(1, "tools/list", json!({})).await).await;
    end_of(caller.ask(2, "tools/call", params()).await).await
}
