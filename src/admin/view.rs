//! What the answers of the admin API look like. The comments here are the descriptions in its OpenAPI document.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// What runs here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BuildView {
    /// The name of the program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it was built for speed (`release`) or for tests (`debug`).
    pub profile: String,
    /// The id of the process.
    pub pid: u32,
    /// For how long it has been running.
    pub uptime_ms: u64,
}

/// An upstream.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct UpstreamView {
    /// Its name in the config.
    pub name: String,
    /// The operator switched it off.
    pub killed: bool,
    /// The tools that the operator switched off; `*` stands for any text.
    pub killed_tools: Vec<String>,
    /// Its endpoints, in the order of the config.
    pub endpoints: Vec<EndpointView>,
    /// The breakers of its tools, where they have any.
    pub tools: Vec<ToolView>,
}

/// One endpoint of an upstream.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct EndpointView {
    /// Its name.
    pub name: String,
    /// `http` or `stdio`.
    pub kind: String,
    /// Whether it can take a call, as far as is known.
    pub usable: bool,
    /// `open`, `busy`, or what holds it back: `operator`, `health`, `outlier` or `circuit`.
    pub state: String,
    /// After this time it is no longer held back, where that is known.
    pub held_for_ms: Option<u64>,
    /// The operator drained it.
    pub drained: bool,
    /// Its share of traffic, relative to the others.
    pub weight: u32,
    /// 0 is asked first; the next only where all of those are out.
    pub priority: u32,
    /// Calls in flight.
    pub calls: u32,
    /// Open standing streams.
    pub open_streams: u32,
    /// The estimated time to a response head.
    pub head_ms: Option<u64>,
    /// The share of attempts that failed, from 0 to 1.
    pub failures: f64,
    /// What a call there costs, as the balancer sees it.
    pub cost: f64,
    /// Its breaker; null where that is off.
    pub circuit: Option<CircuitView>,
    /// What its probes say; null where it is not probed.
    pub health: Option<HealthView>,
    /// How it does beside the others; null where that is off.
    pub outlier: Option<OutlierView>,
    /// The process ids of its children that are not on their way out, if it is a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Vec<i32>>,
    /// How many of its children are in which state, if it is a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub states: Option<BTreeMap<String, u64>>,
    /// The sessions of its children, if it is a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Requests that its children have not answered yet, if it is a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// How many processes were started so far, if it is a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// How long no child is started, after one failed to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
}

/// A circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CircuitView {
    /// `closed`, `open` or `half_open`; one that is forced included.
    pub state: String,
    /// What the operator forced on it: `open` or `closed`.
    pub forced: Option<String>,
    /// The calls in its window.
    pub calls: u32,
    /// Those of them that failed.
    pub failures: u32,
    /// Those of them that were slow.
    pub slow: u32,
    /// How often in a row it opened.
    pub openings: u32,
    /// After this time a call may be admitted.
    pub retry_after_ms: Option<u64>,
}

/// The breaker of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ToolView {
    /// The tool.
    pub tool: String,
    /// Its breaker.
    pub circuit: CircuitView,
}

/// What the probes of an endpoint say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HealthView {
    /// The state.
    pub state: String,
    /// Nobody uses it, so it is not probed now.
    pub asleep: bool,
    /// The newest probe.
    pub last: Option<ProbeView>,
    /// Why the last probe that failed did so.
    pub error: Option<String>,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProbeView {
    /// How long ago it was.
    pub ago_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What came of it.
    pub result: String,
}

/// How an endpoint does beside the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OutlierView {
    /// For how long it is still left alone.
    pub ejected_for_ms: Option<u64>,
    /// How often it was left alone.
    pub ejections: u32,
    /// The calls in its window.
    pub calls: u32,
    /// Those of them that failed.
    pub failures: u32,
    /// Failures in a row.
    pub consecutive: u32,
}

/// The sessions of legacy clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionsView {
    /// Those that ziggurat keeps, the oldest of each route first; at most 1000.
    pub clients: Vec<SessionView>,
    /// How many sessions the children of each upstream have.
    pub stdio: BTreeMap<String, u64>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionView {
    /// The beginning of its number, which is no secret: nobody can make the client's id of it.
    pub id: String,
    /// Its route.
    pub route: String,
    /// The era of its client.
    pub era: String,
    /// The endpoint that it lives at.
    pub endpoint: String,
    /// How old it is.
    pub age_ms: u64,
    /// For how long it has been quiet.
    pub idle_ms: u64,
    /// Calls in hand.
    pub calls: u32,
    /// It began before this process, or at another one.
    pub restored: bool,
    /// How often it was begun anew at an upstream that lost it.
    pub healed: u32,
}

/// The open streams of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StreamsView {
    /// The upstream.
    pub upstream: String,
    /// The endpoint.
    pub endpoint: String,
    /// Standing streams that are open.
    pub open: u32,
}

/// A child process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ChildView {
    /// The upstream.
    pub upstream: String,
    /// The endpoint.
    pub endpoint: String,
    /// The id of the process.
    pub pid: i32,
    /// `starting`, `warm` (started before anybody asked), `idle`, `leased` (it has sessions or calls) or `stopping`.
    pub state: String,
    /// How many sessions it has.
    pub sessions: u64,
    /// How many requests it has not answered yet.
    pub pending: u64,
    /// How long ago it was started.
    pub age_ms: u64,
    /// Its resident memory, where the system tells.
    pub memory_bytes: Option<u64>,
}

/// The config in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ConfigView {
    /// Where it comes from.
    pub source: String,
    /// All of it as YAML, every default filled in, secrets masked.
    pub yaml: String,
    /// Where values come from, by key path: `file`, `environment` or `command line`. What is not here is a default.
    pub origins: BTreeMap<String, String>,
}

/// What the operator set and has not taken back. It outlives a reload of the config, but not the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OverrideView {
    /// What was done: `drained`, `weight`, `circuit`, `tool_circuit`, `killed` or `killed_tool`.
    pub kind: String,
    /// The upstream.
    pub upstream: String,
    /// The endpoint or the tool, where it is about one.
    pub target: Option<String>,
    /// What it was set to.
    pub value: Value,
    /// Whether that is so now: not while the config has no such upstream or endpoint, or turns its breaker off.
    pub in_force: bool,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub by: String,
    /// How long ago.
    pub age_ms: u64,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LogView {
    /// The filter in force. Lines of the audit are written whatever it says.
    pub filter: String,
    /// The filter that the process was started with.
    pub default: String,
}

/// What an action did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// How it was.
    pub before: Value,
    /// How it is.
    pub after: Value,
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProblemView {
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
}

/// A time as the admin API has it.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A rate limit of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LimitView {
    /// The route.
    pub route: String,
    /// The name of the limit.
    pub limit: String,
    /// How many keys have calls counted against them.
    pub keys: u64,
    /// The keys that are nearest to the limit, the nearest first.
    pub nearest: Vec<KeyView>,
    /// The keys with the most open streams, where streams are limited.
    pub streams: Vec<KeyStreamsView>,
}

/// How a key of a rate limit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyView {
    /// Its parts; of a session the first digits alone.
    pub key: BTreeMap<String, String>,
    /// How many calls are counted against it.
    pub used: u32,
    /// How many may come at once.
    pub burst: u32,
    /// After which time another call is let through.
    pub next_in_ms: u64,
}

/// How many streams a key of a rate limit has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyStreamsView {
    /// Its parts; of a session the first digits alone.
    pub key: BTreeMap<String, String>,
    /// How many are open.
    pub open: u64,
}

/// An exchange that waits for a decision.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PausedView {
    /// Its number, for `decide`.
    pub id: u64,
    /// The route.
    pub route: String,
    /// The rule that had it wait.
    pub rule: String,
    /// The id of the request.
    pub request_id: String,
    /// Which way the message goes: `request`, `response`, or `server` for what a server says by the way.
    pub direction: String,
    /// The method: of MCP, or of HTTP where there is no message.
    pub method: String,
    /// The tool, prompt or resource.
    pub name: Option<String>,
    /// For how long it has waited.
    pub waited_ms: u64,
    /// For how long it still will.
    pub left_ms: u64,
    /// What happens then: `resume` or `block`.
    pub then: String,
    /// The message, what looks like a secret masked; of one that is no JSON, or longer than 64 KiB, its length.
    pub message: Option<Value>,
}
