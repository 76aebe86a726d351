//! What is known of one endpoint, whatever service reaches it at the moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::metrics::Gauge;
use tokio::time::Instant;

use super::{hash, load::Load, queue::Queue};
use crate::{
    exchange::EndpointInfo,
    gate::{Gate, Look},
    metrics::{gauge, names},
};

/// One endpoint of an upstream. Clones are the same endpoint; it outlives the services that reach it, so that a reload forgets nothing.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

/// How an endpoint stands, for the operator.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of traffic, relative to the others.
    pub weight: u32,
    /// 0 is asked first; the next only where all of those are out.
    pub priority: u32,
    /// Whether it takes calls.
    pub look: Look,
    /// Calls in flight.
    pub calls: u32,
    /// Open standing streams.
    pub streams: u32,
    /// The estimated time to a response head, if there was one.
    pub time: Option<Duration>,
    /// The share of attempts that failed, from 0 to 1.
    pub failures: f64,
    /// What a call there costs, as the balancer sees it.
    pub cost: f64,
}

#[derive(Debug)]
struct Inner {
    info: Arc<EndpointInfo>,
    seed: u64,
    weight: AtomicU32,
    priority: AtomicU32,
    gate: Gate,
    load: Load,
    /// Since when it takes calls: [`HELD`], [`WARM`], or milliseconds from `epoch`, plus [`START`].
    open_since: AtomicU64,
    epoch: Instant,
    /// What the smooth round robin owes it.
    credit: AtomicI64,
    /// Calls that must go to this endpoint.
    queue: Arc<Queue>,
    ready: Gauge,
    cost: Gauge,
}

/// What `ziggurat_endpoint_ready` says of an endpoint that does not exist any more, so that nobody is called for it.
const GONE: f64 = -1.0;

const HELD: u64 = 0;
/// It has taken calls for so long that nobody needs to know since when.
const WARM: u64 = 1;
const START: u64 = 2;

impl Endpoint {
    /// An open endpoint. Its name is unique in its upstream. The weight is kept between 1 and 1000; who wants none uses the gate.
    pub fn new(upstream: &str, name: &str, weight: u32, priority: u32) -> Self {
        let labels = [("upstream", upstream), ("endpoint", name)];
        let this = Self {
            inner: Arc::new(Inner {
                info: Arc::new(EndpointInfo {
                    upstream: upstream.into(),
                    endpoint: name.into(),
                }),
                seed: hash::of(name.as_bytes()),
                weight: AtomicU32::new(1),
                priority: AtomicU32::new(priority),
                gate: Gate::new(),
                load: Load::new(),
                open_since: AtomicU64::new(WARM),
                epoch: Instant::now(),
                credit: AtomicI64::new(0),
                queue: Arc::default(),
                ready: gauge(names::ENDPOINT_READY, &labels),
                cost: gauge(names::ENDPOINT_LOAD, &labels),
            }),
        };
        this.set_weight(weight);
        this.inner.ready.set(1.0);
        this
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.info.endpoint
    }

    /// What the exchange is told of it.
    pub(super) fn info(&self) -> &Arc<EndpointInfo> {
        &self.inner.info
    }

    /// Its gate, for the layers that shut it.
    pub fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// Its load meter.
    pub fn load(&self) -> &Load {
        &self.inner.load
    }

    /// Its share of traffic, relative to the others.
    pub fn weight(&self) -> u32 {
        self.inner.weight.load(Ordering::Relaxed)
    }

    /// Changes the weight, from the next choice on.
    pub fn set_weight(&self, weight: u32) {
        self.inner
            .weight
            .store(weight.clamp(1, 1000), Ordering::Relaxed);
    }

    /// Its priority: 0 is asked first.
    pub fn priority(&self) -> u32 {
        self.inner.priority.load(Ordering::Relaxed)
    }

    /// Changes the priority, from the next choice on.
    pub fn set_priority(&self, priority: u32) {
        self.inner.priority.store(priority, Ordering::Relaxed);
    }

    /// How it stands.
    pub fn view(&self) -> EndpointView {
        let now = Instant::now();
        let load = self.load();
        EndpointView {
            name: self.name().clone(),
            weight: self.weight(),
            priority: self.priority(),
            look: self.observe(),
            calls: load.calls(),
            streams: load.streams(),
            time: load.time(now),
            failures: load.failures(now),
            cost: self.cost(now),
        }
    }

    /// Whether both are the same endpoint, not only of one name.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Looks at the gate, and remembers since when it is open.
    pub(super) fn observe(&self) -> Look {
        let look = self.inner.gate.look();
        let was_held = self.inner.open_since.load(Ordering::Relaxed) == HELD;
        match (was_held, matches!(look, Look::Held { .. })) {
            (true, false) => self.open_now(),
            (false, true) => self.held_now(),
            (true, true) | (false, false) => {}
        }
        look
    }

    /// It is new among others, or healed: what was learnt before tells nothing now.
    pub(super) fn open_now(&self) {
        self.load().forget();
        let millis = self.inner.epoch.elapsed().as_millis();
        let since = u64::try_from(millis).unwrap_or(u64::MAX - START) + START;
        self.inner.open_since.store(since, Ordering::Relaxed);
        self.inner.ready.set(1.0);
    }

    /// It is held back, or gone.
    pub(super) fn held_now(&self) {
        self.inner.open_since.store(HELD, Ordering::Relaxed);
        self.inner.ready.set(0.0);
    }

    /// The part of its share that a new or healed endpoint gets: grows from 0.01 to 1.
    pub(super) fn ramp(&self, now: Instant, slow_start: Duration) -> f64 {
        let since = self.inner.open_since.load(Ordering::Relaxed);
        if since < START || slow_start.is_zero() {
            return 1.0;
        }
        let opened = self.inner.epoch + Duration::from_millis(since - START);
        let open_for = now.saturating_duration_since(opened);
        if open_for >= slow_start {
            let _changed = self.inner.open_since.compare_exchange(
                since,
                WARM,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            return 1.0;
        }
        (open_for.as_secs_f64() / slow_start.as_secs_f64()).max(0.01)
    }

    /// What a call here costs, seen alone: the time to head, times what is in hand with it, times the penalty.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        let load = self.load();
        let time = load.seconds(now).unwrap_or(0.0);
        time * load.penalty(now) * (1.0 + load.in_hand() / f64::from(self.weight()))
    }

    /// Sets its metrics to what is so now: also where one of the same name, which had the same gauges, went later than this came.
    pub(super) fn publish(&self, now: Instant) {
        let held = matches!(self.observe(), Look::Held { .. });
        self.inner.ready.set(if held { 0.0 } else { 1.0 });
        self.inner.cost.set(self.cost(now));
    }

    pub(super) fn seed(&self) -> u64 {
        self.inner.seed
    }

    pub(super) fn credit(&self) -> &AtomicI64 {
        &self.inner.credit
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.inner.queue
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ready.set(GONE);
        self.cost.set(0.0);
    }
}
