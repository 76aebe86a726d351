use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    attempt::Unresumable, exchange::GiveUp, mcp::headers::SESSION_ID, upstream::http::Exact,
};

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
            (Kind::Old | Kind::Mute | Kind::Slow | Kind::Broken, Method::GET, None) => {
                Ok(self.open())
            }
            (Kind::Old | Kind::Slow | Kind::Broken, Method::POST, Some("/messages?s=1")) => {
                if body["method"] == "404" {
                    return Ok(status(404));
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
    // What comes first is a GET: it is looked into for a moment. That nothing comes says nothing.
    for wait in [2, 2] {
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
async fn a_stream_that_says_nothing_or_breaks_shows_no_transport() {
    for kind in [Kind::Slow, Kind::Broken] {
        let server = server(kind);
        let upstream = upstream(&server, |_| {});
        let get = request(Method::GET, None, &Value::Null);
        let looked = upstream.clone().oneshot(get).await;
        assert_eq!(looked.is_ok(), kind == Kind::Slow, "what broke is told");
        begin(&upstream).await;
    }
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
    let gone = post(&upstream, Some(&id), &message(1, "ping")).await;
    assert_eq!(gone.expect("the server's word").status(), 404);

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
async fn a_server_that_was_upgraded_is_found_out_again() {
    let old = server(Kind::Old);
    let upstream = upstream(&old, |_| {});
    begin(&upstream).await;
    old.now(Kind::Streamable405);
    let refused = post(&upstream, None, &message(0, "initialize")).await;
    let status = StatusCode::METHOD_NOT_ALLOWED;
    assert_eq!(refusal(refused), SseError::NoStream { status });
    let answer = post(&upstream, None, &message(0, "initialize")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
}

#[tokio::test(start_paused = true)]
async fn handshakes_on_their_way_count_as_sessions() {
    let server = server(Kind::Mute);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.max_sessions = NonZeroUsize::MIN;
    });
    let hello = message(0, "initialize");
    let greet = async || refusal(post(&upstream, None, &hello).await);
    let (first, second) = tokio::join!(greet(), greet());
    let limit = Duration::from_secs(30);
    assert_eq!(first, SseError::NoEndpoint { limit });
    assert!(matches!(second, SseError::Full { limit: 1, .. }));
    // What was in vain has given its place back.
    assert_eq!(greet().await, SseError::NoEndpoint { limit });
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_overtakes_its_202_does_not_cost_the_connection() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let begun = Instant::now();
    let answer = post(&upstream, Some(&id), &message(1, "late 202")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(server.taken.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.taken.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_sent_in_part_is_not_said_to_be_unsent() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let batch = json!([message(1, "hang"), message(2, "404")]);
    let torn = post(&upstream, Some(&id), &batch).await;
    assert_eq!(refusal(torn), SseError::Gone { sent: true });
    let id = begin(&upstream).await;
    let lost = post(&upstream, Some(&id), &message(3, "404")).await;
    assert_eq!(lost.expect("the server's word").status(), 404);
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanished_in_a_call_keeps_no_session() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| {
        s.transport = Transport::Sse;
        s.idle = Duration::from_secs(60);
    });
    let id = begin(&upstream).await;
    let response = post(&upstream, Some(&id), &message(1, "hang")).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(upstream.sessions(), 1, "somebody waits");
    drop(response);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_reader_left_behind_comes_on_the_next_stream() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let open = async || {
        let get = request(Method::GET, Some(&id), &Value::Null);
        let response = upstream.clone().oneshot(get).await.expect("a stream");
        assert!(response.extensions().get::<Unresumable>().is_some());
        response
    };
    let left = open().await;
    for n in 0..3 {
        server.say(&json!({"jsonrpc": "2.0", "method": "tick", "params": {"n": n}}));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut body = left.into_body();
    for expected in [":\n\n", "\"n\":0"] {
        let frame = body.frame().await.expect("a frame").expect("no error");
        let data = frame.into_data().expect("data");
        assert!(
            data.windows(expected.len())
                .any(|w| w == expected.as_bytes())
        );
    }
    drop(body);
    let again = open().await;
    upstream.close();
    let all = text(again).await;
    let at = |n: u32| all.find(&format!("\"n\":{n}"));
    assert!(at(0).is_none() && at(1) < at(2) && at(1).is_some(), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_who_takes_json_alone_is_answered_with_an_array() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |s| s.transport = Transport::Sse);
    let id = begin(&upstream).await;
    let batch = json!([message(1, "ping"), message(2, "bad")]);
    let mut request = request(Method::POST, Some(&id), &batch);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::ACCEPT, json);
    let response = upstream.clone().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let all: Value = serde_json::from_str(&text(response).await).expect("JSON");
    let ids: Vec<_> = all
        .as_array()
        .expect("an array")
        .iter()
        .map(|a| &a["id"])
        .collect();
    assert_eq!(ids, [1, 2]);
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
