//! Finds out which transport an endpoint speaks, by a request whose answer tells.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::Service;

use super::{Shared, SseBody, SseError, Verdict, front::Incoming, link};
use crate::{
    Body,
    error::BoxError,
    exchange::Exchange,
    mcp::{
        Verb,
        events::{DataEvent, EventReader},
    },
    observe::Media,
};

type Answer<B> = Result<Response<SseBody<B>>, BoxError>;

/// How long a GET without a session is looked into: an old server says at once where to post.
const LOOK: Duration = Duration::from_secs(2);

/// The longest first event that is looked into.
const LONGEST: usize = 64 * 1024;

/// Sends a request as it is, and looks at what comes.
pub(super) async fn ask<S, B>(
    shared: Arc<Shared>,
    mut inner: S,
    request: Request<Body>,
) -> Answer<B>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let exchange = Exchange::get(&request).cloned();
    let call = exchange.as_ref().and_then(|e| e.call());
    let Some(call) = call.filter(|call| call.verb == Verb::Post) else {
        let response = inner.call(request).await.map_err(Into::into)?;
        return look(&shared, response).await;
    };
    let (parts, body) = request.into_parts();
    // To be sent again it must be there as a whole.
    let copy = body.try_clone();
    let copy = copy.map(|body| Request::from_parts(parts.clone(), body));
    let sent = inner.call(Request::from_parts(parts, body)).await;
    let response = sent.map_err(Into::into)?;
    let status = response.status();
    if status.is_success() {
        shared.learn(Verdict::Streamable);
    }
    let incoming = copy.and_then(|copy| Incoming::new(shared.clone(), inner.clone(), copy));
    let Some(incoming) = incoming.filter(|_| is_doubtful(status)) else {
        return Ok(response.map(SseBody::passing));
    };
    let place = shared.place()?;
    match link::open(inner, &incoming.origin, &shared.settings, place).await {
        Ok(opened) => {
            drop(response);
            shared.learn(Verdict::Old);
            incoming.begin(call, opened).await
        }
        // It is no old server either: what it said first stands.
        Err(error) => {
            tracing::debug!(%error, "the endpoint does not speak HTTP+SSE");
            Ok(response.map(SseBody::passing))
        }
    }
}

/// The statuses after which a client is to try the old transport.
pub(super) fn is_doubtful(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405)
}

/// Looks whether a stream begins like one of an old server, which is of no use without its session.
async fn look<B>(shared: &Shared, response: Response<B>) -> Answer<B>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if !response.status().is_success() || Media::of(response.headers()) != Media::Events {
        return Ok(response.map(SseBody::passing));
    }
    let (parts, body) = response.into_parts();
    let mut body = Body::new(body);
    let (mut read, mut bytes) = (VecDeque::new(), 0);
    let mut reader = EventReader::new(LONGEST);
    let mut first: Option<DataEvent> = None;
    let looking = async {
        while first.is_none() && bytes < LONGEST {
            let Some(frame) = body.frame().await else {
                break;
            };
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            bytes += data.len();
            let told = reader.feed(&data, |event| {
                first.get_or_insert(event);
            });
            read.push_back(data);
            if told.is_err() {
                break;
            }
        }
        Ok::<_, BoxError>(())
    };
    if let Ok(looked) = timeout(LOOK, looking).await {
        looked?;
    }
    match first {
        Some(event) if &*event.name == "endpoint" => {
            shared.learn(Verdict::Old);
            return Err(SseError::SessionRequired.into());
        }
        Some(_) => shared.learn(Verdict::Streamable),
        // A server may have nothing to say yet, an old one just as well.
        None => {}
    }
    Ok(Response::from_parts(parts, SseBody::resumed(read, body)))
}
