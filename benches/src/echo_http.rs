//! The echo server over Streamable HTTP. It checks what a proxy must not lose on the way: the session of
//! legacy requests, and the headers of modern ones.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::MissedTickBehavior;

use crate::BoxError;
use crate::echo::{self, Answer};
use crate::rpc::{self, EVENT_STREAM, JSON, header};
use crate::serve::{self, status};

/// How often a standing stream says something.
pub(crate) const TICK: Duration = Duration::from_millis(100);

const TICK_MESSAGE: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"still here"}}"#;

type Sessions = Arc<Mutex<HashSet<String>>>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) async fn run(listen: SocketAddr) -> Result<(), BoxError> {
    let sessions = Sessions::default();
    serve::serve(listen, move |request| answer(sessions.clone(), request)).await
}

async fn answer(sessions: Sessions, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    match head.method {
        Method::POST => match body.collect().await {
            Ok(body) => post(&sessions, &head.headers, &body.to_bytes()),
            Err(_gone) => status(StatusCode::BAD_REQUEST),
        },
        Method::GET => match session_problem(&sessions, &head.headers) {
            Some(problem) => status(problem),
            None => standing(),
        },
        Method::DELETE => match session_problem(&sessions, &head.headers) {
            Some(problem) => status(problem),
            None => {
                lock(&sessions).remove(session(&head.headers).unwrap_or_default());
                status(StatusCode::NO_CONTENT)
            }
        },
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn post(sessions: &Sessions, headers: &HeaderMap, body: &[u8]) -> Response<Body> {
    let Ok(request) = serde_json::from_slice::<rpc::Request<'_>>(body) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let opens_session = request.method == "initialize";
    if echo::is_modern(&request.params) {
        if let (Some(id), false) = (request.id, headers_agree(headers, &request)) {
            let mut response = json(echo::error(id, -32020, "headers and body differ"));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        }
    } else if !opens_session && let Some(problem) = session_problem(sessions, headers) {
        return status(problem);
    }
    match echo::answer(&request) {
        Answer::Nothing => status(StatusCode::ACCEPTED),
        Answer::Message(message) if opens_session => {
            let session = format!("{:032x}", fastrand::u128(..));
            let mut response = json(message);
            response.headers_mut().insert(
                header::SESSION,
                HeaderValue::from_str(&session).expect("hex digits are a header value"),
            );
            lock(sessions).insert(session);
            response
        }
        Answer::Message(message) => json(message),
        Answer::Stream(messages) => {
            let events = messages.map(|message| Ok(Frame::data(rpc::event(&message))));
            serve::streamed(stream::iter(events), EVENT_STREAM)
        }
    }
}

/// Modern requests carry the version and the method in both places.
fn headers_agree(headers: &HeaderMap, request: &rpc::Request<'_>) -> bool {
    let carries = |name, value: Option<&str>| {
        headers.get(name).map(HeaderValue::as_bytes) == value.map(str::as_bytes)
    };
    carries(header::METHOD, Some(&request.method))
        && carries(header::VERSION, request.params.meta.version.as_deref())
        && (request.method != "tools/call" || carries(header::NAME, request.params.name.as_deref()))
}

fn session(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::SESSION)?.to_str().ok()
}

fn session_problem(sessions: &Sessions, headers: &HeaderMap) -> Option<StatusCode> {
    match session(headers) {
        None => Some(StatusCode::BAD_REQUEST),
        Some(session) if lock(sessions).contains(session) => None,
        Some(_dead) => Some(StatusCode::NOT_FOUND),
    }
}

fn lock(sessions: &Sessions) -> std::sync::MutexGuard<'_, HashSet<String>> {
    sessions
        .lock()
        .expect("nobody panics with the sessions in hand")
}

/// A stream that stays open: an event at once, and one each [`TICK`].
fn standing() -> Response<Body> {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let event = rpc::event(TICK_MESSAGE);
    let events = stream::unfold((clock, event), |(mut clock, event)| async {
        clock.tick().await;
        Some((Ok(Frame::data(event.clone())), (clock, event)))
    });
    serve::streamed(events, EVENT_STREAM)
}

fn json(message: String) -> Response<Body> {
    let mut response = Response::new(Full::from(message).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
