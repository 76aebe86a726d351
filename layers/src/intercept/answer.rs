//! Answers: those that come without an upstream, and the upstream's, made ready to be shown.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, response::Parts};
use http_body::Body as HttpBody;
use serde_json::{Value, value::RawValue};

use super::{
    Answer, Blocked, Context, Direction, Message, Mock, PauseFull, Unreadable,
    body::{Events, InterceptBody, Read, read},
    chain::{Chain, Stage, Verdict, Wanted},
    way::splice,
};
use crate::{
    error::{BoxError, find},
    exchange::{Exchange, GiveUp},
    mcp::{CallFacts, Era, Kind, MessageFacts, peek, wire},
    observe::Media,
    rescue,
};

/// Shows what comes of one exchange.
#[derive(Clone)]
pub(super) struct Show {
    chain: Arc<Chain>,
    wanted: Arc<Wanted>,
    context: Context,
}

/// What is left of a message after it was shown.
pub(super) enum Left {
    /// It is as it was.
    Same,
    /// This is in its place.
    Other(Bytes),
    /// Nothing is.
    Nothing,
}

// === answers of our own ===

/// The answer to one mocked request; `None` if it is a whole response.
pub(super) fn text(
    facts: &MessageFacts,
    mock: &Mock,
    era: Era,
    exchange: &Exchange,
) -> Option<Bytes> {
    let id = facts.id();
    let text = match mock {
        Mock::Result(result) => {
            let mut result = result.clone();
            if let (Era::Modern, Value::Object(members)) = (era, &mut result) {
                let complete = || Value::from("complete");
                members.entry("resultType").or_insert_with(complete);
            }
            let failed = facts.tool().is_some() && result["isError"] == true;
            exchange.response().saw_answer(if failed {
                peek::Answer::ToolError
            } else {
                peek::Answer::Result
            });
            let id = id.map_or("null", |id| id.as_json());
            Bytes::from(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
            ))
        }
        Mock::Error {
            code,
            message,
            data,
        } => {
            exchange.response().saw_answer(peek::Answer::Error(*code));
            wire::error(id, *code, message, data.as_ref())
        }
        Mock::Response(_) => return None,
    };
    Some(text)
}

/// The answer to a mocked message.
pub(super) fn mocked(
    facts: &MessageFacts,
    mock: Mock,
    era: Era,
    exchange: &Exchange,
) -> Result<Response<Bytes>, BoxError> {
    if facts.kind != Kind::Request && !matches!(mock, Mock::Response(_)) {
        return Ok(accepted());
    }
    match text(facts, &mock, era, exchange) {
        Some(text) => Ok(json(text)),
        None => plain(mock, Stage::Asking),
    }
}

/// The response of a mock where there is no message to answer.
pub(super) fn plain(mock: Mock, stage: Stage) -> Result<Response<Bytes>, BoxError> {
    match mock {
        Mock::Response(mut response) => {
            let length = HeaderValue::from(response.body().len() as u64);
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            Ok(response)
        }
        Mock::Result(_) | Mock::Error { .. } => {
            Err(stage.unreadable("there is no request that could have this answer"))
        }
    }
}

pub(super) fn json(text: Bytes) -> Response<Bytes> {
    let mut response = Response::new(text);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// What a notification gets.
pub(super) fn accepted() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

// === answers of the upstream ===

/// Shows the head of a response, and its body as far as somebody wants it.
pub(super) async fn show<B>(show: Show, response: Response<B>) -> Answer<B>
where
    B: HttpBody<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    if show.wanted.all.head {
        let shown = show.chain.head(&show.wanted, &show.context, &mut head);
        if let Verdict::Mock(mock) = shown.await? {
            let response = plain(mock, Stage::Answering)?;
            return Ok(response.map(|bytes| InterceptBody::whole(bytes, None)));
        }
    }
    if !show.wanted.all.messages {
        return Ok(Response::from_parts(head, InterceptBody::passing(body)));
    }
    let encoded = head.headers.get(header::CONTENT_ENCODING);
    if encoded.is_some_and(|coding| coding != "identity") && !show.chain.settings.lenient {
        return Err(Stage::Answering.unreadable("it is encoded, though it was asked for plain"));
    }
    Ok(match Media::of(&head.headers) {
        Media::Events => {
            head.headers.remove(header::CONTENT_LENGTH);
            let events = Events::new(body, show);
            Response::from_parts(head, InterceptBody::events(events))
        }
        Media::Json => show.whole(head, body).await?,
        Media::Other => Response::from_parts(head, InterceptBody::passing(body)),
    })
}

/// What says of a body what it was before it was changed.
const DIGESTS: [&str; 5] = [
    "content-digest",
    "content-md5",
    "digest",
    "etag",
    "repr-digest",
];

impl Show {
    pub(super) fn new(chain: Arc<Chain>, wanted: Wanted, context: Context) -> Self {
        Self {
            chain,
            wanted: Arc::new(wanted),
            context,
        }
    }

    pub(super) fn cap(&self) -> usize {
        self.chain.settings.cap
    }

    pub(super) fn is_lenient(&self) -> bool {
        self.chain.settings.lenient
    }

    fn is_mcp(&self) -> bool {
        self.context.exchange().asked().is_some()
    }

    /// Shows a JSON body, which is held for it.
    async fn whole<B>(&self, mut head: Parts, body: B) -> Answer<B>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (bytes, trailers) = match read(body, self.cap()).await? {
            Read::Whole(bytes, trailers) => (bytes, trailers),
            Read::Long(read, rest) if self.is_lenient() => {
                return Ok(Response::from_parts(head, InterceptBody::long(read, rest)));
            }
            Read::Long(..) => return Err(Stage::Answering.unreadable("its body is too long")),
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Response::from_parts(
                head,
                InterceptBody::whole(bytes, trailers),
            ));
        }
        let batch = bytes.trim_ascii_start().starts_with(b"[") && self.is_mcp();
        let left = if batch {
            self.batch(&bytes).await?
        } else {
            match self.one(bytes.clone(), head.status.is_success()).await {
                Err(error) if self.is_mcp() && head.status.is_success() => {
                    // As a whole, with the status that it should have: nothing of it has gone out.
                    return Err(error);
                }
                left => left?,
            }
        };
        let bytes = match left {
            Left::Same => bytes,
            Left::Other(new) => {
                for name in DIGESTS {
                    head.headers.remove(name);
                }
                new
            }
            Left::Nothing => return Err(Stage::Answering.unreadable("nothing is left of it")),
        };
        if head.headers.contains_key(header::CONTENT_LENGTH) {
            let length = HeaderValue::from(bytes.len() as u64);
            head.headers.insert(header::CONTENT_LENGTH, length);
        }
        Ok(Response::from_parts(
            head,
            InterceptBody::whole(bytes, trailers),
        ))
    }

    /// The elements of a batch; one that is refused becomes an error in its place.
    async fn batch(&self, bytes: &Bytes) -> Result<Left, BoxError> {
        let problem = || Stage::Answering.unreadable("a batch is not JSON");
        let text = std::str::from_utf8(bytes).map_err(|_| problem())?;
        let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| problem())?;
        let mut edits = Vec::new();
        for element in elements {
            let piece = bytes.slice_ref(element.get().as_bytes());
            let start = piece.as_ptr().addr() - bytes.as_ptr().addr();
            let span = start..start + piece.len();
            match self.in_place(piece, true).await? {
                Left::Same => {}
                Left::Other(new) => edits.push((span, new)),
                Left::Nothing => {
                    return Err(Stage::Answering.unreadable("a part of a batch is refused"));
                }
            }
        }
        Ok(match edits.is_empty() {
            true => Left::Same,
            false => Left::Other(splice(bytes, &edits)),
        })
    }

    /// Shows a message among others: what is refused has something else in its place, unless somebody would wait for it for ever.
    pub(super) async fn in_place(&self, text: Bytes, must: bool) -> Result<Left, BoxError> {
        let facts = Message::told(text.clone(), self.cap()).ok();
        let facts = facts
            .as_ref()
            .and_then(Message::facts)
            .filter(|_| self.is_mcp());
        let error = match self.one(text, must).await {
            Err(error) => error,
            left => return left,
        };
        let ours = find::<Blocked>(&*error).is_some()
            || find::<Unreadable>(&*error).is_some()
            || find::<PauseFull>(&*error).is_some();
        let exchange = self.context.exchange();
        match facts {
            Some(facts) if ours => match (facts.kind, facts.id()) {
                (Kind::Response, Some(id)) => {
                    Ok(Left::Other(rescue::answer(&*error, exchange, id)))
                }
                (Kind::Response, None) | (Kind::Notification, _) => Ok(Left::Nothing),
                (Kind::Request, _) => {
                    exchange.give_up(GiveUp::Operator);
                    Err(error)
                }
            },
            Some(_) | None => Err(error),
        }
    }

    /// Shows one message, or one plain body. One that `must` be a message and is none is refused.
    async fn one(&self, text: Bytes, must: bool) -> Result<Left, BoxError> {
        let cap = self.cap();
        let told = if self.is_mcp() {
            Message::told(text, cap)
        } else {
            Ok(Message::plain(Direction::Response, text, cap))
        };
        let mut message = match told {
            Ok(message) => message,
            // An error that is not of JSON-RPC, or something that nobody has to see.
            Err(_) if !must || self.is_lenient() => return Ok(Left::Same),
            Err(problem) => return Err(Stage::Answering.unreadable(problem)),
        };
        let shown = self
            .chain
            .message(&self.wanted, &self.context, &mut message);
        match shown.await? {
            Verdict::Pass if message.is_changed() => Ok(Left::Other(message.bytes().clone())),
            Verdict::Pass => Ok(Left::Same),
            Verdict::Mock(mock) => self.replaced(&message, &mock),
        }
    }

    /// An answer in the place of the upstream's.
    fn replaced(&self, message: &Message, mock: &Mock) -> Result<Left, BoxError> {
        let exchange = self.context.exchange();
        let era = exchange
            .asked()
            .map_or(Era::Legacy, |call: &CallFacts| call.era);
        let facts = message
            .facts()
            .filter(|_| message.direction() == Direction::Response);
        let answer = facts.and_then(|facts| text(facts, mock, era, exchange));
        let problem =
            || Stage::Answering.unreadable("only an answer can be replaced by another one");
        answer.map(Left::Other).ok_or_else(problem)
    }
}
