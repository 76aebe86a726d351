//! What a request counts as under a cap.

use http::{Method, Request};

use crate::{exchange::Exchange, mcp::headers::asks_for_events};

/// What a request counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It ends with its answer.
    Call,
    /// It stands until somebody ends it.
    Stream,
    /// Calls may be waiting for just this: it never waits behind them.
    Free,
}

impl Class {
    /// Of this request: by its MCP facts, or by its head where there are none.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        match Exchange::get(request).and_then(|e| e.call()) {
            Some(call) if call.is_fire_and_forget() => Self::Free,
            Some(call) if call.is_standing() => Self::Stream,
            Some(_) => Self::Call,
            None if wants_stream(request) => Self::Stream,
            None => Self::Call,
        }
    }
}

fn wants_stream<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && asks_for_events(request.headers())
}
