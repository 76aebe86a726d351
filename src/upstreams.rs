//! The upstream services, which outlive a reload: connections, children and sessions stay with what an upstream *is*.

use std::{collections::HashMap, num::NonZeroUsize, time::Duration};

use serde_json::{Value, json};
use ziggurat_layers::upstream::{
    http::HttpUpstream,
    stdio::{Report, StdioUpstream},
};

use crate::{
    config::{Config, Endpoint, Upstream},
    settings::{self, SettingsError},
};

/// The upstream services by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams {
    cores: HashMap<String, Core>,
}

/// One upstream service, and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    identity: Identity,
    /// The service.
    pub service: CoreService,
}

/// The service at the bottom of a tower.
#[derive(Clone, Debug)]
pub(crate) enum CoreService {
    /// An HTTP endpoint.
    Http(HttpUpstream),
    /// A command.
    Stdio(StdioUpstream),
}

/// What decides whether a service lives on after a reload.
#[derive(Clone, Debug, PartialEq)]
struct Identity {
    endpoint: Endpoint,
    connect: Duration,
    pending: Option<NonZeroUsize>,
}

impl Upstreams {
    /// The services of a config; those of `old` that are still the same live on.
    ///
    /// # Errors
    /// When a service cannot be made, such as for a certificate that cannot be read.
    pub(crate) fn new(config: &Config, old: &Self) -> Result<Self, SettingsError> {
        let mut cores = HashMap::new();
        for upstream in &config.upstreams {
            let identity = Identity::of(upstream);
            let kept = old
                .cores
                .get(&upstream.name)
                .filter(|core| core.identity == identity);
            let core = match kept {
                Some(core) => core.clone(),
                None => Core {
                    service: CoreService::new(upstream)?,
                    identity,
                },
            };
            cores.insert(upstream.name.clone(), core);
        }
        Ok(Self { cores })
    }

    /// The service of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Core> {
        self.cores.get(name)
    }

    /// The services that `new` does not have.
    pub(crate) fn without(&self, new: &Self) -> Vec<CoreService> {
        let gone = |(name, core): &(&String, &Core)| {
            new.cores
                .get(*name)
                .is_none_or(|other| other.identity != core.identity)
        };
        self.cores
            .iter()
            .filter(gone)
            .map(|(_, core)| core.service.clone())
            .collect()
    }

    /// All services.
    pub(crate) fn all(&self) -> impl Iterator<Item = &CoreService> {
        self.cores.values().map(|core| &core.service)
    }

    /// Whether some upstream can take a call, as far as is known.
    pub(crate) fn any_usable(&self) -> bool {
        self.all().any(CoreService::is_usable)
    }

    /// What there is, for the admin API.
    pub(crate) fn report(&self) -> Value {
        let mut upstreams: Vec<_> = self.cores.iter().collect();
        upstreams.sort_by_key(|(name, _)| name.as_str());
        upstreams
            .into_iter()
            .map(|(name, core)| {
                let endpoint = match &core.service {
                    CoreService::Http(_) => json!({ "kind": "http", "usable": true }),
                    CoreService::Stdio(stdio) => {
                        let report = stdio.report();
                        json!({
                            "kind": "stdio",
                            "usable": report.backoff.is_none(),
                            "children": report.children,
                            "sessions": report.sessions,
                            "pending": report.pending,
                            "backoff_ms": report.backoff.map(|b| u64::try_from(b.as_millis()).unwrap_or(u64::MAX)),
                        })
                    }
                };
                json!({ "name": name, "endpoints": [endpoint] })
            })
            .collect()
    }

    /// How many sessions there are by upstream, for the admin API. Those of HTTP upstreams are the upstreams' own.
    pub(crate) fn sessions(&self) -> Value {
        self.count(|report| report.sessions)
    }

    /// How many standing streams of those sessions are open, by upstream.
    pub(crate) fn streams(&self) -> Value {
        self.count(|report| report.streams)
    }

    fn count(&self, what: impl Fn(&Report) -> usize) -> Value {
        let count = |(name, core): (&String, &Core)| match &core.service {
            CoreService::Http(_) => None,
            CoreService::Stdio(stdio) => Some((name.clone(), json!(what(&stdio.report())))),
        };
        Value::Object(self.cores.iter().filter_map(count).collect())
    }
}

impl Identity {
    fn of(upstream: &Upstream) -> Self {
        Self {
            endpoint: upstream.endpoint.clone(),
            connect: upstream.timeouts.connect,
            pending: upstream.concurrency,
        }
    }
}

impl CoreService {
    fn new(upstream: &Upstream) -> Result<Self, SettingsError> {
        let name = &upstream.name;
        match &upstream.endpoint {
            Endpoint::Http(endpoint) => {
                HttpUpstream::new(settings::http(name, upstream.timeouts.connect, endpoint))
                    .map(Self::Http)
                    .map_err(|e| SettingsError::new(format!("upstreams.{name}"), &e))
            }
            Endpoint::Stdio(endpoint) => {
                let settings = settings::stdio(name, upstream.concurrency, endpoint);
                Ok(Self::Stdio(StdioUpstream::new(settings)))
            }
        }
    }

    fn is_usable(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::Stdio(stdio) => stdio.is_usable(),
        }
    }

    /// Ends what it holds, once nothing is in flight, or after `limit`.
    pub(crate) async fn retire(&self, limit: Duration) {
        const LOOK: Duration = Duration::from_millis(50);
        match self {
            // Calls in flight hold their connections; the rest closes when the last handle goes.
            Self::Http(http) => {
                let _late = tokio::time::timeout(limit, http.close()).await;
            }
            Self::Stdio(stdio) => {
                let idle = async {
                    while stdio.report().pending > 0 {
                        tokio::time::sleep(LOOK).await;
                    }
                };
                let _late = tokio::time::timeout(limit, idle).await;
                stdio.close().await;
            }
        }
    }
}
