//! The connection of one session: the GET whose stream brings what the server says, and the POSTs to where that says.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use aws_lc_rs::rand;
use bytes::Bytes;
use http::{Method, Request, Response, Uri, uri::PathAndQuery};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tower::{Service, ServiceExt};

use super::{Shared, SseError, SseSettings, desk::Desk, url::resolve};
use crate::{
    Body,
    error::BoxError,
    exchange::Origin,
    mcp::{
        MessageFacts, Messages,
        events::{DataEvent, EventReader},
        headers::{EVENTS, JSON_OR_EVENTS},
    },
    observe::Media,
    session::NoRandomness,
    upstream::http::Exact,
};

/// An event stream that has said where to post.
pub(super) struct Opened {
    pub(super) post: PathAndQuery,
    stream: Stream,
    place: OwnedSemaphorePermit,
}

/// An event stream that is read event by event.
struct Stream {
    body: Pin<Box<Body>>,
    reader: EventReader,
    /// What came in one piece with the endpoint.
    early: Vec<Bytes>,
}

/// A session with the server; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: Box<str>,
    pub(super) desk: Arc<Desk>,
    pub(super) post: PathAndQuery,
    /// The reader of the stream; aborted with the link.
    _reader: JoinSet<()>,
    /// Among the sessions that there may be.
    _place: OwnedSemaphorePermit,
}

/// The most bytes of the answer to a POST that are read, so that its connection can be used again, and for how long.
const REST: (usize, Duration) = (64 * 1024, Duration::from_secs(1));

// === the stream ===

/// Opens an event stream, and waits for its endpoint.
pub(super) async fn open<S, B>(
    inner: S,
    origin: &Origin,
    settings: &SseSettings,
    place: OwnedSemaphorePermit,
) -> Result<Opened, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let limit = settings.handshake;
    let opened = async {
        let request = get(origin)?;
        let response = inner.oneshot(request).await.map_err(Into::into)?;
        endpoint(response, settings, place).await
    };
    match timeout(limit, opened).await {
        Ok(opened) => opened,
        Err(_late) => Err(SseError::NoEndpoint { limit }.into()),
    }
}

/// Reads a response as far as its endpoint.
async fn endpoint<B>(
    response: Response<B>,
    settings: &SseSettings,
    place: OwnedSemaphorePermit,
) -> Result<Opened, BoxError>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let status = response.status();
    if !status.is_success() || Media::of(response.headers()) != Media::Events {
        return Err(SseError::NoStream { status }.into());
    }
    let mut stream = Stream {
        body: Box::pin(Body::new(response.into_body())),
        reader: EventReader::new(settings.message_limit),
        early: Vec::new(),
    };
    let mut first = None;
    while first.is_none() {
        let early = &mut stream.early;
        let Some(frame) = stream.body.frame().await else {
            return Err(SseError::Gone { sent: false }.into());
        };
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        stream.reader.feed(&data, |event: DataEvent| match &first {
            None => first = Some(event),
            Some(_) if &*event.name == "message" => early.push(event.data),
            Some(_) => {}
        })?;
    }
    let endpoint = first.filter(|event| &*event.name == "endpoint");
    let endpoint = endpoint.ok_or(SseError::BadEndpoint)?;
    let text = std::str::from_utf8(&endpoint.data).map_err(|_| SseError::BadEndpoint)?;
    Ok(Opened {
        post: resolve(&settings.url, text)?,
        stream,
        place,
    })
}

impl Stream {
    /// Hands what comes to the desk, until the stream ends, fails, or has been quiet for too long.
    async fn run(mut self, desk: Arc<Desk>, limit: usize) -> SseError {
        let take = |message: Bytes| {
            if !message.is_empty() {
                desk.take(message);
            }
        };
        self.early.drain(..).for_each(take);
        loop {
            let quiet_until = desk.quiet_until();
            let next = desk.sweep().unwrap_or(quiet_until).min(quiet_until);
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                () = desk.left.notified() => continue,
                () = sleep_until(next) => {
                    if next < quiet_until || desk.quiet_until() > quiet_until {
                        continue;
                    }
                    return SseError::Gone { sent: true };
                }
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(_)) | None => return SseError::Gone { sent: true },
            };
            let Ok(data) = data else { continue };
            let read = self.reader.feed(&data, |event: DataEvent| {
                if &*event.name == "message" {
                    take(event.data);
                }
            });
            if read.is_err() {
                tracing::warn!(limit, "a message of the server is too long");
                return SseError::TooLong { limit };
            }
        }
    }
}

// === requests ===

/// A message for the server.
pub(super) struct Posting {
    pub(super) text: Bytes,
    /// What is known of it.
    pub(super) facts: Option<MessageFacts>,
}

/// The GET that opens a stream.
fn get(origin: &Origin) -> Result<Request<Body>, BoxError> {
    let mut request = origin.request(Method::GET, Bytes::new(), EVENTS);
    origin.exchange.file_beside(&mut request, &Bytes::new())?;
    Ok(request)
}

/// A POST of one message.
fn posted(origin: &Origin, to: &PathAndQuery, message: Posting) -> Result<Request<Body>, BoxError> {
    let Posting { text, facts } = message;
    let mut request = origin.request(Method::POST, text.clone(), JSON_OR_EVENTS);
    *request.uri_mut() = Uri::from(to.clone());
    request.extensions_mut().insert(Exact(to.clone()));
    match facts {
        Some(facts) => {
            let message = Messages::One(facts);
            origin.exchange.file_read_beside(&mut request, message)?
        }
        None => origin.exchange.file_beside(&mut request, &text)?,
    };
    Ok(request)
}

/// Posts one message; the server must take it.
pub(super) async fn post<S, B>(
    inner: S,
    origin: &Origin,
    to: &PathAndQuery,
    message: Posting,
) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let request = posted(origin, to, message)?;
    let response = inner.oneshot(request).await.map_err(Into::into)?;
    let status = response.status();
    if !status.is_success() {
        return Err(SseError::Refused { status }.into());
    }
    let rest = Limited::new(response.into_body(), REST.0).collect();
    let _read = timeout(REST.1, Box::pin(rest)).await;
    Ok(())
}

// === impl Link ===

impl Link {
    /// A session over an opened stream, which ends with that.
    pub(super) fn begin(shared: &Arc<Shared>, opened: Opened) -> Result<Arc<Self>, NoRandomness> {
        let desk = Arc::new(Desk::new(&shared.settings));
        let id = random_id()?;
        let mut reader = JoinSet::new();
        let (limit, theirs) = (shared.settings.message_limit, desk.clone());
        let (owner, own_id) = (Arc::downgrade(shared), id.clone());
        let over = Over {
            desk: theirs.clone(),
            owner,
            id: own_id,
            why: SseError::Gone { sent: true },
        };
        reader.spawn(async move {
            let mut over = over;
            over.why = opened.stream.run(theirs, limit).await;
        });
        let link = Arc::new(Self {
            id,
            desk,
            post: opened.post,
            _reader: reader,
            _place: opened.place,
        });
        shared.insert(&link);
        Ok(link)
    }
}

/// Ends a session when its reader does, also when that panics or loses its runtime.
struct Over {
    desk: Arc<Desk>,
    owner: Weak<Shared>,
    id: Box<str>,
    why: SseError,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.desk.end(self.why);
        if let Some(owner) = self.owner.upgrade() {
            owner.remove(&self.id);
        }
    }
}

/// An unguessable id.
fn random_id() -> Result<Box<str>, NoRandomness> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)).into())
}

impl Drop for Link {
    fn drop(&mut self) {
        self.desk.end(SseError::SessionGone);
    }
}
