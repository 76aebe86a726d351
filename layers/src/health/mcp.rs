//! What a prober says to an MCP server, and what it remembers between probes: the server's era, and a session of its own.
//!
//! The era is found out as a client of both eras would (2026-07-28, versioning, "Backward Compatibility"): `server/discover` is asked first. A
//! result with `supportedVersions`, or one of the errors that only a modern server makes (-32020 to -32022), shows a modern server; any other
//! answer, and any other 4xx, leads to the handshake. A status of 401, 403 or 429 shows that somebody answers, and nothing of the era; it counts as
//! success, since a prober may lack what a client has. `ping` answered with "no such method" is a success, too: the server itself has spoken.

use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use tower::Service;

use super::{
    answer::{Reply, read},
    handle::ProbeResult,
    probe::{ProbeError, send},
    settings::HealthSettings,
};
use crate::{
    Body,
    error::BoxError,
    exchange::Exchange,
    fault::Fault,
    mcp::{
        CLIENT, CallFacts, Era, INITIALIZED, LEGACY_VERSION, META_CAPABILITIES, META_VERSION,
        MODERN_VERSION, headers, initialize_params,
    },
};

/// The conversation with one server.
#[derive(Debug, Default)]
pub(super) struct Talk {
    era: Option<Era>,
    session: Option<Session>,
    /// Pings in a row that failed in this session.
    failed: u32,
    last_id: u64,
}

/// A legacy handshake that was made. A server may do without an id.
#[derive(Debug, Clone)]
struct Session {
    id: Option<HeaderValue>,
    version: HeaderValue,
}

/// What a server's reply means for the conversation.
enum Step<T> {
    /// What was asked for.
    Got(T),
    /// Somebody is there, and keeps us out.
    Alive,
    /// It speaks the legacy era, or does not know our session.
    Legacy(Reply),
}

#[derive(Deserialize)]
struct Discovered {
    #[serde(rename = "supportedVersions")]
    _supported: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Initialized {
    #[serde(rename = "protocolVersion")]
    version: String,
}

const DISCOVER: &str = "server/discover";
const INITIALIZE: &str = "initialize";
const PING: &str = "ping";

// === impl Talk ===

impl Talk {
    /// There is a session that would have to be ended.
    pub(super) fn has_session(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.id.is_some())
    }

    /// Asks the server for a sign of life.
    pub(super) async fn probe<S>(
        &mut self,
        service: &S,
        settings: &HealthSettings,
    ) -> Result<(), ProbeError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        if self.era != Some(Era::Legacy) {
            let known = self.era.is_some();
            let limit = if known {
                settings.timeout
            } else {
                settings.handshake
            };
            match self.discover(service, limit).await? {
                Step::Got(()) => {
                    self.era = Some(Era::Modern);
                    return Ok(());
                }
                Step::Alive => return Ok(()),
                Step::Legacy(_) => self.era = None,
            }
        } else if self.failed >= settings.fall.get() {
            // Its own process may hang, and a new client would get another.
            self.end(service, settings.timeout).await;
        } else if self.session.is_some() {
            match self.ping(service, settings.timeout).await {
                Ok(Step::Got(()) | Step::Alive) => {
                    self.failed = 0;
                    return Ok(());
                }
                Ok(Step::Legacy(_)) => self.session = None,
                Err(error) => {
                    let counts = error.result() != ProbeResult::Neutral;
                    self.failed += u32::from(counts);
                    return Err(error);
                }
            }
        }
        self.greet(service, settings).await
    }

    /// Begins a session and pings in it. If that fails, the era is to be found out anew.
    async fn greet<S>(&mut self, service: &S, settings: &HealthSettings) -> Result<(), ProbeError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        (self.era, self.failed) = (None, 0);
        match self.initialize(service, settings.handshake).await? {
            Step::Got(session) => self.session = Some(session),
            Step::Alive => return Ok(()),
            Step::Legacy(reply) => return Err(refusal(INITIALIZE, &reply)),
        }
        // From here on there is something to ping, or to end.
        self.era = Some(Era::Legacy);
        self.say_ready(service, settings.timeout).await?;
        match self.ping(service, settings.timeout).await? {
            Step::Got(()) | Step::Alive => Ok(()),
            Step::Legacy(reply) => {
                self.session = None;
                Err(refusal(PING, &reply))
            }
        }
    }

    /// Ends the session, if there is one.
    pub(super) async fn end<S>(&mut self, service: &S, limit: Duration)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        let Some(session) = self.session.take().filter(|s| s.id.is_some()) else {
            return;
        };
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::DELETE;
        session.apply(&mut request);
        file(&mut request);
        // Whether the server allows it (405 is allowed), or is there at all, changes nothing.
        let _ended = send(service, request, limit, async |_| Ok(())).await;
    }

    async fn discover<S>(&mut self, service: &S, limit: Duration) -> Result<Step<()>, ProbeError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        let params = format!(
            r#"{{"_meta":{{"{META_VERSION}":"{MODERN_VERSION}","io.modelcontextprotocol/clientInfo":{CLIENT},"{META_CAPABILITIES}":{{}}}}}}"#
        );
        let id = self.next_id();
        let mut request = post(&message(Some(id), DISCOVER, &params));
        let fields = request.headers_mut();
        let version = HeaderValue::from_static(MODERN_VERSION);
        fields.insert(headers::PROTOCOL_VERSION, version);
        fields.insert(headers::METHOD, HeaderValue::from_static(DISCOVER));
        let (reply, _) = ask(service, request, id, limit).await?;
        Ok(match reply {
            Reply::Result(text) if serde_json::from_str::<Discovered>(&text).is_ok() => {
                Step::Got(())
            }
            Reply::Error(-32022..=-32020) | Reply::Refused(_, Some(-32022..=-32020)) => {
                Step::Got(())
            }
            Reply::Refused(status, _) if keeps_out(status) => Step::Alive,
            Reply::Refused(status, _) if !status.is_client_error() => {
                return Err(refusal(DISCOVER, &reply));
            }
            Reply::Result(_) | Reply::Error(_) | Reply::Refused(..) => Step::Legacy(reply),
        })
    }

    async fn initialize<S>(
        &mut self,
        service: &S,
        limit: Duration,
    ) -> Result<Step<Session>, ProbeError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        let id = self.next_id();
        let request = post(&message(Some(id), INITIALIZE, &initialize_params()));
        let (reply, session) = ask(service, request, id, limit).await?;
        Ok(match reply {
            Reply::Result(text) => {
                let version = serde_json::from_str(&text)
                    .ok()
                    .and_then(|i: Initialized| HeaderValue::try_from(i.version).ok());
                Step::Got(Session {
                    id: session,
                    version: version.unwrap_or(HeaderValue::from_static(LEGACY_VERSION)),
                })
            }
            Reply::Refused(status, _) if keeps_out(status) => Step::Alive,
            Reply::Error(_) | Reply::Refused(..) => Step::Legacy(reply),
        })
    }

    async fn say_ready<S>(&self, service: &S, limit: Duration) -> Result<(), ProbeError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        let mut request = self.in_session(&message(None, INITIALIZED, "{}"));
        file(&mut request);
        let status = send(service, request, limit, async |response| {
            Ok(response.status())
        })
        .await?;
        if status.is_success() {
            return Ok(());
        }
        Err(ProbeError::Refused {
            method: INITIALIZED,
            status,
        })
    }

    async fn ping<S>(&mut self, service: &S, limit: Duration) -> Result<Step<()>, ProbeError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
        S::Future: Send,
    {
        let id = self.next_id();
        let request = self.in_session(&message(Some(id), PING, "{}"));
        let (reply, _) = ask(service, request, id, limit).await?;
        match reply {
            Reply::Result(_) | Reply::Error(-32601) => Ok(Step::Got(())),
            Reply::Refused(status, _) if keeps_out(status) => Ok(Step::Alive),
            // Some servers answer 400 where the specification wants 404.
            Reply::Refused(StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST, _) => {
                Ok(Step::Legacy(reply))
            }
            Reply::Error(_) | Reply::Refused(..) => Err(refusal(PING, &reply)),
        }
    }

    fn in_session(&self, body: &str) -> Request<Body> {
        let mut request = post(body);
        if let Some(session) = &self.session {
            session.apply(&mut request);
        }
        request
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Session {
    fn apply<B>(&self, request: &mut Request<B>) {
        let fields = request.headers_mut();
        if let Some(id) = &self.id {
            fields.insert(headers::SESSION_ID, id.clone());
        }
        fields.insert(headers::PROTOCOL_VERSION, self.version.clone());
    }
}

// === requests ===

fn message(id: Option<u64>, method: &str, params: &str) -> String {
    let id = id.map_or_else(String::new, |id| format!(r#""id":{id},"#));
    format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{params}}}"#)
}

fn post(body: &str) -> Request<Body> {
    let mut request = Request::new(Body::full(body.to_owned()));
    *request.method_mut() = Method::POST;
    let fields = request.headers_mut();
    let json = HeaderValue::from_static("application/json");
    fields.insert(header::CONTENT_TYPE, json);
    let both = HeaderValue::from_static(headers::JSON_OR_EVENTS);
    fields.insert(header::ACCEPT, both);
    request
}

/// Files the facts of the request, as the layer `inspect` would, for the layers below.
fn file(request: &mut Request<Body>) {
    let body = request.body().bytes().cloned().unwrap_or_default();
    if let Ok(facts) = CallFacts::read(request.method(), request.headers(), &body) {
        Exchange::of(request).set_call(facts);
    }
}

/// Asks something; gives the reply, and the session that it begins.
async fn ask<S>(
    service: &S,
    mut request: Request<Body>,
    id: u64,
    limit: Duration,
) -> Result<(Reply, Option<HeaderValue>), ProbeError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send,
    S::Future: Send,
{
    file(&mut request);
    let answered = send(service, request, limit, async |response| {
        let mut session = response.headers().get(headers::SESSION_ID).cloned();
        if let Some(session) = &mut session {
            session.set_sensitive(true);
        }
        Ok((read(response, id).await?, session))
    })
    .await;
    match answered {
        Err(ProbeError::Call(error)) => match spoken(&error) {
            Some(reply) => Ok((reply, None)),
            None => Err(ProbeError::Call(error)),
        },
        answered => answered,
    }
}

/// What an upstream of ours says with an error, where a server over HTTP would have answered.
fn spoken(error: &BoxError) -> Option<Reply> {
    match Fault::of(&**error) {
        Fault::LegacyServer(_) => Some(Reply::Refused(StatusCode::BAD_REQUEST, None)),
        Fault::SessionGone | Fault::SessionRequired => {
            Some(Reply::Refused(StatusCode::NOT_FOUND, None))
        }
        Fault::UnsupportedVersion { .. } => {
            Some(Reply::Refused(StatusCode::BAD_REQUEST, Some(-32022)))
        }
        _ => None,
    }
}

/// The server answers, but not to everybody, or not now.
fn keeps_out(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
    )
}

fn refusal(method: &'static str, reply: &Reply) -> ProbeError {
    match *reply {
        Reply::Result(_) => ProbeError::NoAnswer,
        Reply::Error(code) | Reply::Refused(_, Some(code)) => ProbeError::Rpc { method, code },
        Reply::Refused(status, None) => ProbeError::Refused { method, status },
    }
}
