//! The side of Streamable HTTP: what is answered to which request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::poll_fn};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use tokio::time::timeout;
use tower::Service;

use super::{
    Shared, SseBody, SseError, Verdict,
    body::Standing,
    desk::{Cancel, Detached},
    find_out::is_doubtful,
    link::{self, Link, Posting},
    mailbox::{Item, Mailbox},
};
use crate::{
    Body,
    attempt::Unresumable,
    deadline::ExpiresAt,
    error::{BoxError, Outcome},
    exchange::{Exchange, Origin},
    fault::Fault,
    mcp::{CallFacts, Era, Id, Kind, Verb, headers, wire},
    rescue::Row,
};

/// What came first of a call, if it came.
type First = Option<Option<Result<Item, SseError>>>;

/// How long the head of the answer to a POST is waited for that nothing depends on any more.
const HEAD: Duration = Duration::from_secs(1);

type Answer<B> = Result<Response<SseBody<B>>, BoxError>;

/// A request of a client, for the old transport.
pub(super) struct Incoming<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) inner: S,
    pub(super) origin: Arc<Origin>,
    pub(super) body: Bytes,
    /// The session that it names.
    session: Option<Box<str>>,
    /// Its client takes event streams.
    streams: bool,
    expires: Option<ExpiresAt>,
}

/// A call that was posted, for as long as somebody waits for it. Going away is no cancel, unless somebody said why.
pub(super) struct Lease {
    pub(super) call: Arc<Mailbox>,
    link: Arc<Link>,
    exchange: Arc<Exchange>,
    expires: Option<ExpiresAt>,
    cancel: Cancel,
}

/// A session whose `initialize` has no answer yet; dropping it ends that.
struct Unbegun<'a>(&'a Shared, Option<Arc<Link>>);

impl<S, B> Incoming<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The request, read; its body must be there.
    pub(super) fn new(shared: Arc<Shared>, inner: S, request: Request<Body>) -> Option<Self> {
        let exchange = Exchange::get(&request)?.clone();
        let expires = request.extensions().get().copied();
        let (parts, body) = request.into_parts();
        Some(Self {
            shared,
            inner,
            session: headers::single(&parts.headers, &headers::SESSION_ID).map(Box::from),
            streams: headers::accepts_events(&parts.headers),
            origin: Arc::new(Origin::new(parts.uri, parts.headers, exchange)),
            body: body.bytes().cloned().unwrap_or_default(),
            expires,
        })
    }

    /// Answers it. That a session is gone is said as a server of Streamable HTTP says it, so that whoever can begin it anew does.
    pub(super) async fn answer(self) -> Answer<B> {
        let answered = self.react().await;
        answered.or_else(|error| match error.downcast_ref() {
            Some(SseError::SessionGone) => {
                let nothing = SseBody::whole(Bytes::new());
                Ok(with_status(StatusCode::NOT_FOUND, nothing))
            }
            _ => Err(error),
        })
    }

    async fn react(self) -> Answer<B> {
        let exchange = self.origin.exchange.clone();
        let Some(facts) = exchange.call() else {
            return Err(SseError::NotAllowed.into());
        };
        match (facts.verb, facts.era) {
            (Verb::Post, Era::Modern) => Err(SseError::LegacyServer.into()),
            (Verb::Post, Era::Legacy) if facts.is_initialize() => self.initialize(facts).await,
            (Verb::Post, Era::Legacy) => {
                let link = self.link()?;
                self.post(facts, link).await
            }
            (Verb::Get, _) => self.stream(),
            (Verb::Delete, _) => {
                let link = self.link()?;
                self.shared.remove(&link.id);
                Ok(Response::new(SseBody::whole(Bytes::new())))
            }
            (Verb::Other, _) => Err(SseError::NotAllowed.into()),
        }
    }

    /// The session that the request names.
    fn link(&self) -> Result<Arc<Link>, SseError> {
        let id = self.session.as_ref().ok_or(SseError::SessionRequired)?;
        self.shared.find(id).ok_or(SseError::SessionGone)
    }

    async fn initialize(self, facts: &CallFacts) -> Answer<B> {
        let shared = &self.shared;
        let place = shared.place()?;
        let opened = link::open(self.inner.clone(), &self.origin, &shared.settings, place).await;
        let opened = opened.inspect_err(|error| {
            if is_other(error) {
                shared.unlearn();
            }
        })?;
        shared.learn(Verdict::Old);
        self.begin(facts, opened).await
    }

    /// Begins a session over a stream that was opened. An error, or no answer, begins none.
    pub(super) async fn begin(self, facts: &CallFacts, opened: link::Opened) -> Answer<B> {
        let link = Link::begin(&self.shared, opened)?;
        let unbegun = Unbegun(&self.shared, Some(link.clone()));
        let (lease, mut first) = self.call(facts, &link).await.map_err(|error| {
            // There has been no session yet that could be gone.
            match error.downcast_ref() {
                Some(SseError::SessionGone) => SseError::Gone { sent: false }.into(),
                _ => error,
            }
        })?;
        loop {
            let item = match first.take() {
                Some(item) => item,
                None => poll_fn(|cx| lease.call.poll_next(cx)).await,
            };
            match item {
                Some(Ok(item)) if item.answer => {
                    let mut response = json(item.message);
                    if !item.error
                        && let Ok(id) = HeaderValue::from_str(&link.id)
                    {
                        unbegun.keep();
                        response.headers_mut().insert(headers::SESSION_ID, id);
                    }
                    return Ok(response);
                }
                // What comes before the answer waits for the session's GET stream.
                Some(Ok(item)) => link.desk.deliver(item),
                Some(Err(error)) => return Err(error.into()),
                None => return Err(SseError::Gone { sent: true }.into()),
            }
        }
    }

    /// Posts the messages, and answers in the form that what comes first asks for.
    async fn post(self, facts: &CallFacts, link: Arc<Link>) -> Answer<B> {
        link.desk.touch();
        let (lease, first) = self.call(facts, &link).await.map_err(|error| {
            if is_lost(&error) {
                return SseError::SessionGone.into();
            }
            error
        })?;
        if facts.requests().next().is_none() {
            return Ok(accepted());
        }
        self.respond(lease, first, facts.batch).await
    }

    /// Posts the messages, the requests last; their answers come through the lease. The first may come before the server has taken them all.
    /// What cannot be expected is refused before anything is posted.
    async fn call(&self, facts: &CallFacts, link: &Arc<Link>) -> Result<(Lease, First), BoxError> {
        let requests: Vec<_> = facts.requests().collect();
        let lease = self.lease(link, link.desk.expect(&requests)?);
        let others = facts.messages().iter().filter(|m| m.kind != Kind::Request);
        let messages = others.chain(requests.iter().copied());
        let messages = messages.map(|message| Posting {
            text: self.body.slice(message.span.clone()),
            facts: Some(message.alone()),
        });
        let mut sending = Box::pin(self.sending(link, &lease.call, messages.collect()));
        let mut first = None;
        loop {
            let next = poll_fn(|cx| lease.call.poll_next(cx));
            tokio::select! {
                biased;
                sent = &mut sending => {
                    if let Err(error) = sent {
                        // What became of a POST is nothing to who has the answer.
                        let come = poll_fn(|cx| lease.call.poll_next(cx)).now_or_never();
                        if let Some(Some(Ok(item))) = come
                            && item.answer
                            && first.is_none()
                            && requests.len() == 1
                        {
                            first = Some(Some(Ok(item)));
                            break;
                        }
                        link.desk.give_up(&lease.call);
                        return Err(error);
                    }
                    break;
                }
                item = next, if first.is_none() => {
                    // Of one request the answer is all that there is to wait for.
                    let over = requests.len() == 1 && !matches!(&item, Some(Ok(item)) if !item.answer);
                    first = Some(item);
                    if over {
                        // The head that it has overtaken comes yet; a POST that is dropped before takes its connection along.
                        self.shared.tails.tell(async move {
                            let _late = timeout(HEAD, sending).await;
                        });
                        break;
                    }
                }
            }
        }
        Ok((lease, first))
    }

    /// Posts messages, one after the other, whatever becomes of this request.
    fn sending(
        &self,
        link: &Link,
        call: &Arc<Mailbox>,
        messages: Vec<Posting>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + use<S, B> {
        let (inner, origin) = (self.inner.clone(), self.origin.clone());
        let (to, id, desk) = (link.post.clone(), link.id.clone(), link.desk.clone());
        let (shared, call) = (Arc::downgrade(&self.shared), call.clone());
        async move {
            let mut some_taken = false;
            for message in messages {
                let facts = message.facts.as_ref();
                let asks = facts.filter(|f| f.kind == Kind::Request);
                let asks = asks.and_then(|f| f.id().cloned());
                let cancels = facts.and_then(|f| Some(f.cancels.as_ref()?.0.clone()));
                let sent = link::post(inner.clone(), &origin, &to, message).await;
                if let Err(error) = sent {
                    if is_lost(&error)
                        && let Some(shared) = shared.upgrade()
                    {
                        shared.remove(&id);
                    }
                    return Err(if some_taken { torn(error) } else { error });
                }
                some_taken = true;
                if let Some(id) = &asks {
                    desk.posted(&call, id);
                }
                if let Some(id) = &cancels {
                    desk.cancel(id);
                }
            }
            Ok(())
        }
    }

    async fn respond(&self, lease: Lease, first: First, batch: bool) -> Answer<B> {
        let streams = self.streams;
        let (mut answers, mut bytes) = (Vec::new(), 0);
        let mut next = first;
        loop {
            let item = match next.take() {
                Some(item) => item,
                None => {
                    let wait = poll_fn(|cx| lease.call.poll_next(cx));
                    if streams {
                        match timeout(self.shared.settings.silence, wait).await {
                            Ok(item) => item,
                            Err(_silence) => return Ok(events(SseBody::events(None, lease))),
                        }
                    } else {
                        wait.await
                    }
                }
            };
            match item {
                Some(Ok(item)) if item.answer && !batch => return Ok(json(item.message)),
                Some(Ok(item)) if streams => {
                    return Ok(events(SseBody::events(Some(item.message), lease)));
                }
                // Whoever takes JSON alone gets the answers alone, and the rest on the session's own stream.
                Some(Ok(item)) if item.answer => {
                    bytes += item.message.len();
                    let limit = self.shared.settings.buffer;
                    if bytes > limit && !answers.is_empty() {
                        return Err(SseError::TooLong { limit }.into());
                    }
                    answers.push(item.message);
                }
                Some(Ok(item)) if item.is_for_session() => lease.link.desk.deliver(item),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                // Cancelled: there is no answer, and there will be none.
                None if answers.is_empty() => return Ok(accepted()),
                None => return Ok(as_json(SseBody::array(answers))),
            }
        }
    }

    fn lease(&self, link: &Arc<Link>, call: Arc<Mailbox>) -> Lease {
        let (inner, origin, to) = (self.inner.clone(), self.origin.clone(), link.post.clone());
        let shared = Arc::downgrade(&self.shared);
        let cancel = move |id: &Id, reason: &'static str| {
            let (inner, origin, to) = (inner.clone(), origin.clone(), to.clone());
            let message = Posting {
                text: wire::cancelled(id, reason),
                facts: None,
            };
            if let Some(shared) = shared.upgrade() {
                shared.notices.tell(async move {
                    let told = link::post(inner, &origin, &to, message).await;
                    tracing::debug!(told = told.is_ok(), "a cancellation was sent on");
                });
            }
        };
        Lease {
            call,
            link: link.clone(),
            exchange: self.origin.exchange.clone(),
            expires: self.expires,
            cancel: Arc::new(cancel),
        }
    }

    fn stream(self) -> Answer<B> {
        let link = self.link()?;
        if !self.streams {
            return Err(SseError::NotAcceptable.into());
        }
        let stream = link.desk.open_stream();
        let desk = link.desk.clone();
        Ok(events(SseBody::standing(Standing { stream, desk })))
    }
}

impl Unbegun<'_> {
    fn keep(mut self) {
        self.1 = None;
    }
}

impl Drop for Unbegun<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.1.take() {
            self.0.remove(&link.id);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let desk = &self.link.desk;
        desk.touch();
        // What else the server said, its client may hear on the session's own stream.
        let unread = self.call.detach().into_iter();
        unread
            .filter(Item::is_for_session)
            .for_each(|item| desk.deliver(item));
        let Some(why) = self.exchange.gave_up() else {
            // Legacy: going away is not a cancel. The server goes on, and its answer is dropped.
            let detached = Detached {
                until: ExpiresAt::of_detached(self.expires.as_ref()),
                cancel: self.cancel.clone(),
            };
            return desk.leave(&self.call, &detached);
        };
        for id in desk.give_up(&self.call) {
            (self.cancel)(&id, why.as_str());
        }
    }
}

// === failures ===

/// The endpoint does not speak HTTP+SSE any more: a server in trouble would say something else.
fn is_other(error: &BoxError) -> bool {
    match error.downcast_ref() {
        Some(SseError::NoStream { status }) => status.is_success() || is_doubtful(*status),
        _ => false,
    }
}

/// By this the server says that it does not know the session.
fn is_lost(error: &BoxError) -> bool {
    let refused = error.downcast_ref();
    matches!(refused, Some(SseError::Refused { status }) if *status == StatusCode::NOT_FOUND)
}

/// What is said of messages that went in part: some of them are with the server, so that they are not to be sent again.
fn torn(error: BoxError) -> BoxError {
    if Row::of(&Fault::of(&*error)).outcome == Outcome::Unknown {
        return error;
    }
    tracing::debug!(%error, "the server took only a part of the messages");
    SseError::Gone { sent: true }.into()
}

// === responses ===

fn accepted<B>() -> Response<SseBody<B>> {
    with_status(StatusCode::ACCEPTED, SseBody::whole(Bytes::new()))
}

fn with_status<B>(status: StatusCode, body: SseBody<B>) -> Response<SseBody<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn json<B>(message: Bytes) -> Response<SseBody<B>> {
    as_json(SseBody::whole(message))
}

fn as_json<B>(body: SseBody<B>) -> Response<SseBody<B>> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn events<B>(body: SseBody<B>) -> Response<SseBody<B>> {
    let mut response = wire::event_stream(body);
    response.extensions_mut().insert(Unresumable);
    response
}
