//! Tells a legacy server that a call was given up.
//!
//! In the legacy era a closed connection means nothing (the client may resume), so a call that a clock, an operator, a drain or the proxy gave up
//! is cancelled with a message of its own (2025-11-25, cancellation). `initialize` must never be, and a client that just went away
//! cancels nothing.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, request::Parts};

use super::{Shared, body::RequestBody};
use crate::{
    Body,
    exchange::{Exchange, GiveUp},
    mcp::{
        Era,
        headers::{JSON_OR_EVENTS, forget_message},
        wire,
    },
};

/// Watches over a legacy call; dropped before [`disarm`](Self::disarm), it tells the server if the exchange says why.
#[derive(Debug)]
pub(super) struct Guard {
    shared: Arc<Shared>,
    exchange: Arc<Exchange>,
    uri: Uri,
    /// The call's own headers, with its session and credentials.
    headers: HeaderMap,
    armed: bool,
}

/// How long a notice may take.
const LIMIT: Duration = Duration::from_secs(5);

impl Guard {
    /// A guard for the call, if it is one that can be cancelled by a message.
    pub(super) fn new(
        shared: &Arc<Shared>,
        exchange: Arc<Exchange>,
        parts: &Parts,
    ) -> Option<Box<Self>> {
        let call = exchange.call()?;
        if call.era != Era::Legacy || call.is_initialize() || call.request()?.id().is_none() {
            return None;
        }
        Some(Box::new(Self {
            shared: shared.clone(),
            exchange,
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            armed: true,
        }))
    }

    /// The call is over: there is nothing to cancel.
    pub(super) fn disarm(mut self: Box<Self>) {
        self.armed = false;
    }

    fn notice(&mut self, why: GiveUp) -> Option<Request<RequestBody>> {
        let id = self.exchange.call()?.request()?.id()?;
        let body = wire::cancelled(id, why.as_str());
        let mut headers = std::mem::take(&mut self.headers);
        forget_message(&mut headers);
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        let both = HeaderValue::from_static(JSON_OR_EVENTS);
        headers.insert(header::ACCEPT, both);
        let mut request = Request::new(RequestBody(Body::full(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = std::mem::take(&mut self.uri);
        *request.headers_mut() = headers;
        Some(request)
    }

    fn tell(&mut self, why: GiveUp) {
        let Some(request) = self.notice(why) else {
            return;
        };
        let upstream = self.shared.name.clone();
        let sent = self.shared.client.request(request);
        let told = self.shared.tasks.notice(async move {
            match tokio::time::timeout(LIMIT, sent).await {
                Ok(Ok(answer)) => {
                    tracing::debug!(%upstream, status = answer.status().as_u16(), "cancelled a call");
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "could not cancel a call"),
                Err(_) => tracing::debug!(%upstream, "no answer to a cancellation"),
            }
        });
        if !told {
            tracing::debug!(upstream = %self.shared.name, "too many cancellations on their way");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed || self.exchange.is_answered() {
            return;
        }
        if let Some(why) = self.exchange.gave_up() {
            self.tell(why);
        }
    }
}
