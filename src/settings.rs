//! What the layers are told: the config, in their terms.

use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use ziggurat_layers::{
    balance,
    by_tool::ByTool,
    circuit::{CircuitLayer, CircuitSettings},
    credentials::CredentialsSettings,
    deadline::DeadlineSettings,
    drain::DrainSignals,
    exchange::{ErrorStyle, RouteInfo},
    guard::{GuardSettings, OriginName},
    health::{HealthSettings, Probe, outlier::OutlierHandle},
    heartbeat::HeartbeatSettings,
    http_sse::{Channels, HttpSseLayer, HttpSseSettings},
    inspect::InspectSettings,
    intercept::{InterceptLayer, InterceptSettings, Paused},
    limit::LimitLayer,
    metrics::Tools,
    pattern::Pattern,
    rate_limit::RateLimitLayer,
    replay::ReplayLayer,
    resume::ResumeSettings,
    retry::RetryLayer,
    route::Match,
    session::SessionLayer,
    switch::Switches,
    timeout::TimeoutSettings,
    upstream::{
        http::{ClientIdentity, HttpUpstreamSettings, Pem, TlsSettings},
        sse::SseSettings,
        stdio::{self, StdioSettings},
    },
    waits::Waits,
};

use crate::{
    config::{
        Config, Deadline, Endpoint, Errors, Health, HttpEndpoint, Isolation, ProbeKind, Protocol,
        Replica, Route, StdioEndpoint, ToolRule, Upstream,
    },
    kept::Kept,
    upstreams::{Core, CoreService, Pool},
};

/// For the server terrace.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Whether operations are logged.
    pub access_log: bool,
    /// The names of the routes, as labels.
    pub names: Vec<String>,
    /// The tools that may be labels.
    pub tools: Tools,
    /// Which hosts and origins are let in.
    pub guard: Arc<GuardSettings>,
    /// The most bytes of a request body.
    pub body_limit: Option<u64>,
    /// Whether, and after how much silence, an event stream gets a comment.
    pub heartbeat: Option<HeartbeatSettings>,
    /// The signals of a shutdown.
    pub drain: DrainSignals,
}

/// For a route terrace.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// Which requests take the route.
    pub matcher: Match,
    /// What the exchange is told of it.
    pub info: Arc<RouteInfo>,
    /// Whether and how calls are read.
    pub inspect: InspectSettings,
    /// How old clients are served.
    pub http_sse: HttpSseLayer,
    /// Whether operations of old clients are logged.
    pub access_log: bool,
    /// The tools that may be labels.
    pub tools: Tools,
    /// The signals of a shutdown.
    pub drain: DrainSignals,
    /// Which secrets of the client go on.
    pub credentials: CredentialsSettings,
    /// The caps of the server, which all routes share.
    pub limit: LimitLayer,
    /// What of its upstream the operator switched off.
    pub switches: Switches,
    /// The sessions of its clients.
    pub session: SessionLayer,
    /// How many calls are let through in how much time.
    pub rate_limit: RateLimitLayer,
    /// The streams that they may come back to.
    pub replay: ReplayLayer,
    /// The cap of the route.
    pub own_limit: LimitLayer,
    /// The rules for its messages.
    pub intercept: InterceptLayer,
    /// How long a call may take.
    pub deadline: ByTool<Option<DeadlineSettings>>,
    /// Another attempt for a call that failed.
    pub retry: RetryLayer,
}

/// For an endpoint terrace.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Its load and its gate.
    pub endpoint: balance::Endpoint,
    /// How it does beside the others.
    pub outlier: OutlierHandle,
    /// Its breaker, and those of its upstream's tools.
    pub circuit: CircuitLayer,
    /// The cap of calls.
    pub limit: LimitLayer,
    /// The upstream's name, as a label.
    pub upstream: String,
    /// How it is reached: `tcp` or `pipe`.
    pub transport: &'static str,
    /// The tools that may be labels.
    pub tools: Tools,
    /// The clocks of an attempt.
    pub timeouts: ByTool<TimeoutSettings>,
    /// How its event streams are gone on with.
    pub resume: Option<ResumeSettings>,
    /// What the clients of its upstream are being asked, also on towers before this one.
    pub waits: Waits,
}

/// A value of a config that a layer does not take.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SettingsError {
    place: String,
    problem: String,
}

impl SettingsError {
    /// What is wrong, and where.
    pub fn new(place: impl Into<String>, problem: &dyn std::fmt::Display) -> Self {
        Self {
            place: place.into(),
            problem: problem.to_string(),
        }
    }
}

impl ServerSettings {
    /// The settings that a config has for the server.
    ///
    /// # Errors
    /// When a name in `hosts` or `origins` cannot be read.
    pub fn new(config: &Config, drain: DrainSignals, tools: Tools) -> Result<Self, SettingsError> {
        let server = &config.server;
        let hosts = server.hosts.as_ref().map(|names| {
            let parse = |name: &String| {
                name.parse()
                    .map_err(|e| SettingsError::new("server.hosts", &e))
            };
            names.iter().map(parse).collect::<Result<Vec<_>, _>>()
        });
        let origins = server.origins.as_ref().map(|names| {
            let parse = |name: &String| {
                name.parse::<OriginName>()
                    .map_err(|e| SettingsError::new("server.origins", &e))
            };
            names.iter().map(parse).collect::<Result<Vec<_>, _>>()
        });
        Ok(Self {
            access_log: server.access_log,
            names: config
                .routes
                .iter()
                .map(|route| route.name.clone())
                .collect(),
            tools,
            guard: Arc::new(GuardSettings {
                hosts: hosts.transpose()?,
                origins: origins.transpose()?,
            }),
            body_limit: server.body_limit,
            heartbeat: server
                .heartbeat
                .map(|interval| HeartbeatSettings { interval }),
            drain,
        })
    }

    /// The names of the routes.
    pub fn routes(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

impl RouteSettings {
    /// The settings of one route. Makes a place in `kept` for what it counts.
    pub(crate) fn new(
        config: &Config,
        (route, matcher): (&Route, Match),
        upstream: &Upstream,
        server: &ServerSettings,
        kept: &Kept,
        (switches, session, retry): (Switches, SessionLayer, RetryLayer),
    ) -> Self {
        let mcp = route.protocol == Protocol::Mcp;
        // Without a limit of the server, inspect still needs one of its own: it holds the body.
        let cap = config.server.body_limit.unwrap_or(MOST_INSPECTED);
        Self {
            matcher,
            info: route_info(route),
            inspect: if mcp {
                InspectSettings {
                    cap,
                    ..InspectSettings::mcp()
                }
            } else {
                InspectSettings::off()
            },
            http_sse: http_sse(route, server, &kept.channels).limit(kept.caps.server().clone()),
            access_log: server.access_log,
            tools: server.tools.clone(),
            drain: server.drain.clone(),
            credentials: CredentialsSettings {
                forward: route.forward.clone(),
            },
            switches,
            session,
            rate_limit: kept.rates.layer(route),
            replay: kept.replays.layer(route),
            intercept: intercept(route, &kept.paused),
            limit: kept.caps.server().clone(),
            own_limit: kept.caps.route(&route.name),
            deadline: by_tool(upstream, route.deadline.map(deadline), |rule| {
                rule.deadline.map(|own| own.map(deadline))
            }),
            retry,
        }
    }
}

/// What layers know of a route.
pub(crate) fn route_info(route: &Route) -> Arc<RouteInfo> {
    Arc::new(RouteInfo {
        name: route.name.as_str().into(),
        prefix: route.path.as_str().into(),
        errors: match route.errors {
            Errors::Envelope => ErrorStyle::Envelope,
            Errors::Status => ErrorStyle::Status,
        },
    })
}

/// Which requests take a route.
///
/// # Errors
/// When its path or host cannot be read.
pub(crate) fn matcher(route: &Route) -> Result<Match, SettingsError> {
    let wrong = |e: &dyn std::fmt::Display| SettingsError::new(format!("route {}", route.name), e);
    let host = route.host.as_ref().map(|host| host.parse()).transpose();
    Ok(Match {
        path: route.path.parse().map_err(|e| wrong(&e))?,
        host: host.map_err(|e| wrong(&e))?,
        headers: route.headers.clone(),
    })
}

/// Old clients of a route; a channel may be quiet for as long as a session.
fn http_sse(route: &Route, server: &ServerSettings, channels: &Channels) -> HttpSseLayer {
    let defaults = HttpSseSettings::default();
    let settings = HttpSseSettings {
        serve: route.http_sse,
        idle: route.session.as_ref().map_or(defaults.idle, |s| s.idle),
        draining: server.drain.draining.clone(),
        ..defaults
    };
    HttpSseLayer::new(settings, channels.clone())
}

fn intercept(route: &Route, paused: &Paused) -> InterceptLayer {
    let Some(intercept) = &route.intercept else {
        return InterceptLayer::off();
    };
    let settings = InterceptSettings {
        cap: usize::try_from(intercept.message_cap).unwrap_or(usize::MAX),
        lenient: intercept.rules.dry_run,
        paused: paused.clone(),
    };
    InterceptLayer::new(settings, intercept.rules.interceptors(&route.name))
}

/// The most bytes of an MCP request where the server's body limit is off.
const MOST_INSPECTED: u64 = 64 << 20;

impl EndpointSettings {
    /// The settings of an endpoint. From here on its breaker goes by the settings of this config.
    pub(crate) fn new(upstream: &Upstream, pool: &Pool, core: &Core, tools: Tools) -> Self {
        let timeouts = TimeoutSettings {
            head: upstream.timeouts.head,
            idle: upstream.timeouts.idle,
        };
        let circuit = CircuitLayer::with(&core.circuit, upstream.circuit.clone());
        Self {
            endpoint: core.endpoint.clone(),
            circuit: circuit
                .gate(core.endpoint.gate().clone())
                .tools(&pool.tools),
            outlier: core.outlier.clone(),
            limit: core.limit.clone(),
            upstream: upstream.name.clone(),
            transport: match core.service {
                CoreService::Http(_) => "tcp",
                CoreService::Stdio(_) => "pipe",
            },
            tools,
            timeouts: by_tool(upstream, timeouts, |rule| rule.timeouts),
            resume: match core.service {
                CoreService::Http(_) => upstream.resume,
                // What a process had to say is gone with it.
                CoreService::Stdio(_) => None,
            },
            waits: pool.waits.clone(),
        }
    }
}

/// What all calls of an upstream have, or what the first rule for their tool has instead.
fn by_tool<T: Clone>(
    upstream: &Upstream,
    otherwise: T,
    own: impl Fn(&ToolRule) -> Option<T>,
) -> ByTool<T> {
    let rules = &upstream.tools;
    // Without rules it costs nothing.
    if rules.iter().all(|rule| own(rule).is_none()) {
        return ByTool::from(otherwise);
    }
    let or_as_all = |rule| own(rule).unwrap_or_else(|| otherwise.clone());
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| (rule.tool.clone(), or_as_all(rule)))
        .collect();
    ByTool::new(otherwise, rules)
}

fn deadline(Deadline { limit, cap }: Deadline) -> DeadlineSettings {
    DeadlineSettings { limit, cap }
}

/// The breakers of the tools of an upstream.
pub(crate) fn tool_circuits(upstream: &Upstream) -> ByTool<Option<CircuitSettings>> {
    by_tool(upstream, upstream.tool_circuit.clone(), |rule| {
        rule.circuit.clone()
    })
}

/// The caps of the calls of its tools.
pub(crate) fn tool_caps(
    upstream: &Upstream,
) -> impl Iterator<Item = (Pattern, Option<NonZeroUsize>)> {
    let cap = |rule: &ToolRule| (rule.tool.clone(), rule.concurrency.flatten());
    upstream.tools.iter().map(cap)
}

/// The settings of the transport that an HTTP endpoint speaks.
pub(crate) fn sse(endpoint: &HttpEndpoint) -> SseSettings {
    SseSettings {
        transport: endpoint.transport,
        ..SseSettings::new(endpoint.url.clone())
    }
}

/// The settings of an HTTP upstream service.
pub(crate) fn http(name: &str, connect: Duration, endpoint: &HttpEndpoint) -> HttpUpstreamSettings {
    let tls = &endpoint.tls;
    HttpUpstreamSettings {
        address: endpoint.address,
        headers: endpoint.headers.clone(),
        http2: endpoint.http2,
        tls: TlsSettings {
            ca: tls.ca.clone().map(Pem::File),
            identity: tls
                .certificate
                .clone()
                .zip(tls.key.clone())
                .map(|(chain, key)| ClientIdentity {
                    chain: Pem::File(chain),
                    key: Pem::File(key),
                }),
        },
        connect_timeout: connect,
        pool_idle: endpoint.pool_idle,
        keepalive: endpoint.keepalive,
        ..HttpUpstreamSettings::new(name, endpoint.url.clone())
    }
}

/// The settings of an endpoint's probes.
pub(crate) fn health(health: &Health, replica: &Replica) -> HealthSettings {
    let (address, handshake) = match &replica.endpoint {
        Endpoint::Http(http) => (address(http), health.timeout),
        Endpoint::Stdio(stdio) => (String::new(), stdio.handshake),
    };
    HealthSettings {
        probe: match health.probe {
            ProbeKind::Mcp => Probe::Mcp,
            ProbeKind::Tcp => Probe::Tcp {
                address: address.into(),
            },
            ProbeKind::Http => Probe::Http(health.http.clone()),
        },
        interval: health.interval,
        jitter: health.jitter,
        timeout: health.timeout,
        handshake,
        fall: health.fall,
        rise: health.rise,
        wake: health.wake,
    }
}

/// Where an endpoint is: its address, or else its host, and the port.
fn address(endpoint: &HttpEndpoint) -> String {
    let url = &endpoint.url;
    let usual = if url.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = url.port_u16().unwrap_or(usual);
    match endpoint.address {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!("{}:{port}", url.host().unwrap_or_default()),
    }
}

/// The most requests that children may have unanswered.
const MOST_PENDING: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// The settings of a stdio upstream service.
pub(crate) fn stdio(name: &str, endpoint: &StdioEndpoint) -> StdioSettings {
    let defaults = StdioSettings::new(name, &endpoint.command);
    StdioSettings {
        env: endpoint
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        cwd: endpoint.cwd.clone(),
        isolation: match endpoint.isolation {
            Isolation::PerSession => stdio::Isolation::PerSession,
            Isolation::Shared => stdio::Isolation::Shared,
            Isolation::PerPrincipal => stdio::Isolation::PerPrincipal,
        },
        idle: endpoint.idle,
        lifetime: endpoint.lifetime,
        recycle: endpoint
            .recycle
            .and_then(|calls| NonZeroU64::new(calls.get() as u64)),
        warm: endpoint.warm.map_or(0, NonZeroUsize::get),
        starting: endpoint.starting,
        snapshot: endpoint.snapshot,
        max_children: endpoint.max,
        max_sessions: endpoint.sessions,
        // Calls have their cap above, which may change while the children live; this bounds what passes it.
        max_pending: MOST_PENDING,
        handshake: endpoint.handshake,
        line_limit: usize::try_from(endpoint.line_limit).unwrap_or(usize::MAX),
        silence: endpoint.silence,
        stop: stdio::Stop {
            stdin: endpoint.stop.stdin,
            term: endpoint.stop.term,
        },
        ..defaults
    }
}
