//! Both eras over a real socket on loopback.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::demo::engine::Transport;
use crate::demo::revision::MODERN;

const BOTH: &str = "application/json, text/event-stream";

/// A server, and a client with the headers that it sends.
struct Client {
    engine: Arc<Engine>,
    server: JoinHandle<io::Result<()>>,
    stop: Option<oneshot::Sender<()>>,
    address: SocketAddr,
    http: HyperClient<HttpConnector, Full<Bytes>>,
    headers: HeaderMap,
}

/// The events of a response, one by one.
struct Events {
    body: Incoming,
    arrived: Vec<u8>,
}

impl Client {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let engine = Engine::new(Transport::Http);
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&engine);
        let server = tokio::spawn(serve(served, listener, async {
            drop(stopped.await);
        }));
        let mut client = Self {
            engine,
            server,
            stop: Some(stop),
            address,
            http: HyperClient::builder(TokioExecutor::new()).build_http(),
            headers: HeaderMap::new(),
        };
        client.set("accept", BOTH);
        client.set("content-type", "application/json");
        client
    }

    /// A client that has shaken hands.
    async fn legacy(version: &str, capabilities: Value) -> Self {
        let mut client = Self::start().await;
        client.shake_hands(version, capabilities).await;
        client
    }

    /// A client that speaks without a session.
    async fn modern() -> Self {
        let mut client = Self::start().await;
        client.set("mcp-protocol-version", MODERN);
        client
    }

    async fn shake_hands(&mut self, version: &str, capabilities: Value) {
        let params = json!({"protocolVersion": version, "capabilities": capabilities});
        let response = self.post(&request(0, "initialize", params)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let session = response.headers()["mcp-session-id"]
            .to_str()
            .unwrap()
            .to_owned();
        self.set("mcp-session-id", &session);
        self.set("mcp-protocol-version", version);
        assert_eq!(answer(response).await["result"]["protocolVersion"], version);
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let response = self.post(&note).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert!(whole(response).await.is_empty());
    }

    fn set(&mut self, name: &'static str, value: &str) {
        let value = HeaderValue::from_str(value).unwrap();
        self.headers.insert(HeaderName::from_static(name), value);
    }

    async fn send(
        &self,
        method: Method,
        body: &str,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut request = Request::new(Full::new(Bytes::from(body.to_owned())));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{}/mcp", self.address).parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        self.http.request(request).await
    }

    async fn post(&self, message: &Value) -> Response<Incoming> {
        self.send(Method::POST, &message.to_string()).await.unwrap()
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        answer(self.post(&request(1, method, params)).await).await
    }

    async fn tool(&self, name: &str, arguments: Value) -> Response<Incoming> {
        self.post(&request(
            1,
            "tools/call",
            json!({"name": name, "arguments": arguments}),
        ))
        .await
    }

    /// A modern request with the headers that belong to it.
    async fn modern_post(&mut self, method: &str, params: Value) -> Response<Incoming> {
        self.set("mcp-method", method);
        let name = params
            .get("name")
            .or(params.get("uri"))
            .and_then(Value::as_str);
        match name {
            Some(name) => self.set("mcp-name", name),
            None => drop(self.headers.remove("mcp-name")),
        }
        self.post(&request(1, method, modern(params))).await
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.server.await.unwrap().unwrap();
    }
}

impl Events {
    fn of(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self {
            body: response.into_body(),
            arrived: Vec::new(),
        }
    }

    /// The next event's message; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let text = String::from_utf8(self.arrived.clone()).unwrap();
            if let Some((event, rest)) = text.split_once("\n\n") {
                self.arrived = rest.as_bytes().to_vec();
                match event.strip_prefix("event: message\ndata: ") {
                    Some(data) => return Some(serde_json::from_str(data).unwrap()),
                    None => continue,
                }
            }
            let frame = self.body.frame().await?.unwrap();
            self.arrived.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    async fn message(&mut self) -> Value {
        self.next().await.expect("the stream goes on")
    }
}

fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    let id = id.into();
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn modern(mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    params
}

async fn whole(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn answer(response: Response<Incoming>) -> Value {
    assert_eq!(response.headers()["content-type"], "application/json");
    serde_json::from_slice(&whole(response).await).unwrap()
}

async fn refused(response: Response<Incoming>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, answer(response).await["error"]["code"].take())
}

/// Waits until something that is known to happen has happened.
async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("it happens");
}

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete() {
    let client = Client::legacy("2025-11-25", json!({})).await;
    assert_eq!(client.engine.sessions(), 1);
    assert_eq!(client.call("ping", json!({})).await["result"], json!({}));
    let who =
        answer(client.tool("whoami", json!({})).await).await["result"]["structuredContent"].take();
    assert_eq!(
        who["session"],
        client.headers["mcp-session-id"].to_str().unwrap()
    );
    assert_eq!(who["headers"]["accept"], BOTH);
    let deleted = client.send(Method::DELETE, "").await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(client.engine.sessions(), 0);
    assert_eq!(
        refused(client.post(&request(5, "ping", json!({}))).await).await,
        (404, json!(-32600))
    );
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(
            client.send(method, "").await.unwrap().status(),
            StatusCode::NOT_FOUND
        );
    }
    client.stop().await;
}

#[tokio::test]
async fn a_legacy_request_needs_a_session_and_a_version_that_exists() {
    let mut client = Client::start().await;
    assert_eq!(
        refused(client.post(&request(1, "ping", json!({}))).await).await,
        (400, json!(-32600))
    );
    client.shake_hands("2025-06-18", json!({})).await;
    client.set("mcp-protocol-version", "1999-01-01");
    assert_eq!(
        refused(client.post(&request(1, "ping", json!({}))).await).await,
        (400, json!(-32600))
    );
    client.headers.remove("mcp-protocol-version");
    assert_eq!(client.call("ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn a_legacy_error_travels_in_http_200() {
    let client = Client::legacy("2025-11-25", json!({})).await;
    assert_eq!(
        refused(client.post(&request(1, "no/such", json!({}))).await).await,
        (200, json!(-32601))
    );
    assert_eq!(
        refused(client.tool("error", json!({"code": -5})).await).await,
        (200, json!(-5))
    );
}

#[tokio::test]
async fn what_is_no_mcp_request_gets_the_status_that_says_so() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    assert_eq!(
        refused(client.send(Method::POST, "nonsense").await.unwrap()).await,
        (400, json!(-32700))
    );
    assert_eq!(
        client.send(Method::PUT, "").await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    client.set("accept", "application/json");
    assert_eq!(
        client.send(Method::POST, "{}").await.unwrap().status(),
        StatusCode::NOT_ACCEPTABLE
    );
    assert_eq!(
        client.send(Method::GET, "").await.unwrap().status(),
        StatusCode::NOT_ACCEPTABLE
    );
    client.set("content-type", "text/plain");
    assert_eq!(
        client.send(Method::POST, "{}").await.unwrap().status(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let elsewhere = format!("http://{}/elsewhere", client.address)
        .parse()
        .unwrap();
    assert_eq!(
        client.http.get(elsewhere).await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn progress_is_streamed_before_the_result_and_then_the_stream_ends() {
    let client = Client::legacy("2025-11-25", json!({})).await;
    let params =
        json!({"name": "progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "t"}});
    let mut events = Events::of(client.post(&request("x", "tools/call", params)).await);
    for step in 1..=2 {
        assert_eq!(
            events.message().await["params"],
            json!({"progressToken": "t", "progress": step, "total": 2})
        );
    }
    assert_eq!(events.message().await["id"], "x");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_session_is_asked_on_the_stream_of_the_call_and_answers_by_post() {
    let client = Client::legacy("2025-11-25", json!({"elicitation": {}})).await;
    let mut events = Events::of(client.tool("ask", json!({})).await);
    let question = events.message().await;
    assert_eq!(question["method"], "elicitation/create");
    let said = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    assert_eq!(client.post(&said).await.status(), StatusCode::ACCEPTED);
    let result = events.message().await;
    assert_eq!(
        result["result"]["structuredContent"],
        json!({"answer": {"action": "decline"}})
    );
}

#[tokio::test]
async fn changes_come_on_the_get_stream_and_a_second_one_takes_over() {
    let client = Client::legacy("2025-11-25", json!({})).await;
    client
        .call("resources/subscribe", json!({"uri": "demo://clock"}))
        .await;
    let mut first = Events::of(client.send(Method::GET, "").await.unwrap());
    client.tool("tick", json!({})).await;
    assert_eq!(first.message().await["params"]["uri"], "demo://clock");
    let mut second = Events::of(client.send(Method::GET, "").await.unwrap());
    assert_eq!(first.next().await, None);
    client.tool("tick", json!({"list": "prompts"})).await;
    assert_eq!(
        second.message().await["method"],
        "notifications/prompts/list_changed"
    );
    client.send(Method::DELETE, "").await.unwrap();
    assert_eq!(second.next().await, None);
    until(|| client.engine.changes().listeners() == 0).await;
}

#[tokio::test]
async fn a_legacy_call_is_cancelled_by_the_notification_and_says_nothing_more() {
    let client = Client::legacy("2025-11-25", json!({})).await;
    let params = json!({"name": "progress", "arguments": {"steps": 100, "interval_ms": 600_000}});
    let slow = request("slow", "tools/call", params);
    let slow = client.post(&slow);
    let cancel = async {
        let params = json!({"requestId": "slow"});
        let note = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        // The call may not have arrived yet, so say it until the call has ended.
        loop {
            assert_eq!(client.post(&note).await.status(), StatusCode::ACCEPTED);
        }
    };
    let response = tokio::select! {
        response = slow => response,
        () = cancel => unreachable!("it goes on for ever"),
    };
    assert_eq!(Events::of(response).next().await, None);
}

#[tokio::test]
async fn a_legacy_call_outlives_its_connection_and_dies_with_its_session() {
    let client = Client::legacy("2025-11-25", json!({"elicitation": {}})).await;
    let mut events = Events::of(client.tool("ask", json!({})).await);
    assert_eq!(events.message().await["id"], 1);
    drop(events);
    let alive = Arc::strong_count(&client.engine);
    let mut other = Events::of(client.tool("ask", json!({})).await);
    assert_eq!(
        other.message().await["id"],
        2,
        "the first question is still open"
    );
    assert_eq!(
        Arc::strong_count(&client.engine),
        alive + 1,
        "both calls run"
    );
    let said = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    client.post(&said).await;
    until(|| Arc::strong_count(&client.engine) == alive).await;
    client.send(Method::DELETE, "").await.unwrap();
    assert_eq!(other.next().await, None);
    until(|| client.engine.sessions() == 0).await;
}

#[tokio::test]
async fn a_batch_is_answered_by_events_in_its_own_revision_only() {
    let client = Client::legacy("2025-03-26", json!({})).await;
    let params =
        json!({"name": "progress", "arguments": {"steps": 1}, "_meta": {"progressToken": 1}});
    let batch = json!([
        request("a", "ping", json!({})),
        request("b", "tools/call", params)
    ]);
    let mut events = Events::of(client.post(&batch).await);
    assert_eq!(events.message().await["id"], "a");
    assert_eq!(events.message().await["method"], "notifications/progress");
    assert_eq!(events.message().await["id"], "b");
    assert_eq!(events.next().await, None);
    let notes = json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]);
    assert_eq!(client.post(&notes).await.status(), StatusCode::ACCEPTED);
    let client = Client::legacy("2025-11-25", json!({})).await;
    assert_eq!(
        refused(client.post(&batch).await).await,
        (400, json!(-32600))
    );
}

#[tokio::test]
async fn a_crash_cuts_the_connection_and_the_server_goes_on() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    let crash = request(1, "tools/call", json!({"name": "crash"}));
    assert!(client.send(Method::POST, &crash.to_string()).await.is_err());
    assert_eq!(client.call("ping", json!({})).await["result"], json!({}));
    for tool in ["garbage", "hang_stdin"] {
        assert_eq!(
            answer(client.tool(tool, json!({})).await).await["result"]["isError"],
            true
        );
    }
    client.headers.remove("mcp-session-id");
    client.set("mcp-protocol-version", MODERN);
    client.set("mcp-method", "tools/call");
    client.set("mcp-name", "crash");
    let crash = request(1, "tools/call", modern(json!({"name": "crash"})));
    assert!(client.send(Method::POST, &crash.to_string()).await.is_err());
}

#[tokio::test]
async fn a_modern_request_is_answered_without_a_session() {
    let mut client = Client::modern().await;
    let response = client.modern_post("server/discover", json!({})).await;
    assert!(!response.headers().contains_key("mcp-session-id"));
    assert_eq!(
        answer(response).await["result"]["supportedVersions"],
        json!([MODERN])
    );
    let who = client
        .modern_post("tools/call", json!({"name": "whoami"}))
        .await;
    let who = answer(who).await["result"]["structuredContent"].take();
    assert_eq!(
        (&who["era"], &who["sessions"]),
        (&json!("modern"), &json!(0))
    );
    for method in [Method::GET, Method::DELETE] {
        let response = client.send(method, "").await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "POST");
    }
    let note =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(client.post(&note).await.status(), StatusCode::ACCEPTED);
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    assert_eq!(
        refused(client.post(&response).await).await,
        (400, json!(-32600))
    );
}

#[tokio::test]
async fn modern_errors_have_the_statuses_that_the_revision_assigns() {
    let mut client = Client::modern().await;
    assert_eq!(
        refused(client.modern_post("no/such", json!({})).await).await,
        (404, json!(-32601))
    );
    assert_eq!(
        refused(client.modern_post("ping", json!({})).await).await,
        (404, json!(-32601))
    );
    assert_eq!(
        refused(client.post(&request(1, "tools/list", json!({}))).await).await,
        (400, json!(-32602))
    );
    let unable = client
        .modern_post("tools/call", json!({"name": "sample"}))
        .await;
    assert_eq!(refused(unable).await, (400, json!(-32021)));
    let params = json!({"name": "error", "arguments": {"code": -5}});
    assert_eq!(
        refused(client.modern_post("tools/call", params).await).await,
        (200, json!(-5))
    );

    client.set("mcp-protocol-version", "2099-01-01");
    client.set("mcp-method", "tools/list");
    let mut params = modern(json!({}));
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    let response = client.post(&request("v", "tools/list", params)).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let error = answer(response).await;
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&json!("v"), &json!(-32022))
    );
    assert_eq!(
        error["error"]["data"],
        json!({"supported": [MODERN], "requested": "2099-01-01"})
    );
}

#[tokio::test]
async fn headers_must_say_the_same_as_the_body() {
    let mut client = Client::modern().await;
    let call = request(
        1,
        "tools/call",
        modern(json!({"name": "echo", "arguments": {"text": "x"}})),
    );
    let right = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
    ];
    for (name, value) in right {
        client.set(name, value);
    }
    assert_eq!(client.post(&call).await.status(), StatusCode::OK);
    client.set("mcp-name", "=?base64?ZWNobw==?=");
    assert_eq!(client.post(&call).await.status(), StatusCode::OK);
    client.set("mcp-name", "echo");
    for (name, value) in right {
        client.set(name, "2025-11-25");
        assert_eq!(
            refused(client.post(&call).await).await,
            (400, json!(-32020)),
            "{name} is wrong"
        );
        client.headers.remove(name);
        assert_eq!(
            refused(client.post(&call).await).await,
            (400, json!(-32020)),
            "{name} is missing"
        );
        client.set(name, value);
        client.headers.append(name, HeaderValue::from_static(value));
        assert_eq!(
            refused(client.post(&call).await).await,
            (400, json!(-32020)),
            "{name} is there twice"
        );
        client.set(name, value);
    }
}

#[tokio::test]
async fn an_annotated_argument_must_be_mirrored_by_its_header() {
    let mut client = Client::modern().await;
    let call =
        |region: Value| json!({"name": "weather", "arguments": {"city": "Ur", "region": region}});
    let response = client.modern_post("tools/call", call(json!("süd"))).await;
    assert_eq!(refused(response).await, (400, json!(-32020)));
    assert_eq!(
        client
            .modern_post("tools/call", call(Value::Null))
            .await
            .status(),
        StatusCode::OK
    );
    client.set("mcp-param-region", "=?base64?c8O8ZA==?=");
    assert_eq!(
        client
            .modern_post("tools/call", call(json!("süd")))
            .await
            .status(),
        StatusCode::OK
    );
    let response = client.modern_post("tools/call", call(json!("north"))).await;
    assert_eq!(refused(response).await, (400, json!(-32020)));
    let response = client.modern_post("tools/call", call(Value::Null)).await;
    assert_eq!(refused(response).await, (400, json!(-32020)));
}

#[tokio::test]
async fn closing_the_stream_cancels_a_modern_call() {
    let mut client = Client::modern().await;
    whole(client.modern_post("server/discover", json!({})).await).await;
    let quiet = Arc::strong_count(&client.engine);
    let params = json!({
        "name": "progress",
        "arguments": {"steps": 1_000_000, "interval_ms": 1},
        "_meta": {"progressToken": 1},
    });
    let mut events = Events::of(client.modern_post("tools/call", params).await);
    assert_eq!(events.message().await["method"], "notifications/progress");
    assert_eq!(
        Arc::strong_count(&client.engine),
        quiet + 1,
        "the call holds the server"
    );
    drop(events);
    until(|| Arc::strong_count(&client.engine) == quiet).await;
}

#[tokio::test]
async fn a_listener_hears_of_changes_until_it_closes_its_stream() {
    let mut client = Client::modern().await;
    let listen = json!({"notifications": {"resourceSubscriptions": ["demo://clock"]}});
    let mut events = Events::of(client.modern_post("subscriptions/listen", listen).await);
    assert_eq!(
        events.message().await["method"],
        "notifications/subscriptions/acknowledged"
    );
    client
        .modern_post("tools/call", json!({"name": "tick"}))
        .await;
    let note = events.message().await;
    assert_eq!(note["method"], "notifications/resources/updated");
    assert_eq!(
        note["params"]["_meta"],
        json!({"io.modelcontextprotocol/subscriptionId": 1})
    );
    drop(events);
    until(|| client.engine.changes().listeners() == 0).await;
}

#[tokio::test]
async fn a_listener_gets_its_result_when_the_server_closes_and_all_is_let_go() {
    let mut client = Client::modern().await;
    let mut events = Events::of(
        client
            .modern_post("subscriptions/listen", json!({"notifications": {}}))
            .await,
    );
    events.message().await;
    client.stop.take().unwrap().send(()).unwrap();
    assert_eq!(events.message().await["result"]["resultType"], "complete");
    assert_eq!(events.next().await, None);
    client.server.await.unwrap().unwrap();
    until(|| Arc::strong_count(&client.engine) == 1).await;
}

#[tokio::test]
async fn dropping_the_server_stops_the_calls_of_its_sessions() {
    let client = Client::legacy("2025-11-25", json!({"elicitation": {}})).await;
    let mut events = Events::of(client.tool("ask", json!({})).await);
    events.message().await;
    client.server.abort();
    until(|| Arc::strong_count(&client.engine) == 1).await;
    assert_eq!(client.engine.sessions(), 0);
}

#[tokio::test]
async fn a_process_that_was_started_dies_with_the_server() {
    let client = Client::legacy("2025-11-25", json!({})).await;
    let started = answer(client.tool("spawn_child", json!({})).await).await;
    let pid = started["result"]["structuredContent"]["pid"]
        .as_i64()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    let Client {
        engine,
        server,
        stop,
        http,
        ..
    } = client;
    stop.unwrap().send(()).unwrap();
    drop(http);
    server.await.unwrap().unwrap();
    until(|| Arc::strong_count(&engine) == 1).await;
    drop(engine);
    // The runtime reaps what it has killed.
    until(|| rustix::process::test_kill_process(pid).is_err()).await;
}
