//! What came of a trial, from what the callers saw and what the replicas wrote down.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::journal::{Entries, Mark};
use super::trial::VICTIM;
use crate::client::{Outcome, Record, percentile};

/// So long no safe call must fail for the replica to count as ejected: longer than the proxies' clocks of one second, within which calls
/// that are lost already do not fail yet.
const QUIET: Duration = Duration::from_millis(1500);
/// The share of safe calls that must succeed from the ejection on.
pub(super) const TARGET: f64 = 0.999;

pub(super) struct Moments {
    pub(super) fault: Instant,
    pub(super) healed: Instant,
}

/// The same in the journal, and between which of its lines recovery is seen.
pub(super) struct Marks {
    pub(super) fault: Mark,
    pub(super) recovering: Mark,
    pub(super) end: Mark,
}

pub(super) struct Findings {
    /// When the fault came.
    pub(super) under_way: UnderWay,
    pub(super) ejection: Ejection,
    /// Safe calls that began between the fault and the ejection, and from the ejection on.
    pub(super) until_ejection: Share,
    pub(super) from_ejection: Share,
    /// The last safe call that ended badly.
    pub(super) last_bad: Option<Duration>,
    pub(super) not_safe: NotSafe,
    /// The healed replica's part of all that was executed at the end.
    pub(super) recovered: Share,
    /// Of safe calls that began while the fault lasted.
    pub(super) p99: Option<Duration>,
    /// How safe calls ended that ended badly.
    pub(super) safe_failures: BTreeMap<String, u64>,
    /// Calls a second.
    pub(super) rate: f64,
}

/// Calls under way when the fault came.
#[derive(Default)]
pub(super) struct UnderWay {
    pub(super) all: usize,
    /// Those that the replica had begun to execute.
    pub(super) there: usize,
    /// Those of all that ended badly.
    pub(super) ended_badly: usize,
}

/// When the fault stopped to cost safe calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ejection {
    /// It never cost one.
    Unnoticed,
    After(Duration),
    /// It did until the replica was healed.
    Never,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) part: usize,
    pub(super) all: usize,
}

/// What became of the calls that must not be repeated.
#[derive(Default)]
pub(super) struct NotSafe {
    pub(super) answered: u64,
    pub(super) not_sent: u64,
    pub(super) rejected: u64,
    pub(super) unknown: u64,
    /// Those that ended badly and do not say what is known of them.
    pub(super) otherwise: BTreeMap<String, u64>,
    pub(super) twice: usize,
    /// Answered, and never executed.
    pub(super) made_up: usize,
    /// Executed, although `not_sent` or `rejected` says otherwise.
    pub(super) denied: usize,
}

// === impl Findings ===

impl Findings {
    pub(super) fn of(
        records: &[Record],
        journal: &Entries,
        moments: Moments,
        marks: Marks,
    ) -> Self {
        let since = |moment: Instant| moment.saturating_duration_since(moments.fault);
        let safe = || records.iter().filter(|record| record.is_safe());
        let hurt = |record: &&Record| !record.is_good() && record.end >= moments.fault;
        let mut bad: Vec<Instant> = safe().filter(hurt).map(|record| record.end).collect();
        bad.sort_unstable();
        let ejection = Ejection::of(&bad, &moments);
        let (ejected, ever) = match ejection {
            Ejection::Unnoticed => (moments.fault, true),
            Ejection::After(time) => (moments.fault + time, true),
            Ejection::Never => (moments.healed, false),
        };
        let afterwards = safe().filter(|record| ever && record.start >= ejected);
        let at_the_end = || journal.between(marks.recovering, marks.end);
        let during = |record: &&Record| {
            record.is_good() && moments.fault <= record.start && record.start < moments.healed
        };
        Self {
            under_way: UnderWay::at(moments.fault, records, journal, marks.fault),
            ejection,
            until_ejection: Share::good(safe().filter(|record| {
                moments.fault < record.end && record.start < ejected && ejected > moments.fault
            })),
            from_ejection: Share::good(afterwards),
            last_bad: bad.last().map(|last| since(*last)),
            not_safe: NotSafe::of(records, journal),
            recovered: Share {
                part: at_the_end().filter(|of| of.replica == VICTIM).count(),
                all: at_the_end().count(),
            },
            p99: percentile(safe().filter(during).map(Record::latency), 0.99),
            safe_failures: tally(safe().filter(|record| !record.is_good())),
            rate: rate(records),
        }
    }

    /// What must never be, whatever befalls a replica.
    pub(super) fn breaches(&self) -> usize {
        self.not_safe.twice + self.not_safe.made_up + self.not_safe.denied
    }
}

fn rate(records: &[Record]) -> f64 {
    let begin = records.iter().map(|record| record.start).min();
    let end = records.iter().map(|record| record.end).max();
    match (begin, end) {
        (Some(begin), Some(end)) => records.len() as f64 / (end - begin).as_secs_f64(),
        _ => 0.0,
    }
}

fn tally<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.ending.to_string()).or_default() += 1;
    }
    counts
}

// === impl UnderWay ===

impl UnderWay {
    fn at(fault: Instant, records: &[Record], journal: &Entries, mark: Mark) -> Self {
        let there = journal.before(mark).filter(|of| of.replica == VICTIM);
        let there: HashSet<u64> = there.map(|of| of.id).collect();
        let mut found = Self::default();
        for record in records.iter().filter(|record| record.spans(fault)) {
            found.all += 1;
            found.there += usize::from(there.contains(&record.id));
            found.ended_badly += usize::from(!record.is_good());
        }
        found
    }
}

// === impl Ejection ===

impl Ejection {
    /// The last bad end before the first quiet time. `bad` is sorted.
    fn of(bad: &[Instant], moments: &Moments) -> Self {
        let mut last = moments.fault;
        for end in bad {
            if *end - last > QUIET {
                break;
            }
            last = *end;
        }
        if last == moments.fault {
            Self::Unnoticed
        } else if last >= moments.healed {
            Self::Never
        } else {
            Self::After(last - moments.fault)
        }
    }
}

// === impl Share ===

impl Share {
    fn good<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        let mut share = Self::default();
        for record in records {
            share.all += 1;
            share.part += usize::from(record.is_good());
        }
        share
    }

    /// None of nothing.
    pub(super) fn get(self) -> Option<f64> {
        (self.all > 0).then(|| self.part as f64 / self.all as f64)
    }
}

// === impl NotSafe ===

impl NotSafe {
    fn of(records: &[Record], journal: &Entries) -> Self {
        let executed = journal.counts();
        let mut found = Self::default();
        let mut silent = Vec::new();
        for record in records.iter().filter(|record| !record.is_safe()) {
            let times = executed.get(&record.id).copied().unwrap_or_default();
            found.twice += usize::from(times > 1);
            match record.outcome() {
                Some(Outcome::NotSent) => found.not_sent += 1,
                Some(Outcome::Rejected) => found.rejected += 1,
                Some(Outcome::Unknown) => found.unknown += 1,
                None if record.is_good() => {
                    found.answered += 1;
                    found.made_up += usize::from(times == 0);
                }
                None => silent.push(record),
            }
            found.denied += usize::from(record.is_denied() && times > 0);
        }
        found.otherwise = tally(silent.into_iter());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_ejected_with_the_last_bad_call_before_it_is_quiet() {
        let fault = Instant::now();
        let healed = fault + Duration::from_secs(6);
        let moments = Moments { fault, healed };
        let of = |seconds: &[f64]| {
            let at = |seconds: &f64| fault + Duration::from_secs_f64(*seconds);
            let bad: Vec<Instant> = seconds.iter().map(at).collect();
            Ejection::of(&bad, &moments)
        };
        let after = |seconds| Ejection::After(Duration::from_secs_f64(seconds));
        assert!(of(&[]) == Ejection::Unnoticed);
        assert!(of(&[1.0, 1.25]) == after(1.25));
        // The calls of a probe come later, and count against the time from the ejection on.
        assert!(of(&[0.5, 1.0, 3.0]) == after(1.0));
        assert!(of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == Ejection::Never);
    }
}
