//! The report as Markdown: a row for each load.

use std::fmt;
use std::time::Duration;

use super::{PLACES, Phase, Report, WORK};
use crate::client::{Ending, Record, tally};
use crate::load::percentile;
use crate::ordeal::listed;

/// The share that must be answered of what is asked, up to the server's capacity.
const TARGET: f64 = 0.9;

const HEADING: &str = "\
| load | offered/s | answered/s | of capacity | p50 ms | p99 ms | refused/s | p99 to refusal ms | ended otherwise |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "One server, {PLACES} places of {WORK}: straight, it does {:.0} calls/s, and that is the capacity. Loads of {} s.\n\n\
             - ziggurat: `concurrency: 8`; `balance: {{ queue: 32, queue_time: 250ms }}`; all else at its default.\n\n{HEADING}",
            self.capacity, self.seconds
        )?;
        for phase in &self.phases {
            self.write_row(f, phase)?;
        }
        writeln!(f)?;
        for phase in self.phases.iter() {
            for (what, is_it) in [
                ("refused", is_refusal as fn(&Record) -> bool),
                ("ended otherwise", |of| !of.is_good() && !is_refusal(of)),
            ] {
                let records = phase.records.iter().filter(|of| is_it(of));
                let counts = tally(records.map(|of| said(&of.ending)));
                if !counts.is_empty() {
                    writeln!(f, "- {} ×, {what}: {}", phase.load, listed(&counts))?;
                }
            }
        }
        writeln!(f, "- refused, though executed: {}", self.denied)
    }
}

impl Report {
    fn write_row(&self, f: &mut fmt::Formatter<'_>, phase: &Phase) -> fmt::Result {
        let records = || phase.records.iter();
        let share = phase.answered / self.capacity;
        // Below its capacity a server does what is asked.
        let missed = share < TARGET * phase.load.min(1.0);
        let good = || records().filter(|of| of.is_good()).map(Record::latency);
        let refused = || records().filter(|of| is_refusal(of));
        let others = records().filter(|of| !of.is_good() && !is_refusal(of));
        let refused_a_second = refused().count() as f64 / self.seconds;
        writeln!(
            f,
            "| {} × | {:.0} | {:.0} | {:.1} %{} | {} | {} | {refused_a_second:.0} | {} | {} |",
            phase.load,
            phase.offered,
            phase.answered,
            share * 100.0,
            if missed { " **missed**" } else { "" },
            millis(percentile(good(), 0.5)),
            millis(percentile(good(), 0.99)),
            millis(percentile(refused().map(Record::latency), 0.99)),
            others.count(),
        )
    }
}

fn is_refusal(record: &Record) -> bool {
    matches!(record.ending, Ending::Refused(_))
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(
        || "–".to_owned(),
        |time| format!("{:.1}", time.as_secs_f64() * 1e3),
    )
}

/// With all that a refusal says.
fn said(ending: &Ending) -> String {
    let Ending::Refused(refusal) = ending else {
        return ending.to_string();
    };
    let outcome = match refusal.outcome {
        Some(outcome) => outcome.as_str(),
        None => "no outcome",
    };
    match refusal.retry_after {
        Some(after) => format!("`{}`, {outcome}, again after {after:?}", refusal.kind),
        None => format!("`{}`, {outcome}", refusal.kind),
    }
}
