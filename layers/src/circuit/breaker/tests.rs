use std::num::{NonZeroU16, NonZeroU32};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{circuit::SlowCalls, share::Share};

const SECOND: Duration = Duration::from_secs(1);

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn settings() -> CircuitSettings {
    CircuitSettings {
        window: Window::Calls(NonZeroU16::new(10).expect("not zero")),
        min_calls: count(4),
        consecutive: None,
        ..CircuitSettings::default()
    }
}

fn breaker(settings: &CircuitSettings) -> Breaker {
    Breaker::new(settings.window, fastrand::Rng::with_seed(1))
}

fn ended(verdict: Verdict) -> Ended {
    Ended {
        verdict,
        took: Some(Duration::ZERO),
    }
}

impl Breaker {
    /// One whole call; whether it was admitted.
    fn one(&mut self, verdict: Verdict, settings: &CircuitSettings, now: Duration) -> bool {
        match self.admit(settings, now) {
            Ok(token) => {
                self.end(token, ended(verdict), settings, now);
                true
            }
            Err(_) => false,
        }
    }

    /// Fails until it is open, and returns until when.
    fn fail(&mut self, settings: &CircuitSettings, now: Duration) -> Duration {
        while self.one(Verdict::Failure, settings, now) {}
        match self.phase {
            Phase::Open { until } => until,
            Phase::Closed { .. } | Phase::HalfOpen { .. } => panic!("refuses, but is not open"),
        }
    }
}

#[test]
fn it_opens_at_the_rate_and_not_before_the_least_number_of_calls() {
    let settings = settings();
    let mut breaker = breaker(&settings);
    for verdict in [Verdict::Failure, Verdict::Failure, Verdict::Neutral] {
        assert!(breaker.one(verdict, &settings, SECOND));
    }
    assert!(breaker.one(Verdict::Success, &settings, SECOND));
    assert_eq!(breaker.state(), State::Closed);
    // The fourth call that tells something; two of four are half.
    assert!(breaker.one(Verdict::Success, &settings, SECOND));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_window_that_is_smaller_than_the_least_number_of_calls_suffices() {
    let settings = CircuitSettings {
        window: Window::Calls(NonZeroU16::new(3).expect("not zero")),
        min_calls: count(100),
        ..settings()
    };
    let mut breaker = breaker(&settings);
    breaker.fail(&settings, SECOND);
    assert_eq!(breaker.counts(SECOND).calls, 3);
}

#[test]
fn failures_in_a_row_open_it_and_a_success_breaks_the_row() {
    let settings = CircuitSettings {
        failure_rate: None,
        consecutive: Some(count(3)),
        ..settings()
    };
    let mut breaker = breaker(&settings);
    let (good, bad) = (Verdict::Success, Verdict::Failure);
    for verdict in [bad, bad, good, bad, Verdict::Neutral, bad] {
        breaker.one(verdict, &settings, SECOND);
        assert_eq!(breaker.state(), State::Closed);
    }
    breaker.one(bad, &settings, SECOND);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn slow_calls_open_it() {
    let settings = CircuitSettings {
        slow: Some(SlowCalls {
            call: SECOND,
            rate: Share::HALF,
        }),
        ..settings()
    };
    let mut breaker = breaker(&settings);
    for took in [Some(2 * SECOND), None, Some(SECOND), Some(2 * SECOND)] {
        assert_eq!(breaker.state(), State::Closed);
        let token = breaker.admit(&settings, SECOND).expect("admitted");
        let verdict = Verdict::Success;
        breaker.end(token, Ended { verdict, took }, &settings, SECOND);
    }
    assert_eq!(breaker.state(), State::Open);
    let later = 60 * SECOND;
    let probe = breaker.admit(&settings, later).expect("a probe");
    let slow = Ended {
        verdict: Verdict::Success,
        took: Some(2 * SECOND),
    };
    breaker.end(probe, slow, &settings, later);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn probes_close_it_and_give_their_place_back() {
    let settings = settings();
    let mut breaker = breaker(&settings);
    let now = breaker.fail(&settings, SECOND);
    let first = breaker.admit(&settings, now).expect("a probe");
    assert_eq!(breaker.state(), State::HalfOpen);
    let refused = breaker.admit(&settings, now).expect_err("one at a time");
    assert_eq!(refused, Some(settings.open));
    breaker.end(first, ended(Verdict::Neutral), &settings, now);
    assert!(breaker.one(Verdict::Success, &settings, now));
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(breaker.one(Verdict::Success, &settings, now));
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.counts(now), Counts::default());
}

#[test]
fn a_probe_that_stays_out_holds_its_place_for_a_while_only_and_still_counts() {
    let settings = CircuitSettings {
        successes: count(1),
        ..settings()
    };
    let mut breaker = breaker(&settings);
    let mut now = breaker.fail(&settings, SECOND);
    let stuck = breaker.admit(&settings, now).expect("a probe");
    now += settings.open;
    let second = breaker.admit(&settings, now).expect("another");
    assert!(breaker.admit(&settings, now).is_err());
    breaker.end(stuck, ended(Verdict::Success), &settings, now);
    assert_eq!(breaker.state(), State::Closed);
    // Of an earlier time: not counted.
    breaker.end(second, ended(Verdict::Failure), &settings, now);
    assert_eq!(breaker.counts(now), Counts::default());
}

#[test]
fn it_is_open_longer_each_time_until_it_was_closed_for_as_long() {
    let settings = settings();
    let mut breaker = breaker(&settings);
    let mut now = SECOND;
    let mut base = settings.open;
    for _ in 0..10 {
        let until = breaker.fail(&settings, now);
        let open = until - now;
        assert!(open >= base && open <= base.mul_f64(1.2), "{open:?}");
        base = (base * 2).min(settings.open_max);
        now = until;
    }
    for _ in 0..2 {
        assert!(breaker.one(Verdict::Success, &settings, now));
    }
    // It was closed for a short time only.
    let until = breaker.fail(&settings, now + SECOND);
    assert!(until - now > settings.open_max);
    now = until;
    for _ in 0..2 {
        assert!(breaker.one(Verdict::Success, &settings, now));
    }
    now += settings.open_max * 2;
    let until = breaker.fail(&settings, now);
    assert!(until - now <= settings.open.mul_f64(1.2));
}

#[test]
fn what_is_forced_holds_and_then_it_begins_anew() {
    let settings = settings();
    let mut breaker = breaker(&settings);
    breaker.force(Some(Forced::Closed), SECOND);
    for _ in 0..100 {
        assert!(breaker.one(Verdict::Failure, &settings, SECOND));
    }
    breaker.force(Some(Forced::Open), SECOND);
    let year = 365 * 86_400 * SECOND;
    assert_eq!(breaker.admit(&settings, year).expect_err("open"), None);
    breaker.force(None, year);
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.counts(year), Counts::default());
}

#[test]
fn extreme_settings_do_not_overflow() {
    let settings = CircuitSettings {
        open: Duration::MAX,
        open_max: Duration::MAX,
        window: Window::Time(Duration::ZERO),
        min_calls: count(1),
        consecutive: Some(count(1)),
        ..settings()
    };
    let mut breaker = breaker(&settings);
    let until = breaker.fail(&settings, SECOND);
    let _probe = breaker.admit(&settings, until).expect("a probe");
    assert!(breaker.admit(&settings, until).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Call,
    End(usize, Verdict, bool),
    Wait(u64),
    Force(Option<Forced>),
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Success),
        Just(Verdict::Failure),
        Just(Verdict::Neutral)
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let forced = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Forced::Open)),
        1 => Just(Some(Forced::Closed)),
    ];
    let step = prop_oneof![
        12 => Just(Step::Call),
        10 => (any::<usize>(), verdicts(), any::<bool>()).prop_map(|(n, v, s)| Step::End(n, v, s)),
        4 => (0_u64..15_000).prop_map(Step::Wait),
        1 => forced.prop_map(Step::Force),
    ];
    vec(step, 0..300)
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![
        (1_u16..30).prop_map(|n| Window::Calls(NonZeroU16::new(n).expect("not zero"))),
        (1_u32..20).prop_map(|s| Window::Time(s * SECOND)),
    ]
}

fn all_settings() -> impl Strategy<Value = CircuitSettings> {
    (
        windows(),
        1_u32..12,
        proptest::option::of(1_u32..6),
        proptest::option::of(0_u32..=10),
        proptest::option::of(0_u32..=10),
        (1_u32..4, 1_u32..4),
        (1_u32..10, 1_u32..60),
    )
        .prop_map(
            |(window, least, row, failing, slow, (probes, successes), (open, most))| {
                let share = |tenths: u32| Share::new(f64::from(tenths) / 10.0).expect("a share");
                CircuitSettings {
                    failure_rate: failing.map(share),
                    slow: slow.map(|rate| SlowCalls {
                        call: SECOND,
                        rate: share(rate),
                    }),
                    window,
                    min_calls: count(least),
                    consecutive: row.map(count),
                    open: open * SECOND,
                    open_max: most * SECOND,
                    probes: count(probes),
                    successes: count(successes),
                    ..CircuitSettings::default()
                }
            },
        )
}

/// What happened before, from which it can be told whether a closed breaker has to open.
#[derive(Default)]
struct Past(Vec<(Duration, bool, bool)>);

impl Past {
    fn trips(&self, settings: &CircuitSettings, now: Duration) -> bool {
        let row = self.0.iter().rev().take_while(|call| call.1).count();
        if settings
            .consecutive
            .is_some_and(|n| row >= n.get() as usize)
        {
            return true;
        }
        let (seen, least): (Vec<_>, u32) = match settings.window {
            Window::Calls(n) => (
                self.0.iter().rev().take(n.get().into()).collect(),
                settings.min_calls.get().min(n.get().into()),
            ),
            Window::Time(length) => {
                let step = |at: Duration| at.as_nanos() / (length / 10).as_nanos();
                let seen = self.0.iter().filter(|call| step(call.0) + 10 > step(now));
                (seen.collect(), settings.min_calls.get())
            }
        };
        let count =
            |what: fn(&&&(Duration, bool, bool)) -> bool| seen.iter().filter(what).count() as u32;
        let all = seen.len() as u32;
        let (failures, slow) = (count(|c| c.1), count(|c| c.2));
        all >= least
            && (settings
                .failure_rate
                .is_some_and(|r| r.is_reached(failures, all))
                || settings.slow.is_some_and(|s| s.rate.is_reached(slow, all)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn closed_it_opens_just_when_the_past_says_so(
        settings in all_settings(),
        calls in vec((verdicts(), any::<bool>(), 0_u64..3_000), 0..100),
    ) {
        let mut breaker = breaker(&settings);
        let mut past = Past::default();
        let mut now = SECOND;
        for (verdict, slow, wait) in calls {
            now += Duration::from_millis(wait);
            let token = breaker.admit(&settings, now).expect("closed");
            let took = Some(if slow { 2 * SECOND } else { Duration::ZERO });
            breaker.end(token, Ended { verdict, took }, &settings, now);
            if verdict != Verdict::Neutral {
                past.0.push((now, verdict == Verdict::Failure, slow && settings.slow.is_some()));
                if past.trips(&settings, now) {
                    prop_assert_eq!(breaker.state(), State::Open);
                    return Ok(());
                }
            }
            prop_assert_eq!(breaker.state(), State::Closed);
        }
    }

    #[test]
    fn its_laws_hold_whatever_happens(settings in all_settings(), steps in steps()) {
        let mut breaker = breaker(&settings);
        let mut now = SECOND;
        let mut out: Vec<(Token, Duration)> = Vec::new();
        let mut opened: Option<Duration> = None;
        let longest = settings.open_max.max(settings.open).mul_f64(1.2);
        for step in steps {
            let before = breaker.state();
            match step {
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Force(forced) => breaker.force(forced, now),
                Step::End(n, verdict, slow) if !out.is_empty() => {
                    let (token, _) = out.swap_remove(n % out.len());
                    let took = Some(if slow { 2 * SECOND } else { Duration::ZERO });
                    breaker.end(token, Ended { verdict, took }, &settings, now);
                }
                Step::End(..) => {}
                Step::Call => {
                    let refused = breaker.admission(&settings).refusal(now);
                    match breaker.admit(&settings, now) {
                        Ok(token) => {
                            prop_assert!(refused.is_none(), "the look said no");
                            out.push((token, now));
                        }
                        Err(after) => prop_assert_eq!(refused, Some(after.map(|a| now + a))),
                    }
                }
            }
            // What is forced holds.
            match breaker.forced() {
                Some(Forced::Open) => prop_assert!(breaker.admit(&settings, now).is_err()),
                Some(Forced::Closed) => prop_assert_eq!(breaker.state(), State::Closed),
                None => {}
            }
            // There are never more young probes than there are places.
            let young = out.iter().filter(|(token, since)| {
                token.probe.is_some() && now < *since + settings.open
            });
            prop_assert!(young.count() <= settings.probes.get() as usize);
            // Nor are more kept, however many stay out.
            if let Phase::HalfOpen { probes, .. } = &breaker.phase {
                prop_assert!(probes.len() <= settings.probes.get() as usize);
            }
            // It is open for at least the base, and not for ever.
            if let (Phase::Open { until }, None) = (&breaker.phase, breaker.forced()) {
                if before != State::Open {
                    opened = Some(now);
                    prop_assert!(*until >= now + settings.open && *until <= now + longest);
                }
                prop_assert!(*until <= opened.expect("it opened") + longest);
            }
        }
        // Left alone, and not forced, it always lets a call pass after a time that it knew.
        breaker.force(Some(Forced::Closed), now);
        breaker.force(None, now);
        let mut all_out = out;
        let can_open = settings.failure_rate.is_some() || settings.consecutive.is_some();
        for _ in 0..if can_open { 3 } else { 0 } {
            now = breaker.fail(&settings, now);
            all_out.push((breaker.admit(&settings, now).expect("half-open"), now));
            prop_assert_eq!(breaker.state(), State::HalfOpen);
            now += settings.open;
        }
        // And everything that comes back late does no harm.
        for (token, _) in all_out {
            breaker.end(token, ended(Verdict::Neutral), &settings, now);
        }
        prop_assert!(breaker.admit(&settings, now).is_ok());
    }
}
