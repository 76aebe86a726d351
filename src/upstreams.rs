//! The upstreams, which outlive a reload: connections, children, sessions, loads and breakers stay with what an endpoint *is*.

mod report;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    time::Duration,
};

use aws_lc_rs::digest;
use serde_json::json;
use ziggurat_layers::{
    balance::{Endpoint as BalancedEndpoint, EndpointSet},
    circuit::{CircuitHandle, ToolCircuits},
    gate::Look,
    health::{
        HealthHandle, Prober, ProberTask,
        outlier::{OutlierDetector, OutlierHandle},
    },
    limit::LimitLayer,
    metrics::Tools,
    retry::Annotations,
    switch::Switches,
    upstream::{http::HttpUpstream, sse::SseUpstream, stdio::StdioUpstream},
    waits::Waits,
};

use crate::{
    admin::{Change, ChildView, Refusal, StreamsView, ToolView, UpstreamView, millis},
    config::{ClientTls, Config, Endpoint, Health, Replica, Upstream},
    settings::{self, SettingsError},
    stack::{self, Terrace},
    standing::Standing,
};

/// The upstreams by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams {
    pools: HashMap<String, Pool>,
}

/// One upstream: its endpoints, and what they share.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// The terraces of its endpoints, as the balancer sees them.
    pub(crate) set: EndpointSet<Terrace>,
    /// The breakers of its tools.
    pub(crate) tools: ToolCircuits,
    /// What compares its endpoints.
    pub(crate) outliers: OutlierDetector,
    /// What of it the operator switched off.
    pub(crate) switches: Switches,
    /// What its server says of its tools.
    pub(crate) annotations: Annotations,
    /// What its clients are being asked.
    pub(crate) waits: Waits,
    /// What reaches its endpoints, in the order of the config.
    pub(crate) cores: Vec<Core>,
}

/// What reaches an endpoint, and what is known of that.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    identity: Identity,
    /// The service.
    pub(crate) service: CoreService,
    /// Its load and its gate.
    pub(crate) endpoint: BalancedEndpoint,
    /// Its breaker.
    pub(crate) circuit: CircuitHandle,
    /// What its probes say.
    pub(crate) health: HealthHandle,
    /// How it does beside the others.
    pub(crate) outlier: OutlierHandle,
    /// Its cap of calls.
    pub(crate) limit: LimitLayer,
}

/// The service at the bottom of a tower.
#[derive(Clone, Debug)]
pub(crate) enum CoreService {
    /// An HTTP endpoint.
    Http(SseUpstream<HttpUpstream>),
    /// A command.
    Stdio(StdioUpstream),
}

/// What decides whether a core lives on after a reload.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    name: String,
    endpoint: Endpoint,
    /// What only an HTTP endpoint knows.
    connect: Option<Duration>,
    /// Tells the certificates from those that were in the same files before.
    certificates: Vec<u8>,
}

// === impl Upstreams ===

impl Upstreams {
    /// The upstreams of a config; the cores of `old` that are still the same live on. Changes nothing that `old` uses.
    ///
    /// # Errors
    /// When a service cannot be made, such as for a certificate that cannot be read.
    pub(crate) fn new(config: &Config, old: &Self, tools: &Tools) -> Result<Self, SettingsError> {
        let mut pools = HashMap::new();
        for upstream in &config.upstreams {
            let known = old.pools.get(&upstream.name);
            let pool = Pool::new(upstream, known, tools)?;
            pools.insert(upstream.name.clone(), pool);
        }
        Ok(Self { pools })
    }

    /// These, with the endpoints that this upstream has now; those that it had live on. Changes nothing that these use.
    ///
    /// # Errors
    /// As [`Upstreams::new`].
    pub(crate) fn with(&self, upstream: &Upstream, tools: &Tools) -> Result<Self, SettingsError> {
        let pool = Pool::new(upstream, self.pools.get(&upstream.name), tools)?;
        let mut new = self.clone();
        new.pools.insert(upstream.name.clone(), pool);
        Ok(new)
    }

    /// The upstream of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name)
    }

    /// The services that `new` does not have.
    pub(crate) fn without(&self, new: &Self) -> Vec<CoreService> {
        let lives = |name: &String, core: &Core| {
            let pool = new.pools.get(name);
            pool.is_some_and(|pool| pool.cores.iter().any(|c| c.identity == core.identity))
        };
        let cores = |(name, pool): (&String, &Pool)| -> Vec<CoreService> {
            let gone = pool.cores.iter().filter(|core| !lives(name, core));
            gone.map(|core| core.service.clone()).collect()
        };
        self.pools.iter().flat_map(cores).collect()
    }

    fn cores(&self) -> impl Iterator<Item = &Core> {
        self.pools.values().flat_map(|pool| &pool.cores)
    }

    /// Starts the children that are to be ready before anybody asks for one.
    pub(crate) fn warm_up(&self) {
        for service in self.all() {
            match service {
                CoreService::Http(_) => {}
                CoreService::Stdio(stdio) => stdio.warm_up(),
            }
        }
    }

    /// All services.
    pub(crate) fn all(&self) -> impl Iterator<Item = &CoreService> {
        self.cores().map(|core| &core.service)
    }

    /// Whether some endpoint can take a call, as far as is known.
    pub(crate) fn any_usable(&self) -> bool {
        let on = self.pools.values().filter(|pool| !pool.switches.is_off());
        on.flat_map(|pool| &pool.cores).any(Core::is_usable)
    }

    /// Brings the gauges up to date that only traffic moves otherwise.
    pub(crate) fn publish(&self) {
        for pool in self.pools.values() {
            pool.set.publish();
            pool.tools.look();
        }
        for core in self.cores() {
            core.circuit.look();
        }
    }

    /// What there is, for the admin API.
    pub(crate) fn report(&self, standing: &Standing) -> Vec<UpstreamView> {
        let tool = |(tool, report): (Box<str>, _)| ToolView {
            tool: tool.into(),
            circuit: report::circuit(&report),
        };
        let view = |(name, pool): (&String, &Pool)| UpstreamView {
            name: name.clone(),
            killed: pool.switches.is_off(),
            killed_tools: standing
                .killed_tools(name)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            endpoints: pool.cores.iter().map(Core::report).collect(),
            tools: pool.tools.look().into_iter().map(tool).collect(),
        };
        self.by_name().into_iter().map(view).collect()
    }

    /// How many sessions the children of each upstream have, for the admin API. Those of HTTP upstreams are the upstreams' own.
    pub(crate) fn sessions(&self) -> BTreeMap<String, u64> {
        let count = |(name, pool): (&String, &Pool)| {
            let counts: Vec<u64> = pool
                .children()
                .map(|(_, stdio)| stdio.report().sessions as u64)
                .collect();
            (!counts.is_empty()).then(|| (name.clone(), counts.iter().sum()))
        };
        self.pools.iter().filter_map(count).collect()
    }

    /// How many standing streams each endpoint has open.
    pub(crate) fn streams(&self) -> Vec<StreamsView> {
        let pools = self.by_name().into_iter();
        pools
            .flat_map(|(name, pool)| {
                pool.cores.iter().map(|core| StreamsView {
                    upstream: name.clone(),
                    endpoint: core.endpoint.name().to_string(),
                    open: core.endpoint.load().streams(),
                })
            })
            .collect()
    }

    /// The child processes.
    pub(crate) fn children(&self) -> Vec<ChildView> {
        let mut all = Vec::new();
        for (name, pool) in self.by_name() {
            for (core, stdio) in pool.children() {
                let children = stdio.report().children.into_iter();
                all.extend(children.map(|child| ChildView {
                    upstream: name.clone(),
                    endpoint: core.endpoint.name().to_string(),
                    pid: child.pid,
                    state: child.state.to_owned(),
                    sessions: child.sessions as u64,
                    pending: child.pending as u64,
                    age_ms: millis(child.age),
                    memory_bytes: child.memory(),
                }));
            }
        }
        all
    }

    /// Stops a child; what is asked next starts another.
    ///
    /// # Errors
    /// When no upstream has it.
    pub(crate) fn stop_child(&self, pid: i32) -> Result<Change, Refusal> {
        let mut services = self.pools.values().flat_map(Pool::children);
        if services.any(|(_, stdio)| stdio.stop_child(pid)) {
            return Ok(Change {
                before: json!({ "pid": pid }),
                after: json!(null),
            });
        }
        let why = format!("no upstream has a child of the process id {pid}");
        Err(Refusal::Unknown(why))
    }

    fn by_name(&self) -> Vec<(&String, &Pool)> {
        let mut pools: Vec<_> = self.pools.iter().collect();
        pools.sort_by_key(|(name, _)| name.as_str());
        pools
    }
}

// === impl Pool ===

impl Pool {
    fn new(upstream: &Upstream, old: Option<&Self>, tools: &Tools) -> Result<Self, SettingsError> {
        let name = &upstream.name;
        let outliers = old.map_or_else(|| OutlierDetector::new(name), |old| old.outliers.clone());
        let mut cores = Vec::with_capacity(upstream.endpoints.len());
        for replica in &upstream.endpoints {
            let identity = Identity::of(upstream, replica)?;
            let kept = old.and_then(|pool| pool.cores.iter().find(|c| c.identity == identity));
            cores.push(match kept {
                Some(core) => core.clone(),
                None => Core::new(upstream, replica, identity, &outliers)?,
            });
        }
        Ok(match old {
            Some(old) => Self {
                cores,
                ..old.clone()
            },
            None => Self {
                set: EndpointSet::new(name),
                tools: ToolCircuits::new(name, tools),
                switches: Switches::new(),
                annotations: Annotations::default(),
                waits: Waits::default(),
                outliers,
                cores,
            },
        })
    }
}

impl Pool {
    /// The endpoints that are commands.
    fn children(&self) -> impl Iterator<Item = (&Core, &StdioUpstream)> {
        self.cores.iter().filter_map(|core| match &core.service {
            CoreService::Http(_) => None,
            CoreService::Stdio(stdio) => Some((core, stdio)),
        })
    }
}

// === impl Core ===

impl Core {
    fn new(
        upstream: &Upstream,
        replica: &Replica,
        identity: Identity,
        outliers: &OutlierDetector,
    ) -> Result<Self, SettingsError> {
        let (name, weight, priority) = (&replica.name, replica.weight, replica.priority);
        let endpoint = BalancedEndpoint::new(&upstream.name, name, weight, priority);
        Ok(Self {
            service: CoreService::new(upstream, replica)?,
            circuit: CircuitHandle::new(&upstream.name, name),
            health: HealthHandle::new(&upstream.name, name),
            outlier: outliers.endpoint(name, endpoint.gate()),
            limit: LimitLayer::default().gate(endpoint.gate().clone()),
            endpoint,
            identity,
        })
    }

    /// Takes over what may change while the service lives on. A weight that the operator gave it stands: a running balancer must not see another meanwhile.
    pub(crate) fn set(&self, upstream: &Upstream, replica: &Replica, standing: &Standing) {
        let stands = standing.weight(&upstream.name, &replica.name);
        self.endpoint.set_weight(stands.unwrap_or(replica.weight));
        self.endpoint.set_priority(replica.priority);
        if let (CoreService::Stdio(stdio), Endpoint::Stdio(endpoint)) =
            (&self.service, &replica.endpoint)
        {
            stdio.set(settings::stdio(&upstream.name, endpoint));
        }
    }

    fn is_usable(&self) -> bool {
        let held = matches!(self.endpoint.gate().look(), Look::Held { .. });
        !held && self.service.is_usable()
    }

    /// What it is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Starts to probe it.
    pub(crate) fn probe(&self, health: &Health, replica: &Replica) -> ProberTask {
        let settings = settings::health(health, replica);
        let gate = self.endpoint.gate().clone();
        let stdio = match &self.service {
            CoreService::Http(http) => {
                return Prober::new(&self.health, gate, settings, stack::probe(http.clone()))
                    .spawn();
            }
            CoreService::Stdio(stdio) => stdio,
        };
        let idle = match &replica.endpoint {
            Endpoint::Stdio(endpoint) => endpoint.idle,
            Endpoint::Http(_) => Duration::ZERO,
        };
        let (service, probes, calls) = (stdio.clone(), self.health.clone(), self.outlier.clone());
        // What runs for its probes alone, and long enough for clients to be gone, is let go.
        let asleep = move || {
            let report = service.report();
            let own = usize::try_from(probes.sessions()).unwrap_or(usize::MAX);
            report.pids().is_empty() || (report.sessions <= own && calls.quiet() > idle)
        };
        Prober::new(&self.health, gate, settings, stack::probe(stdio.clone()))
            .idle(asleep)
            .spawn()
    }
}

impl Identity {
    /// Reads the files of its certificates.
    fn of(upstream: &Upstream, replica: &Replica) -> Result<Self, SettingsError> {
        let (connect, certificates) = match &replica.endpoint {
            Endpoint::Http(http) => (Some(upstream.timeouts.connect), certificates(&http.tls)?),
            Endpoint::Stdio(_) => (None, Vec::new()),
        };
        Ok(Self {
            name: replica.name.clone(),
            endpoint: replica.endpoint.clone(),
            connect,
            certificates,
        })
    }
}

/// A command is known by the process that it starts; its other settings change beneath its children.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.endpoint, &other.endpoint) {
            (Endpoint::Stdio(one), Endpoint::Stdio(other)) => one.is_same_process(other),
            (one, other) => one == other,
        };
        same && self.name == other.name
            && self.connect == other.connect
            && self.certificates == other.certificates
    }
}

/// A digest of what is in these files: they may change while their paths do not.
fn certificates(tls: &ClientTls) -> Result<Vec<u8>, SettingsError> {
    let mut all = digest::Context::new(&digest::SHA256);
    for file in [&tls.ca, &tls.certificate, &tls.key] {
        let text = file.as_deref().map(|path| {
            fs::read(path).map_err(|e| SettingsError::new(path.display().to_string(), &e))
        });
        // Each with its length, so that none runs into the next.
        let text = text.transpose()?.unwrap_or_default();
        all.update(&text.len().to_be_bytes());
        all.update(&text);
    }
    Ok(all.finish().as_ref().to_vec())
}

impl CoreService {
    fn new(upstream: &Upstream, replica: &Replica) -> Result<Self, SettingsError> {
        let name = &upstream.name;
        match &replica.endpoint {
            Endpoint::Http(endpoint) => {
                HttpUpstream::new(settings::http(name, upstream.timeouts.connect, endpoint))
                    .map(|http| Self::Http(SseUpstream::new(http, settings::sse(endpoint))))
                    .map_err(|e| SettingsError::new(format!("upstreams.{name}"), &e))
            }
            Endpoint::Stdio(endpoint) => {
                let settings = settings::stdio(name, endpoint);
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
            // Calls in flight hold their connections, but for those of the old transport, whose answers come on another; the rest
            // closes when the last handle goes.
            Self::Http(http) => {
                let idle = async {
                    while http.pending() > 0 {
                        tokio::time::sleep(LOOK).await;
                    }
                };
                let _late = tokio::time::timeout(limit, idle).await;
                // Cancellations of the old transport go over the other.
                http.close().await;
                http.inner().close().await;
            }
            Self::Stdio(stdio) => {
                stdio.cool_down();
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
