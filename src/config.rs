//! The checked settings: plain values that the rest of the program is built from.
//!
//! A config travels in one direction: the YAML text becomes a tree that knows its lines (`node`), environment
//! variables are put in (`interpolate`), the tree becomes the sections that a file may have (`raw`), and these become the
//! values of this module (`check`). Each step collects its mistakes and goes on, so that one look shows them all. Whoever
//! holds a [`Config`] need not check anything again: names resolve, clocks and counts are not zero, and every default is
//! filled in.
//!
//! `explain` is the way back: from a [`Config`] to YAML that means the same. The defaults are written once, in `raw`,
//! where the JSON Schema and the reader both find them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ziggurat_layers::balance::{BalanceSettings, Policy};
use ziggurat_layers::circuit::CircuitSettings;
use ziggurat_layers::health::{HttpProbe, outlier::OutlierSettings};
use ziggurat_layers::http_sse::Serve;
use ziggurat_layers::intercept::rules::RuleSet;
use ziggurat_layers::pattern::Pattern;
use ziggurat_layers::rate_limit::{KeyPart, RateLimitSettings};
use ziggurat_layers::replay::ReplaySettings;
use ziggurat_layers::resume::ResumeSettings;
use ziggurat_layers::retry::RetrySettings;
use ziggurat_layers::session::SessionSettings;
use ziggurat_layers::share::Share;
use ziggurat_layers::timeout::TimeoutSettings;
use ziggurat_layers::upstream::sse::Transport;

pub use self::import::import;
pub use self::mistake::{ConfigErrors, Warning};
pub use self::origins::Origins;
pub use self::source::{Overrides, Quick, Source};

mod check;
mod endpoint;
mod explain;
mod import;
mod interpolate;
mod mistake;
mod nearest;
mod node;
mod origins;
mod raw;
mod read;
mod rules;
mod schema;
mod secret;
mod source;
mod value;
mod yaml;

#[cfg(test)]
mod tests;

/// Everything that a running ziggurat is built from.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// Where probes, scrapers and operators connect.
    pub admin: Admin,
    /// Whether clients may connect from other machines although nobody is authenticated.
    pub insecure_bind: bool,
    /// The terrace that every request passes.
    pub server: Server,
    /// The routes, in the order in which they are tried; each names an upstream of this config.
    pub routes: Vec<Route>,
    /// The upstreams, each with a name of its own.
    pub upstreams: Vec<Upstream>,
    /// Which values came from the environment, so that they can be shown as they were written.
    pub origins: Origins,
}

/// The listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 asks the system for a free one.
    pub address: SocketAddr,
    /// The files for TLS; without them the listener speaks plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address; port 0 asks the system for a free one.
    pub address: SocketAddr,
    /// Whether a token is asked for. If not, only this machine can connect.
    pub auth: bool,
    /// The tokens, by the names of those who have them.
    pub tokens: Vec<(String, SecretText)>,
    /// Names that `Host` may carry, beside loopback names and addresses.
    pub hosts: Vec<String>,
}

/// The PEM files of a TLS listener; both could be read when the config was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What applies to every request on the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The largest request body, in bytes.
    pub body_limit: Option<u64>,
    /// How many calls may be in flight.
    pub concurrency: Option<NonZeroUsize>,
    /// How many standing streams may be open; they do not count as calls.
    pub streams: Option<NonZeroUsize>,
    /// The names that `Host` may carry, in lower case, without ports, IPv6 in brackets.
    pub hosts: Option<Vec<String>>,
    /// The names that `Origin` may carry, written like [`Server::hosts`].
    pub origins: Option<Vec<String>>,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// After how much silence an event stream gets a comment.
    pub heartbeat: Option<Duration>,
    /// How long a client may read nothing of what there is to send.
    pub write_stall: Option<Duration>,
    /// Whether each operation is logged.
    pub access_log: bool,
    /// The texts of the keys that seal session ids, the newest first.
    pub session_keys: Vec<SecretText>,
    /// How many bytes of event streams are kept in all, for clients that come back.
    pub replay_memory: u64,
    /// How a shutdown goes.
    pub drain: Drain,
}

/// The text of a key or a token, which is right, and which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub(crate) String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(secret::MASK)
    }
}

/// The two clocks of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long new requests are still taken while readiness already says no; may be zero.
    pub delay: Duration,
    /// How long calls in flight may take to finish after that; may be zero.
    pub limit: Duration,
}

/// A rule for requests, and what happens to those that it matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The name in logs and metrics: as given, else the path, with the host before it where there is one.
    pub name: String,
    /// The path that matches, with everything below it: `/files` takes `/files/a` but not `/filesystem`.
    pub path: String,
    /// The host that a request must name, if it matters.
    pub host: Option<String>,
    /// The headers that a request must carry.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What the requests are.
    pub protocol: Protocol,
    /// The name of the upstream.
    pub upstream: String,
    /// Whether, and when, clients of the transport HTTP+SSE (2024-11-05) are served.
    pub http_sse: Serve,
    /// The client's headers that are let through although they are secrets.
    pub forward: Vec<HeaderName>,
    /// The rules for its messages.
    pub intercept: Option<Intercept>,
    /// How long a call may take.
    pub deadline: Option<Deadline>,
    /// The sessions of legacy clients; whether their upstream is stateless is its own setting.
    pub session: Option<SessionSettings>,
    /// How many calls are let through in how much time; each limit has a name of its own.
    pub rate_limit: Vec<RateLimitSettings>,
    /// The event streams that clients may come back to.
    pub replay: Option<ReplaySettings>,
    /// How many calls may be in flight on the route.
    pub concurrency: Option<NonZeroUsize>,
    /// How a call that failed is tried again; whether annotations are believed is the upstream's.
    pub retry: Option<RetrySettings>,
    /// How our own failures are told.
    pub errors: Errors,
}

/// What the requests of a route are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MCP over Streamable HTTP: the envelope is read.
    Mcp,
    /// Plain HTTP, server-sent events included: bodies pass unread.
    Http,
}

/// The rules of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Intercept {
    /// The rules.
    pub rules: RuleSet,
    /// The file that they stand in, as the config names it; without it, they stand in the config.
    pub file: Option<PathBuf>,
    /// The most bytes of a message that they are shown.
    pub message_cap: u64,
}

/// How the failure of an MCP call is told to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    /// A JSON-RPC error in HTTP 200, wherever the specification does not ask for a status.
    Envelope,
    /// The same error with the HTTP status that belongs to it.
    Status,
}

/// How long a call may go without its final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time without the final answer and without a progress notification; each notification starts it anew.
    pub limit: Duration,
    /// The time that a call may take in all, however much progress it makes; never shorter than `limit`.
    pub cap: Duration,
}

/// A server that routes lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The name that routes use, and that logs and metrics show.
    pub name: String,
    /// The clocks of one attempt.
    pub timeouts: Timeouts,
    /// How many calls may be in flight on an endpoint.
    pub concurrency: Option<NonZeroUsize>,
    /// How calls are spread over the endpoints.
    pub balance: BalanceSettings,
    /// When an endpoint is left alone.
    pub circuit: Option<CircuitSettings>,
    /// When a tool is left alone, on all endpoints.
    pub tool_circuit: Option<CircuitSettings>,
    /// What is different for some tools; the first that fits a tool counts.
    pub tools: Vec<ToolRule>,
    /// How endpoints are probed.
    pub health: Option<Health>,
    /// When an endpoint is left alone that does worse than the others.
    pub outlier: Option<OutlierSettings>,
    /// How event streams that break are gone on with.
    pub resume: Option<ResumeSettings>,
    /// Whether the server's annotations of its tools are believed.
    pub trust_annotations: bool,
    /// Whether the server keeps nothing of a session.
    pub stateless: bool,
    /// The replicas of the server: at least one, each with a name of its own.
    pub endpoints: Vec<Replica>,
}

/// What is different for some tools: at least one thing. What is `None` is as for all others; a `None` within is off.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolRule {
    /// The tools; no other rule of the upstream has the same pattern.
    pub tool: Pattern,
    /// How long a call may take, whatever its route says.
    pub deadline: Option<Option<Deadline>>,
    /// The clocks of one attempt; one that the file leaves out is the upstream's.
    pub timeouts: Option<TimeoutSettings>,
    /// How many calls of these tools may be in flight on an endpoint.
    pub concurrency: Option<Option<NonZeroUsize>>,
    /// When such a tool is left alone.
    pub circuit: Option<Option<CircuitSettings>>,
}

/// How the endpoints of an upstream are probed.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked of each.
    pub probe: ProbeKind,
    /// What [`ProbeKind::Http`] asks for.
    pub http: HttpProbe,
    /// The pause between two probes.
    pub interval: Duration,
    /// By how much of the interval a pause may be longer or shorter.
    pub jitter: Share,
    /// How long each request of a probe may take.
    pub timeout: Duration,
    /// After how many failures in a row an endpoint is out.
    pub fall: NonZeroU32,
    /// After how many successes in a row it is back.
    pub rise: NonZeroU32,
    /// Whether a command is started just to be probed.
    pub wake: bool,
}

/// What a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// The answer of an MCP server.
    Mcp,
    /// A connection.
    Tcp,
    /// The response to a GET.
    Http,
}

/// One replica of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Its name in logs, metrics and session ids: its address (and path, unless that is `/` or `/mcp`) or its program, and a number where that is taken.
    pub name: String,
    /// Its share of the calls, against the others: 1 to 1000.
    pub weight: u32,
    /// Replicas of a higher number are used only while none of a lower number can be.
    pub priority: u32,
    /// How it is reached.
    pub endpoint: Endpoint,
}

/// The policy words of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    P2c,
    LeastRequest,
    RoundRobin,
    Random,
    Hash,
}

/// The words of a file for what a rate limit tells calls apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    /// Nothing.
    Route,
    Key(KeyPart),
}

/// The clocks of one attempt.
///
/// `None` means that there is no such clock. That is what `head` and `idle` are when the file does not set them and the upstream serves MCP
/// routes, where the deadline rules; an upstream of plain HTTP routes alone gets defaults for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// How long a connection may take to be made, TLS included.
    pub connect: Duration,
    /// How long the head of the response may take.
    pub head: Option<Duration>,
    /// How long a response body may be silent.
    pub idle: Option<Duration>,
}

/// How a replica is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Endpoint {
    /// A server that is reached over HTTP.
    Http(HttpEndpoint),
    /// A command that speaks MCP over its stdin and stdout.
    Stdio(StdioEndpoint),
}

/// A server that is reached over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEndpoint {
    /// The URL, `http` or `https`, with a host, and without a user, a password or a fragment.
    pub url: http::Uri,
    /// How often its host name is looked up, so that each address of it is an endpoint of its own; without it, any of them is used.
    pub each_address: Option<Duration>,
    /// Where to connect, whatever the name says. No file sets it: it is put in for each address that was found.
    pub address: Option<IpAddr>,
    /// Which transport it speaks.
    pub transport: Transport,
    /// Headers that every request to it carries; their values are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether plain HTTP starts with HTTP/2 at once (over TLS, HTTP/2 is negotiated anyway).
    pub http2: bool,
    /// What TLS needs beyond the roots of the system.
    pub tls: ClientTls,
    /// How long an unused connection is kept.
    pub pool_idle: Duration,
    /// How often an idle TCP connection is probed.
    pub keepalive: Duration,
}

/// TLS towards an upstream: PEM files, which could be read when the config was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The roots to trust instead of those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate to present; given if, and only if, `key` is.
    pub certificate: Option<PathBuf>,
    /// The private key of `certificate`.
    pub key: Option<PathBuf>,
}

/// A command that speaks MCP over its stdin and stdout.
#[derive(Clone, PartialEq, Eq)]
pub struct StdioEndpoint {
    /// The program and its arguments; never empty, and never passed to a shell.
    pub command: Vec<String>,
    /// Environment variables that the command gets beside the few that are always let through.
    pub env: Vec<(String, String)>,
    /// The folder that it runs in; without it, the one that ziggurat runs in.
    pub cwd: Option<PathBuf>,
    /// Who shares a child.
    pub isolation: Isolation,
    /// How long a child, or a session of a shared child, may go unused.
    pub idle: Duration,
    /// How old a child, or a session with it, may grow before it is to end.
    pub lifetime: Option<Duration>,
    /// After how many calls a child that several clients share is replaced.
    pub recycle: Option<NonZeroUsize>,
    /// How many children may run.
    pub max: NonZeroUsize,
    /// How many children are kept ready before anybody asks for one.
    pub warm: Option<NonZeroUsize>,
    /// How many children may be starting at a time that nobody waits for.
    pub starting: NonZeroUsize,
    /// How many sessions of legacy clients its children may have in all.
    pub sessions: NonZeroUsize,
    /// How long the child may take to answer the first message.
    pub handshake: Duration,
    /// Whether a client is told what the command has answered before, while its own child is starting.
    pub snapshot: bool,
    /// The longest line that the child may write, in bytes.
    pub line_limit: u64,
    /// How long a waiting call may be silent before its answer turns into an event stream.
    pub silence: Duration,
    /// How a child is ended.
    pub stop: Stop,
}

/// Who shares a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// A child for each legacy session; modern calls, which have none, share one.
    PerSession,
    /// One child for everybody.
    Shared,
    /// One child for each principal.
    PerPrincipal,
}

/// How a child is ended: its stdin is closed, then SIGTERM, then SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How long it may take to exit once its stdin is closed.
    pub stdin: Duration,
    /// How long it may take to exit after SIGTERM.
    pub term: Duration,
}

// === impl Choice ===

impl Choice {
    /// What a policy is called.
    pub(crate) fn of(policy: &Policy) -> Self {
        match policy {
            Policy::P2c => Self::P2c,
            Policy::LeastRequest => Self::LeastRequest,
            Policy::RoundRobin => Self::RoundRobin,
            Policy::Random => Self::Random,
            Policy::Hash(_) => Self::Hash,
        }
    }
}

// === impl StdioEndpoint ===

impl StdioEndpoint {
    /// Whether both start the same process for the same clients: then its children serve on when the rest changes.
    pub fn is_same_process(&self, other: &Self) -> bool {
        self.command == other.command
            && self.env == other.env
            && self.cwd == other.cwd
            && self.isolation == other.isolation
    }
}

/// Shows the names of the variables, never their values: settings end up in logs.
impl fmt::Debug for StdioEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("StdioEndpoint")
            .field("command", &secret::mask_arguments(&self.command))
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("isolation", &self.isolation)
            .field("idle", &self.idle)
            .field("lifetime", &self.lifetime)
            .field("recycle", &self.recycle)
            .field("max", &self.max)
            .field("warm", &self.warm)
            .field("starting", &self.starting)
            .field("sessions", &self.sessions)
            .field("handshake", &self.handshake)
            .field("snapshot", &self.snapshot)
            .field("line_limit", &self.line_limit)
            .field("silence", &self.silence)
            .field("stop", &self.stop)
            .finish()
    }
}
