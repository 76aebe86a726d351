//! Layers with the usual mistakes. Each is one that somebody has made; each must break its law.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use metrics::gauge;
use tower::Service;
use ziggurat_layers::{Body, BoxError};

use super::{
    law,
    leaf::Leaf,
    rig::{Rig, Verdict, broken},
    rows::{Row, row},
};

/// A layer with the mistake of this number, which is the simplest type that tells them apart.
#[derive(Debug, Clone)]
struct Wrong<const MISTAKE: u8> {
    inner: Leaf,
    /// Copied by a clone, though only one of the two is ready.
    ready: bool,
}

/// Calls a clone, in place of the instance that is ready.
const CALLS_A_CLONE: u8 = 0;
/// Says that it is ready, whatever its service says.
const ASKS_NOBODY: u8 = 1;
/// Its clones believe that they are ready, too.
const CLONES_READINESS: u8 = 2;
/// Polls with a waker that wakes nobody.
const LOSES_WAKERS: u8 = 3;
/// Counts down only what is answered.
const FORGETS_THE_DROPPED: u8 = 4;
/// Has a task read the body, which does not see that its reader is gone.
const PUMPS: u8 = 5;
/// Spawns the call, and forgets it.
const SPAWNS: u8 = 6;
/// Wraps bodies without their length.
const HIDES_LENGTHS: u8 = 7;
/// Passes data, and no trailers.
const DROPS_TRAILERS: u8 = 8;
/// Makes a text of each error.
const TELLS_TEXTS: u8 = 9;
/// Takes the extensions for its own.
const DROPS_EXTENSIONS: u8 = 10;

type Answer = Result<Response<Body>, BoxError>;
type BoxFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl<const MISTAKE: u8> Service<Request<Body>> for Wrong<MISTAKE> {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match MISTAKE {
            ASKS_NOBODY => Poll::Ready(Ok(())),
            CLONES_READINESS if self.ready => Poll::Ready(Ok(())),
            _ => {
                let ready = self.inner.poll_ready(cx);
                self.ready = ready.is_ready();
                ready
            }
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> BoxFuture {
        self.ready = false;
        if MISTAKE == DROPS_EXTENSIONS {
            request.extensions_mut().clear();
        }
        let mut call = match MISTAKE {
            CALLS_A_CLONE => self.inner.clone().call(request),
            _ => self.inner.call(request),
        };
        match MISTAKE {
            LOSES_WAKERS => Box::pin(std::future::poll_fn(move |_| {
                call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })),
            FORGETS_THE_DROPPED => Box::pin(async move {
                gauge!("in_hand").increment(1.0);
                let answer = call.await;
                gauge!("in_hand").decrement(1.0);
                answer
            }),
            PUMPS => Box::pin(async move {
                let (head, mut body) = call.await?.into_parts();
                let (send, take) = tokio::sync::mpsc::channel(8);
                let _forgotten = tokio::spawn(async move {
                    while let Some(frame) = body.frame().await {
                        if send.send(frame).await.is_err() {
                            return;
                        }
                    }
                });
                let frames = futures_util::stream::unfold(take, async |mut take| {
                    let frame: Result<Frame<Bytes>, BoxError> = take.recv().await?;
                    Some((frame, take))
                });
                let body = Body::new(StreamBody::new(Box::pin(frames)));
                Ok(Response::from_parts(head, body))
            }),
            SPAWNS => {
                let task = tokio::spawn(call);
                Box::pin(async move { task.await? })
            }
            HIDES_LENGTHS => Box::pin(async move {
                let hidden = |body: Body| Body::new(StreamBody::new(frames(body)));
                Ok(call.await?.map(hidden))
            }),
            DROPS_TRAILERS => Box::pin(async move {
                let data = |body: Body| Body::new(body.map_frame(without_trailers));
                Ok(call.await?.map(data))
            }),
            TELLS_TEXTS => Box::pin(async move { call.await.map_err(|e| e.to_string().into()) }),
            _ => call,
        }
    }
}

fn frames(body: Body) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> {
    futures_util::stream::unfold(body, async |mut body| {
        let frame = body.frame().await?;
        Some((frame, body))
    })
}

fn without_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    Frame::data(frame.into_data().unwrap_or_default())
}

fn wrong<const MISTAKE: u8>() -> Vec<Row> {
    let build = |inner, _| {
        let ready = false;
        (Wrong::<MISTAKE> { inner, ready }, none())
    };
    vec![row(build)]
}

fn none() -> super::rows::Idle {
    Box::new(|| None)
}

#[track_caller]
fn is_caught<const MISTAKE: u8>(law: impl AsyncFn(&Rig) -> Verdict) {
    let broken = broken(wrong::<MISTAKE>, law);
    assert!(!broken.is_empty(), "the mistake passes");
}

#[test]
fn each_is_caught() {
    is_caught::<CALLS_A_CLONE>(law::a_service_is_called_only_when_it_is_ready);
    is_caught::<ASKS_NOBODY>(law::a_service_is_called_only_when_it_is_ready);
    is_caught::<ASKS_NOBODY>(law::a_layer_is_ready_when_its_service_is);
    is_caught::<CLONES_READINESS>(law::a_clone_works_on_its_own);
    is_caught::<LOSES_WAKERS>(law::no_wake_up_is_lost_while_a_response_head_is_awaited);
    is_caught::<FORGETS_THE_DROPPED>(law::a_call_that_is_dropped_before_its_head_gives_all_back);
    is_caught::<PUMPS>(law::a_body_that_is_dropped_in_the_middle_gives_all_back);
    is_caught::<SPAWNS>(law::a_call_is_not_polled_before_it_is_asked);
    is_caught::<SPAWNS>(law::a_call_that_was_never_polled_gives_all_back);
    is_caught::<HIDES_LENGTHS>(law::a_body_is_honest_about_its_length_and_its_end);
    is_caught::<DROPS_TRAILERS>(law::a_response_passes_unchanged);
    is_caught::<TELLS_TEXTS>(law::an_error_keeps_its_source);
    is_caught::<DROPS_EXTENSIONS>(law::a_request_passes_unchanged);
}
