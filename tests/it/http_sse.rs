//! The transport of 2024-11-05, on both sides: old clients in front of any server, old servers behind any client.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::harness::{
    Ziggurat,
    client::{Answer, Target, read_until},
    config, demo, http,
    mcp::{call, initialize, request, text},
    process::{Server, signal},
    stdio, until,
    upstream::{Received, Upstream, Wire},
};

/// A client of the old transport.
struct OldClient {
    target: Target,
    stream: Answer,
    endpoint: String,
}

/// What a server of the old transport has: a stream for each session.
#[derive(Clone, Default)]
struct OldServer {
    streams: Arc<Mutex<HashMap<String, Sender<Option<Value>>>>>,
    begun: Arc<AtomicUsize>,
    /// Where clients are told to post, before the session's number.
    post: &'static str,
}

const OLD: &str = "2024-11-05";

impl OldClient {
    /// Opens the stream and says hello.
    async fn connect(target: &Target) -> Self {
        let mut client = Self::open(target).await;
        client.send(&initialize(OLD)).await;
        let answer = client.stream.next().await;
        assert_eq!(answer["result"]["protocolVersion"], OLD, "{answer}");
        client
            .send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        client
    }

    async fn open(target: &Target) -> Self {
        let accept = [("accept", "text/event-stream")];
        let mut stream = target.request("GET", target.path, &accept, "").await;
        assert_eq!(stream.status, 200);
        let endpoint = stream.event().await.unwrap().data;
        assert!(
            endpoint.starts_with(&format!("{}?", target.path)),
            "{endpoint}"
        );
        Self {
            target: target.clone(),
            stream,
            endpoint,
        }
    }

    async fn send(&self, message: &Value) {
        let headers = [("content-type", "application/json")];
        let sent = self
            .target
            .request("POST", &self.endpoint, &headers, message.to_string());
        assert_eq!(sent.await.status, 202);
    }

    async fn ask(&self, id: impl Into<Value>, method: &str, params: Value) {
        self.send(&request(&id.into(), method, &params)).await;
    }

    async fn call(&mut self, id: u32, tool: &str, arguments: Value) -> Value {
        self.ask(id, "tools/call", call(tool, arguments)).await;
        let answer = self.stream.next().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }
}

impl OldServer {
    async fn start(post: &'static str) -> (Self, Upstream) {
        let server = Self {
            post,
            ..Self::default()
        };
        let script = server.clone();
        let upstream = Upstream::start(move |received, wire| script.clone().answer(received, wire));
        (server, upstream.await)
    }

    async fn answer(self, received: Received, wire: Wire) -> Option<Wire> {
        let (path, query) = received
            .path
            .split_once('?')
            .unwrap_or((&received.path, ""));
        match (&*received.method, path) {
            ("GET", "/sse") => self.stream(wire).await,
            ("POST", "/messages") => {
                let stream = self.streams.lock().unwrap().get(query).cloned();
                let Some(stream) = stream else {
                    return wire.answer("404 Not Found", "", "no such session").await;
                };
                let message: Value = serde_json::from_str(&received.body).unwrap();
                let wire = wire.answer("202 Accepted", "", "Accepted").await;
                react(&message, &stream);
                wire
            }
            _ => wire.answer("405 Method Not Allowed", "", "").await,
        }
    }

    async fn stream(self, wire: Wire) -> Option<Wire> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        let session = format!("s={number}");
        let (send, mut messages): (_, Receiver<Option<Value>>) = channel(64);
        self.streams.lock().unwrap().insert(session.clone(), send);
        let endpoint = format!("event: endpoint\ndata: {}?{session}\n\n", self.post);
        let mut wire = wire.sse().await.drip(&endpoint).await;
        loop {
            tokio::select! {
                message = messages.recv() => match message.flatten() {
                    Some(message) => wire = wire.event(&message.to_string()).await,
                    None => break,
                },
                () = wire.gone() => break,
            }
        }
        self.streams.lock().unwrap().remove(&session);
        None
    }
}

/// What the old server does about a message.
fn react(message: &Value, stream: &Sender<Option<Value>>) {
    let say = |message: Value| stream.try_send(Some(message)).unwrap();
    let id = &message["id"];
    let done = |text: &str| json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}});
    let tool = message["params"]["name"].as_str().unwrap_or_default();
    match (message["method"].as_str().unwrap_or_default(), tool) {
        ("initialize", _) => say(json!({"jsonrpc": "2.0", "id": id, "result": {
            "protocolVersion": OLD, "capabilities": {}, "serverInfo": {"name": "old", "version": "0"},
        }})),
        ("tools/call", "echo") => say(done(
            message["params"]["arguments"]["text"].as_str().unwrap(),
        )),
        ("tools/call", "progress") => {
            let token = &message["params"]["_meta"]["progressToken"];
            say(
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}),
            );
            say(done("progressed"));
        }
        ("tools/call", "ask") => {
            say(json!({"jsonrpc": "2.0", "id": format!("for {id}"), "method": "roots/list"}));
        }
        ("tools/call", "tell") => {
            say(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
            say(done("told"));
        }
        ("tools/call", "die") => drop(stream.try_send(None)),
        ("tools/call", _) | ("notifications/initialized" | "notifications/cancelled", _) => {}
        // The client's answer to a question answers the call.
        ("", _) => {
            let call: Value = id
                .as_str()
                .and_then(|id| serde_json::from_str(id.strip_prefix("for ")?).ok())
                .unwrap();
            let text = message["result"]["roots"][0]["uri"]
                .as_str()
                .unwrap_or("nothing");
            say(
                json!({"jsonrpc": "2.0", "id": call, "result": {"content": [{"type": "text", "text": text}]}}),
            );
        }
        _ => say(json!({"jsonrpc": "2.0", "id": id, "result": {}})),
    }
}

// === old clients ===

/// What an old client does, whatever is behind.
async fn a_whole_old_session(z: &Ziggurat) {
    let mut client = OldClient::connect(&z.target()).await;
    client.ask(1, "tools/list", json!({})).await;
    assert!(client.stream.next().await["result"]["tools"].is_array());
    assert_eq!(
        text(&client.call(2, "echo", json!({"text": "hello"})).await),
        "hello"
    );

    // Progress, then the result.
    let mut params = call("progress", json!({"steps": 2}));
    params["_meta"] = json!({"progressToken": "t"});
    client.ask(3, "tools/call", params).await;
    for step in 1..3 {
        assert_eq!(client.stream.next().await["params"]["progress"], step);
    }
    assert_eq!(client.stream.next().await["id"], 3);

    // The server asks, the client answers.
    client.ask(4, "tools/call", call("roots", json!({}))).await;
    let question = client.stream.next().await;
    assert_eq!(question["method"], "roots/list");
    let roots = json!({"roots": [{"uri": "file:///x", "name": "x"}]});
    client
        .send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": roots}))
        .await;
    let answer = client.stream.next().await;
    assert!(answer.to_string().contains("file:///x"), "{answer}");

    // What belongs to no call comes as well.
    client
        .ask(5, "tools/call", call("tick", json!({"list": "tools"})))
        .await;
    let both = [client.stream.next().await, client.stream.next().await];
    let changed = "notifications/tools/list_changed";
    assert!(both.iter().any(|m| m["method"] == changed), "{both:?}");

    // One line for each operation, with what became of it.
    let operation = |method: &str| z.log().matches(&format!("method=\"{method}\"")).count();
    until("the calls are logged", async || {
        operation("tools/call") == 4
    })
    .await;
    assert_eq!(operation("initialize"), 1);
    drop(client);
    until("its session ends with it", async || {
        z.report("sessions").await["sessions"] == json!([])
            || z.metrics().await.sum("ziggurat_sessions", &[]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn an_old_client_uses_a_command() {
    let z = Ziggurat::yaml(&stdio("")).await;
    a_whole_old_session(&z).await;
    until("the child is gone", async || z.servers().is_empty()).await;
}

#[tokio::test]
async fn an_old_client_uses_a_streamable_server() {
    let demo = Server::demo().await;
    let z = Ziggurat::yaml(&http(&format!("http://{}/mcp", demo.address))).await;
    a_whole_old_session(&z).await;
}

#[tokio::test]
async fn an_old_client_uses_an_old_server_through_the_proxy() {
    let (server, upstream) = OldServer::start("/messages").await;
    let z = Ziggurat::yaml(&http(&upstream.url("/sse"))).await;
    let mut client = OldClient::connect(&z.target()).await;
    assert_eq!(
        text(&client.call(1, "echo", json!({"text": "old"})).await),
        "old"
    );
    drop(client);
    until("the server's stream is closed", async || {
        server.streams.lock().unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_old_client_hears_of_failures_on_its_stream() {
    let z = Ziggurat::yaml(&stdio("stop: { stdin: 50ms, term: 50ms }")).await;
    let mut client = OldClient::connect(&z.target()).await;
    let answer = client.call(1, "crash", json!({})).await;
    assert_eq!(answer["error"]["data"]["kind"], "server_gone", "{answer}");
    assert_eq!(answer["error"]["data"]["outcome"], "unknown");
    // The child had the session: the next call finds out, and the stream ends, so that the client begins anew.
    client.ask(2, "tools/list", json!({})).await;
    let lost = client.stream.next().await;
    assert_eq!(
        (&lost["id"], &lost["error"]["code"]),
        (&json!(2), &json!(404))
    );
    assert_eq!(client.stream.event().await, None);
    let ping = request(&json!(3), "ping", &json!({})).to_string();
    let gone = z.target().post(&client.endpoint, &[], ping).await;
    assert_eq!(gone.status, 404);
    let mut again = OldClient::connect(&z.target()).await;
    assert_eq!(
        text(&again.call(1, "echo", json!({"text": "again"})).await),
        "again"
    );
}

#[tokio::test]
async fn an_old_client_that_does_not_read_loses_its_stream() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let mut narrow = z.target().narrow().await;
    narrow
        .write_all(b"GET /mcp HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
        .await
        .unwrap();
    let head = read_until(&mut narrow, "\n\n").await;
    let endpoint = head
        .split("data: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    let post = async |message: Value| {
        let target = z.target();
        target
            .post(&endpoint, &[], message.to_string())
            .await
            .status
            .as_u16()
    };
    assert_eq!(post(initialize(OLD)).await, 202);
    read_until(&mut narrow, "protocolVersion").await;
    let mut id = 0;
    until("the channel is gone", async || {
        id += 1;
        let big = request(
            &json!(id),
            "tools/call",
            &call("big", json!({"bytes": 1_000_000})),
        );
        post(big).await == 404
    })
    .await;
    until("and its session", async || z.servers().is_empty()).await;
}

#[tokio::test]
async fn an_old_client_lives_through_a_reload_and_finishes_its_call_in_a_drain() {
    let mut z = Ziggurat::yaml(&stdio("")).await;
    let mut client = OldClient::connect(&z.target()).await;
    z.reload(&config("", "deadline: 4m", "", &demo("")), "ok")
        .await;
    assert_eq!(
        text(&client.call(1, "echo", json!({"text": "on"})).await),
        "on"
    );
    let mut params = call("progress", json!({"steps": 10, "interval_ms": 50}));
    params["_meta"] = json!({"progressToken": "t"});
    client.ask(2, "tools/call", params).await;
    assert_eq!(client.stream.next().await["params"]["progress"], 1);
    signal(z.pid(), "TERM");
    for step in 2..11 {
        assert_eq!(client.stream.next().await["params"]["progress"], step);
    }
    assert!(client.stream.next().await["result"].is_object());
    assert_eq!(client.stream.event().await, None);
    assert!(z.ended().await.success());
}

#[tokio::test]
async fn everything_is_given_back_when_old_clients_are_gone() {
    let z = Ziggurat::yaml(&stdio("stop: { stdin: 50ms, term: 50ms }")).await;
    let baseline = z.warm().await;
    let clients: Vec<_> = futures_util::future::join_all((0..5).map(|_| async {
        let client = OldClient::connect(&z.target()).await;
        client
            .ask(1, "tools/call", call("sleep", json!({"ms": 3_600_000})))
            .await;
        client
    }))
    .await;
    drop(clients);
    z.assert_back_to(&baseline).await;
}

// === old servers ===

#[tokio::test]
async fn an_old_server_is_found_out_and_used() {
    let (server, upstream) = OldServer::start("/messages").await;
    let z = Ziggurat::yaml(&http(&upstream.url("/sse"))).await;
    let session = z.target().session_at("/mcp", OLD).await;
    assert!(!session.id.is_empty());
    assert_eq!(
        text(
            &session
                .call(1, "echo", json!({"text": "x"}))
                .await
                .last()
                .await
        ),
        "x"
    );
    let plain = session.ask("one", "ping", json!({})).await;
    assert!(!plain.is_stream());
    assert_eq!(plain.json().await["id"], "one");

    let progress = session
        .call_with_token(2, "t", "progress", json!({}))
        .await
        .messages()
        .await;
    assert_eq!(progress[0]["params"]["progressToken"], "t");
    assert_eq!(text(&progress[1]), "progressed");

    let mut asking = session.call(3, "ask", json!({})).await;
    let question = asking.next().await;
    assert_eq!(question["method"], "roots/list");
    let roots = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": [{"uri": "file:///r"}]}});
    assert_eq!(session.post(&roots).await.status, 202);
    assert_eq!(text(&asking.next().await), "file:///r");

    // What belongs to no call waits for the GET stream.
    session.call(4, "tell", json!({})).await.last().await;
    let mut stream = session.stream().await;
    assert_eq!(
        stream.next().await["method"],
        "notifications/tools/list_changed"
    );

    // An id that is in flight is refused; the call goes on.
    let hanging = tokio::spawn({
        let session = session.clone();
        async move { session.call(5, "hang", json!({})).await.last().await }
    });
    upstream
        .receives("the call", |r| r.body.contains("hang"))
        .await;
    let twice = session.ask(5, "ping", json!({})).await;
    assert_eq!(twice.status, 400);
    hanging.abort();

    // Modern requests are a legacy server's to refuse.
    let modern = z.target().modern(1, "tools/list", json!({})).await;
    assert_eq!(modern.status, 400);

    assert!(session.delete().await.status.is_success());
    until("its connection is closed", async || {
        server.streams.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(session.ask(6, "ping", json!({})).await.status, 404);
}

#[tokio::test]
async fn the_end_of_an_old_servers_stream_fails_its_calls_and_ends_the_session() {
    let (_server, upstream) = OldServer::start("/messages").await;
    let endpoint = format!("url: \"{}\", transport: sse", upstream.url("/sse"));
    let z = Ziggurat::yaml(&config("", "", "", &endpoint)).await;
    let session = z.target().session_at("/mcp", OLD).await;
    let answer = session.call(1, "die", json!({})).await.last().await;
    assert_eq!(answer["error"]["data"]["kind"], "server_gone", "{answer}");
    assert_eq!(answer["error"]["data"]["outcome"], "unknown");
    assert_eq!(session.ask(2, "ping", json!({})).await.status, 404);
    let again = z.target().session_at("/mcp", OLD).await;
    assert_eq!(again.ask(1, "ping", json!({})).await.status, 200);
    let posts = upstream.received();
    assert!(
        posts
            .iter()
            .all(|r| r.method == "GET" || r.path.starts_with("/messages")),
        "nobody asked"
    );
}

#[tokio::test]
async fn a_session_goes_on_with_an_old_server_that_restarted() {
    let (server, upstream) = OldServer::start("/messages").await;
    let z = Ziggurat::yaml(&http(&upstream.url("/sse"))).await;
    let session = z.target().session_at("/mcp", OLD).await;
    assert_eq!(session.ask(1, "ping", json!({})).await.status, 200);
    server.streams.lock().unwrap().clear();
    until("the session was begun anew", async || {
        let answer = session.ask(2, "ping", json!({})).await;
        assert_eq!(answer.status, 200);
        answer.last().await["result"].is_object()
    })
    .await;
    assert_eq!(server.begun.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_call_to_an_old_server_that_is_given_up_is_cancelled_there() {
    let (_server, upstream) = OldServer::start("/messages").await;
    let z = Ziggurat::yaml(&config(
        "",
        "deadline: 300ms",
        "",
        &format!("url: \"{}\"", upstream.url("/sse")),
    ))
    .await;
    let session = z.target().session_at("/mcp", OLD).await;
    let answer = session.call(7, "hang", json!({})).await.last().await;
    assert_eq!(
        answer["error"]["data"]["kind"], "deadline_exceeded",
        "{answer}"
    );
    let cancel = upstream
        .receives("the cancellation", |r| {
            r.body.contains("notifications/cancelled")
        })
        .await;
    let cancel: Value = serde_json::from_str(&cancel.body).unwrap();
    assert_eq!(cancel["params"]["requestId"], 7);
    assert_eq!(session.ask(8, "ping", json!({})).await.status, 200);
}

#[tokio::test]
async fn an_old_server_must_not_send_the_proxy_elsewhere() {
    let other = Upstream::start(async |_, wire: Wire| wire.json("{}").await).await;
    let elsewhere: &'static str = Box::leak(other.url("/messages").into_boxed_str());
    let (_server, upstream) = OldServer::start(elsewhere).await;
    let endpoint = format!("url: \"{}\", transport: sse", upstream.url("/sse"));
    let z = Ziggurat::yaml(&config("", "retry: off", "", &endpoint)).await;
    let answer = z
        .target()
        .post("/mcp", &[], initialize(OLD).to_string())
        .await
        .last()
        .await;
    assert_eq!(answer["error"]["data"]["kind"], "bad_endpoint", "{answer}");
    assert_eq!(answer["error"]["data"]["outcome"], "not_sent", "{answer}");
    assert!(other.received().is_empty());
}

#[tokio::test]
async fn probes_reach_an_old_server() {
    let (_server, upstream) = OldServer::start("/messages").await;
    let health = "health: { interval: 50ms },";
    let z = Ziggurat::yaml(&config(
        "",
        "",
        health,
        &format!("url: \"{}\"", upstream.url("/sse")),
    ))
    .await;
    until("probes succeed", async || {
        let metrics = z.metrics().await;
        metrics.sum("ziggurat_health_probe_duration_seconds_count", &["success"]) > 2.0
    })
    .await;
    let metrics = z.metrics().await;
    assert_eq!(
        metrics.sum("ziggurat_health_probe_duration_seconds_count", &["failure"]),
        0.0
    );
}
