use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    attempt::Unresumable,
    deadline::ExpiresAt,
    exchange::GiveUp,
    mcp::headers::SESSION_ID,
    upstream::http::{ConnectTimeout, Exact},
};

mod calls;
mod finding;
mod sessions;

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A server, and what came to it.
#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<(Method, String, Value)>>>,
    gets: Arc<AtomicUsize>,
    /// The streams, the newest last: events as they go out.
    streams: Arc<Mutex<Vec<mpsc::Sender<String>>>>,
    kind: Arc<Mutex<Kind>>,
    /// How many POSTs were answered with 202.
    taken: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Kind {
    #[default]
    Old,
    /// It has a stream for a GET without a session.
    Streamable,
    /// It has none.
    Streamable405,
    /// It has nothing for anybody.
    Nothing,
    /// It never says where to post.
    Mute,
    /// It says so only after three seconds.
    Slow,
    /// Its first stream breaks at once.
    Broken,
    /// It takes no message.
    Deaf,
}

impl Server {
    fn kind(&self) -> Kind {
        *self.kind.lock().expect("not poisoned")
    }

    /// From now on it is of this kind.
    fn now(&self, kind: Kind) {
        *self.kind.lock().expect("not poisoned") = kind;
    }

    fn say(&self, message: &Value) {
        let streams = self.streams.lock().expect("not poisoned");
        let event = format!("event: message\ndata: {message}\n\n");
        streams
            .last()
            .expect("a stream")
            .try_send(event)
            .expect("open");
    }

    fn seen(&self) -> Vec<(Method, String, Value)> {
        self.seen.lock().expect("not poisoned").clone()
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let exact = request.extensions().get::<Exact>().map(|e| e.0.to_string());
        let (method, uri) = (request.method().clone(), request.uri().to_string());
        let body = request.into_body().collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.seen
            .lock()
            .expect("not poisoned")
            .push((method.clone(), uri, body.clone()));
        match (self.kind(), method, exact.as_deref()) {
            (Kind::Broken, Method::GET, None) if self.gets.load(Ordering::SeqCst) == 0 => {
                self.gets.fetch_add(1, Ordering::SeqCst);
                let broken = stream::iter([Err::<Frame<Bytes>, BoxError>("reset".into())]);
                Ok(events(Body::new(StreamBody::new(broken))))
            }
            (
                Kind::Old | Kind::Mute | Kind::Slow | Kind::Broken | Kind::Deaf,
                Method::GET,
                None,
            ) => Ok(self.open()),
            (Kind::Deaf, Method::POST, _) => Ok(status(404)),
            (Kind::Old | Kind::Slow | Kind::Broken, Method::POST, Some("/messages?s=1")) => {
                match body["method"].as_str() {
                    Some("404") => return Ok(status(404)),
                    Some("400") => return Ok(status(400)),
                    Some("unreachable") => return Err(unreachable()),
                    Some("answer, then 500") => {
                        self.say(&json!({"jsonrpc": "2.0", "id": body["id"], "result": {}}));
                        // In this turn it is read from the stream.
                        tokio::task::yield_now().await;
                        return Ok(status(500));
                    }
                    _ => {}
                }
                if body["method"] == "never 202" {
                    return std::future::pending().await;
                }
                self.react(&body);
                if body["method"] == "late 202" {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                self.taken.fetch_add(1, Ordering::SeqCst);
                Ok(status(202))
            }
            (Kind::Streamable, Method::GET, None) => {
                let silence = stream::pending::<Result<Frame<Bytes>, BoxError>>();
                Ok(events(Body::new(StreamBody::new(silence))))
            }
            (Kind::Streamable | Kind::Streamable405, Method::POST, None) => Ok(status(200)),
            _ => Ok(status(405)),
        }
    }

    fn open(&self) -> Response<Body> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let (send, messages) = mpsc::channel(64);
        let endpoint = "event: endpoint\ndata: /messages?s=1\n\n".to_owned();
        match self.kind() {
            Kind::Mute => {}
            Kind::Slow => {
                let send = send.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    let _gone = send.try_send(endpoint);
                });
            }
            _ => send.try_send(endpoint).expect("open"),
        }
        self.streams.lock().expect("not poisoned").push(send);
        let frames = stream::unfold(messages, async |mut messages| {
            Some((messages.recv().await?, messages))
        });
        let frames = frames.map(|event| {
            assert_ne!(event, PANIC, "told to");
            Ok::<_, BoxError>(Frame::data(Bytes::from(event)))
        });
        events(Body::new(StreamBody::new(frames)))
    }

    /// Whoever reads the stream panics.
    fn panic(&self) {
        let streams = self.streams.lock().expect("not poisoned");
        let stream = streams.last().expect("a stream");
        stream.try_send(PANIC.to_owned()).expect("open");
    }

    fn react(&self, message: &Value) {
        let id = &message["id"];
        match message["method"].as_str().unwrap_or_default() {
            "first twice" => {
                let answer = |id: &Value| json!({"jsonrpc": "2.0", "id": id, "result": {}});
                for id in [&json!(1), &json!(1), id] {
                    self.say(&answer(id));
                }
            }
            "hang" | "notifications/initialized" | "notifications/cancelled" => {}
            _ if id.is_null() => {}
            "bad" => self
                .say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "no"}})),
            "initialize" if message["params"]["refuse"] == true => {
                self.say(
                    &json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "no"}}),
                );
            }
            _ => self.say(&json!({"jsonrpc": "2.0", "id": id, "result": {}})),
        }
    }
}

const PANIC: &str = "panic";

/// No connection came about.
fn unreachable() -> BoxError {
    let limit = Duration::from_secs(2);
    ConnectTimeout { limit }.into()
}

fn status(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn events(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn upstream(server: &Server, change: impl FnOnce(&mut SseSettings)) -> SseUpstream<Inner> {
    let server = server.clone();
    let inner = service_fn(move |request| server.clone().answer(request));
    let mut settings = SseSettings::new(Uri::from_static("http://h/sse"));
    change(&mut settings);
    SseUpstream::new(Inner::new(inner), settings)
}

fn server(kind: Kind) -> Server {
    let server = Server::default();
    server.now(kind);
    server
}

fn request(method: Method, session: Option<&str>, message: &Value) -> Request<Body> {
    let body = if message.is_null() {
        Bytes::new()
    } else {
        Bytes::from(message.to_string())
    };
    let mut request = Request::new(Body::full(body.clone()));
    *request.method_mut() = method;
    let headers = request.headers_mut();
    let both = HeaderValue::from_static("application/json, text/event-stream");
    headers.insert(header::ACCEPT, both);
    if let Some(session) = session {
        headers.insert(SESSION_ID, HeaderValue::from_str(session).expect("an id"));
    }
    let facts = CallFacts::read(request.method(), request.headers(), &body).expect("a call");
    Exchange::of(&mut request).set_call(facts);
    request
}

fn message(id: u32, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}})
}

async fn post(
    upstream: &SseUpstream<Inner>,
    session: Option<&str>,
    message: &Value,
) -> Result<Response<SseBody<Body>>, BoxError> {
    let request = request(Method::POST, session, message);
    upstream.clone().oneshot(request).await
}

async fn text(response: Response<SseBody<Body>>) -> String {
    let body = response.into_body().collect().await.expect("no error");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// Begins a session, and says which.
async fn begin(upstream: &SseUpstream<Inner>) -> String {
    let response = post(upstream, None, &message(0, "initialize")).await;
    let response = response.expect("an answer");
    let id = response.headers()[SESSION_ID]
        .to_str()
        .expect("text")
        .to_owned();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(
        text(response).await,
        r#"{"id":0,"jsonrpc":"2.0","result":{}}"#
    );
    id
}

fn refusal<T>(result: Result<T, BoxError>) -> SseError {
    let error = result.err().expect("an error");
    *error.downcast::<SseError>().expect("one of ours")
}
