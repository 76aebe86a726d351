//! The service below each layer: it does what its script says, and notes who breaks the contract.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tower::Service;
use ziggurat_layers::{Body, BoxError};

use super::rig::{Kind, Mark};

/// One instance. It is ready only when it was asked twice, and for one call; a clone is not.
#[derive(Debug)]
pub(crate) struct Leaf {
    script: Arc<Script>,
    readiness: Readiness,
    _counted: Counted,
}

/// What all instances of a leaf share: what they are to do, and what they saw.
#[derive(Debug)]
pub(crate) struct Script {
    kind: Kind,
    /// What the next calls get, and then all others.
    next: Mutex<(VecDeque<Act>, Act)>,
    /// Open, so that instances become ready.
    pub(crate) readiness: Latch,
    /// Open, so that response heads come.
    pub(crate) head: Latch,
    /// Open, so that bodies go on after their first frame.
    pub(crate) body: Latch,
    unready: AtomicBool,
    calls: AtomicUsize,
    instances: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    seen: Mutex<Vec<Seen>>,
    violation: AtomicUsize,
}

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// The answer of its kind.
    Answer,
    /// [`LeafError`].
    Fail,
    /// The answer, whose body ends with [`LeafError`] after its first frame.
    FailInBody,
    /// An answer of no bytes.
    Empty,
    /// A panic, when it is called.
    PanicInCall,
    /// A panic, when its future is polled.
    PanicInFuture,
    /// A panic, when its body is polled for the second time.
    PanicInBody,
}

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) mark: Option<Mark>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// The leaf's own error.
#[derive(Debug, thiserror::Error)]
#[error("the leaf fails")]
pub(crate) struct LeafError(#[source] pub(crate) Cause);

/// Why the leaf fails.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("because it was told to")]
pub(crate) struct Cause;

/// Holds up whoever polls it while it is shut.
#[derive(Debug, Default)]
pub(crate) struct Latch(Mutex<(bool, Vec<Waker>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    New,
    Asked,
    Ready,
}

/// A thing that is counted while it is there.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

/// The body of an answer.
struct LeafBody {
    frames: VecDeque<Frame<Bytes>>,
    /// Whether its length is known.
    exact: bool,
    act: Act,
    begun: bool,
    script: Arc<Script>,
    _in_flight: Counted,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Latch ===

impl Latch {
    pub(crate) fn shut(&self) {
        lock(&self.0).0 = true;
    }

    pub(crate) fn open(&self) {
        let (shut, wakers) = &mut *lock(&self.0);
        *shut = false;
        wakers.drain(..).for_each(Waker::wake);
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let (shut, wakers) = &mut *lock(&self.0);
        if *shut {
            wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

// === impl Counted ===

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Script ===

impl Script {
    /// The first calls get these, all others the last of them.
    pub(crate) fn then(&self, acts: impl IntoIterator<Item = Act>) {
        let mut acts: VecDeque<Act> = acts.into_iter().collect();
        let last = acts.pop_back().unwrap_or(Act::Answer);
        *lock(&self.next) = (acts, last);
    }

    /// From now on no instance becomes ready: it fails instead.
    pub(crate) fn fail_readiness(&self) {
        self.unready.store(true, Ordering::Relaxed);
    }

    /// How many calls came.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many instances there are.
    pub(crate) fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    /// How many futures and bodies there are.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many calls came to an instance that was not ready.
    pub(crate) fn unready_calls(&self) -> usize {
        self.violation.load(Ordering::Relaxed)
    }

    /// The requests that came since this was last asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.seen))
    }

    fn act(&self) -> Act {
        let (next, last) = &mut *lock(&self.next);
        next.pop_front().unwrap_or(*last)
    }

    fn answer(self: &Arc<Self>, act: Act, in_flight: Counted) -> Response<Body> {
        let frames = match act {
            Act::Empty => VecDeque::new(),
            Act::FailInBody | Act::PanicInBody => self.kind.answer().into_iter().take(1).collect(),
            _ => self.kind.answer().into(),
        };
        let exact = !self.kind.has_events() && matches!(act, Act::Answer | Act::Empty);
        Response::builder()
            .status(http::StatusCode::CREATED)
            .header("content-type", self.kind.media())
            .header("x-leaf", "kept")
            .body(Body::new(LeafBody {
                frames,
                exact,
                act,
                begun: false,
                script: self.clone(),
                _in_flight: in_flight,
            }))
            .expect("a valid response")
    }
}

// === impl Leaf ===

impl Leaf {
    pub(crate) fn new(kind: Kind) -> (Self, Arc<Script>) {
        let script = Arc::new(Script {
            kind,
            next: Mutex::new((VecDeque::new(), Act::Answer)),
            readiness: Latch::default(),
            head: Latch::default(),
            body: Latch::default(),
            unready: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            instances: Arc::default(),
            in_flight: Arc::default(),
            seen: Mutex::default(),
            violation: AtomicUsize::new(0),
        });
        (Self::instance(&script), script)
    }

    fn instance(script: &Arc<Script>) -> Self {
        Self {
            script: script.clone(),
            readiness: Readiness::New,
            _counted: Counted::new(&script.instances),
        }
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        Self::instance(&self.script)
    }
}

impl Service<Request<Body>> for Leaf {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.script.unready.load(Ordering::Relaxed) {
            return Poll::Ready(Err(LeafError(Cause).into()));
        }
        if self.script.readiness.poll(cx).is_pending() {
            return Poll::Pending;
        }
        match self.readiness {
            Readiness::New => {
                self.readiness = Readiness::Asked;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Readiness::Asked | Readiness::Ready => {
                self.readiness = Readiness::Ready;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let script = self.script.clone();
        script.calls.fetch_add(1, Ordering::Relaxed);
        if std::mem::replace(&mut self.readiness, Readiness::New) != Readiness::Ready {
            script.violation.fetch_add(1, Ordering::Relaxed);
        }
        let act = script.act();
        assert!(act != Act::PanicInCall, "told to panic in call");
        let in_flight = Counted::new(&script.in_flight);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let read = body.collect().await?;
            lock(&script.seen).push(Seen {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                mark: parts.extensions.get().cloned(),
                trailers: read.trailers().cloned(),
                body: read.to_bytes(),
            });
            drop(parts.extensions);
            std::future::poll_fn(|cx| script.head.poll(cx)).await;
            match act {
                Act::Fail => Err(LeafError(Cause).into()),
                Act::PanicInFuture => panic!("told to panic in the future"),
                _ => Ok(script.answer(act, in_flight)),
            }
        })
    }
}

// === impl LeafBody ===

impl HttpBody for LeafBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.begun && self.script.body.poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.begun = true;
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match std::mem::replace(&mut self.act, Act::Empty) {
            Act::FailInBody => Poll::Ready(Some(Err(LeafError(Cause).into()))),
            Act::PanicInBody => panic!("told to panic in the body"),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && !matches!(self.act, Act::FailInBody | Act::PanicInBody)
    }

    fn size_hint(&self) -> SizeHint {
        if !self.exact {
            return SizeHint::default();
        }
        let data = self.frames.iter().filter_map(Frame::data_ref);
        SizeHint::with_exact(data.map(|d| d.len() as u64).sum())
    }
}

/// A header of the suite's own.
pub(crate) fn trailers(value: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(
        HeaderName::from_static("x-trailer"),
        HeaderValue::from_static(value),
    );
    trailers
}
