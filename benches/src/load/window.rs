//! The window in which things are counted, and what everybody used within it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Measured, Target};
use crate::BoxError;
use crate::usage::{self, Processes};

/// The time in which things are counted.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

/// What had been used when the window began.
pub(super) struct Meter {
    begin: Instant,
    processes: Option<Processes>,
    proxy: Duration,
    servers: Duration,
    ours: Vec<u32>,
    our_use: Duration,
    machine: Duration,
}

// === impl Window ===

impl Window {
    pub(super) fn after(warm_up: Duration, length: Duration) -> Self {
        let begin = Instant::now() + warm_up;
        let end = begin + length;
        Self { begin, end }
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        self.begin <= now && now < self.end
    }

    /// Waits for the window to begin.
    pub(super) async fn meter(&self, target: &Target) -> Result<Meter, BoxError> {
        sleep_until(self.begin).await;
        let processes = target.pid.map(Processes::of).transpose()?;
        let Processes { proxy, servers } = Processes::of(std::process::id())?;
        let ours = [proxy, servers].concat();
        let used = |part: fn(&Processes) -> &Vec<u32>| {
            processes
                .as_ref()
                .map(|of| usage::cpu(part(of)))
                .unwrap_or_default()
        };
        Ok(Meter {
            proxy: used(|of| &of.proxy),
            servers: used(|of| &of.servers),
            processes,
            our_use: usage::cpu(&ours),
            ours,
            machine: usage::machine()?,
            begin: Instant::now(),
        })
    }
}

// === impl Meter ===

impl Meter {
    /// Waits for the window to end.
    pub(super) async fn stop(self, window: Window) -> Result<Measured, BoxError> {
        sleep_until(window.end).await;
        let elapsed = self.begin.elapsed();
        let machine = usage::machine()?.saturating_sub(self.machine);
        let ours = usage::cpu(&self.ours).saturating_sub(self.our_use);
        let all = elapsed * std::thread::available_parallelism()?.get() as u32;
        let since = |pids: &[u32], before| usage::cpu(pids).saturating_sub(before);
        let processes = self.processes.as_ref();
        Ok(Measured {
            elapsed: window.end - window.begin,
            units: 0,
            latencies: Vec::new(),
            errors: 0,
            first_error: None,
            proxy_cpu: processes.map(|of| since(&of.proxy, self.proxy)),
            server_cpu: processes
                .filter(|of| !of.servers.is_empty())
                .map(|of| since(&of.servers, self.servers)),
            grown: None,
            noise: machine.saturating_sub(ours).as_secs_f64() / all.as_secs_f64(),
        })
    }
}
