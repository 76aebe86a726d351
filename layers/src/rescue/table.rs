//! What each fault means to a client: one row each, none left out.

use std::time::Duration;

use http::StatusCode;

use super::AnswerMissing;
use crate::{
    error::Outcome,
    fault::{Blame, Fault},
};

/// What a fault means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The stable word: in errors, metrics and logs.
    pub kind: &'static str,
    /// The layer that found it.
    pub layer: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// The code that MCP defines for it.
    pub code: Option<i64>,
    /// The specification gives it its status, also where errors usually come in 200.
    pub keeps_status: bool,
    /// The clock that ran out.
    pub phase: Option<&'static str>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// What is known of the call's effect.
    pub outcome: Outcome,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Each kind with its layer, as labels.
pub(super) const KINDS: &[(&str, &str)] = &[
    ("balance", "endpoint_gone"),
    ("balance", "no_endpoint"),
    ("balance", "queue_full"),
    ("balance", "queue_timeout"),
    ("body_limit", "body_too_large"),
    ("chaos", "injected"),
    ("circuit", "circuit_open"),
    ("deadline", "deadline_exceeded"),
    ("drain", "draining"),
    ("gate", "endpoint_held"),
    ("guard", "bad_host"),
    ("guard", "host_refused"),
    ("guard", "origin_refused"),
    ("http", "connect_failed"),
    ("http", "connect_timeout"),
    ("http", "unforwardable"),
    ("http", "upstream_broken"),
    ("http_sse", "bad_endpoint"),
    ("http_sse", "no_channel"),
    ("http_sse", "upstream_status"),
    ("inspect", "bad_message"),
    ("inspect", "header_mismatch"),
    ("inspect", "unsupported_media"),
    ("inspect", "upload_failed"),
    ("inspect", "upload_timeout"),
    ("intercept", "blocked"),
    ("intercept", "too_many_paused"),
    ("intercept", "unreadable"),
    ("limit", "overloaded"),
    ("limit", "tool_busy"),
    ("rate_limit", "rate_limited"),
    ("replay", "events_lost"),
    ("rescue", "answer_missing"),
    ("rescue", "internal_error"),
    ("route", "no_route"),
    ("route", "unsafe_path"),
    ("session", "bad_session_id"),
    ("session", "session_gone"),
    ("session", "too_many_sessions"),
    ("stdio", "answer_garbled"),
    ("stdio", "answer_too_long"),
    ("stdio", "legacy_server"),
    ("stdio", "meta_missing"),
    ("stdio", "misplaced"),
    ("stdio", "no_such_method"),
    ("stdio", "not_acceptable"),
    ("stdio", "not_allowed"),
    ("stdio", "server_busy"),
    ("stdio", "server_gone"),
    ("stdio", "session_required"),
    ("stdio", "slow_reader"),
    ("stdio", "start_delayed"),
    ("stdio", "start_failed"),
    ("stdio", "start_timeout"),
    ("stdio", "unsupported_version"),
    ("switch", "switched_off"),
    ("timeout", "upstream_silent"),
    ("timeout", "upstream_timeout"),
];

/// The clocks whose running out is told by a fault.
pub(super) const PHASES: &[&str] = &["connect", "deadline", "head", "idle", "upload"];

const SOON: Duration = Duration::from_secs(1);

impl Row {
    /// The row of a fault.
    #[expect(clippy::too_many_lines, reason = "a table: one row for each fault")]
    pub fn of(fault: &Fault) -> Self {
        match fault {
            Fault::BadMessage(_) => client("inspect", "bad_message", 400),
            Fault::HeaderMismatch(_) => client("inspect", "header_mismatch", 400).code(-32020),
            Fault::UnsupportedVersion { .. } => {
                client("stdio", "unsupported_version", 400).code(-32022)
            }
            Fault::NoSuchMethod => client("stdio", "no_such_method", 404).code(-32601),
            Fault::MetaMissing(_) => client("stdio", "meta_missing", 400).code(-32602),
            Fault::Misplaced(_) => client("stdio", "misplaced", 400),
            Fault::BodyTooLarge(_) => client("body_limit", "body_too_large", 413),
            Fault::UnsupportedMedia(_) => client("inspect", "unsupported_media", 415),
            Fault::UploadTimeout => client("inspect", "upload_timeout", 408).phase("upload"),
            Fault::UploadFailed => client("inspect", "upload_failed", 400),
            Fault::BadHost => client("guard", "bad_host", 400),
            Fault::HostRefused => client("guard", "host_refused", 403),
            Fault::OriginRefused => client("guard", "origin_refused", 403),
            Fault::UnsafePath => client("route", "unsafe_path", 400),
            Fault::Unforwardable(_) => client("http", "unforwardable", 400),
            Fault::NoRoute => client("route", "no_route", 404),
            Fault::SessionRequired => client("stdio", "session_required", 400),
            Fault::SessionGone => client("session", "session_gone", 404),
            Fault::SessionsFull(_, again) => row("session", "too_many_sessions", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(*again),
            Fault::BadSessionId => row("session", "bad_session_id", 502),
            Fault::NoChannel => client("http_sse", "no_channel", 404),
            Fault::UpstreamStatus(status) if status.is_client_error() => {
                row("http_sse", "upstream_status", status.as_u16()).outcome(Outcome::Rejected)
            }
            Fault::UpstreamStatus(status) if status.is_server_error() => {
                row("http_sse", "upstream_status", status.as_u16())
            }
            Fault::BadEndpoint(_) => row("http_sse", "bad_endpoint", 502).unsent(),
            Fault::UpstreamStatus(_) => row("http_sse", "upstream_status", 502),
            // 403 as a status would tell a client to get another token.
            Fault::Blocked { sent, .. } => row("intercept", "blocked", 403)
                .by(Blame::Client)
                .outcome(if *sent {
                    Outcome::Unknown
                } else {
                    Outcome::Rejected
                }),
            Fault::Unreadable { sent: true, .. } => row("intercept", "unreadable", 502),
            Fault::Unreadable { sent: false, .. } => client("intercept", "unreadable", 400),
            Fault::PauseFull { sent, .. } => {
                let row = row("intercept", "too_many_paused", 503).by(Blame::Proxy);
                // What its upstream has done must not be done again.
                if *sent { row } else { row.unsent().again(SOON) }
            }
            Fault::NotAllowed => client("stdio", "not_allowed", 405),
            Fault::NotAcceptable => client("stdio", "not_acceptable", 406),
            Fault::LegacyServer(_) => client("stdio", "legacy_server", 400),
            Fault::Shed(_) => row("limit", "overloaded", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(SOON),
            // What is never let in is no better for waiting.
            Fault::ToolBusy { later, .. } => Self {
                retry_after: later.then_some(SOON),
                ..row("limit", "tool_busy", 503).unsent().by(Blame::Proxy)
            },
            // Who asks too much is told so, also where that must not end his session; a warning for each would be a flood in the log.
            Fault::RateLimited(limited) => Self {
                retry_after: limited.retry_after,
                ..row("rate_limit", "rate_limited", 429)
                    .unsent()
                    .by(Blame::Client)
            },
            Fault::GateShut(_, again) => row("gate", "endpoint_held", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(again.unwrap_or(SOON)),
            Fault::CircuitOpen(_, _, again) => row("circuit", "circuit_open", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(again.unwrap_or(SOON)),
            Fault::SwitchedOff(_) => row("switch", "switched_off", 503).unsent().by(Blame::Proxy),
            Fault::Injected { sent } => row("chaos", "injected", 502).sent(*sent),
            Fault::NoEndpoint(_, again) => row("balance", "no_endpoint", 503)
                .unsent()
                .again(again.unwrap_or(SOON)),
            Fault::EndpointGone => row("balance", "endpoint_gone", 503).unsent(),
            Fault::QueueFull(_) => row("balance", "queue_full", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(SOON),
            Fault::QueueTimeout(_) => row("balance", "queue_timeout", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(SOON),
            Fault::Draining { sent } => row("drain", "draining", 503)
                .sent(*sent)
                .by(Blame::Proxy)
                .again(SOON),
            Fault::Deadline { sent, .. } => row("deadline", "deadline_exceeded", 504)
                .sent(*sent)
                .phase("deadline"),
            Fault::HeadTimeout(_) => row("timeout", "upstream_timeout", 504).phase("head"),
            Fault::IdleTimeout(_) => row("timeout", "upstream_silent", 504).phase("idle"),
            Fault::ConnectTimeout(_) => row("http", "connect_timeout", 504)
                .unsent()
                .phase("connect"),
            Fault::ConnectFailed(_) => row("http", "connect_failed", 502).unsent(),
            Fault::UpstreamBroken(outcome) => row("http", "upstream_broken", 502).outcome(*outcome),
            Fault::AnswerMissing => row("rescue", "answer_missing", 502),
            Fault::SpawnFailed(_) => row("stdio", "start_failed", 502).unsent(),
            Fault::Backoff(again) => row("stdio", "start_delayed", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(*again),
            Fault::Handshake { sent, .. } => row("stdio", "start_timeout", 504).sent(*sent),
            Fault::ServerGone { sent, .. } => row("stdio", "server_gone", 502).sent(*sent),
            Fault::AnswerTooLong(_) => row("stdio", "answer_too_long", 502),
            Fault::AnswerGarbled(_) => row("stdio", "answer_garbled", 502),
            Fault::SlowReader(_) => row("stdio", "slow_reader", 503).by(Blame::Client),
            Fault::ServerBusy(_) => row("stdio", "server_busy", 503)
                .unsent()
                .by(Blame::Proxy)
                .again(SOON),
            Fault::EventsLost => row("replay", "events_lost", 410).by(Blame::Proxy),
            Fault::Bug => row("rescue", "internal_error", 500).by(Blame::Proxy),
        }
    }

    fn by(self, blame: Blame) -> Self {
        Self { blame, ..self }
    }

    fn outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    fn unsent(self) -> Self {
        self.outcome(Outcome::NotSent)
    }

    fn sent(self, sent: bool) -> Self {
        if sent { self } else { self.unsent() }
    }

    fn code(self, code: i64) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    fn phase(self, phase: &'static str) -> Self {
        Self {
            phase: Some(phase),
            ..self
        }
    }

    fn again(self, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..self
        }
    }
}

/// A failure of the upstream, or on the way to it, that may have had an effect. The status is that of the
/// JSON-RPC code, and comes as such only on plain HTTP.
fn row(layer: &'static str, kind: &'static str, status: u16) -> Row {
    Row {
        kind,
        layer,
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        code: None,
        keeps_status: false,
        phase: None,
        retry_after: None,
        outcome: Outcome::Unknown,
        blame: Blame::Upstream,
    }
}

/// A refusal of what the client sent. Its status is one that the specification, or HTTP, gives it.
fn client(layer: &'static str, kind: &'static str, status: u16) -> Row {
    Row {
        keeps_status: true,
        outcome: Outcome::Rejected,
        blame: Blame::Client,
        ..row(layer, kind, status)
    }
}

/// What the client may read.
pub(super) fn message(fault: &Fault) -> String {
    match fault {
        Fault::BadMessage(text)
        | Fault::HeaderMismatch(text)
        | Fault::MetaMissing(text)
        | Fault::Misplaced(text)
        | Fault::BodyTooLarge(text)
        | Fault::UnsupportedMedia(text)
        | Fault::Shed(text)
        | Fault::GateShut(text, _)
        | Fault::SessionsFull(text, _)
        | Fault::CircuitOpen(text, ..)
        | Fault::SwitchedOff(text)
        | Fault::NoEndpoint(text, _)
        | Fault::QueueFull(text)
        | Fault::QueueTimeout(text)
        | Fault::HeadTimeout(text)
        | Fault::IdleTimeout(text)
        | Fault::ConnectTimeout(text)
        | Fault::SpawnFailed(text)
        | Fault::AnswerTooLong(text)
        | Fault::AnswerGarbled(text)
        | Fault::SlowReader(text)
        | Fault::ServerBusy(text)
        | Fault::LegacyServer(text)
        | Fault::BadEndpoint(text)
        | Fault::Unforwardable(text)
        | Fault::ToolBusy { message: text, .. }
        | Fault::PauseFull { message: text, .. }
        | Fault::Blocked { message: text, .. }
        | Fault::Unreadable { message: text, .. }
        | Fault::Deadline { message: text, .. }
        | Fault::Handshake { message: text, .. }
        | Fault::ServerGone { message: text, .. } => text.clone(),
        Fault::RateLimited(limited) => limited.to_string(),
        Fault::UnsupportedVersion { requested, .. } => {
            format!("protocol version {requested} is not supported")
        }
        Fault::UploadTimeout => "the request body did not come in time".into(),
        Fault::UploadFailed => "the request body broke off".into(),
        Fault::BadHost => "the Host header is missing, stands twice or cannot be read".into(),
        Fault::HostRefused => "this host is not served here".into(),
        Fault::OriginRefused => "this origin is not allowed".into(),
        Fault::UnsafePath => "the path has dot segments or encoded slashes".into(),
        Fault::NoSuchMethod => "this revision has no such method".into(),
        Fault::NoRoute => "no route matches".into(),
        Fault::Draining { .. } => "the server is shutting down; try again".into(),
        Fault::ConnectFailed(problem) => format!("the upstream cannot be reached: {problem}"),
        Fault::Injected { .. } => "a fault was injected, for a test".into(),
        Fault::UpstreamBroken(_) => "the upstream broke off".into(),
        Fault::AnswerMissing => AnswerMissing.to_string(),
        Fault::Backoff(again) => {
            format!("the server failed to start; the next try is in {again:.1?}")
        }
        Fault::SessionRequired => {
            "the request needs an Mcp-Session-Id; begin with initialize".into()
        }
        Fault::SessionGone => {
            "the session does not exist or has ended; begin anew with initialize".into()
        }
        Fault::EndpointGone => "the endpoint that this call belongs to is gone".into(),
        Fault::BadSessionId => "the upstream gave the session an id that cannot be one".into(),
        Fault::NoChannel => {
            "the event stream of this endpoint does not exist or has ended; open another with GET"
                .into()
        }
        Fault::UpstreamStatus(status) => format!("the upstream answered {status}"),
        Fault::NotAllowed => "the method is not allowed here".into(),
        Fault::NotAcceptable => "a GET must accept text/event-stream".into(),
        Fault::EventsLost => {
            "the answer, or a part of it, came while the client was away and is not kept any more"
                .into()
        }
        Fault::Bug => "the proxy failed".into(),
    }
}
