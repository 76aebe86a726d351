//! The listener's own metrics.

use metrics::{Counter, Gauge, counter, gauge};

/// Handles for one listener's metrics.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    open: Gauge,
    accepted: Counter,
    accept_errors: Counter,
    handshake_failures: Counter,
    write_stalls: Counter,
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(listener: &'static str) -> Self {
        metrics::describe_gauge!(
            "ziggurat_connections",
            "Connections that are open on a listener."
        );
        metrics::describe_counter!(
            "ziggurat_connections_total",
            "Connections that a listener accepted."
        );
        metrics::describe_counter!(
            "ziggurat_accept_errors_total",
            "Connections that could not be accepted, most often for want of file descriptors."
        );
        metrics::describe_counter!(
            "ziggurat_tls_handshake_failures_total",
            "TLS handshakes that failed or took too long."
        );
        metrics::describe_counter!(
            "ziggurat_sse_write_stalls_total",
            "Connections that were cut, with the event streams on them, and streams of HTTP/2 that were reset, because their client read nothing for too long."
        );
        Self {
            open: gauge!("ziggurat_connections", "listener" => listener),
            accepted: counter!("ziggurat_connections_total", "listener" => listener),
            accept_errors: counter!("ziggurat_accept_errors_total", "listener" => listener),
            handshake_failures: counter!("ziggurat_tls_handshake_failures_total", "listener" => listener),
            write_stalls: counter!("ziggurat_sse_write_stalls_total", "listener" => listener),
        }
    }

    pub(super) fn opened(&self) {
        self.open.increment(1.0);
        self.accepted.increment(1);
    }

    pub(super) fn closed(&self) {
        self.open.decrement(1.0);
    }

    pub(super) fn accept_failed(&self) {
        self.accept_errors.increment(1);
    }

    pub(super) fn handshake_failed(&self) {
        self.handshake_failures.increment(1);
    }

    pub(super) fn write_stalled(&self) {
        self.write_stalls.increment(1);
    }
}
