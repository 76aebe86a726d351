//! The rate limits of all routes, whose buckets outlive a reload.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value, json};
use ziggurat_layers::rate_limit::{KeyReport, KeyText, LimitReport, RateLimitLayer, RateLimits};

use crate::{
    admin::millis,
    config::{Config, Route},
};

/// What is counted, by route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    routes: Arc<Mutex<BTreeMap<String, RateLimits>>>,
}

/// The most keys of a limit that the admin API shows.
const SHOWN: usize = 20;

impl Rates {
    /// The layer of a route.
    pub(crate) fn layer(&self, route: &Route) -> RateLimitLayer {
        if route.rate_limit.is_empty() {
            return RateLimitLayer::default();
        }
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = routes.entry(route.name.clone());
        let limits = limits.or_insert_with(|| RateLimits::new(&route.name));
        limits.layer(&route.rate_limit)
    }

    /// From now on the limits are those of this config; what others counted is forgotten.
    pub(crate) fn set(&self, config: &Config) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|name, limits| {
            let route = config.routes.iter().find(|route| route.name == *name);
            let wanted = route.map(|route| &route.rate_limit[..]).unwrap_or_default();
            limits.retain(wanted);
            !wanted.is_empty()
        });
    }

    /// Brings the metrics up to date, for a scrape.
    pub(crate) fn publish(&self) {
        for (_, limits) in self.all() {
            limits.publish();
        }
    }

    /// How the limits stand, for the admin API.
    pub(crate) fn report(&self) -> Value {
        let routes = self.all().into_iter();
        let reports = routes.flat_map(|(route, limits)| {
            let look = limits.look(SHOWN).into_iter();
            look.map(move |report| self::report(&route, &report))
        });
        reports.collect()
    }

    fn all(&self) -> Vec<(String, RateLimits)> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(n, l)| (n.clone(), l.clone())).collect()
    }
}

fn report(route: &str, report: &LimitReport) -> Value {
    let nearest = |key: &KeyReport| {
        json!({
            "key": text(&key.key),
            "used": key.used,
            "burst": key.burst,
            "next_in_ms": millis(key.wait),
        })
    };
    let streams = |(key, open): &(KeyText, usize)| json!({ "key": text(key), "open": open });
    json!({
        "route": route,
        "limit": &*report.limit,
        "keys": report.keys,
        "nearest": report.nearest.iter().map(nearest).collect::<Value>(),
        "streams": report.streams.iter().map(streams).collect::<Value>(),
    })
}

fn text(key: &KeyText) -> Value {
    let parts = key
        .iter()
        .map(|(part, text)| ((*part).to_owned(), json!(text)));
    Value::Object(parts.collect::<Map<_, _>>())
}
