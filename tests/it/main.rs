//! End to end: the real program, real sockets, real processes. One module for each story.

#![allow(
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    clippy::too_many_lines,
    clippy::float_cmp,
    missing_docs,
    reason = "a test says what went wrong by failing"
)]

#[allow(dead_code, reason = "the soak test uses only a part of it")]
mod harness;

mod admin;
mod admin_attack;
mod admin_cli;
mod child;
mod credentials;
mod cut;
mod discovery;
mod drain;
mod hostile;
mod http_sse;
mod ids;
mod intercept;
mod kill;
mod legacy;
mod metrics;
mod mistakes;
mod modern;
mod pages;
mod plain;
mod rate_limit;
mod reload;
mod replay;
mod resilience;
mod sessions;
mod settings;
mod streams;
mod timeouts;
mod tls;
mod tools;
mod warm;
