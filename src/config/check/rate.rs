//! Rate limits: names, bursts without a rate, and keys that the route does not have.

use std::num::NonZeroU32;

use ziggurat_layers::rate_limit::{
    Allowance, KeyPart, Quota, Rate, RateLimitSettings, Selector, Tier,
};

use crate::config::mistake::Mistakes;
use crate::config::node::Place;
use crate::config::raw::{RawRateLimit, RawSelector, RawTier};
use crate::config::read::At;
use crate::config::value::{Count, NamePattern};
use crate::config::{Per, Protocol};

/// The number of a tier has one byte in a key.
const MOST_TIERS: usize = 255;

pub(super) fn check(
    raw: Vec<At<RawRateLimit>>,
    protocol: Protocol,
    sessions: bool,
    mistakes: &mut Mistakes,
) -> Vec<RateLimitSettings> {
    let mut limits: Vec<RateLimitSettings> = Vec::with_capacity(raw.len());
    for At { value: raw, place } in raw {
        check_keys(&raw, protocol, sessions, mistakes);
        check_expression(&raw, protocol, mistakes);
        let named = raw.name.as_ref().map(|name| name.place.clone());
        let mut limit = limit(raw, &place, mistakes);
        if limits.iter().any(|earlier| earlier.name == limit.name) {
            if let Some(named) = named {
                let cure = "give it another one, so that errors and metrics tell the two apart";
                mistakes.error(&named, "an earlier limit of the route has this name", cure);
            }
            limit.name = format!("{}#{}", limit.name, limits.len() + 1);
        }
        limits.push(limit);
    }
    limits
}

fn limit(raw: RawRateLimit, place: &Place, mistakes: &mut Mistakes) -> RateLimitSettings {
    let per: Vec<KeyPart> = raw
        .per
        .value
        .0
        .iter()
        .filter_map(|per| match per {
            Per::Key(part) => Some(*part),
            Per::Route => None,
        })
        .collect();
    let rate = raw.rate.on();
    let allowance = Allowance {
        rate,
        burst: burst(rate, raw.burst.as_ref(), mistakes),
        streams: raw.streams.map(|Count(count)| count),
    };
    if raw.tiers.value.len() > MOST_TIERS {
        let message = format!("there are more than {MOST_TIERS} tiers");
        mistakes.error(&raw.tiers.place, message, "make several limits of them");
    }
    let tiers = raw.tiers.value.into_iter();
    let tiers: Vec<Tier> = tiers
        .map(|tier| self::tier(tier.value, &allowance, mistakes))
        .collect();
    let mut all = tiers.iter().map(|tier| tier.allowance).chain([allowance]);
    let nothing = all.all(|allowed| allowed.rate.is_none() && allowed.streams.is_none());
    if nothing && !mistakes.has_below(place) {
        let cure = "add `rate: 50/s` or `streams: 10`, or remove it";
        mistakes.error(place, "this limits nothing", cure);
    }
    let expression = raw.expression.map(|expression| expression.value);
    RateLimitSettings {
        name: raw.name.map_or_else(
            || default_name(&per, expression.is_some()),
            |name| name.value.0,
        ),
        per,
        expression,
        selector: selector(raw.r#match.value),
        allowance,
        tiers,
        keys: raw.keys.0,
        ipv6_prefix: raw.ipv6_prefix.0,
    }
}

fn default_name(per: &[KeyPart], expression: bool) -> String {
    let parts = per.iter().map(|part| part.as_str());
    let words: Vec<&str> = parts.chain(expression.then_some("expression")).collect();
    match &words[..] {
        [] => "route".to_owned(),
        words => words.join("+"),
    }
}

/// What a tier leaves out is as in the limit.
fn tier(raw: RawTier, limit: &Allowance, mistakes: &mut Mistakes) -> Tier {
    let (rate, inherited) = match raw.rate {
        Some(rate) => (rate.on(), None),
        None => (limit.rate, limit.burst.filter(|_| raw.burst.is_none())),
    };
    let own = burst(rate, raw.burst.as_ref(), mistakes);
    Tier {
        selector: selector(raw.r#match.value),
        allowance: Allowance {
            rate,
            burst: inherited.or(own),
            streams: raw
                .streams
                .map_or(limit.streams, |streams| streams.map(|Count(count)| count)),
        },
    }
}

fn selector(raw: RawSelector) -> Selector {
    let names = |names: Vec<NamePattern>| names.into_iter().map(|name| name.0.into()).collect();
    Selector {
        tools: names(raw.tools),
        methods: names(raw.methods),
        principals: Vec::new(),
        clients: raw.clients,
    }
}

/// Left out, it is what the rate says for its unit.
fn burst(
    rate: Option<Rate>,
    burst: Option<&At<Count>>,
    mistakes: &mut Mistakes,
) -> Option<NonZeroU32> {
    let Some(burst) = burst else {
        let count = rate?.count.get().min(Quota::MAX_BURST);
        return NonZeroU32::new(count);
    };
    if rate.is_none() {
        let message = "there is no rate for this burst";
        mistakes.error(&burst.place, message, "add one, such as `rate: 50/s`");
    }
    let count = NonZeroU32::try_from(burst.value.0).ok();
    let count = count.filter(|count| count.get() <= Quota::MAX_BURST);
    if count.is_none() {
        let cure = format!("write a number up to {}", Quota::MAX_BURST);
        mistakes.error(&burst.place, "the burst is too large", cure);
    }
    count
}

/// Whether the route has what calls are told apart by.
fn check_keys(raw: &RawRateLimit, protocol: Protocol, sessions: bool, mistakes: &mut Mistakes) {
    let per = |part| raw.per.value.0.contains(&Per::Key(part));
    if protocol == Protocol::Mcp {
        if per(KeyPart::Session) && !sessions {
            let message = "with `session: off` nobody proves a session, so calls are told apart by their clients";
            let cure = "write `per: client`, or let the route have sessions";
            mistakes.warning(&raw.per.place, message, cure);
        }
        return;
    }
    for part in [KeyPart::Session, KeyPart::Tool] {
        if per(part) {
            let message = format!("a route with `protocol: http` has no {}s", part.as_str());
            mistakes.error(&raw.per.place, message, "write `per: client`");
        }
    }
    let selectors = raw.tiers.value.iter().map(|tier| &tier.value.r#match);
    for selector in selectors.chain([&raw.r#match]) {
        if !selector.value.tools.is_empty() {
            let message = "a route with `protocol: http` has no tools";
            mistakes.error(&selector.place, message, "remove `tools`");
        }
    }
}

/// Whether there is what the expression looks at, when the limit asks it.
fn check_expression(raw: &RawRateLimit, protocol: Protocol, mistakes: &mut Mistakes) {
    let Some(At { value, place }) = &raw.expression else {
        return;
    };
    if value.reads_answer() {
        let message = "calls are counted before they have a `result` or an `error`";
        mistakes.error(
            place,
            message,
            "go by `args`, `params`, `name` or `headers`",
        );
    } else if protocol == Protocol::Http && value.reads_message() {
        let message = "a route with `protocol: http` reads no bodies";
        let cure = "go by `headers`, `path` or `http_method`";
        mistakes.error(place, message, cure);
    }
    if value.names_principal() {
        let message = "this version of ziggurat authenticates nobody, so `principal` is empty";
        mistakes.warning(
            place,
            message,
            "go by a header that a proxy before ziggurat sets",
        );
    }
}
