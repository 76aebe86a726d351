//! What is different for some tools: names that no call gets to, and entries that change nothing.

use std::time::Duration;

use ziggurat_layers::pattern::Pattern;
use ziggurat_layers::timeout::TimeoutSettings;

use super::{resilience, route};
use crate::config::mistake::Mistakes;
use crate::config::raw::{RawTool, RawToolTimeouts};
use crate::config::read::{At, OrOff, ShortOr};
use crate::config::value::{Clock, Count};
use crate::config::{Timeouts, ToolRule};

pub(super) fn check(
    raw: At<Vec<At<RawTool>>>,
    upstream: Timeouts,
    plain: bool,
    mistakes: &mut Mistakes,
) -> Vec<ToolRule> {
    if plain && !raw.value.is_empty() {
        let message = "the routes of this upstream are `protocol: http`, which has no tools";
        mistakes.error(&raw.place, message, "remove `tools`");
    }
    let mut rules: Vec<ToolRule> = Vec::with_capacity(raw.value.len());
    for At { value: raw, place } in raw.value {
        let named = raw.tool.place.clone();
        let rule = rule(raw, upstream, mistakes);
        if rule.is_empty() && !mistakes.has_below(&place) {
            let cure = "add `deadline: 30m`, `concurrency: 4`, `timeouts` or `circuit`, or remove the entry";
            mistakes.error(&place, "this changes nothing", cure);
        }
        let tool = rule.tool.as_ref();
        if rules.iter().any(|earlier| earlier.tool == rule.tool) {
            let message = "an earlier entry is for the same tools";
            mistakes.error(&named, message, "make one of the two");
        } else if let Some(earlier) = rules.iter().find(|earlier| earlier.tool.fits(tool)) {
            let earlier = &earlier.tool;
            let message = format!("no call gets here: the entry `{earlier}` above takes them all");
            let cure = "move this entry up, or make that one narrower";
            mistakes.warning(&named, message, cure);
        }
        rules.push(rule);
    }
    rules
}

/// How long calls of tools that have deadlines of their own may be silent; `None` is without end.
pub(super) fn silences(raw: &[At<RawTool>]) -> impl Iterator<Item = Option<Duration>> {
    let own = raw.iter().filter_map(|rule| rule.value.deadline.as_ref());
    own.map(|deadline| match deadline {
        OrOff::Off => None,
        OrOff::On(ShortOr::Short(limit)) => Some(limit.0),
        OrOff::On(ShortOr::Long(long)) => Some(long.limit.0),
    })
}

fn rule(raw: RawTool, upstream: Timeouts, mistakes: &mut Mistakes) -> ToolRule {
    ToolRule {
        tool: Pattern::new(raw.tool.value.0),
        deadline: raw.deadline.map(|raw| route::deadline(raw, mistakes)),
        timeouts: raw.timeouts.and_then(|raw| timeouts(raw, upstream)),
        concurrency: raw.concurrency.map(|raw| raw.map(|Count(count)| count)),
        circuit: raw.circuit.map(|raw| raw.map(resilience::circuit)),
    }
}

/// What is left out is the upstream's; without any there is nothing.
fn timeouts(raw: RawToolTimeouts, upstream: Timeouts) -> Option<TimeoutSettings> {
    if raw.head.is_none() && raw.idle.is_none() {
        return None;
    }
    let clock = |raw: OrOff<Clock>| raw.map(|Clock(limit)| limit);
    Some(TimeoutSettings {
        head: raw.head.map_or(upstream.head, clock),
        idle: raw.idle.map_or(upstream.idle, clock),
    })
}

impl ToolRule {
    fn is_empty(&self) -> bool {
        let Self {
            tool: _,
            deadline,
            timeouts,
            concurrency,
            circuit,
        } = self;
        deadline.is_none() && timeouts.is_none() && concurrency.is_none() && circuit.is_none()
    }
}
