//! Routes: names, deadlines, and matches that another route takes away.

use std::time::Duration;

use crate::config::mistake::Mistakes;
use crate::config::raw::RawRoute;
use crate::config::read::{At, OrOff, ShortOr};
use crate::config::value::{Clock, HeaderText};
use crate::config::{Deadline, Route};

/// The time that a call may take in all where the file does not say.
const CAP: Duration = Duration::from_secs(60 * 60);

pub(super) fn check(raw: Vec<At<RawRoute>>, mistakes: &mut Mistakes) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::with_capacity(raw.len());
    for At { value: raw, .. } in raw {
        let named = raw.name.clone();
        let matched = raw.r#match.place.clone();
        let route = route(raw, mistakes);
        if let Some(earlier) = routes.iter().find(|earlier| covers(earlier, &route)) {
            let message = format!(
                "no request gets here: the route `{}` above takes them all",
                earlier.name
            );
            mistakes.warning(
                &matched,
                message,
                "move this route up, or make one of the two matches narrower",
            );
        }
        if routes.iter().any(|earlier| earlier.name == route.name)
            && let Some(named) = named
        {
            let message = format!("two routes have the name `{}`", route.name);
            mistakes.error(
                &named.place,
                message,
                "give them different names, so that logs and metrics tell them apart",
            );
        }
        routes.push(route);
    }
    routes
}

fn route(raw: RawRoute, mistakes: &mut Mistakes) -> Route {
    let At { value: matched, .. } = raw.r#match;
    let path = matched.path.0;
    let host = matched.host.map(|host| host.0);
    let name = match (raw.name, &host) {
        (Some(name), _) => name.value.0,
        (None, Some(host)) => format!("{host}{path}"),
        (None, None) => path.clone(),
    };
    Route {
        name,
        path,
        host,
        headers: matched
            .headers
            .map(|headers| headers.into_pairs(|HeaderText(value)| value))
            .unwrap_or_default(),
        protocol: raw.protocol,
        upstream: raw.upstream.value.0,
        forward: raw.forward,
        deadline: match raw.deadline.value {
            OrOff::Off => None,
            OrOff::On(ShortOr::Short(Clock(limit))) => Some(Deadline {
                limit,
                cap: CAP.max(limit),
            }),
            OrOff::On(ShortOr::Long(raw)) => Some(deadline(raw.limit.0, raw.cap, mistakes)),
        },
        errors: raw.errors,
    }
}

fn deadline(limit: Duration, cap: Option<At<Clock>>, mistakes: &mut Mistakes) -> Deadline {
    let Some(At {
        value: Clock(cap),
        place,
    }) = cap
    else {
        return Deadline {
            limit,
            cap: CAP.max(limit),
        };
    };
    if cap < limit {
        mistakes.error(
            &place,
            "the cap is shorter than the limit",
            "make it at least as long: it is the time in all",
        );
    }
    Deadline { limit, cap }
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
