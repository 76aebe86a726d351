//! The server without its transports: a request in; an answer, or a call that will answer, out.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::call::{Call, Work};
use super::changes::{Changes, Filter};
use super::resources;
use super::revision::{Envelope, LEGACY, Level, MODERN, SERVER_INFO_KEY, negotiate};
use super::rpc::{Reply, Request, RpcError, text};
use super::session::Session;
use super::{prompts, tools};

const INSTRUCTIONS: &str =
    "A server to try things with. Its tools echo, wait, report progress, ask, and misbehave.";
/// For how long the lists may be kept, in milliseconds.
pub(crate) const LISTS_LAST: u64 = 60_000;
const MAX_CHILDREN: usize = 16;

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A pair of pipes; the process serves one client.
    Stdio,
    /// Streamable HTTP.
    Http,
}

/// The server: what all its clients share.
#[derive(Debug)]
pub(crate) struct Engine {
    transport: Transport,
    instance: String,
    ticks: AtomicU64,
    sessions: Arc<AtomicUsize>,
    changes: Changes,
    closing: CancellationToken,
    children: Mutex<Vec<Child>>,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A client in a session.
    Legacy(Arc<Session>),
    /// A client that says all about itself in each request.
    Modern(Envelope),
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Step {
    /// The answer is there.
    Answer(Reply),
    /// The answer takes time.
    Later(Box<Call>),
    /// The process ends, or over HTTP the connection does, and there is no answer.
    Crash,
    /// The answer is there, and it is the last: no more is read.
    Hang(Reply),
}

/// What a method comes to, before it is written out.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A result that is not to be kept.
    Result(Value),
    /// A result that may be kept, by anyone, for so many milliseconds.
    Cacheable(Value, u64),
    /// More is to be done.
    Later(Work),
    /// See [`Step::Crash`].
    Crash,
    /// See [`Step::Hang`].
    Hang(Value),
}

// === impl Engine ===

impl Engine {
    /// A server with nothing in it.
    pub(crate) fn new(transport: Transport) -> Arc<Self> {
        Arc::new(Self {
            transport,
            instance: format!("{:016x}", fastrand::u64(..)),
            ticks: AtomicU64::new(0),
            sessions: Arc::default(),
            changes: Changes::new(),
            closing: CancellationToken::new(),
            children: Mutex::default(),
        })
    }

    /// What carries the messages.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Tells this server from another in the same process.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// A session before its handshake.
    pub(crate) fn session(&self, id: Option<Box<str>>) -> Arc<Session> {
        Arc::new(Session::new(id, Arc::clone(&self.sessions)))
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Where changes are told.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Fires when the server closes; standing streams end then.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// How often the clock has ticked.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Ticks the clock.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Starts a process and keeps it, unless there are too many; gives its pid.
    pub(crate) fn spawn(&self, mut command: Command) -> std::io::Result<Option<u32>> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        if children.len() >= MAX_CHILDREN {
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        }
        let child = command.spawn()?;
        let pid = child.id();
        children.push(child);
        Ok(pid)
    }

    /// Handles one request.
    pub(crate) fn request(
        self: &Arc<Self>,
        request: Request,
        caller: Caller,
        headers: Option<&HeaderMap>,
    ) -> Step {
        let outcome = match &caller {
            Caller::Legacy(session) => self.legacy(&request, session, &caller, headers),
            Caller::Modern(_) => self.modern(&request, &caller, headers),
        };
        let answer = |value| Reply::result(&request.id, &value);
        match outcome {
            Ok(Outcome::Result(value)) => Step::Answer(answer(caller.dress(value, None))),
            Ok(Outcome::Cacheable(value, lasts)) => {
                Step::Answer(answer(caller.dress(value, Some(lasts))))
            }
            Ok(Outcome::Crash) => Step::Crash,
            Ok(Outcome::Hang(value)) => Step::Hang(answer(caller.dress(value, None))),
            Ok(Outcome::Later(work)) => Step::Later(Box::new(Call {
                progress: request
                    .params
                    .get("_meta")
                    .and_then(|meta| meta.get("progressToken"))
                    .cloned(),
                id: request.id,
                caller,
                engine: Arc::clone(self),
                work,
            })),
            Err(error) => Step::Answer(error.reply(Some(&request.id))),
        }
    }

    fn legacy(
        &self,
        request: &Request,
        session: &Session,
        caller: &Caller,
        headers: Option<&HeaderMap>,
    ) -> Result<Outcome, RpcError> {
        let params = &request.params;
        let done = Ok(Outcome::Result(json!({})));
        match request.method.as_str() {
            "ping" => done,
            "initialize" => {
                let asked = text(params, "protocolVersion")
                    .ok_or_else(|| RpcError::invalid_params("protocolVersion is not a string"))?;
                let version = negotiate(asked);
                session.open(
                    version,
                    params.get("capabilities").cloned().unwrap_or_default(),
                )?;
                Ok(Outcome::Result(json!({
                    "protocolVersion": version,
                    "capabilities": capabilities(),
                    "serverInfo": server_info(),
                    "instructions": INSTRUCTIONS,
                })))
            }
            _ if session.version().is_none() => {
                Err(RpcError::invalid_request("the session is not initialized"))
            }
            "logging/setLevel" => {
                session.set_level(Level::read(params.get("level").unwrap_or(&Value::Null))?);
                done
            }
            "resources/subscribe" => {
                session.subscribe(resources::require(params, caller)?)?;
                done
            }
            "resources/unsubscribe" => {
                session.unsubscribe(resources::require(params, caller)?);
                done
            }
            _ => self.shared(request, caller, headers),
        }
    }

    fn modern(
        &self,
        request: &Request,
        caller: &Caller,
        headers: Option<&HeaderMap>,
    ) -> Result<Outcome, RpcError> {
        match request.method.as_str() {
            "server/discover" => Ok(Outcome::Cacheable(
                json!({
                    "supportedVersions": [MODERN],
                    "capabilities": capabilities(),
                    "instructions": INSTRUCTIONS,
                }),
                LISTS_LAST,
            )),
            "subscriptions/listen" => {
                Ok(Outcome::Later(Work::Listen(Filter::read(&request.params)?)))
            }
            _ => self.shared(request, caller, headers),
        }
    }

    /// What both eras have.
    fn shared(
        &self,
        request: &Request,
        caller: &Caller,
        headers: Option<&HeaderMap>,
    ) -> Result<Outcome, RpcError> {
        let params = &request.params;
        match request.method.as_str() {
            "tools/call" => tools::call(self, params, caller, headers),
            "tools/list" => list(request, "tools", tools::catalogue()),
            "resources/list" => list(request, "resources", resources::catalogue()),
            "resources/templates/list" => {
                list(request, "resourceTemplates", resources::templates())
            }
            "resources/read" => resources::read(self, params, caller),
            "prompts/list" => list(request, "prompts", prompts::catalogue()),
            "prompts/get" => prompts::get(params),
            "completion/complete" => prompts::complete(params),
            unknown => Err(RpcError::unknown_method(unknown)),
        }
    }
}

/// A list, which has one page.
fn list(request: &Request, name: &str, items: &Value) -> Result<Outcome, RpcError> {
    match request.params.get("cursor") {
        None | Some(Value::Null) => Ok(Outcome::Cacheable(json!({name: items}), LISTS_LAST)),
        Some(_) => Err(RpcError::invalid_params("there is no such cursor")),
    }
}

fn capabilities() -> Value {
    json!({
        "completions": {},
        "logging": {},
        "prompts": {"listChanged": true},
        "resources": {"listChanged": true, "subscribe": true},
        "tools": {"listChanged": true},
    })
}

fn server_info() -> Value {
    json!({"name": "ziggurat-demo", "version": env!("CARGO_PKG_VERSION")})
}

// === impl Caller ===

impl Caller {
    /// Adds what a result of the caller's era must have.
    pub(crate) fn dress(&self, mut result: Value, lasts: Option<u64>) -> Value {
        if matches!(self, Self::Modern(_)) {
            if result.get("resultType").is_none() {
                result["resultType"] = json!("complete");
            }
            result["_meta"][SERVER_INFO_KEY] = server_info();
            if let Some(lasts) = lasts {
                result["ttlMs"] = json!(lasts);
                result["cacheScope"] = json!("public");
            }
        }
        result
    }

    /// Whether a log message of this level is wanted.
    pub(crate) fn hears(&self, level: Level) -> bool {
        match self {
            Self::Legacy(session) => session.hears(level),
            Self::Modern(envelope) => envelope.level.is_some_and(|least| level >= least),
        }
    }

    /// Whether the client declared a capability.
    pub(crate) fn can(&self, capability: &str) -> bool {
        match self {
            Self::Legacy(session) => session.capabilities().get(capability).is_some(),
            Self::Modern(envelope) => envelope.capabilities.get(capability).is_some(),
        }
    }

    /// The revision of the call.
    pub(crate) fn version(&self) -> &'static str {
        match self {
            Self::Legacy(session) => session.version().unwrap_or(LEGACY[LEGACY.len() - 1]),
            Self::Modern(_) => MODERN,
        }
    }
}
