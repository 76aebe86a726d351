//! How event streams that break are gone on with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Case, Given, Scenario, case, merge,
    player::{call, end_of, result},
    scenario, soon,
};
use crate::harness::upstream::{Received, Upstream, Wire};

pub(super) fn cases() -> Vec<Case> {
    let with = |resume: Value| json!({ "upstream": { "resume": resume } });
    let quick = |more: Value| {
        let mut resume = json!({ "first": "10ms", "max": "10ms", "tries": 10_000 });
        merge(&mut resume, &more);
        with(resume)
    };
    let at = |key: &str| format!("upstream.resume.{key}");
    let (at_once, later) = ("at once", "later");
    vec![
        case(
            "upstream.resume",
            json!({}),
            ends_after(Refuses::Times(0)),
            [
                (json!("off"), "upstream_broken"),
                (json!({ "first": "10ms" }), "ok"),
            ],
        ),
        case(
            at("tries"),
            quick(json!({})),
            ends_after(Refuses::Times(3)),
            [("3", "upstream_broken"), ("4", "ok")],
        ),
        case(
            at("limit"),
            quick(json!({})),
            ends_after(Refuses::For(Duration::from_millis(800))),
            [("200ms", "upstream_broken"), ("1m", "ok")],
        ),
        case(
            at("standing"),
            quick(json!({})),
            scenario(standing),
            [("200ms", "ends"), ("1m", "goes on")],
        ),
        // A random part of the pause: of a thousand hours it is hardly ever less than a second.
        case(
            at("first"),
            with(json!({ "max": "1000h", "limit": "1000h" })),
            scenario(first_try),
            [("10ms", at_once), ("1000h", later)],
        ),
        case(
            at("max"),
            with(json!({ "first": "1000h", "limit": "1000h" })),
            scenario(first_try),
            [("10ms", at_once), ("1000h", later)],
        ),
    ]
}

/// How a server refuses to go on with a stream.
#[derive(Clone, Copy)]
enum Refuses {
    Times(usize),
    For(Duration),
}

/// A server that cuts its stream after the first event, and does not go on with it at once.
async fn cutter(refuses: Refuses) -> Upstream {
    let cut = Arc::new((AtomicUsize::new(0), std::sync::OnceLock::new()));
    Upstream::start(move |received, wire| cuts(received, wire, cut.clone(), refuses)).await
}

type Cut = (AtomicUsize, std::sync::OnceLock<Instant>);

async fn cuts(received: Received, wire: Wire, cut: Arc<Cut>, refuses: Refuses) -> Option<Wire> {
    if received.header("last-event-id").is_empty() {
        let notice = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {} });
        let wire = wire
            .sse()
            .await
            .drip(&event("1", &notice.to_string()))
            .await;
        cut.1.get_or_init(Instant::now);
        return wire.close();
    }
    let tries = cut.0.fetch_add(1, Ordering::SeqCst);
    let since = cut.1.get().map(Instant::elapsed).unwrap_or_default();
    let refused = match refuses {
        Refuses::Times(times) => tries < times,
        Refuses::For(time) => since < time,
    };
    if refused {
        return wire.answer("503 Later", "", "").await;
    }
    let id = json!({ "id": "any" });
    let answer = Received {
        body: id.to_string(),
        ..Received::default()
    };
    let answer = result(&answer, &json!({ "content": [] }));
    wire.sse()
        .await
        .drip(&event("2", &answer))
        .await
        .end()
        .await
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\nevent: message\ndata: {data}\n\n")
}

/// How a call ends whose stream is cut.
fn ends_after(refuses: Refuses) -> Scenario {
    scenario(move |given: Given| async move {
        let server = cutter(refuses).await;
        let z = given.over(&[&server]).await;
        end_of(call(&z.target().stateless("/mcp"), "any").await).await
    })
}

/// Whether a stream that stands, and is cut, goes on.
async fn standing(given: Given) -> String {
    let server = cutter(Refuses::For(Duration::from_millis(800))).await;
    let z = given.over(&[&server]).await;
    let mut stream = z.target().stateless("/mcp").stream().await;
    let mut events = 0;
    while stream.event().await.is_some() {
        events += 1;
    }
    if events > 1 { "goes on" } else { "ends" }.to_owned()
}

/// When a stream is first asked for again.
async fn first_try(given: Given) -> String {
    let server = cutter(Refuses::Times(0)).await;
    let z = given.over(&[&server]).await;
    let _answer = call(&z.target().stateless("/mcp"), "any").await;
    let again = async || server.received().len() > 1;
    let again = soon(Duration::from_millis(1500), again).await;
    if again { "at once" } else { "later" }.to_owned()
}
