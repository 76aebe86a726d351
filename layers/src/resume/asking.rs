//! The request that asks for the rest of a stream, and what its answer means.

use std::sync::Arc;

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};

use crate::{
    error::BoxError,
    exchange::Exchange,
    fault::{Blame, Fault},
    mcp::{
        Era, Verb,
        headers::{LAST_EVENT_ID, SESSION_ID, asks_for_events},
    },
    observe::Media,
    rescue::Row,
};

/// What kind of stream it is, which says when it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The answer to a legacy call: it is whole when all is answered.
    Call,
    /// The legacy GET stream, or a stream that its client resumes.
    Standing,
    /// Server-sent events without MCP.
    Plain,
}

/// Of a request whose answer may be a stream, what is needed to ask for its rest.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The id that the client itself asked with.
    from: Option<HeaderValue>,
}

/// What an answer means for the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// It goes on.
    GoesOn,
    /// Not now; perhaps later.
    Later,
    /// It never will.
    Never,
    /// The session is gone, and a stream that stands in it with it.
    SessionGone,
}

/// What belongs to the body of the first request, or to the form of its answer.
const LEFT_OUT: [HeaderName; 8] = [
    header::ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::RANGE,
    header::TRANSFER_ENCODING,
    LAST_EVENT_ID,
];

// === impl Head ===

impl Head {
    /// Of a request whose answer could be resumed if it is a stream; none of others.
    pub(super) fn of<B>(request: &Request<B>, exchange: &Exchange) -> Option<Self> {
        let kind = kind(request, exchange)?;
        let headers = request.headers();
        let mut kept = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let accept = kind == Kind::Call && *name == header::ACCEPT;
            if !accept && !LEFT_OUT.contains(name) {
                kept.push((name.clone(), value.clone()));
            }
        }
        Some(Self {
            kind,
            uri: request.uri().clone(),
            headers: kept,
            from: headers
                .get(LAST_EVENT_ID)
                .filter(|_| kind != Kind::Call)
                .cloned(),
        })
    }

    /// Keeps its own bytes from here on, in the place of those of the buffer that the request came in, which is freed for that: a stream may stand for
    /// days.
    pub(super) fn detach(&mut self) {
        let values = || {
            self.headers
                .iter()
                .map(|(_, value)| value)
                .chain(&self.from)
        };
        let mut all = BytesMut::with_capacity(values().map(HeaderValue::len).sum());
        values().for_each(|value| all.extend_from_slice(value.as_bytes()));
        let mut all = all.freeze();
        let values = self.headers.iter_mut().map(|(_, value)| value);
        for value in values.chain(&mut self.from) {
            // The same bytes are a value again.
            if let Ok(mut own) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
                own.set_sensitive(value.is_sensitive());
                *value = own;
            }
        }
        if let Ok(own) = self.uri.to_string().parse() {
            self.uri = own;
        }
    }

    /// A session that the answer began, as that to `initialize` does, belongs to the request from then on.
    pub(super) fn began(&mut self, headers: &HeaderMap) {
        let Some(session) = headers.get(SESSION_ID) else {
            return;
        };
        if self.headers.iter().all(|(name, _)| name != SESSION_ID) {
            self.headers.push((SESSION_ID, session.clone()));
        }
    }

    /// From where on the rest is to come; nothing if no id is known.
    pub(super) fn cursor(&self, exchange: &Exchange) -> Option<HeaderValue> {
        match exchange.response().event_id() {
            Some(id) => HeaderValue::from_bytes(id.as_bytes()).ok(),
            None => self.from.clone(),
        }
    }

    /// The request for the rest.
    pub(super) fn request<B>(&self, exchange: &Arc<Exchange>, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if self.kind == Kind::Call {
            let events = HeaderValue::from_static("text/event-stream");
            headers.insert(header::ACCEPT, events);
        }
        if let Some(cursor) = self.cursor(exchange) {
            headers.insert(LAST_EVENT_ID, cursor);
        }
        request.extensions_mut().insert(exchange.clone());
        request
    }

    /// What the answer means.
    pub(super) fn judge<B>(&self, answer: &Result<Response<B>, BoxError>) -> Means {
        let gone = match self.kind {
            Kind::Standing => Means::SessionGone,
            Kind::Call | Kind::Plain => Means::Never,
        };
        match answer {
            Ok(answer) => match answer.status() {
                StatusCode::OK if Media::of(answer.headers()) == Media::Events => Means::GoesOn,
                StatusCode::NOT_FOUND => gone,
                status if is_for_now(status) => Means::Later,
                _ => Means::Never,
            },
            Err(error) => match Fault::of(&**error) {
                Fault::SessionGone => gone,
                Fault::Bug => Means::Later,
                fault if Row::of(&fault).blame == Blame::Client => Means::Never,
                _ => Means::Later,
            },
        }
    }
}

/// The status says nothing of the stream itself. 409 is what servers of the official SDK answer while they believe that the connection
/// that broke is still there.
fn is_for_now(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED => false,
        status => status.is_server_error(),
    }
}

fn kind<B>(request: &Request<B>, exchange: &Exchange) -> Option<Kind> {
    let Some(call) = exchange.call() else {
        let plain = request.method() == Method::GET && asks_for_events(request.headers());
        return plain.then_some(Kind::Plain);
    };
    match call.verb {
        _ if call.era == Era::Modern => None,
        Verb::Get => Some(Kind::Standing),
        Verb::Post => call.requests().next().map(|_| Kind::Call),
        Verb::Delete | Verb::Other => None,
    }
}
