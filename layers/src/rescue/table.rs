//! What each fault means to a client: one row each, none left out.

use std::time::Duration;

use http::StatusCode;

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
    ("inspect", "bad_message"),
    ("inspect", "header_mismatch"),
    ("stdio", "unsupported_version"),
    ("stdio", "meta_missing"),
    ("stdio", "misplaced"),
    ("body_limit", "body_too_large"),
    ("inspect", "unsupported_media"),
    ("inspect", "upload_timeout"),
    ("inspect", "upload_failed"),
    ("guard", "host_refused"),
    ("guard", "origin_refused"),
    ("route", "unsafe_path"),
    ("route", "no_route"),
    ("limit", "overloaded"),
    ("drain", "draining"),
    ("deadline", "deadline_exceeded"),
    ("timeout", "upstream_timeout"),
    ("timeout", "upstream_silent"),
    ("http", "connect_timeout"),
    ("http", "connect_failed"),
    ("http", "upstream_broken"),
    ("stdio", "start_failed"),
    ("stdio", "start_delayed"),
    ("stdio", "start_timeout"),
    ("stdio", "server_gone"),
    ("stdio", "answer_too_long"),
    ("stdio", "slow_reader"),
    ("stdio", "server_busy"),
    ("stdio", "session_required"),
    ("stdio", "session_gone"),
    ("stdio", "not_allowed"),
    ("stdio", "not_acceptable"),
    ("stdio", "legacy_server"),
    ("rescue", "internal_error"),
];

/// The clocks whose running out is told by a fault.
pub(super) const PHASES: &[&str] = &["connect", "head", "idle", "deadline", "upload"];

impl Row {
    /// The row of a fault.
    pub fn of(fault: &Fault) -> Self {
        use Blame::{Client, Proxy, Upstream};
        use Outcome::{NotSent, Rejected, Unknown};
        use StatusCode as S;
        let row = |layer, kind, status, blame, outcome| Self {
            kind,
            layer,
            status,
            code: None,
            keeps_status: false,
            phase: None,
            retry_after: None,
            outcome,
            blame,
        };
        match fault {
            Fault::BadMessage(_) => {
                row("inspect", "bad_message", S::BAD_REQUEST, Client, Rejected).keep()
            }
            Fault::HeaderMismatch(_) => row(
                "inspect",
                "header_mismatch",
                S::BAD_REQUEST,
                Client,
                Rejected,
            )
            .code(-32020),
            Fault::UnsupportedVersion { .. } => row(
                "stdio",
                "unsupported_version",
                S::BAD_REQUEST,
                Client,
                Rejected,
            )
            .code(-32022),
            Fault::MetaMissing(_) => {
                row("stdio", "meta_missing", S::BAD_REQUEST, Client, Rejected).code(-32602)
            }
            Fault::Misplaced(_) => {
                row("stdio", "misplaced", S::BAD_REQUEST, Client, Rejected).keep()
            }
            Fault::BodyTooLarge(_) => row(
                "body_limit",
                "body_too_large",
                S::PAYLOAD_TOO_LARGE,
                Client,
                Rejected,
            )
            .keep(),
            Fault::UnsupportedMedia(_) => row(
                "inspect",
                "unsupported_media",
                S::UNSUPPORTED_MEDIA_TYPE,
                Client,
                Rejected,
            )
            .keep(),
            Fault::UploadTimeout => row(
                "inspect",
                "upload_timeout",
                S::REQUEST_TIMEOUT,
                Client,
                NotSent,
            )
            .phase("upload"),
            Fault::UploadFailed => row("inspect", "upload_failed", S::BAD_REQUEST, Client, NotSent),
            Fault::HostRefused => {
                row("guard", "host_refused", S::FORBIDDEN, Client, Rejected).keep()
            }
            Fault::OriginRefused => {
                row("guard", "origin_refused", S::FORBIDDEN, Client, Rejected).keep()
            }
            Fault::UnsafePath => {
                row("route", "unsafe_path", S::BAD_REQUEST, Client, Rejected).keep()
            }
            Fault::NoRoute => row("route", "no_route", S::NOT_FOUND, Client, Rejected).keep(),
            Fault::Shed(_) => row(
                "limit",
                "overloaded",
                S::SERVICE_UNAVAILABLE,
                Proxy,
                NotSent,
            )
            .again(Duration::from_secs(1)),
            Fault::Draining { sent } => {
                let outcome = if *sent { Unknown } else { NotSent };
                row("drain", "draining", S::SERVICE_UNAVAILABLE, Proxy, outcome)
                    .again(Duration::from_secs(1))
            }
            Fault::Deadline { sent, .. } => {
                let outcome = if *sent { Unknown } else { NotSent };
                row(
                    "deadline",
                    "deadline_exceeded",
                    S::GATEWAY_TIMEOUT,
                    Upstream,
                    outcome,
                )
                .phase("deadline")
            }
            Fault::HeadTimeout(_) => row(
                "timeout",
                "upstream_timeout",
                S::GATEWAY_TIMEOUT,
                Upstream,
                Unknown,
            )
            .phase("head"),
            Fault::IdleTimeout(_) => row(
                "timeout",
                "upstream_silent",
                S::GATEWAY_TIMEOUT,
                Upstream,
                Unknown,
            )
            .phase("idle"),
            Fault::ConnectTimeout(_) => row(
                "http",
                "connect_timeout",
                S::GATEWAY_TIMEOUT,
                Upstream,
                NotSent,
            )
            .phase("connect"),
            Fault::ConnectFailed => {
                row("http", "connect_failed", S::BAD_GATEWAY, Upstream, NotSent)
            }
            Fault::UpstreamBroken(outcome) => row(
                "http",
                "upstream_broken",
                S::BAD_GATEWAY,
                Upstream,
                *outcome,
            ),
            Fault::SpawnFailed(_) => {
                row("stdio", "start_failed", S::BAD_GATEWAY, Upstream, NotSent)
            }
            Fault::Backoff(again) => row(
                "stdio",
                "start_delayed",
                S::SERVICE_UNAVAILABLE,
                Upstream,
                NotSent,
            )
            .again(*again),
            Fault::Handshake(_) => row(
                "stdio",
                "start_timeout",
                S::GATEWAY_TIMEOUT,
                Upstream,
                Unknown,
            ),
            Fault::ServerGone { sent, .. } => {
                let outcome = if *sent { Unknown } else { NotSent };
                row("stdio", "server_gone", S::BAD_GATEWAY, Upstream, outcome)
            }
            Fault::AnswerTooLong(_) => row(
                "stdio",
                "answer_too_long",
                S::BAD_GATEWAY,
                Upstream,
                Unknown,
            ),
            Fault::SlowReader(_) => row(
                "stdio",
                "slow_reader",
                S::SERVICE_UNAVAILABLE,
                Client,
                Unknown,
            ),
            Fault::ServerBusy(_) => row(
                "stdio",
                "server_busy",
                S::SERVICE_UNAVAILABLE,
                Upstream,
                NotSent,
            )
            .again(Duration::from_secs(1)),
            Fault::SessionRequired => row(
                "stdio",
                "session_required",
                S::BAD_REQUEST,
                Client,
                Rejected,
            )
            .keep(),
            Fault::SessionGone => {
                row("stdio", "session_gone", S::NOT_FOUND, Client, Rejected).keep()
            }
            Fault::NotAllowed => row(
                "stdio",
                "not_allowed",
                S::METHOD_NOT_ALLOWED,
                Client,
                Rejected,
            )
            .keep(),
            Fault::NotAcceptable => row(
                "stdio",
                "not_acceptable",
                S::NOT_ACCEPTABLE,
                Client,
                Rejected,
            )
            .keep(),
            Fault::LegacyServer(_) => {
                row("stdio", "legacy_server", S::BAD_REQUEST, Client, Rejected).keep()
            }
            Fault::Bug => row(
                "rescue",
                "internal_error",
                S::INTERNAL_SERVER_ERROR,
                Proxy,
                Unknown,
            ),
        }
    }

    fn keep(self) -> Self {
        Self {
            keeps_status: true,
            ..self
        }
    }

    fn code(self, code: i64) -> Self {
        Self {
            code: Some(code),
            ..self.keep()
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
        | Fault::HeadTimeout(text)
        | Fault::IdleTimeout(text)
        | Fault::ConnectTimeout(text)
        | Fault::SpawnFailed(text)
        | Fault::Handshake(text)
        | Fault::AnswerTooLong(text)
        | Fault::SlowReader(text)
        | Fault::ServerBusy(text)
        | Fault::LegacyServer(text)
        | Fault::Deadline { message: text, .. }
        | Fault::ServerGone { message: text, .. } => text.clone(),
        Fault::UnsupportedVersion { requested, .. } => {
            format!("protocol version {requested} is not supported")
        }
        Fault::UploadTimeout => "the request body did not come in time".into(),
        Fault::UploadFailed => "the request body broke off".into(),
        Fault::HostRefused => "this host is not served here".into(),
        Fault::OriginRefused => "this origin is not allowed".into(),
        Fault::UnsafePath => "the path has dot segments or encoded slashes".into(),
        Fault::NoRoute => "no route matches".into(),
        Fault::Draining { .. } => "the server is shutting down; try again".into(),
        Fault::ConnectFailed => "the upstream cannot be reached".into(),
        Fault::UpstreamBroken(_) => "the upstream broke off".into(),
        Fault::Backoff(again) => {
            format!("the server failed to start; the next try is in {again:.1?}")
        }
        Fault::SessionRequired => {
            "the request needs an Mcp-Session-Id; begin with initialize".into()
        }
        Fault::SessionGone => {
            "the session does not exist or has ended; begin anew with initialize".into()
        }
        Fault::NotAllowed => "the method is not allowed here".into(),
        Fault::NotAcceptable => "a GET must accept text/event-stream".into(),
        Fault::Bug => "the proxy failed".into(),
    }
}
