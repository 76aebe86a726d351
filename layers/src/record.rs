//! The metrics of calls: as the client saw them, and as an upstream served them.
//!
//! [`ServerRecordLayer`] stands outermost, outside rescue, and so counts what clients see; [`ClientRecordLayer`] stands at an endpoint,
//! and counts each attempt. A call lasts until its response body ends. A JSON-RPC operation is counted by method, tool and how it ended
//! (`error_type`: empty, `tool_error`, a JSON-RPC code, an HTTP status, or a fault's kind); a plain HTTP request by method and
//! status. Names: [`names`](crate::metrics::names); the histograms follow OpenTelemetry's conventions for MCP and HTTP.
//!
//! Readiness and errors: the inner service's. Bodies: forwarded.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, metrics::Tools, record::{ClientRecordLayer, ServerRecordLayer}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(ServerRecordLayer::new(["/mcp"], &Tools::default()))
//!     .layer(ClientRecordLayer::new("tools", "127.0.0.1:3001", "tcp", &Tools::default()))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod client;
mod server;

pub use self::{
    client::{Attempt, ClientRecord, ClientRecordFuture, ClientRecordLayer},
    server::{ServerCall, ServerRecord, ServerRecordFuture, ServerRecordLayer},
};
use crate::{
    body::End,
    exchange::{Exchange, GiveUp},
    metrics::ErrorType,
};

/// How an operation ended, as far as the exchange and its end tell.
fn verdict(exchange: &Exchange, status: u16, end: Option<&End<'_>>) -> ErrorType {
    if let Some(fault) = exchange.fault() {
        return ErrorType::Kind(fault);
    }
    if let Some(answer) = exchange.response().answer() {
        return ErrorType::of(answer);
    }
    match (end, exchange.gave_up()) {
        (_, Some(why)) => ErrorType::Kind(why.as_str()),
        (Some(End::Dropped), None) => ErrorType::Kind("client_gone"),
        (Some(End::Failed(_)), None) => ErrorType::Kind("broken"),
        (Some(End::Complete), None) if exchange.is_left_unanswered() => ErrorType::Kind("broken"),
        (Some(End::Complete) | None, None) if status >= 400 => ErrorType::Status(status),
        (Some(End::Complete) | None, None) => ErrorType::None,
    }
}

/// Who ended a call before its answer, if somebody did.
fn cancelled_by(exchange: &Exchange, end: Option<&End<'_>>) -> Option<&'static str> {
    let asked = exchange
        .call()
        .is_none_or(|call| call.requests().next().is_some() && !call.is_standing());
    if exchange.is_answered() || !asked {
        return None;
    }
    match (exchange.gave_up(), end) {
        (Some(why), _) => Some(GiveUp::as_str(why)),
        (None, None | Some(End::Dropped)) => Some("client"),
        (None, Some(End::Complete | End::Failed(_))) => None,
    }
}
