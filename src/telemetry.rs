//! What the process says about itself: logs on stderr, metrics for Prometheus.
//!
//! Both must never slow a request down. Log lines go into a bounded buffer that one thread writes out, so a blocked
//! stderr costs lines (which are counted), not time. Metric handles are atomics, and text is made when somebody scrapes.

mod fields;
mod log;
mod metrics;
mod process;
mod runtime;
mod text;
mod time;
mod writer;

#[cfg(test)]
mod tests;

pub use self::log::{LogControl, LogError, LogFormat, LogGuard, LogSettings, start_log};
pub use self::metrics::{InstallError, MetricsHandle, MetricsSettings, install};
pub use self::writer::LogDrops;
