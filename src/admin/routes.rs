//! The way of a request: its path, who sends it, its method, its body; then what the table has for it, and the line of the audit.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body;
use serde_json::Value;

use super::answer::{Answer, Problem, json, text};
use super::operations::{Ask, Operation, PRIVATE, Reply};
use super::{Change, Refusal, Shared, body, guard};
use crate::serve::Peer;

/// Answers one request. For HEAD the body stays in, and the server leaves it out after it has taken the length.
pub(super) async fn answer<B>(shared: &Shared, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    answer_or_problem(shared, request)
        .await
        .unwrap_or_else(Problem::answer)
}

async fn answer_or_problem<B>(shared: &Shared, request: Request<B>) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let path = request.uri().path();
    let peer = request.extensions().get::<Peer>().copied();
    // Also for what is not there: without the token nobody learns what is.
    let by = if path.starts_with(PRIVATE) {
        let admitted = guard::admit(&shared.settings, &request);
        let by = admitted.inspect_err(|problem| shared.refused.note(problem, peer))?;
        Cow::Owned(by.to_owned())
    } else {
        Cow::Borrowed("anybody")
    };
    let operation = shared.table.at(path).ok_or(Problem::NotFound)?;
    if !operation.takes(request.method()) {
        return Err(Problem::MethodNotAllowed(allowed(operation)));
    }
    let body = match operation.body {
        Some(_) => body::read(request).await?,
        None => Bytes::new(),
    };
    let reply = operation.run(&Ask {
        proxy: &*shared.proxy,
        body: &body,
        by: &by,
        document: &shared.table.document,
    })?;
    match reply {
        Reply::Json(value) => Ok(json(&value)),
        Reply::Text(status, media, body) => Ok(text(status, media, body)),
        Reply::Acted(order, done) => {
            audit(operation.name, &order, &done, &by, peer);
            let change = done?;
            Ok(json(&serde_json::to_value(change).unwrap_or_default()))
        }
    }
}

fn allowed(operation: &Operation) -> &'static str {
    if operation.method() == Method::POST {
        "POST"
    } else {
        "GET, HEAD"
    }
}

/// One line for each action, done or refused.
fn audit(
    action: &str,
    order: &Value,
    done: &Result<Change, Refusal>,
    by: &str,
    peer: Option<Peer>,
) {
    let peer = peer.map(|peer| tracing::field::display(peer.addr));
    match done {
        Ok(Change { before, after }) => {
            tracing::info!(target: "audit", action, %order, %before, %after, by, peer, "done");
        }
        Err(why) => {
            tracing::info!(target: "audit", action, %order, %why, by, peer, "refused");
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(why) => Self::Unknown(why),
            Refusal::Conflict(why) => Self::Conflict(why),
        }
    }
}
