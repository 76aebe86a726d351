use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};
use tower::{ServiceExt, service_fn, util::BoxCloneService};

use super::*;
use crate::{
    exchange::{ErrorStyle, RouteInfo},
    inspect::{InspectLayer, InspectSettings},
    limit::{LimitSettings, Shed},
    mcp::headers::PROTOCOL_VERSION,
    observe::{ObserveBody, ObserveLayer},
};

mod calls;
mod channels;
mod sessions;

type Stack = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// A request as the inner service saw it.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    uri: String,
    session: String,
    version: String,
    last_event: String,
    body: Value,
}

/// A Streamable HTTP server, and what came to it.
#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// What becomes of the GETs in a session, one after the other; then there is no stream.
    standing: Arc<Mutex<VecDeque<Standing>>>,
    /// How many sessions were begun.
    begun: Arc<AtomicU32>,
    /// A GET without a session is answered with this status.
    lonely: u16,
}

/// What becomes of a GET in a session.
enum Standing {
    /// What is sent comes on it.
    Open(mpsc::Receiver<String>),
    /// One event comes, then it breaks.
    Breaks,
    /// Nothing comes, and after this time it ends.
    Quiet(Duration),
    /// It asks for so many milliseconds before the next, and ends.
    Asks(u64),
    /// It is answered with this status.
    Status(u16),
}

/// A route with old clients on it.
struct Rig {
    server: Server,
    channels: Channels,
    stack: Stack,
}

/// An open channel, from its client's side.
struct Client {
    stack: Stack,
    body: Body,
    reader: crate::mcp::events::EventReader,
    events: VecDeque<crate::mcp::events::DataEvent>,
    endpoint: String,
}

impl Server {
    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    async fn answer(self, request: Request<Body>) -> std::result::Result<Response<Body>, BoxError> {
        let seen = Seen {
            method: request.method().clone(),
            uri: request.uri().to_string(),
            session: header(&request, &SESSION_ID),
            version: header(&request, &PROTOCOL_VERSION),
            last_event: header(&request, &LAST_EVENT_ID),
            body: serde_json::Value::Null,
        };
        let body = request.into_body().collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let seen = Seen {
            body: body.clone(),
            ..seen
        };
        self.seen.lock().expect("not poisoned").push(seen.clone());
        if let Some(messages) = body.as_array() {
            return Ok(batch(messages).await);
        }
        let id = &body["id"];
        match (
            seen.method.as_str(),
            body["method"].as_str().unwrap_or_default(),
        ) {
            ("GET", _) if seen.session.is_empty() => Ok(status(self.lonely)),
            ("GET", _) => Ok(self.stand()),
            ("DELETE", _) => Ok(status(200)),
            (_, "initialize") => {
                let result = json!({"jsonrpc": "2.0", "id": id, "result": {"protocolVersion": "2024-11-05"}});
                let mut response = answer(&serde_json::to_string_pretty(&result)?);
                let session = format!("s{}", self.begun.fetch_add(1, Ordering::SeqCst) + 1);
                let session = HeaderValue::try_from(session)?;
                response.headers_mut().insert(SESSION_ID, session);
                Ok(response)
            }
            (_, "hang") => pending().await,
            (_, "fail") => Err(Shed {
                limit: 1,
                what: "things",
            }
            .into()),
            (_, "refuse") => {
                let mut response =
                    answer(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no"}}"#);
                *response.status_mut() = StatusCode::BAD_REQUEST;
                Ok(response)
            }
            (_, "lost") => Ok(status(404)),
            (_, "lost later") => {
                sleep(Duration::from_secs(5)).await;
                Ok(status(404))
            }
            (_, "silent") => Ok(events(stream::empty())),
            (_, "ends later") => Ok(self.ends_after(Duration::from_secs(5))),
            (_, "progress") => {
                let messages = [
                    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}),
                    json!({"jsonrpc": "2.0", "id": id, "result": {"done": true}}),
                ];
                Ok(events(stream::iter(messages.map(|m| m.to_string()))))
            }
            (_, "break after the answer" | "stay after the answer") => {
                let done = json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string();
                let done = stream::iter([Ok(done)]);
                Ok(if body["method"] == "stay after the answer" {
                    frames(done.chain(stream::pending()))
                } else {
                    frames(done.chain(stream::iter([Err("reset".into())])))
                })
            }
            (_, "big") => {
                let text = "x".repeat(1000);
                Ok(answer(
                    &json!({"jsonrpc": "2.0", "id": id, "result": text}).to_string(),
                ))
            }
            _ if id.is_null() || body["method"].is_null() => Ok(status(202)),
            _ => Ok(answer(
                &json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string(),
            )),
        }
    }
}

/// Answers a batch, as its first message asks for.
async fn batch(messages: &[Value]) -> Response<Body> {
    let done = |message: &Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": {}});
    match messages[0]["method"].as_str() {
        Some("hang") => pending().await,
        Some("refuse") => status(400),
        Some("silent") => events(stream::empty()),
        Some("first twice") => {
            let all = [&messages[0], &messages[0], &messages[1]].map(done);
            events(stream::iter(all.map(|m| m.to_string())))
        }
        Some("half") => events(stream::iter([json!([done(&messages[0])]).to_string()])),
        _ => answer(&Value::from_iter(messages.iter().map(done)).to_string()),
    }
}

impl Server {
    /// Answers a GET in a session.
    fn stand(&self) -> Response<Body> {
        let standing = self.standing.lock().expect("not poisoned").pop_front();
        match standing.unwrap_or(Standing::Status(405)) {
            Standing::Open(messages) => events(stream::unfold(messages, async |mut messages| {
                Some((messages.recv().await?, messages))
            })),
            Standing::Breaks => {
                let tick = json!({"jsonrpc": "2.0", "method": "tick"}).to_string();
                frames(stream::iter([Ok(tick), Err("reset".into())]))
            }
            Standing::Quiet(time) => self.ends_after(time),
            Standing::Asks(retry) => {
                let mut response = events(stream::empty());
                *response.body_mut() = Body::full(format!("retry: {retry}\ndata:\n\n"));
                response
            }
            Standing::Status(code) => status(code),
        }
    }

    /// A stream without an event.
    fn ends_after(&self, time: Duration) -> Response<Body> {
        let silence = stream::once(sleep(time));
        events(silence.filter_map(|()| std::future::ready(None)))
    }
}

fn header(request: &Request<Body>, name: &HeaderName) -> String {
    let value = request.headers().get(name);
    value.map_or("", |v| v.to_str().expect("text")).to_owned()
}

fn status(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn answer(text: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(text.to_owned()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn events(messages: impl futures_util::Stream<Item = String> + Send + 'static) -> Response<Body> {
    frames(messages.map(Ok))
}

fn frames<M>(messages: M) -> Response<Body>
where
    M: futures_util::Stream<Item = std::result::Result<String, BoxError>> + Send + 'static,
{
    let frames = messages.map(|m| {
        let event = format!("id: 7\nevent: message\ndata: {}\n\n", m?);
        Ok::<_, BoxError>(Frame::data(Bytes::from(event)))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn rig(settings: HttpSseSettings, server: Server) -> Rig {
    let inner = server.clone();
    let leaf = service_fn(move |request| inner.clone().answer(request));
    rig_over(settings, server, Stack::new(leaf))
}

/// One whose channels see what an observer says.
fn observed(server: Server) -> Rig {
    let inner = server.clone();
    let leaf = tower::ServiceBuilder::new()
        .map_response(|response: Response<ObserveBody<_>>| response.map(Body::new))
        .layer(ObserveLayer::new("test"))
        .service_fn(move |request| inner.clone().answer(request));
    rig_over(HttpSseSettings::default(), server, Stack::new(leaf))
}

fn rig_over(settings: HttpSseSettings, server: Server, leaf: Stack) -> Rig {
    let channels = Channels::default();
    let limit = LimitLayer::new(LimitSettings {
        calls: None,
        streams: NonZeroUsize::new(2),
    });
    let layer = HttpSseLayer::new(settings, channels.clone()).limit(limit.clone());
    let service = tower::ServiceBuilder::new()
        .map_response(|response: Response<HttpSseBody<_>>| response.map(Body::new))
        .layer(InspectLayer::new(InspectSettings::mcp()))
        .layer(layer)
        .layer(limit)
        .service(leaf);
    Rig {
        server,
        channels,
        stack: BoxCloneService::new(service),
    }
}

fn lonely(lonely: u16) -> Server {
    Server {
        lonely,
        ..Server::default()
    }
}

fn standing(lonely: u16, standing: impl IntoIterator<Item = Standing>) -> Server {
    Server {
        standing: Arc::new(Mutex::new(standing.into_iter().collect())),
        ..self::lonely(lonely)
    }
}

fn get(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::get("http://h/mcp?k=v").header("accept", "text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).expect("valid")
}

fn post(uri: &str, message: &Value) -> Request<Body> {
    Request::post(uri)
        .header("content-type", "application/json")
        .body(Body::full(message.to_string()))
        .expect("valid")
}

fn request(id: u32, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method})
}

impl Rig {
    /// How many GETs there were in a session.
    fn gets(&self) -> usize {
        let seen = self.server.seen().into_iter();
        let gets = seen.filter(|s| s.method == Method::GET && !s.session.is_empty());
        gets.count()
    }

    async fn send(&self, request: Request<Body>) -> std::result::Result<Response<Body>, BoxError> {
        self.stack.clone().oneshot(request).await
    }

    async fn open(&self) -> Client {
        let response = self.send(get(&[])).await.expect("a channel");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut client = Client {
            stack: self.stack.clone(),
            body: response.into_body(),
            reader: crate::mcp::events::EventReader::new(1 << 20),
            events: Default::default(),
            endpoint: String::new(),
        };
        let first = client.event().await.expect("the endpoint");
        assert_eq!(first.0, "endpoint");
        client.endpoint = format!("http://h{}", first.1);
        client
    }
}

impl Client {
    async fn event(&mut self) -> Option<(String, String)> {
        while self.events.is_empty() {
            let data = self.body.frame().await?.ok()?.into_data().expect("data");
            let events = &mut self.events;
            self.reader
                .feed(&data, |e| events.push_back(e))
                .expect("short");
        }
        let event = self.events.pop_front()?;
        Some((
            event.name.into(),
            String::from_utf8(event.data.to_vec()).expect("text"),
        ))
    }

    async fn message(&mut self) -> Value {
        let (name, data) = self.event().await.expect("a message");
        assert_eq!(name, "message");
        serde_json::from_str(&data).expect("JSON")
    }

    async fn post(&self, message: Value) -> StatusCode {
        let sent = self
            .stack
            .clone()
            .oneshot(post(&self.endpoint, &message))
            .await;
        sent.expect("an answer").status()
    }

    async fn greet(&mut self) {
        assert_eq!(self.post(request(0, "initialize")).await, 202);
        assert_eq!(
            self.message().await["result"]["protocolVersion"],
            "2024-11-05"
        );
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.post(ready).await, 202);
    }
}
