//! Legacy sessions over several endpoints, restarts and servers that forget.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat, config, demo, endpoints,
    mcp::Session,
    until,
    upstream::{Received, Upstream, Wire},
};

/// A server with sessions: each has an id with the server's name, and calls outside of one get a 404.
#[derive(Clone, Default)]
struct Keeper {
    sessions: Arc<Mutex<BTreeSet<String>>>,
    /// How many were ever begun: no id comes twice.
    begun: Arc<AtomicUsize>,
}

impl Keeper {
    async fn start(&self, name: &'static str) -> Upstream {
        let keeper = self.clone();
        Upstream::start(move |received, wire| keeper.clone().answer(name, received, wire)).await
    }

    async fn answer(self, name: &str, received: Received, wire: Wire) -> Option<Wire> {
        let id = received.header("mcp-session-id").to_owned();
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        let result = |result: Value| {
            json!({"jsonrpc": "2.0", "id": body["id"], "result": result}).to_string()
        };
        if body["method"] == "initialize" {
            let id = self.begin(name);
            let headers = format!("content-type: application/json\r\nmcp-session-id: {id}\r\n");
            let answer = result(json!({"protocolVersion": "2025-11-25"}));
            return wire.answer("200 OK", &headers, &answer).await;
        }
        if !self.sessions.lock().unwrap().contains(&id) {
            return wire.answer("404 Not Found", "", "").await;
        }
        if received.method == "DELETE" {
            self.sessions.lock().unwrap().remove(&id);
            return wire.answer("204 No Content", "", "").await;
        }
        if body["id"].is_null() {
            return wire.answer("202 Accepted", "", "").await;
        }
        wire.json(&result(json!({"content": [], "session": id})))
            .await
    }

    fn begin(&self, name: &str) -> String {
        let id = format!("{name}-{}", self.begun.fetch_add(1, Ordering::SeqCst));
        self.sessions.lock().unwrap().insert(id.clone());
        id
    }

    /// All sessions are lost.
    fn forget(&self) {
        self.sessions.lock().unwrap().clear();
    }
}

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Nothing but calls comes to the endpoints.
const QUIET: &str = "health: off,";

fn over(upstream: &str, urls: &[String]) -> String {
    let server = format!("session_keys: [{KEY}]");
    config(&server, "", upstream, &endpoints(urls))
}

/// Which session the upstream saw.
async fn seen(session: &Session, method: &str) -> Value {
    let answer = session.ask(7, method, json!({})).await;
    match answer.status.as_u16() {
        200 => answer.last().await["result"]["session"].clone(),
        status => json!(status),
    }
}

#[tokio::test]
async fn a_session_stays_with_the_endpoint_that_began_it_and_its_id_tells_nothing() {
    let (a, b) = (Keeper::default(), Keeper::default());
    let (first, second) = (a.start("a").await, b.start("b").await);
    let in_turn = format!("{QUIET} balance: round_robin,");
    let urls = [first.url("/mcp"), second.url("/mcp")];
    let z = Ziggurat::yaml(&over(&in_turn, &urls)).await;
    let mut homes = BTreeSet::new();
    for _ in 0..12 {
        let session = z.target().session().await;
        assert!(
            session.id.len() > 40 && session.id.is_ascii(),
            "{}",
            session.id
        );
        let home = seen(&session, "tools/call").await;
        for _ in 0..4 {
            assert_eq!(seen(&session, "tools/call").await, home);
        }
        assert!(!session.id.contains(home.as_str().unwrap()));
        homes.insert(home.as_str().unwrap()[..1].to_owned());
        assert_eq!(session.delete().await.status, 204);
        assert_eq!(seen(&session, "tools/call").await, 404);
    }
    assert_eq!(homes.len(), 2, "{homes:?}");
    assert!(a.sessions.lock().unwrap().is_empty() && b.sessions.lock().unwrap().is_empty());

    // One that nobody minted, and one that was tampered with.
    let mut forged = z.target().session().await;
    for id in [
        "a-0".to_owned(),
        format!("{}A", forged.id),
        forged.id.to_lowercase(),
    ] {
        forged.id = id;
        assert_eq!(seen(&forged, "tools/call").await, 404);
    }
}

#[tokio::test]
async fn a_session_outlives_a_restart_with_the_same_key() {
    let keeper = Keeper::default();
    let upstream = keeper.start("a").await;
    let config = over(QUIET, &[upstream.url("/mcp")]);
    let z = Ziggurat::yaml(&config).await;
    let session = z.target().session().await;
    drop(z);
    let z = Ziggurat::yaml(&config).await;
    let session = Session {
        target: z.target(),
        ..session
    };
    assert_eq!(seen(&session, "tools/call").await, "a-0");
    let report = z.report("sessions").await;
    assert_eq!(report["clients"][0]["restored"], true, "{report}");
}

#[tokio::test]
async fn a_session_that_its_server_forgot_is_begun_anew_if_that_is_honest() {
    let keeper = Keeper::default();
    let upstream = keeper.start("a").await;
    let z = Ziggurat::yaml(&over(QUIET, &[upstream.url("/mcp")])).await;
    let session = z.target().session().await;
    assert_eq!(seen(&session, "tools/list").await, "a-0");
    keeper.forget();
    let again = seen(&session, "tools/list").await;
    assert_eq!(again, "a-1", "under the client's old id, in a new session");
    let begun = upstream.received();
    let begun = begun.iter().filter(|r| r.body.contains("\"initialize\""));
    assert_eq!(begun.count(), 2);

    // What a tool may have left in the old session cannot be brought back.
    seen(&session, "tools/call").await;
    keeper.forget();
    assert_eq!(seen(&session, "tools/list").await, 404);
    let heals = z.metrics().await;
    assert_eq!(heals.sum("ziggurat_reinitialize_total", &["healed"]), 1.0);
    assert_eq!(heals.sum("ziggurat_reinitialize_total", &["unsafe"]), 1.0);
}

#[tokio::test]
async fn a_session_whose_endpoint_is_taken_out_moves_to_another() {
    let (a, b) = (Keeper::default(), Keeper::default());
    let (first, second) = (a.start("a").await, b.start("b").await);
    let z = Ziggurat::yaml(&over(QUIET, &[first.url("/mcp")])).await;
    let session = z.target().session().await;
    assert_eq!(seen(&session, "tools/list").await, "a-0");
    z.reload(&over(QUIET, &[second.url("/mcp")]), "ok").await;
    assert_eq!(seen(&session, "tools/list").await, "b-0");
}

#[tokio::test]
async fn a_session_whose_server_is_killed_for_good_moves_to_another() {
    let (a, b) = (Keeper::default(), Keeper::default());
    let (first, second) = (a.start("a").await, b.start("b").await);
    let in_turn = format!("{QUIET} outlier: off, balance: round_robin,");
    let urls = [first.url("/mcp"), second.url("/mcp")];
    let z = Ziggurat::yaml(&over(&in_turn, &urls)).await;
    let at_first = async || {
        loop {
            let session = z.target().session().await;
            if seen(&session, "tools/list")
                .await
                .as_str()
                .unwrap()
                .starts_with("a-")
            {
                return session;
            }
        }
    };
    let (safe, other, acted) = (at_first().await, at_first().await, at_first().await);
    seen(&acted, "tools/call").await;
    drop(first);
    for session in [&safe, &other, &safe] {
        let home = seen(session, "tools/list").await;
        assert!(
            home.as_str().is_some_and(|home| home.starts_with("b-")),
            "{home}"
        );
    }
    // What it may have left there is not given up: it may come back.
    let answer = acted.ask(7, "tools/list", json!({})).await;
    assert_eq!(answer.status, 200);
    let error = &answer.last().await["error"]["data"];
    assert_eq!(error["outcome"], "not_sent", "{error}");
    let heals = z.metrics().await;
    assert_eq!(heals.sum("ziggurat_reinitialize_total", &["healed"]), 2.0);
    assert_eq!(heals.sum("ziggurat_reinitialize_total", &["unsafe"]), 0.0);
}

#[tokio::test]
async fn a_heal_does_not_wait_for_the_place_that_its_own_refusal_holds() {
    let keeper = Keeper::default();
    let upstream = keeper.start("a").await;
    let narrow = format!("{QUIET} concurrency: 1,");
    let z = Ziggurat::yaml(&over(&narrow, &[upstream.url("/mcp")])).await;
    let session = z.target().session().await;
    assert_eq!(seen(&session, "tools/list").await, "a-0");
    keeper.forget();
    assert_eq!(seen(&session, "tools/list").await, "a-1");
    let waits = z.metrics().await;
    assert_eq!(waits.sum("ziggurat_pool_wait_seconds_count", &[]), 0.0);
}

#[tokio::test]
async fn a_session_is_served_though_its_endpoint_fails_its_probes() {
    let keeper = Keeper::default();
    let upstream = keeper.start("a").await;
    // The probe speaks of itself and never gets what it wants: no such status.
    let probed = "health: { probe: http, http: { status: 299 }, interval: 30ms, fall: 1 },";
    let z = Ziggurat::yaml(&over(probed, &[upstream.url("/mcp")])).await;
    let session = z.target().session().await;
    until("it is found sick", async || {
        let report = z.report("upstreams").await;
        report[0]["endpoints"][0]["state"] == "health"
    })
    .await;
    assert_eq!(seen(&session, "tools/call").await, "a-0");
    assert_eq!(session.delete().await.status, 204);
}

#[tokio::test]
async fn a_session_that_expires_or_is_ended_by_the_operator_is_ended_at_its_upstream_too() {
    let keeper = Keeper::default();
    let upstream = keeper.start("a").await;
    let urls = [upstream.url("/deep/mcp")];
    for (route, operator) in [
        ("session: { idle: 1s },", false),
        ("session: { idle: 1h, lifetime: 1s },", false),
        ("", true),
    ] {
        // Without keys of the config, which others might have.
        let text = config("", route, QUIET, &endpoints(&urls));
        let z = Ziggurat::yaml(&text).await;
        let session = z.target().session().await;
        let home = seen(&session, "tools/call").await;
        let home = home.as_str().unwrap();
        if operator {
            let report = z.report("sessions").await;
            let id = &report["clients"][0]["id"];
            z.act("end-session", &json!({"id": id})).await;
        }
        let told = upstream
            .receives("its upstream is told", |received| {
                received.method == "DELETE" && received.header("mcp-session-id") == home
            })
            .await;
        assert_eq!(told.path, "/deep/mcp");
        assert_eq!(told.header("mcp-protocol-version"), session.version);
        until("it is counted", async || {
            let metrics = z.metrics().await;
            let ended = ["route=\"/mcp\"", "outcome=\"ended\""];
            metrics.sum("ziggurat_session_farewells_total", &ended) == 1.0
        })
        .await;
        assert_eq!(seen(&session, "tools/call").await, 404);
    }
    let ends = upstream.received().into_iter();
    assert_eq!(ends.filter(|r| r.method == "DELETE").count(), 3);
    assert!(keeper.sessions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_child_of_a_session_that_expires_on_its_route_ends_with_it() {
    let text = config("", "session: { idle: 2s },", "", &demo("idle: 1h"));
    let z = Ziggurat::yaml(&text).await;
    let session = z.target().session().await;
    assert_eq!(session.ask(1, "ping", json!({})).await.status, 200);
    until("its child is gone", async || z.servers().is_empty()).await;
    assert_eq!(session.ask(2, "ping", json!({})).await.status, 404);
}
