//! An MCP server of 2025-11-25 with an event store, whose event streams are cut at random, half of the time in the middle of
//! an event. It goes on from any `Last-Event-ID` that it gave, and counts what it cuts and what it executes.
//!
//! Nothing is stored: an id says when its stream began, and the events follow from that. Event `n` of a stream is due `n` intervals after it
//! began. A standing stream never ends; a call has [`STEPS`] notifications, and then its answer. `GET /counts` tells the counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use crate::echo::{self, Answer};
use crate::rpc::{self, EVENT_STREAM, JSON, header};
use crate::serve::{self, status};
use crate::{BoxError, Listen};

/// The notifications of a call.
pub(crate) const STEPS: u64 = 4;
/// The time between them.
const STEP: Duration = Duration::from_millis(50);
/// No stream is cut before its head and its first id have left.
const LEAST: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Events a second of each standing stream
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
    /// How many seconds a standing stream lives on average until it is cut
    #[arg(long, default_value_t = 10.0)]
    life: f64,
    /// How many seconds the stream of a call lives on average
    #[arg(long, default_value_t = 0.5)]
    call_life: f64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Connections that were cut.
    pub(crate) cuts: u64,
    /// Those of them that were cut in the middle of an event.
    pub(crate) torn: u64,
    /// Streams that were gone on with from an id.
    pub(crate) resumed: u64,
    /// Calls that were executed, and more than once.
    pub(crate) executed: u64,
    pub(crate) doubled: u64,
}

struct Server {
    begun: Instant,
    interval: Duration,
    life: Duration,
    call_life: Duration,
    cuts: AtomicU64,
    torn: AtomicU64,
    resumed: AtomicU64,
    sessions: AtomicU64,
    executed: Mutex<HashMap<u64, u32>>,
}

/// One stream, and how far it is: what an event id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// The call that it answers; `None` for a standing stream.
    call: Option<u64>,
    /// Milliseconds from the start of the server to that of the stream.
    began: u64,
    /// The newest event.
    at: u64,
}

/// A stream on one connection.
struct Sending {
    server: Arc<Server>,
    cursor: Cursor,
    cut: Instant,
    state: State,
}

enum State {
    /// Its first id is to be sent.
    Fresh,
    Open,
    /// What was to be sent of it was.
    Ending,
    Over,
}

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Piece = Result<Frame<Bytes>, BoxError>;

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let server = Arc::new(Server {
        begun: Instant::now(),
        interval: Duration::try_from_secs_f64(1.0 / options.rate)?,
        life: Duration::try_from_secs_f64(options.life)?,
        call_life: Duration::try_from_secs_f64(options.call_life)?,
        cuts: AtomicU64::new(0),
        torn: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
        sessions: AtomicU64::new(0),
        executed: Mutex::default(),
    });
    serve::serve(options.listen.listen, move |request| {
        answer(server.clone(), request)
    })
    .await
}

async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/counts" {
        let counts = serde_json::to_vec(&server.counts()).unwrap_or_default();
        return full(counts.into());
    }
    match parts.method {
        Method::GET => match parts.headers.get("last-event-id") {
            None => server.open(None),
            Some(id) => match id.to_str().ok().and_then(Cursor::read) {
                Some(cursor) => {
                    server.resumed.fetch_add(1, Ordering::Relaxed);
                    server.send(cursor, State::Open)
                }
                None => status(StatusCode::BAD_REQUEST),
            },
        },
        Method::POST => {
            let Ok(body) = body.collect().await else {
                return status(StatusCode::BAD_REQUEST);
            };
            match serde_json::from_slice::<rpc::Request<'_>>(&body.to_bytes()) {
                Ok(request) => server.execute(&request),
                Err(_) => status(StatusCode::BAD_REQUEST),
            }
        }
        Method::DELETE => status(StatusCode::OK),
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn full(body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    let json = HeaderValue::from_static(JSON);
    response.headers_mut().insert("content-type", json);
    response
}

// === impl Server ===

impl Server {
    fn counts(&self) -> Counts {
        let executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
        Counts {
            cuts: self.cuts.load(Ordering::Relaxed),
            torn: self.torn.load(Ordering::Relaxed),
            resumed: self.resumed.load(Ordering::Relaxed),
            executed: executed.len() as u64,
            doubled: executed.values().filter(|times| **times > 1).count() as u64,
        }
    }

    fn execute(self: Arc<Self>, request: &rpc::Request<'_>) -> Response<Body> {
        if request.method == "tools/call" {
            let id = request.id.and_then(|id| id.get().parse().ok());
            let Some(id) = id else {
                return status(StatusCode::BAD_REQUEST);
            };
            let mut executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
            *executed.entry(id).or_default() += 1;
            drop(executed);
            return self.open(Some(id));
        }
        match echo::answer(request) {
            Answer::Message(message) => {
                let mut response = full(message.into());
                if request.method == "initialize" {
                    let number = self.sessions.fetch_add(1, Ordering::Relaxed);
                    if let Ok(id) = HeaderValue::try_from(format!("s-{number}")) {
                        response.headers_mut().insert(header::SESSION, id);
                    }
                }
                response
            }
            Answer::Nothing | Answer::Stream(_) => status(StatusCode::ACCEPTED),
        }
    }

    /// A stream that begins now.
    fn open(self: Arc<Self>, call: Option<u64>) -> Response<Body> {
        let began = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.send(Cursor { call, began, at: 0 }, State::Fresh)
    }

    fn send(self: Arc<Self>, cursor: Cursor, state: State) -> Response<Body> {
        let mean = match cursor.call {
            Some(_) => self.call_life,
            None => self.life,
        };
        // Exponentially distributed: a stream is as likely to be cut at one time as at any other.
        let life = mean.mul_f64(-(1.0 - fastrand::f64()).ln()).max(LEAST);
        let sending = Sending {
            cut: Instant::now() + life,
            server: self,
            cursor,
            state,
        };
        let pieces = stream::unfold(sending, |mut sending| async move {
            let piece = sending.next().await?;
            Some((piece, sending))
        });
        serve::streamed(pieces, EVENT_STREAM)
    }
}

// === impl Sending ===

impl Sending {
    async fn next(&mut self) -> Option<Piece> {
        match self.state {
            State::Fresh => {
                self.state = State::Open;
                let primer = format!("id: {}\ndata: \n\n", self.cursor.text());
                Some(Ok(Frame::data(primer.into())))
            }
            State::Open => Some(self.event().await),
            State::Ending => {
                self.state = State::Over;
                // What was sent is given a moment to leave.
                sleep(Duration::from_millis(2)).await;
                Some(Err("cut".into()))
            }
            State::Over => None,
        }
    }

    /// The next event when it is due; half of it, or nothing, if the stream is cut before.
    async fn event(&mut self) -> Piece {
        let Cursor { call, began, at } = self.cursor;
        let interval = call.map_or(self.server.interval, |_| STEP);
        let interval = interval.mul_f64((at + 1) as f64);
        let due = self.server.begun + Duration::from_millis(began) + interval;
        self.cursor.at += 1;
        let message = match call {
            Some(id) if at == STEPS => format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"done"}}]}}}}"#
            ),
            _ => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":{}}}}}"#,
                call.unwrap_or_default(),
                at + 1
            ),
        };
        let id = self.cursor.text();
        let event = Bytes::from(format!("id: {id}\nevent: message\ndata: {message}\n\n"));
        if due.max(Instant::now()) < self.cut {
            sleep_until(due).await;
            if call.is_some() && at == STEPS {
                self.state = State::Over;
            }
            return Ok(Frame::data(event));
        }
        sleep_until(self.cut).await;
        self.state = State::Ending;
        self.server.cuts.fetch_add(1, Ordering::Relaxed);
        if fastrand::bool() {
            return Ok(Frame::data(Bytes::from_static(b":\n\n")));
        }
        self.server.torn.fetch_add(1, Ordering::Relaxed);
        let half = fastrand::usize(1..event.len() - 1);
        Ok(Frame::data(event.slice(..half)))
    }
}

// === impl Cursor ===

impl Cursor {
    fn text(&self) -> String {
        let Self { call, began, at } = self;
        match call {
            Some(call) => format!("{call}.{began}.{at}"),
            None => format!("-.{began}.{at}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let call = match parts.next()? {
            "-" => None,
            call => Some(call.parse().ok()?),
        };
        let (began, at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { call, began, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for call in [None, Some(7)] {
            let cursor = Cursor {
                call,
                began: 5,
                at: 3,
            };
            assert_eq!(Cursor::read(&cursor.text()), Some(cursor));
        }
        for wrong in ["", "-", "-.1", "-.1.2.3", "x.1.2", "-.-1.2"] {
            assert_eq!(Cursor::read(wrong), None, "{wrong}");
        }
    }
}
