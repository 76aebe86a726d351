//! From a config to its tower: the layers' settings, and the order in which the terraces of [`stack`] are put on each other.

use std::collections::HashMap;

use ziggurat_layers::{
    balance::{Balance, Member},
    drain::DrainSignals,
    health::ProberTask,
    limit::LimitSettings,
    metrics::Tools,
    retry::{Budget, BudgetSettings, RetryLayer, RetrySettings},
    route::{Match, Route, Router},
};

use crate::{
    config::{self, Config, Health, Replica, Upstream},
    kept::Kept,
    settings::{self, EndpointSettings, RouteSettings, ServerSettings, SettingsError},
    stack::{self, Terrace, Tower},
    standing::Standing,
    upstreams::{Core, CoreService, Identity, Pool, Upstreams},
};

/// The tower of a config. What the tower before it shares changes only once nothing can fail any more; what the operator set holds before the balancers see a
/// new endpoint.
///
/// # Errors
/// When a layer does not take a setting.
pub(crate) fn assemble(
    config: &Config,
    upstreams: &Upstreams,
    kept: &Kept,
    standing: &Standing,
    drain: &DrainSignals,
    tools: &Tools,
) -> Result<Tower, SettingsError> {
    let server = ServerSettings::new(config, drain.clone(), tools.clone())?;
    let keys = kept.sessions.keys(config)?;
    let plans = config.routes.iter();
    let plans = plans.map(|route| Plan::new(config, route, upstreams));
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    // From here on nothing fails.
    let mut retries = Retries::default();
    let mut balances = HashMap::new();
    let mut routes = Vec::with_capacity(plans.len());
    for plan in plans {
        let Plan {
            route,
            upstream,
            pool,
            matcher,
        } = plan;
        let retry = retries.layer(route, upstream, pool);
        let session = kept.sessions.layer(config, route, upstream, &keys);
        let own = (pool.switches.clone(), session, retry);
        let route = (route, matcher);
        let settings = RouteSettings::new(config, route, upstream, &server, kept, own);
        // One for each upstream: its queue is shared.
        let balance = balances
            .entry(upstream.name.as_str())
            .or_insert_with(|| Balance::new(upstream.balance.clone(), pool.set.clone()));
        routes.push(Route {
            matcher: settings.matcher.clone(),
            info: settings.info.clone(),
            service: stack::route(&settings, balance.clone()),
        });
    }
    kept.set(config);
    let all: Vec<_> = config.upstreams.iter().collect();
    arrange(&all, config, upstreams, standing, tools);
    Ok(stack::server(&server, Router::new(routes)))
}

/// From now on the endpoints of these upstreams are those that they have in this config, also for the running tower. What the operator set holds before the balancers see a
/// new endpoint.
pub(crate) fn arrange(
    changed: &[&Upstream],
    config: &Config,
    upstreams: &Upstreams,
    standing: &Standing,
    tools: &Tools,
) {
    let mut stacked = Vec::with_capacity(changed.len());
    for upstream in changed {
        if let Some(pool) = upstreams.get(&upstream.name) {
            stacked.push((pool, stack_endpoints(upstream, pool, standing, tools)));
        }
    }
    standing.enforce(upstreams, config);
    for (pool, members) in stacked {
        pool.set.replace_all(members);
    }
}

/// What a route needs of the config, found before anything that towers share is touched.
struct Plan<'a> {
    route: &'a config::Route,
    upstream: &'a Upstream,
    pool: &'a Pool,
    matcher: Match,
}

impl<'a> Plan<'a> {
    fn new(
        config: &'a Config,
        route: &'a config::Route,
        upstreams: &'a Upstreams,
    ) -> Result<Self, SettingsError> {
        let missing = || SettingsError::new(&route.name, &"its upstream does not exist");
        let mut named = config.upstreams.iter();
        let upstream = named.find(|upstream| upstream.name == route.upstream);
        let upstream = upstream.ok_or_else(missing)?;
        Ok(Self {
            route,
            upstream,
            pool: upstreams.get(&upstream.name).ok_or_else(missing)?,
            matcher: settings::matcher(route)?,
        })
    }
}

/// The endpoints of an upstream, for its balancer.
fn stack_endpoints(
    upstream: &Upstream,
    pool: &Pool,
    standing: &Standing,
    tools: &Tools,
) -> Vec<Member<Terrace>> {
    pool.tools.set(settings::tool_circuits(upstream));
    pool.outliers.set(upstream.outlier.clone());
    let members = upstream.endpoints.iter().zip(&pool.cores);
    let member = |(replica, core): (&Replica, &Core)| {
        core.limit.set(LimitSettings {
            calls: upstream.concurrency,
            streams: None,
        });
        core.limit.set_tools(settings::tool_caps(upstream));
        core.set(upstream, replica, standing);
        let settings = EndpointSettings::new(upstream, pool, core, tools.clone());
        let service = match core.service.clone() {
            CoreService::Http(http) => stack::endpoint(&settings, http),
            CoreService::Stdio(stdio) => stack::endpoint(&settings, stdio),
        };
        Member {
            endpoint: core.endpoint.clone(),
            service,
        }
    };
    members.map(member).collect()
}

/// A prober, and what it was made for.
#[derive(Debug)]
pub(crate) struct Probing {
    of: Probed,
    task: ProberTask,
}

#[derive(Debug, PartialEq)]
struct Probed {
    upstream: String,
    identity: Identity,
    replica: Replica,
    health: Health,
}

impl Probing {
    /// Ends it, with the session that it may have.
    pub(crate) async fn close(self) {
        self.task.close().await;
    }
}

/// Probes what is to be probed. Of the old probers those go on that would be made the same; the others are still there.
pub(crate) fn probe(
    config: &Config,
    upstreams: &Upstreams,
    old: &mut Vec<Probing>,
) -> Vec<Probing> {
    let mut probers = Vec::new();
    for upstream in &config.upstreams {
        let (Some(health), Some(pool)) = (&upstream.health, upstreams.get(&upstream.name)) else {
            continue;
        };
        for (core, replica) in pool.cores.iter().zip(&upstream.endpoints) {
            let of = Probed {
                upstream: upstream.name.clone(),
                identity: core.identity().clone(),
                replica: replica.clone(),
                health: health.clone(),
            };
            let known = old.iter().position(|prober| prober.of == of);
            probers.push(match known {
                Some(known) => old.swap_remove(known),
                None => Probing {
                    task: core.probe(health, replica),
                    of,
                },
            });
        }
    }
    probers
}

/// The retries of a tower: routes to one upstream that are told the same share one budget.
#[derive(Default)]
struct Retries<'a>(Vec<(&'a str, BudgetSettings, Budget)>);

impl<'a> Retries<'a> {
    fn layer(&mut self, route: &config::Route, upstream: &'a Upstream, pool: &Pool) -> RetryLayer {
        let Some(settings) = route.retry.clone() else {
            return RetryLayer::off();
        };
        let wanted = settings.budget;
        let shared = self.0.iter();
        let shared = shared
            .filter(|(name, budget, _)| *name == upstream.name && *budget == wanted)
            .map(|(_, _, budget)| budget.clone())
            .next();
        let budget = shared.unwrap_or_else(|| {
            let budget = Budget::new(wanted);
            self.0.push((&upstream.name, wanted, budget.clone()));
            budget
        });
        let settings = RetrySettings {
            trust_annotations: upstream.trust_annotations,
            ..settings
        };
        RetryLayer::sharing(&upstream.name, settings, budget, pool.annotations.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use ziggurat_layers::{circuit::Forced, gate::Reason, rate_limit::RateLimitSettings};

    use super::*;
    use crate::{
        config::{Overrides, Quick, Source},
        standing::{Kind, Setting, Subject},
    };

    fn config(path: &str) -> Config {
        let source = Source::Quick(Quick::Urls(vec![format!("http://127.0.0.1:1{path}")]));
        source.read(&Overrides::default()).unwrap().0
    }

    #[tokio::test]
    async fn a_new_endpoint_of_an_old_name_is_as_the_operator_set_it_before_it_can_be_called() {
        let (tools, drain) = (Tools::default(), DrainSignals::default());
        let kept = Kept::new().unwrap();
        let mut standing = Standing::default();
        let old = config("/mcp");
        let upstreams = Upstreams::new(&old, &Upstreams::default(), &tools).unwrap();
        assemble(&old, &upstreams, &kept, &standing, &drain, &tools).unwrap();
        for (kind, setting) in [
            (Kind::Drained, Setting::On),
            (Kind::Weight, Setting::Weight(7)),
            (Kind::Circuit, Setting::Forced(Forced::Open)),
        ] {
            let subject = Subject::new(kind, "mcp", "127.0.0.1:1");
            let set = standing.set(subject, setting, (None, "ann"), &upstreams, &old);
            set.unwrap();
        }

        let new = config("/");
        let reloaded = Upstreams::new(&new, &upstreams, &tools).unwrap();
        assert_eq!(upstreams.without(&reloaded).len(), 1, "it is another one");
        assemble(&new, &reloaded, &kept, &standing, &drain, &tools).unwrap();
        let pool = reloaded.get("mcp").unwrap();
        let member = pool.set.get("127.0.0.1:1").unwrap();
        assert!(member.endpoint.gate().is_shut_by(Reason::Operator));
        assert_eq!(member.endpoint.weight(), 7);
        let circuit = pool.cores[0].circuit.look().unwrap();
        assert_eq!(circuit.forced, Some(Forced::Open));
    }

    #[tokio::test]
    async fn a_running_balancer_sees_the_weight_of_the_operator_throughout_a_reload() {
        let tools = Tools::default();
        let config = config("/");
        let upstreams = Upstreams::new(&config, &Upstreams::default(), &tools).unwrap();
        let mut standing = Standing::default();
        let subject = Subject::new(Kind::Weight, "mcp", "127.0.0.1:1");
        let by = (None, "ann");
        let set = standing.set(subject, Setting::Weight(7), by, &upstreams, &config);
        set.unwrap();
        let (upstream, core) = (
            &config.upstreams[0],
            &upstreams.get("mcp").unwrap().cores[0],
        );
        core.set(upstream, &upstream.endpoints[0], &standing);
        assert_eq!(core.endpoint.weight(), 7);
    }

    #[tokio::test]
    async fn a_config_that_is_refused_leaves_nothing_where_towers_count() {
        let (tools, drain) = (Tools::default(), DrainSignals::default());
        let (kept, standing) = (Kept::new().unwrap(), Standing::default());
        let old = config("/");
        let upstreams = Upstreams::new(&old, &Upstreams::default(), &tools).unwrap();
        assemble(&old, &upstreams, &kept, &standing, &drain, &tools).unwrap();
        let mut new = old.clone();
        new.routes[0].rate_limit = vec![RateLimitSettings::default()];
        let mut bad = new.routes[0].clone();
        bad.path = "no path".to_owned();
        new.routes.push(bad);
        let refused = assemble(&new, &upstreams, &kept, &standing, &drain, &tools);
        assert!(refused.is_err(), "its second route cannot be");
        assert!(kept.rates.report().is_empty());

        new.routes.pop();
        assemble(&new, &upstreams, &kept, &standing, &drain, &tools).unwrap();
        assert_eq!(kept.rates.report().len(), 1);
    }
}
