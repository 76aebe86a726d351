//! Routes: names, deadlines, and matches that another route takes away.

use std::time::Duration;

use ziggurat_layers::replay::{ReplaySettings, Scope};
use ziggurat_layers::session::SessionSettings;

use super::{Context, rate, resilience, rules, tools};
use crate::config::mistake::Mistakes;
use crate::config::raw::{RawDeadline, RawReplay, RawRoute, RawSession, RawUpstream};
use crate::config::read::{At, Dict, OrOff, ShortOr};
use crate::config::value::{Clock, Count, ErrorStatus, HeaderText, Label};
use crate::config::{Deadline, Protocol, Route};

/// The time that a call may take in all where the file does not say.
const CAP: Duration = Duration::from_secs(60 * 60);

pub(super) fn check(
    raw: Vec<At<RawRoute>>,
    upstreams: &Dict<Label, RawUpstream>,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::with_capacity(raw.len());
    for At { value: raw, .. } in raw {
        let named = raw.name.clone();
        let matched = raw.r#match.place.clone();
        let mut upstreams = upstreams.entries.iter();
        let upstream = upstreams.find(|(name, _)| name.value == raw.upstream.value);
        let upstream = upstream.map(|(_, upstream)| upstream);
        let mut route = route(raw, upstream, context, mistakes);
        if let Some(earlier) = routes.iter().find(|earlier| covers(earlier, &route)) {
            let name = &earlier.name;
            let message = format!("no request gets here: the route `{name}` above takes them all");
            let cure = "move this route up, or make one of the two matches narrower";
            mistakes.warning(&matched, message, cure);
        }
        let is_taken = |name: &str| routes.iter().any(|earlier| earlier.name == name);
        match named {
            Some(named) if is_taken(&route.name) => {
                let cure = "give it another one, so that logs and metrics tell the two apart";
                mistakes.error(&named.place, "an earlier route has this name", cure);
            }
            None if is_taken(&route.name) => {
                let number = routes.len() + 1;
                route.name = format!("{}#{number}", route.name);
            }
            Some(_) | None => {}
        }
        routes.push(route);
    }
    routes
}

fn route(
    raw: RawRoute,
    upstream: Option<&RawUpstream>,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Route {
    let At { value: matched, .. } = raw.r#match;
    let protocol = raw.protocol;
    let sessions = matches!(raw.session, OrOff::On(_));
    let limits = raw.rate_limit.map(|limits| limits.0).unwrap_or_default();
    let rate_limit = rate::check(limits, protocol, sessions, mistakes);
    let path = matched.path.0;
    let host = matched.host.map(|host| host.0);
    let name = raw
        .name
        .map_or_else(|| default_name(host.as_deref(), &path), |name| name.value.0);
    let session = raw.session.map(session);
    let without = session.is_none() || raw.protocol == Protocol::Http;
    let deadline = deadline(raw.deadline.value, mistakes);
    let around = rules::Around {
        protocol,
        deadline: deadline
            .as_ref()
            .and_then(|all| longest(all.limit, upstream)),
    };
    Route {
        name,
        path,
        host,
        headers: matched
            .headers
            .map(|headers| headers.into_pairs(|HeaderText(value)| value))
            .unwrap_or_default(),
        protocol,
        upstream: raw.upstream.value.0,
        http_sse: raw.http_sse,
        forward: raw.forward,
        deadline,
        session,
        rate_limit,
        replay: replay(raw.replay, without, mistakes),
        concurrency: raw.concurrency.map(|Count(count)| count),
        retry: raw.retry.map(resilience::retry),
        intercept: raw
            .intercept
            .map(|raw| rules::check(raw, around, context, mistakes)),
        errors: raw.errors,
    }
}

/// What a route is called that has no name of its own; where it is taken already, `#` and the route's number follow.
pub(in crate::config) fn default_name(host: Option<&str>, path: &str) -> String {
    format!("{}{path}", host.unwrap_or_default())
}

fn session(raw: RawSession) -> SessionSettings {
    let statuses = raw.lost.into_iter();
    SessionSettings {
        idle: raw.idle.0,
        lifetime: raw.lifetime.map(|clock| clock.0),
        max: raw.max.0,
        // Nobody is told apart yet.
        max_per_principal: raw.max.0,
        lost: statuses.map(|ErrorStatus(status)| status).collect(),
        heal: raw.heal,
        stateless: false,
        // Decided where the keys are.
        shared: false,
    }
}

/// Without sessions there is nothing to come back to; whoever wrote that all streams are to be kept would be mistaken.
fn replay(
    raw: At<OrOff<ShortOr<Scope, RawReplay>>>,
    without: bool,
    mistakes: &mut Mistakes,
) -> Option<ReplaySettings> {
    let settings = match raw.value {
        OrOff::Off => return None,
        OrOff::On(ShortOr::Short(scope)) => ReplaySettings {
            scope,
            ..ReplaySettings::default()
        },
        OrOff::On(ShortOr::Long(long)) => ReplaySettings {
            scope: long.streams,
            events: long.events.0,
            bytes: usize::try_from(long.bytes.0).unwrap_or(usize::MAX),
            age: long.age.0,
            ..ReplaySettings::default()
        },
    };
    if without && settings.scope == Scope::Always {
        let message = "streams are kept within sessions, and this route has none";
        let cure = "remove `replay`, or let the route have sessions (`protocol: mcp`, without `session: off`)";
        mistakes.error(&raw.place, message, cure);
    }
    Some(settings)
}

/// The longest silence of any call on a route, of whose calls those of no particular tool have this one; `None` if it has no end.
fn longest(otherwise: Duration, upstream: Option<&RawUpstream>) -> Option<Duration> {
    let tools = upstream.map(|upstream| tools::silences(&upstream.tools.value));
    let mut all = tools.into_iter().flatten();
    all.try_fold(otherwise, |longest, own| Some(longest.max(own?)))
}

pub(super) fn deadline(
    raw: OrOff<ShortOr<Clock, RawDeadline>>,
    mistakes: &mut Mistakes,
) -> Option<Deadline> {
    let (Clock(limit), cap) = match raw.on()? {
        ShortOr::Short(limit) => (limit, None),
        ShortOr::Long(raw) => (raw.limit, raw.cap),
    };
    let Some(At {
        value: Clock(cap),
        place,
    }) = cap
    else {
        let cap = CAP.max(limit);
        return Some(Deadline { limit, cap });
    };
    if cap < limit {
        mistakes.error(
            &place,
            "the cap is shorter than the limit",
            "make it at least as long: it is the time in all",
        );
    }
    Some(Deadline { limit, cap })
}

/// Whether every request that the later route matches is matched by the earlier one already.
fn covers(earlier: &Route, later: &Route) -> bool {
    let path = match later.path.strip_prefix(&earlier.path) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || earlier.path == "/",
        None => false,
    };
    let host = earlier.host.is_none() || earlier.host == later.host;
    path && host
        && earlier
            .headers
            .iter()
            .all(|header| later.headers.contains(header))
}
