//! One HTTP request in, one response out.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use serde_json::value::RawValue;

use super::events::{Exchange, Standing, json};
use super::headers::{self, SESSION, VERSION};
use super::sessions::{Entry, Sessions, new_id};
use super::{Body, Cut};
use crate::demo::PATH;
use crate::demo::engine::{Caller, Engine, Step};
use crate::demo::outlet::{Outlet, outlet};
use crate::demo::revision::{self, Claim, LEGACY, MODERN, WITH_BATCHES};
use crate::demo::rpc::{self, Id, Message, Params, Reply, Request, RpcError};

/// The largest request body that is read.
const MAX_BODY: usize = 16 << 20;
/// How many sessions there may be.
const MAX_SESSIONS: usize = 1024;

/// Answers HTTP requests.
pub(super) struct Handler {
    engine: Arc<Engine>,
    sessions: Sessions,
}

/// A response that says why there is no other.
type Refusal = Box<Response<Body>>;

// === impl Handler ===

impl Handler {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            sessions: Sessions::up_to(MAX_SESSIONS),
        }
    }

    pub(super) async fn handle(
        &self,
        request: HttpRequest<Incoming>,
    ) -> Result<Response<Body>, Cut> {
        if request.uri().path() != PATH {
            return Ok(plain(StatusCode::NOT_FOUND, "the MCP endpoint is /mcp\n"));
        }
        let (head, body) = request.into_parts();
        let headers = head.headers;
        if head.method == Method::POST {
            return match receive(&headers, body).await {
                Ok(body) => self.post(&headers, &body).await,
                Err(refusal) => Ok(*refusal),
            };
        }
        let sessionless = headers::one(&headers, &VERSION) == Some(MODERN);
        if sessionless || (head.method != Method::GET && head.method != Method::DELETE) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
            let allowed = HeaderValue::from_static(if sessionless {
                "POST"
            } else {
                "POST, GET, DELETE"
            });
            response.headers_mut().insert(header::ALLOW, allowed);
            return Ok(response);
        }
        let answered = if head.method == Method::GET {
            self.get(&headers)
        } else {
            self.delete(&headers)
        };
        Ok(answered.unwrap_or_else(|refusal| *refusal))
    }

    async fn post(&self, headers: &HeaderMap, body: &Bytes) -> Result<Response<Body>, Cut> {
        if let Some(elements) = rpc::batch(body) {
            return self.batch(headers, &elements);
        }
        match rpc::read(body) {
            Ok(Message::Request(request)) => self.request(headers, request).await,
            Ok(Message::Notification { method, params }) => {
                Ok(self.told(headers, |entry| notified(entry, &method, &params)))
            }
            Ok(Message::Response { .. }) if is_modern(headers) => Ok(refuse(
                &RpcError::invalid_request("a response is not accepted in this revision"),
            )),
            Ok(Message::Response { id, outcome }) => {
                Ok(self.told(headers, |entry| entry.session.answered(&id, outcome)))
            }
            Err(malformed) => Ok(json(malformed.error.reply(malformed.id.as_ref()))),
        }
    }

    /// Takes a message that wants no answer. The modern era has none that mean anything over HTTP.
    fn told(&self, headers: &HeaderMap, take: impl FnOnce(&Entry)) -> Response<Body> {
        if !is_modern(headers) {
            match self.entry(headers, None) {
                Ok(entry) => take(&entry),
                Err(refusal) => return *refusal,
            }
        }
        plain(StatusCode::ACCEPTED, "")
    }

    async fn request(&self, headers: &HeaderMap, request: Request) -> Result<Response<Body>, Cut> {
        if request.method == "initialize" {
            return Ok(self.initialize(headers, request));
        }
        if is_modern(headers) || revision::is_modern(&request.method, &request.params) {
            return self.modern(headers, request).await;
        }
        let entry = match self.entry(headers, Some(&request.id)) {
            Ok(entry) => entry,
            Err(refusal) => return Ok(*refusal),
        };
        let exchange = {
            let (outlet, outgoing) = outlet();
            match self.legacy(&entry, headers, request, &outlet)? {
                Some(reply) => return Ok(json(legacy_status(reply))),
                None => Exchange::watched(outgoing),
            }
        };
        // The session owns the call; this response must not keep the session.
        drop(entry);
        Ok(exchange.respond().await)
    }

    fn initialize(&self, headers: &HeaderMap, request: Request) -> Response<Body> {
        let id = request.id.clone();
        if headers.contains_key(&SESSION) {
            let error = RpcError::invalid_request("the session is initialized already");
            return json(error.reply(Some(&id)));
        }
        let Some(session_id) = new_id() else {
            return unavailable(&id, "there is no randomness for a session id");
        };
        let session = self.engine.session(Some(session_id.clone()));
        let caller = Caller::Legacy(Arc::clone(&session));
        let Step::Answer(reply) = self.engine.request(request, caller, None) else {
            return unavailable(&id, "the handshake was not answered");
        };
        let mut response = json(legacy_status(reply));
        if session.version().is_some() {
            let Ok(value) = HeaderValue::from_str(&session_id) else {
                return unavailable(&id, "the session id is no header value");
            };
            if self.sessions.insert(session_id, session).is_err() {
                return unavailable(&id, "there are too many sessions, and none is idle");
            }
            response.headers_mut().insert(SESSION, value);
        }
        response
    }

    /// Handles a request of a session: the answer, or `None` when the call runs and speaks through `outlet`.
    fn legacy(
        &self,
        entry: &Entry,
        headers: &HeaderMap,
        request: Request,
        outlet: &Outlet,
    ) -> Result<Option<Reply>, Cut> {
        let caller = Caller::Legacy(Arc::clone(&entry.session));
        match self.engine.request(request, caller, Some(headers)) {
            Step::Answer(reply) | Step::Hang(reply) => Ok(Some(reply)),
            Step::Crash => Err(Cut),
            Step::Later(call) => {
                let mut inflight = entry.inflight();
                if !inflight.has_room() {
                    return Ok(Some(
                        RpcError::internal("too many calls are running").reply(Some(&call.id)),
                    ));
                }
                let outlet = outlet.clone();
                inflight.spawn(call.id.clone(), async move {
                    let reply = call.run(outlet.clone()).await;
                    outlet.finish(reply).await;
                });
                Ok(None)
            }
        }
    }

    async fn modern(&self, headers: &HeaderMap, request: Request) -> Result<Response<Body>, Cut> {
        let accepted = Claim::read(&request.params).and_then(|claim| {
            headers::check(headers, &request, claim.version())?;
            claim.accept()
        });
        let caller = match accepted {
            Ok(envelope) => Caller::Modern(envelope),
            Err(error) => return Ok(json(error.reply(Some(&request.id)))),
        };
        match self.engine.request(request, caller, Some(headers)) {
            Step::Answer(reply) | Step::Hang(reply) => Ok(json(reply)),
            Step::Crash => Err(Cut),
            Step::Later(call) => {
                let (outlet, outgoing) = outlet();
                Ok(Exchange::driven(outgoing, call.run(outlet)).respond().await)
            }
        }
    }

    /// Handles a batch, which one legacy revision has. Its answers come as events.
    fn batch(&self, headers: &HeaderMap, elements: &[&RawValue]) -> Result<Response<Body>, Cut> {
        if is_modern(headers) {
            return Ok(refuse(&RpcError::invalid_request(
                "the body is not one message",
            )));
        }
        let entry = match self.entry(headers, None) {
            Ok(entry) => entry,
            Err(refusal) => return Ok(*refusal),
        };
        if entry.session.version() != Some(WITH_BATCHES) || elements.is_empty() {
            return Ok(refuse(&RpcError::invalid_request(
                "batches are not part of this revision, or it is empty",
            )));
        }
        let (outlet, outgoing) = outlet();
        let mut answers = Vec::new();
        let mut requests = false;
        for element in elements {
            match rpc::read(element.get().as_bytes()) {
                Ok(Message::Request(request)) => {
                    requests = true;
                    answers.extend(self.legacy(&entry, headers, request, &outlet)?);
                }
                Ok(Message::Notification { method, params }) => notified(&entry, &method, &params),
                Ok(Message::Response { id, outcome }) => entry.session.answered(&id, outcome),
                Err(malformed) => {
                    requests = true;
                    answers.push(malformed.error.reply(malformed.id.as_ref()));
                }
            }
        }
        if !requests {
            return Ok(plain(StatusCode::ACCEPTED, ""));
        }
        Ok(Exchange::watched(outgoing).stream(answers))
    }

    fn get(&self, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        if !headers::accepts(headers, &["text/event-stream"]) {
            return Err(Box::new(plain(StatusCode::NOT_ACCEPTABLE, "")));
        }
        let entry = self.entry(headers, None)?;
        let standing = Standing {
            engine: Arc::clone(&self.engine),
            session: Arc::clone(&entry.session),
            hearing: self.engine.changes().listen(),
            over: entry.begin_stream(),
        };
        Ok(standing.respond())
    }

    fn delete(&self, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        let entry = self.entry(headers, None)?;
        if let Some(id) = entry.session.id() {
            self.sessions.remove(id);
        }
        Ok(plain(StatusCode::NO_CONTENT, ""))
    }

    /// The session that a legacy request names.
    fn entry(&self, headers: &HeaderMap, id: Option<&Id>) -> Result<Arc<Entry>, Refusal> {
        let refuse = |message, status| {
            let error = RpcError::invalid_request(message).with_status(status);
            Box::new(json(error.reply(id)))
        };
        if headers::one(headers, &VERSION).is_some_and(|version| !LEGACY.contains(&version)) {
            return Err(refuse(
                "the header mcp-protocol-version is not supported",
                400,
            ));
        }
        let named = headers::one(headers, &SESSION)
            .ok_or_else(|| refuse("the header mcp-session-id is missing", 400))?;
        self.sessions
            .get(named)
            .ok_or_else(|| refuse("there is no such session", 404))
    }
}

/// Whether the version header says that a request has no session. An unknown version counts as one still to come,
/// unless the request names a session.
fn is_modern(headers: &HeaderMap) -> bool {
    headers::one(headers, &VERSION).is_some_and(|version| {
        version == MODERN || (!LEGACY.contains(&version) && !headers.contains_key(&SESSION))
    })
}

fn notified(entry: &Entry, method: &str, params: &Params) {
    if method == "notifications/cancelled" {
        entry
            .inflight()
            .cancel(params.get("requestId").unwrap_or(&Value::Null));
    }
}

/// Reads the body of a POST.
async fn receive(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Refusal> {
    let refuse = |status, why| Err(Box::new(plain(status, why)));
    if !headers::is_json(headers) {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be application/json\n",
        );
    }
    if !headers::accepts(headers, &["application/json", "text/event-stream"]) {
        let why = "accept must list application/json and text/event-stream\n";
        return refuse(StatusCode::NOT_ACCEPTABLE, why);
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n")
        }
        Err(_) => refuse(StatusCode::BAD_REQUEST, "the body ended early\n"),
    }
}

/// In the legacy era an error to a request travels in HTTP 200.
fn legacy_status(reply: Reply) -> Reply {
    Reply {
        status: 200,
        ..reply
    }
}

fn refuse(error: &RpcError) -> Response<Body> {
    json(error.reply(None))
}

fn unavailable(id: &Id, why: &str) -> Response<Body> {
    json(RpcError::internal(why).with_status(503).reply(Some(id)))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    if !text.is_empty() {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
