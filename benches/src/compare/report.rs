//! From samples to tables: the median over the rounds, and the median of each round's ratio to the bare
//! proxy in the same round, with the lowest and highest of them to show the noise.

use serde_json::{Value, json};

use super::Workload;
use crate::contender::Proxy;

mod markdown;

/// What a cell tells. All but the rate, the errors and the noise may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    /// Calls, events or MiB in a second.
    Rate,
    P50,
    P99,
    /// The proxy's CPU time for each of them, in microseconds.
    Cpu,
    /// The same of the stdio server behind it.
    ServerCpu,
    /// KiB for each standing stream.
    Memory,
    Errors,
    /// Per cent of the machine that others used.
    Noise,
}

/// One cell in one round.
pub(super) struct Sample {
    round: u32,
    workload: Workload,
    proxy: Proxy,
    metrics: Vec<(Metric, f64)>,
    /// The first thing that went wrong.
    error: Option<String>,
}

pub(super) struct Report {
    rounds: u32,
    seconds: f64,
    pub(super) notes: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

/// A metric of one proxy over all rounds.
struct Summary {
    /// Of errors, the sum.
    median: f64,
    /// To the bare proxy; not for the bare proxy itself.
    ratio: Option<Ratio>,
}

struct Ratio {
    low: f64,
    median: f64,
    high: f64,
}

// === impl Metric ===

impl Metric {
    const ALL: [Self; 8] = [
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::Cpu,
        Self::ServerCpu,
        Self::Memory,
        Self::Errors,
        Self::Noise,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::Cpu => "proxy_cpu_us",
            Self::ServerCpu => "server_cpu_us",
            Self::Memory => "memory_kib",
            Self::Errors => "errors",
            Self::Noise => "noise_percent",
        }
    }

    /// A ratio is worth a column.
    fn is_compared(self) -> bool {
        matches!(self, Self::Rate | Self::Cpu | Self::Memory)
    }
}

// === impl Sample ===

impl Sample {
    pub(super) fn new(
        round: u32,
        workload: Workload,
        proxy: Proxy,
        (metrics, error): (Vec<(Metric, f64)>, Option<String>),
    ) -> Self {
        if let Some(error) = &error {
            let label = proxy.label(workload.transport);
            eprintln!("{workload}: {label}: {error}");
        }
        Self {
            round,
            workload,
            proxy,
            metrics,
            error,
        }
    }

    fn get(&self, metric: Metric) -> Option<f64> {
        let found = self.metrics.iter().find(|(of, _)| *of == metric)?;
        Some(found.1)
    }
}

// === impl Report ===

impl Report {
    pub(super) fn new(rounds: u32, seconds: f64) -> Self {
        Self {
            rounds,
            seconds,
            notes: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Answers that were wrong or missing; a cell that could not be measured counts as one.
    pub(super) fn errors(&self) -> u64 {
        let errors = self.samples.iter().filter_map(|of| of.get(Metric::Errors));
        errors.sum::<f64>() as u64
    }

    /// Each load, with the proxies that had it, in the order of the first round.
    fn tables(&self) -> Vec<(Workload, Vec<Proxy>)> {
        let mut tables: Vec<(Workload, Vec<Proxy>)> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.round == 0) {
            match tables.last_mut() {
                Some((workload, proxies)) if *workload == sample.workload => {
                    proxies.push(sample.proxy);
                }
                _ => tables.push((sample.workload, vec![sample.proxy])),
            }
        }
        tables
    }

    fn of(&self, workload: Workload, proxy: Proxy) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.workload == workload && sample.proxy == proxy)
    }

    fn summary(&self, workload: Workload, proxy: Proxy, metric: Metric) -> Option<Summary> {
        let values = self
            .of(workload, proxy)
            .filter_map(|sample| sample.get(metric));
        let mut values: Vec<f64> = values.collect();
        if metric == Metric::Errors {
            // None may hide behind a median.
            values = vec![values.iter().sum()];
        }
        let ratios = self.of(workload, proxy).filter_map(|sample| {
            let mut bare = self.of(workload, Proxy::Bare);
            let bare = bare.find(|bare| bare.round == sample.round)?.get(metric)?;
            Some(sample.get(metric)? / bare).filter(|ratio| ratio.is_finite())
        });
        let mut ratios: Vec<f64> = ratios.collect();
        let median_ratio = median(&mut ratios);
        Some(Summary {
            median: median(&mut values)?,
            ratio: median_ratio
                .filter(|_| metric.is_compared() && proxy != Proxy::Bare)
                .map(|median| Ratio {
                    low: ratios[0],
                    median,
                    high: ratios[ratios.len() - 1],
                }),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        let sample = |sample: &Sample| {
            let mut value = describe(sample.workload, sample.proxy);
            value["round"] = json!(sample.round + 1);
            for (metric, number) in &sample.metrics {
                value[metric.name()] = json!(number);
            }
            value["first_error"] = json!(sample.error);
            value
        };
        let mut medians = Vec::new();
        for (workload, proxies) in self.tables() {
            for proxy in proxies {
                let mut value = describe(workload, proxy);
                for metric in Metric::ALL {
                    let Some(summary) = self.summary(workload, proxy, metric) else {
                        continue;
                    };
                    value[metric.name()] = json!(summary.median);
                    if let Some(Ratio { low, median, high }) = summary.ratio {
                        value[format!("{}_to_bare", metric.name())] =
                            json!({ "low": low, "median": median, "high": high });
                    }
                }
                medians.push(value);
            }
        }
        json!({
            "rounds": self.rounds,
            "seconds": self.seconds,
            "cpus": cpus(),
            "notes": self.notes,
            "medians": medians,
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
        })
    }
}

fn describe(workload: Workload, proxy: Proxy) -> Value {
    json!({
        "transport": workload.transport,
        "mode": format!("{:?}", workload.mode).to_lowercase(),
        "era": format!("{:?}", workload.era).to_lowercase(),
        "callers": workload.callers,
        "proxy": proxy,
    })
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Sorts, and takes the middle; of an even number, the mean of the two in the middle.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    match values.len() % 2 {
        0 => Some((values[values.len() / 2 - 1] + upper) / 2.0),
        _ => Some(upper),
    }
}
