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

#[tokio::test(start_paused = true)]
async fn an_old_client_speaks_streamable_http_inside() {
    let rig = rig(HttpSseSettings::default(), lonely(405));
    let mut client = rig.open().await;
    assert!(
        client
            .endpoint
            .starts_with("http://h/mcp?k=v&ziggurat-channel=")
    );
    client.greet().await;
    assert_eq!(client.post(request(1, "progress")).await, 202);
    assert_eq!(client.message().await["method"], "notifications/progress");
    assert_eq!(
        client.message().await,
        json!({"jsonrpc": "2.0", "id": 1, "result": {"done": true}})
    );
    let seen: Vec<_> = rig
        .server
        .seen()
        .into_iter()
        .filter(|s| s.method == Method::POST)
        .collect();
    assert_eq!((&*seen[0].session, &*seen[0].version), ("", ""));
    for later in &seen[1..] {
        assert_eq!((&*later.session, &*later.version), ("s1", "2024-11-05"));
        assert_eq!(later.uri, "http://h/mcp?k=v", "the token stays here");
    }
}

#[tokio::test(start_paused = true)]
async fn the_sessions_stream_comes_over_the_channel_and_counts_once() {
    let (send, messages) = mpsc::channel(64);
    let server = standing(400, [Standing::Open(messages)]);
    let rig = rig(HttpSseSettings::default(), server);
    let mut client = rig.open().await;
    client.greet().await;
    send.try_send(json!({"jsonrpc": "2.0", "id": 9, "method": "roots/list"}).to_string())
        .expect("open");
    assert_eq!(client.message().await["method"], "roots/list");
    let answer = json!({"jsonrpc": "2.0", "id": 9, "result": {"roots": []}});
    assert_eq!(client.post(answer.clone()).await, 202);
    assert_eq!(rig.server.seen().last().expect("seen").body, answer);
    // Two may be open: this one, with the stream inside, leaves room for one more.
    let _second = rig.open().await;
    let third = rig.send(get(&[])).await.expect_err("over the cap");
    assert!(crate::error::find::<Shed>(&*third).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_call_is_over_with_its_answer_whatever_becomes_of_its_stream() {
    let settings = HttpSseSettings {
        calls: NonZeroUsize::MIN,
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    for (id, method) in [
        (1, "break after the answer"),
        (2, "stay after the answer"),
        (3, "ping"),
    ] {
        assert_eq!(client.post(request(id, method)).await, 202);
        let done = json!({"jsonrpc": "2.0", "id": id, "result": {}});
        assert_eq!(client.message().await, done);
        sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_sessions_stream_is_opened_again_whatever_becomes_of_it() {
    let (send, messages) = mpsc::channel(64);
    let mut standing: VecDeque<_> = (0..10).map(|_| Standing::Breaks).collect();
    standing.extend((0..10).map(|_| Standing::Quiet(Duration::from_secs(60))));
    standing.extend((0..20).map(|_| Standing::Status(503)));
    standing.extend([429, 400].map(Standing::Status));
    standing.push_back(Standing::Open(messages));
    let rig = rig(HttpSseSettings::default(), self::standing(405, standing));
    let mut client = rig.open().await;
    client.greet().await;
    for _ in 0..10 {
        assert_eq!(client.message().await["method"], "tick");
    }
    send.try_send(json!({"jsonrpc": "2.0", "id": 9, "method": "roots/list"}).to_string())
        .expect("open");
    assert_eq!(client.message().await["method"], "roots/list");
    let seen = rig.server.seen().into_iter();
    let gets: Vec<_> = seen
        .filter(|s| s.method == Method::GET && !s.session.is_empty())
        .map(|s| s.last_event)
        .collect();
    // A server that will not go on from there is asked for a stream from now on.
    assert_eq!(gets[40..], ["7", "7", ""]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_replaced_is_ended_with_its_stream() {
    let (first, messages) = mpsc::channel(64);
    let (second, others) = mpsc::channel(64);
    let server = standing(405, [messages, others].map(Standing::Open));
    let rig = rig(HttpSseSettings::default(), server);
    let mut client = rig.open().await;
    client.greet().await;
    sleep(Duration::from_secs(1)).await;
    client.greet().await;
    sleep(Duration::from_secs(1)).await;
    assert!(first.is_closed() && !second.is_closed());
    drop(client);
    rig.channels.close().await;
    let ended = |s: &Seen| s.method == Method::DELETE;
    let seen = rig.server.seen().into_iter().filter(ended);
    assert_eq!(seen.map(|s| s.session).collect::<Vec<_>>(), ["s1", "s2"]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_takes_its_session_and_its_calls_with_it() {
    let rig = rig(HttpSseSettings::default(), lonely(404));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "hang")).await, 202);
    assert_eq!(rig.channels.len(), 1);
    let gone = client.endpoint.clone();
    drop(client);
    assert!(rig.channels.is_empty());
    rig.channels.close().await;
    let last = rig.server.seen().pop().expect("seen");
    assert_eq!((last.method, &*last.session), (Method::DELETE, "s1"));
    let refused = rig
        .send(post(&gone, &request(2, "ping")))
        .await
        .expect_err("gone");
    assert_eq!(crate::error::find(&*refused), Some(&NoChannel));
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_an_error_on_the_stream() {
    let rig = rig(HttpSseSettings::default(), lonely(406));
    let mut client = rig.open().await;
    client.greet().await;
    for (id, method, kind) in [
        (1, "fail", "overloaded"),
        (2, "refuse", "upstream_status"),
        (3, "silent", "upstream_broken"),
    ] {
        assert_eq!(client.post(request(id, method)).await, 202);
        let message = client.message().await;
        assert_eq!(message["id"], id);
        assert_eq!(message["error"]["data"]["kind"], kind, "{message}");
    }
    // The end of the session is the end of the stream.
    assert_eq!(client.post(request(4, "lost")).await, 202);
    assert_eq!(client.message().await["error"]["code"], 404);
    assert_eq!(client.event().await, None);
    assert!(rig.channels.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_cancelled_has_no_answer() {
    let rig = observed(lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "ends later")).await, 202);
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1},
    });
    assert_eq!(client.post(cancel).await, 202);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(client.post(request(2, "ping")).await, 202);
    assert_eq!(client.message().await["id"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_comes_too_late_is_ended() {
    let (channels, told) = (Channels::default(), Arc::new(Mutex::new(Vec::new())));
    let opened = channels.open(&Exchange::new("x"), &HttpSseSettings::default());
    let (token, channel) = opened.expect("a channel");
    let notes = told.clone();
    channel.on_close(Leave {
        channels: channels.clone(),
        token,
        farewell: Box::new(move |session| {
            notes.lock().expect("not poisoned").push(session.id);
            Box::pin(std::future::ready(()))
        }),
    });
    let id = HeaderValue::from_static;
    let session = |name| self::channel::Session {
        id: Some(id(name)),
        version: None,
    };
    channel.begin_session(session("s1"));
    // The same again is no other.
    channel.begin_session(session("s1"));
    channel.close();
    channel.begin_session(session("s2"));
    let told = told.lock().expect("not poisoned");
    assert_eq!(*told, ["s1", "s2"].map(|name| Some(id(name))));
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_bound_fail_and_a_slow_reader_loses_its_stream() {
    let settings = HttpSseSettings {
        calls: NonZeroUsize::MIN,
        buffer: 1500,
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "big")).await, 202);
    assert_eq!(client.message().await["id"], 1);
    assert_eq!(client.post(request(2, "hang")).await, 202);
    let mut over = post(&client.endpoint, &request(3, "ping"));
    let exchange = Exchange::of(&mut over);
    assert_eq!(rig.send(over).await.expect("an answer").status(), 202);
    assert_eq!(
        client.message().await["error"]["data"]["kind"],
        "overloaded"
    );
    // It never got an exchange of its own, so this one accounts for it.
    assert!(!exchange.is_handed_over());
    assert_eq!(exchange.fault(), Some("overloaded"));

    let mut slow = rig.open().await;
    for id in 1..3 {
        assert_eq!(slow.post(request(id, "big")).await, 202);
        sleep(Duration::from_millis(1)).await;
    }
    let end = slow
        .body
        .frame()
        .await
        .expect("an end")
        .expect_err("an error");
    assert_eq!(crate::error::find(&*end), Some(&SlowReader { limit: 1500 }));
    assert_eq!(rig.channels.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_channel_ends_and_one_with_a_call_does_not() {
    let settings = HttpSseSettings {
        idle: Duration::from_secs(60),
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let begun = tokio::time::Instant::now();
    let mut quiet = rig.open().await;
    assert_eq!(quiet.event().await, None);
    assert_eq!(begun.elapsed(), Duration::from_secs(60));
    let mut busy = rig.open().await;
    assert_eq!(busy.post(request(1, "hang")).await, 202);
    assert!(
        tokio::time::timeout(Duration::from_secs(3600), busy.event())
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_calls_of_a_channel() {
    let draining = CancellationToken::new();
    let settings = HttpSseSettings {
        draining: draining.clone(),
        calls: NonZeroUsize::MIN,
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let (mut busy, mut idle) = (rig.open().await, rig.open().await);
    assert_eq!(busy.post(request(1, "progress")).await, 202);
    draining.cancel();
    assert_eq!(idle.event().await, None);
    assert_eq!(busy.message().await["method"], "notifications/progress");
    assert_eq!(busy.message().await["id"], 1);
    assert_eq!(busy.event().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_upstream_is_left_to_it() {
    let rig = rig(HttpSseSettings::default(), lonely(200));
    assert!(
        rig.send(get(&[]))
            .await
            .expect("an answer")
            .body()
            .is_end_stream()
    );
    assert!(rig.channels.is_empty());
    let rig = self::rig(
        HttpSseSettings {
            serve: Serve::Always,
            ..HttpSseSettings::default()
        },
        lonely(200),
    );
    let _client = rig.open().await;
    assert!(rig.server.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_old_clients_are_concerned() {
    for mode in [Serve::Auto, Serve::Always, Serve::Off] {
        let rig = rig(
            HttpSseSettings {
                serve: mode,
                ..HttpSseSettings::default()
            },
            lonely(405),
        );
        let mut cases = vec![
            &[("mcp-session-id", "x")][..],
            &[("mcp-protocol-version", "2025-03-26")],
            &[("last-event-id", "x")],
        ];
        if mode == Serve::Off {
            cases.push(&[]);
        }
        for headers in cases {
            let response = rig.send(get(headers)).await.expect("an answer");
            assert_eq!(response.status(), 405, "{mode:?} {headers:?}");
        }
        assert!(rig.channels.is_empty());
        let answer = rig.send(post("http://h/mcp", &request(1, "ping"))).await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_good_for_one_route_and_principal() {
    let rig = rig(HttpSseSettings::default(), lonely(405));
    let client = rig.open().await;
    for (route, principal) in [(Some("other"), None), (None, Some("mallory"))] {
        let mut request = post(&client.endpoint, &request(1, "ping"));
        let exchange = Exchange::of(&mut request);
        if let Some(name) = route {
            exchange.set_route(Arc::new(RouteInfo {
                name: name.into(),
                prefix: "/mcp".into(),
                errors: ErrorStyle::Envelope,
            }));
        }
        if let Some(principal) = principal {
            exchange.set_principal(principal.into());
        }
        let refused = rig.send(request).await.expect_err("refused");
        assert_eq!(crate::error::find(&*refused), Some(&NoChannel));
    }
    assert_eq!(client.post(request(1, "ping")).await, 202);
    let guess = format!("http://h/mcp?{PARAMETER}{}", "A".repeat(43));
    assert!(rig.send(post(&guess, &request(1, "ping"))).await.is_err());
}
