//! A closed-loop load generator: N callers, each with one kept-alive HTTP/1.1 connection and one request at
//! a time. Every answer is read and checked; one that is not the right one is an error, never a call.
//!
//! What the proxy uses meanwhile is read at both ends of the same window in which the calls are counted.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use http::Uri;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::BoxError;

mod caller;
mod standing;
mod window;

pub(crate) use caller::{Caller, is_event_stream, open};
use window::Window;

/// How long callers may take to connect, and to end after the window.
const PATIENCE: Duration = Duration::from_secs(10);
/// The notifications of one `progress` call.
const STEPS: u64 = 1000;
const MIB: usize = 1024 * 1024;

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// The MCP endpoint, such as http://127.0.0.1:3001/mcp
    url: Uri,
    #[arg(long, value_enum, default_value_t = Mode::Calls)]
    mode: Mode,
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    era: Era,
    /// Connections, each with one call or stream at a time
    #[arg(long, default_value_t = 16)]
    callers: u32,
    /// How long to measure
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The proxy's process, to tell what it uses
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Small `echo` calls
    Calls,
    /// Calls whose answer is a stream of 1,000 progress events
    Events,
    /// Calls whose answer is 1 MiB
    Answers,
    /// Calls of 1 MiB whose answer is that same 1 MiB
    Echoes,
    /// Streams that stay open and say something ten times a second, each in a session of its own
    Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Era {
    /// 2025-11-25: `initialize`, then a session
    Legacy,
    /// 2026-07-28: every request for itself
    Modern,
}

/// Where the load goes.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) path: Uri,
    /// The proxy, when there is one.
    pub(crate) pid: Option<u32>,
}

#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) era: Era,
    pub(crate) callers: u32,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// What one caller saw within the window.
#[derive(Default)]
pub(crate) struct Tally {
    /// Calls, events, or MiB, as the mode has it.
    units: u64,
    latencies: Vec<Duration>,
    errors: u64,
    first_error: Option<String>,
}

/// What came of one plan.
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) units: u64,
    /// Empty where a latency says nothing.
    latencies: Vec<Duration>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// What the proxy used, and the stdio servers behind it.
    pub(crate) proxy_cpu: Option<Duration>,
    pub(crate) server_cpu: Option<Duration>,
    /// The proxy's memory, grown while the streams were opened.
    pub(crate) grown: Option<i64>,
    /// The share of the machine that went to processes that are not part of this.
    pub(crate) noise: f64,
}

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let host = options.url.host().unwrap_or_default();
    let port = options.url.port_u16().unwrap_or(80);
    let address = tokio::net::lookup_host((host, port)).await?.next();
    let target = Target {
        address: address.ok_or("the URL needs a host: http://127.0.0.1:3001/mcp")?,
        path: options.url.path().parse()?,
        pid: options.pid,
    };
    let plan = Plan {
        mode: options.mode,
        era: options.era,
        callers: options.callers,
        warm_up: Duration::from_millis(300),
        window: Duration::from_secs_f64(options.seconds),
    };
    println!("{}", measure(&target, &plan).await?);
    Ok(())
}

/// Drives `target` as `plan` says. Fails when the callers cannot even start; what goes wrong later is
/// counted.
pub(crate) async fn measure(target: &Target, plan: &Plan) -> Result<Measured, BoxError> {
    if plan.mode == Mode::Standing {
        return standing::measure(target, plan).await;
    }
    let callers = timeout(PATIENCE, connect(target, plan))
        .await
        .map_err(|_| "the callers did not get connected in time")??;
    let window = Window::after(plan.warm_up, plan.window);
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(call_until_the_end(caller, plan.mode, window));
    }
    let meter = window.meter(target).await?;
    let mut measured = meter.stop(window).await?;
    let finished = timeout(PATIENCE, async {
        while let Some(tally) = tasks.join_next().await {
            measured.add(tally?);
        }
        Ok::<_, tokio::task::JoinError>(())
    });
    match finished.await {
        Ok(finished) => finished?,
        Err(_elapsed) => measured.add(Tally {
            errors: tasks.len() as u64,
            first_error: Some("a call was still without its answer long after the end".to_owned()),
            ..Tally::default()
        }),
    }
    Ok(measured)
}

async fn connect(target: &Target, plan: &Plan) -> Result<Vec<Caller>, BoxError> {
    let mut connecting = JoinSet::new();
    for number in 0..plan.callers {
        connecting.spawn(Caller::connect(target.clone(), plan.era, number));
    }
    let mut callers = Vec::new();
    while let Some(caller) = connecting.join_next().await {
        callers.push(caller??);
    }
    Ok(callers)
}

async fn call_until_the_end(mut caller: Caller, mode: Mode, window: Window) -> Tally {
    let mut tally = Tally::default();
    loop {
        let start = Instant::now();
        if start >= window.end {
            return tally;
        }
        let outcome = match mode {
            // Standing streams have a measurement of their own.
            Mode::Calls | Mode::Standing => caller.echo_small().await.map(|()| 1),
            Mode::Answers => caller.big(MIB).await.map(|()| 1),
            Mode::Echoes => caller.echo_big(MIB).await.map(|()| 1),
            Mode::Events => {
                let count = |events| {
                    if window.holds(Instant::now()) {
                        tally.units += events;
                    }
                };
                caller.progress(STEPS, count).await.map(|()| 0)
            }
        };
        let now = Instant::now();
        match outcome {
            Ok(units) if window.holds(now) => {
                tally.units += units;
                tally.latencies.push(now - start);
            }
            Ok(_outside) => {}
            Err(error) => {
                tally.error(&error);
                caller.reconnect().await;
            }
        }
    }
}

/// The latency that this share of the calls did not exceed.
pub(crate) fn percentile(
    calls: impl IntoIterator<Item = Duration>,
    share: f64,
) -> Option<Duration> {
    let mut latencies: Vec<Duration> = calls.into_iter().collect();
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    Some(latencies[(last as f64 * share) as usize])
}

// === impl Tally ===

impl Tally {
    fn error(&mut self, error: &BoxError) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}

// === impl Measured ===

impl Measured {
    fn add(&mut self, tally: Tally) {
        self.units += tally.units;
        self.latencies.extend(tally.latencies);
        self.errors += tally.errors;
        self.first_error = self.first_error.take().or(tally.first_error);
    }

    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of the calls did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> Option<Duration> {
        percentile(self.latencies.iter().copied(), share)
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} a second, {} errors", self.rate(), self.errors)?;
        if let (Some(p50), Some(p99)) = (self.percentile(0.5), self.percentile(0.99)) {
            write!(f, ", p50 {p50:?}, p99 {p99:?}")?;
        }
        if let Some(cpu) = self.proxy_cpu {
            let each = cpu.as_secs_f64() * 1e6 / self.units.max(1) as f64;
            write!(f, ", proxy CPU {each:.1} µs each")?;
        }
        if let Some(grown) = self.grown {
            write!(f, ", memory grown by {} KiB", grown / 1024)?;
        }
        match &self.first_error {
            Some(error) => write!(f, "; first error: {error}"),
            None => Ok(()),
        }
    }
}
