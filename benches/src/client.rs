//! A client that tells how each of its calls ended, as far as a client can know: the load of
//! [`ordeal`](crate::ordeal) and [`overload`](crate::overload).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, sleep, timeout};

use crate::BoxError;
use crate::load::{is_event_stream, open};
use crate::rpc::{ENVELOPE, Events, Failure, JSON, MODERN, Reply, header};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The notifications of a streamed answer.
const STEPS: u64 = 4;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `tools/list`: safe to repeat
    List,
    /// `tools/call` with a text that no other call has; nobody may execute it twice
    Echo,
    /// The same, answered by a stream
    Stream,
}

/// One connection at a time, and one call on it.
pub(crate) struct Client {
    address: SocketAddr,
    headers: HeaderMap,
    /// None after a call that ended badly.
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// A call that is over.
pub(crate) struct Record {
    /// Its id, and the text that it carries.
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) ending: Ending,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Answered,
    /// With a JSON-RPC error.
    Refused(Refusal),
    /// With an HTTP status, and no error that tells more.
    Status(u16),
    /// The connection broke off.
    Broken,
    TimedOut,
    /// With an answer that is not the right one.
    Wrong,
}

/// A JSON-RPC error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What it is called, or else its code.
    pub(crate) kind: String,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) retry_after: Option<Duration>,
}

/// What the error says of the call's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    NotSent,
    Rejected,
    Unknown,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Result<Self, BoxError> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&address.to_string())?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        let both = "application/json, text/event-stream";
        headers.insert(ACCEPT, HeaderValue::from_static(both));
        headers.insert(header::VERSION, HeaderValue::from_static(MODERN));
        Ok(Self {
            address,
            headers,
            connection: None,
        })
    }

    /// Makes this call, and reads the whole answer. An `id` is used once.
    pub(crate) async fn call(&mut self, id: u64, kind: Kind) -> Record {
        let start = Instant::now();
        let ending = match timeout(PATIENCE, self.ending(id, kind)).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(_gone)) => Ending::Broken,
            Err(_elapsed) => Ending::TimedOut,
        };
        if matches!(ending, Ending::Broken | Ending::TimedOut | Ending::Wrong) {
            self.connection = None;
        }
        Record {
            id,
            kind,
            start,
            end: Instant::now(),
            ending,
        }
    }

    async fn ending(&mut self, id: u64, kind: Kind) -> Result<Ending, BoxError> {
        let mut kept = self.connection.take();
        // The proxy may have closed it meanwhile, as it may at any time.
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let response = connection.send_request(self.request(id, kind)).await?;
        let ending = read(response, id, kind).await?;
        self.connection = Some(connection);
        Ok(ending)
    }

    /// Waits a moment when there is no connection to be had.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, BoxError> {
        let connection = open(self.address).await;
        if connection.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        connection
    }

    fn request(&self, id: u64, kind: Kind) -> Request<Full<Bytes>> {
        let (method, params) = match kind {
            Kind::List => ("tools/list", format!(r#""_meta":{{{ENVELOPE}}}"#)),
            Kind::Echo => (
                "tools/call",
                format!(r#""name":"echo","arguments":{{"text":"{id}"}},"_meta":{{{ENVELOPE}}}"#),
            ),
            Kind::Stream => (
                "tools/call",
                format!(
                    r#""name":"progress","arguments":{{"text":"{id}","steps":{STEPS}}},"_meta":{{{ENVELOPE},"progressToken":{id}}}"#
                ),
            ),
        };
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#);
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/mcp");
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        headers.insert(header::METHOD, HeaderValue::from_static(method));
        if let Some(tool) = kind.tool() {
            headers.insert(header::NAME, HeaderValue::from_static(tool));
        }
        request
    }
}

/// Reads the answer to its end. Fails where it breaks off, unless the call had been answered by then.
async fn read(response: Response<Incoming>, id: u64, kind: Kind) -> Result<Ending, BoxError> {
    let status = response.status();
    let streamed = is_event_stream(&response);
    let mut body = response.into_body();
    if !streamed {
        let body = body.collect().await?.to_bytes();
        return Ok(match ending(&body, id, kind) {
            Some(Ending::Answered) | None if !status.is_success() => {
                Ending::Status(status.as_u16())
            }
            known => known.unwrap_or(Ending::Wrong),
        });
    }
    let mut events = Events::default();
    let mut last = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => events.push(&frame.into_data().unwrap_or_default()),
            Err(_broken) if last.is_some() => break,
            Err(broken) => return Err(broken.into()),
        }
        while let Some(event) = events.next() {
            last = ending(&event, id, kind).or(last);
        }
    }
    // Ended, as it should, and yet without an answer: that is no proper end.
    Ok(last.unwrap_or(Ending::Broken))
}

/// What this message says about the call; nothing if it is no response to it.
fn ending(message: &[u8], id: u64, kind: Kind) -> Option<Ending> {
    let reply: Reply<'_> = serde_json::from_slice(message).ok()?;
    if reply.id != Some(id) {
        return None;
    }
    if let Some(error) = &reply.error {
        return Some(Ending::Refused(Refusal::from(error)));
    }
    let is_right = match kind {
        Kind::List => reply.result.is_some_and(|of| !of.tools.is_empty()),
        Kind::Echo => reply.text_for(id) == Some(&id.to_string()),
        Kind::Stream => reply.text_for(id) == Some("done"),
    };
    Some(match is_right {
        true => Ending::Answered,
        false => Ending::Wrong,
    })
}

// === impl Kind ===

impl Kind {
    fn tool(self) -> Option<&'static str> {
        match self {
            Self::List => None,
            Self::Echo => Some("echo"),
            Self::Stream => Some("progress"),
        }
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn is_safe(&self) -> bool {
        self.kind == Kind::List
    }

    pub(crate) fn is_good(&self) -> bool {
        self.ending == Ending::Answered
    }

    /// It was on its way at this moment.
    pub(crate) fn spans(&self, moment: Instant) -> bool {
        self.start <= moment && moment < self.end
    }

    pub(crate) fn latency(&self) -> Duration {
        self.end - self.start
    }

    /// It says that it was not executed.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self.outcome(), Some(Outcome::NotSent | Outcome::Rejected))
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match &self.ending {
            Ending::Refused(refusal) => refusal.outcome,
            Ending::Answered
            | Ending::Status(_)
            | Ending::Broken
            | Ending::TimedOut
            | Ending::Wrong => None,
        }
    }
}

// === impl Outcome, Ending, Refusal ===

impl Outcome {
    /// As errors have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered => f.write_str("answered"),
            Self::Refused(refusal) => f.write_str(&refusal.kind),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Broken => f.write_str("broken off"),
            Self::TimedOut => write!(f, "no answer in {} s", PATIENCE.as_secs()),
            Self::Wrong => f.write_str("a wrong answer"),
        }
    }
}

impl From<&Failure<'_>> for Refusal {
    fn from(error: &Failure<'_>) -> Self {
        let kind = error.data.kind.as_deref();
        Self {
            kind: kind.map_or_else(|| format!("error {}", error.code), str::to_owned),
            outcome: [Outcome::NotSent, Outcome::Rejected, Outcome::Unknown]
                .into_iter()
                .find(|outcome| error.data.outcome.as_deref() == Some(outcome.as_str())),
            retry_after: error.data.retry_after_ms.map(Duration::from_millis),
        }
    }
}

/// How often each of these was said.
pub(crate) fn tally(said: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for what in said {
        *counts.entry(what).or_default() += 1;
    }
    counts
}
