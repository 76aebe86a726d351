//! An attempt that breakers watch.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{handle::Ticket, tools::ToolCircuits};
use crate::{
    body::End,
    exchange::Exchange,
    mcp::{CallFacts, peek::Answer},
    verdict::{Judge, Verdict, Watch},
};

/// An attempt that the breakers admitted; rides on its response body.
#[derive(Debug, Default)]
pub struct Pass {
    counted: Option<Counted>,
}

#[derive(Debug)]
pub(super) struct Counted {
    pub(super) exchange: Arc<Exchange>,
    pub(super) started: Instant,
    /// The time to the response head.
    pub(super) head: Option<Duration>,
    pub(super) standing: bool,
    pub(super) endpoint: Option<Ticket>,
    /// The breakers of tools, and the ticket of this one's if it had one.
    pub(super) tool: Option<(ToolCircuits, Option<Ticket>)>,
}

// === impl Pass ===

impl Pass {
    pub(super) fn new(counted: Counted) -> Self {
        Self {
            counted: Some(counted),
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        if let Some(counted) = self.counted.take() {
            counted.settle(verdict);
        }
    }
}

impl Watch for Pass {
    fn head(&mut self, status: StatusCode) {
        let Some(counted) = &mut self.counted else {
            return;
        };
        counted.head = Some(counted.started.elapsed());
        let verdict = Judge::default().head(status);
        // What failed will not get better; and of a stream that stands, nothing more is to be expected.
        if verdict == Verdict::Failure {
            self.settle(verdict);
        } else if counted.standing {
            // That there is no such stream says nothing of the calls.
            self.settle(if status.is_success() {
                verdict
            } else {
                Verdict::Neutral
            });
        }
    }

    fn end(mut self, verdict: Verdict) {
        self.settle(verdict);
    }
}

// === impl Counted ===

impl Counted {
    /// Tells both breakers how it went. The verdict given is one that leaves answers out: each breaker has a judge of its own for those.
    fn settle(self, verdict: Verdict) {
        let Self {
            exchange,
            started,
            head,
            standing,
            endpoint,
            tool,
        } = self;
        let took = (!standing).then(|| head.unwrap_or_else(|| started.elapsed()));
        let refined = |judge: Judge| match verdict {
            Verdict::Success => judge.body(&exchange, StatusCode::OK, &End::Complete),
            Verdict::Failure | Verdict::Neutral => verdict,
        };
        if let Some(ticket) = endpoint {
            let verdict = refined(ticket.judge);
            ticket.end(verdict, took);
        }
        let call = exchange.call();
        let (Some((tools, ticket)), Some(name)) = (tool, call.and_then(CallFacts::tool)) else {
            return;
        };
        let answer = exchange.response().answer();
        let proven = answer == Some(Answer::Result);
        let unanswered = verdict == Verdict::Failure && answer.is_none();
        let asks = call.is_some_and(|call| call.requests().next().is_some());
        let verdict = match ticket.as_ref().map_or(verdict, |t| refined(t.judge)) {
            // That a call without an id was taken says nothing of its tool.
            Verdict::Success if !asks => Verdict::Neutral,
            verdict => verdict,
        };
        if ticket.is_some() || proven || unanswered {
            tools.end(name, ticket, (verdict, took), proven);
        }
    }
}
