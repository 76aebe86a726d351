//! What tokio says about itself; only what is stable.

use tokio::runtime::RuntimeMetrics;

use super::text::{Kind, metric};

/// Appends the runtime's metrics.
pub(super) fn write(out: &mut String, runtime: &RuntimeMetrics) {
    metric(
        out,
        "tokio_workers",
        Kind::Gauge,
        "Worker threads of the runtime.",
        runtime.num_workers(),
    );
    metric(
        out,
        "tokio_alive_tasks",
        Kind::Gauge,
        "Tasks that have not ended.",
        runtime.num_alive_tasks(),
    );
    metric(
        out,
        "tokio_global_queue_depth",
        Kind::Gauge,
        "Tasks that wait in the queue of all workers.",
        runtime.global_queue_depth(),
    );
}
