//! What a channel sends inside: the messages of its client, the GET stream of its session, and the DELETE at its end.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use serde::Deserialize;
use tower::{Service, ServiceExt};

use super::{
    NoAnswer, UpstreamStatus,
    body::Farewell,
    channel::{Channel, InFlight, Session},
    without_token,
};
use crate::{
    Body,
    error::BoxError,
    exchange::Exchange,
    limit::Counted,
    mcp::{
        CallFacts, INITIALIZED,
        events::{DataEvent, EventReader, EventTooLong},
        headers::{LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID},
        peek::{Peek, Seen},
        wire,
    },
    observe::Media,
    rescue::RescueLayer,
};

/// Goes between a channel and the layers inside.
#[derive(Clone)]
pub(super) struct Relay {
    pub(super) channel: Arc<Channel>,
    pub(super) rescue: RescueLayer,
    pub(super) message_limit: usize,
}

/// The request that others are made after.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) exchange: Arc<Exchange>,
}

/// What was read of a response.
#[derive(Default)]
struct Read {
    /// The answers in it.
    answers: usize,
    /// Anything.
    events: usize,
}

/// The pauses before a GET stream is opened again: from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often in a row a GET stream may break without an event before it is given up.
const TRIES: u32 = 5;

/// Ends a session, with the headers of the request that opened its channel.
pub(super) fn farewell<O, Own>(own: O, origin: Origin) -> Farewell
where
    O: Service<Request<Body>, Response = Response<Own>> + Send + 'static,
    O::Future: Send,
    Own: Send,
{
    Box::new(move |session| {
        Box::pin(async move {
            // Whether the server allows it (405 is allowed), or is there at all, changes nothing.
            if let Some(request) = origin.request(Method::DELETE, &session) {
                let _told = own.oneshot(request).await;
            }
        })
    })
}

impl Origin {
    /// A request without a body in this session.
    fn request(&self, method: Method, session: &Session) -> Option<Request<Body>> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
            headers.remove(name);
        }
        let events = HeaderValue::from_static("text/event-stream");
        headers.insert(header::ACCEPT, events);
        session.apply(headers);
        let facts = CallFacts::read(request.method(), request.headers(), &Bytes::new()).ok()?;
        let exchange = self.exchange.beside();
        exchange.set_call(facts);
        request.extensions_mut().insert(exchange);
        Some(request)
    }
}

impl Session {
    fn apply(&self, headers: &mut HeaderMap) {
        // What the client itself says here is not its session.
        headers.remove(SESSION_ID);
        if let Some(id) = &self.id {
            headers.insert(SESSION_ID, id.clone());
        }
        if let Some(version) = &self.version
            && !headers.contains_key(PROTOCOL_VERSION)
        {
            headers.insert(PROTOCOL_VERSION, version.clone());
        }
    }
}

impl Relay {
    /// What a client posted, as a request of Streamable HTTP with an exchange of its own.
    pub(super) fn request(
        &self,
        posted: Request<Body>,
        exchange: &Exchange,
    ) -> Result<Request<Body>, BoxError> {
        let (mut parts, body) = posted.into_parts();
        parts.uri = without_token(&parts.uri);
        let both = HeaderValue::from_static("application/json, text/event-stream");
        parts.headers.insert(header::ACCEPT, both);
        if exchange.call().is_some_and(CallFacts::is_initialize) {
            parts.headers.remove(SESSION_ID);
            parts.headers.remove(PROTOCOL_VERSION);
        } else {
            self.channel.session().apply(&mut parts.headers);
        }
        let bytes = body.bytes().cloned().unwrap_or_default();
        let facts = CallFacts::read(&parts.method, &parts.headers, &bytes)?;
        let own = exchange.beside();
        own.set_call(facts);
        parts.extensions.insert(own);
        Ok(Request::from_parts(parts, body))
    }

    /// Sends a message that has no answer, and waits until the server has it.
    pub(super) async fn tell<O, Own>(
        self,
        own: O,
        request: Request<Body>,
    ) -> Result<Response<Own>, BoxError>
    where
        O: Service<Request<Body>, Response = Response<Own>> + Clone + Send + 'static,
        O::Error: Into<BoxError>,
        O::Future: Send + 'static,
        Own: HttpBody<Data = Bytes> + Send + 'static,
        Own::Error: Into<BoxError>,
    {
        self.channel.touch();
        let exchange = Exchange::get(&request).cloned();
        let ready = exchange
            .as_ref()
            .and_then(|e| e.call())
            .is_some_and(|call| call.has_method(INITIALIZED));
        let origin = exchange.map(|exchange| Origin {
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            exchange,
        });
        let in_session = request.headers().contains_key(SESSION_ID);
        let sent = own.clone().oneshot(request).await;
        let response = sent.map_err(Into::into)?;
        self.look(response.status(), in_session);
        if let Some(origin) = origin.filter(|_| ready && response.status().is_success())
            && self.channel.wants_standing()
        {
            let channel = self.channel.clone();
            channel.spawn(self.stand(own, origin));
        }
        Ok(response)
    }

    /// Sends a call, whose answer goes to the stream.
    pub(super) fn start<O, Own>(self, own: O, request: Request<Body>)
    where
        O: Service<Request<Body>, Response = Response<Own>> + Clone + Send + 'static,
        O::Error: Into<BoxError>,
        O::Future: Send + 'static,
        Own: HttpBody<Data = Bytes> + Send + 'static,
        Own::Error: Into<BoxError>,
    {
        let Some(exchange) = Exchange::get(&request).cloned() else {
            return;
        };
        match self.channel.begin() {
            Ok(held) => {
                let channel = self.channel.clone();
                channel.spawn(self.call(own, request, exchange, held));
            }
            Err(shed) => self.fail(&shed.into(), &exchange),
        }
    }

    /// Follows a call to its answer.
    async fn call<O, Own>(
        self,
        own: O,
        request: Request<Body>,
        exchange: Arc<Exchange>,
        held: InFlight,
    ) where
        O: Service<Request<Body>, Response = Response<Own>> + Clone,
        O::Error: Into<BoxError>,
        Own: HttpBody<Data = Bytes>,
        Own::Error: Into<BoxError>,
    {
        let call = exchange.call();
        let initialize = call.is_some_and(CallFacts::is_initialize);
        let wanted = call.map_or(0, |call| call.requests().count());
        let in_session = request.headers().contains_key(SESSION_ID);
        let response = match own.oneshot(request).await {
            Ok(response) => response,
            Err(error) => return self.fail(&error.into(), &exchange),
        };
        let status = response.status();
        if initialize && status.is_success() {
            self.channel.begin_session(Session {
                id: response.headers().get(SESSION_ID).cloned(),
                version: None,
            });
        }
        let mut reader = EventReader::new(self.message_limit);
        match self.read(response, &mut reader, initialize).await {
            Err(error) => self.fail(&error, &exchange),
            // A call that was cancelled has no answer.
            Ok(read) if read.answers >= wanted || status == StatusCode::ACCEPTED => {}
            Ok(_) if status.is_success() => self.fail(&NoAnswer.into(), &exchange),
            Ok(_) => self.fail(&UpstreamStatus { status }.into(), &exchange),
        }
        self.look(status, in_session);
        drop(held);
    }

    /// Tells the client of a failure.
    fn fail(&self, error: &BoxError, exchange: &Exchange) {
        if let Some(event) = self.rescue.event(error, exchange) {
            self.channel.push(event);
        }
    }

    /// A session that is gone takes its channel with it: the client is to begin anew.
    fn look(&self, status: StatusCode, in_session: bool) {
        if status == StatusCode::NOT_FOUND && in_session {
            self.channel.end();
        }
    }

    /// Keeps the session's GET stream open, if the server has one.
    async fn stand<O, Own>(self, own: O, origin: Origin)
    where
        O: Service<Request<Body>, Response = Response<Own>> + Clone,
        O::Error: Into<BoxError>,
        Own: HttpBody<Data = Bytes>,
        Own::Error: Into<BoxError>,
    {
        let mut reader = EventReader::new(self.message_limit);
        let (mut fruitless, mut streamed) = (0, false);
        while fruitless < TRIES {
            let session = self.channel.session();
            let Some(mut request) = origin.request(Method::GET, &session) else {
                return;
            };
            request.extensions_mut().insert(Counted);
            if let Ok(last) = HeaderValue::from_bytes(reader.last_id())
                && !last.is_empty()
            {
                request.headers_mut().insert(LAST_EVENT_ID, last);
            }
            let sent: Result<_, BoxError> = own.clone().oneshot(request).await.map_err(Into::into);
            if let Ok(response) = sent {
                let status = response.status();
                if streamed {
                    self.look(status, true);
                }
                if status.is_success() && Media::of(response.headers()) == Media::Events {
                    streamed = true;
                    reader.begin();
                    let read = self.read(response, &mut reader, false).await;
                    if read.is_ok_and(|read| read.events > 0) {
                        fruitless = 0;
                    }
                } else if !status.is_server_error() {
                    // The server has none: 405, as the specification has it.
                    return;
                }
            }
            let told = reader.retry().map(Duration::from_millis);
            let pause = told.unwrap_or(PAUSES.0 * 2_u32.pow(fruitless));
            let pause = pause.clamp(Duration::from_millis(100), PAUSES.1);
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            fruitless += 1;
        }
    }

    /// Hands what a response holds to the channel.
    async fn read<B>(
        &self,
        response: Response<B>,
        reader: &mut EventReader,
        initialize: bool,
    ) -> Result<Read, BoxError>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let media = Media::of(response.headers());
        let mut body = pin!(response.into_body());
        let (mut read, mut json) = (Read::default(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Into::into)?.into_data() else {
                continue;
            };
            match media {
                Media::Events => reader.feed(&data, |event: DataEvent| {
                    if &*event.name == "message" && !event.data.is_empty() {
                        self.message(&event.data, &mut read, initialize);
                    }
                })?,
                Media::Json if json.len() + data.len() > self.message_limit => {
                    let limit = self.message_limit;
                    return Err(EventTooLong { limit }.into());
                }
                Media::Json => json.extend_from_slice(&data),
                Media::Other => {}
            }
        }
        if !json.is_empty() {
            self.message(&json, &mut read, initialize);
        }
        Ok(read)
    }

    /// One message, or a batch, for the client. What answers nobody is dropped: an upstream that refuses a request may send that.
    fn message(&self, message: &[u8], read: &mut Read, initialize: bool) {
        let mut peek = Peek::default();
        let (mut answers, mut others) = (0, 0);
        peek.feed(message, |seen| match seen {
            Seen::Response(_) => answers += 1,
            Seen::Request { .. } | Seen::Notification { .. } => others += 1,
        });
        let nobody = answers == 1 && others == 0 && peek.answered().is_none();
        if nobody || answers + others == 0 {
            return;
        }
        if initialize && let Some(version) = version(message) {
            self.channel.negotiated(version);
        }
        read.answers += answers;
        read.events += 1;
        self.channel.push(wire::event(message));
    }
}

/// The revision in the result of an `initialize`.
fn version(message: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        result: Initialized,
    }
    #[derive(Deserialize)]
    struct Initialized {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let answer: Answer = serde_json::from_slice(message).ok()?;
    HeaderValue::try_from(answer.result.version).ok()
}
