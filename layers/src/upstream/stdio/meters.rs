//! The metrics of a stdio upstream.

use ::metrics::{Counter, Gauge, Histogram};

use super::child::Stage;
use crate::metrics::{counter, gauge, histogram, names};

/// Why a line of a child was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noise {
    /// It is no message.
    NotJson,
    /// It is over the limit.
    TooLong,
    /// It answers, or is about, nothing that is known.
    UnknownId,
    /// There is nobody to take it.
    Nobody,
}

/// The words of [`Noise`], in its order.
const NOISE: [&str; 4] = ["not_json", "too_long", "unknown_id", "nobody"];

/// Handles, made once for each upstream.
#[derive(Debug)]
pub(super) struct Meters {
    upstream: Box<str>,
    stages: [Gauge; Stage::ALL.len()],
    pub(super) pending: Gauge,
    pub(super) write_queue: Gauge,
    pub(super) memory: Gauge,
    pub(super) sessions: Gauge,
    pub(super) spawn_time: Histogram,
    pub(super) handshake_time: Histogram,
    pub(super) handshake_timeouts: Counter,
    noise: [Counter; NOISE.len()],
}

impl Meters {
    pub(super) fn new(upstream: &str) -> Self {
        let state = |state| {
            gauge(
                names::STDIO_PROCESSES,
                &[("upstream", upstream), ("state", state)],
            )
        };
        let phase = |phase| {
            histogram(
                names::STDIO_SPAWN,
                &[("upstream", upstream), ("phase", phase)],
            )
        };
        let plain = |name| gauge(name, &[("upstream", upstream)]);
        Self {
            stages: Stage::ALL.map(|stage| state(stage.as_str())),
            pending: plain(names::STDIO_PENDING),
            write_queue: plain(names::STDIO_WRITE_QUEUE),
            memory: plain(names::STDIO_MEMORY),
            sessions: plain(names::STDIO_SESSIONS),
            spawn_time: phase("spawn"),
            handshake_time: phase("handshake"),
            handshake_timeouts: counter(names::TIMEOUTS, &[("phase", "handshake")]),
            noise: NOISE.map(|reason| {
                counter(
                    names::STDIO_NOISE,
                    &[("upstream", upstream), ("reason", reason)],
                )
            }),
            upstream: upstream.into(),
        }
    }

    /// The gauge of the children in this state.
    pub(super) fn stage(&self, stage: Stage) -> &Gauge {
        &self.stages[stage as usize]
    }

    /// What became of a snapshot that a client was answered with.
    pub(super) fn snapshot(&self, outcome: &'static str) {
        let labels = [("upstream", &*self.upstream), ("outcome", outcome)];
        counter(names::STDIO_SNAPSHOTS, &labels).increment(1);
    }

    /// A child is started. Rare enough to look the counter up.
    pub(super) fn spawn(&self, reason: &'static str) {
        self.count(names::STDIO_SPAWNS, reason);
    }

    /// A child has ended.
    pub(super) fn exit(&self, reason: &'static str) {
        self.count(names::STDIO_EXITS, reason);
    }

    /// A session has ended other than by DELETE.
    pub(super) fn evict(&self, reason: &'static str) {
        self.count(names::STDIO_SESSION_EVICTIONS, reason);
    }

    /// A line of a child was dropped. A child may flood, so nothing is looked up.
    pub(super) fn noise(&self, reason: Noise) {
        self.noise[reason as usize].increment(1);
    }

    fn count(&self, name: &'static str, reason: &'static str) {
        counter(name, &[("upstream", &self.upstream), ("reason", reason)]).increment(1);
    }
}
