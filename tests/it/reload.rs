//! SIGHUP: the file is read again.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::harness::{
    Ziggurat,
    client::read_until,
    config, demo,
    mcp::text,
    process, until,
    upstream::{Received, Upstream, Wire},
    within,
};

async fn named(name: &'static str) -> Upstream {
    Upstream::start(async move |_: Received, wire: Wire| wire.answer("200 OK", "", name).await)
        .await
}

/// A config with the demo server at /mcp, and a plain upstream at /.
fn both(plain: &Upstream, more: &str) -> String {
    format!(
        "routes:\n- {{ match: {{ path: /mcp }}, upstream: tools, {more} }}\n\
         - {{ match: {{ path: / }}, protocol: http, upstream: plain }}\n\
         upstreams:\n  tools: {{ endpoints: [{{ {} }}] }}\n  \
         plain: {{ endpoints: [{{ url: \"{}\" }}] }}\n",
        demo(""),
        plain.url("")
    )
}

#[tokio::test]
async fn a_good_config_takes_over_on_open_connections_and_sessions_live_on() {
    let (old, new) = (named("old").await, named("new").await);
    let z = Ziggurat::yaml(&both(&old, "deadline: 5m")).await;
    let session = z.target().session().await;
    let stream = session.stream().await;
    let servers = z.servers();
    let mut kept = z.target().connect().await;
    let ask = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    kept.write_all(ask.as_bytes()).await.unwrap();
    read_until(&mut kept, "old").await;
    // A call that is under way stays with the tower on which it began.
    let mut running = session
        .call_with_token(1, 1, "progress", json!({"steps": 3, "interval_ms": 150}))
        .await;
    running.next().await;

    z.reload(&both(&new, "deadline: 10m"), "ok").await;
    kept.write_all(ask.as_bytes()).await.unwrap();
    read_until(&mut kept, "new").await;
    assert_eq!(text(&running.last().await), "3 steps done");
    let answer = session.call(2, "tick", json!({"list": "tools"})).await;
    answer.last().await;
    let mut stream = stream;
    stream.next().await;
    assert_eq!(z.servers(), servers, "what an upstream is has not changed");
    assert_eq!(old.received().len(), 1);
    assert_eq!(new.received().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_was_removed_finishes_its_calls_and_ends() {
    let plain = named("plain").await;
    let z = Ziggurat::yaml(&both(&plain, "")).await;
    let session = z.target().session().await;
    let mut running = session
        .call_with_token(1, 1, "progress", json!({"steps": 4, "interval_ms": 100}))
        .await;
    running.next().await;
    let without = format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: plain }}]\n\
         upstreams: {{ plain: {{ endpoints: [{{ url: \"{}\" }}] }} }}",
        plain.url("")
    );
    z.reload(&without, "ok").await;
    assert_eq!(text(&running.last().await), "4 steps done");
    until("its child has ended", async || z.servers().is_empty()).await;
    until("nobody looks for its endpoint", async || {
        let ready = ["upstream=\"tools\""];
        z.metrics().await.sum("ziggurat_endpoint_ready", &ready) == -1.0
    })
    .await;
    assert_eq!(
        session.ask(2, "ping", json!({})).await.text().await,
        "plain"
    );
}

#[tokio::test]
async fn a_bad_config_is_refused_with_its_error_and_the_old_tower_stays() {
    let plain = named("plain").await;
    let z = Ziggurat::yaml(&both(&plain, "")).await;
    let session = z.target().session().await;
    for bad in ["routes: [", "routs: []\n", &both(&plain, "deadlin: 1s")] {
        z.reload(bad, "refused").await;
    }
    let in_force = async || z.metrics().await.sum("ziggurat_config_last_reload_ok", &[]);
    assert_eq!(in_force().await, 0.0);
    let log = z.log();
    assert!(log.contains("the old one stays"), "{log}");
    assert!(
        log.contains("did you mean") && log.contains("ziggurat.yaml:"),
        "{log}"
    );
    assert_eq!(session.ask(2, "ping", json!({})).await.status, 200);
    assert_eq!(z.target().get("/").await.text().await, "plain");
    z.reload(&both(&plain, ""), "ok").await;
    assert_eq!(in_force().await, 1.0);
    assert!(process::is_alive(z.pid()));
}

#[tokio::test]
async fn what_takes_effect_at_the_next_start_only_is_named() {
    let with = |server: &str| config(server, "", "", &demo(""));
    let z = Ziggurat::yaml(&with("")).await;
    let warnings = || {
        z.log()
            .matches("take effect at the next start only")
            .count()
    };
    // What it says of a reload is there once it says that the reload is over.
    let over = async |count| {
        until("the line of the reload", async || {
            z.log().matches("read again and is in force").count() == count
        })
        .await;
    };
    let changed = "header_timeout: 3s, write_stall: 4s, drain: { delay: 5s, limit: 6s }";
    // What counts is what it was started with, not the file before.
    for count in 1..=2 {
        z.reload(&with(changed), "ok").await;
        over(count).await;
        assert_eq!(warnings(), count);
    }
    let line = z.logs(&["at the next start only"]).await;
    for name in ["header_timeout", "write_stall", "drain.delay"] {
        assert!(line.contains(&format!("server.{name}")), "{line}");
    }
    assert!(!line.contains("admin") && !line.contains("limit"), "{line}");
    z.reload(&with(""), "ok").await;
    over(3).await;
    assert_eq!(warnings(), 2, "it is as it was started");
}

#[tokio::test]
async fn a_raised_cap_lets_in_who_waits_and_keeps_the_server() {
    let narrow = |calls: u32| {
        let upstream = format!("concurrency: {calls}, balance: {{ queue_time: 1m }},");
        config("", "", &upstream, &demo("isolation: shared"))
    };
    let z = Ziggurat::yaml(&narrow(1)).await;
    let session = z.target().session().await;
    let servers = z.servers();
    let mut running = session.endless("first").await;
    running.next().await;
    let other = session.clone();
    let waiting = tokio::spawn(async move {
        let answer = other.call("second", "echo", json!({"text": "in"})).await;
        text(&answer.last().await).to_owned()
    });
    until("a call waits", async || {
        z.metrics().await.sum("ziggurat_pool_waiters", &[]) == 1.0
    })
    .await;
    z.reload(&narrow(2), "ok").await;
    assert_eq!(within("the call that waited", waiting).await.unwrap(), "in");
    assert_eq!(z.servers(), servers);
    running.next().await;
}
