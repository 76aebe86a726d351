//! What came of a trial, from what the callers saw and what the replicas wrote down.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::journal::{Entries, Mark};
use super::trial::VICTIM;
use crate::client::{Outcome, Record, tally};
use crate::load::percentile;

/// So many safe calls in a row must succeed for the replica to count as ejected.
const RUN: usize = 500;
/// Calls that failed so short before the healing were ended by that, not by an ejection.
const SHORT: Duration = Duration::from_millis(250);
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
    /// Safe calls that were under way or began until the ejection, and those that began later.
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

/// Since when no safe call that began ended badly.
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
    /// Of those that were answered.
    pub(super) slowest: Duration,
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
        let mut since_fault: Vec<&Record> = safe().filter(|of| of.end >= moments.fault).collect();
        since_fault.sort_unstable_by_key(|record| record.start);
        let began = since_fault.iter().map(|of| (of.start, of.is_good()));
        let ejection = Ejection::of(began, &moments);
        let ejected = match ejection {
            Ejection::Unnoticed => None,
            Ejection::After(time) => Some(moments.fault + time),
            Ejection::Never => Some(moments.healed),
        };
        let (before, afterwards): (Vec<&Record>, Vec<&Record>) = since_fault
            .iter()
            .partition(|of| ejected.is_some_and(|ejected| of.start <= ejected));
        let at_the_end = || journal.between(marks.recovering, marks.end);
        let during = |record: &&Record| {
            record.is_good() && moments.fault <= record.start && record.start < moments.healed
        };
        let bad = safe().filter(|record| !record.is_good());
        Self {
            under_way: UnderWay::at(moments.fault, records, journal, marks.fault),
            ejection,
            until_ejection: Share::good(&before),
            from_ejection: match ejection {
                Ejection::Never => Share::default(),
                Ejection::Unnoticed | Ejection::After(_) => Share::good(&afterwards),
            },
            last_bad: safe().filter(hurt).map(|of| since(of.end)).max(),
            not_safe: NotSafe::of(records, journal),
            recovered: Share {
                part: at_the_end().filter(|of| of.replica == VICTIM).count(),
                all: at_the_end().count(),
            },
            p99: percentile(safe().filter(during).map(Record::latency), 0.99),
            safe_failures: tally(bad.map(|record| record.ending.to_string())),
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
    /// Of each safe call, in this order, when it began and whether it ended well. The replica is ejected with the beginning of the last bad one
    /// before the first long run of good ones.
    fn of(began: impl Iterator<Item = (Instant, bool)>, moments: &Moments) -> Self {
        let mut last_bad = None;
        let mut run = 0;
        for (start, is_good) in began {
            if !is_good {
                last_bad = Some(start.max(moments.fault));
                run = 0;
                continue;
            }
            run += 1;
            if last_bad.is_some() && run == RUN {
                break;
            }
        }
        match last_bad {
            None => Self::Unnoticed,
            Some(last) if last + SHORT >= moments.healed => Self::Never,
            Some(last) => Self::After(last - moments.fault),
        }
    }
}

// === impl Share ===

impl Share {
    fn good(records: &[&Record]) -> Self {
        Self {
            part: records.iter().filter(|record| record.is_good()).count(),
            all: records.len(),
        }
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
                    found.slowest = found.slowest.max(record.latency());
                    found.made_up += usize::from(times == 0);
                }
                None => silent.push(record),
            }
            found.denied += usize::from(record.is_denied() && times > 0);
        }
        found.otherwise = tally(silent.iter().map(|record| record.ending.to_string()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_ejected_with_the_last_bad_call_before_a_run_of_good_ones() {
        let fault = Instant::now();
        let healed = fault + Duration::from_secs(6);
        let moments = Moments { fault, healed };
        // A thousand calls a second, for ten seconds; those that begin in these milliseconds end badly.
        let of = |is_bad: fn(u64) -> bool| {
            let calls = (0..10_000).map(|at| (fault + Duration::from_millis(at), !is_bad(at)));
            Ejection::of(calls, &moments)
        };
        let after = |millis| Ejection::After(Duration::from_millis(millis));
        assert!(of(|_| false) == Ejection::Unnoticed);
        assert!(of(|at| at < 10) == after(9));
        // The calls of a probe come later, and count against the time from the ejection on.
        assert!(of(|at| at == 3 || at == 1000) == after(3));
        assert!(of(|at| at == 3 || at == 400 || at == 1000) == after(400));
        assert!(of(|at| at < 6000 && at % 3 == 0) == Ejection::Never);
    }
}
