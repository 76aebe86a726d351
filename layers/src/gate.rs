//! The gate: whether an endpoint takes calls, as one value that its layers write and its balancer reads.
//!
//! A circuit breaker, a health check, a concurrency limit and the operator each have their own [`Reason`] to shut the gate, and only
//! they open it again; the gate is open when nobody holds it shut. A reason may carry a time after which it lapses by itself, so
//! nobody needs a timer to open what was shut for a while. A balancer looks with [`Gate::look`], which reserves nothing, and waits with
//! [`Gate::changed`].
//!
//! [`GateLayer`] makes a service *not ready* while its gate is shut, for balancers that know only of readiness, as tower's does.
//!
//! Place: outermost at an endpoint, below the balancer. Readiness: pending while the gate is shut; wakes when it opens. Errors:
//! [`GateShut`], when the gate was shut between the look and the call; nothing was sent. Bodies: untouched.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, gate::{Gate, GateLayer, Look, Reason}};
//!
//! let gate = Gate::new();
//! let service = ServiceBuilder::new()
//!     .layer(GateLayer::new(gate.clone()))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! gate.shut(Reason::Operator, None);
//! assert_eq!(gate.look(), Look::Held { reason: Reason::Operator, until: None });
//! gate.open(Reason::Operator);
//! assert_eq!(gate.look(), Look::Open);
//! ```

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::Either;
use http::Request;
use pin_project::pin_project;
use tokio::{sync::watch, time::Instant};
use tower::{Layer, Service};

use crate::error::BoxError;

/// Whether an endpoint takes calls. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

/// Who holds a gate shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The operator: drained, or switched off.
    Operator,
    /// Its probes fail.
    Health,
    /// It does worse than the other endpoints.
    Outlier,
    /// Its circuit breaker is open.
    Circuit,
    /// Its concurrency is used up. Not held back, but *busy*: a caller may wait for it.
    Busy,
}

/// What a look at a gate shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Calls are taken.
    Open,
    /// Nothing holds it back, but it has no room now.
    Busy,
    /// It is held back.
    Held {
        /// By whom; the first in the order of [`Reason`] where there are several.
        reason: Reason,
        /// When it lapses, where that is known: the latest of all reasons.
        until: Option<Instant>,
    },
}

/// Makes a service not ready while its gate is shut.
#[derive(Debug, Clone)]
pub struct GateLayer {
    gate: Gate,
}

/// The service of [`GateLayer`].
pub struct Gated<S> {
    inner: S,
    gate: Gate,
    opening: Option<Opening>,
}

/// The future of [`Gated`].
#[pin_project]
pub struct GatedFuture<F>(#[pin] Either<F, std::future::Ready<GateShut>>);

/// The gate was shut when the call came. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint takes no calls now ({})", reason.as_str())]
pub struct GateShut {
    /// By whom.
    pub reason: Reason,
    /// After this time it may be open again, where that is known.
    pub retry_after: Option<Duration>,
}

type Opening = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

#[derive(Debug)]
struct Shared {
    /// One bit for each reason.
    shut: AtomicU32,
    /// When each reason lapses, in nanoseconds from `epoch`; 0 is never.
    until: [AtomicU64; Reason::ALL.len()],
    epoch: Instant,
    /// Made by the first who waits, so that a look costs no lock.
    changes: OnceLock<watch::Sender<()>>,
}

// === impl Reason ===

impl Reason {
    /// All reasons, the weightiest first.
    pub const ALL: [Self; 5] = [
        Self::Operator,
        Self::Health,
        Self::Outlier,
        Self::Circuit,
        Self::Busy,
    ];

    /// The word for logs, metrics and the operator.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Health => "health",
            Self::Outlier => "outlier",
            Self::Circuit => "circuit",
            Self::Busy => "busy",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

// === impl Gate ===

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                shut: AtomicU32::new(0),
                until: Default::default(),
                epoch: Instant::now(),
                changes: OnceLock::new(),
            }),
        }
    }

    /// Shuts the gate for this reason: until it is opened, or until the time given.
    pub fn shut(&self, reason: Reason, until: Option<Instant>) {
        let shared = &self.shared;
        let until = until.map_or(0, |at| {
            let offset = at.saturating_duration_since(shared.epoch).as_nanos();
            u64::try_from(offset).unwrap_or(u64::MAX).max(1)
        });
        shared.until[reason as usize].store(until, Ordering::Relaxed);
        shared.shut.fetch_or(reason.bit(), Ordering::AcqRel);
        self.tell();
    }

    /// Takes this reason away.
    pub fn open(&self, reason: Reason) {
        let before = self.shared.shut.fetch_and(!reason.bit(), Ordering::AcqRel);
        if before & reason.bit() != 0 {
            self.tell();
        }
    }

    /// Whether this reason holds the gate shut.
    pub fn is_shut_by(&self, reason: Reason) -> bool {
        self.holds(self.shared.shut.load(Ordering::Acquire), reason)
            .is_some()
    }

    /// Whether both are the same gate.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether calls are taken now. Reserves nothing.
    pub fn look(&self) -> Look {
        let shut = self.shared.shut.load(Ordering::Acquire);
        if shut == 0 {
            return Look::Open;
        }
        let mut found: Option<(Reason, Option<Instant>)> = None;
        for reason in Reason::ALL {
            let Some(until) = self.holds(shut, reason) else {
                continue;
            };
            if reason == Reason::Busy && found.is_none() {
                return Look::Busy;
            }
            found = Some(match found {
                None => (reason, until),
                Some((first, latest)) => (first, latest.zip(until).map(|(a, b)| a.max(b))),
            });
        }
        match found {
            None => Look::Open,
            Some((reason, until)) => Look::Held { reason, until },
        }
    }

    /// If `reason` holds the gate: until when.
    fn holds(&self, shut: u32, reason: Reason) -> Option<Option<Instant>> {
        if shut & reason.bit() == 0 {
            return None;
        }
        match self.shared.until[reason as usize].load(Ordering::Relaxed) {
            0 => Some(None),
            offset => {
                let until = self.shared.epoch + Duration::from_nanos(offset);
                (until > Instant::now()).then_some(Some(until))
            }
        }
    }

    /// Waits until somebody shuts or opens the gate, or a reason lapses. A change between the call of this method and the first poll counts too.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        let mut changes = self
            .shared
            .changes
            .get_or_init(|| watch::Sender::new(()))
            .subscribe();
        // The soonest: each lapse may change what a look shows.
        let shut = self.shared.shut.load(Ordering::Acquire);
        let lapses = Reason::ALL.into_iter();
        let lapse = lapses
            .filter_map(|reason| self.holds(shut, reason).flatten())
            .min();
        // The gate that is waited for keeps its sender.
        let gate = self.clone();
        async move {
            let _gate = gate;
            let change = async {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            match lapse {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = change => {}
                    }
                }
                None => change.await,
            }
        }
    }

    fn tell(&self) {
        if let Some(changes) = self.shared.changes.get() {
            changes.send_replace(());
        }
    }
}

// === impl GateLayer ===

impl GateLayer {
    /// A layer for the endpoint of this gate.
    pub fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated {
            inner,
            gate: self.gate.clone(),
            opening: None,
        }
    }
}

// === impl Gated ===

impl<S: Clone> Clone for Gated<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            gate: self.gate.clone(),
            opening: None,
        }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for Gated<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gated")
            .field("inner", &self.inner)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = GatedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while self.gate.look() != Look::Open {
            let opening = self
                .opening
                .get_or_insert_with(|| Box::pin(self.gate.changed()));
            // What changed before the future was made shows in the next look.
            if self.gate.look() == Look::Open {
                break;
            }
            ready!(opening.as_mut().poll(cx));
            self.opening = None;
        }
        self.opening = None;
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        GatedFuture(match self.gate.look() {
            // A caller that got ready before the last place went is let through: the limit itself decides.
            Look::Open | Look::Busy => Either::Left(self.inner.call(request)),
            Look::Held { reason, until } => Either::Right(std::future::ready(GateShut {
                reason,
                retry_after: until.map(|at| at.saturating_duration_since(Instant::now())),
            })),
        })
    }
}

impl<F, T, E> Future for GatedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.as_pin_mut() {
            Either::Left(inner) => inner.poll(cx).map_err(Into::into),
            Either::Right(refusal) => refusal.poll(cx).map(|shut| Err(shut.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::service_fn;

    use super::*;
    use crate::{Body, error::find};

    fn open_service() -> impl Service<Request<Body>, Response = (), Error = BoxError> + Clone {
        service_fn(async |_: Request<Body>| Ok::<_, BoxError>(()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_weightiest_reason_shows_and_each_is_taken_away_alone() {
        let gate = Gate::new();
        gate.shut(Reason::Busy, None);
        assert_eq!(gate.look(), Look::Busy);
        let at = Instant::now() + Duration::from_secs(3);
        gate.shut(Reason::Circuit, Some(at));
        assert_eq!(
            gate.look(),
            Look::Held {
                reason: Reason::Circuit,
                // Nobody knows how long it is busy.
                until: None
            }
        );
        gate.open(Reason::Busy);
        gate.shut(Reason::Outlier, Some(at + Duration::from_secs(1)));
        assert_eq!(
            gate.look(),
            Look::Held {
                reason: Reason::Outlier,
                until: Some(at + Duration::from_secs(1))
            }
        );
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(gate.look(), Look::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn not_ready_while_shut_and_woken_when_it_opens() {
        let gate = Gate::new();
        let service = GateLayer::new(gate.clone()).layer(open_service());
        let mut service = task::spawn(service);
        assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
        gate.shut(Reason::Health, None);
        assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
        gate.shut(Reason::Circuit, None);
        gate.open(Reason::Health);
        assert!(service.is_woken());
        assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
        gate.open(Reason::Circuit);
        assert!(service.is_woken());
        assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    }

    #[tokio::test(start_paused = true)]
    async fn woken_when_the_reason_lapses() {
        let gate = Gate::new();
        gate.shut(
            Reason::Circuit,
            Some(Instant::now() + Duration::from_secs(5)),
        );
        let mut service = GateLayer::new(gate).layer(open_service());
        let before = Instant::now();
        std::future::poll_fn(|cx| service.poll_ready(cx))
            .await
            .expect("ready");
        assert!(before.elapsed() >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn each_lapse_is_a_change_though_another_reason_stays() {
        let gate = Gate::new();
        let before = Instant::now();
        gate.shut(Reason::Health, None);
        gate.shut(Reason::Circuit, Some(before + Duration::from_secs(5)));
        gate.changed().await;
        assert!(before.elapsed() >= Duration::from_secs(5));
        assert!(!gate.is_shut_by(Reason::Circuit) && gate.is_shut_by(Reason::Health));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_after_the_gate_was_shut_is_refused_unsent() {
        let gate = Gate::new();
        let mut service = GateLayer::new(gate.clone()).layer(open_service());
        std::future::poll_fn(|cx| service.poll_ready(cx))
            .await
            .expect("ready");
        gate.shut(
            Reason::Circuit,
            Some(Instant::now() + Duration::from_secs(5)),
        );
        let error = service
            .call(Request::new(Body::empty()))
            .await
            .expect_err("shut");
        assert_eq!(
            find::<GateShut>(&*error),
            Some(&GateShut {
                reason: Reason::Circuit,
                retry_after: Some(Duration::from_secs(5))
            })
        );
    }
}
