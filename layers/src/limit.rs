//! Caps on what is in flight, with shedding: what is over a cap is refused at once.
//!
//! There are two caps for all. *Calls* counts exchanges until their response body ends; *streams* counts standing streams (GET and
//! `subscriptions/listen`), which would eat up a cap that was meant for calls. MCP's DELETE, notifications and client
//! responses pass freely, since calls may be waiting for just them. Without MCP facts (plain HTTP), a GET that accepts an event
//! stream counts as a standing stream. Tools may have caps of their own beside that ([`LimitLayer::set_tools`]): a call takes a place under both, and a batch one for each of its calls.
//!
//! Place: on the route, behind [`inspect`](crate::inspect), since only that knows what must pass; one layer that all routes share is the
//! server's cap. Again at each endpoint, where [`LimitLayer::gate`] lets a balancer see that no place is left for a call, so that it goes
//! elsewhere or waits; the caps of tools never shut it, since other calls have room. Readiness: the inner service's; permits are taken in `call`, and ride with the response body. Errors: [`Shed`], [`ToolBusy`]. Bodies: forwarded.
//!
//! Clones share the caps, which may be set anew while calls are in flight ([`LimitLayer::set`]): what a cap let in counts under the next. What
//! was let in while there was none does not.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, limit::{LimitLayer, LimitSettings}};
//!
//! let service = ServiceBuilder::new()
//!     .layer(LimitLayer::new(LimitSettings { calls: NonZeroUsize::new(100), streams: None }))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod tools;

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering, fence},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::{Layer, Service};

use self::tools::ToolCaps;
use crate::{
    body::{Hold, Tracked},
    class::Class,
    error::BoxError,
    gate::{Gate, Reason},
    pattern::Pattern,
};

/// The caps; `None` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// The most calls in flight.
    pub calls: Option<NonZeroUsize>,
    /// The most standing streams.
    pub streams: Option<NonZeroUsize>,
}

/// Refuses what is over the caps. By default there are none.
#[derive(Debug, Clone)]
pub struct LimitLayer {
    caps: Arc<Caps>,
}

/// The service of [`LimitLayer`].
#[derive(Debug, Clone)]
pub struct Limit<S> {
    inner: S,
    layer: LimitLayer,
}

/// The future of [`Limit`].
#[pin_project]
pub struct LimitFuture<F>(#[pin] LimitState<F>);

/// Over a cap. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the limit of {limit} {what}")]
pub struct Shed {
    /// The cap.
    pub limit: usize,
    /// What it counts.
    pub what: &'static str,
}

/// Over a cap that the calls of some tools share. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} (the tools are {tools})", self.message())]
pub struct ToolBusy {
    /// Which tools, as the operator wrote it.
    pub tools: Pattern,
    /// The cap.
    pub limit: usize,
    /// How many calls of these tools the request has: several only in a batch.
    pub calls: usize,
}

/// A place under a cap; given back when its last clone is dropped. It is also in the request's extensions, so that an upstream
/// service that goes on with a call after its client left can hold it.
#[derive(Debug, Clone, Default)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] Option<Arc<Held>>);

/// In the extensions of a request: what it opens is counted already, as the stream of a client for whom it is opened.
#[derive(Debug, Clone, Copy)]
pub struct Counted;

/// A place, and the places under other caps that the same request holds.
#[derive(Debug)]
struct Held {
    _place: Place,
    _outer: Option<Permit>,
}

/// So many places under a cap, given back when this is dropped.
#[derive(Debug)]
struct Place(Arc<Cap>, usize);

#[derive(Debug)]
struct Caps {
    calls: Arc<Cap>,
    streams: Arc<Cap>,
    tools: ToolCaps,
}

#[derive(Debug)]
struct Cap {
    /// [`OFF`] is none.
    limit: AtomicUsize,
    taken: AtomicUsize,
    /// Shows whether a place is left.
    gate: OnceLock<Gate>,
}

const OFF: usize = usize::MAX;

const CALLS: &str = "calls in flight";
const STREAMS: &str = "open streams";

#[pin_project(project = LimitStateProj)]
enum LimitState<F> {
    Refused(Option<BoxError>),
    Admitted(#[pin] F, Option<Permit>),
}

// === impl LimitLayer ===

impl Default for LimitLayer {
    fn default() -> Self {
        Self {
            caps: Arc::new(Caps {
                calls: Cap::new(),
                streams: Cap::new(),
                tools: ToolCaps::default(),
            }),
        }
    }
}

impl LimitLayer {
    /// A layer with its own caps; its clones and services share them.
    pub fn new(settings: LimitSettings) -> Self {
        let layer = Self::default();
        layer.set(settings);
        layer
    }

    /// Shuts this gate as [`Reason::Busy`] while no place is left for a call. Standing streams do not count. The first gate stays.
    #[must_use]
    pub fn gate(self, gate: Gate) -> Self {
        let _first = self.caps.calls.gate.set(gate);
        self.caps.calls.settle();
        self
    }

    /// Sets the caps anew, also for what is in flight: nothing is cut, but nobody comes in until there is room.
    pub fn set(&self, settings: LimitSettings) {
        self.caps.calls.set(settings.calls);
        self.caps.streams.set(settings.streams);
    }

    /// Sets caps for the calls of some tools together: that of the first pattern which fits a tool counts, also where that is `None`, which is none. A cap of a
    /// pattern that had one before goes on with what it let in; a new one counts only what comes after it, whatever is in flight.
    pub fn set_tools(&self, caps: impl IntoIterator<Item = (Pattern, Option<NonZeroUsize>)>) {
        self.caps.tools.set(caps);
    }

    /// A place for a standing stream that no request below this layer opens.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub fn stream(&self) -> Result<Permit, Shed> {
        if self.caps.streams.is_off() {
            return Ok(Permit(None));
        }
        let place = self.caps.streams.take(1);
        let place = place.map_err(|limit| Shed {
            limit,
            what: STREAMS,
        })?;
        Ok(Permit::new(place, None))
    }

    fn admit<B>(&self, request: &mut Request<B>) -> Result<Permit, BoxError> {
        let Caps {
            calls,
            streams,
            tools,
        } = &*self.caps;
        if calls.is_off() && streams.is_off() && tools.is_off() {
            return Ok(Permit(None));
        }
        let (cap, what) = match Class::of(request) {
            Class::Free => return Ok(Permit(None)),
            Class::Stream if request.extensions().get::<Counted>().is_some() => {
                return Ok(Permit(None));
            }
            Class::Stream => (streams, STREAMS),
            Class::Call => (calls, CALLS),
        };
        // Before the others: who is refused by them has not shut the gate for a moment.
        let mut permit = if tools.is_off() {
            Permit(None)
        } else {
            tools.admit(request)?
        };
        if !cap.is_off() {
            let place = cap.take(1).map_err(|limit| Shed { limit, what })?;
            permit = Permit::hold(place, request);
        }
        Ok(permit)
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit {
            inner,
            layer: self.clone(),
        }
    }
}

// === impl ToolBusy ===

impl ToolBusy {
    /// What the client is told: which tools share the cap is the operator's business.
    pub fn message(&self) -> String {
        let Self { limit, calls, .. } = self;
        if self.is_never_let_in() {
            format!(
                "{calls} calls in one batch are of tools of which {limit} calls may be in flight"
            )
        } else {
            format!("over the limit of {limit} calls of these tools in flight")
        }
    }

    /// It is a batch with more calls than there are places: it is refused however often it comes.
    pub fn is_never_let_in(&self) -> bool {
        self.calls > self.limit
    }
}

// === impl Permit ===

impl Permit {
    fn new(place: Place, outer: Option<Self>) -> Self {
        Self(Some(Arc::new(Held {
            _place: place,
            _outer: outer,
        })))
    }

    /// Has the request hold the place, with what it holds already.
    fn hold<B>(place: Place, request: &mut Request<B>) -> Self {
        let permit = Self::new(place, request.extensions_mut().remove());
        request.extensions_mut().insert(permit.clone());
        permit
    }
}

// === impl Cap ===

impl Cap {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(OFF),
            taken: AtomicUsize::new(0),
            gate: OnceLock::new(),
        })
    }

    fn set(&self, limit: Option<NonZeroUsize>) {
        self.limit
            .store(limit.map_or(OFF, NonZeroUsize::get), Ordering::SeqCst);
        self.settle();
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    fn is_off(&self) -> bool {
        self.limit.load(Ordering::Relaxed) == OFF
    }

    fn is_full(&self) -> bool {
        self.taken.load(Ordering::SeqCst) >= self.limit()
    }

    /// Takes so many places, all or none; without enough of them it says how many there are in all.
    fn take(self: &Arc<Self>, places: usize) -> Result<Place, usize> {
        let limit = self.limit();
        let next = |taken: usize| Some(taken.checked_add(places)?).filter(|next| *next <= limit);
        match self
            .taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
        {
            Ok(_) => {
                self.settle();
                Ok(Place(self.clone(), places))
            }
            Err(_) => Err(limit),
        }
    }

    /// Sets the gate by the places. Whoever took or gave back one does so, and looks again after having written: of two that do so
    /// at once, the one whose word has become stale sees it, so the gate never stays wrong.
    fn settle(&self) {
        let Some(gate) = self.gate.get() else {
            return;
        };
        loop {
            let full = self.is_full();
            match (full, gate.is_shut_by(Reason::Busy)) {
                (true, false) => gate.shut(Reason::Busy, None),
                (false, true) => gate.open(Reason::Busy),
                (true, true) | (false, false) => {}
            }
            fence(Ordering::SeqCst);
            if self.is_full() == full {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(self.1, Ordering::SeqCst);
        self.0.settle();
    }
}

// === impl Limit ===

impl<S, Req, Res> Service<Request<Req>> for Limit<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Hold<Permit>>>;
    type Error = BoxError;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        LimitFuture(match self.layer.admit(&mut request) {
            Ok(permit) => LimitState::Admitted(self.inner.call(request), Some(permit)),
            Err(error) => LimitState::Refused(Some(error)),
        })
    }
}

impl<F, Res, E> Future for LimitFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Output = Result<Response<Tracked<Res, Hold<Permit>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().0.project() {
            LimitStateProj::Refused(error) => Err(error.take().expect("polled once")),
            LimitStateProj::Admitted(inner, permit) => {
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let permit = permit.take().unwrap_or_default();
                Ok(response.map(|body| Tracked::new(body, Hold(permit))))
            }
        })
    }
}

#[cfg(test)]
mod tests;
