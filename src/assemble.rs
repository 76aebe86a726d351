//! From a config to its tower: the layers' settings, and the order in which the terraces of [`stack`] are put on each other.

use std::collections::HashMap;

use ziggurat_layers::{
    balance::{Balance, Member},
    drain::DrainSignals,
    health::ProberTask,
    limit::LimitSettings,
    metrics::Tools,
    retry::{Budget, BudgetSettings, RetryLayer, RetrySettings},
    route::{Route, Router},
};

use crate::{
    config::{self, Config, Upstream},
    kept::Kept,
    settings::{EndpointSettings, RouteSettings, ServerSettings, SettingsError},
    stack::{self, Tower},
    upstreams::{CoreService, Pool, Upstreams},
};

/// The tower of a config. What the tower before it shares changes only once nothing can fail any more.
///
/// # Errors
/// When a layer does not take a setting.
pub(crate) fn assemble(
    config: &Config,
    upstreams: &Upstreams,
    kept: &Kept,
    drain: &DrainSignals,
    tools: &Tools,
) -> Result<Tower, SettingsError> {
    let server = ServerSettings::new(config, drain.clone(), tools.clone())?;
    let keys = kept.sessions.keys(config)?;
    let mut retries = Retries::default();
    let mut balances = HashMap::new();
    let mut routes = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        let missing = || SettingsError::new(&route.name, &"its upstream does not exist");
        let mut named = config.upstreams.iter();
        let upstream = named.find(|upstream| upstream.name == route.upstream);
        let upstream = upstream.ok_or_else(missing)?;
        let pool = upstreams.get(&upstream.name).ok_or_else(missing)?;
        let retry = retries.layer(route, upstream, pool);
        let session = kept.sessions.layer(route, upstream, &keys);
        let own = (pool.switches.clone(), session, retry);
        let settings = RouteSettings::new(config, route, &server, kept, own)?;
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
    for upstream in &config.upstreams {
        if let Some(pool) = upstreams.get(&upstream.name) {
            stack_endpoints(upstream, pool, tools);
        }
    }
    Ok(stack::server(&server, Router::new(routes)))
}

/// Puts the endpoints of an upstream where its balancer finds them.
fn stack_endpoints(upstream: &Upstream, pool: &Pool, tools: &Tools) {
    pool.tools.set(upstream.tool_circuit.clone());
    pool.outliers.set(upstream.outlier.clone());
    let members = upstream.endpoints.iter().zip(&pool.cores);
    pool.set.replace_all(members.map(|(replica, core)| {
        core.limit.set(LimitSettings {
            calls: upstream.concurrency,
            streams: None,
        });
        core.set(upstream, replica);
        let settings = EndpointSettings::new(upstream, pool, core, tools.clone());
        let service = match core.service.clone() {
            CoreService::Http(http) => stack::endpoint(&settings, http),
            CoreService::Stdio(stdio) => stack::endpoint(&settings, stdio),
        };
        Member {
            endpoint: core.endpoint.clone(),
            service,
        }
    }));
}

/// Starts to probe what is to be probed.
pub(crate) fn probe(config: &Config, upstreams: &Upstreams) -> Vec<ProberTask> {
    let mut probers = Vec::new();
    for upstream in &config.upstreams {
        if let (Some(health), Some(pool)) = (&upstream.health, upstreams.get(&upstream.name)) {
            let endpoints = pool.cores.iter().zip(&upstream.endpoints);
            probers.extend(endpoints.map(|(core, replica)| core.probe(health, replica)));
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
