//! The report as Markdown: a table for each fault, a row for each proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::fault::Fault;
use super::findings::{Ejection, Findings, Share, TARGET};
use super::trial::WORK;
use super::{Report, settings};
use crate::contender::{Proxy, Transport};

const HEADING: &str = "\
| | calls/s | under way: all / there / ended badly | until ejection | safe calls until then | safe calls from then on | last bad safe call | safe p99 ms | share when healed |
|---|--:|--:|--:|--:|--:|--:|--:|--:|";
const HEADING_NOT_SAFE: &str = "\
| | answered | slowest of them | not_sent | rejected | unknown | failed otherwise | executed twice | answered, not executed | not_sent or rejected, though executed |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: Duration| time.as_secs_f64();
        writeln!(
            f,
            "Three replicas of {WORK} a call, {} callers; the fault comes after {} s, lasts {} s, and the load goes on for {} s; \
             share when healed: of the last {} s.\n",
            self.callers,
            seconds(self.phases.before),
            seconds(self.phases.fault),
            seconds(self.phases.after),
            seconds(self.phases.recovery()),
        )?;
        let mut faults: Vec<Fault> = Vec::new();
        let mut proxies: Vec<Proxy> = Vec::new();
        for (fault, proxy, _) in &self.trials {
            if !faults.contains(fault) {
                faults.push(*fault);
            }
            if !proxies.contains(proxy) {
                proxies.push(*proxy);
            }
        }
        for proxy in proxies {
            let (_, settings) = settings(proxy).unwrap_or_default();
            writeln!(f, "- {}: {settings}.", proxy.label(Transport::Http))?;
        }
        for fault in faults {
            self.write_fault(f, fault)?;
        }
        Ok(())
    }
}

impl Report {
    fn write_fault(&self, f: &mut fmt::Formatter<'_>, fault: Fault) -> fmt::Result {
        let rows = || {
            let of_this = self.trials.iter().filter(|(of, _, _)| *of == fault);
            of_this.map(|(_, proxy, findings)| (proxy.label(Transport::Http), findings))
        };
        writeln!(f, "\n### {fault}\n\n{HEADING}")?;
        for (proxy, findings) in rows() {
            write_row(f, proxy, findings)?;
        }
        writeln!(
            f,
            "\nCalls that must not be repeated:\n\n{HEADING_NOT_SAFE}"
        )?;
        for (proxy, findings) in rows() {
            write_not_safe(f, proxy, findings)?;
        }
        writeln!(f)?;
        for (proxy, findings) in rows() {
            let lists = [
                ("safe calls that failed", &findings.safe_failures),
                ("failed otherwise", &findings.not_safe.otherwise),
            ];
            for (what, counts) in lists.iter().filter(|(_, counts)| !counts.is_empty()) {
                writeln!(f, "- {proxy}, {what}: {}", listed(counts))?;
            }
        }
        Ok(())
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, proxy: &str, findings: &Findings) -> fmt::Result {
    let under_way = &findings.under_way;
    write!(
        f,
        "| {proxy} | {:.0} | {} / {} / {}",
        findings.rate, under_way.all, under_way.there, under_way.ended_badly
    )?;
    match findings.ejection {
        Ejection::Unnoticed => write!(f, " | none failed")?,
        Ejection::After(time) => write!(f, " | {:.2} s", time.as_secs_f64())?,
        Ejection::Never => write!(f, " | never")?,
    }
    write!(f, " | {}", findings.until_ejection)?;
    let missed = match findings.from_ejection.get() {
        Some(good) => good < TARGET,
        None => true,
    };
    let mark = if missed { " **missed**" } else { "" };
    write!(f, " | {}{mark}", findings.from_ejection)?;
    match findings.last_bad {
        Some(time) => write!(f, " | {:.2} s", time.as_secs_f64())?,
        None => write!(f, " | –")?,
    }
    match findings.p99 {
        Some(time) => write!(f, " | {:.1}", time.as_secs_f64() * 1e3)?,
        None => write!(f, " | –")?,
    }
    let share = findings.recovered.get().unwrap_or_default();
    writeln!(f, " | {:.0} % |", share * 100.0)
}

fn write_not_safe(f: &mut fmt::Formatter<'_>, proxy: &str, findings: &Findings) -> fmt::Result {
    let of = &findings.not_safe;
    let must_be_none = |count: usize| match count {
        0 => "0".to_owned(),
        some => format!("**{some}**"),
    };
    writeln!(
        f,
        "| {proxy} | {} | {:.2} s | {} | {} | {} | {} | {} | {} | {} |",
        of.answered,
        of.slowest.as_secs_f64(),
        of.not_sent,
        of.rejected,
        of.unknown,
        of.otherwise.values().sum::<u64>(),
        must_be_none(of.twice),
        must_be_none(of.made_up),
        must_be_none(of.denied),
    )
}

/// What there was most of first.
pub(crate) fn listed(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<(&String, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let counts = counts
        .iter()
        .map(|(what, count)| format!("{what} × {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            // Rounded down: 100 % is only what is.
            Some(share) => write!(
                f,
                "{:.2} % of {}",
                (share * 10_000.0).floor() / 100.0,
                self.all
            ),
            None => f.write_str("–"),
        }
    }
}
