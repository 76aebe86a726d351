//! Writes a fault in the form that its client reads.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::table::{Row, message};
use crate::{
    error::Outcome,
    exchange::{ErrorStyle, Exchange, REQUEST_ID},
    fault::Fault,
    mcp::{Id, wire},
    rate_limit::{RATELIMIT, RATELIMIT_POLICY},
};

/// What a JSON-RPC error says beside code and message.
#[derive(Serialize)]
struct Data<'a> {
    source: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    request_id: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested: Option<&'a str>,
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'static str,
    status: u16,
    detail: &'a str,
    kind: &'static str,
    request_id: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The whole response to a call that failed before its response began.
pub(super) fn response(fault: &Fault, exchange: &Exchange) -> Response<Bytes> {
    let row = Row::of(fault);
    let ids: Vec<&Id> = exchange
        .call()
        .into_iter()
        .flat_map(|c| c.requests())
        .filter_map(|m| m.id())
        .collect();
    let mut status = row.status;
    let body = if ids.is_empty() {
        problem(fault, row, exchange)
    } else {
        let style = exchange
            .route()
            .map_or(ErrorStyle::Envelope, |route| route.errors);
        if style == ErrorStyle::Envelope && !row.keeps_status {
            status = StatusCode::OK;
        }
        envelope(fault, row, exchange, &ids)
    };
    let kind = if ids.is_empty() {
        "application/problem+json"
    } else {
        "application/json"
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(id) = HeaderValue::from_str(exchange.id()) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(after) = row.retry_after.filter(|_| status != StatusCode::OK) {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Fault::RateLimited(limited) = fault
        && let Some((left, policy)) = limited.fields()
    {
        headers.insert(RATELIMIT, left.clone());
        headers.insert(RATELIMIT_POLICY, policy.clone());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if row.kind == "upload_timeout" || row.kind == "body_too_large" {
        // The rest of the body is not read.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The last event of an event stream, for the calls on it that have no answer yet; `None` where an event could not be told from
/// the one before, or it is not known who waits.
pub(super) fn last_event(fault: &Fault, exchange: &Exchange) -> Option<Bytes> {
    if !exchange.response().at_boundary() || exchange.is_answered() {
        return None;
    }
    // Of a batch nobody knows here which of its calls have been answered.
    let id = exchange.call()?.request()?.id()?;
    Some(error_event(fault, exchange, id))
}

/// An event with the error of a call.
pub(super) fn error_event(fault: &Fault, exchange: &Exchange, id: &Id) -> Bytes {
    wire::event(&error(fault, Row::of(fault), exchange, id))
}

/// The answer to one request that failed, for who puts it in the place of the upstream's.
pub(super) fn answer(fault: &Fault, exchange: &Exchange, id: &Id) -> Bytes {
    error(fault, Row::of(fault), exchange, id)
}

fn envelope(fault: &Fault, row: Row, exchange: &Exchange, ids: &[&Id]) -> Bytes {
    if let ([id], Some(false)) = (ids, exchange.call().map(|c| c.batch)) {
        return error(fault, row, exchange, id);
    }
    let mut all = BytesMut::from(&b"["[..]);
    for (at, id) in ids.iter().enumerate() {
        if at > 0 {
            all.extend_from_slice(b",");
        }
        all.extend_from_slice(&error(fault, row, exchange, id));
    }
    all.extend_from_slice(b"]");
    all.freeze()
}

fn error(fault: &Fault, row: Row, exchange: &Exchange, id: &Id) -> Bytes {
    let (supported, requested) = match fault {
        Fault::UnsupportedVersion {
            requested,
            supported,
        } => (Some(&supported[..]), Some(&requested[..])),
        _ => (None, None),
    };
    let data = Data {
        source: "proxy",
        kind: row.kind,
        phase: row.phase,
        retry_after_ms: retry_after_ms(row),
        request_id: exchange.id(),
        outcome: Outcome::as_str(row.outcome),
        supported,
        requested,
    };
    let code = row.code.unwrap_or_else(|| row.status.as_u16().into());
    wire::error(Some(id), code, &message(fault), Some(data))
}

fn problem(fault: &Fault, row: Row, exchange: &Exchange) -> Bytes {
    let problem = Problem {
        title: row.status.canonical_reason().unwrap_or("Error"),
        status: row.status.as_u16(),
        detail: &message(fault),
        kind: row.kind,
        request_id: exchange.id(),
        outcome: Outcome::as_str(row.outcome),
        retry_after_ms: retry_after_ms(row),
    };
    serde_json::to_vec(&problem).map_or_else(|_| Bytes::new(), Bytes::from)
}

fn retry_after_ms(row: Row) -> Option<u64> {
    row.retry_after
        .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}
