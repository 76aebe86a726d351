//! The way of an exchange that somebody wants: its request is shown, sent on, and its response handed over to be shown.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header, request::Parts};
use http_body::{Body as HttpBody, Frame};
use http_body_util::StreamBody;
use serde_json::Value;
use tower::{Service, ServiceExt};

use super::{
    Answer, Context, Message, Mock, NotChanged,
    answer::{self, Show},
    body::{InterceptBody, Read, read},
    chain::{Chain, ChangedBy, Stage, Verdict, Wanted},
    consistent,
};
use crate::{
    Body,
    error::BoxError,
    exchange::{Changed, Exchange},
    mcp::{CallFacts, Era, Kind, headers},
};

pub(super) struct Way {
    chain: Arc<Chain>,
    wanted: Wanted,
    context: Context,
}

/// What came of showing a request.
enum Shown {
    /// It goes on.
    On(Request<Body>),
    /// It has its answer.
    Answered(Response<Bytes>),
}

impl Way {
    pub(super) fn new<B>(
        chain: Arc<Chain>,
        wanted: Wanted,
        exchange: Arc<Exchange>,
        request: &Request<B>,
    ) -> Self {
        let (method, path) = (request.method().clone(), request.uri().path());
        let headers = request.headers().clone();
        let before = ChangedBy::of(request);
        let context = Context::new(exchange, before, method, path, headers);
        Self {
            chain,
            wanted,
            context,
        }
    }

    fn exchange(&self) -> &Arc<Exchange> {
        self.context.exchange()
    }

    fn set_judged(&self, changed: Option<Changed>) {
        self.exchange().set_judged(self.chain.id(), changed);
    }

    pub(super) async fn go<S, B>(self, mut inner: S, request: Request<Body>) -> Answer<B>
    where
        S: Service<Request<Body>, Response = Response<B>> + Send,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        if let Some(call) = self.context.call()
            && !self.chain.settings.lenient
        {
            headers::check_present(call, request.headers())?;
        }
        let shown = match self.exchange().judged(self.chain.id()) {
            // It is sent again: what was decided stands.
            Some(judged) => Shown::On(again(request, judged)),
            None => self.show(request).await?,
        };
        let mut request = match shown {
            Shown::On(request) => request,
            Shown::Answered(response) => {
                return Ok(response.map(|bytes| InterceptBody::whole(bytes, None)));
            }
        };
        let judged = self.exchange().judged(self.chain.id()).flatten();
        if judged.is_some_and(|changed| changed.call.is_some()) {
            let by = ChangedBy(self.chain.id());
            request.extensions_mut().insert(by);
        }
        if self.wanted.all.messages {
            // What is encoded cannot be read.
            let plain = HeaderValue::from_static("identity");
            request.headers_mut().insert(header::ACCEPT_ENCODING, plain);
        }
        // It was ready when the request came; a hook may have taken its time.
        let ready = inner.ready().await.map_err(Into::into)?;
        let response = ready.call(request).await.map_err(Into::into)?;
        let show = Show::new(self.chain, self.wanted, self.context);
        answer::show(show, response).await
    }

    /// Shows the request to those who want it.
    async fn show(&self, request: Request<Body>) -> Result<Shown, BoxError> {
        if !self.wanted.all.request {
            self.set_judged(None);
            return Ok(Shown::On(request));
        }
        let (parts, body) = request.into_parts();
        match self.context.call() {
            Some(call) if !call.messages().is_empty() => self.show_call(call, parts, body).await,
            Some(_) => self.show_head(parts, body).await,
            None if self.wanted.all.body => self.show_plain(parts, body).await,
            None => self.show_head(parts, body).await,
        }
    }

    /// A request without messages, or whose body nobody wants.
    async fn show_head(&self, mut parts: Parts, body: Body) -> Result<Shown, BoxError> {
        let headers = &mut parts.headers;
        let verdict = self
            .chain
            .request(&self.wanted, &self.context, headers, None);
        if let Verdict::Mock(mock) = verdict.await? {
            return Ok(Shown::Answered(answer::plain(mock, Stage::Asking)?));
        }
        self.judge(&parts.headers, None, None);
        Ok(Shown::On(Request::from_parts(parts, body)))
    }

    /// Files what came of the request.
    fn judge(&self, headers: &HeaderMap, call: Option<CallFacts>, body: Option<Bytes>) {
        let headers = Changed::headers(self.context.headers(), headers);
        let changed = call.is_some() || body.is_some() || !headers.is_empty();
        self.set_judged(changed.then_some(Changed {
            call,
            body,
            headers,
        }));
    }

    /// A request of plain HTTP with its body.
    async fn show_plain(&self, mut parts: Parts, body: Body) -> Result<Shown, BoxError> {
        let cap = self.chain.settings.cap;
        let (bytes, trailers) = match read(body, cap).await? {
            Read::Whole(bytes, trailers) => (bytes, trailers),
            Read::Long(read, rest) if self.chain.settings.lenient => {
                let body = Body::new(InterceptBody::long(read, rest));
                return self.show_head(parts, body).await;
            }
            Read::Long(..) => return Err(Stage::Asking.unreadable("its body is too long")),
        };
        let mut message = Message::plain(super::Direction::Request, bytes, cap);
        let headers = &mut parts.headers;
        let shown = self
            .chain
            .request(&self.wanted, &self.context, headers, Some(&mut message));
        if let Verdict::Mock(mock) = shown.await? {
            return Ok(Shown::Answered(answer::plain(mock, Stage::Asking)?));
        }
        let bytes = message.bytes().clone();
        let changed = message.is_changed();
        if changed {
            answer::drop_digests(&mut parts.headers);
        }
        let again = changed.then(|| bytes.clone());
        let body = match trailers {
            Some(mut trailers) => {
                if changed {
                    answer::drop_digests(&mut trailers);
                    parts.headers.remove(header::CONTENT_LENGTH);
                }
                let frames = [Frame::data(bytes), Frame::trailers(trailers)];
                let frames = frames.map(Ok::<_, BoxError>);
                Body::new(StreamBody::new(futures_util::stream::iter(frames)))
            }
            None => {
                let length = HeaderValue::from(bytes.len() as u64);
                let framed = parts.headers.remove(header::TRANSFER_ENCODING).is_some();
                if framed || changed {
                    parts.headers.insert(header::CONTENT_LENGTH, length);
                }
                Body::full(bytes)
            }
        };
        self.judge(&parts.headers, None, again);
        Ok(Shown::On(Request::from_parts(parts, body)))
    }

    /// The messages of an MCP request, one after another.
    async fn show_call(
        &self,
        call: &CallFacts,
        mut parts: Parts,
        body: Body,
    ) -> Result<Shown, BoxError> {
        let cap = self.chain.settings.cap;
        let bytes = match body.bytes() {
            Some(bytes) => bytes.clone(),
            None => match read(body, MOST).await? {
                Read::Whole(bytes, _) => bytes,
                Read::Long(read, rest) if self.chain.settings.lenient => {
                    self.set_judged(None);
                    let body = Body::new(InterceptBody::long(read, rest));
                    return Ok(Shown::On(Request::from_parts(parts, body)));
                }
                Read::Long(..) => return Err(Stage::Asking.unreadable("its body is too long")),
            },
        };
        let mut edits = Vec::new();
        let mut mocks = Vec::new();
        let mut arguments = (Value::Null, Value::Null);
        for facts in call.messages() {
            let text = bytes.slice(facts.span.clone());
            let seen = text.len() <= cap;
            if !seen && self.chain.settings.lenient {
                continue;
            }
            if !seen {
                let problem = format!("it is longer than {cap} bytes");
                return Err(Stage::Asking.unreadable(problem));
            }
            let mut message = Message::asked(text.clone(), facts.clone(), cap);
            let headers = &mut parts.headers;
            let shown =
                self.chain
                    .request(&self.wanted, &self.context, headers, Some(&mut message));
            if let Verdict::Mock(mock) = shown.await? {
                mocks.push((facts.clone(), mock));
            }
            if message.is_changed() {
                if call.era == Era::Modern && consistent::has_mirrors(&parts.headers) {
                    arguments = (
                        arguments_of(text, facts, cap)?,
                        take_arguments(&mut message)?,
                    );
                }
                edits.push((facts.span.clone(), message.bytes().clone()));
            }
        }
        if !mocks.is_empty() {
            return self.mocked(call, mocks).map(Shown::Answered);
        }
        let bytes = if edits.is_empty() {
            bytes
        } else {
            answer::drop_digests(&mut parts.headers);
            splice(&bytes, &edits)
        };
        let changed = !edits.is_empty() || parts.headers != *self.context.headers();
        if changed {
            self.settle(call, &mut parts, &bytes, (&arguments.0, &arguments.1))?;
        } else {
            self.set_judged(None);
        }
        Ok(Shown::On(Request::from_parts(parts, Body::full(bytes))))
    }

    /// Makes headers and facts agree with a changed request, and files them.
    fn settle(
        &self,
        call: &CallFacts,
        parts: &mut Parts,
        body: &Bytes,
        arguments: (&Value, &Value),
    ) -> Result<(), BoxError> {
        let length = HeaderValue::from(body.len() as u64);
        parts.headers.insert(header::CONTENT_LENGTH, length);
        let mut new = CallFacts::read(&parts.method, &parts.headers, body)?;
        // The client's own session, and not what its upstream calls it.
        new.session.clone_from(&call.session);
        new.version.clone_from(&call.version);
        new.era = call.era;
        consistent::follow(&new, &mut parts.headers, arguments)?;
        self.judge(&parts.headers, Some(new), Some(body.clone()));
        Ok(())
    }

    /// The answer to a call whose messages are mocked: all of them, or it is refused, since the others would be lost.
    fn mocked(
        &self,
        call: &CallFacts,
        mocks: Vec<(crate::mcp::MessageFacts, Mock)>,
    ) -> Result<Response<Bytes>, BoxError> {
        if mocks.len() != call.messages().len() {
            let problem = "only a part of a batch has an answer without its server";
            return Err(Stage::Asking.unreadable(problem));
        }
        let exchange = self.exchange();
        if !call.batch {
            let mock = mocks.into_iter().next();
            return match mock {
                Some((facts, mock)) => answer::mocked(&facts, mock, call.era, exchange),
                None => Err(Stage::Asking.unreadable("there is no answer")),
            };
        }
        let mut text = BytesMut::from(&b"["[..]);
        for (facts, mock) in mocks
            .iter()
            .filter(|(facts, _)| facts.kind == Kind::Request)
        {
            if text.len() > 1 {
                text.extend_from_slice(b",");
            }
            let answer = answer::own(facts, mock, call.era, exchange);
            text.extend_from_slice(&answer.ok_or_else(|| {
                Stage::Asking.unreadable("a whole response cannot answer a part of a batch")
            })?);
        }
        if call.requests().next().is_none() {
            return Ok(answer::accepted());
        }
        text.extend_from_slice(b"]");
        Ok(answer::json(text.freeze()))
    }
}

/// The most bytes of an MCP request that nobody has read before this layer.
const MOST: usize = 64 << 20;

/// The request that is sent again, with what was decided the first time.
fn again(request: Request<Body>, judged: Option<&Changed>) -> Request<Body> {
    let Some(changed) = judged else {
        return request;
    };
    let (mut parts, body) = request.into_parts();
    changed.lead(&mut parts.headers);
    let other = changed.body.clone().map(Body::full);
    Request::from_parts(parts, other.unwrap_or(body))
}

/// `bytes` with other text at these places, which are in order.
pub(super) fn splice(bytes: &Bytes, edits: &[(crate::mcp::Span, Bytes)]) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len());
    let mut at = 0;
    for (span, text) in edits {
        out.extend_from_slice(&bytes[at..span.start]);
        out.extend_from_slice(text);
        at = span.end;
    }
    out.extend_from_slice(&bytes[at..]);
    out.freeze()
}

fn arguments_of(
    text: Bytes,
    facts: &crate::mcp::MessageFacts,
    cap: usize,
) -> Result<Value, BoxError> {
    take_arguments(&mut Message::asked(text, facts.clone(), cap))
}

fn take_arguments(message: &mut Message) -> Result<Value, BoxError> {
    let value = message.value();
    let value = value.map_err(|error: NotChanged| Stage::Asking.unreadable(error.to_string()))?;
    Ok(value
        .pointer("/params/arguments")
        .cloned()
        .unwrap_or_default())
}
