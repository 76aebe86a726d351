//! The rows: a leaf for each kind of request, and each layer over one.

use std::{num::NonZeroUsize, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, service_fn};
use ziggurat_layers::{
    Body,
    access_log::AccessLogLayer,
    attempt::InSession,
    balance::{Balance, BalanceSettings, Endpoint, EndpointSet, LoadLayer, Member},
    body_limit::BodyLimitLayer,
    by_tool::ByTool,
    circuit::{CircuitLayer, CircuitSettings},
    credentials::{CredentialsLayer, CredentialsSettings},
    deadline::{DeadlineLayer, DeadlineSettings},
    drain::{DrainLayer, DrainSignals},
    exchange::{ErrorStyle, Exchange, ExchangeLayer, RouteInfo},
    gate::Gate,
    guard::{CorsLayer, GuardLayer, GuardSettings},
    health::outlier::{OutlierDetector, OutlierLayer, OutlierSettings},
    heartbeat::{HeartbeatLayer, HeartbeatSettings},
    http_sse::{Channels, HttpSseLayer, HttpSseSettings},
    inspect::{InspectLayer, InspectSettings},
    intercept::{
        Direction, Edit, InterceptLayer, InterceptSettings,
        rules::{Action, Change, Expression, OnError, Rule, RuleSet, When},
    },
    limit::{LimitLayer, LimitSettings},
    mcp::{CallFacts, headers::SESSION_ID},
    metrics::Tools,
    observe::ObserveLayer,
    rate_limit::{Allowance, KeyPart, RateLimitLayer, RateLimitSettings},
    record::{ClientRecordLayer, ServerRecordLayer},
    replay::{ReplayLayer, ReplaySettings, ReplayStore},
    rescue::RescueLayer,
    resume::{ResumeLayer, ResumeSettings},
    retry::{RetryLayer, RetrySettings},
    route::{Match, Route, Router},
    session::{
        Key, Keys, MemoryStore, SessionLayer, SessionSettings,
        seal::{Bound, Serial, Ticket},
    },
    switch::{SwitchLayer, Switches},
    timeout::{TimeoutLayer, TimeoutSettings},
};

use crate::BoxError;

/// How a request comes to the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Template {
    /// As from the listener.
    Bare,
    /// With its exchange.
    Slot,
    /// With its facts: a call of 2026-07-28.
    Facts,
    /// The same for a call of 2025-11-25 in a session.
    Legacy,
}

/// One thing to measure.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) template: Template,
    calls: Box<dyn Fn(u64) -> BoxFuture<'static, Result<(), BoxError>>>,
}

/// What the requests of a row are made from.
#[derive(Clone)]
struct Form {
    template: Template,
    headers: HeaderMap,
    body: Bytes,
    facts: CallFacts,
}

const MODERN: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}},"name":"echo","arguments":{"text":"hello"}}}"#;
const LEGACY: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#;
const ANSWER: &str =
    r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"hello"}]}}"#;

// === impl Row ===

impl Row {
    pub(crate) fn is_leaf(&self) -> bool {
        self.name.starts_with("leaf")
    }

    /// Makes so many calls, and reads each answer to its end.
    pub(crate) async fn run(&self, calls: u64) -> Result<(), BoxError> {
        (self.calls)(calls).await
    }
}

impl Form {
    fn new(template: Template) -> Result<Self, BoxError> {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set("host", "localhost:8080");
        set("accept", "application/json, text/event-stream");
        set("content-type", "application/json");
        set("user-agent", "bench/1");
        let legacy = template == Template::Legacy;
        if legacy {
            set("mcp-protocol-version", "2025-11-25");
        } else {
            set("mcp-protocol-version", "2026-07-28");
            set("mcp-method", "tools/call");
            set("mcp-name", "echo");
        }
        let body = Bytes::from_static(if legacy { LEGACY } else { MODERN }.as_bytes());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let facts = CallFacts::read(&Method::POST, &headers, &body)?;
        Ok(Self {
            template,
            headers,
            body,
            facts,
        })
    }

    fn make(&self) -> Request<Body> {
        let mut request = Request::new(Body::full(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/mcp");
        // As hyper makes it: a clone would have no room for another header.
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        headers.extend(self.headers.clone());
        *request.headers_mut() = headers;
        match self.template {
            Template::Bare => {}
            Template::Slot => drop(Exchange::of(&mut request)),
            Template::Facts => Exchange::of(&mut request).set_call(self.facts.clone()),
            Template::Legacy => {
                Exchange::of(&mut request).set_call(self.facts.clone());
                request.extensions_mut().insert(InSession::default());
            }
        }
        request
    }
}

// === the table ===

/// Answers at once.
fn leaf() -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = BoxError,
    Future = BoxFuture<'static, Result<Response<Body>, BoxError>>,
> + Clone
+ Send
+ Sync
+ 'static {
    service_fn(|request: Request<Body>| -> BoxFuture<'static, _> {
        drop(request);
        Box::pin(std::future::ready({
            let mut response = Response::new(Body::full(ANSWER));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok(response)
        }))
    })
}

/// A row for this layer.
macro_rules! row {
    ($name:literal, $template:ident, $layer:expr) => {
        row($name, Template::$template, $layer.layer(leaf()))?
    };
}

const SESSION: &str = "session (2025-11-25)";

/// The leaves, and each layer of the default tower, top first; or some of them, with the one that is wanted.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn rows(only: Option<&str>) -> Result<Vec<Row>, BoxError> {
    let tools = Tools::default();
    let guard = GuardSettings::loopback();
    let many = NonZeroUsize::new(1024);
    let limits = LimitSettings {
        calls: many,
        streams: many,
    };
    let deadline = DeadlineSettings {
        limit: Duration::from_secs(300),
        cap: Duration::from_secs(3600),
    };
    let detector = OutlierDetector::new("u");
    detector.set(Some(OutlierSettings::default()));
    let outlier = detector.endpoint("e", &Gate::new());
    let switches = Switches::new();
    switches.set_tools(vec!["another".into()]);
    let rate = RateLimitSettings {
        per: vec![KeyPart::Client],
        allowance: Allowance {
            rate: "1000000/s".parse().ok(),
            burst: None,
            streams: None,
        },
        ..RateLimitSettings::default()
    };
    let mut rows = vec![
        row("leaf, bare", Template::Bare, leaf())?,
        row("leaf, slot", Template::Slot, leaf())?,
        row("leaf, facts", Template::Facts, leaf())?,
        row("leaf, legacy", Template::Legacy, leaf())?,
        row!("exchange", Bare, ExchangeLayer::new()),
        row!(
            "access_log (no subscriber)",
            Facts,
            AccessLogLayer::new(true)
        ),
        row!(
            "record (server)",
            Facts,
            ServerRecordLayer::new(["/mcp"], &tools)
        ),
        row!(
            "heartbeat",
            Facts,
            HeartbeatLayer::new(Some(HeartbeatSettings::default()))
        ),
        row!("guard (CORS)", Facts, CorsLayer::new(guard.clone())),
        row!("rescue", Facts, RescueLayer::new()),
        row!("drain", Facts, DrainLayer::new(DrainSignals::default())),
        row!("body_limit", Facts, BodyLimitLayer::new(Some(4 << 20))),
        row!("guard", Facts, GuardLayer::new(guard)),
        row("route", Template::Facts, router())?,
        row!("inspect", Slot, InspectLayer::new(InspectSettings::mcp())),
        row!(
            "http_sse",
            Facts,
            HttpSseLayer::new(HttpSseSettings::default(), Channels::default())
        ),
        row!(
            "switch (another tool is off)",
            Facts,
            SwitchLayer::new(&switches)
        ),
        row!(
            "credentials",
            Facts,
            CredentialsLayer::new(CredentialsSettings::default())
        ),
        row!("session", Facts, session_layer(keys()?)),
        row!("rate_limit (off)", Facts, RateLimitLayer::default()),
        row!(
            "rate_limit (one, by client)",
            Facts,
            RateLimitLayer::new("/", &[rate])
        ),
        row!(
            "replay (2025-11-25, an answer without a stream)",
            Legacy,
            ReplayLayer::new(ReplaySettings::default(), ReplayStore::default())
        ),
        row!("intercept (off)", Facts, InterceptLayer::off()),
        row!(
            "intercept (ten rules, for other tools)",
            Facts,
            rules((0..10).map(|_| rule("another", Direction::Request, Action::Continue)))
        ),
        row!(
            "intercept (a request is looked into)",
            Facts,
            rules([looks_into("args.text == 'bye'", Direction::Request)?])
        ),
        row!(
            "intercept (a request is changed)",
            Facts,
            rules([rule(
                "echo",
                Direction::Request,
                set("/params/arguments/text")?
            )])
        ),
        row!(
            "intercept (an answer is looked into)",
            Facts,
            rules([looks_into("has(result.isError)", Direction::Response)?])
        ),
        row!(
            "intercept (an answer is changed)",
            Facts,
            rules([rule(
                "echo",
                Direction::Response,
                set("/result/content/0/text")?
            )])
        ),
        row!("limit", Facts, LimitLayer::new(limits)),
        row!("deadline", Facts, DeadlineLayer::new(Some(deadline))),
        row!(
            "deadline (ten rules by tool, none fits)",
            Facts,
            DeadlineLayer::new(by_tool(deadline))
        ),
        row!(
            "retry",
            Facts,
            RetryLayer::new("u", RetrySettings::default())
        ),
        row("balance, load (one endpoint)", Template::Facts, balance(1))?,
        row("balance, load (three)", Template::Facts, balance(3))?,
        row!("load", Facts, LoadLayer::new(Endpoint::new("u", "a", 1, 0))),
        row!(
            "circuit",
            Facts,
            CircuitLayer::new(CircuitSettings::default())
        ),
        row!("outlier", Facts, OutlierLayer::new(outlier)),
        row!(
            "record (client)",
            Facts,
            ClientRecordLayer::new("u", "e", "tcp", &tools)
        ),
        row!(
            "timeout",
            Facts,
            TimeoutLayer::new(TimeoutSettings::default())
        ),
        row!(
            "resume (2025-11-25, an answer without a stream)",
            Legacy,
            ResumeLayer::new("u", Some(ResumeSettings::default()))
        ),
        row!("observe", Facts, ObserveLayer::new("u")),
    ];
    // Its number is random, and what gathering randomness costs differs from run to run: the other rows go without.
    if only.is_none_or(|name| name == SESSION) {
        rows.push(session()?);
    }
    Ok(rows)
}

fn row<S, B>(name: &'static str, template: Template, service: S) -> Result<Row, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Ok(with(name, Form::new(template)?, service))
}

/// Nothing is boxed on the way of a call, so that what a layer costs is all that there is.
fn with<S, B>(name: &'static str, form: Form, service: S) -> Row
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Row {
        name,
        template: form.template,
        calls: Box::new(move |calls| {
            let (form, service) = (form.clone(), service.clone());
            Box::pin(async move {
                for _ in 0..calls {
                    let mut service = service.clone();
                    let service = service.ready().await.map_err(Into::into)?;
                    let response = service.call(form.make()).await.map_err(Into::into)?;
                    let mut body = pin!(response.into_body());
                    while let Some(frame) = body.frame().await {
                        frame.map_err(Into::into)?;
                    }
                }
                Ok(())
            })
        }),
    }
}

fn router() -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let info = RouteInfo {
        name: "/mcp".into(),
        prefix: "/mcp".into(),
        errors: ErrorStyle::default(),
    };
    Router::new([Route {
        matcher: Match::default(),
        info: Arc::new(info),
        service: leaf(),
    }])
}

fn session_layer(keys: Keys) -> SessionLayer {
    SessionLayer::new(
        SessionSettings::default(),
        keys,
        Arc::new(MemoryStore::new()),
    )
}

/// A clock of their own for ten tools, none of which is called.
fn by_tool(deadline: DeadlineSettings) -> ByTool<Option<DeadlineSettings>> {
    let rules = (0..10).map(|n| (format!("tool_{n}_*").as_str().into(), Some(deadline)));
    ByTool::new(Some(deadline), rules)
}

fn rules(rules: impl IntoIterator<Item = Rule>) -> InterceptLayer {
    let rules = RuleSet {
        rules: rules.into_iter().collect(),
        dry_run: false,
    };
    InterceptLayer::new(InterceptSettings::default(), rules.interceptors("/mcp"))
}

fn rule(tool: &str, direction: Direction, action: Action) -> Rule {
    Rule {
        name: "bench".into(),
        when: When {
            tools: vec![tool.into()],
            ..When::new(direction)
        },
        action,
        on_error: OnError::Block,
    }
}

/// An expression that is not true.
fn looks_into(expression: &str, direction: Direction) -> Result<Rule, BoxError> {
    let mut rule = rule("echo", direction, Action::Continue);
    rule.when.expression = Some(Expression::new(expression)?);
    Ok(rule)
}

fn set(pointer: &str) -> Result<Action, BoxError> {
    Ok(Action::Modify(Change {
        edits: vec![Edit::Set(pointer.parse()?, "\"bye\"".into())],
        ..Change::default()
    }))
}

fn keys() -> Result<Keys, BoxError> {
    Ok(Keys::new(Key::from_text(&"5a".repeat(32))?, []))
}

/// Calls come with the sealed id of a session.
fn session() -> Result<Row, BoxError> {
    let keys = keys()?;
    let ticket = Ticket {
        serial: Serial::random()?,
        minted: std::time::UNIX_EPOCH.elapsed()?.as_secs(),
        endpoint: "e".into(),
        upstream_id: "s-1".into(),
    };
    let bound = Bound {
        route: "",
        principal: None,
    };
    let sealed = keys.seal(&ticket, bound).ok_or("the id is too long")?;
    let mut form = Form::new(Template::Legacy)?;
    form.headers
        .insert(SESSION_ID, HeaderValue::try_from(&sealed)?);
    form.facts.session = Some(sealed.into());
    let service = session_layer(keys).layer(leaf());
    Ok(with(SESSION, form, service))
}

fn balance(
    endpoints: usize,
) -> impl Service<
    Request<Body>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    let set = EndpointSet::new("u");
    let names = ["a", "b", "c"].into_iter().take(endpoints);
    let endpoints: Vec<_> = names.map(|name| set.keep(name, 1, 0)).collect();
    set.replace_all(endpoints.iter().map(|endpoint| Member {
        endpoint: endpoint.clone(),
        service: LoadLayer::new(endpoint.clone()).layer(leaf()),
    }));
    Balance::new(BalanceSettings::default(), set)
}
