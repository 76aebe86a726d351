//! When to try again, and when to give a stream up: pure, with the time and the randomness as arguments.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use crate::retry::Backoff;

/// How long, and how often, a broken stream is resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeSettings {
    /// The most tries of a call in a row, without an event between them.
    pub tries: NonZeroU32,
    /// How long a call may be without its stream. An event starts that time anew.
    pub limit: Duration,
    /// The same for a stream that stands (a GET), which is not bounded by tries: nobody waits for it, and the upstream may be restarting.
    pub standing: Duration,
    /// The pause before a try. It comes on top of what the server asks for with `retry:`, of which no more than `max` is waited for.
    pub backoff: Backoff,
}

/// The outages of one stream.
#[derive(Debug)]
pub(super) struct Schedule {
    settings: ResumeSettings,
    standing: bool,
    /// Tries since the last event.
    tries: u32,
    /// How long the stream was away since the last event, the present outage left out.
    away: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// There is a connection, since then.
    Stands(Instant),
    /// There has been none since then.
    Away(Instant),
}

// === impl ResumeSettings ===

impl Default for ResumeSettings {
    /// Ten tries, 30 s for a call, 5 min for a stream that stands, pauses from 200 ms to 30 s.
    fn default() -> Self {
        Self {
            tries: NonZeroU32::MIN.saturating_add(9),
            limit: Duration::from_secs(30),
            standing: Duration::from_secs(300),
            backoff: Backoff {
                base: Duration::from_millis(200),
                max: Duration::from_secs(30),
            },
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// Of a stream that stands from now on.
    pub(super) fn new(settings: ResumeSettings, standing: bool, now: Instant) -> Self {
        Self {
            settings,
            standing,
            tries: 0,
            away: Duration::ZERO,
            state: State::Stands(now),
        }
    }

    /// There is no connection any more. What had stood for as long as the longest pause was a good one.
    pub(super) fn broke(&mut self, now: Instant) {
        if let State::Stands(since) = self.state {
            if now.saturating_duration_since(since) >= self.settings.backoff.max {
                self.passed();
            }
            self.state = State::Away(now);
        }
    }

    /// The pause before the next try, with a random number from 0 to 1; none if there is to be none.
    pub(super) fn next(
        &mut self,
        now: Instant,
        retry: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        let left = self.left(now);
        let retry = self.asked(retry);
        let spent = !self.standing && self.tries >= self.settings.tries.get();
        if spent || left.is_zero() || retry > left {
            return None;
        }
        self.tries = self.tries.saturating_add(1);
        // The last try comes when the time is over, not after.
        Some((retry + self.settings.backoff.pause(self.tries, random)).min(left))
    }

    /// The pause before the server is asked again that ended the stream to be asked again: no failure, and no try.
    pub(super) fn poll(&self, retry: Duration, random: f64) -> Duration {
        self.asked(Some(retry)) + self.settings.backoff.pause(1, random)
    }

    /// How much of the time without a connection is left.
    pub(super) fn left(&self, now: Instant) -> Duration {
        let outage = match self.state {
            State::Stands(_) => Duration::ZERO,
            State::Away(since) => now.saturating_duration_since(since),
        };
        let limit = if self.standing {
            self.settings.standing
        } else {
            self.settings.limit
        };
        limit.saturating_sub(self.away).saturating_sub(outage)
    }

    /// There is a connection.
    pub(super) fn connected(&mut self, now: Instant) {
        if let State::Away(since) = self.state {
            self.away += now.saturating_duration_since(since);
        }
        self.state = State::Stands(now);
    }

    /// An event passed.
    pub(super) fn passed(&mut self) {
        self.tries = 0;
        self.away = Duration::ZERO;
    }

    /// What the server asks for, within bounds.
    fn asked(&self, retry: Option<Duration>) -> Duration {
        retry.unwrap_or_default().min(self.settings.backoff.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The pauses of one outage in which every try fails at once.
    fn outage(mut schedule: Schedule, retry: Option<Duration>, random: f64) -> Vec<Duration> {
        let mut now = Instant::now();
        schedule.broke(now);
        let mut pauses = Vec::new();
        while let Some(pause) = schedule.next(now, retry, random) {
            pauses.push(pause);
            now += pause;
            assert!(pauses.len() < 10_000, "endless");
        }
        pauses
    }

    fn schedule(standing: bool) -> Schedule {
        Schedule::new(ResumeSettings::default(), standing, Instant::now())
    }

    #[test]
    fn pauses_double_and_the_time_of_a_call_bounds_them() {
        let millis = |d: &Duration| d.as_millis();
        let pauses = outage(schedule(false), None, 1.0);
        let pauses: Vec<_> = pauses.iter().map(millis).collect();
        // 200 + 400 + … + 12 800 is 25.4 s: 4.6 s are left for the last.
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12_800, 4600]);
        let quick = outage(schedule(false), None, 0.01);
        assert_eq!(quick.len(), 10, "the tries bound them");
    }

    #[test]
    fn a_standing_stream_outlives_a_restart_of_two_minutes_and_no_dead_upstream() {
        for random in [0.1, 0.5, 1.0] {
            let pauses = outage(schedule(true), None, random);
            let all: Duration = pauses.iter().sum();
            assert_eq!(all, Duration::from_secs(300), "{random}");
            // And it is back soon after the upstream is.
            assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(30)));
        }
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for_up_to_the_longest_pause() {
        let pauses = outage(schedule(false), Some(2 * SECOND), 0.5);
        assert_eq!(pauses[0], Duration::from_millis(2100));
        let hour = Some(Duration::from_secs(3600));
        let pauses = outage(schedule(true), hour, 0.0);
        assert_eq!(pauses[0], Duration::from_secs(30));
        // A call has no time for that, and is told so at once.
        let mut call = schedule(false);
        let now = Instant::now();
        call.broke(now);
        assert_eq!(call.next(now + SECOND, hour, 0.0), None);
        assert_eq!(call.poll(2 * SECOND, 1.0), Duration::from_millis(2200));
    }

    #[test]
    fn an_event_starts_the_bounds_anew_and_so_does_a_connection_that_stood() {
        let mut now = Instant::now();
        let mut schedule = schedule(false);
        let mut round = |stood: Duration, event: bool| {
            schedule.broke(now);
            let pause = schedule.next(now, None, 1.0)?;
            now += pause;
            schedule.connected(now);
            if event {
                schedule.passed();
            }
            now += stood;
            Some(pause)
        };
        for _ in 0..50 {
            assert_eq!(round(SECOND, true), Some(Duration::from_millis(200)));
        }
        for _ in 0..50 {
            assert_eq!(round(30 * SECOND, false), Some(Duration::from_millis(200)));
        }
        // What neither says anything nor stands is given up.
        let rounds = (0..50).take_while(|_| round(SECOND, false).is_some());
        assert_eq!(rounds.count(), 8);
    }

    #[test]
    fn five_hundred_streams_that_are_cut_at_once_come_back_spread_over_time() {
        let mut random = fastrand::Rng::with_seed(7);
        for retry in [None, Some(SECOND)] {
            // While the upstream is down, each round is spread wider: no tenth of it has many more than its part.
            let mut streams: Vec<_> = (0..500).map(|_| schedule(true)).collect();
            let now = Instant::now();
            for round in 1..=6_u32 {
                let mut tenths = [0; 10];
                let widest = Duration::from_millis(200) * 2_u32.pow(round - 1);
                for stream in &mut streams {
                    stream.broke(now);
                    let pause = stream.next(now, retry, random.f64()).expect("a try");
                    let jitter = pause - retry.unwrap_or_default();
                    let tenth = jitter.as_secs_f64() / widest.as_secs_f64() * 10.0;
                    tenths[(tenth as usize).min(9)] += 1;
                }
                assert!(
                    tenths.iter().all(|n| (25..=85).contains(n)),
                    "{round}: {tenths:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn every_outage_ends_within_its_bounds(
            tries in 1u32..50, limit in 0u64..100_000, base in 0u64..5_000, max in 1u64..60_000,
            retry in proptest::option::of(0u64..100_000), random in 0.0f64..1.0,
        ) {
            let settings = ResumeSettings {
                tries: NonZeroU32::new(tries).expect("not zero"),
                limit: Duration::from_millis(limit),
                standing: Duration::from_millis(limit),
                backoff: Backoff { base: Duration::from_millis(base), max: Duration::from_millis(max) },
            };
            let retry = retry.map(Duration::from_millis);
            let pauses = outage(Schedule::new(settings, false, Instant::now()), retry, random);
            prop_assert!(pauses.len() <= tries as usize);
            prop_assert!(pauses.iter().sum::<Duration>() <= settings.limit);
            let asked = retry.unwrap_or_default().min(settings.backoff.max);
            prop_assert!(pauses.iter().all(|pause| *pause >= asked));
        }
    }
}
