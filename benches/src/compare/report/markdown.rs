//! The report as Markdown: a table for each load, a row for each proxy.

use std::fmt;

use super::{Metric, Ratio, Report, Summary, cpus};
use crate::compare::Workload;
use crate::contender::Proxy;
use crate::load::Mode;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Medians over {} rounds of {} s a cell, on {} CPUs that load, proxy and server share.\n\
             × bare: median of the ratios of each round (lowest–highest).",
            self.rounds,
            self.seconds,
            cpus()
        )?;
        for note in &self.notes {
            writeln!(f, "{note}.")?;
        }
        for (workload, proxies) in self.tables() {
            self.write_table(f, workload, &proxies)?;
        }
        Ok(())
    }
}

impl Report {
    fn write_table(
        &self,
        f: &mut fmt::Formatter<'_>,
        workload: Workload,
        proxies: &[Proxy],
    ) -> fmt::Result {
        let shown = |metric: &Metric| {
            let has = |proxy: &Proxy| self.summary(workload, *proxy, *metric).is_some();
            proxies.iter().any(has)
        };
        let metrics: Vec<Metric> = Metric::ALL.into_iter().filter(shown).collect();
        let mut heading = "|".to_owned();
        let mut line = "\n|---".to_owned();
        for metric in &metrics {
            heading += &format!(" | {}", metric.heading(workload.mode));
            line += "|--:";
            if metric.is_compared() {
                heading += " | × bare";
                line += "|--:";
            }
        }
        writeln!(f, "\n### {workload}\n\n{heading} |{line}|")?;
        for proxy in proxies {
            write!(f, "| {}", proxy.label(workload.transport))?;
            for metric in &metrics {
                let summary = self.summary(workload, *proxy, *metric);
                self.write_cell(f, *metric, summary)?;
            }
            writeln!(f, " |")?;
        }
        for proxy in proxies {
            let mut errors = self.of(workload, *proxy).filter_map(|of| of.error.as_ref());
            if let Some(error) = errors.next() {
                writeln!(f, "\n{}: {error}", proxy.label(workload.transport))?;
            }
        }
        Ok(())
    }

    fn write_cell(
        &self,
        f: &mut fmt::Formatter<'_>,
        metric: Metric,
        summary: Option<Summary>,
    ) -> fmt::Result {
        match &summary {
            Some(Summary { median, .. }) => write!(f, " | {median:.*}", metric.decimals())?,
            None => write!(f, " | –")?,
        }
        if !metric.is_compared() {
            return Ok(());
        }
        match summary.and_then(|summary| summary.ratio) {
            Some(Ratio { low, median, high }) => write!(f, " | {median:.2} ({low:.2}–{high:.2})"),
            None => write!(f, " | –"),
        }
    }
}

impl Metric {
    fn heading(self, mode: Mode) -> String {
        let unit = match mode {
            Mode::Calls => "call",
            Mode::Events | Mode::Standing => "event",
            Mode::Answers | Mode::Echoes => "MiB",
        };
        match self {
            Self::Rate if unit == "MiB" => "MiB/s".to_owned(),
            Self::Rate => format!("{unit}s/s"),
            Self::P50 => "p50 µs".to_owned(),
            Self::P99 => "p99 µs".to_owned(),
            Self::Cpu => format!("proxy CPU µs/{unit}"),
            Self::ServerCpu => format!("server CPU µs/{unit}"),
            Self::Memory => "KiB/stream".to_owned(),
            Self::Errors => "errors".to_owned(),
            Self::Noise => "noise %".to_owned(),
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::Rate | Self::P50 | Self::P99 | Self::Errors => 0,
            Self::Cpu | Self::ServerCpu | Self::Memory | Self::Noise => 1,
        }
    }
}
