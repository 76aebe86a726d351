//! Against a scripted server, in paused time.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};

use super::*;
use crate::{
    Body,
    exchange::GiveUp,
    mcp::{
        CallFacts,
        headers::{LAST_EVENT_ID, SESSION_ID},
    },
    observe::ObserveLayer,
};

mod breaks;
mod cuts;
mod ends;

/// What a request gets.
#[derive(Debug, Clone)]
enum Act {
    /// An event stream of these pieces, which then is cut.
    Cut(Vec<&'static str>),
    /// The same, which then ends.
    End(Vec<&'static str>),
    /// The same, which then is silent.
    Stall(Vec<&'static str>),
    /// An answer with this status and media type.
    Answer(u16, &'static str),
    /// No connection.
    Down,
    /// No answer.
    Never,
}

/// A request as it came, and when.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    uri: String,
    headers: HeaderMap,
    at: Instant,
}

/// A server with a script: an act for each request, and the last one for all that follow.
#[derive(Debug, Clone, Default)]
struct Server(Arc<Mutex<(VecDeque<Act>, Vec<Seen>)>>);

type Client = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// What came of a stream.
#[derive(Debug, PartialEq)]
enum Ended {
    Well,
    Cut,
}

// === impl Server ===

impl Server {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let script = (acts.into_iter().collect(), Vec::new());
        Self(Arc::new(Mutex::new(script)))
    }

    fn lock(&self) -> MutexGuard<'_, (VecDeque<Act>, Vec<Seen>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> Vec<Seen> {
        self.lock().1.clone()
    }

    /// What the requests after the first one asked for.
    fn cursors(&self) -> Vec<String> {
        let cursor = |seen: &Seen| {
            let value = seen.headers.get(LAST_EVENT_ID);
            value.map_or(String::new(), |v| v.to_str().expect("text").to_owned())
        };
        self.seen().iter().skip(1).map(cursor).collect()
    }

    fn behind(&self, settings: ResumeSettings) -> Client {
        let server = self.clone();
        let service = ServiceBuilder::new()
            .layer(ResumeLayer::new("u", Some(settings)))
            .layer(ObserveLayer::new("u"))
            .service(service_fn(move |request: Request<Body>| {
                let act = server.takes(&request);
                async move { act.answer().await }
            }))
            .map_response(|response| response.map(Body::new));
        BoxCloneService::new(service)
    }

    fn takes(&self, request: &Request<Body>) -> Act {
        let mut script = self.lock();
        script.1.push(Seen {
            method: request.method().clone(),
            uri: request.uri().to_string(),
            headers: request.headers().clone(),
            at: Instant::now(),
        });
        if script.0.len() > 1 {
            script.0.pop_front().expect("not empty")
        } else {
            script.0.front().expect("an act").clone()
        }
    }
}

impl Act {
    async fn answer(self) -> Result<Response<Body>, BoxError> {
        let (pieces, end) = match self {
            Self::Cut(pieces) => (pieces, Some(Err("cut".into()))),
            Self::End(pieces) => (pieces, None),
            Self::Stall(pieces) => {
                let frames = frames(pieces);
                let silent = futures_util::stream::pending();
                let stream =
                    futures_util::StreamExt::chain(futures_util::stream::iter(frames), silent);
                return Ok(events(Body::new(StreamBody::new(stream))));
            }
            Self::Answer(status, media) => {
                let response = Response::builder().status(status);
                let response = response.header(header::CONTENT_TYPE, media);
                return Ok(response.body(Body::full("no"))?);
            }
            Self::Down => return Err("no connection".into()),
            Self::Never => return std::future::pending().await,
        };
        let all: Vec<_> = frames(pieces).into_iter().chain(end).collect();
        Ok(events(Body::new(StreamBody::new(
            futures_util::stream::iter(all),
        ))))
    }
}

fn frames(pieces: Vec<&'static str>) -> Vec<Result<Frame<Bytes>, BoxError>> {
    let frame = |piece: &'static str| Ok(Frame::data(Bytes::from_static(piece.as_bytes())));
    pieces.into_iter().map(frame).collect()
}

fn events(body: Body) -> Response<Body> {
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .header(SESSION_ID, "begun")
        .body(body)
        .expect("valid")
}

// === requests ===

/// A call of a client of this revision.
fn call(version: &str) -> Request<Body> {
    let message = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
    mcp(Method::POST, version, Bytes::from_static(message))
}

/// The GET stream of a client.
fn stream() -> Request<Body> {
    mcp(Method::GET, "2025-06-18", Bytes::new())
}

fn mcp(method: Method, version: &str, body: Bytes) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri("http://u/mcp?x=1")
        .header(header::ACCEPT, "application/json, text/event-stream")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, "Bearer t")
        .header("mcp-protocol-version", version)
        .header(SESSION_ID, "s")
        .body(Body::full(body.clone()))
        .expect("valid");
    let facts = CallFacts::read(request.method(), request.headers(), &body).expect("a call");
    Exchange::of(&mut request).set_call(facts);
    request
}

/// An `EventSource`.
fn plain() -> Request<Body> {
    Request::get("http://u/events")
        .header(header::ACCEPT, "text/event-stream")
        .body(Body::empty())
        .expect("valid")
}

const ANSWER: &str = "id: 9\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
const ONE: &str = "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"one\"}\n\n";
const TWO: &str = "id: 2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"two\"}\n\n";

async fn open(server: &Server, request: Request<Body>) -> Body {
    let service = server.behind(ResumeSettings::default());
    service.oneshot(request).await.expect("a head").into_body()
}

/// All that comes.
async fn read(mut body: Body) -> (String, Ended) {
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let data = frame.into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&data).expect("text"));
            }
            Err(_) => return (text, Ended::Cut),
        }
    }
    assert!(body.is_end_stream());
    (text, Ended::Well)
}

async fn whole(server: &Server, request: Request<Body>) -> (String, Ended) {
    read(open(server, request).await).await
}
