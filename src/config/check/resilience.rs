//! What keeps calls alive: balancing, breakers, probes and retries, in the terms of their layers.

use std::num::NonZeroU32;

use http::uri::PathAndQuery;
use serde_json::json;
use ziggurat_layers::balance::{BalanceSettings, HashKey, Policy};
use ziggurat_layers::circuit::{CircuitSettings, SlowCalls};
use ziggurat_layers::health::HttpProbe;
use ziggurat_layers::health::outlier::{Factor, OutlierSettings, RateSettings};
use ziggurat_layers::pattern::Pattern;
use ziggurat_layers::resume::ResumeSettings;
use ziggurat_layers::retry::{Backoff, BudgetSettings, RetrySettings};
use ziggurat_layers::verdict::Judge;

use crate::config::mistake::Mistakes;
use crate::config::node::Node;
use crate::config::raw::{RawBalance, RawCircuit, RawHealth, RawOutlier, RawResume, RawRetry};
use crate::config::read::{OrOff, Read, ShortOr};
use crate::config::value::{Amount, Count, ErrorStatus, Part, Word};
use crate::config::{Choice, Health, ProbeKind};

pub(super) fn balance(
    raw: ShortOr<Choice, RawBalance>,
    mistakes: &mut Mistakes,
) -> BalanceSettings {
    let raw = match raw {
        ShortOr::Short(choice) => {
            return BalanceSettings {
                policy: policy(choice, None),
                ..BalanceSettings::default()
            };
        }
        ShortOr::Long(raw) => raw,
    };
    if let Some(key) = &raw.key
        && raw.policy != Choice::Hash
    {
        let message = "`key` is set, but the policy does not use it";
        mistakes.error(&key.place, message, "set `policy: hash`, or remove `key`");
    }
    BalanceSettings {
        policy: policy(raw.policy, raw.key.map(|key| key.value)),
        forced: raw.forced.0,
        slow_start: raw.slow_start.0,
        panic: raw.panic.0,
        queue: raw.queue.map(|count| count.0.get()).unwrap_or_default(),
        queue_time: raw.queue_time.0,
    }
}

fn policy(choice: Choice, key: Option<HashKey>) -> Policy {
    match choice {
        Choice::P2c => Policy::P2c,
        Choice::LeastRequest => Policy::LeastRequest,
        Choice::RoundRobin => Policy::RoundRobin,
        Choice::Random => Policy::Random,
        Choice::Hash => Policy::Hash(key.unwrap_or(HashKey::Session)),
    }
}

pub(super) fn circuit(raw: RawCircuit) -> CircuitSettings {
    CircuitSettings {
        judge: Judge {
            rpc_errors: raw.rpc_errors.0,
            tool_errors: raw.tool_errors.0,
        },
        failure_rate: raw.failure_rate.map(|Part(share)| share),
        slow: raw.slow_call.map(|call| SlowCalls {
            call: call.0,
            rate: raw.slow_rate.0,
        }),
        window: raw.window,
        min_calls: small(raw.min_calls),
        consecutive: raw.consecutive.map(small),
        open: raw.open.0,
        open_max: raw.open_max.0,
        probes: small(raw.probes),
        successes: small(raw.successes),
    }
}

pub(super) fn retry(raw: RawRetry) -> RetrySettings {
    RetrySettings {
        attempts: small(raw.attempts),
        budget: BudgetSettings {
            share: raw.budget.0.get(),
            floor: raw.least.0,
        },
        backoff: Backoff {
            base: raw.backoff.base.0,
            max: raw.backoff.max.0,
        },
        retry_after: raw.retry_after.0,
        body_cap: usize::try_from(raw.body_cap.0).unwrap_or(usize::MAX),
        safe_tools: raw
            .safe_tools
            .into_iter()
            .map(|Word(tool)| Pattern::new(tool))
            .collect(),
        trust_annotations: false,
        statuses: raw
            .statuses
            .into_iter()
            .map(|ErrorStatus(status)| status)
            .collect(),
    }
}

pub(super) fn resume(raw: RawResume) -> ResumeSettings {
    ResumeSettings {
        tries: small(raw.tries),
        limit: raw.limit.0,
        standing: raw.standing.0,
        backoff: Backoff {
            base: raw.first.0,
            max: raw.max.0,
        },
    }
}

/// What is known of an upstream whose endpoints are to be probed.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Only plain HTTP leads there.
    pub(super) plain: bool,
    /// One of its endpoints is a command.
    pub(super) stdio: bool,
    /// It has several endpoints.
    pub(super) several: bool,
}

pub(super) fn health(
    raw: Option<OrOff<RawHealth>>,
    kind: Kind,
    mistakes: &mut Mistakes,
) -> Option<Health> {
    let raw = match raw {
        Some(OrOff::On(raw)) => raw,
        None if kind.several => RawHealth::read(&Node::of(&json!({}), ""), mistakes)?,
        Some(OrOff::Off) | None => return None,
    };
    let default = if kind.plain {
        ProbeKind::Tcp
    } else {
        ProbeKind::Mcp
    };
    let probe = raw.probe.as_ref().map_or(default, |probe| probe.value);
    if let Some(given) = &raw.probe
        && kind.stdio
        && probe != ProbeKind::Mcp
    {
        let message = "an endpoint of this upstream is a command, which only `mcp` can probe";
        mistakes.error(&given.place, message, "write `probe: mcp`, or remove it");
    }
    if let Some(http) = &raw.http
        && probe != ProbeKind::Http
    {
        let message = "`http` is set, but the probe does not use it";
        mistakes.error(&http.place, message, "set `probe: http`, or remove `http`");
    }
    let http = raw.http.map(|http| http.value);
    Some(Health {
        probe,
        http: http.map_or_else(HttpProbe::default, |http| HttpProbe {
            path: http
                .path
                .0
                .parse()
                .unwrap_or(PathAndQuery::from_static("/")),
            expect: http.status.0..=http.status.1,
            contains: http.contains.map(|Word(text)| text.into()),
            ..HttpProbe::default()
        }),
        interval: raw.interval.0,
        jitter: raw.jitter.0,
        timeout: raw.timeout.0,
        fall: small(raw.fall),
        rise: small(raw.rise),
        wake: raw.wake.0,
    })
}

pub(super) fn outlier(raw: RawOutlier) -> OutlierSettings {
    OutlierSettings {
        consecutive: raw.consecutive.map(small),
        rate: raw.deviations.map(|Amount(deviations)| RateSettings {
            factor: Factor::new(deviations).unwrap_or(RateSettings::default().factor),
            min_calls: small(raw.min_calls),
            min_endpoints: small(raw.min_endpoints),
            floor: raw.floor.0,
        }),
        interval: raw.interval.0,
        base: raw.base.0,
        max: raw.max.0,
        max_ejected: raw.max_ejected.0,
    }
}

fn small(Count(count): Count) -> NonZeroU32 {
    NonZeroU32::try_from(count).unwrap_or(NonZeroU32::MAX)
}
