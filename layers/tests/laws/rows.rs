//! The table: every layer of the crate, once, with ordinary settings.

use std::{num::NonZeroU32, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, Request, Response, header};
use http_body::Body as HttpBody;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};
use ziggurat_layers::{
    Body, BoxError,
    access_log::AccessLogLayer,
    balance::{Balance, BalanceSettings, Endpoint, EndpointSet, LoadLayer, Member},
    body_limit::BodyLimitLayer,
    chaos::{ChaosLayer, ChaosRule, ChaosSettings, Injection},
    circuit::{CircuitHandle, CircuitLayer, CircuitSettings, State},
    credentials::{CredentialsLayer, CredentialsSettings},
    deadline::{DeadlineLayer, DeadlineSettings},
    drain::{DrainLayer, DrainSignals},
    exchange::{Exchange, ExchangeLayer, RouteInfo},
    gate::{Gate, GateLayer, Look},
    guard::{CorsLayer, GuardLayer, GuardSettings},
    health::outlier::{OutlierDetector, OutlierLayer, OutlierSettings},
    heartbeat::{HeartbeatLayer, HeartbeatSettings},
    http_sse::{Channels, HttpSseLayer, HttpSseSettings},
    inspect::{InspectLayer, InspectSettings},
    intercept::{Asked, InterceptLayer, InterceptSettings, Interceptor, Interest},
    limit::{LimitLayer, LimitSettings},
    mcp::headers::SESSION_ID,
    metrics::Tools,
    observe::ObserveLayer,
    rate_limit::{
        Allowance, KeyPart, MemoryStore as RateMemory, Quota, Rate, RateLimitLayer,
        RateLimitSettings, RateLimits, RateStore, Reply, Usage,
    },
    record::{ClientRecordLayer, ServerRecordLayer},
    replay::{ReplayLayer, ReplaySettings, ReplayStore},
    rescue::RescueLayer,
    resume::{ResumeLayer, ResumeSettings},
    retry::{RetryLayer, RetrySettings},
    route::{Match, Route, Router},
    session::{
        Keys, MemoryStore, SessionLayer, SessionSettings,
        seal::{Bound, Serial, Ticket},
    },
    share::Share,
    switch::{SwitchLayer, Switches},
    timeout::{TimeoutLayer, TimeoutSettings},
};

use super::{leaf::Leaf, rig::Kind};

/// A layer over a leaf, from outside.
pub(crate) type Built = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// Says what a layer has not given back, if there is something.
pub(crate) type Idle = Box<dyn Fn() -> Option<String>>;

/// One layer.
pub(crate) struct Row {
    /// Its service, with the path of its module.
    pub(crate) service: &'static str,
    pub(crate) build: Box<dyn Fn(Leaf, Kind) -> (Built, Idle)>,
    /// It is ready before the leaf is, and waits in its future.
    pub(crate) always_ready: bool,
    /// It answers for errors, and for panics.
    pub(crate) answers: bool,
    /// It repeats a call that failed.
    pub(crate) repeats: bool,
    /// The headers that it takes out of requests.
    pub(crate) removes: &'static [HeaderName],
}

/// How many calls may be in flight where a layer counts them.
pub(crate) const PLACES: usize = 8;

/// Every layer.
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(|leaf, _| plain(&ExchangeLayer::new(), leaf)),
        row(|leaf, _| plain(&AccessLogLayer::new(true), leaf)),
        row(|leaf, _| plain(&ServerRecordLayer::new(["/"], &Tools::default()), leaf)),
        row(|leaf, _| plain(&CorsLayer::new(GuardSettings::loopback()), leaf)),
        row(|leaf, _| {
            let settings = HeartbeatSettings::default();
            plain(&HeartbeatLayer::new(Some(settings)), leaf)
        }),
        Row {
            answers: true,
            ..row(|leaf, _| plain(&RescueLayer::new(), leaf))
        },
        row(|leaf, _| plain(&DrainLayer::new(DrainSignals::default()), leaf)),
        row(|leaf, _| plain(&GuardLayer::new(GuardSettings::loopback()), leaf)),
        row(|leaf, _| plain(&BodyLimitLayer::new(Some(1 << 20)), leaf)),
        Row {
            always_ready: true,
            ..row(route)
        },
        row(|leaf, kind| plain(&InspectLayer::new(inspect(kind)), leaf)),
        row(|leaf, _| {
            let settings = HttpSseSettings::default();
            plain(&HttpSseLayer::new(settings, Channels::default()), leaf)
        }),
        Row {
            removes: &[header::AUTHORIZATION],
            ..row(|leaf, _| plain(&CredentialsLayer::new(CredentialsSettings::default()), leaf))
        },
        row(|leaf, _| plain(&SwitchLayer::new(&other_tools_off()), leaf)),
        Row {
            service: "ziggurat_layers::session::Session",
            ..row(session)
        },
        row(|leaf, _| plain(&rate_limit(RateLimits::new("/")), leaf)),
        row(|leaf, _| plain(&rate_limit(asked()), leaf)),
        // Outside of a session, where nothing is kept: what is kept is no law's business.
        row(|leaf, _| plain(&replay(), leaf)),
        row(limit),
        row(|leaf, _| plain(&InterceptLayer::off(), leaf)),
        row(|leaf, kind| plain(&looks(kind), leaf)),
        row(|leaf, _| plain(&DeadlineLayer::new(Some(DEADLINE)), leaf)),
        Row {
            repeats: true,
            ..row(|leaf, _| plain(&RetryLayer::new("u", retry()), leaf))
        },
        Row {
            always_ready: true,
            ..row(balance)
        },
        row(load),
        row(|leaf, _| plain(&CircuitLayer::new(CircuitSettings::default()), leaf)),
        row(half_open_circuit),
        row(outlier),
        row(|leaf, _| plain(&GateLayer::new(Gate::new()), leaf)),
        row(|leaf, _| {
            plain(
                &ClientRecordLayer::new("u", "e", "tcp", &Tools::default()),
                leaf,
            )
        }),
        row(|leaf, _| plain(&TimeoutLayer::new(TIMEOUTS), leaf)),
        row(|leaf, _| {
            let settings = ResumeSettings::default();
            plain(&ResumeLayer::new("u", Some(settings)), leaf)
        }),
        row(|leaf, _| plain(&ObserveLayer::new("u"), leaf)),
        row(|leaf, _| plain(&chaos(DELAY), leaf)),
        row(|leaf, _| plain(&chaos(DRIP), leaf)),
    ]
}

const DEADLINE: DeadlineSettings = DeadlineSettings {
    limit: Duration::from_secs(300),
    cap: Duration::from_secs(3600),
};

const TIMEOUTS: TimeoutSettings = TimeoutSettings {
    head: Some(Duration::from_secs(60)),
    idle: Some(Duration::from_secs(300)),
};

const DELAY: Injection = Injection::Delay {
    min: Duration::from_millis(1),
    max: Duration::from_millis(2),
};

const DRIP: Injection = Injection::Drip {
    bytes: NonZeroUsize::MIN,
    every: Duration::from_millis(1),
};

/// A row of ordinary properties.
pub(crate) fn row<S, B>(build: impl Fn(Leaf, Kind) -> (S, Idle) + 'static) -> Row
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let name = std::any::type_name::<S>();
    Row {
        service: name.split('<').next().unwrap_or(name),
        build: Box::new(move |leaf, kind| {
            let (service, idle) = build(leaf, kind);
            let erased = service
                .map_response(|response| response.map(Body::new))
                .map_err(Into::into);
            (BoxCloneService::new(erased), idle)
        }),
        always_ready: false,
        answers: false,
        repeats: false,
        removes: &[],
    }
}

/// A layer that shows nothing of what it holds.
fn plain<L: Layer<Leaf>>(layer: &L, leaf: Leaf) -> (L::Service, Idle) {
    (layer.layer(leaf), Box::new(|| None))
}

fn inspect(kind: Kind) -> InspectSettings {
    match kind {
        Kind::Plain => InspectSettings::off(),
        Kind::Json | Kind::Events | Kind::Standing => InspectSettings::mcp(),
    }
}

fn retry() -> RetrySettings {
    RetrySettings {
        safe_tools: vec!["echo".into()],
        ..RetrySettings::default()
    }
}

fn replay() -> ReplayLayer {
    ReplayLayer::new(ReplaySettings::default(), ReplayStore::default())
}

/// Something is off, though not what is called.
fn other_tools_off() -> Switches {
    let switches = Switches::new();
    switches.set_tools(vec!["another".into()]);
    switches
}

fn chaos(injection: Injection) -> ChaosLayer {
    ChaosLayer::new(ChaosSettings {
        seed: 7,
        rules: vec![ChaosRule::new(injection, Share::ALL)],
    })
}

/// It is shown what it wants, and changes nothing.
#[derive(Debug)]
struct Looks(Interest);

impl Interceptor for Looks {
    fn name(&self) -> &'static str {
        "looks"
    }

    fn wants(&self, _: &Asked<'_>) -> Interest {
        self.0
    }
}

fn looks(kind: Kind) -> InterceptLayer {
    // A JSON body is held before its head goes out, so what the laws say of a head without its body cannot be.
    let interest = Interest {
        messages: kind != Kind::Json,
        ..Interest::ALL
    };
    InterceptLayer::new(
        InterceptSettings::default(),
        vec![Arc::new(Looks(interest))],
    )
}

fn route(leaf: Leaf, _: Kind) -> (Router<Leaf>, Idle) {
    let info = RouteInfo {
        name: "/".into(),
        prefix: "/".into(),
        errors: ziggurat_layers::exchange::ErrorStyle::default(),
    };
    let router = Router::new([Route {
        matcher: Match::default(),
        info: Arc::new(info),
        service: leaf,
    }]);
    (router, Box::new(|| None))
}

/// Calls come with the sealed id of a session, and go on with the one that the rig gave them.
fn session(
    leaf: Leaf,
    _: Kind,
) -> (
    impl Service<
        Request<Body>,
        Response = Response<impl HttpBody<Data = Bytes, Error = BoxError> + Send + 'static>,
        Error = BoxError,
        Future: Send,
    > + Clone
    + Send
    + 'static,
    Idle,
) {
    let keys = Keys::random().expect("random bytes");
    let ticket = Ticket {
        serial: Serial::random().expect("random bytes"),
        minted: std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |time| time.as_secs()),
        endpoint: "e".into(),
        upstream_id: "s-1".into(),
    };
    let bound = Bound {
        route: "",
        principal: None,
    };
    let sealed = keys.seal(&ticket, bound).expect("short enough");
    let layer = SessionLayer::new(
        SessionSettings::default(),
        keys,
        Arc::new(MemoryStore::new()),
    );
    let service = layer
        .layer(leaf)
        .map_request(move |mut request: Request<Body>| {
            let call = Exchange::get(&request).and_then(|exchange| exchange.call().cloned());
            if let Some(mut call) = call {
                call.session = Some(sealed.as_str().into());
                let exchange = Exchange::new("r-1");
                exchange.set_call(call);
                request.extensions_mut().insert(Arc::new(exchange));
                let sealed = sealed.parse().expect("a header value");
                request.headers_mut().insert(SESSION_ID, sealed);
            }
            request
        });
    (service, Box::new(|| None))
}

fn rate_limit(limits: RateLimits) -> RateLimitLayer {
    let limit = |name: &str, rate| RateLimitSettings {
        name: name.to_owned(),
        per: vec![KeyPart::Client],
        allowance: Allowance {
            rate,
            burst: None,
            streams: NonZeroUsize::new(PLACES),
        },
        ..RateLimitSettings::default()
    };
    let many = Rate::per_second(NonZeroU32::new(1000).expect("not zero"));
    limits.layer(&[limit("calls", Some(many)), limit("streams", None)])
}

/// Limits whose store has to be asked.
fn asked() -> RateLimits {
    RateLimits::with_stores("/", |_, keys| Arc::new(Remote(RateMemory::new(keys))))
}

/// Answers a little later.
#[derive(Debug)]
struct Remote(RateMemory);

impl RateStore for Remote {
    fn take(&self, key: &[u8], quota: Quota, calls: u32) -> Reply {
        let reply = self.0.take(key, quota, calls);
        Reply::Later(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            match reply {
                Reply::Now(answer) => answer,
                Reply::Later(later) => later.await,
            }
        }))
    }

    fn give_back(&self, key: &[u8], quota: Quota, calls: u32) {
        self.0.give_back(key, quota, calls);
    }

    fn nearest(&self, most: usize) -> Vec<Usage> {
        self.0.nearest(most)
    }

    fn sweep(&self) -> usize {
        self.0.sweep()
    }

    fn resize(&self, most: NonZeroUsize) {
        self.0.resize(most);
    }

    fn crowded(&self) -> u64 {
        self.0.crowded()
    }
}

fn outlier(leaf: Leaf, _: Kind) -> (<OutlierLayer as Layer<Leaf>>::Service, Idle) {
    let (detector, gate) = (OutlierDetector::new("u"), Gate::new());
    detector.set(Some(OutlierSettings::default()));
    plain(&OutlierLayer::new(detector.endpoint("e", &gate)), leaf)
}

fn limit(leaf: Leaf, _: Kind) -> (<LimitLayer as Layer<Leaf>>::Service, Idle) {
    let gate = Gate::new();
    let places = NonZeroUsize::new(PLACES);
    let layer = LimitLayer::new(LimitSettings {
        calls: places,
        streams: places,
    })
    .gate(gate.clone());
    layer.set_tools([("*".into(), places)]);
    let idle = move || (gate.look() != Look::Open).then(|| "its gate is shut".to_owned());
    (layer.layer(leaf), Box::new(idle))
}

fn at_rest(endpoints: Vec<Endpoint>) -> Idle {
    Box::new(move || {
        let busy = endpoints
            .iter()
            .find(|e| e.load().calls() + e.load().streams() > 0)?;
        Some(format!("{} has something in hand", busy.name()))
    })
}

fn load(leaf: Leaf, _: Kind) -> (<LoadLayer as Layer<Leaf>>::Service, Idle) {
    let endpoint = Endpoint::new("u", "a", 1, 0);
    let layer = LoadLayer::new(endpoint.clone());
    (layer.layer(leaf), at_rest(vec![endpoint]))
}

type Metered = <LoadLayer as Layer<Leaf>>::Service;

fn balance(leaf: Leaf, _: Kind) -> (Balance<Metered>, Idle) {
    let set = EndpointSet::new("u");
    let endpoints = ["a", "b"].map(|name| set.keep(name, 1, 0));
    set.replace_all(endpoints.iter().map(|endpoint| Member {
        endpoint: endpoint.clone(),
        service: LoadLayer::new(endpoint.clone()).layer(leaf.clone()),
    }));
    let balance = Balance::new(BalanceSettings::default(), set);
    (balance, at_rest(endpoints.into()))
}

/// A breaker that opened, and is half-open by the time that the rig is ready.
fn half_open_circuit(leaf: Leaf, _: Kind) -> (<CircuitLayer as Layer<Leaf>>::Service, Idle) {
    let settings = CircuitSettings {
        consecutive: Some(NonZeroU32::MIN),
        probes: NonZeroU32::new(PLACES as u32).expect("not zero"),
        ..CircuitSettings::default()
    };
    let handle = CircuitHandle::new("u", "e");
    let layer = CircuitLayer::with(&handle, Some(settings));
    let fails = service_fn(async |_: Request<Body>| Err::<Response<Body>, _>(BoxError::from("no")));
    let failed = layer.layer(fails).oneshot(Request::new(Body::empty()));
    assert!(failed.now_or_never().is_some_and(|result| result.is_err()));
    let state = handle.look().map(|report| report.state);
    assert_eq!(state, Some(State::Open));
    (layer.layer(leaf), Box::new(|| None))
}
