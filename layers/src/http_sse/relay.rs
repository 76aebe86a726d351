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
        CallFacts, INITIALIZED,
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
    /// The answers that are waited for; none of a stream that stands.
    wanted: usize,
    /// It answers an `initialize`.
    initialize: bool,
    /// The answers in it.
    answers: usize,
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
        let in_session = request.headers().contains_key(SESSION_ID);
        let sent = own.clone().oneshot(request).await;
        let response = sent.map_err(Into::into)?;
        self.look(response.status(), in_session);
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
        let mut read = Read {
            wanted,
            initialize,
            ..Read::default()
        };
        let mut reader = EventReader::new(self.message_limit);
        let end = self.read(response, &mut reader, &mut read).await;
        match end {
            // What became of the response then is nothing to the client.
            _ if read.is_answered() => {}
            Err(error) => self.fail(&error, &exchange),
            // A call that was cancelled has no answer.
            Ok(()) if status == StatusCode::ACCEPTED || exchange.is_taken_back() => {}
            Ok(()) if status.is_success() => self.fail(&NoAnswer.into(), &exchange),
            Ok(()) => self.fail(&UpstreamStatus { status }.into(), &exchange),
        }
        self.look(status, in_session);
        drop(held);
    }

    /// Tells the client of a failure.
    pub(super) fn fail(&self, error: &BoxError, exchange: &Exchange) {
        if let Some(event) = self.rescue.event(error, exchange) {
            self.channel.push(event);
        }
    }

    /// A session that is gone takes its channel with it: the client is to begin anew.
    pub(super) fn look(&self, status: StatusCode, in_session: bool) {
        if status == StatusCode::NOT_FOUND && in_session {
            self.channel.end();
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
        let (mut answers, mut others) = (0, 0);
        peek.feed(message, |seen| match seen {
            Seen::Response(_) => answers += 1,
            Seen::Request { .. } | Seen::Notification { .. } => others += 1,
        });
        let nobody = answers == 1 && others == 0 && peek.answered().is_none();
        if nobody || answers + others == 0 {
            return;
        }
        if read.initialize
            && let Some(version) = revision(message)
            && let Ok(version) = HeaderValue::try_from(version)
        {
            self.channel.negotiated(version);
        }
        read.answers += answers;
        self.channel.push(wire::event(message));
    }
}

impl Read {
    /// All that is waited for has come.
    fn is_answered(&self) -> bool {
        self.wanted > 0 && self.answers >= self.wanted
    }
}
