//! The load meter of one endpoint: how long its answers take, how often it fails, and what it has in hand.
//!
//! *Time* is a peak-EWMA of the time to the response head: a slower sample counts at once, a quicker one pulls the estimate down with
//! a decay of 10 s (`e^(-t/10s)`), and without samples it decays towards zero. The formula is that of `tower::load::PeakEwma`, which has it
//! from Finagle's `PeakEwma`. It is measured to the head, not to the end, so that a stream of five minutes is no slow answer; standing
//! streams and messages that want no answer do not count at all.
//!
//! *Failures* are kept apart, because an endpoint that fails within 0.1 ms must not look quick: their share is an average in which each
//! verdict weighs 10 %, with a decay of 30 s. A failure counts as a sample of time only where it took longer than the estimate (a
//! timeout does). When an endpoint that was held back is let in again, both are forgotten: whoever opened its gate knows better. A call that was given up says nothing of failures, but that the head took at least so long.
//!
//! *In hand* are calls and standing streams, each until its response body ends, or its answer was seen, or it is dropped.
//!
//! [`LoadLayer`] feeds the meter. Place: outermost at the endpoint, below the balancer, so that it sees whatever the endpoint's other layers
//! refuse. Readiness and errors: the inner service's. Bodies: forwarded, watched to their end.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, balance::{Endpoint, LoadLayer}};
//!
//! let endpoint = Endpoint::new("tools", "10.0.0.1:3000", 1, 0);
//! let service = ServiceBuilder::new()
//!     .layer(LoadLayer::new(endpoint.clone()))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! assert_eq!(endpoint.load().calls(), 0);
//! ```

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::Endpoint;
use crate::{
    body::Tracked,
    class::Class,
    error::BoxError,
    exchange::Exchange,
    verdict::{Attempt, Judge, Verdict, Watch, Watched},
};

/// What is known of an endpoint's load.
#[derive(Debug)]
pub struct Load {
    epoch: Instant,
    time: Average,
    failures: Average,
    calls: AtomicU32,
    streams: AtomicU32,
}

/// Measures the load of one endpoint.
#[derive(Debug, Clone)]
pub struct LoadLayer {
    endpoint: Endpoint,
}

/// The service of [`LoadLayer`].
#[derive(Debug, Clone)]
pub struct Metered<S> {
    inner: S,
    endpoint: Endpoint,
}

/// One attempt at an endpoint, as its load meter sees it; in hand as long as this is there.
#[derive(Debug)]
pub struct Meter {
    endpoint: Endpoint,
    class: Class,
    started: Instant,
    headed: bool,
}

/// An average and the time of its newest sample in one word: an `f32`, and milliseconds from the meter's start (which wrap after 49 days; a
/// meter that had no sample for so long decays from a wrong time, once).
#[derive(Debug)]
struct Average {
    word: AtomicU64,
    decay: Duration,
}

/// How fast a peak is forgotten.
const TIME_DECAY: Duration = Duration::from_secs(10);

/// How fast failures are forgotten: slower, since at a low rate of calls each look at a failing endpoint costs a call.
const FAILURE_DECAY: Duration = Duration::from_secs(30);

/// How much one verdict weighs in the share of failures.
const WEIGHT: f64 = 0.1;

/// How sharply failures raise the cost: `(1 - failures)^-4`. To the power of one it would be the cost of a success where each failure is tried
/// again; but an endpoint that only fails has nothing in hand, and must look dearer than healthy ones with hundreds of calls. One failure makes
/// 1.5; two, 2.3; ten, 68; and so on.
const SHARPNESS: i32 = -4;

/// What a standing stream weighs against a call in flight.
const STREAM: f64 = 0.1;

// === impl Load ===

impl Load {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            time: Average::new(TIME_DECAY),
            failures: Average::new(FAILURE_DECAY),
            calls: AtomicU32::new(0),
            streams: AtomicU32::new(0),
        }
    }

    /// Calls in flight.
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Open standing streams.
    pub fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// The estimated time to the response head, decayed up to `now`. `None` before the first answer.
    pub fn time(&self, now: Instant) -> Option<Duration> {
        self.seconds(now).map(Duration::from_secs_f64)
    }

    pub(super) fn seconds(&self, now: Instant) -> Option<f64> {
        self.time.read(self.millis(now))
    }

    /// The share of attempts that failed, from 0 to 1, decayed up to `now`.
    pub fn failures(&self, now: Instant) -> f64 {
        self.failures.read(self.millis(now)).unwrap_or(0.0)
    }

    /// By how much failures raise the cost of a call: a factor of 1 or more.
    pub fn penalty(&self, now: Instant) -> f64 {
        (1.0 - self.failures(now)).max(1e-3).powi(SHARPNESS)
    }

    /// What the endpoint has in hand, in calls.
    pub fn in_hand(&self) -> f64 {
        f64::from(self.calls()) + STREAM * f64::from(self.streams())
    }

    /// Forgets what was learnt; what is in hand stays.
    pub(super) fn forget(&self) {
        self.time.forget();
        self.failures.forget();
    }

    /// An attempt begins.
    pub(crate) fn begin(&self, class: Class) {
        self.count(class).fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt is over.
    pub(crate) fn end(&self, class: Class) {
        self.count(class).fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, class: Class) -> &AtomicU32 {
        match class {
            Class::Call | Class::Free => &self.calls,
            Class::Stream => &self.streams,
        }
    }

    /// The response head came after this time.
    pub(crate) fn head(&self, now: Instant, took: Duration) {
        let (at, sample) = (self.millis(now), took.as_secs_f64());
        self.time.update(at, |old, keep| match old {
            Some(old) if old >= sample => old * keep + sample * (1.0 - keep),
            Some(_) | None => sample,
        });
    }

    /// There was no response head within this time.
    pub(crate) fn headless(&self, now: Instant, took: Duration) {
        if self
            .seconds(now)
            .is_some_and(|time| time < took.as_secs_f64())
        {
            self.head(now, took);
        }
    }

    /// An attempt got this verdict.
    pub(crate) fn verdict(&self, now: Instant, verdict: Verdict) {
        let sample = match verdict {
            Verdict::Success => 0.0,
            Verdict::Failure => 1.0,
            Verdict::Neutral => return,
        };
        self.failures.update(self.millis(now), |old, keep| {
            let old = old.unwrap_or(0.0) * keep;
            old + WEIGHT * (sample - old)
        });
    }

    fn millis(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        (millis & u128::from(u32::MAX)) as u32
    }
}

// === impl Average ===

impl Average {
    /// No sample yet: an `f32` of all ones is no number.
    const NONE: u64 = u64::MAX;

    fn new(decay: Duration) -> Self {
        Self {
            word: AtomicU64::new(Self::NONE),
            decay,
        }
    }

    fn forget(&self) {
        self.word.store(Self::NONE, Ordering::Relaxed);
    }

    fn split(word: u64) -> Option<(f64, u32)> {
        let value = f32::from_bits((word >> 32) as u32);
        (word != Self::NONE).then(|| (f64::from(value), word as u32))
    }

    /// What is left of a value after this time.
    fn keep(&self, from: u32, to: u32) -> f64 {
        let elapsed = to.wrapping_sub(from);
        // A reading of the clock from before the newest sample.
        let elapsed = if elapsed > u32::MAX / 2 { 0 } else { elapsed };
        if elapsed == 0 {
            return 1.0;
        }
        (-f64::from(elapsed) / (self.decay.as_secs_f64() * 1000.0)).exp()
    }

    fn read(&self, at: u32) -> Option<f64> {
        let (value, since) = Self::split(self.word.load(Ordering::Relaxed))?;
        Some(value * self.keep(since, at))
    }

    /// Puts in its place what `next` makes of it and of the share of it that is left.
    fn update(&self, at: u32, next: impl Fn(Option<f64>, f64) -> f64) {
        let change = |word| {
            let value = match Self::split(word) {
                Some((value, since)) => next(Some(value), self.keep(since, at)),
                None => next(None, 1.0),
            };
            Some((u64::from((value as f32).to_bits()) << 32) | u64::from(at))
        };
        let _previous = self
            .word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

// === impl LoadLayer ===

impl LoadLayer {
    /// A layer for the service of this endpoint.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }
}

impl<S> Layer<S> for LoadLayer {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Metered {
            inner,
            endpoint: self.endpoint.clone(),
        }
    }
}

// === impl Metered ===

impl<S, Req, Res> Service<Request<Req>> for Metered<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Attempt<Meter>>>;
    type Error = BoxError;
    type Future = Watched<S::Future, Meter>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let class = Class::of(&request);
        exchange.set_endpoint(self.endpoint.info().clone());
        let meter = Meter::new(self.endpoint.clone(), class);
        Watched::new(self.inner.call(request), exchange, Judge::default(), meter)
    }
}

// === impl Meter ===

impl Meter {
    fn new(endpoint: Endpoint, class: Class) -> Self {
        endpoint.load().begin(class);
        Self {
            endpoint,
            class,
            started: Instant::now(),
            headed: false,
        }
    }
}

impl Drop for Meter {
    /// Also where the inner service panicked.
    fn drop(&mut self) {
        self.endpoint.load().end(self.class);
    }
}

impl Watch for Meter {
    fn head(&mut self, status: StatusCode) {
        self.headed = true;
        if self.class != Class::Call {
            return;
        }
        let now = Instant::now();
        let (load, took) = (self.endpoint.load(), now - self.started);
        match Judge::default().head(status) {
            Verdict::Failure => load.headless(now, took),
            Verdict::Success | Verdict::Neutral => load.head(now, took),
        }
    }

    fn end(self, verdict: Verdict) {
        let now = Instant::now();
        let load = self.endpoint.load();
        if !self.headed && self.class == Class::Call {
            load.headless(now, now - self.started);
        }
        load.verdict(now, verdict);
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::Body;

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < wanted * 0.01 + 1e-6
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_with_the_decay() {
        let load = Load::new();
        let start = load.epoch;
        assert_eq!(load.time(start), None);
        load.head(start, Duration::from_millis(10));
        load.head(start, Duration::from_millis(100));
        assert!(near(load.seconds(start).expect("a time"), 0.1));
        let later = start + TIME_DECAY;
        assert!(near(
            load.seconds(later).expect("a time"),
            0.1 * (-1.0_f64).exp()
        ));
        load.head(later, Duration::from_millis(10));
        let mixed = 0.1 * (-1.0_f64).exp() + 0.01 * (1.0 - (-1.0_f64).exp());
        assert!(near(load.seconds(later).expect("a time"), mixed));
    }

    #[test]
    fn failures_cost_and_are_forgotten() {
        let load = Load::new();
        let start = load.epoch;
        load.verdict(start, Verdict::Failure);
        assert!(near(load.penalty(start), 1.524));
        load.verdict(start, Verdict::Neutral);
        assert!(near(load.penalty(start), 1.524));
        for _ in 0..50 {
            load.verdict(start, Verdict::Failure);
        }
        assert!(load.penalty(start) > 1e6);
        assert!(load.penalty(start + 5 * FAILURE_DECAY) < 1.03);
    }

    fn service(
        endpoint: &Endpoint,
        status: u16,
    ) -> impl Service<
        Request<Body>,
        Response = Response<Tracked<Body, Attempt<Meter>>>,
        Error = BoxError,
    > + Clone {
        LoadLayer::new(endpoint.clone()).layer(service_fn(move |_: Request<Body>| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut response = Response::new(Body::full("x"));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            Ok::<_, BoxError>(response)
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_in_hand_until_its_body_ends_or_is_dropped() {
        let endpoint = Endpoint::new("u", "a", 1, 0);
        let load = endpoint.load();
        let service = service(&endpoint, 200);
        let before_head = service.clone().oneshot(Request::new(Body::empty()));
        let mut before_head = tokio_test::task::spawn(before_head);
        assert!(before_head.poll().is_pending());
        assert_eq!(load.calls(), 1);
        drop(before_head);
        assert_eq!(load.calls(), 0);
        let response = service
            .oneshot(Request::new(Body::empty()))
            .await
            .expect("a response");
        assert_eq!(load.calls(), 1);
        assert_eq!(load.failures(Instant::now()), 0.0);
        drop(response);
        assert_eq!(load.calls(), 0);
        assert!(near(load.seconds(Instant::now()).expect("a time"), 0.05));
    }

    #[tokio::test(start_paused = true)]
    async fn a_standing_stream_is_counted_but_its_time_is_not() {
        let endpoint = Endpoint::new("u", "a", 1, 0);
        let request = Request::get("/")
            .header("accept", "text/event-stream")
            .body(Body::empty())
            .expect("valid");
        let response = service(&endpoint, 200).oneshot(request).await;
        assert_eq!((endpoint.load().calls(), endpoint.load().streams()), (0, 1));
        drop(response);
        assert_eq!(endpoint.load().streams(), 0);
        assert_eq!(endpoint.load().time(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_failure_is_no_quick_answer() {
        let endpoint = Endpoint::new("u", "a", 1, 0);
        let response = service(&endpoint, 503).oneshot(Request::new(Body::empty()));
        drop(response.await.expect("a response"));
        let now = Instant::now();
        assert_eq!(endpoint.load().time(now), None);
        assert!(near(endpoint.load().failures(now), 0.1));
    }
}
