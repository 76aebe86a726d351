use std::collections::VecDeque;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;
use tower::ServiceExt;

use super::*;
use crate::{
    attempt::Tried,
    error::find,
    exchange::{EndpointInfo, GiveUp},
    limit::{Shed, ToolBusy},
    mcp::{CallFacts, peek::Answer},
    timeout::HeadTimeout,
};

#[cfg(feature = "http")]
mod over_http;

/// What the upstream does with one attempt.
#[derive(Debug, Clone, Copy)]
enum Reply {
    /// Answers with this status, and this `Retry-After`.
    Status(u16, Option<&'static str>),
    /// Answers with this JSON.
    Json(&'static str),
    /// Refuses before anything is sent.
    Unsent,
    /// Has no place for calls of this tool, and there is another endpoint, or none.
    Busy(bool),
    /// The clock of the attempt runs out.
    Silent,
    /// Reads one frame of the body, then breaks off.
    Broken,
    /// Never answers.
    Never,
}

/// One attempt, as the upstream saw it.
#[derive(Debug)]
struct Seen {
    at: Instant,
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: String,
    mark: Option<Mark>,
    tried: Vec<String>,
    gave_up: Option<GiveUp>,
    answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Mark(u8);

/// An upstream with a script; what comes after its end is a 200. Panics when it is called without being ready.
#[derive(Debug)]
struct Upstream {
    script: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    ready: bool,
}

impl Upstream {
    fn new(script: &[Reply]) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            seen: Arc::default(),
            ready: false,
        }
    }

    fn calls(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }
}

impl Clone for Upstream {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            seen: self.seen.clone(),
            ready: false,
        }
    }
}

type Answered = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

impl Service<Request<Body>> for Upstream {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Answered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Answered {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        let reply = self.script.lock().expect("not poisoned").pop_front();
        let reply = reply.unwrap_or(Reply::Status(200, None));
        let seen = self.seen.clone();
        Box::pin(async move {
            let exchange = Exchange::of(&mut request);
            let number = seen.lock().expect("not poisoned").len();
            let mut saw = Seen {
                at: Instant::now(),
                method: request.method().clone(),
                uri: request.uri().to_string(),
                headers: request.headers().clone(),
                body: String::new(),
                mark: request.extensions().get().copied(),
                tried: tried(&request),
                gave_up: exchange.gave_up(),
                answered: exchange.is_answered(),
            };
            exchange.attempt(Arc::new(EndpointInfo {
                upstream: "u".into(),
                endpoint: format!("e{number}").into(),
            }));
            match reply {
                Reply::Unsent => {}
                Reply::Busy(elsewhere) => exchange.set_elsewhere(elsewhere),
                Reply::Broken => {
                    let _one = request.body_mut().frame().await;
                }
                _ => {
                    let body = request.into_body().collect().await?.to_bytes();
                    saw.body = String::from_utf8_lossy(&body).into_owned();
                }
            }
            seen.lock().expect("not poisoned").push(saw);
            answer(reply, &exchange).await
        })
    }
}

fn tried(request: &Request<Body>) -> Vec<String> {
    let tried = request.extensions().get::<Tried>();
    let names = tried.map(|t| t.0.iter().map(ToString::to_string).collect());
    names.unwrap_or_default()
}

async fn answer(reply: Reply, exchange: &Exchange) -> Result<Response<Body>, BoxError> {
    let limit = Duration::from_secs(1);
    match reply {
        Reply::Status(status, after) => {
            // As an observer sees the body of an error.
            exchange.response().saw_answer(Answer::Error(-1));
            let mut response = Response::new(Body::full("x"));
            *response.status_mut() = StatusCode::from_u16(status)?;
            if let Some(after) = after {
                let after = HeaderValue::from_static(after);
                response.headers_mut().insert(header::RETRY_AFTER, after);
            }
            Ok(response)
        }
        Reply::Json(text) => {
            let mut response = Response::new(Body::full(text));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok(response)
        }
        Reply::Unsent => Err(Shed {
            limit: 1,
            what: "calls",
        }
        .into()),
        Reply::Busy(_) => Err(ToolBusy {
            tools: "*".into(),
            limit: 1,
            calls: 1,
        }
        .into()),
        Reply::Silent => {
            exchange.give_up(GiveUp::Timeout);
            Err(HeadTimeout { limit }.into())
        }
        Reply::Broken => Err("broken".into()),
        Reply::Never => std::future::pending().await,
    }
}

fn settings() -> RetrySettings {
    RetrySettings {
        safe_tools: vec!["get_*".into()],
        ..RetrySettings::default()
    }
}

/// An MCP request, as inspect lets it go on.
fn mcp(body: &str) -> Request<Body> {
    let mut request = Request::new(Body::full(body.to_owned()));
    *request.method_mut() = Method::POST;
    let exchange = Exchange::of(&mut request);
    let body = Bytes::from(body.to_owned());
    let facts = CallFacts::read(&Method::POST, &HeaderMap::new(), &body);
    exchange.set_call(facts.expect("a message"));
    request
}

fn plain(method: Method, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    request
}

fn streamed(pieces: &'static [&'static str]) -> Body {
    let frames = pieces
        .iter()
        .map(|p| Ok::<_, BoxError>(Frame::data(Bytes::from(*p))));
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
const UNSAFE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"set_x"}}"#;
const SAFE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_x"}}"#;
const NOTICE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":9,"result":{}}"#;
const CONTINUED: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","requestState":"s"}}"#;

/// Every kind of call that must not be repeated when it may have been executed.
fn unsafe_calls() -> Vec<Request<Body>> {
    let mixed = format!("[{LIST},{UNSAFE}]");
    let bodies = [INITIALIZE, UNSAFE, NOTICE, ANSWER, CONTINUED, &mixed];
    let mut calls: Vec<_> = bodies.into_iter().map(mcp).collect();
    calls.push(plain(Method::POST, Body::full("x")));
    calls.push(plain(Method::PATCH, Body::full("x")));
    calls
}

fn safe_calls() -> Vec<Request<Body>> {
    let batch = format!("[{LIST},{SAFE}]");
    let mut calls: Vec<_> = [LIST, SAFE, &batch].into_iter().map(mcp).collect();
    calls.push(plain(Method::GET, Body::empty()));
    calls.push(plain(Method::PUT, Body::full("x")));
    calls.push(plain(Method::DELETE, Body::empty()));
    calls
}

async fn ask(
    settings: RetrySettings,
    script: &[Reply],
    request: Request<Body>,
) -> (Result<StatusCode, BoxError>, Upstream) {
    let upstream = Upstream::new(script);
    let service = RetryLayer::new("u", settings).layer(upstream.clone());
    let result = service.oneshot(request).await;
    (result.map(|r| r.status()), upstream)
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_repeated_for_every_call() {
    for request in unsafe_calls().into_iter().chain(safe_calls()) {
        let (result, upstream) = ask(settings(), &[Reply::Unsent, Reply::Unsent], request).await;
        assert_eq!(result.expect("an answer"), 200);
        assert_eq!(upstream.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_tool_is_asked_for_elsewhere_at_once_or_not_at_all() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let text = recorder.handle();
    let layer = ::metrics::with_local_recorder(&recorder, || RetryLayer::new("u", settings()));
    let ask = async |script: &[Reply]| {
        let upstream = Upstream::new(script);
        let start = Instant::now();
        let result = layer.layer(upstream.clone()).oneshot(mcp(UNSAFE)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let busy = |error: BoxError| find::<ToolBusy>(&*error).is_some();
        (
            result.map(|r| r.status().as_u16()).map_err(busy),
            upstream.calls(),
        )
    };
    for _ in 0..100 {
        assert_eq!(ask(&[Reply::Busy(false)]).await, (Err(true), 1));
        assert_eq!(ask(&[Reply::Busy(true)]).await, (Ok(200), 2));
        let nowhere = [Reply::Busy(true), Reply::Busy(false)];
        assert_eq!(ask(&nowhere).await, (Err(true), 2));
        assert_eq!(
            ask(&[Reply::Busy(true); 9]).await,
            (Err(true), 3),
            "attempts"
        );
    }
    let text = text.render();
    assert!(
        text.contains("ziggurat_retry_budget_ratio{upstream=\"u\"} 1\n"),
        "it costs nothing: {text}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_executed_is_sent_exactly_once() {
    for reply in [Reply::Silent, Reply::Broken] {
        for request in unsafe_calls() {
            let (result, upstream) = ask(settings(), &[reply], request).await;
            let error = result.expect_err("as it failed");
            assert!(find::<HeadTimeout>(&*error).is_some() || error.to_string() == "broken");
            assert_eq!(upstream.calls(), 1, "{:?}", upstream.seen);
        }
    }
    for status in [502, 503, 504] {
        for request in unsafe_calls() {
            let (result, upstream) = ask(settings(), &[Reply::Status(status, None)], request).await;
            assert_eq!(result.expect("as it came"), status);
            assert_eq!(upstream.calls(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_safe_is_repeated_whatever_became_of_it() {
    for reply in [
        Reply::Silent,
        Reply::Broken,
        Reply::Status(502, None),
        Reply::Status(503, None),
        Reply::Status(504, None),
    ] {
        for request in safe_calls() {
            let (result, upstream) = ask(settings(), &[reply], request).await;
            assert_eq!(result.expect("an answer"), 200, "{reply:?}");
            assert_eq!(upstream.calls(), 2);
        }
    }
    for status in [200, 400, 404, 429, 500, 501] {
        for request in safe_calls() {
            let reply = Reply::Status(status, Some("1"));
            let (result, upstream) = ask(settings(), &[reply], request).await;
            assert_eq!(result.expect("as it came"), status);
            assert_eq!(upstream.calls(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_by_every_call() {
    for request in unsafe_calls().into_iter().chain(safe_calls()) {
        let script = [Reply::Status(503, Some("2")), Reply::Status(503, Some("0"))];
        let (result, upstream) = ask(settings(), &script, request).await;
        assert_eq!(result.expect("an answer"), 200);
        let seen = upstream.seen.lock().expect("not poisoned");
        let paused = seen[1].at - seen[0].at;
        assert!(paused >= Duration::from_secs(2) && paused < Duration::from_millis(2100));
        assert!(seen[2].at - seen[1].at < Duration::from_millis(200));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_longer_than_it_may() {
    let start = Instant::now();
    let (result, upstream) = ask(settings(), &[Reply::Status(503, Some("11"))], mcp(LIST)).await;
    assert_eq!(
        (result.expect("as it came").as_u16(), upstream.calls()),
        (503, 1)
    );
    // The deadline would come first.
    let request = mcp(LIST);
    let exchange = Exchange::get(&request).expect("an exchange").clone();
    exchange.set_due(Instant::now() + Duration::from_secs(5));
    let (result, upstream) = ask(settings(), &[Reply::Status(503, Some("5"))], request).await;
    assert_eq!(
        (result.expect("as it came").as_u16(), upstream.calls()),
        (503, 1)
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_layer_says_what_is_left() {
    use crate::deadline::{DeadlineLayer, DeadlineSettings};
    let upstream = Upstream::new(&[Reply::Status(503, Some("12"))]);
    let deadline = DeadlineSettings {
        limit: Duration::from_secs(10),
        cap: Duration::from_secs(60),
    };
    let service = tower::ServiceBuilder::new()
        .layer(DeadlineLayer::new(Some(deadline)))
        .layer(RetryLayer::new("u", settings()))
        .service(upstream.clone());
    let response = service.oneshot(mcp(LIST)).await.expect("a response");
    assert_eq!((response.status().as_u16(), upstream.calls()), (503, 1));
}

#[tokio::test(start_paused = true)]
async fn a_further_attempt_is_the_same_request_and_says_where_it_was_tried() {
    let mut request = mcp(SAFE);
    *request.uri_mut() = "/mcp?x=1".parse().expect("a target");
    request.headers_mut().insert(
        HeaderName::from_static("x-a"),
        HeaderValue::from_static("b"),
    );
    request.extensions_mut().insert(Mark(7));
    let script = [Reply::Silent, Reply::Status(502, None)];
    let (_, upstream) = ask(settings(), &script, request).await;
    let seen = upstream.seen.lock().expect("not poisoned");
    let tried = ["", "e0", "e0 e1"].map(str::to_owned);
    for (seen, tried) in seen.iter().zip(tried) {
        assert_eq!((&seen.method, &*seen.uri), (&Method::POST, "/mcp?x=1"));
        assert_eq!(
            (seen.headers["x-a"].as_bytes(), &*seen.body),
            (&b"b"[..], SAFE)
        );
        assert_eq!(seen.headers.len(), 2, "and the request id");
        assert_eq!((seen.mark, seen.tried.join(" ")), (Some(Mark(7)), tried));
        // Nothing of an earlier attempt shows in the exchange.
        assert_eq!((seen.gave_up, seen.answered), (None, false));
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_is_sent_again() {
    let pieces = &["ab", "cd"];
    for (method, script, body_cap, expected) in [
        (Method::PUT, Reply::Broken, 4, 2),
        (Method::PUT, Reply::Silent, 4, 2),
        // Too long to be kept, unless nothing of it was read.
        (Method::PUT, Reply::Silent, 3, 1),
        (Method::PUT, Reply::Unsent, 3, 2),
        (Method::POST, Reply::Unsent, 4, 2),
        (Method::POST, Reply::Broken, 4, 1),
        // The upstream refused, but of an unsafe call nothing is kept.
        (Method::POST, Reply::Status(503, Some("1")), 4, 1),
        (Method::PUT, Reply::Status(503, Some("1")), 4, 2),
    ] {
        let settings = RetrySettings {
            body_cap,
            ..settings()
        };
        let request = plain(method, streamed(pieces));
        let (_, upstream) = ask(settings, &[script], request).await;
        assert_eq!(upstream.calls(), expected, "{script:?} {body_cap}");
        if expected == 2 {
            let seen = upstream.seen.lock().expect("not poisoned");
            assert_eq!(seen[1].body, "abcd");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_silent_attempt_holds_comes_back() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let inner = tower::service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            if tried(&request).is_empty() {
                Exchange::get(&request)
                    .expect("an exchange")
                    .attempt(Arc::new(EndpointInfo {
                        upstream: "u".into(),
                        endpoint: "e".into(),
                    }));
                std::future::pending::<()>().await;
            }
            let body = request.into_body().collect().await?.to_bytes();
            log.lock().expect("not poisoned").push(body);
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    let head = crate::timeout::TimeoutSettings {
        head: Some(Duration::from_secs(1)),
        idle: None,
    };
    let service = tower::ServiceBuilder::new()
        .layer(RetryLayer::new("u", settings()))
        .layer(crate::timeout::TimeoutLayer::new(head))
        .service(inner);
    let request = plain(Method::PUT, streamed(&["ab", "cd"]));
    assert_eq!(
        service.oneshot(request).await.expect("an answer").status(),
        200
    );
    assert_eq!(*seen.lock().expect("not poisoned"), ["abcd"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_and_budget_are_bounds() {
    let broken = [Reply::Broken; 9];
    for (attempts, expected) in [(1, 1), (2, 2), (5, 5)] {
        let settings = RetrySettings {
            attempts: NonZeroU32::new(attempts).expect("not 0"),
            ..settings()
        };
        let (result, upstream) = ask(settings, &broken, mcp(LIST)).await;
        assert!(result.is_err());
        assert_eq!(upstream.calls(), expected);
    }
    let upstream = Upstream::new(&[Reply::Unsent; 200]);
    let settings = RetrySettings {
        budget: BudgetSettings {
            share: 0.2,
            floor: 0.0,
        },
        ..settings()
    };
    let service = RetryLayer::new("u", settings).layer(upstream.clone());
    for _ in 0..50 {
        assert!(service.clone().oneshot(mcp(LIST)).await.is_err());
    }
    assert!(upstream.calls() <= 60, "{}", upstream.calls());
    assert!(upstream.calls() >= 59, "{}", upstream.calls());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_repeated_once_the_head_is_passed_on() {
    struct Torn;
    impl HttpBody for Torn {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(Some(Err("torn".into())))
        }
    }
    let calls = Arc::new(Mutex::new(0));
    let count = calls.clone();
    let inner = tower::service_fn(move |_: Request<Body>| {
        *count.lock().expect("not poisoned") += 1;
        std::future::ready(Ok::<_, BoxError>(Response::new(Body::new(Torn))))
    });
    let service = RetryLayer::new("u", settings()).layer(inner);
    let response = service.oneshot(mcp(LIST)).await.expect("a head");
    let error = response.into_body().collect().await.expect_err("torn");
    assert_eq!(error.to_string(), "torn");
    assert_eq!(*calls.lock().expect("not poisoned"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_somebody_ended_and_an_upgrade_are_not_repeated() {
    for why in [GiveUp::Operator, GiveUp::Drain] {
        let request = mcp(LIST);
        Exchange::get(&request).expect("an exchange").give_up(why);
        let (result, upstream) = ask(settings(), &[Reply::Unsent], request).await;
        assert!(result.is_err());
        assert_eq!(upstream.calls(), 1);
    }
    let mut request = plain(Method::GET, Body::empty());
    let websocket = HeaderValue::from_static("websocket");
    request.headers_mut().insert(header::UPGRADE, websocket);
    let (result, upstream) = ask(settings(), &[Reply::Unsent], request).await;
    assert!(result.is_err());
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_cancelled_in_its_session_is_not_repeated() {
    for (reply, expected) in [(Reply::Silent, 1), (Reply::Broken, 2)] {
        let mut request = Request::new(Body::full(LIST));
        *request.method_mut() = Method::POST;
        let session = HeaderValue::from_static("s");
        request.headers_mut().insert("mcp-session-id", session);
        let body = Bytes::from_static(LIST.as_bytes());
        let facts = CallFacts::read(&Method::POST, request.headers(), &body);
        Exchange::of(&mut request).set_call(facts.expect("a message"));
        let (_, upstream) = ask(settings(), &[reply], request).await;
        assert_eq!(upstream.calls(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn off_passes_everything_through() {
    let upstream = Upstream::new(&[Reply::Unsent]);
    let service = RetryLayer::off().layer(upstream.clone());
    assert!(service.oneshot(mcp(LIST)).await.is_err());
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_not_sent_does_not_hide_one_that_may_have_been() {
    let script = [Reply::Silent, Reply::Unsent, Reply::Unsent];
    let (result, upstream) = ask(settings(), &script, mcp(LIST)).await;
    let error = result.expect_err("all failed");
    assert!(find::<HeadTimeout>(&*error).is_some(), "{error}");
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_pauses_leaves_nothing() {
    let upstream = Upstream::new(&[Reply::Unsent, Reply::Never]);
    let settings = RetrySettings {
        backoff: Backoff {
            base: Duration::from_secs(3600),
            max: Duration::from_secs(3600),
        },
        ..settings()
    };
    let layer = RetryLayer::new("u", settings);
    let service = layer.layer(upstream.clone());
    let request = plain(Method::PUT, streamed(&["ab"]));
    let shared = layer.shared.as_ref().expect("on");
    let before = Arc::strong_count(shared);
    let call = tokio::time::timeout(Duration::from_millis(1), service.clone().oneshot(request));
    assert!(call.await.is_err());
    assert_eq!(upstream.calls(), 1);
    assert_eq!(Arc::strong_count(shared), before);
    tokio::time::advance(Duration::from_secs(7200)).await;
    tokio::task::yield_now().await;
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn annotations_count_only_where_the_server_is_trusted() {
    const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"set_x","annotations":{"idempotentHint":true}}]}}"#;
    for (trust_annotations, expected) in [(true, 3), (false, 2)] {
        let upstream = Upstream::new(&[Reply::Json(TOOLS), Reply::Silent]);
        let settings = RetrySettings {
            trust_annotations,
            ..settings()
        };
        let service = RetryLayer::new("u", settings).layer(upstream.clone());
        let list = service.clone().oneshot(mcp(LIST)).await.expect("a list");
        let body = list.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, TOOLS);
        let result = service.oneshot(mcp(UNSAFE)).await;
        assert_eq!(result.is_ok(), trust_annotations);
        assert_eq!(upstream.calls(), expected);
    }
}

fn recorded(settings: RetrySettings) -> (RetryLayer, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let layer = ::metrics::with_local_recorder(&recorder, || RetryLayer::new("u", settings));
    (layer, handle)
}

#[tokio::test(start_paused = true)]
async fn what_became_of_each_retry_is_counted() {
    let settings = RetrySettings {
        budget: BudgetSettings {
            share: 0.0,
            floor: 0.5,
        },
        ..settings()
    };
    let (layer, handle) = recorded(settings);
    let ask = async |script: &[Reply], request| {
        let service = layer.layer(Upstream::new(script));
        let limit = Duration::from_secs(1);
        let _end = tokio::time::timeout(limit, service.oneshot(request)).await;
    };
    ask(&[Reply::Silent, Reply::Broken], mcp(LIST)).await;
    ask(&[Reply::Status(502, None), Reply::Never], mcp(LIST)).await;
    ask(&[Reply::Status(503, Some("90"))], mcp(LIST)).await;
    ask(
        &[Reply::Status(503, Some("1"))],
        plain(Method::POST, streamed(&["x"])),
    )
    .await;
    ask(&[Reply::Silent], mcp(UNSAFE)).await;
    ask(&[Reply::Unsent; 9], mcp(UNSAFE)).await;
    ask(&[Reply::Unsent; 9], mcp(UNSAFE)).await;
    let text = handle.render();
    for (reason, outcome, count) in [
        ("timeout", "failure", 1),
        ("broken", "success", 1),
        ("status", "dropped", 1),
        ("retry_after", "no_time", 1),
        ("retry_after", "no_body", 1),
        ("not_sent", "failure", 2),
        ("not_sent", "no_budget", 1),
    ] {
        let line = format!(
            "ziggurat_retries_total{{upstream=\"u\",reason=\"{reason}\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(
        text.contains("ziggurat_retry_refused_unsafe_total{upstream=\"u\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("ziggurat_retry_budget_ratio{upstream=\"u\"} 0\n"),
        "{text}"
    );
}

/// What became of attempts, drawn at random.
fn any_reply() -> impl proptest::strategy::Strategy<Value = Reply> {
    proptest::sample::select(vec![
        Reply::Unsent,
        Reply::Silent,
        Reply::Broken,
        Reply::Status(200, None),
        Reply::Status(429, Some("1")),
        Reply::Status(500, None),
        Reply::Status(502, None),
        Reply::Status(503, None),
        Reply::Status(503, Some("1")),
    ])
}

proptest::proptest! {
    #[test]
    fn no_call_that_may_have_had_an_effect_is_sent_again(
        script in proptest::collection::vec(any_reply(), 0..6), which: proptest::sample::Index, safe: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let mut calls = if safe { safe_calls() } else { unsafe_calls() };
        let call = calls.swap_remove(which.index(calls.len()));
        let (result, upstream) = runtime.block_on(ask(settings(), &script, call));
        let made = upstream.calls();
        proptest::prop_assert!((1..=3).contains(&made));
        let unsent = |reply: &Reply| matches!(reply, Reply::Unsent | Reply::Status(503, Some(_)));
        let failed = |reply: &Reply| {
            unsent(reply) || matches!(reply, Reply::Silent | Reply::Broken | Reply::Status(502..=503, _))
        };
        for reply in &script[..made - 1] {
            proptest::prop_assert!(unsent(reply) || (safe && failed(reply)), "{reply:?} of {script:?}");
        }
        // And what can be repeated is.
        let last = script.get(made - 1).copied().unwrap_or(Reply::Status(200, None));
        proptest::prop_assert!(made == 3 || !(unsent(&last) || (safe && failed(&last))), "{script:?}");
        proptest::prop_assert_eq!(result.is_err(), matches!(last, Reply::Unsent | Reply::Silent | Reply::Broken));
    }
}
