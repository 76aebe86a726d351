use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{exchange::GiveUp, mcp::headers::SESSION_ID, upstream::http::Exact};

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A server, and what came to it.
#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<(Method, String, Value)>>>,
    gets: Arc<AtomicUsize>,
    /// The streams, the newest last: events as they go out.
    streams: Arc<Mutex<Vec<mpsc::Sender<String>>>>,
    kind: Kind,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Kind {
    #[default]
    Old,
    /// It has a stream for a GET without a session.
    Streamable,
    /// It has nothing for anybody.
    Nothing,
    /// It never says where to post.
    Mute,
}

impl Server {
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
        match (self.kind, method, exact.as_deref()) {
            (Kind::Old | Kind::Mute, Method::GET, None) => Ok(self.open()),
            (Kind::Old, Method::POST, Some("/messages?s=1")) => {
                self.react(&body);
                Ok(status(202))
            }
            (Kind::Streamable, Method::GET, None) => {
                let silence = stream::pending::<Result<Frame<Bytes>, BoxError>>();
                Ok(events(Body::new(StreamBody::new(silence))))
            }
            (Kind::Streamable, Method::POST, None) => Ok(status(200)),
            _ => Ok(status(405)),
        }
    }

    fn open(&self) -> Response<Body> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let (send, messages) = mpsc::channel(64);
        if self.kind == Kind::Old {
            let endpoint = "event: endpoint\ndata: /messages?s=1\n\n";
            send.try_send(endpoint.to_owned()).expect("open");
        }
        self.streams.lock().expect("not poisoned").push(send);
        let frames = stream::unfold(messages, async |mut messages| {
            Some((messages.recv().await?, messages))
        });
        let frames = frames.map(|event| Ok::<_, BoxError>(Frame::data(Bytes::from(event))));
        events(Body::new(StreamBody::new(frames)))
    }

    fn react(&self, message: &Value) {
        let id = &message["id"];
        match message["method"].as_str().unwrap_or_default() {
            "hang" | "notifications/initialized" | "notifications/cancelled" => {}
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
    Server {
        kind,
        ..Server::default()
    }
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

#[tokio::test(start_paused = true)]
async fn an_old_server_is_found_out_once_and_remembered() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |_| {});
    let first = begin(&upstream).await;
    let second = begin(&upstream).await;
    assert_ne!(first, second);
    assert_eq!(
        (upstream.sessions(), server.gets.load(Ordering::SeqCst)),
        (2, 2)
    );
    let asked = |seen: &[(Method, String, Value)]| {
        let plain = seen
            .iter()
            .filter(|(m, uri, _)| m == Method::POST && !uri.contains("messages"));
        plain.count()
    };
    assert_eq!(asked(&server.seen()), 1, "the second time it is known");
    tokio::time::sleep(Duration::from_secs(301)).await;
    begin(&upstream).await;
    assert_eq!(asked(&server.seen()), 2, "what is old is looked at again");
    assert!(
        post(&upstream, Some(&first), &message(1, "ping"))
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_streamable_server_gets_everything_as_it_is() {
    let server = server(Kind::Streamable);
    let upstream = upstream(&server, |_| {});
    // What comes first is a GET: it is looked into for a moment, once.
    for wait in [2, 0] {
        let begun = Instant::now();
        let get = request(Method::GET, None, &Value::Null);
        let response = upstream.clone().oneshot(get).await.expect("a stream");
        assert_eq!(response.status(), 200);
        assert_eq!(begun.elapsed(), Duration::from_secs(wait));
    }
    let answer = post(&upstream, None, &message(0, "initialize")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_neither_kind_has_its_own_word() {
    let server = server(Kind::Nothing);
    let upstream = upstream(&server, |_| {});
    let answer = post(&upstream, None, &message(0, "initialize")).await;
    assert_eq!(answer.expect("an answer").status(), 405);
    assert_eq!(server.seen().len(), 2, "both were tried");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_an_old_server_is_no_stream_for_everybody() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |_| {});
    let get = request(Method::GET, None, &Value::Null);
    let refused = upstream.clone().oneshot(get).await;
    assert_eq!(refusal(refused), SseError::SessionRequired);
    begin(&upstream).await;
    let posts = server.seen();
    assert!(
        posts
            .iter()
            .all(|(m, uri, _)| m == Method::GET || uri == "/messages?s=1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_becomes_a_stream_and_an_answer_first_is_json() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let begun = Instant::now();
    let waiting = post(&upstream, Some(&id), &message(1, "hang")).await;
    let waiting = waiting.expect("a head");
    assert_eq!(begun.elapsed(), Duration::from_secs(15));
    server.say(&json!({"jsonrpc": "2.0", "id": 1, "result": {"late": true}}));
    let all = text(waiting).await;
    assert!(all.starts_with(":\n\n") && all.contains("late"), "{all}");
    let plain = post(&upstream, Some(&id), &message(2, "bad"))
        .await
        .expect("an answer");
    assert_eq!(plain.headers()[header::CONTENT_TYPE], "application/json");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_delete_with_its_stream_and_when_it_is_idle() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.idle = Duration::from_secs(60);
    });
    let id = begin(&upstream).await;
    let delete = request(Method::DELETE, Some(&id), &Value::Null);
    assert_eq!(
        upstream
            .clone()
            .oneshot(delete)
            .await
            .expect("an answer")
            .status(),
        200
    );
    assert_eq!(
        refusal(post(&upstream, Some(&id), &message(1, "ping")).await),
        SseError::SessionGone
    );

    let id = begin(&upstream).await;
    let hang = message(1, "hang");
    let (ended, ()) = tokio::join!(post(&upstream, Some(&id), &hang), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.streams.lock().expect("not poisoned").clear();
    });
    assert_eq!(refusal(ended), SseError::Gone { sent: true });
    tokio::task::yield_now().await;
    assert_eq!(upstream.sessions(), 0);

    let id = begin(&upstream).await;
    let get = request(Method::GET, Some(&id), &Value::Null);
    let stream = upstream.clone().oneshot(get).await.expect("a stream");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(upstream.sessions(), 1, "somebody reads");
    drop(stream);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_session_is_left_of_an_initialize_that_failed() {
    let refused = server(Kind::Old);
    let upstream_of = |server: &Server| upstream(server, |s| s.transport = Transport::Sse);
    let upstream = upstream_of(&refused);
    let mut refuse = message(0, "initialize");
    refuse["params"]["refuse"] = json!(true);
    let answer = post(&upstream, None, &refuse).await.expect("an answer");
    assert!(!answer.headers().contains_key(SESSION_ID));
    assert_eq!(upstream.sessions(), 0);

    let mute = upstream_of(&server(Kind::Mute));
    let limit = Duration::from_secs(30);
    assert_eq!(
        refusal(post(&mute, None, &message(0, "initialize")).await),
        SseError::NoEndpoint { limit }
    );
}

#[tokio::test(start_paused = true)]
async fn going_away_is_no_cancel_but_giving_up_is() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let cancelled = |server: &Server| {
        let seen = server.seen().into_iter().map(|(_, _, body)| body);
        let mut seen = seen.filter(|b| b["method"] == "notifications/cancelled");
        seen.next().map(|b| b["params"]["requestId"].clone())
    };
    for (call, why) in [(1, None), (2, Some(GiveUp::Timeout))] {
        let request = request(Method::POST, Some(&id), &message(call, "hang"));
        let exchange = Exchange::get(&request).expect("one").clone();
        let response = upstream.clone().oneshot(request).await.expect("a head");
        if let Some(why) = why {
            exchange.give_up(why);
        }
        drop(response);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cancelled(&server), why.map(|_| json!(2)));
    }
    assert_eq!(upstream.pending(), 1, "the first goes on");
}

#[tokio::test(start_paused = true)]
async fn modern_requests_and_those_without_a_session_are_refused() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.max_sessions = NonZeroUsize::MIN;
    });
    let mut modern = message(1, "tools/list");
    modern["params"] = json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }});
    assert_eq!(
        refusal(post(&upstream, None, &modern).await),
        SseError::LegacyServer
    );
    assert_eq!(
        refusal(post(&upstream, None, &message(1, "ping")).await),
        SseError::SessionRequired
    );
    begin(&upstream).await;
    let full = refusal(post(&upstream, None, &message(0, "initialize")).await);
    assert!(matches!(full, SseError::Full { limit: 1, .. }));
    upstream.close();
    begin(&upstream).await;
}
