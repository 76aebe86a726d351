//! The one body type between layers, and the one way to ride on a body to its end.
//!
//! [`Body`] erases a body at most once: wrapping a `Body` again gives back the same value. [`Tracked`]
//! carries a value along with a body and tells it how the body ended, which is when a call ends: permits,
//! gauges and outcomes all use it, so "the end of a call" has one definition.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use pin_project::{pin_project, pinned_drop};

use crate::error::BoxError;

/// A request or response body of any origin, allocated at most once.
#[pin_project]
pub struct Body {
    #[pin]
    kind: Kind,
}

#[pin_project(project = KindProj)]
enum Kind {
    Once(Option<Bytes>),
    Boxed(#[pin] UnsyncBoxBody<Bytes, BoxError>),
}

/// A body with a [`Track`] value that sees its frames and learns how it ended.
#[pin_project(PinnedDrop)]
pub struct Tracked<B, T: Track> {
    #[pin]
    inner: B,
    track: Option<T>,
}

/// A body that is put together. Most come in one piece, which is not copied.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    first: Bytes,
    /// Everything, once there is more than one piece.
    all: BytesMut,
}

/// What wants to know how a response body ended.
pub trait Track {
    /// A frame passes.
    fn frame(&mut self, _frame: &Frame<Bytes>) {}

    /// The body is over, for the reason given. Called exactly once.
    fn end(self, end: End<'_>);
}

/// How a body ended.
#[derive(Debug)]
pub enum End<'a> {
    /// Its last frame passed.
    Complete,
    /// It failed with this error.
    Failed(&'a BoxError),
    /// Whoever read it went away first: neither a success nor a failure.
    Dropped,
}

/// Holds a value until the body is over, then drops it.
#[derive(Debug)]
pub struct Hold<T>(pub T);

impl<T> Track for Hold<T> {
    fn end(self, _end: End<'_>) {}
}

// === impl Gathered ===

impl Gathered {
    /// How many bytes there are.
    pub(crate) fn size(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Adds a piece; about so many bytes are still to come.
    pub(crate) fn add(&mut self, data: Bytes, coming: usize) {
        if self.size() == 0 {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            let first = std::mem::take(&mut self.first);
            self.all.reserve(first.len() + data.len() + coming);
            self.all.extend_from_slice(&first);
        }
        self.all.extend_from_slice(&data);
    }

    /// All of it; there is nothing left.
    pub(crate) fn take(&mut self) -> Bytes {
        let all = std::mem::take(&mut self.all);
        if all.is_empty() {
            return std::mem::take(&mut self.first);
        }
        all.freeze()
    }
}

// === impl Body ===

impl Body {
    /// Erases `body`; a `Body` stays as it is.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        if let Some(same) = (&mut body as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return same.take().unwrap_or_default();
        }
        match body {
            Some(body) => Self {
                kind: Kind::Boxed(UnsyncBoxBody::new(body.map_err(Into::into))),
            },
            None => Self::default(),
        }
    }

    /// A body of these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: Kind::Once((!bytes.is_empty()).then_some(bytes)),
        }
    }

    /// The same body again, without a copy of its bytes: of one that is there as a whole, or over. None of one that streams.
    pub fn try_clone(&self) -> Option<Self> {
        match &self.kind {
            Kind::Once(bytes) => Some(Self {
                kind: Kind::Once(bytes.clone()),
            }),
            Kind::Boxed(body) => body.is_end_stream().then(Self::empty),
        }
    }

    /// A body of no bytes.
    pub fn empty() -> Self {
        Self {
            kind: Kind::Once(None),
        }
    }

    /// All of the body, if it is in memory in one piece and was not read yet.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Once(bytes) => bytes.as_ref(),
            Kind::Boxed(_) => None,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Once(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            KindProj::Boxed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Once(bytes) => bytes.is_none(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Once(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

// === impl Tracked ===

impl<B: HttpBody<Data = Bytes>, T: Track> Tracked<B, T> {
    /// Lets `track` ride on `body`. A body that is over already ends it at once.
    pub fn new(body: B, track: T) -> Self {
        let mut this = Self {
            inner: body,
            track: Some(track),
        };
        if this.inner.is_end_stream() {
            finish(&mut this.track, End::Complete);
        }
        this
    }
}

fn finish<T: Track>(track: &mut Option<T>, end: End<'_>) {
    if let Some(track) = track.take() {
        track.end(end);
    }
}

#[pinned_drop]
impl<B, T: Track> PinnedDrop for Tracked<B, T> {
    fn drop(self: Pin<&mut Self>) {
        finish(self.project().track, End::Dropped);
    }
}

impl<B, T> HttpBody for Tracked<B, T>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
    T: Track,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        Poll::Ready(match ready!(this.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(track) = this.track {
                    track.frame(&frame);
                }
                if this.inner.is_end_stream() {
                    finish(this.track, End::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = error.into();
                finish(this.track, End::Failed(&error));
                Some(Err(error))
            }
            None => {
                finish(this.track, End::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{Empty, Full};

    use super::*;

    struct Note(Arc<Mutex<Vec<&'static str>>>);

    impl Track for Note {
        fn end(self, end: End<'_>) {
            self.0.lock().expect("not poisoned").push(match end {
                End::Complete => "complete",
                End::Failed(_) => "failed",
                End::Dropped => "dropped",
            });
        }
    }

    #[test]
    fn a_body_is_boxed_once() {
        let foreign = Body::new(Full::new(Bytes::from_static(b"x")));
        assert!(matches!(foreign.kind, Kind::Boxed(_)));
        // Of bytes that were never boxed, wrapping again makes no box.
        let own = Body::new(Body::new(Body::full("x")));
        assert!(matches!(own.kind, Kind::Once(_)));
    }

    #[test]
    fn only_a_whole_body_is_cloned() {
        let whole = Body::full("x").try_clone().expect("a clone");
        assert_eq!(whole.size_hint().exact(), Some(1));
        assert!(Body::new(Empty::new()).try_clone().is_some());
        let streams = Body::new(Full::new(Bytes::from_static(b"x")));
        assert!(streams.try_clone().is_none());
    }

    struct Named(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Track for Named {
        fn end(self, end: End<'_>) {
            assert!(matches!(end, End::Complete), "{end:?}");
            self.1.lock().expect("not poisoned").push(self.0);
        }
    }

    #[tokio::test]
    async fn with_the_last_frame_a_body_is_over_from_the_inside_out() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let inner = Tracked::new(
            Full::new(Bytes::from_static(b"x")),
            Named("in", log.clone()),
        );
        let mut outer = Tracked::new(inner, Named("out", log.clone()));
        // As hyper does, which reads no further.
        outer.frame().await.expect("a frame").expect("no error");
        assert_eq!(*log.lock().expect("not poisoned"), ["in", "out"]);
    }

    #[tokio::test]
    async fn a_tracked_body_tells_its_end_once() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let body = Tracked::new(Full::new(Bytes::from_static(b"x")), Note(log.clone()));
        let read = body.collect().await.expect("no error").to_bytes();
        assert_eq!(&read[..], b"x");
        drop(Tracked::new(
            Full::new(Bytes::from_static(b"x")),
            Note(log.clone()),
        ));
        drop(Tracked::new(Empty::<Bytes>::new(), Note(log.clone())));
        assert_eq!(
            *log.lock().expect("not poisoned"),
            ["complete", "dropped", "complete"]
        );
    }
}
