//! The upstream as a service, with real children: a small server in POSIX shell (`tests/server.sh`).

mod attribution;
mod calls;
mod cancel;
mod children;
mod ends;
mod eras;
mod gauges;
mod health;
mod lines;
mod panics;
mod params;
mod principals;
mod reaper;
mod recycle;
mod room;
mod sharing;
mod snapshot;
mod storm;
mod streams;
mod warm;

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    Body,
    error::{Outcome, find},
    exchange::GiveUp,
    fault::Fault,
    rescue::Row,
};

/// An upstream with a scripted server, a folder for the server's notes and gates, and a recorder of its metrics.
struct Rig {
    upstream: StdioUpstream,
    dir: tempfile::TempDir,
    metrics: PrometheusHandle,
    _recorder: ::metrics::LocalRecorderGuard<'static>,
}

/// A response that was read to its end.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    /// Its messages, whether it was JSON or an event stream.
    messages: Vec<Value>,
    /// It ended with this error.
    error: Option<BoxError>,
}

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

const BOTH: &str = "application/json, text/event-stream";

impl Rig {
    /// The server as it is.
    fn plain() -> Self {
        Self::new("", |_| {})
    }

    /// The server with more cases (`pattern) commands ;;`), behind other settings.
    fn new(arms: &str, change: impl FnOnce(&mut StdioSettings)) -> Self {
        Self::script(&server(arms), change)
    }

    /// A server of its own.
    fn script(script: &str, change: impl FnOnce(&mut StdioSettings)) -> Self {
        let recorder: &'static _ = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let metrics = recorder.handle();
        let guard = ::metrics::set_default_local_recorder(recorder);
        let dir = tempfile::tempdir().expect("a folder");
        let mut settings = StdioSettings::new("sh", ["/bin/sh", "-c", script, "server"]);
        settings.env = vec![("DIR".into(), dir.path().into())];
        settings.stop = Stop {
            stdin: Duration::from_millis(500),
            term: Duration::from_millis(500),
        };
        change(&mut settings);
        Self {
            upstream: StdioUpstream::new(settings),
            dir,
            metrics,
            _recorder: guard,
        }
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<StdioBody>, BoxError> {
        let call = self.upstream.clone().oneshot(request);
        tokio::time::timeout(PATIENCE, call)
            .await
            .expect("a head, or an error, in time")
    }

    /// The whole reply; an error of the call itself panics.
    async fn reply(&self, request: Request<Body>) -> Reply {
        let response = self.send(request).await.expect("a response");
        read(response).await
    }

    async fn error(&self, request: Request<Body>) -> StdioError {
        let error = self.send(request).await.expect_err("an error");
        *error.downcast().expect("an error of this upstream")
    }

    /// Begins a legacy session.
    async fn open(&self) -> String {
        let reply = self.reply(initialize()).await;
        let id = reply.headers.get("mcp-session-id").expect("a session");
        id.to_str().expect("text").to_owned()
    }

    /// Has the modern child started, and its tools learnt.
    async fn modern_is_up(&self) {
        self.reply(modern_tool("up", "echo", 0)).await;
    }

    /// Starts a call in a task of its own.
    fn start(&self, request: Request<Body>) -> tokio::task::JoinHandle<Result<Reply, BoxError>> {
        let upstream = self.upstream.clone();
        tokio::spawn(async move { Ok(read(upstream.oneshot(request).await?).await) })
    }

    /// Waits until `what` is so.
    async fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !so(self) {
            assert!(tokio::time::Instant::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many children are in this state, as the gauge has it.
    fn at(&self, state: &str) -> usize {
        let labels = format!("state=\"{state}\"");
        let count = self.metric("ziggurat_stdio_processes", &labels);
        count.unwrap_or_default() as usize
    }

    /// How many children were started for this reason.
    fn spawned(&self, reason: &str) -> usize {
        let labels = format!("reason=\"{reason}\"");
        let count = self.metric("ziggurat_stdio_spawns_total", &labels);
        count.unwrap_or_default() as usize
    }

    /// How many children have ended for this reason.
    fn exited(&self, reason: &str) -> usize {
        let labels = format!("reason=\"{reason}\"");
        let count = self.metric("ziggurat_stdio_exits_total", &labels);
        count.unwrap_or_default() as usize
    }

    /// Waits until so many requests have no answer.
    async fn pending(&self, count: usize) {
        self.until(&format!("{count} pending"), |rig| {
            rig.upstream.report().pending == count
        })
        .await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens a gate of the server.
    fn gate(&self, name: &str) {
        std::fs::write(self.path(name), "").expect("written");
    }

    /// The lines that the server has noted in a file.
    fn noted(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The value of a metric with these labels.
    fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let text = self.metrics.render();
        let mut lines = text.lines().filter(|l| !l.starts_with('#'));
        let line = lines.find(|l| {
            let (head, _) = l.rsplit_once(' ').unwrap_or_default();
            head.starts_with(&format!("{name}{{")) && labels.split(',').all(|l| head.contains(l))
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

/// The server with more cases.
fn server(arms: &str) -> String {
    include_str!("tests/server.sh").replace("#ARMS#", arms)
}

/// So many, as settings have it.
fn many(n: usize) -> NonZeroUsize {
    n.try_into().expect("not zero")
}

/// There is such a process, and it has not ended.
fn lives(pid: impl std::fmt::Display) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// Reads a response to its end.
async fn read(response: Response<StdioBody>) -> Reply {
    let (parts, mut body) = response.into_parts();
    let (mut text, mut error) = (String::new(), None);
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame());
        match frame.await.expect("a frame, or the end, in time") {
            Some(Ok(frame)) => {
                let data = frame.into_data().expect("data");
                text.push_str(std::str::from_utf8(&data).expect("text"));
            }
            Some(Err(e)) => {
                error = Some(e);
                break;
            }
            None => break,
        }
    }
    let kind = parts.headers.get("content-type").map(|v| v.as_bytes());
    let messages = if kind == Some(b"text/event-stream") {
        messages(&text)
    } else if text.is_empty() {
        Vec::new()
    } else {
        vec![serde_json::from_str(&text).expect("JSON")]
    };
    Reply {
        status: parts.status,
        headers: parts.headers,
        messages,
        error,
    }
}

/// The messages of an event stream's text.
fn messages(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|l| l.strip_prefix("data: "));
    data.map(|d| serde_json::from_str(d).expect("JSON"))
        .collect()
}

impl Reply {
    fn is_stream(&self) -> bool {
        self.headers
            .get("content-type")
            .is_some_and(|v| v == "text/event-stream")
    }

    /// The one message of a JSON reply.
    fn json(&self) -> &Value {
        assert!(!self.is_stream() && self.error.is_none(), "{self:?}");
        &self.messages[0]
    }

    fn last(&self) -> &Value {
        self.messages.last().expect("a message")
    }

    fn methods(&self) -> Vec<&str> {
        self.messages
            .iter()
            .map(|m| m["method"].as_str().unwrap_or("answer"))
            .collect()
    }

    /// What the tool `heard` answered.
    fn heard(&self) -> Vec<Value> {
        let heard = self.last()["result"].as_array();
        heard.expect("a list").clone()
    }
}

/// The error of a call that was to fail.
fn stdio<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a StdioError {
    find(error).expect("an error of this upstream")
}

fn request(method: Method, headers: &[(&'static str, &str)], body: String) -> Request<Body> {
    let mut request = Request::new(Body::full(body));
    *request.method_mut() = method;
    for (name, value) in headers {
        let value = value.parse().expect("a value");
        request.headers_mut().insert(*name, value);
    }
    request
}

/// A POST within a legacy session.
fn post(session: &str, body: impl Into<Value>) -> Request<Body> {
    let headers = [("accept", BOTH), ("mcp-session-id", session)];
    request(Method::POST, &headers, text(body.into()))
}

fn get(session: &str) -> Request<Body> {
    let headers = [("accept", BOTH), ("mcp-session-id", session)];
    request(Method::GET, &headers, String::new())
}

fn delete(session: &str) -> Request<Body> {
    let headers = [("mcp-session-id", session)];
    request(Method::DELETE, &headers, String::new())
}

/// The message as text; what the shell looks for first comes first.
fn text(message: Value) -> String {
    let Value::Object(message) = message else {
        return message.to_string();
    };
    let order = |key: &&String| match key.as_str() {
        "jsonrpc" => 0,
        "id" => 1,
        "method" => 2,
        _ => 3,
    };
    let mut keys: Vec<&String> = message.keys().collect();
    keys.sort_by_key(order);
    let members = keys.iter().map(|k| format!("\"{k}\":{}", message[*k]));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn initialize() -> Request<Body> {
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}
    }});
    request(Method::POST, &[("accept", BOTH)], text(body))
}

/// A `tools/call` with an argument.
fn tool(id: impl Into<Value>, name: &str, mark: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {
        "name": name, "arguments": {"mark": mark.into()}
    }})
}

/// The same with a progress token.
fn with_token(mut call: Value, token: impl Into<Value>) -> Value {
    call["params"]["_meta"]["progressToken"] = token.into();
    call
}

/// A modern request with this method, and more of its `params`.
fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Request<Body> {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let name = params["name"].as_str().unwrap_or_default().to_owned();
    let mut headers = vec![
        ("accept", BOTH),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method),
    ];
    if !name.is_empty() {
        headers.push(("mcp-name", &name));
    }
    let body = json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params});
    request(Method::POST, &headers, text(body))
}

fn modern_tool(id: impl Into<Value>, name: &str, mark: impl Into<Value>) -> Request<Body> {
    let params = json!({"name": name, "arguments": {"mark": mark.into()}});
    modern(id, "tools/call", params)
}

fn listen(id: impl Into<Value>) -> Request<Body> {
    modern(id, "subscriptions/listen", json!({"notifications": {}}))
}

/// The request of a principal.
fn by(principal: &str, mut request: Request<Body>) -> Request<Body> {
    Exchange::of(&mut request).set_principal(principal.into());
    request
}

/// Says why the request's call will be given up.
fn given_up(request: &mut Request<Body>, why: GiveUp) {
    Exchange::of(request).give_up(why);
}
