//! Begins a lost session anew at its upstream, in its client's words, so that the client need not.
//!
//! An upstream that restarted, or whose endpoint was taken out, does not know its sessions any more; and one whose endpoint cannot be reached is of no use while
//! another can. Then the client's own `initialize` is sent again, then
//! `notifications/initialized`, the log level and the resource subscriptions that it had set: each as the client wrote it, with the headers of the request that
//! found out. Only that request is sent again, once. What the server kept of the session beside that is lost; so by default only those are healed whose calls all
//! were safe to repeat (see [`is_safe`]), since they can have left nothing there. A session is healed only as a whole:
//! if the server refuses any of this, or now speaks another revision, the client hears that its session is gone. A server that cannot be asked, or breaks off, costs no session: the
//! request fails, and the next one tries again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, request::Parts};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use tower::{Service, ServiceExt};

use super::store::{History, Home, Note};
use crate::{
    Body,
    attempt::{Pinned, Tried, Unasked},
    error::{BoxError, Outcome},
    exchange::{EndpointInfo, Exchange, Origin},
    fault::Fault,
    mcp::{
        CallFacts, INITIALIZED, Kind, MessageFacts,
        headers::{self, JSON_OR_EVENTS, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID},
        messages::{self, revision},
    },
    observe::Media,
    rescue::Row,
    retry::is_safe,
};

/// Which lost sessions are begun anew at the upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Heal {
    /// Those whose calls all were safe to repeat.
    #[default]
    Safe,
    /// All that can be.
    Always,
    /// None.
    Never,
}

/// A request that may be sent again.
pub(super) struct Again {
    parts: Parts,
    body: Bytes,
}

/// The messages that begin a session, on their way.
pub(super) struct Handshake<'a, S> {
    inner: &'a mut S,
    /// The request that found out.
    origin: Origin,
    /// Where the session cannot live now.
    away: Option<Arc<str>>,
    /// The endpoint that was asked last.
    reached: Option<Arc<EndpointInfo>>,
}

/// Why a session could not be begun anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotHealed {
    #[error("the upstream could not be asked, or broke off")]
    Away(#[source] BoxError),
    #[error("the upstream failed")]
    Failed(#[source] BoxError),
    #[error("the upstream answered {0}")]
    Status(u16),
    #[error("the upstream gave no result to initialize")]
    NoResult,
    #[error("the upstream speaks another revision now")]
    Revision,
    #[error("the upstream began no session")]
    NoSession,
    #[error("the upstream took too long")]
    Late,
}

/// How long all of it may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The most bytes of an answer.
const ANSWER: usize = 1 << 20;

/// Another try may have more luck: what was asked is harmless to ask again.
fn is_passing(error: &BoxError) -> bool {
    let fault = Fault::of(&**error);
    is_unsent(&fault) || matches!(fault, Fault::UpstreamBroken(_) | Fault::AnswerMissing)
}

/// Nothing reached the upstream.
pub(super) fn is_unsent(fault: &Fault) -> bool {
    Row::of(fault).outcome == Outcome::NotSent
}

/// The id that an upstream gave a session, if it is one: visible ASCII (MCP 2025-11-25, transports, "Session Management").
pub(super) fn upstream_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers::single(headers, &SESSION_ID)?;
    (!id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic())).then(|| id.into())
}

// === what is kept ===

/// The call is one that may have had an effect, should it be lost.
pub(super) fn is_risky(call: &CallFacts) -> bool {
    let mut calls = call.messages().iter().filter(|m| m.may_act());
    calls.any(|message| {
        let method = message.method.as_ref().map_or("", |m| m.as_str());
        message.continues || !is_safe(method)
    })
}

/// What a call changed in its session, if it succeeded.
pub(super) fn notes<'a>(call: &'a CallFacts, body: &'a Bytes) -> impl Iterator<Item = Note> + 'a {
    call.messages()
        .iter()
        .filter_map(|message| note(message, body))
}

fn note(message: &MessageFacts, body: &Bytes) -> Option<Note> {
    let resource = || message.name.as_deref().map(Box::from);
    let bytes = || body.get(message.span.clone()).map(|b| body.slice_ref(b));
    match (message.kind, message.method.as_ref()?.as_str()) {
        (Kind::Notification, INITIALIZED) => Some(Note::Initialized),
        (Kind::Request, "logging/setLevel") => Some(Note::Level(bytes()?)),
        (Kind::Request, "resources/subscribe") => Some(Note::Subscribed(resource()?, bytes()?)),
        (Kind::Request, "resources/unsubscribe") => Some(Note::Unsubscribed(resource()?)),
        _ => None,
    }
}

// === impl Again ===

impl Again {
    /// The request again, if all of its body is there.
    pub(super) fn of(parts: &Parts, body: &Body) -> Option<Self> {
        // As bytes, since a body must not be shared between threads.
        let whole = body.try_clone()?;
        Some(Self {
            parts: parts.clone(),
            body: whole.bytes().cloned().unwrap_or_default(),
        })
    }

    /// The messages that begin a session, with the headers of this request; not at this endpoint, if there is another.
    pub(super) fn handshake<'a, S>(
        &self,
        inner: &'a mut S,
        exchange: Arc<Exchange>,
        away: Option<Arc<str>>,
    ) -> Handshake<'a, S> {
        let (uri, headers) = (self.parts.uri.clone(), self.parts.headers.clone());
        let mut origin = Origin::new(uri, headers, exchange);
        // It is yet to be negotiated.
        origin.headers.remove(PROTOCOL_VERSION);
        Handshake {
            inner,
            origin,
            away,
            reached: None,
        }
    }

    /// The request, for the session that was begun anew: its events begin anew, too.
    pub(super) fn into_request(mut self) -> Request<Body> {
        self.parts.headers.remove(LAST_EVENT_ID);
        self.parts.extensions.insert(Unasked);
        Request::from_parts(self.parts, Body::full(self.body))
    }
}

// === impl Handshake ===

impl<S, B> Handshake<'_, S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    /// The name of the upstream that was asked.
    pub(super) fn upstream(&self) -> Option<&str> {
        Some(&self.reached.as_ref()?.upstream)
    }

    /// Begins the session; says where it lives now.
    pub(super) async fn begin(
        &mut self,
        initialize: &Bytes,
        history: &History,
    ) -> Result<Home, NotHealed> {
        let begun = self.try_to_begin(initialize, history).await;
        begun.map_err(|error| match error {
            NotHealed::Failed(error) if is_passing(&error) => NotHealed::Away(error),
            error => error,
        })
    }

    async fn try_to_begin(
        &mut self,
        initialize: &Bytes,
        history: &History,
    ) -> Result<Home, NotHealed> {
        let (response, exchange) = self.send(Method::POST, initialize, None).await?;
        let upstream_id = upstream_id(response.headers());
        let media = Media::of(response.headers());
        let found = messages::find(response.into_body(), media, ANSWER, revision).await;
        let revision = found.ok().flatten().ok_or(NotHealed::NoResult)?;
        let home = Home {
            endpoint: exchange
                .endpoint()
                .map_or_else(|| "".into(), |e| e.endpoint.clone()),
            upstream_id: upstream_id.ok_or(NotHealed::NoSession)?,
        };
        let done = self.furnish(&home, &revision, history).await;
        if done.is_err() {
            self.take_back(&home).await;
        }
        done.map(|()| home)
    }

    /// Ends a session that was begun, and that nobody will use.
    pub(super) async fn take_back(&mut self, home: &Home) {
        let told = self.send(Method::DELETE, &Bytes::new(), Some(home)).await;
        tracing::debug!(
            told = told.is_ok(),
            "ended a session that was begun in vain"
        );
    }

    /// Says in the new session what the client said in the old one.
    async fn furnish(
        &mut self,
        home: &Home,
        revision: &str,
        history: &History,
    ) -> Result<(), NotHealed> {
        // What the client negotiated is what it says with each request (from 2025-06-18 on).
        let said = self.origin.exchange.call();
        let said = said.and_then(|c| c.version.as_deref());
        if said.is_some_and(|said| said != revision) {
            return Err(NotHealed::Revision);
        }
        if said.is_some()
            && let Ok(revision) = HeaderValue::from_str(revision)
        {
            self.origin.headers.insert(PROTOCOL_VERSION, revision);
        }
        let initialized = format!(r#"{{"jsonrpc":"2.0","method":"{INITIALIZED}"}}"#);
        let initialized = Bytes::from(initialized);
        let initialized = history.initialized.then_some(&initialized);
        let requests = history.level.iter().chain(history.subscriptions.values());
        for message in initialized.into_iter().chain(requests) {
            let (response, _) = self.send(Method::POST, message, Some(home)).await?;
            let body = Limited::new(response.into_body(), ANSWER);
            body.collect().await.map_err(NotHealed::Failed)?;
        }
        Ok(())
    }

    /// Sends one message, as an exchange of its own; its answer must be a success.
    async fn send(
        &mut self,
        method: Method,
        message: &Bytes,
        home: Option<&Home>,
    ) -> Result<(Response<B>, Arc<Exchange>), NotHealed> {
        let origin = &self.origin;
        let mut request = origin.request(method, message.clone(), JSON_OR_EVENTS);
        if let Some(home) = home {
            let id = HeaderValue::from_str(&home.upstream_id).map_err(|_| NotHealed::NoSession)?;
            request.headers_mut().insert(SESSION_ID, id);
            if !home.endpoint.is_empty() {
                let pinned = Pinned(home.endpoint.clone());
                request.extensions_mut().insert(pinned);
            }
        }
        if let Some(away) = self.away.clone().filter(|_| home.is_none()) {
            request.extensions_mut().insert(Tried([away].into()));
        }
        let filed = origin.exchange.file_beside(&mut request, message);
        let exchange = filed.map_err(|error| NotHealed::Failed(error.into()))?;
        request.extensions_mut().insert(Unasked);
        let failed = |error: S::Error| NotHealed::Failed(error.into());
        let inner = self.inner.ready().await.map_err(failed)?;
        let result = inner.call(request).await;
        self.reached = exchange.endpoint().or(self.reached.take());
        let response = result.map_err(failed)?;
        if response.status().is_success() {
            Ok((response, exchange))
        } else {
            Err(NotHealed::Status(response.status().as_u16()))
        }
    }
}
