//! The admin listener over a real socket.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::*;
use crate::serve::ServeSettings;
use crate::serve::testing::{Raw, Running};

async fn start(token: Option<&str>, ready: Arc<AtomicBool>) -> Running {
    let settings = AdminSettings {
        token: token.map(str::to_owned),
        ..AdminSettings::default()
    };
    let readiness = move || {
        let ready = ready.load(Ordering::Relaxed);
        ready
            .then_some(())
            .ok_or_else(|| "no route has a usable endpoint".to_owned())
    };
    let sources = AdminSources {
        readiness: Arc::new(readiness),
        metrics: Arc::new(|| "# TYPE up gauge\nup 1\n".to_owned()),
        config: Arc::new(|| "listen: 127.0.0.1:8080\n".to_owned()),
        upstreams: Arc::new(|| json!({"upstreams": [{"name": "tools"}]})),
        sessions: Arc::new(|| json!({"sessions": []})),
        streams: Arc::new(|| json!({"streams": []})),
        limits: Arc::new(|| json!([])),
    };
    let serve = ServeSettings {
        name: "admin",
        ..ServeSettings::default()
    };
    Running::start(Admin::new(settings, sources), serve).await
}

async fn ask(client: &mut Raw, method: &str, path: &str, headers: &str) -> String {
    client
        .send(&format!(
            "{method} {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n"
        ))
        .await;
    client.rest().await
}

async fn get(running: &Running, path: &str, headers: &str) -> String {
    ask(&mut running.raw().await, "GET", path, headers).await
}

#[tokio::test]
async fn probes_and_scrapers_come_without_a_token_by_any_name() {
    let ready = Arc::new(AtomicBool::new(true));
    let running = start(None, ready.clone()).await;
    let host = "host: ziggurat.monitoring.svc:9901\r\n";
    assert!(
        get(&running, "/livez", host)
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        get(&running, "/readyz", host)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let metrics = get(&running, "/metrics", host).await;
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4"),
        "{metrics}"
    );
    assert!(
        metrics.ends_with("\r\n\r\n# TYPE up gauge\nup 1\n"),
        "{metrics}"
    );

    ready.store(false, Ordering::Relaxed);
    let answer = get(&running, "/readyz", host).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.ends_with("not ready: no route has a usable endpoint\n"),
        "{answer}"
    );
    assert!(
        get(&running, "/livez", host)
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn the_private_part_needs_its_token() {
    let running = start(Some("secret"), Arc::default()).await;
    let path = "/admin/v1/upstreams";
    let answer = get(&running, path, "host: localhost\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");

    let answer = get(
        &running,
        path,
        "host: localhost\r\nauthorization: Bearer secret\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.ends_with(r#"{"upstreams":[{"name":"tools"}]}"#),
        "{answer}"
    );

    let answer = get(
        &running,
        path,
        "host: evil.example\r\nauthorization: Bearer secret\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn without_a_token_the_private_part_says_that_it_is_closed() {
    let running = start(None, Arc::default()).await;
    let answer = get(&running, "/admin/v1/config", "host: localhost\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("no admin token is set"), "{answer}");
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let running = start(None, Arc::default()).await;
    let answer = ask(
        &mut running.raw().await,
        "HEAD",
        "/livez",
        "host: localhost\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-length: 6\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}
