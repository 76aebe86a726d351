//! The admin listener over a real socket, before a proxy that only remembers what it was told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::operations::operations;
use super::*;
use crate::serve::ServeSettings;
use crate::serve::testing::{Raw, Running};

const TOKEN: &str = "a-token-of-a-test";

#[derive(Default)]
struct Fake {
    ready: AtomicBool,
    orders: Mutex<Vec<(Order, String)>>,
}

impl Proxy for Fake {
    fn ready(&self) -> Result<(), String> {
        let ready = self.ready.load(Ordering::Relaxed);
        ready
            .then_some(())
            .ok_or_else(|| "no route has a usable endpoint".to_owned())
    }

    fn metrics(&self) -> String {
        "# TYPE up gauge\nup 1\n".to_owned()
    }

    fn build(&self) -> BuildView {
        BuildView {
            name: "ziggurat".to_owned(),
            version: "1".to_owned(),
            profile: "debug".to_owned(),
            pid: 1,
            uptime_ms: 1,
        }
    }

    fn upstreams(&self) -> Vec<UpstreamView> {
        Vec::new()
    }

    fn sessions(&self) -> SessionsView {
        SessionsView {
            clients: Vec::new(),
            stdio: BTreeMap::new(),
        }
    }

    fn streams(&self) -> Vec<StreamsView> {
        Vec::new()
    }

    fn children(&self) -> Vec<ChildView> {
        vec![ChildView {
            upstream: "tools".to_owned(),
            endpoint: "a".to_owned(),
            pid: 7,
            state: "idle".to_owned(),
            sessions: 0,
            pending: 0,
            age_ms: 5,
            memory_bytes: None,
        }]
    }

    fn limits(&self) -> Vec<LimitView> {
        Vec::new()
    }

    fn paused(&self) -> Vec<PausedView> {
        Vec::new()
    }

    fn config(&self) -> ConfigView {
        ConfigView {
            source: "z.yaml".to_owned(),
            yaml: "listen: here\n".to_owned(),
            origins: BTreeMap::new(),
        }
    }

    fn overrides(&self) -> Vec<OverrideView> {
        Vec::new()
    }

    fn log(&self) -> LogView {
        LogView {
            filter: "info".to_owned(),
            default: "info".to_owned(),
        }
    }

    fn act(&self, order: Order, by: &str) -> Result<Change, Refusal> {
        let refusal = match &order {
            Order::KillUpstream(o) if o.upstream.as_str() == "none" => {
                Some(Refusal::Unknown("there is no upstream `none`".to_owned()))
            }
            Order::KillUpstream(o) if o.upstream.as_str() == "off" => {
                Some(Refusal::Conflict("not now".to_owned()))
            }
            _ => None,
        };
        self.orders.lock().unwrap().push((order, by.to_owned()));
        refusal.map_or(
            Ok(Change {
                before: json!(false),
                after: json!(true),
            }),
            Err,
        )
    }
}

async fn start(access: Access) -> (Running, Arc<Fake>) {
    let settings = AdminSettings {
        access,
        ..AdminSettings::default()
    };
    let fake = Arc::new(Fake::default());
    let serve = ServeSettings {
        name: "admin",
        ..ServeSettings::default()
    };
    let admin = Admin::new(settings, fake.clone());
    (Running::start(admin, serve).await, fake)
}

async fn closed_but_for_one() -> (Running, Arc<Fake>) {
    start(Access::Tokens(vec![AdminToken {
        name: "ops".to_owned(),
        token: TOKEN.to_owned(),
    }]))
    .await
}

fn granted() -> String {
    format!("host: localhost\r\nauthorization: Bearer {TOKEN}\r\n")
}

async fn ask(client: &mut Raw, method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    client
        .send(&format!(
            "{method} {path} HTTP/1.1\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
        .await;
    client.rest().await
}

async fn get(running: &Running, path: &str, headers: &str) -> String {
    ask(&mut running.raw().await, "GET", path, headers, "").await
}

async fn post(running: &Running, path: &str, body: &str) -> String {
    let headers = format!("{}content-type: application/json\r\n", granted());
    ask(&mut running.raw().await, "POST", path, &headers, body).await
}

fn status(answer: &str) -> u16 {
    answer[9..12].parse().unwrap()
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// A body that an operation takes, by its schema.
fn example(operation: &operations::Operation) -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true);
    let describe = operation.body.unwrap();
    let schema = describe(&mut settings.into_generator()).to_value();
    let none = Vec::new();
    let required = schema["required"].as_array().unwrap_or(&none).iter();
    required
        .map(|name| {
            let member = &schema["properties"][name.as_str().unwrap()];
            let value = match (&member["type"], &member["oneOf"]) {
                (_, Value::Array(words)) => words[0]["const"].clone(),
                (Value::String(kind), _) if kind == "integer" => json!(7),
                _ => json!("x"),
            };
            (name.as_str().unwrap().to_owned(), value)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn probes_and_scrapers_come_without_a_token_by_any_name() {
    let (running, fake) = start(Access::default()).await;
    fake.ready.store(true, Ordering::Relaxed);
    let host = "host: ziggurat.monitoring.svc:9901\r\n";
    assert_eq!(status(&get(&running, "/livez", host).await), 200);
    assert_eq!(status(&get(&running, "/readyz", host).await), 200);
    let metrics = get(&running, "/metrics", host).await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"));
    assert!(metrics.ends_with("\r\n\r\n# TYPE up gauge\nup 1\n"));

    fake.ready.store(false, Ordering::Relaxed);
    let answer = get(&running, "/readyz", host).await;
    assert_eq!(status(&answer), 503);
    assert!(answer.ends_with("not ready: no route has a usable endpoint\n"));
    assert_eq!(status(&get(&running, "/livez", host).await), 200);
}

#[tokio::test]
async fn every_private_operation_needs_the_token_and_a_name_of_ours_and_says_nothing_before() {
    let (running, fake) = closed_but_for_one().await;
    let json = "content-type: application/json\r\n";
    let evil = format!("host: evil.example\r\nauthorization: Bearer {TOKEN}\r\n{json}");
    let foreign = format!("{}origin: https://evil.example\r\n{json}", granted());
    let wrong = format!("host: localhost\r\nauthorization: Bearer {TOKEN}x\r\n{json}");
    let private = operations().into_iter().filter(|op| !op.public);
    let paths = private.map(|op| (op.method().to_string(), op.path));
    let absent = ["GET", "POST"].map(|m| (m.to_owned(), "/admin/v1/none".to_owned()));
    for (method, path) in paths.chain(absent) {
        for (headers, expected) in [
            ("host: localhost\r\n", 401),
            (&*wrong, 401),
            (&*evil, 403),
            (&*foreign, 403),
        ] {
            let mut client = running.raw().await;
            let answer = ask(&mut client, &method, &path, headers, "{}").await;
            assert_eq!(status(&answer), expected, "{method} {path}: {answer}");
            assert!(body(&answer)["detail"].is_string());
        }
    }
    let answer = get(&running, "/admin/v1/build", "host: localhost\r\n").await;
    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
    assert!(fake.orders.lock().unwrap().is_empty(), "nothing was done");
}

#[tokio::test]
async fn without_a_token_the_private_part_says_that_it_is_closed() {
    let (running, _) = start(Access::default()).await;
    let answer = get(&running, "/admin/v1/config", "host: localhost\r\n").await;
    assert_eq!(status(&answer), 403);
    assert!(answer.contains("no admin token is set"), "{answer}");
}

#[tokio::test]
async fn each_operation_is_served_and_described_and_nothing_else_is() {
    let (running, fake) = closed_but_for_one().await;
    let document = body(&get(&running, "/admin/v1/openapi.json", &granted()).await);
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let served: BTreeSet<_> = operations().iter().map(|op| format!("{op:?}")).collect();
    assert_eq!(described, served);
    assert_eq!(document["openapi"], "3.1.0");

    fake.ready.store(true, Ordering::Relaxed);
    for operation in operations() {
        let path = &operation.path;
        let answer = match operation.body {
            Some(_) => post(&running, path, &example(&operation).to_string()).await,
            None => get(&running, path, &granted()).await,
        };
        assert_eq!(status(&answer), 200, "{operation:?}: {answer}");
        assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
        // Any other method is refused, and told which are not.
        let described = &document["paths"][path];
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            if described[method.to_lowercase()].is_null() {
                let mut client = running.raw().await;
                let answer = ask(&mut client, method, path, &granted(), "").await;
                assert_eq!(status(&answer), 405, "{method} {path}: {answer}");
                assert!(answer.contains("\r\nallow: "), "{answer}");
            }
        }
    }
    for path in [
        "/",
        "/admin",
        "/admin/v1",
        "/admin/v1/",
        "/admin/v1/none",
        "/admin/v1/upstreams/",
        "//admin/v1/upstreams",
        "/admin//v1/upstreams",
        "/admin/v1/../v1/upstreams",
        "/admin/v1/%75pstreams",
        "/admin/v1/%2e%2e/v1/upstreams",
        "/ADMIN/v1/upstreams",
    ] {
        let answer = get(&running, path, &granted()).await;
        assert_eq!(status(&answer), 404, "{path}: {answer}");
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    let (running, _) = closed_but_for_one().await;
    let document = body(&get(&running, "/admin/v1/openapi.json", &granted()).await);
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 30, "{found:?}");
    for reference in found {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(target.is_some(), "{reference}");
    }
}

#[tokio::test]
async fn an_order_arrives_as_it_was_sent_with_the_name_of_who_sent_it() {
    let (running, fake) = closed_but_for_one().await;
    let sent = r#"{"upstream":"tools","endpoint":"a:1","weight":5}"#;
    let answer = post(&running, "/admin/v1/set-weight", sent).await;
    assert_eq!(body(&answer), json!({"before": false, "after": true}));
    let orders = fake.orders.lock().unwrap();
    let [(Order::SetWeight(order), by)] = &orders[..] else {
        panic!("{orders:?}");
    };
    assert_eq!(
        serde_json::to_string(order).unwrap(),
        sent.replace('}', r#","reason":null}"#)
    );
    assert_eq!(by, "ops");
}

#[tokio::test]
async fn a_body_that_is_not_just_right_does_nothing() {
    let (running, fake) = closed_but_for_one().await;
    let long = "x".repeat(129);
    for wrong in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"upstream":""}"#,
        r#"{"upstream":7}"#,
        r#"{"upstream":"a\nb"}"#,
        r#"{"upstream":"tools","command":["sh"]}"#,
        r#"{"upstream":"tools"} {}"#,
        r#"{"upstream":"tools","upstream":"other"}"#,
        &format!(r#"{{"upstream":"{long}"}}"#),
    ] {
        let answer = post(&running, "/admin/v1/kill-upstream", wrong).await;
        assert_eq!(status(&answer), 400, "{wrong}: {answer}");
    }
    for wrong in ["0", "1001", "-1", "1.5", "1e99", "\"5\"", "true"] {
        let sent = format!(r#"{{"upstream":"t","endpoint":"e","weight":{wrong}}}"#);
        let answer = post(&running, "/admin/v1/set-weight", &sent).await;
        assert_eq!(status(&answer), 400, "{wrong}: {answer}");
    }
    for types in [
        "",
        "content-type: text/plain\r\n",
        "content-type: application/json\r\ncontent-type: text/plain\r\n",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
    ] {
        let headers = format!("{}{types}", granted());
        let mut client = running.raw().await;
        let path = "/admin/v1/kill-upstream";
        let answer = ask(&mut client, "POST", path, &headers, r#"{"upstream":"t"}"#).await;
        assert_eq!(status(&answer), 415, "{types}: {answer}");
    }
    assert!(fake.orders.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_is_small_and_comes_in_time() {
    let (running, fake) = closed_but_for_one().await;
    let head = format!(
        "POST /admin/v1/drain HTTP/1.1\r\n{}content-type: application/json\r\n",
        granted()
    );
    // Said to be large: refused before it is sent.
    let mut client = running.raw().await;
    client
        .send(&format!("{head}content-length: 200000\r\n\r\n"))
        .await;
    assert_eq!(status(&client.rest().await), 413);
    // Found to be large.
    let mut client = running.raw().await;
    let piece = " ".repeat(1000);
    client
        .send(&format!("{head}transfer-encoding: chunked\r\n\r\n"))
        .await;
    for _ in 0..164 {
        client.send(&format!("3e8\r\n{piece}\r\n")).await;
    }
    assert_eq!(status(&client.rest().await), 413);
    // Never there.
    let mut client = running.raw().await;
    client
        .send(&format!("{head}content-length: 2\r\n\r\n{{"))
        .await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(status(&client.rest().await), 408);
    assert!(fake.orders.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_longest_message_that_is_described_is_taken_however_it_is_written() {
    let (running, fake) = closed_but_for_one().await;
    for letter in ["x", "é", "\\ud83d\\ude00"] {
        let sent = format!(
            r#"{{"id":7,"decision":"resume","message":"{}"}}"#,
            letter.repeat(12_000)
        );
        let answer = post(&running, "/admin/v1/decide", &sent).await;
        assert_eq!(status(&answer), 200, "{letter}: {answer}");
    }
    let sent = format!(
        r#"{{"id":7,"decision":"resume","message":"{}"}}"#,
        "é".repeat(12_001)
    );
    let answer = post(&running, "/admin/v1/decide", &sent).await;
    assert_eq!(status(&answer), 400, "{answer}");
    assert_eq!(fake.orders.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_refused_order_says_why() {
    let (running, _) = closed_but_for_one().await;
    for (upstream, expected, why) in [("none", 404, "no upstream"), ("off", 409, "not now")] {
        let sent = json!({ "upstream": upstream }).to_string();
        let answer = post(&running, "/admin/v1/kill-upstream", &sent).await;
        assert_eq!(status(&answer), expected);
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(body(&answer)["detail"].as_str().unwrap().contains(why));
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let (running, _) = start(Access::default()).await;
    let mut client = running.raw().await;
    let answer = ask(&mut client, "HEAD", "/livez", "host: localhost\r\n", "").await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("content-length: 6\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn an_open_door_still_keeps_web_pages_out() {
    let (running, fake) = start(Access::Open).await;
    let answer = get(&running, "/admin/v1/build", "host: localhost\r\n").await;
    assert_eq!(status(&answer), 200);
    for headers in [
        "host: evil.example\r\ncontent-type: application/json\r\n",
        "host: localhost\r\norigin: https://evil.example\r\ncontent-type: application/json\r\n",
        // What a page may send anywhere without asking, and without saying where it is from.
        "host: localhost\r\ncontent-type: text/plain\r\n",
    ] {
        let mut client = running.raw().await;
        let answer = ask(&mut client, "POST", "/admin/v1/drain", headers, "{}").await;
        assert!(matches!(status(&answer), 403 | 415), "{answer}");
    }
    assert!(fake.orders.lock().unwrap().is_empty());
}
