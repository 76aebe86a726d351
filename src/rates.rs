//! The rate limits of all routes, whose buckets outlive a reload.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ziggurat_layers::rate_limit::{KeyReport, KeyText, LimitReport, RateLimitLayer, RateLimits};

use crate::{
    admin::{KeyStreamsView, KeyView, LimitView, millis},
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
    pub(crate) fn report(&self) -> Vec<LimitView> {
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

fn report(route: &str, report: &LimitReport) -> LimitView {
    let nearest = |key: &KeyReport| KeyView {
        key: text(&key.key),
        used: key.used,
        burst: key.burst,
        next_in_ms: millis(key.wait),
    };
    let streams = |(key, open): &(KeyText, usize)| KeyStreamsView {
        key: text(key),
        open: *open as u64,
    };
    LimitView {
        route: route.to_owned(),
        limit: report.limit.to_string(),
        keys: report.keys as u64,
        nearest: report.nearest.iter().map(nearest).collect(),
        streams: report.streams.iter().map(streams).collect(),
    }
}

fn text(key: &KeyText) -> BTreeMap<String, String> {
    let parts = key.iter();
    parts
        .map(|(part, text)| ((*part).to_owned(), text.clone()))
        .collect()
}
