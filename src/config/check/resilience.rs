//! What keeps calls alive: balancing, breakers and retries, in the terms of their layers.

use std::num::NonZeroU32;

use ziggurat_layers::balance::{BalanceSettings, HashKey, Policy};
use ziggurat_layers::circuit::{CircuitSettings, SlowCalls};
use ziggurat_layers::retry::{Backoff, BudgetSettings, RetrySettings};
use ziggurat_layers::verdict::Judge;

use crate::config::Choice;
use crate::config::mistake::Mistakes;
use crate::config::raw::{RawBalance, RawCircuit, RawRetry};
use crate::config::read::ShortOr;
use crate::config::value::{Count, ErrorStatus, Part, Word};

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
        safe_tools: raw.safe_tools.into_iter().map(|Word(tool)| tool).collect(),
        trust_annotations: false,
        statuses: raw
            .statuses
            .into_iter()
            .map(|ErrorStatus(status)| status)
            .collect(),
    }
}

fn small(Count(count): Count) -> NonZeroU32 {
    NonZeroU32::try_from(count).unwrap_or(NonZeroU32::MAX)
}
