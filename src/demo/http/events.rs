//! Response bodies: one JSON text, or a stream of server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Body;
use crate::demo::changes::Hearing;
use crate::demo::engine::Engine;
use crate::demo::outlet::{Out, Outgoing};
use crate::demo::rpc::Reply;
use crate::demo::session::Session;

/// After so much silence a stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: Bytes = Bytes::from_static(b": alive\n\n");

/// What a call says, in order, and its answer.
///
/// With `work`, the call runs only while this is polled, and stops when this is dropped.
pub(super) struct Exchange {
    outgoing: Outgoing,
    work: Option<Pin<Box<dyn Future<Output = Reply> + Send>>>,
    answer: Option<Reply>,
}

/// The standing stream of a session.
pub(super) struct Standing {
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<Session>,
    pub(super) hearing: Hearing,
    /// Fires when the session ends, when another stream takes this one's place, and when this one ends.
    pub(super) over: CancellationToken,
}

/// A JSON answer.
pub(super) fn json(reply: Reply) -> Response<Body> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let mut response = Response::new(Either::Left(Full::new(reply.text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A stream that begins with `first`.
fn event_stream<F, S>(first: F, rest: S) -> Response<Body>
where
    F: IntoIterator<Item = Bytes>,
    F::IntoIter: Send + 'static,
    S: Stream<Item = Bytes> + Send + 'static,
{
    let all = stream::StreamExt::chain(stream::iter(first), rest);
    let frames = stream::StreamExt::map(all, |bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(Either::Right(StreamBody::new(frames).boxed_unsync()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-cache, no-transform"),
    );
    headers.insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    response
}

fn event(text: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(text.len() + 24);
    event.extend_from_slice(b"event: message\ndata: ");
    event.extend_from_slice(text);
    event.extend_from_slice(b"\n\n");
    event.into()
}

// === impl Exchange ===

impl Exchange {
    /// A call that someone else runs.
    pub(super) fn watched(outgoing: Outgoing) -> Self {
        Self {
            outgoing,
            work: None,
            answer: None,
        }
    }

    /// A call that runs here.
    pub(super) fn driven(
        outgoing: Outgoing,
        work: impl Future<Output = Reply> + Send + 'static,
    ) -> Self {
        Self {
            outgoing,
            work: Some(Box::pin(work)),
            answer: None,
        }
    }

    /// The next thing that the call says; `None` when it has said all.
    async fn next(&mut self) -> Option<Out> {
        if let Some(work) = &mut self.work {
            tokio::select! {
                biased;
                Some(out) = self.outgoing.recv() => return Some(out),
                answer = work => self.answer = Some(answer),
            }
            self.work = None;
        }
        match self.outgoing.recv().await {
            Some(out) => Some(out),
            None => self.answer.take().map(Out::Reply),
        }
    }

    /// The response: JSON if the answer comes first, else a stream.
    pub(super) async fn respond(mut self) -> Response<Body> {
        match timeout(KEEP_ALIVE, self.next()).await {
            Ok(Some(Out::Reply(reply))) => json(reply),
            Ok(Some(Out::Message(text))) => event_stream(Some(event(&text)), self.events()),
            Ok(None) => event_stream(None, stream::empty()),
            Err(_) => event_stream(Some(COMMENT), self.events()),
        }
    }

    /// The response as a stream, whatever comes first, with the answers that are there already at its start.
    pub(super) fn stream(self, answers: Vec<Reply>) -> Response<Body> {
        event_stream(
            answers.into_iter().map(|answer| event(&answer.text)),
            self.events(),
        )
    }

    fn events(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut exchange| async move {
            match timeout(KEEP_ALIVE, exchange.next()).await {
                Ok(Some(out)) => Some((event(&out.text()), exchange)),
                Ok(None) => None,
                Err(_) => Some((COMMENT, exchange)),
            }
        })
    }
}

// === impl Standing ===

impl Standing {
    /// The response; its head goes out at once, behind a comment.
    pub(super) fn respond(self) -> Response<Body> {
        let events = stream::unfold(self, |mut standing| async move {
            let bytes = standing.next().await?;
            Some((bytes, standing))
        });
        event_stream(Some(COMMENT), events)
    }

    async fn next(&mut self) -> Option<Bytes> {
        let wanted = async {
            loop {
                let change = self.hearing.next().await;
                if self.session.wants(&change) {
                    return change;
                }
            }
        };
        tokio::select! {
            () = self.over.cancelled() => None,
            () = self.engine.closing().cancelled() => None,
            change = timeout(KEEP_ALIVE, wanted) => match change {
                Ok(change) => Some(event(&change.notification(None))),
                Err(_) => Some(COMMENT),
            },
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.over.cancel();
    }
}
