//! The demo: a small MCP server to try things with, and to test a proxy against.
//!
//! It speaks both eras of the protocol, over stdio and over Streamable HTTP: the revisions with a handshake (2024-11-05
//! to 2025-11-25: `initialize`, sessions, a GET stream, DELETE), and the one without (2026-07-28: `server/discover`,
//! all metadata in each request, `subscriptions/listen`). Over stdio the first request settles the era of the process;
//! over HTTP, at the path [`PATH`], each request has its own.
//!
//! Some tools behave well (`echo`, `add`, `progress`, `ask`, …), some on purpose do not (`crash`, `garbage`,
//! `hang_stdin`, …); `tools/list` describes them all.
//!
//! # Design
//!
//! `engine` is the server without a transport. A request goes in; out comes an answer, or a `call` that is to be
//! run and speaks through an `outlet` before it answers. `stdio` and `http` carry the
//! messages and own the running calls: a call ends with the process, the session, or, in the modern era, with the
//! response stream that it belongs to. Nothing else is spawned.
//!
//! # Safety
//!
//! It is made for loopback: it checks neither `Host` nor `Origin`, has no authentication, and its tools give away the
//! environment of the process and the headers of the request. Put a proxy in front of it before anyone else can reach it.

mod call;
mod changes;
mod engine;
mod http;
mod inflight;
mod outlet;
mod prompts;
mod resources;
mod revision;
mod rpc;
mod session;
mod stdio;
mod tools;

use std::io;

use tokio::net::TcpListener;

use self::engine::{Engine, Transport};

/// The path of the MCP endpoint over HTTP.
pub const PATH: &str = "/mcp";

/// With what the process exits when the tool `crash` is called over stdio.
const CRASHED: i32 = 3;

/// Serves one client over stdin and stdout, until stdin ends or stdout is closed.
///
/// Calls that are still running then are dropped. The tool `crash` ends the whole process, here and now. Nothing but
/// protocol is written to stdout. The caller should exit once this returns: after the tool `hang_stdin`, or when stdout
/// was closed first, a read of stdin is still going on in a thread.
pub async fn stdio() -> io::Result<()> {
    let engine = Engine::new(Transport::Stdio);
    match stdio::serve(&engine, tokio::io::stdin(), tokio::io::stdout()).await? {
        stdio::Ending::Closed => Ok(()),
        stdio::Ending::Crashed => std::process::exit(CRASHED),
    }
}

/// Serves clients over Streamable HTTP at [`PATH`], until `shutdown`.
///
/// Standing streams are ended then, with their final result where the protocol has one; running calls get a moment to
/// finish. Dropping the future stops everything at once.
pub async fn http(listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    http::serve(Engine::new(Transport::Http), listener, shutdown).await
}
