//! Runs every proxy under every load, round after round, one at a time and in turn, and reports medians.
//!
//! A cell is one load on one proxy, started anew for it: the cells of one load follow each other within
//! seconds, so that what disturbs the machine disturbs them alike, and each round begins with another proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use http::Uri;
use rustix::thread::disable_transparent_huge_pages;

use crate::BoxError;
use crate::contender::{Programs, Proxy, Running, Transport};
use crate::load::{self, Era, Measured, Mode, Plan, Target};

mod report;

use report::{Metric, Report, Sample};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The ziggurat program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    ziggurat: Option<PathBuf>,
    /// How often each cell is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each cell is measured, after a warm-up
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// A first look in two minutes: two rounds of short cells
    #[arg(long)]
    quick: bool,
    /// Callers of the small calls
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    callers: Vec<u32>,
    /// Which proxies take part
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Proxy::value_variants().to_vec())]
    proxies: Vec<Proxy>,
    /// What the servers behind them speak
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Transport::Http, Transport::Stdio])]
    transports: Vec<Transport>,
    /// Also write everything that was measured, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One load, which every proxy gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) transport: Transport,
    pub(crate) mode: Mode,
    pub(crate) era: Era,
    pub(crate) callers: u32,
}

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let report = crate::unless_stopped(measure_all(&options)).await?;
    println!("{report}");
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report.to_json())?)?;
    }
    match report.errors() {
        0 => Ok(()),
        errors => {
            Err(format!("{errors} answers were wrong or missing; the tables say where").into())
        }
    }
}

async fn measure_all(options: &Options) -> Result<Report, BoxError> {
    let (rounds, seconds) = match options.quick {
        true => (2, 0.5),
        false => (options.rounds, options.seconds),
    };
    let programs = Programs::find(options.ziggurat.clone())?;
    let mut report = Report::new(rounds, seconds);
    let mut proxies = options.proxies.clone();
    proxies.retain(|proxy| match programs.missing(*proxy) {
        None => true,
        Some(why) => {
            let skipped = format!("{} is left out: {why}", proxy.label(Transport::Http));
            eprintln!("{skipped}");
            report.notes.push(skipped);
            false
        }
    });
    let echo = programs.echo_http().await?;
    let workloads = workloads(options);
    let start = Instant::now();
    for round in 0..rounds {
        eprintln!(
            "round {} of {rounds}, after {} s",
            round + 1,
            start.elapsed().as_secs()
        );
        for workload in &workloads {
            let mut turn = proxies.clone();
            turn.retain(|proxy| workload.suits(*proxy));
            if !turn.is_empty() {
                let first = round as usize % turn.len();
                turn.rotate_left(first);
            }
            for proxy in turn {
                let cell = measure_cell(&programs, proxy, workload, echo.address, seconds);
                let outcome = match cell.await {
                    Ok(measured) => (metrics(&measured, workload), measured.first_error),
                    // A result too: the others go on.
                    Err(error) => (vec![(Metric::Errors, 1.0)], Some(error.to_string())),
                };
                let sample = Sample::new(round, *workload, proxy, outcome);
                report.samples.push(sample);
            }
        }
    }
    echo.stop().await;
    Ok(report)
}

/// Starts the proxy, measures it, and ends it.
async fn measure_cell(
    programs: &Programs,
    proxy: Proxy,
    workload: &Workload,
    echo: SocketAddr,
    seconds: f64,
) -> Result<Measured, BoxError> {
    let plan = Plan {
        mode: workload.mode,
        era: workload.era,
        callers: workload.callers,
        warm_up: Duration::from_millis(300),
        window: Duration::from_secs_f64(seconds),
    };
    // Where memory is measured, it is counted in small pages: one huge page is as much as forty streams.
    disable_transparent_huge_pages(workload.mode == Mode::Standing)?;
    let running = programs.start(proxy, workload.transport, echo).await?;
    disable_transparent_huge_pages(false)?;
    let target = Target {
        address: running.as_ref().map_or(echo, |running| running.address),
        path: Uri::from_static("/mcp"),
        pid: running.as_ref().and_then(Running::pid),
    };
    let measured = load::measure(&target, &plan).await;
    if let Some(running) = running {
        running.stop().await;
    }
    measured
}

fn metrics(measured: &Measured, workload: &Workload) -> Vec<(Metric, f64)> {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let units = measured.units.max(1) as f64;
    let mut metrics = vec![
        (Metric::Rate, measured.rate()),
        (Metric::Errors, measured.errors as f64),
        (Metric::Noise, measured.noise * 100.0),
    ];
    let mut add = |metric, value: Option<f64>| {
        metrics.extend(value.map(|value| (metric, value)));
    };
    if workload.mode != Mode::Events {
        add(Metric::P50, measured.percentile(0.5).map(micros));
        add(Metric::P99, measured.percentile(0.99).map(micros));
    }
    add(
        Metric::Cpu,
        measured.proxy_cpu.map(|cpu| micros(cpu) / units),
    );
    add(
        Metric::ServerCpu,
        measured.server_cpu.map(|cpu| micros(cpu) / units),
    );
    let per_stream = |bytes: i64| bytes as f64 / 1024.0 / f64::from(workload.callers);
    add(Metric::Memory, measured.grown.map(per_stream));
    metrics
}

fn workloads(options: &Options) -> Vec<Workload> {
    let mut workloads = Vec::new();
    for transport in &options.transports {
        let mut add = |mode, era, callers| {
            workloads.push(Workload {
                transport: *transport,
                mode,
                era,
                callers,
            });
        };
        for callers in &options.callers {
            add(Mode::Calls, Era::Modern, *callers);
        }
        add(Mode::Calls, Era::Legacy, 16);
        add(Mode::Events, Era::Modern, 16);
        add(Mode::Answers, Era::Modern, 4);
        add(Mode::Echoes, Era::Modern, 4);
        // Over stdio a standing stream is whatever the bridge makes of it: nothing to compare.
        if *transport == Transport::Http {
            add(Mode::Standing, Era::Legacy, 200);
        }
    }
    workloads
}

// === impl Workload ===

impl Workload {
    fn suits(&self, proxy: Proxy) -> bool {
        match self.transport {
            Transport::Http => true,
            Transport::Stdio => matches!(proxy, Proxy::Bare | Proxy::Ziggurat),
        }
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let callers = match self.callers {
            1 => "1 caller".to_owned(),
            more => format!("{more} callers"),
        };
        let era = match self.era {
            Era::Legacy => "2025-11-25 with sessions",
            Era::Modern => "2026-07-28",
        };
        write!(f, "{}: ", self.transport)?;
        match self.mode {
            Mode::Calls => write!(f, "small calls, {callers}, {era}"),
            Mode::Events => write!(
                f,
                "streamed progress events, {callers}, 1,000 events a call"
            ),
            Mode::Answers => write!(f, "answers of 1 MiB, {callers}"),
            Mode::Echoes => write!(f, "calls and answers of 1 MiB, {callers}"),
            Mode::Standing => write!(
                f,
                "{} standing streams, ten events a second each",
                self.callers
            ),
        }
    }
}
