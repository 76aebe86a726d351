//! The caps of the server and of its routes, which outlive a reload: what is in flight counts under whatever cap is set.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ziggurat_layers::limit::{LimitLayer, LimitSettings};

use crate::config::Config;

/// The layers of all caps above the endpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caps {
    server: LimitLayer,
    routes: Arc<Mutex<HashMap<String, LimitLayer>>>,
}

impl Caps {
    /// The layer that all routes share.
    pub(crate) fn server(&self) -> &LimitLayer {
        &self.server
    }

    /// The layer of the route of this name; without a cap until one is set.
    pub(crate) fn route(&self, name: &str) -> LimitLayer {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.entry(name.to_owned()).or_default().clone()
    }

    /// From now on the caps are those of this config.
    pub(crate) fn set(&self, config: &Config) {
        self.server.set(LimitSettings {
            calls: config.server.concurrency,
            streams: config.server.streams,
        });
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|name, _| config.routes.iter().any(|route| route.name == *name));
        for route in &config.routes {
            let layer = routes.entry(route.name.clone()).or_default();
            layer.set(LimitSettings {
                calls: route.concurrency,
                streams: None,
            });
        }
    }
}
