//! A metric that exists is moved by real traffic: each one, with just the labels that it is documented to have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use ziggurat_layers::metrics::names::{ALL, Kind};

use crate::harness::{
    Ziggurat, demo,
    mcp::initialize,
    metrics::Metrics,
    until,
    upstream::{Received, Upstream, Wire},
};

/// What cannot be moved in a test, and why. Empty is best.
const EXCUSED: &[(&str, &str)] = &[];

/// What has moved so far, against how it stood before any traffic.
struct Moved {
    first: Metrics,
    names: BTreeSet<&'static str>,
}

/// The series of a metric, as they are written out.
fn written(name: &str, kind: Kind) -> String {
    match kind {
        Kind::Histogram => format!("{name}_count"),
        Kind::Counter | Kind::Gauge => name.to_owned(),
    }
}

impl Moved {
    fn look(&mut self, now: &Metrics) {
        for metric in ALL {
            let written = written(metric.name, metric.kind);
            if now.sum(&written, &[]) != self.first.sum(&written, &[]) {
                self.names.insert(metric.name);
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

static FORGOT: AtomicBool = AtomicBool::new(false);

/// A server that has every tool, one path that it never answers and one that it breaks off.
async fn any_tool(received: Received, wire: Wire) -> Option<Wire> {
    match &*received.path {
        // It loses the first session that it has.
        "/x/forgetful"
            if received.header("mcp-session-id") == "first" && received.body.contains("ping") =>
        {
            return wire.answer("404 Not Found", "", "").await;
        }
        "/x/forgetful" => {
            let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
            if body["id"].is_null() {
                return wire.answer("202 Accepted", "", "").await;
            }
            let again = FORGOT.swap(true, Ordering::SeqCst);
            let id = if again { "second" } else { "first" };
            let result = json!({"jsonrpc": "2.0", "id": body["id"], "result": {"protocolVersion": "2025-11-25"}});
            let headers = format!("content-type: application/json\r\nmcp-session-id: {id}\r\n");
            return wire.answer("200 OK", &headers, &result.to_string()).await;
        }
        "/x/never" => return wire.stall().await,
        "/x/cut" if received.header("last-event-id") == "1" => {
            return wire.sse().await.drip("data: 2\n\n").await.end().await;
        }
        "/x/cut" => return wire.sse().await.drip("id: 1\ndata: 1\n\n").await.close(),
        "/x/broken" => return wire.reset(),
        _ => {}
    }
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    let result = json!({"jsonrpc": "2.0", "id": body["id"], "result": {"content": []}});
    wire.json(&result.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_moved_by_real_traffic() {
    let upstream = Upstream::start(any_tool).await;
    let z = Ziggurat::yaml(&format!(
        "server: {{ body_limit: 1MiB }}\n\
         routes:\n\
         - {{ match: {{ path: /mcp }}, upstream: tools, intercept: {{ rules: [{{ name: held, when: {{ tool: [echo] }}, pause: {{ limit: 1s, then: resume }} }}] }} }}\n\
         - {{ match: {{ path: /open }}, upstream: tools, session: off }}\n\
         - {{ match: {{ path: /hasty }}, upstream: tools, session: off, deadline: 500ms }}\n\
         - {{ match: {{ path: /any }}, upstream: any }}\n\
         - {{ match: {{ path: /plain }}, protocol: http, upstream: any, rate_limit: {{ per: method, rate: 1/h, keys: 1 }} }}\n\
         - {{ match: {{ path: /kept }}, upstream: forgetful, session: {{ idle: 1s }} }}\n\
         - {{ match: {{ path: /narrow }}, protocol: http, upstream: narrow }}\n\
         - {{ match: {{ path: /worse }}, protocol: http, upstream: worse, retry: off }}\n\
         - {{ match: {{ path: /sick }}, protocol: http, upstream: sick, retry: {{ backoff: {{ base: 1ms }} }} }}\n\
         upstreams:\n  \
         tools: {{ endpoints: [{{ {} }}] }}\n  \
         any: {{ endpoints: [{{ url: \"{url}\" }}] }}\n  \
         forgetful: {{ endpoints: [{{ url: \"{url}/forgetful\" }}] }}\n  \
         narrow: {{ concurrency: 1, balance: {{ queue_time: 300ms }}, endpoints: [{{ url: \"{url}\" }}] }}\n  \
         sick: {{ circuit: {{ consecutive: 4 }}, health: {{ probe: tcp, interval: 100ms }}, endpoints: [{{ url: \"{url}\" }}] }}\n  \
         worse: {{ circuit: off, outlier: {{ consecutive: 1 }}, balance: round_robin, endpoints: [{{ url: \"{url}/fine\" }}, {{ url: \"{url}/broken\" }}] }}\n",
        demo("idle: 2s, snapshot: on, stop: { stdin: 50ms, term: 50ms }"),
        url = upstream.url("/x")
    ))
    .await;
    let first = z.metrics().await;
    let mut moved = Moved {
        first,
        names: BTreeSet::new(),
    };

    // Calls, streams and sessions, looked at while they are under way.
    let session = z.target().session().await;
    let held = session.clone();
    let held = tokio::spawn(async move { held.call(8, "echo", json!({})).await.last().await });
    until("it waits for an operator", async || {
        moved.look(&z.metrics().await);
        moved.has("ziggurat_intercept_paused")
    })
    .await;
    held.await.unwrap();
    let stream = session.stream().await;
    let mut running = session
        .call_with_token(1, 1, "progress", json!({"steps": 8, "interval_ms": 50}))
        .await;
    running.next().await;
    until("the gauges of what is under way are up", async || {
        moved.look(&z.metrics().await);
        [
            "ziggurat_inflight",
            "ziggurat_sse_streams",
            "ziggurat_stdio_sessions",
            "ziggurat_sessions",
        ]
        .iter()
        .chain(&[
            "ziggurat_stdio_pending_requests",
            "ziggurat_stdio_processes",
        ])
        .chain(&["ziggurat_stdio_resident_memory_bytes"])
        .all(|name| moved.has(name))
    })
    .await;
    // Its client goes away, and comes back.
    let id = running.event().await.expect("an event").id.expect("an id");
    drop(running);
    until("it is read on", async || {
        moved.look(&z.metrics().await);
        moved.has("ziggurat_replay_detached_streams") && moved.has("ziggurat_replay_buffer_bytes")
    })
    .await;
    session.resume(&id).await.messages().await;
    drop(stream);
    session.call(2, "garbage", json!({})).await.last().await;

    // An event stream that breaks, and is gone on with.
    let events = [("accept", "text/event-stream")];
    let cut = z.target().request("GET", "/plain/cut", &events, "").await;
    assert!(cut.text().await.ends_with("data: 2\n\n"));

    // A plain exchange, another key than the one for which there is room, and one call too many.
    z.target().get("/plain").await.text().await;
    z.target().request("POST", "/plain", &[], "").await;
    let post = z.target().request("POST", "/plain", &[], "").await;
    assert_eq!(post.status, 429);
    moved.look(&z.metrics().await);

    // Names beyond those that may be labels.
    let any = z.target().stateless("/any");
    for chunk in (0..300).collect::<Vec<u32>>().chunks(30) {
        let calls = chunk.iter().map(|tool| {
            let any = any.clone();
            async move {
                let tool = format!("tool_{tool}");
                any.call(1, &tool, json!({})).await.last().await;
            }
        });
        join_all(calls).await;
    }

    // A session that its upstream lost is begun anew; one that nobody uses expires.
    let kept = z.target().session_at("/kept", "2025-11-25").await;
    kept.ask(1, "ping", json!({})).await.last().await;
    moved.look(&z.metrics().await);

    // A call that waits for the one place that there is.
    let (one, other) = (z.target(), z.target());
    let one = tokio::spawn(async move { one.get("/narrow/never").await.status });
    upstream
        .receives("the first", |r| r.path == "/x/never")
        .await;
    let other = tokio::spawn(async move { other.get("/narrow/never").await.status });
    until("it waits", async || {
        moved.look(&z.metrics().await);
        moved.has("ziggurat_pool_waiters")
    })
    .await;
    assert_eq!(other.await.unwrap(), 503);
    one.abort();

    // Calls that are repeated, one that must not be, and an endpoint that is then left alone.
    assert_eq!(z.target().get("/sick/broken").await.status, 502);
    let broken = z.target().post("/sick/broken", &[], String::new()).await;
    assert_eq!(broken.status, 502);
    assert_eq!(z.target().get("/sick/fine").await.status, 503);
    for _ in 0..2 {
        z.target().get("/worse").await.text().await;
    }
    until("a probe was made", async || {
        moved.look(&z.metrics().await);
        moved.has("ziggurat_health_probe_duration_seconds")
    })
    .await;
    moved.look(&z.metrics().await);

    // A refusal, a clock that runs out, and a child that does not read what is written to it.
    let foreign = [("origin", "http://evil.example")];
    let body = initialize("2025-11-25").to_string();
    z.target().post("/mcp", &foreign, body).await;
    let late = z
        .target()
        .session_at("/open", "2025-11-25")
        .await
        .at("/hasty");
    late.call(1, "sleep", json!({"ms": 3_600_000}))
        .await
        .last()
        .await;
    late.call(2, "hang_stdin", json!({})).await.last().await;
    let big = "x".repeat(500_000);
    let unread = tokio::spawn(async move {
        late.call(3, "echo", json!({"text": big}))
            .await
            .last()
            .await;
    });
    until("bytes wait for the child", async || {
        moved.look(&z.metrics().await);
        moved.has("ziggurat_stdio_write_queue_bytes")
    })
    .await;
    unread.await.unwrap();

    // Nobody uses the sessions any more.
    until("they are evicted", async || {
        moved.look(&z.metrics().await);
        moved.has("ziggurat_stdio_session_evictions_total")
            && moved.has("ziggurat_session_evictions_total")
            && moved.has("ziggurat_session_farewells_total")
            && moved.has("ziggurat_stdio_exits_total")
    })
    .await;

    let missing: Vec<_> = ALL
        .iter()
        .map(|metric| metric.name)
        .filter(|name| !moved.has(name) && !EXCUSED.iter().any(|(excused, _)| excused == name))
        .collect();
    assert!(missing.is_empty(), "never moved: {missing:?}");

    let now = z.metrics().await;
    for metric in ALL {
        let mut expected = metric.labels.to_vec();
        expected.sort_unstable();
        for (series, labels, _) in now.series(&written(metric.name, metric.kind)) {
            let mut found: Vec<&str> = labels
                .split("\",")
                .filter_map(|label| Some(label.split_once('=')?.0))
                .filter(|name| *name != "le" && *name != "quantile")
                .collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{series}");
        }
    }
}

#[tokio::test]
async fn a_name_that_a_client_makes_up_is_no_label() {
    let z = Ziggurat::yaml(&crate::harness::stdio("")).await;
    let session = z.target().session().await;
    session
        .call(1, "made_up_by_a_client", json!({}))
        .await
        .last()
        .await;
    session.ask(2, "made/up", json!({})).await.last().await;
    let path = z.target().request("GET", "/made-up-path", &[], "").await;
    assert_eq!(path.status, 404);
    let text = z.admin().get("/metrics").await.text().await;
    assert!(text.contains("tool=\"other\""), "{text}");
    for name in ["made_up", "made/up", "made-up"] {
        assert!(!text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn a_scrape_is_text_that_prometheus_reads() {
    let z = Ziggurat::yaml(&crate::harness::stdio("")).await;
    z.target().session().await.delete().await;
    let answer = z.admin().get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"));
    let text = answer.text().await;
    let mut types = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            assert!(types.insert(name, kind).is_none(), "{name} stands twice");
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "{name} has no help"
            );
        }
    }
    for metric in ALL {
        if let Some(kind) = types.get(metric.name) {
            let expected = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert_eq!(*kind, expected, "{}", metric.name);
        }
    }
}
