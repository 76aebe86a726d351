//! The table: every operation of the admin listener, once.

use std::fmt;

use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::Problem;
use super::openapi;
use super::order::Order;
use super::{Change, Proxy, Refusal};

/// What is under it needs the token.
pub(crate) const PRIVATE: &str = "/admin/v1/";

/// What Prometheus expects of its text format.
pub(super) const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const PLAIN_TYPE: &str = "text/plain; charset=utf-8";

/// One operation.
pub(crate) struct Operation {
    /// Its name: that of the command of `ziggurat admin`, and of its path.
    pub(crate) name: &'static str,
    /// Where it is.
    pub(crate) path: String,
    /// What it does, in one line.
    pub(crate) about: &'static str,
    /// Whether anybody may ask.
    pub(crate) public: bool,
    /// What it takes; without that it is a GET.
    pub(crate) body: Option<Describe>,
    /// What it answers.
    pub(crate) answer: Answers,
    /// How its answer is shown to people.
    pub(crate) show: Show,
    run: Run,
}

/// Describes a type in a document.
pub(crate) type Describe = fn(&mut SchemaGenerator) -> Schema;

type Run = Box<dyn Fn(&Ask<'_>) -> Result<Reply, Problem> + Send + Sync>;

/// What an operation answers.
#[derive(Clone, Copy)]
pub(crate) enum Answers {
    /// JSON of this type.
    Json(Describe),
    /// A text of this media type.
    Text(&'static str),
}

/// How an answer is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// A line for each of its members.
    Fields,
    /// One of its members, as it is.
    Text(&'static str),
    /// A table.
    Table {
        /// Where the rows are: the list, and the list in each of its items where there is one.
        rows: &'static [&'static str],
        /// Title and place of each column; a place that begins with `^` is in the item of the outer list.
        columns: &'static [(&'static str, &'static str)],
    },
}

/// A request for an operation.
pub(super) struct Ask<'a> {
    pub(super) proxy: &'a dyn Proxy,
    pub(super) body: &'a [u8],
    /// Who asks, for what the operator leaves standing.
    pub(super) by: &'a str,
    pub(super) document: &'a Value,
}

/// What came of it.
pub(super) enum Reply {
    Json(Value),
    Text(StatusCode, &'static str, String),
    /// An order, as it was understood, and what came of that. To be audited.
    Acted(Value, Result<Change, Refusal>),
}

/// All operations, and the document that describes them.
pub(super) struct Table {
    pub(super) operations: Vec<Operation>,
    pub(super) document: Value,
}

// === impl Operation ===

impl Operation {
    /// The method.
    pub(crate) fn method(&self) -> Method {
        if self.body.is_some() {
            Method::POST
        } else {
            Method::GET
        }
    }

    /// Whether a request with this method may be meant.
    pub(super) fn takes(&self, method: &Method) -> bool {
        *method == self.method() || (self.body.is_none() && method == Method::HEAD)
    }

    pub(super) fn run(&self, ask: &Ask<'_>) -> Result<Reply, Problem> {
        (self.run)(ask)
    }

    fn public(
        name: &'static str,
        media: &'static str,
        about: &'static str,
        run: fn(&dyn Proxy) -> (StatusCode, String),
    ) -> Self {
        Self {
            name,
            path: format!("/{name}"),
            about,
            public: true,
            body: None,
            answer: Answers::Text(media),
            show: Show::Fields,
            run: Box::new(move |ask| {
                let (status, text) = run(ask.proxy);
                Ok(Reply::Text(status, media, text))
            }),
        }
    }

    fn read<T: Serialize + JsonSchema + 'static>(
        name: &'static str,
        about: &'static str,
        show: Show,
        run: fn(&dyn Proxy) -> T,
    ) -> Self {
        Self {
            name,
            path: format!("{PRIVATE}{name}"),
            about,
            public: false,
            body: None,
            answer: Answers::Json(|schemas| schemas.subschema_for::<T>()),
            show,
            run: Box::new(move |ask| Ok(Reply::Json(to_json(&run(ask.proxy))))),
        }
    }

    fn act<T: DeserializeOwned + Serialize + JsonSchema + 'static>(
        name: &'static str,
        about: &'static str,
        order: fn(T) -> Order,
    ) -> Self {
        Self {
            name,
            path: format!("{PRIVATE}{name}"),
            about,
            public: false,
            body: Some(|schemas| schemas.subschema_for::<T>()),
            answer: Answers::Json(|schemas| schemas.subschema_for::<Change>()),
            show: Show::Fields,
            run: Box::new(move |ask| {
                let body: T = serde_json::from_slice(ask.body)
                    .map_err(|error| Problem::BadBody(error.to_string()))?;
                let said = to_json(&body);
                Ok(Reply::Acted(said, ask.proxy.act(order(body), ask.by)))
            }),
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path)
    }
}

/// The views hold nothing that JSON lacks.
fn to_json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

// === impl Table ===

impl Table {
    pub(super) fn new() -> Self {
        let operations = operations();
        Self {
            document: openapi::document(&operations),
            operations,
        }
    }

    pub(super) fn at(&self, path: &str) -> Option<&Operation> {
        self.operations.iter().find(|op| op.path == path)
    }
}

/// All operations, in the order in which they are shown.
pub(crate) fn operations() -> Vec<Operation> {
    let mut all = public();
    all.extend(reads());
    all.extend(actions());
    all
}

fn public() -> Vec<Operation> {
    vec![
        Operation::public(
            "livez",
            PLAIN_TYPE,
            "Whether the process serves: always 200.",
            |_| (StatusCode::OK, "alive\n".to_owned()),
        ),
        Operation::public(
            "readyz",
            PLAIN_TYPE,
            "Whether it can take traffic: 200, or 503 with the reason.",
            |proxy| match proxy.ready() {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("not ready: {reason}\n"),
                ),
            },
        ),
        Operation::public(
            "metrics",
            METRICS_TYPE,
            "The metrics, in the text format of Prometheus.",
            |proxy| (StatusCode::OK, proxy.metrics()),
        ),
    ]
}

fn reads() -> Vec<Operation> {
    vec![
        Operation::read(
            "upstreams",
            "Show the upstreams with their endpoints: load, breaker, newest probe, last error.",
            UPSTREAMS,
            |proxy| proxy.upstreams(),
        ),
        Operation::read(
            "sessions",
            "Show the sessions of legacy clients, ids truncated.",
            SESSIONS,
            |proxy| proxy.sessions(),
        ),
        Operation::read(
            "streams",
            "Show how many standing streams each endpoint has open.",
            STREAMS,
            |proxy| proxy.streams(),
        ),
        Operation::read(
            "limits",
            "Show the keys that are nearest to their rate limits.",
            LIMITS,
            |proxy| proxy.limits(),
        ),
        Operation::read(
            "paused",
            "Show the exchanges that wait for a decision.",
            PAUSED,
            |proxy| proxy.paused(),
        ),
        Operation::read("children", "Show the child processes.", CHILDREN, |proxy| {
            proxy.children()
        }),
        Operation::read(
            "config",
            "Show the config in force, every default filled in, secrets masked, and where values come from.",
            Show::Text("yaml"),
            |proxy| proxy.config(),
        ),
        Operation::read(
            "overrides",
            "Show what the operator set and has not taken back.",
            OVERRIDES,
            |proxy| proxy.overrides(),
        ),
        Operation::read("log", "Show what is logged.", Show::Fields, |proxy| {
            proxy.log()
        }),
        Operation::read("build", "Show what runs there.", Show::Fields, |proxy| {
            proxy.build()
        }),
        Operation {
            run: Box::new(|ask| Ok(Reply::Json(ask.document.clone()))),
            answer: Answers::Json(|_| json!({ "type": "object" }).try_into().unwrap_or_default()),
            ..Operation::read(
                "openapi.json",
                "Print the OpenAPI document of this API.",
                Show::Text(""),
                |_| (),
            )
        },
    ]
}

fn actions() -> Vec<Operation> {
    vec![
        Operation::act(
            "drain-endpoint",
            "Let an endpoint take no more calls; those in flight finish.",
            Order::DrainEndpoint,
        ),
        Operation::act(
            "undrain-endpoint",
            "Let a drained endpoint take calls again.",
            Order::UndrainEndpoint,
        ),
        Operation::act(
            "set-weight",
            "Change an endpoint's share of traffic, or give it back the one of the config.",
            Order::SetWeight,
        ),
        Operation::act(
            "force-circuit",
            "Force the breaker of an endpoint open or closed, or take that back.",
            Order::ForceCircuit,
        ),
        Operation::act(
            "force-tool-circuit",
            "Force the breaker of a tool open or closed, or take that back.",
            Order::ForceToolCircuit,
        ),
        Operation::act(
            "kill-upstream",
            "Refuse all new calls of an upstream, at once.",
            Order::KillUpstream,
        ),
        Operation::act(
            "revive-upstream",
            "Let a killed upstream take calls again.",
            Order::ReviveUpstream,
        ),
        Operation::act(
            "kill-tool",
            "Refuse all new calls of a tool, at once.",
            Order::KillTool,
        ),
        Operation::act(
            "revive-tool",
            "Let a killed tool take calls again.",
            Order::ReviveTool,
        ),
        Operation::act(
            "end-session",
            "End a session: its client gets 404, and begins anew.",
            Order::EndSession,
        ),
        Operation::act(
            "restart-child",
            "Stop a child process; its sessions end, and the next call starts another.",
            Order::RestartChild,
        ),
        Operation::act("set-log", "Change what is logged.", Order::SetLog),
        Operation::act(
            "decide",
            "Let a paused exchange go on, as it is or with another message, or refuse it.",
            Order::Decide,
        ),
        Operation::act(
            "drain",
            "Drain the whole proxy, as SIGTERM does: calls finish, and it exits.",
            Order::Drain,
        ),
    ]
}

const UPSTREAMS: Show = Show::Table {
    rows: &["", "endpoints"],
    columns: &[
        ("UPSTREAM", "^name"),
        ("KILLED", "^killed"),
        ("ENDPOINT", "name"),
        ("STATE", "state"),
        ("WEIGHT", "weight"),
        ("CALLS", "calls"),
        ("STREAMS", "open_streams"),
        ("HEAD MS", "head_ms"),
        ("CIRCUIT", "circuit/state"),
        ("HEALTH", "health/state"),
        ("PROBE", "health/last/result"),
        ("LAST ERROR", "health/error"),
    ],
};

const LIMITS: Show = Show::Table {
    rows: &["", "nearest"],
    columns: &[
        ("ROUTE", "^route"),
        ("LIMIT", "^limit"),
        ("KEY", "key"),
        ("USED", "used"),
        ("BURST", "burst"),
        ("NEXT IN MS", "next_in_ms"),
    ],
};

const PAUSED: Show = Show::Table {
    rows: &[""],
    columns: &[
        ("ID", "id"),
        ("ROUTE", "route"),
        ("RULE", "rule"),
        ("WAY", "direction"),
        ("METHOD", "method"),
        ("NAME", "name"),
        ("WAITED MS", "waited_ms"),
        ("LEFT MS", "left_ms"),
        ("THEN", "then"),
    ],
};

const SESSIONS: Show = Show::Table {
    rows: &["clients"],
    columns: &[
        ("ID", "id"),
        ("ROUTE", "route"),
        ("ERA", "era"),
        ("ENDPOINT", "endpoint"),
        ("AGE MS", "age_ms"),
        ("IDLE MS", "idle_ms"),
        ("CALLS", "calls"),
        ("HEALED", "healed"),
    ],
};

const STREAMS: Show = Show::Table {
    rows: &[""],
    columns: &[
        ("UPSTREAM", "upstream"),
        ("ENDPOINT", "endpoint"),
        ("OPEN", "open"),
    ],
};

const CHILDREN: Show = Show::Table {
    rows: &[""],
    columns: &[
        ("PID", "pid"),
        ("UPSTREAM", "upstream"),
        ("ENDPOINT", "endpoint"),
        ("STATE", "state"),
        ("SESSIONS", "sessions"),
        ("PENDING", "pending"),
        ("AGE MS", "age_ms"),
        ("MEMORY", "memory_bytes"),
    ],
};

const OVERRIDES: Show = Show::Table {
    rows: &[""],
    columns: &[
        ("KIND", "kind"),
        ("UPSTREAM", "upstream"),
        ("TARGET", "target"),
        ("VALUE", "value"),
        ("IN FORCE", "in_force"),
        ("BY", "by"),
        ("AGE MS", "age_ms"),
        ("REASON", "reason"),
    ],
};
