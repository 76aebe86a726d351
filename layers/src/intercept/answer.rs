//! Answers: those that come without an upstream, and the upstream's, made ready to be shown.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response::Parts};
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
    mcp::{Era, Id, Kind, MessageFacts, peek, wire},
    observe::{Media, is_plain},
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

/// The answer to one request, which has this tool and id, and what it is; `None` if it is a whole response.
fn text(id: Option<&Id>, tool: bool, mock: &Mock, era: Era) -> Option<(Bytes, peek::Answer)> {
    Some(match mock {
        Mock::Result(result) => {
            let mut result = result.clone();
            if let (Era::Modern, Value::Object(members)) = (era, &mut result) {
                let complete = || Value::from("complete");
                members.entry("resultType").or_insert_with(complete);
            }
            let failed = tool && result["isError"] == true;
            let answer = match failed {
                true => peek::Answer::ToolError,
                false => peek::Answer::Result,
            };
            let id = id.map_or("null", |id| id.as_json());
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
            (Bytes::from(text), answer)
        }
        Mock::Error {
            code,
            message,
            data,
        } => {
            let text = wire::error(id, *code, message, data.as_ref());
            (text, peek::Answer::Error(*code))
        }
        Mock::Response(_) => return None,
    })
}

/// The answer to a request that no upstream sees, of which the exchange is told; `None` if it is a whole response.
pub(super) fn own(
    facts: &MessageFacts,
    mock: &Mock,
    era: Era,
    exchange: &Exchange,
) -> Option<Bytes> {
    let (text, answer) = text(facts.id(), facts.tool().is_some(), mock, era)?;
    exchange.response().saw_answer(answer);
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
    match own(facts, &mock, era, exchange) {
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
    if !is_plain(&head.headers) {
        if show.is_lenient() {
            return Ok(Response::from_parts(head, InterceptBody::passing(body)));
        }
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

/// What is left of a batch with these elements: it keeps its text around those that are changed, and is written anew if one is left out.
fn in_batch(bytes: &Bytes, pieces: &[(Bytes, Left)], left_out: bool) -> Left {
    if !left_out {
        let edits = pieces.iter().filter_map(|(piece, left)| match left {
            Left::Other(new) => {
                let start = piece.as_ptr().addr() - bytes.as_ptr().addr();
                Some((start..start + piece.len(), new.clone()))
            }
            Left::Same | Left::Nothing => None,
        });
        let edits: Vec<_> = edits.collect();
        return match edits.is_empty() {
            true => Left::Same,
            false => Left::Other(splice(bytes, &edits)),
        };
    }
    let kept = pieces.iter().filter_map(|(piece, left)| match left {
        Left::Same => Some(&piece[..]),
        Left::Other(new) => Some(&new[..]),
        Left::Nothing => None,
    });
    let kept: Vec<_> = kept.collect();
    match kept.is_empty() {
        true => Left::Nothing,
        false => Left::Other([&b"["[..], &kept.join(&b","[..]), b"]"].concat().into()),
    }
}

/// Takes away what headers or trailers say of a body that was changed.
pub(super) fn drop_digests(headers: &mut HeaderMap) {
    for name in DIGESTS {
        headers.remove(name);
    }
}

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
        self.context.call().is_some()
    }

    /// Nobody waits for an answer on it: a stream that stands, or that a client resumes. Should it end, its client comes back for what follows.
    pub(super) fn answers_nobody(&self) -> bool {
        let call = self.context.call();
        call.is_some_and(|call| call.requests().next().is_none())
    }

    /// Notes that a message of the server does not reach its client.
    pub(super) fn leaves_out(&self) {
        let request_id = self.context.exchange().id();
        tracing::warn!(
            request_id,
            "a message of the server was left out of a stream"
        );
    }

    /// Shows a JSON body, which is held for it.
    async fn whole<B>(&self, mut head: Parts, body: B) -> Answer<B>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (bytes, mut trailers) = match read(body, self.cap()).await? {
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
        let left = if self.is_batch(&bytes) {
            self.batch(&bytes).await?.0
        } else {
            // What is refused ends as a whole, with the status that it should have: nothing of it has gone out.
            match self.told(bytes.clone(), head.status.is_success())? {
                Some(mut message) => self.show_message(&mut message).await?,
                None => Left::Same,
            }
        };
        let bytes = match left {
            Left::Same => bytes,
            Left::Other(new) => {
                drop_digests(&mut head.headers);
                trailers.iter_mut().for_each(drop_digests);
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

    /// What an event carries; also says whether an answer was in it.
    pub(super) async fn in_event(&self, text: Bytes) -> Result<(Left, bool), BoxError> {
        if !self.is_batch(&text) {
            return self.in_place(text).await;
        }
        match self.batch(&text).await {
            // It cannot be cut into its messages.
            Err(error) => Ok((self.refused(error, None)?, false)),
            shown => shown,
        }
    }

    /// Servers of revision 2025-03-26 may send several messages as one text, as a body or in an event.
    fn is_batch(&self, text: &[u8]) -> bool {
        text.trim_ascii_start().starts_with(b"[") && self.is_mcp()
    }

    /// The elements of a batch. One that is refused becomes an error in its place, or is left out of it. Also says whether an answer was among them.
    async fn batch(&self, bytes: &Bytes) -> Result<(Left, bool), BoxError> {
        let elements: Vec<&RawValue> = match serde_json::from_slice(bytes) {
            Ok(elements) => elements,
            Err(_) if self.is_lenient() => return Ok((Left::Same, false)),
            Err(_) => return Err(Stage::Answering.unreadable("a batch is not JSON")),
        };
        let mut pieces = Vec::with_capacity(elements.len());
        let (mut answered, mut left_out) = (false, false);
        for element in elements {
            let piece = bytes.slice_ref(element.get().as_bytes());
            let (left, answers) = self.in_place(piece.clone()).await?;
            answered |= answers;
            left_out |= matches!(left, Left::Nothing);
            pieces.push((piece, left));
        }
        Ok((in_batch(bytes, &pieces, left_out), answered))
    }

    /// Shows a message among others: what is refused has something else in its place, unless somebody would wait for it for ever. Also says
    /// whether it was an answer.
    async fn in_place(&self, text: Bytes) -> Result<(Left, bool), BoxError> {
        let mut message = match self.told(text, true) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok((Left::Same, false)),
            Err(error) => return Ok((self.refused(error, None)?, false)),
        };
        let left = self.show_message(&mut message).await;
        let facts = message.facts();
        let answers = facts.is_some_and(|facts| facts.kind == Kind::Response);
        let left = left.or_else(|error| self.refused(error, facts))?;
        Ok((left, answers))
    }

    /// What there is in the place of a message that was refused.
    fn refused(&self, error: BoxError, facts: Option<&MessageFacts>) -> Result<Left, BoxError> {
        let ours = find::<Blocked>(&*error).is_some()
            || find::<Unreadable>(&*error).is_some()
            || find::<PauseFull>(&*error).is_some();
        if !ours || !self.is_mcp() {
            return Err(error);
        }
        let exchange = self.context.exchange();
        match facts.map(|facts| (facts.kind, facts.id())) {
            Some((Kind::Response, Some(id))) => {
                Ok(Left::Other(rescue::answer(&*error, exchange, id)))
            }
            Some((Kind::Response, None) | (Kind::Notification, _)) => Ok(Left::Nothing),
            Some((Kind::Request, _)) | None if self.answers_nobody() => {
                self.leaves_out();
                Ok(Left::Nothing)
            }
            Some((Kind::Request, _)) => {
                exchange.give_up(match find::<Blocked>(&*error) {
                    Some(_) => GiveUp::Operator,
                    None => GiveUp::Proxy,
                });
                Err(error)
            }
            None => Err(error),
        }
    }

    /// The last event of a stream that ends with what could not be shown, unless its call is `answered`. To those below, who would be asked else, what
    /// did not pass here has passed.
    ///
    /// # Errors
    /// The one given, where nobody is known to wait.
    pub(super) fn last_word(&self, error: BoxError, answered: bool) -> Result<Bytes, BoxError> {
        let unseen = !answered && find::<Unreadable>(&*error).is_some();
        let call = self.context.call().filter(|_| unseen);
        let Some(id) = call.and_then(|call| call.request()?.id()) else {
            return Err(error);
        };
        let exchange = self.context.exchange();
        tracing::warn!(request_id = exchange.id(), %error, "a stream ends with what could not be shown");
        Ok(wire::event(&rescue::answer(&*error, exchange, id)))
    }

    /// One message, or one plain body; `None` if nobody has to see it. One that `must` be a message and is none is refused.
    fn told(&self, text: Bytes, must: bool) -> Result<Option<Message>, BoxError> {
        let cap = self.cap();
        if !self.is_mcp() {
            return Ok(Some(Message::plain(Direction::Response, text, cap)));
        }
        match Message::told(text, cap) {
            Ok(message) => Ok(Some(message)),
            // An error that is not of JSON-RPC, or something that nobody has to see.
            Err(_) if !must || self.is_lenient() => Ok(None),
            Err(problem) => Err(Stage::Answering.unreadable(problem)),
        }
    }

    async fn show_message(&self, message: &mut Message) -> Result<Left, BoxError> {
        let shown = self.chain.message(&self.wanted, &self.context, message);
        match shown.await? {
            Verdict::Pass if message.is_changed() => Ok(Left::Other(message.bytes().clone())),
            Verdict::Pass => Ok(Left::Same),
            Verdict::Mock(mock) => self.replaced(message, &mock),
        }
    }

    /// An answer in the place of the upstream's, which was counted already.
    fn replaced(&self, message: &Message, mock: &Mock) -> Result<Left, BoxError> {
        let call = self.context.call();
        let era = call.map_or(Era::Legacy, |call| call.era);
        let facts = message
            .facts()
            .filter(|_| message.direction() == Direction::Response);
        let asked = self.context.asked(message);
        let tool = asked.is_some_and(|asked| asked.tool().is_some());
        let answer = facts.and_then(|facts| text(facts.id(), tool, mock, era));
        let Some((text, answer)) = answer else {
            return Err(
                Stage::Answering.unreadable("only an answer can be replaced by another one")
            );
        };
        self.context.exchange().response().set_answer(answer);
        Ok(Left::Other(text))
    }
}
