//! The HTTP side: what a Streamable HTTP server of each era answers to which request.

mod modern;
mod shared;

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use self::shared::{answer_again, answer_with_id};
use super::{
    body::{Standing, StdioBody},
    call::{Call, Item},
    child::{Lease, Origin},
    error::StdioError,
    message::{Message, one_line},
    pool::{Place, Pool, Shared, Way, Who},
};
use crate::{
    attempt::Unresumable,
    body::Gathered,
    error::BoxError,
    exchange::Exchange,
    mcp::{CallFacts, Era, Kind, LEGACY_VERSION, MessageFacts, Verb, headers, wire},
};

type Answer = Result<Response<StdioBody>, BoxError>;

/// A request with its body read.
struct Incoming {
    pool: Arc<Pool>,
    principal: Option<Arc<str>>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
}

/// How an `initialize` went.
enum Begun {
    /// There is a session, and the answer.
    Session(Place, Message),
    /// The server has answered with an error.
    Refused(Message),
}

/// Answers one request.
pub(super) async fn handle<B>(
    pool: Arc<Pool>,
    exchange: Arc<Exchange>,
    request: Request<B>,
) -> Answer
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let body = read(body, pool.settings().line_limit).await?;
    if exchange.call().is_none() {
        exchange.set_call(CallFacts::read(&parts.method, &parts.headers, &body)?);
    }
    let request = Incoming {
        pool,
        principal: exchange.principal().cloned(),
        headers: parts.headers,
        extensions: parts.extensions,
        body,
    };
    let Some(facts) = exchange.call() else {
        return Err(StdioError::Misplaced("the request has no facts").into());
    };
    match (facts.verb, facts.era) {
        (Verb::Post, Era::Modern) => request.modern(facts).await,
        (Verb::Post, Era::Legacy) => request.legacy(facts).await,
        (Verb::Get, _) => request.stream(facts),
        (Verb::Delete, _) => request.delete(facts),
        (Verb::Other, _) => Err(StdioError::NotAllowed.into()),
    }
}

/// The whole body, without a copy where it is one piece.
async fn read<B>(body: B, limit: usize) -> Result<Bytes, BoxError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut all = Gathered::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Into::into)?.into_data() else {
            continue;
        };
        if all.size() + data.len() > limit {
            return Err(StdioError::RequestTooLong { limit }.into());
        }
        all.add(data, 0);
    }
    Ok(all.take())
}

// === legacy ===

impl Incoming {
    async fn legacy(self, facts: &CallFacts) -> Answer {
        if facts.is_initialize() {
            return self.initialize(facts).await;
        }
        let place = self.place()?;
        // A header that is wrong is answered with 400; one that is missing stands for 2025-03-26 (2025-11-25, transports, "Protocol
        // Version Header").
        if facts
            .version
            .as_deref()
            .is_some_and(|v| !LEGACY.contains(&v))
        {
            let text = "the MCP-Protocol-Version is none that is known";
            return Err(StdioError::Misplaced(text).into());
        }
        // It may have begun with what the command had answered before.
        place.session.wait().await;
        if place.session.is_ended() {
            return Err(StdioError::SessionGone.into());
        }
        place.session.touch();
        let origin = Origin {
            session: Some(place.session.clone()),
            own: false,
        };
        let shared = place.child.is_shared();
        for message in facts.messages().iter().filter(|m| m.kind != Kind::Request) {
            self.tell(&place, message, shared)?;
        }
        let requests: Vec<&MessageFacts> = facts.requests().collect();
        if requests.is_empty() {
            return Ok(accepted());
        }
        if shared && let Some(answer) = self.answer_for_shared(&place, &requests)? {
            return Ok(json(StatusCode::OK, answer));
        }
        let call = Arc::new(Call::new(requests.len(), self.pool.settings().buffer));
        let mut extensions = self.extensions;
        let lease = place
            .child
            .call(&self.body, &requests, call, &origin, &mut extensions)
            .map_err(ended)?;
        // What waits for a stream that this client does not open comes with its next call.
        let waiting: Vec<Message> = if headers::accepts_events(&self.headers) {
            place.session.take_waiting()
        } else {
            Vec::new()
        };
        respond(lease, &self.headers, &self.pool, waiting, facts).await
    }

    /// The session that the request names. The facts have what the client sent; a layer may have put another id in its place since.
    fn place(&self) -> Result<Place, StdioError> {
        let id = headers::single(&self.headers, &headers::SESSION_ID)
            .ok_or(StdioError::SessionRequired)?;
        self.pool.session(id, self.principal.as_ref())
    }

    async fn initialize(self, facts: &CallFacts) -> Answer {
        let Some(message) = facts.request() else {
            return Err(StdioError::Misplaced("initialize must be a request").into());
        };
        let begun = match self.pool.way(self.principal.as_ref()) {
            Way::Own => self.begin(message).await?,
            Way::Shared(who) => {
                let (place, shared) = self.begin_shared(who).await?;
                Begun::Session(place, answer_again(&shared.answer, message, &self.body))
            }
        };
        let (place, answer) = match begun {
            Begun::Session(place, answer) => (place, answer),
            Begun::Refused(answer) => return Ok(json(StatusCode::OK, answer)),
        };
        let mut response = json(StatusCode::OK, answer);
        if let Ok(id) = HeaderValue::from_str(&place.session.id) {
            response.headers_mut().insert(headers::SESSION_ID, id);
        }
        Ok(response)
    }

    /// Begins a session with a child of its own.
    async fn begin(&self, message: &MessageFacts) -> Result<Begun, StdioError> {
        let pool = &self.pool;
        let key = pool.key(&self.body[message.span.clone()]);
        let principal = self.principal.clone();
        if let Some(known) = key.as_ref().and_then(|key| pool.known(key)) {
            let answer = answer_with_id(&known.answer, message);
            let (body, extensions) = (&self.body, self.extensions.clone());
            let place = pool.begin_swiftly(known, body, message, principal, extensions);
            return Ok(Begun::Session(place.await?, Message::One(answer)));
        }
        let first = pool.initialize(&self.body, message, &self.extensions);
        let (child, item) = first.await?;
        if item.answer != Some(None) {
            return Ok(Begun::Refused(item.message));
        }
        let place = pool
            .begin(&child, principal, true)
            .inspect_err(|_| child.stop("refused"))?;
        if let Some(key) = key {
            pool.learn(key, &item.message);
        }
        Ok(Begun::Session(place, item.message))
    }

    /// Begins a session with the shared child; with the next one, if it ends just then.
    async fn begin_shared(&self, who: Who) -> Result<(Place, Arc<Shared>), StdioError> {
        let principal = || self.principal.clone();
        let shared = self.pool.shared(who.clone()).await?;
        match self.pool.begin(&shared.child, principal(), true) {
            Ok(place) => Ok((place, shared)),
            Err(StdioError::Gone { .. }) => {
                let shared = self.pool.shared(who).await?;
                let place = self.pool.begin(&shared.child, principal(), true)?;
                Ok((place, shared))
            }
            Err(error) => Err(error),
        }
    }

    /// Hands over a notification or a response.
    fn tell(&self, place: &Place, message: &MessageFacts, shared: bool) -> Result<(), StdioError> {
        let line = one_line(self.body.slice(message.span.clone()));
        let base = message.span.start;
        if let Some((id, span)) = &message.cancels {
            let span = span.start - base..span.end - base;
            place
                .child
                .cancel_by_client(id, place.session.serial, &line, &span);
            return Ok(());
        }
        // A shared child was greeted once, asks nobody, and knows no client's roots.
        if shared {
            return Ok(());
        }
        place.child.tell(Message::One(line)).map_err(ended)
    }

    fn stream(self, facts: &CallFacts) -> Answer {
        if facts
            .version
            .as_deref()
            .is_some_and(|v| v >= crate::mcp::MODERN_VERSION)
        {
            return Err(StdioError::NotAllowed.into());
        }
        if !headers::accepts_events(&self.headers) {
            return Err(StdioError::NotAcceptable.into());
        }
        let place = self.place()?;
        let call = place.session.open_stream(self.pool.settings().buffer);
        let session = place.session;
        Ok(events(StdioBody::standing(Standing { call, session })))
    }

    fn delete(self, facts: &CallFacts) -> Answer {
        if facts
            .version
            .as_deref()
            .is_some_and(|v| v >= crate::mcp::MODERN_VERSION)
        {
            return Err(StdioError::NotAllowed.into());
        }
        let place = self.place()?;
        self.pool.end(&place, None);
        Ok(Response::new(StdioBody::empty()))
    }
}

/// A session ends with its child: whoever came just then is told so.
fn ended(error: StdioError) -> StdioError {
    match error {
        StdioError::Gone { sent: false, .. } => StdioError::SessionGone,
        error => error,
    }
}

/// The revisions with a handshake.
const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY_VERSION];

// === responses ===

/// The status of an answer that is JSON: revision 2026-07-28 gives some errors one of their own.
fn status(era: Era, error: Option<i64>) -> StatusCode {
    match (era, error) {
        (Era::Modern, Some(-32601)) => StatusCode::NOT_FOUND,
        (Era::Modern, Some(-32022..=-32020)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Waits for the first thing that comes, and answers in the form that it asks for.
async fn respond(
    lease: Lease,
    headers: &HeaderMap,
    pool: &Pool,
    waiting: Vec<Message>,
    facts: &CallFacts,
) -> Answer {
    let streams = headers::accepts_events(headers);
    if streams && !waiting.is_empty() {
        return Ok(events(StdioBody::events(waiting, lease)));
    }
    let mut answers = Answers::default();
    loop {
        let next = poll_fn(|cx| lease.call.poll_next(cx));
        let first = if streams {
            match tokio::time::timeout(pool.settings().silence, next).await {
                Ok(first) => first,
                Err(_silence) => return Ok(events(StdioBody::events([], lease))),
            }
        } else {
            next.await
        };
        match first {
            Some(Ok(Item {
                message,
                answer: Some(error),
            })) if !facts.batch => {
                return Ok(json(status(facts.era, error), message));
            }
            Some(Ok(Item { message, .. })) if streams => {
                return Ok(events(StdioBody::events([message], lease)));
            }
            // Whoever takes JSON alone gets the answers alone.
            Some(Ok(item)) => answers.add(item, pool.settings().buffer)?,
            Some(Err(error)) => return Err(error.into()),
            // Cancelled: there is no answer, and there will be none.
            None => {
                if !answers.messages.is_empty() {
                    return Ok(array(answers.messages));
                }
                return Ok(if streams {
                    events(StdioBody::empty())
                } else {
                    accepted()
                });
            }
        }
    }
}

/// The answers to a batch whose client takes JSON alone.
#[derive(Default)]
struct Answers {
    messages: Vec<Message>,
    bytes: usize,
}

impl Answers {
    fn add(&mut self, item: Item, limit: usize) -> Result<(), StdioError> {
        if item.answer.is_none() {
            return Ok(());
        }
        self.bytes += item.message.len();
        if self.bytes > limit && !self.messages.is_empty() {
            return Err(StdioError::LineTooLong { limit });
        }
        self.messages.push(item.message);
        Ok(())
    }
}

fn accepted() -> Response<StdioBody> {
    let mut response = Response::new(StdioBody::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn json(status: StatusCode, message: Message) -> Response<StdioBody> {
    let mut response = as_json(StdioBody::json(message));
    *response.status_mut() = status;
    response
}

fn array(answers: Vec<Message>) -> Response<StdioBody> {
    as_json(StdioBody::array(answers))
}

fn as_json(body: StdioBody) -> Response<StdioBody> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn events(body: StdioBody) -> Response<StdioBody> {
    let mut response = wire::event_stream(body);
    response.extensions_mut().insert(Unresumable);
    response
}
