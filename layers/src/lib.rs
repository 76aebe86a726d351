//! Tower layers and upstream services for proxying MCP, HTTP and SSE.
//!
//! Each layer works alone, on any `Service<http::Request<B>>`, in an axum or hyper program; together, in this order, they are the
//! tower of the `ziggurat` proxy. A request meets them from the top:
//!
//! | terrace | layer | what it does |
//! | --- | --- | --- |
//! | server | [`exchange`] | one shared slot for what is known of a request |
//! | | [`access_log`] | a line for each operation |
//! | | [`record`] | metrics, as the client sees them |
//! | | [`guard`] (CORS half) | answers preflights, adds CORS headers |
//! | | [`heartbeat`] | keeps quiet event streams alive |
//! | | [`rescue`] | turns errors into responses, the only one to do so |
//! | | [`drain`] | ends streams and calls at shutdown |
//! | | [`guard`] | refuses foreign `Host` and `Origin` |
//! | | [`body_limit`] | bounds request bodies |
//! | | [`route`] | finds the route |
//! | route | [`inspect`] | reads the facts of an MCP call |
//! | | [`http_sse`] | serves clients of the transport HTTP+SSE (2024-11-05) |
//! | | [`credentials`] | keeps the client's secrets from upstreams |
//! | | [`switch`] | refuses what the operator switched off |
//! | | [`session`] | seals session ids, and keeps sessions within limits |
//! | | [`rate_limit`] | lets through so many calls in so much time, by session, client, tool, … |
//! | | [`replay`] | keeps event streams, so that clients can come back to them |
//! | | [`limit`] | caps calls and streams |
//! | | [`intercept`] | shows messages to interceptors and rules, which change, refuse, answer or hold them |
//! | | [`deadline`] | the total time of a call |
//! | | [`retry`] | repeats calls that failed, where that is safe |
//! | | [`balance`] | chooses an endpoint, or lets the call wait for one |
//! | endpoint | [`balance::load`] | what the endpoint has in hand, how quick it is, how often it fails |
//! | | [`circuit`] | leaves an endpoint, or a tool, alone that fails |
//! | | [`health::outlier`] | leaves an endpoint alone that does worse than the others |
//! | | [`limit`] | caps calls at one endpoint |
//! | | [`record`] | metrics of attempts |
//! | | [`timeout`] | head and idle clocks |
//! | | [`resume`] | goes on with event streams that broke |
//! | | [`observe`] | reads what the upstream answers |
//! | | [`upstream`] | the upstream: over HTTP, or a child process |
//!
//! What all of them share is the floor: [`body`], [`error`], [`fault`], [`mcp`] (facts, headers, events), [`metrics`], [`waits`], [`ready`],
//! [`gate`] (whether an endpoint takes calls), [`share`], [`pattern`], [`by_tool`] (settings by tool), [`secret`], [`attempt`] (where it may go) and [`verdict`] (how it went). One layer
//! stands in no tower by default: [`chaos`], which injects faults for tests. Beside the endpoint terrace stands [`health`], whose probers ask
//! the endpoints by themselves.

pub mod access_log;
pub mod attempt;
pub mod balance;
pub mod body;
pub mod body_limit;
pub mod by_tool;
mod cap;
pub mod chaos;
pub mod circuit;
mod class;
mod clock;
pub mod credentials;
pub mod deadline;
pub mod drain;
pub mod error;
pub mod exchange;
#[cfg(feature = "cel")]
pub mod expression;
#[cfg(not(feature = "cel"))]
#[path = "expression/without.rs"]
pub mod expression;
pub mod fault;
pub mod gate;
pub mod guard;
pub mod health;
pub mod heartbeat;
mod host;
#[cfg(feature = "session")]
pub mod http_sse;
pub mod inspect;
pub mod intercept;
pub mod limit;
pub mod mcp;
pub mod metrics;
#[cfg(feature = "session")]
mod notices;
pub mod observe;
pub mod pattern;
pub mod rate_limit;
pub mod ready;
pub mod record;
pub mod replay;
pub mod rescue;
pub mod resume;
pub mod retry;
pub mod route;
pub mod secret;
#[cfg(feature = "session")]
pub mod session;
pub mod share;
pub mod switch;
pub mod timeout;
pub mod upstream;
pub mod verdict;
pub mod waits;

pub use body::Body;
pub use error::BoxError;
