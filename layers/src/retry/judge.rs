//! What a failed attempt allows: nothing more, another one for a call that is safe to repeat, or another one for any call.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use super::backoff;
use crate::{
    circuit::Scope,
    error::{BoxError, Outcome},
    fault::{Blame, Fault},
    rescue::Row,
};

/// An attempt that failed so that another may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Nothing was executed, provably: any call may be repeated. Else only what is safe.
    pub(super) unsent: bool,
    /// Why, as a label.
    pub(super) reason: Reason,
    /// How long the upstream asks to be left alone.
    pub(super) wait: Option<Duration>,
    /// The endpoint was not even tried.
    pub(super) refused: bool,
    /// It has no place for calls of this tool, and waiting for one would be in the way of other tools: only another endpoint that was not tried yet may help.
    pub(super) elsewhere: bool,
}

/// Why there is another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// An error, and nothing was sent.
    NotSent,
    /// A clock ran out.
    Timeout,
    /// Any other error.
    Broken,
    /// A response status that is retriable.
    Status,
    /// The upstream refused, and said when to come again.
    RetryAfter,
}

impl Reason {
    pub(super) const ALL: [Self; 5] = [
        Self::NotSent,
        Self::Timeout,
        Self::Broken,
        Self::Status,
        Self::RetryAfter,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Status => "status",
            Self::RetryAfter => "retry_after",
        }
    }
}

impl Failed {
    /// What an error allows.
    pub(super) fn of_error(error: &BoxError) -> Option<Self> {
        let fault = Fault::of(&**error);
        let row = Row::of(&fault);
        let failed = |unsent, reason, wait| {
            Some(Self {
                unsent,
                reason,
                wait,
                refused: is_refusal(&fault),
                elsewhere: matches!(fault, Fault::ToolBusy { .. }),
            })
        };
        match (row.outcome, row.blame) {
            // The time of the whole call is over; or the answer would be as long again; or the balancer has looked, or waited, already; or it would be
            // refused at every endpoint.
            _ if matches!(
                fault,
                Fault::Deadline { .. }
                    | Fault::AnswerTooLong(_)
                    | Fault::NoEndpoint(..)
                    | Fault::EndpointGone
                    | Fault::QueueFull(_)
                    | Fault::QueueTimeout(_)
                    | Fault::CircuitOpen(_, Scope::Tool, _)
                    | Fault::ToolBusy { later: false, .. }
            ) =>
            {
                None
            }
            (Outcome::NotSent, Blame::Upstream | Blame::Proxy) => {
                // These speak of one endpoint: the next attempt goes to another, where there is one.
                let local = is_refusal(&fault);
                failed(true, Reason::NotSent, row.retry_after.filter(|_| !local))
            }
            (Outcome::Unknown, Blame::Upstream) if row.phase.is_some() => {
                failed(false, Reason::Timeout, None)
            }
            (Outcome::Unknown, Blame::Upstream) => failed(false, Reason::Broken, None),
            // Not one of ours: the inner service's own.
            (Outcome::Unknown, Blame::Proxy) if fault == Fault::Bug => {
                failed(false, Reason::Broken, None)
            }
            (Outcome::NotSent | Outcome::Unknown | Outcome::Rejected, _) => None,
        }
    }

    /// What a response head allows.
    pub(super) fn of_head(
        status: StatusCode,
        headers: &HeaderMap,
        retriable: &[StatusCode],
    ) -> Option<Self> {
        if status.is_success() {
            return None;
        }
        let listed = retriable.contains(&status);
        if !listed && status != StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let wait = backoff::retry_after(headers, SystemTime::now());
        if status == StatusCode::SERVICE_UNAVAILABLE && wait.is_some() {
            return Some(Self {
                unsent: true,
                reason: Reason::RetryAfter,
                wait,
                refused: false,
                elsewhere: false,
            });
        }
        listed.then_some(Self {
            unsent: false,
            reason: Reason::Status,
            wait,
            refused: false,
            elsewhere: false,
        })
    }
}

/// The endpoint was not even tried.
fn is_refusal(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::GateShut(..)
            | Fault::CircuitOpen(..)
            | Fault::Shed(_)
            | Fault::ToolBusy { .. }
            | Fault::Backoff(_)
            | Fault::ServerBusy(_)
    )
}

/// How much an error says of what happened to a call: that it may have been executed, why it failed, or only that it was not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Says {
    Refused,
    Failed,
    Unknown,
}

impl Says {
    pub(super) fn of(error: &BoxError) -> Self {
        let fault = Fault::of(&**error);
        let row = Row::of(&fault);
        match (row.outcome, row.layer) {
            (Outcome::Unknown, _) => Self::Unknown,
            (Outcome::NotSent, "balance") => Self::Refused,
            (Outcome::NotSent, _) if is_refusal(&fault) => Self::Refused,
            (Outcome::NotSent | Outcome::Rejected, _) => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        circuit::CircuitOpen,
        deadline::DeadlineExceeded,
        drain::Draining,
        gate::{GateShut, Reason as Shut},
        inspect::NotJson,
        limit::{Shed, ToolBusy},
        timeout::HeadTimeout,
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_error_allows_what_is_known_of_its_effect() {
        let some = |unsent, reason| {
            Some(Failed {
                unsent,
                reason,
                wait: None,
                refused: unsent,
                elsewhere: false,
            })
        };
        let shut = GateShut {
            reason: Shut::Circuit,
            retry_after: Some(SECOND),
        };
        let shed = Shed {
            limit: 1,
            what: "calls",
        };
        let open = |scope| CircuitOpen {
            scope,
            retry_after: Some(SECOND),
        };
        let busy = |calls| ToolBusy {
            tools: "slow_*".into(),
            limit: 2,
            calls,
        };
        let elsewhere = some(true, Reason::NotSent).map(|failed| Failed {
            elsewhere: true,
            ..failed
        });
        let deadline = |sent| DeadlineExceeded {
            limit: SECOND,
            sent,
        };
        for (error, expected) in [
            (BoxError::from(shut), some(true, Reason::NotSent)),
            (shed.into(), some(true, Reason::NotSent)),
            (open(Scope::Endpoint).into(), some(true, Reason::NotSent)),
            // It is the same breaker at every endpoint.
            (open(Scope::Tool).into(), None),
            (busy(1).into(), elsewhere),
            (busy(2).into(), elsewhere),
            (busy(3).into(), None),
            (
                HeadTimeout { limit: SECOND }.into(),
                some(false, Reason::Timeout),
            ),
            ("its own".into(), some(false, Reason::Broken)),
            (deadline(false).into(), None),
            (deadline(true).into(), None),
            (NotJson.into(), None),
            (Draining { sent: true }.into(), None),
        ] {
            assert_eq!(Failed::of_error(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_status_allows_what_the_settings_say() {
        let statuses = [502, 503, 504].map(|s| StatusCode::from_u16(s).expect("a status"));
        let head = |status: u16, after: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert("retry-after", http::HeaderValue::from_static(after));
            }
            let status = StatusCode::from_u16(status).expect("a status");
            Failed::of_head(status, &headers, &statuses)
        };
        let some = |unsent, reason, wait| {
            Some(Failed {
                unsent,
                reason,
                wait,
                refused: false,
                elsewhere: false,
            })
        };
        for status in [200, 204, 404, 408, 429, 500, 501] {
            assert_eq!(head(status, Some("1")), None, "{status}");
        }
        assert_eq!(head(502, None), some(false, Reason::Status, None));
        assert_eq!(
            head(504, Some("1")),
            some(false, Reason::Status, Some(SECOND))
        );
        assert_eq!(head(503, None), some(false, Reason::Status, None));
        assert_eq!(head(503, Some("no")), some(false, Reason::Status, None));
        assert_eq!(
            head(503, Some("1")),
            some(true, Reason::RetryAfter, Some(SECOND))
        );
        let listed = Failed::of_head(StatusCode::BAD_GATEWAY, &HeaderMap::new(), &[]);
        assert_eq!(listed, None);
    }
}
