mod again;
mod batches;
mod pauses;
mod streams;

use std::{sync::Mutex, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header, response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    error::find,
    mcp::{CallFacts, headers::HeaderMismatch},
    rescue::RescueLayer,
};

type Act = Box<dyn Fn(Option<&mut Message>, &mut HeaderMap) -> Decision + Send + Sync>;

/// Does the same with whatever it is shown, and writes down what that was.
struct Script {
    interest: Interest,
    act: Act,
    seen: Arc<Mutex<Vec<String>>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    fn note(&self, hook: &str, message: Option<&Message>) {
        let text = message.map(|m| String::from_utf8_lossy(m.bytes()).into_owned());
        let note = format!("{hook} {}", text.unwrap_or_default());
        self.seen.lock().expect("not poisoned").push(note);
    }
}

impl Interceptor for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn wants(&self, _: &Asked<'_>) -> Interest {
        self.interest
    }

    fn request<'a>(
        &'a self,
        _: &'a Context,
        headers: &'a mut HeaderMap,
        message: Option<&'a mut Message>,
    ) -> Hook<'a> {
        self.note("request", message.as_deref());
        Hook::now((self.act)(message, headers))
    }

    fn response<'a>(&'a self, _: &'a Context, head: &'a mut response::Parts) -> Hook<'a> {
        self.note("head", None);
        Hook::now((self.act)(None, &mut head.headers))
    }

    fn message<'a>(&'a self, _: &'a Context, message: &'a mut Message) -> Hook<'a> {
        self.note("message", Some(message));
        Hook::later(async move { (self.act)(Some(message), &mut HeaderMap::new()) })
    }
}

/// What a script was shown.
type Seen = Arc<Mutex<Vec<String>>>;

/// A layer with one script, and what that is shown.
fn script(
    interest: Interest,
    act: impl Fn(Option<&mut Message>, &mut HeaderMap) -> Decision + Send + Sync + 'static,
) -> (InterceptLayer, Seen) {
    script_with(InterceptSettings::default(), interest, act)
}

/// The same with these settings.
fn script_with(
    settings: InterceptSettings,
    interest: Interest,
    act: impl Fn(Option<&mut Message>, &mut HeaderMap) -> Decision + Send + Sync + 'static,
) -> (InterceptLayer, Seen) {
    let seen = Seen::default();
    let script = Script {
        interest,
        act: Box::new(act),
        seen: seen.clone(),
    };
    (InterceptLayer::new(settings, vec![Arc::new(script)]), seen)
}

const REQUEST: Interest = Interest {
    request: true,
    body: false,
    head: false,
    messages: false,
};
const MESSAGES: Interest = Interest {
    request: false,
    body: false,
    head: false,
    messages: true,
};

fn set(pointer: &str, value: &str) -> Edit {
    Edit::Set(pointer.parse().expect("a pointer"), value.into())
}

fn edits(message: Option<&mut Message>, edit: Edit) -> Decision {
    let done = message.expect("a message").apply(&[edit]);
    done.map_or_else(
        |e| Decision::Unreadable(e.to_string()),
        |()| Decision::Continue,
    )
}

fn block() -> Decision {
    Decision::Block(Block {
        message: "not here".to_owned(),
    })
}

const CALL: &str = r#"{"jsonrpc":"2.0", "id":"seven","method":"tools/call","params":{"name":"echo","arguments":{"n":1.50, "t":"x"}}}"#;

/// A request of MCP that was inspected.
fn call(text: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::new(Body::full(text.to_owned()));
    *request.method_mut() = Method::POST;
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, value.parse().expect("a value"));
    }
    let body = Bytes::from(text.to_owned());
    let facts = CallFacts::read(request.method(), request.headers(), &body).expect("a call");
    Exchange::of(&mut request).set_call(facts);
    request
}

/// What the inner service was given.
type Given = Arc<Mutex<Vec<(HeaderMap, Bytes, Option<CallFacts>)>>>;

/// A server that answers with these frames, in this media type.
fn server(
    media: &'static str,
    frames: Vec<&'static str>,
    given: &Given,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ 'static {
    let given = given.clone();
    service_fn(move |mut request: Request<Body>| {
        let (given, frames) = (given.clone(), frames.clone());
        async move {
            let facts = Exchange::of(&mut request).call().cloned();
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            given
                .lock()
                .expect("not poisoned")
                .push((parts.headers, bytes, facts));
            let frames = frames
                .into_iter()
                .map(|f| Ok::<_, BoxError>(Frame::data(Bytes::from(f))));
            let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
            let mut response = Response::new(Body::new(body));
            let media = HeaderValue::from_static(media);
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            Ok(response)
        }
    })
}

/// Sends a request through the layer with rescue above it; the status and the body.
async fn send(
    layer: &InterceptLayer,
    request: Request<Body>,
    media: &'static str,
    frames: Vec<&'static str>,
) -> (StatusCode, String, Given) {
    let given = Given::default();
    let service = RescueLayer::new().layer(layer.layer(server(media, frames, &given)));
    let response = service.oneshot(request).await.expect("rescued");
    let status = response.status();
    let length = response.headers().get(header::CONTENT_LENGTH).cloned();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    if let Some(length) = length {
        assert_eq!(length, body.len().to_string());
    }
    (status, String::from_utf8_lossy(&body).into_owned(), given)
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":"seven","result":{"content":[],"n":2.0}}"#;

#[tokio::test]
async fn a_changed_call_goes_on_as_one_piece_of_truth() {
    let (layer, _) = script(REQUEST, |message, _| {
        edits(message, set("/params/name", "\"écho\""))
    });
    let text = CALL.replace(
        r#""t":"x"}"#,
        r#""t":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#,
    );
    let request = call(
        &text,
        &[
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
            ("content-length", "1"),
        ],
    );
    let exchange = Exchange::get(&request).expect("an exchange").clone();
    let (_, body, given) = send(&layer, request, JSON, vec![ANSWER]).await;
    assert_eq!(body, ANSWER);
    let given = given.lock().expect("not poisoned");
    let (headers, body, facts) = &given[0];
    assert_eq!(body, &text.replace("\"echo\"", "\"écho\""));
    assert_eq!(headers["content-length"], body.len().to_string());
    assert_eq!(headers["mcp-name"], "=?base64?w6ljaG8=?=");
    let facts = facts.as_ref().expect("facts");
    assert_eq!(facts.request().and_then(|r| r.tool()), Some("écho"));
    // Places are those of the new body, also behind the change.
    let (id, span) = facts.request().and_then(|r| r.id.clone()).expect("an id");
    assert_eq!(&body[span], id.as_json().as_bytes());
    let asked = exchange.asked().and_then(|call| call.request());
    assert_eq!(
        asked.and_then(|r| r.tool()),
        Some("echo"),
        "as the client asked"
    );
}

#[tokio::test]
async fn a_blocked_call_is_a_json_rpc_error_and_is_not_sent() {
    let (layer, _) = script(REQUEST, |_, _| block());
    let (status, body, given) = send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status.as_u16(), &answer["id"], &answer["error"]["code"]),
        (200, &json!("seven"), &json!(403))
    );
    assert_eq!(answer["error"]["message"], "not here");
    assert_eq!(answer["error"]["data"]["kind"], "blocked");
    assert_eq!(answer["error"]["data"]["outcome"], "rejected");
    assert!(given.lock().expect("not poisoned").is_empty());
    // On plain HTTP it is a status.
    let (status, body, _) = send(&layer, Request::new(Body::full("x")), JSON, vec![]).await;
    assert_eq!(status, 403);
    assert!(body.contains("not here"), "{body}");
}

#[tokio::test]
async fn a_json_answer_is_changed_replaced_or_refused() {
    let (layer, _) = script(MESSAGES, |message, _| edits(message, set("/result/n", "3")));
    let (_, body, given) = send(
        &layer,
        call(CALL, &[("accept-encoding", "gzip")]),
        JSON,
        vec![&ANSWER[..9], &ANSWER[9..]],
    )
    .await;
    assert_eq!(body, ANSWER.replace("2.0}", "3}"));
    assert_eq!(
        given.lock().expect("not poisoned")[0].0["accept-encoding"],
        "identity"
    );
    let (layer, _) = script(MESSAGES, |_, _| block());
    let (status, body, _) = send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    assert_eq!(status, 200);
    assert!(
        body.contains(r#""id":"seven","error":{"code":403"#)
            && body.contains(r#""outcome":"unknown""#),
        "{body}"
    );
    let (layer, _) = script(MESSAGES, |_, _| {
        Decision::Mock(Mock::Result(json!({"mine": 1})))
    });
    let (_, body, _) = send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    assert_eq!(
        body,
        r#"{"jsonrpc":"2.0","id":"seven","result":{"mine":1}}"#
    );
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_never_passes() {
    let (layer, seen) = script(Interest::ALL, |message, _| match message {
        Some(message) => message.value().map_or_else(
            |e| Decision::Unreadable(e.to_string()),
            |_| Decision::Continue,
        ),
        None => Decision::Continue,
    });
    let twice = r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"x":2}}}"#;
    let (status, _, given) = send(&layer, call(twice, &[]), JSON, vec![ANSWER]).await;
    assert_eq!(status, 400);
    assert!(given.lock().expect("not poisoned").is_empty());
    for header in [
        ("mcp-name", "other"),
        ("mcp-name", "=?base64?b3RoZXI=?="),
        ("mcp-method", "ping"),
    ] {
        let service = layer.layer(server(JSON, vec![ANSWER], &given));
        let error = service
            .oneshot(call(CALL, &[header]))
            .await
            .expect_err("refused");
        assert!(find::<HeaderMismatch>(&*error).is_some(), "{header:?}");
    }
    assert_eq!(
        seen.lock().expect("not poisoned").len(),
        1,
        "no rule was asked about those"
    );
    for answer in [r#"{"id":"seven","result":{"a":1,"a":2}}"#, "{", "\u{1}"] {
        for (media, text) in [
            (JSON, answer.to_owned()),
            (EVENTS, format!("data: {answer}\n\n")),
        ] {
            let text: &'static str = Box::leak(text.into_boxed_str());
            let given = Given::default();
            let service = layer.layer(server(media, vec![text], &given));
            let bytes = match service.oneshot(call(CALL, &[])).await {
                Ok(response) => response.into_body().collect().await.map(|b| b.to_bytes()),
                Err(error) => Err(error),
            };
            let told = bytes.map_or_else(
                |e| e.to_string(),
                |b| String::from_utf8_lossy(&b).into_owned(),
            );
            assert!(told.contains("could not be inspected"), "{media} {told}");
        }
    }
}

#[tokio::test]
async fn plain_http_shows_its_head_and_its_body_only_where_asked_for() {
    let (layer, seen) = script(REQUEST, |message, headers| {
        assert!(message.is_none());
        headers.insert("x-new", HeaderValue::from_static("1"));
        Decision::Continue
    });
    let (_, body, given) = send(
        &layer,
        Request::new(Body::full("asked")),
        "text/plain",
        vec!["told"],
    )
    .await;
    assert_eq!(body, "told");
    let first = given.lock().expect("not poisoned")[0].clone();
    assert_eq!(
        (&first.0["x-new"], &first.1[..]),
        (&HeaderValue::from_static("1"), &b"asked"[..])
    );
    assert_eq!(*seen.lock().expect("not poisoned"), ["request "]);
    let (layer, seen) = script(Interest::ALL, |message, _| {
        if let Some(message) = message {
            message.replace("other".to_owned()).expect("it fits");
        }
        Decision::Continue
    });
    let (_, body, given) = send(
        &layer,
        Request::new(Body::full("asked")),
        EVENTS,
        vec!["data: told\n\n"],
    )
    .await;
    assert_eq!(body, "data: other\n\n");
    assert_eq!(given.lock().expect("not poisoned")[0].1, "other");
    assert_eq!(
        *seen.lock().expect("not poisoned"),
        ["request asked", "head ", "message told"]
    );
}

#[tokio::test]
async fn what_nobody_wants_is_not_touched() {
    let (layer, seen) = script(Interest::default(), |_, _| block());
    let mut service = layer.layer(server(JSON, vec![ANSWER], &Given::default()));
    let future = service.call(call(CALL, &[("mcp-name", "other")]));
    assert!(matches!(future.0, State::Passing(_)), "nothing is boxed");
    let response = future.await.expect("an answer");
    assert!(response.into_body().collect().await.is_ok());
    assert!(seen.lock().expect("not poisoned").is_empty());
    assert!(
        InterceptLayer::new(InterceptSettings::default(), Vec::new())
            .chain
            .is_none()
    );
}

#[tokio::test]
async fn interceptors_are_asked_in_their_order_until_one_ends_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let link = |block_it: bool| -> Arc<dyn Interceptor> {
        Arc::new(Script {
            interest: REQUEST,
            act: Box::new(move |_, _| {
                if block_it {
                    block()
                } else {
                    Decision::Continue
                }
            }),
            seen: seen.clone(),
        })
    };
    let layer = InterceptLayer::new(
        InterceptSettings::default(),
        vec![link(false), link(true), link(false)],
    );
    send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    assert_eq!(seen.lock().expect("not poisoned").len(), 2);
}

proptest::proptest! {
    #[test]
    fn what_is_shown_and_not_changed_passes_byte_for_byte(
        frames in proptest::collection::vec("(id: [0-9]|data: \\{\"method\":\"x\"\\}|event: ping|: x|retry: 5|\n|\r\n|\r|data: \\{\"id\":1,\"result\":\\{ \\}\\}){0,6}", 0..5),
        pad in "[ \n]{0,3}",
    ) {
        let text: &'static str = Box::leak(format!("{pad}{{\"id\":1,{pad}\"method\":\"x\",\"params\":{{\"n\":1.0e2}}}}").into_boxed_str());
        let seen = Arc::default();
        let script = Script { interest: Interest::ALL, act: Box::new(|_, _| Decision::Continue), seen };
        let settings = InterceptSettings { lenient: true, ..InterceptSettings::default() };
        let layer = InterceptLayer::new(settings, vec![Arc::new(script)]);
        let frames: Vec<&'static str> = frames.into_iter().map(|f| &*Box::leak(f.into_boxed_str())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (_, body, given) = runtime.block_on(send(&layer, call(text, &[]), EVENTS, frames.clone()));
        proptest::prop_assert_eq!(body, frames.concat());
        proptest::prop_assert_eq!(&given.lock().expect("not poisoned")[0].1, text);
    }
}
