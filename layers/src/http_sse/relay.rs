//! What a channel sends inside: the messages of its client, and the DELETE at the end of its session.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
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
    exchange::{Exchange, Origin},
    mcp::{
        CallFacts, INITIALIZED, Id,
        events::{DataEvent, EventReader, EventTooLong},
        headers::{EVENTS, JSON_OR_EVENTS, PROTOCOL_VERSION, SESSION_ID},
        messages::revision,
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

/// What was read of a response.
#[derive(Default)]
pub(super) struct Read {
    /// Answers are waited for; none on a stream that stands.
    asks: bool,
    /// The requests whose answers have not come.
    open: Vec<Id>,
    /// It answers an `initialize`.
    initialize: bool,
    /// Events, of whatever kind.
    pub(super) events: usize,
}

/// How long the end of a response is waited for once all answers are there. A server is to end it then, but need not.
const END: Duration = Duration::from_secs(1);

/// Ends a session, with the headers of the request that opened its channel.
pub(super) fn farewell<O, Own>(own: O, origin: Origin) -> Farewell
where
    O: Service<Request<Body>, Response = Response<Own>> + Clone + Send + 'static,
    O::Future: Send,
    Own: Send,
{
    Box::new(move |session| {
        let (own, origin) = (own.clone(), origin.clone());
        Box::pin(async move {
            // Whether the server allows it (405 is allowed), or is there at all, changes nothing.
            if let Some(request) = in_session(&origin, Method::DELETE, &session) {
                let _told = own.oneshot(request).await;
            }
        })
    })
}

/// A request without a message in this session.
pub(super) fn in_session(
    origin: &Origin,
    method: Method,
    session: &Session,
) -> Option<Request<Body>> {
    let mut request = origin.request(method, Bytes::new(), EVENTS);
    session.apply(request.headers_mut());
    let filed = origin.exchange.file_beside(&mut request, &Bytes::new());
    filed.is_ok().then_some(request)
}

/// The requests of a call.
pub(super) fn requests(exchange: &Exchange) -> Vec<Id> {
    let requests = exchange.call().into_iter().flat_map(CallFacts::requests);
    requests.filter_map(|m| m.id()).cloned().collect()
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
        let both = HeaderValue::from_static(JSON_OR_EVENTS);
        parts.headers.insert(header::ACCEPT, both);
        if exchange.call().is_some_and(CallFacts::is_initialize) {
            parts.headers.remove(SESSION_ID);
            parts.headers.remove(PROTOCOL_VERSION);
        } else {
            self.channel.session().apply(&mut parts.headers);
        }
        let mut request = Request::from_parts(parts, body);
        let messages = exchange.call().map(|call| call.messages.clone());
        exchange.file_read_beside(&mut request, messages.unwrap_or_default())?;
        Ok(request)
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
        let origin = exchange.filter(|_| ready).map(|exchange| {
            Origin::new(request.uri().clone(), request.headers().clone(), exchange)
        });
        let session = request.headers().get(SESSION_ID).cloned();
        let sent = own.clone().oneshot(request).await;
        let response = sent.map_err(Into::into)?;
        self.look(response.status(), session.as_ref());
        if let Some(origin) = origin.filter(|_| response.status().is_success()) {
            let channel = self.channel.clone();
            channel.stand(self.stand(own, origin));
        }
        Ok(response)
    }

    /// Sends a call, whose answer goes to the stream.
    pub(super) fn start<O, Own>(self, own: O, request: Request<Body>, held: InFlight)
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
        let channel = self.channel.clone();
        channel.spawn(self.call(own, request, exchange, held));
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
        let initialize = exchange.call().is_some_and(CallFacts::is_initialize);
        let open = requests(&exchange);
        let session = request.headers().get(SESSION_ID).cloned();
        let response = match own.oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                let read = Read::of(open, initialize);
                return self.conclude(StatusCode::OK, Err(error.into()), read, &exchange);
            }
        };
        let status = response.status();
        if initialize && status.is_success() {
            self.channel.begin_session(Session {
                id: response.headers().get(SESSION_ID).cloned(),
                version: None,
            });
        }
        let mut read = Read::of(open, initialize);
        let mut reader = EventReader::new(self.message_limit);
        let end = self.read(response, &mut reader, &mut read).await;
        self.conclude(status, end, read, &exchange);
        self.look(status, session.as_ref());
        drop(held);
    }

    /// Tells the client what it would wait for in vain, once a response has ended.
    fn conclude(
        &self,
        status: StatusCode,
        end: Result<(), BoxError>,
        mut read: Read,
        exchange: &Exchange,
    ) {
        // A call that was cancelled has no answer.
        read.open.retain(|id| !exchange.is_taken_back(id));
        let error = match end {
            // What became of the response then is nothing to the client.
            _ if read.is_answered() => return,
            Err(error) => return self.fail(&error, exchange, &read.open),
            Ok(()) if status == StatusCode::ACCEPTED => return,
            Ok(()) if status.is_success() => NoAnswer.into(),
            Ok(()) => UpstreamStatus { status }.into(),
        };
        if !read.open.is_empty() {
            self.fail(&error, exchange, &read.open);
        }
    }

    /// Tells the client that these requests failed.
    pub(super) fn fail(&self, error: &BoxError, exchange: &Exchange, open: &[Id]) {
        let events = self.rescue.events(error, exchange, open);
        if !events.is_empty() {
            self.channel.push(events);
        }
    }

    /// A session that is gone takes its channel with it: the client is to begin anew.
    pub(super) fn look(&self, status: StatusCode, session: Option<&HeaderValue>) {
        if let Some(session) = session.filter(|_| status == StatusCode::NOT_FOUND) {
            self.channel.lose(session);
        }
    }

    /// Hands what a response holds to the channel, up to its end; once all answers are there, that is waited for no longer than [`END`].
    pub(super) async fn read<B>(
        &self,
        response: Response<B>,
        reader: &mut EventReader,
        read: &mut Read,
    ) -> Result<(), BoxError>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let media = Media::of(response.headers());
        let mut body = pin!(response.into_body());
        let (mut json, mut last) = (BytesMut::new(), None);
        loop {
            let frame = if read.is_answered() {
                let last = *last.get_or_insert_with(|| Instant::now() + END);
                timeout_at(last, body.frame()).await.unwrap_or_default()
            } else {
                body.frame().await
            };
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(Into::into)?.into_data() else {
                continue;
            };
            match media {
                Media::Events => reader.feed(&data, |event: DataEvent| {
                    read.events += 1;
                    if &*event.name == "message" && !event.data.is_empty() {
                        self.message(&event.data, read);
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
            self.message(&json, read);
        }
        Ok(())
    }

    /// One message, or a batch, for the client. What answers nobody is dropped: an upstream that refuses a request may send that.
    fn message(&self, message: &[u8], read: &mut Read) {
        let mut peek = Peek::default();
        let (mut answers, mut named, mut others) = (0, 0, 0);
        // In a piece there is the end of one message at most: the newest answer's id is that of the piece's own.
        for piece in message.split_inclusive(|byte| *byte == b'}') {
            let before = answers;
            peek.feed(piece, |seen| match seen {
                Seen::Response(_) => answers += 1,
                Seen::Request { .. } | Seen::Notification { .. } => others += 1,
            });
            if answers > before
                && let Some(id) = peek.answered()
            {
                named += 1;
                read.open.retain(|open| open != id);
            }
        }
        let nobody = answers == 1 && others == 0 && named == 0;
        if nobody || answers + others == 0 {
            return;
        }
        if read.initialize
            && let Some(version) = revision(message)
            && let Ok(version) = HeaderValue::try_from(version)
        {
            self.channel.negotiated(version);
        }
        self.channel.push(wire::event(message));
    }
}

impl Read {
    /// Nothing yet, of the answers to these requests.
    fn of(open: Vec<Id>, initialize: bool) -> Self {
        Self {
            asks: !open.is_empty(),
            open,
            initialize,
            ..Self::default()
        }
    }

    /// All that is waited for has come.
    fn is_answered(&self) -> bool {
        self.asks && self.open.is_empty()
    }
}
