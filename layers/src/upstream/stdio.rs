//! The stdio upstream: MCP servers that are local commands, behind Streamable HTTP.
//!
//! [`StdioUpstream`] is a `Service` like the HTTP upstream: requests and responses are those of Streamable HTTP, in the era that
//! the client speaks; on the inside it speaks newline-delimited JSON-RPC with persistent child processes. A child is never
//! started for a request: a legacy session has its child ([`Isolation::PerSession`]) or shares one, with everybody ([`Isolation::Shared`])
//! or with its principal's other sessions ([`Isolation::PerPrincipal`]), and so do modern calls. Many calls are in flight at once on a child, under ids of the proxy's own; ids, progress tokens,
//! cancellations and subscription ids are mapped back, value and JSON type.
//!
//! - An answer that comes first is JSON; if something else comes first, or nothing for [`StdioSettings::silence`], it is an event stream.
//!   What is quiet on it is for a [`heartbeat`](crate::heartbeat) above.
//! - What a legacy server says that belongs to no call goes to the session's GET stream, or waits for one (bounded).
//! - A legacy client that goes away leaves its call with the child, which goes on; a modern one cancels it. A call that was given
//!   up for a reason ([`GiveUp`](crate::exchange::GiveUp)) is cancelled in both eras, but for `initialize`.
//! - A child that crashes fails its calls at once; its legacy sessions end (404); it is started again when next needed, with backoff
//!   (200 ms to 30 s, with jitter) if it does not come up.
//! - Some may be started ahead of need ([`StdioSettings::warm`]), and a session may begin with what the command has answered before, while its
//!   own child is starting ([`StdioSettings::snapshot`]). A shared child that is too old, or has served its calls, is followed by another.
//! - A child is starting, warm, idle, leased, or stopping, at each moment one of these, until its process and its group are gone.
//! - Children are stopped in steps (stdin, SIGTERM, SIGKILL, to the whole process group), and by a reaper when the proxy is killed hard.
//!
//! Place: the leaf of an endpoint. Readiness: always ready. Errors: [`StdioError`], and
//! [`HeaderMismatch`](crate::mcp::headers::HeaderMismatch) for modern headers that contradict the body. Bodies: the request's is read whole, up to
//! [`StdioSettings::line_limit`]; the response's is a cursor into the call's bounded buffer. Needs a tokio runtime with I/O and
//! time, and a Unix system.
//!
//! ```
//! use ziggurat_layers::upstream::stdio::{StdioSettings, StdioUpstream};
//!
//! let settings = StdioSettings::new("files", ["npx", "-y", "@modelcontextprotocol/server-everything", "stdio"]);
//! let upstream = StdioUpstream::new(settings);
//! // `upstream` is a `tower::Service<http::Request<B>>`: mount it in axum, or put layers on it.
//! # drop(upstream);
//! ```

mod body;
mod call;
mod child;
mod error;
mod front;
mod message;
mod meters;
mod params;
mod pool;
mod process;
mod reaper;
mod session;
mod settings;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower::Service;

use self::pool::Pool;
pub use self::{
    body::StdioBody,
    child::ChildReport,
    error::{Gone, StdioError},
    pool::Report,
    settings::{INHERITED, Isolation, StdioSettings, Stop},
};
use crate::{error::BoxError, exchange::Exchange};

/// An MCP server that is a command. Clones share its children; when the last one is dropped they are stopped.
#[derive(Debug, Clone)]
pub struct StdioUpstream {
    pool: Arc<Pool>,
    owner: Arc<Owner>,
}

/// Stops the children once nobody has the upstream any more. A start that is under way may hold the pool for longer.
#[derive(Debug)]
struct Owner(Arc<Pool>);

impl StdioUpstream {
    /// An upstream with these settings. Nothing is started before the first request, or [`warm_up`](Self::warm_up).
    pub fn new(settings: StdioSettings) -> Self {
        let pool = Arc::new(Pool::new(settings));
        let owner = Arc::new(Owner(pool.clone()));
        Self { pool, owner }
    }

    /// Starts what is to be started ahead of need ([`StdioSettings::warm`]), now rather than at the first request, and keeps it so. To be
    /// called within a tokio runtime. Nothing once it is closed.
    pub fn warm_up(&self) {
        self.pool.keep_from_now_on();
    }

    /// Changes the settings, while children and sessions live on. What the process *is* stays as it was: name, command, variables, folder,
    /// isolation. For a child that runs, buffers, the limit of lines, `max_pending`, `stuck` and the steps of stopping are those that it
    /// was started with, and so is the count of requests that calls at once for another (`recycle`); a new count is looked at by the clock.
    pub fn set(&self, settings: StdioSettings) {
        self.pool.set(settings);
    }

    /// Keeps nothing ready ahead of need any more: for an upstream that is about to close once its calls are over.
    pub fn cool_down(&self) {
        let settings = StdioSettings::clone(&self.pool.settings());
        self.pool.set(StdioSettings {
            warm: 0,
            ..settings
        });
    }

    /// Whether a request that needs a new child would get one now: not while it is left alone after failing to start.
    pub fn is_usable(&self) -> bool {
        self.pool.backoff().is_none()
    }

    /// What there is, for an operator.
    pub fn report(&self) -> Report {
        self.pool.report()
    }

    /// Stops one child, whose sessions end with it; what is asked next starts another one. Whether there is such a child.
    pub fn stop_child(&self, pid: i32) -> bool {
        self.pool.stop_child(pid)
    }

    /// Ends the standing streams, so that their clients come back (to another process, when this one is draining).
    pub fn end_streams(&self) {
        self.pool.end_streams();
    }

    /// Stops all children, and waits until they and their groups are gone. Calls that are still in flight fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl<B> Service<Request<B>> for StdioUpstream
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<StdioBody>;
    type Error = BoxError;
    // Boxed: a call awaits many things (its body, a start, a handshake, schemas) before its first answer.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let Self { pool, owner } = self.clone();
        Box::pin(async move {
            let _owner = owner;
            front::handle(pool, exchange, request).await
        })
    }
}

impl Drop for Owner {
    /// The supervisors go on for as long as stopping takes, and then end by themselves.
    fn drop(&mut self) {
        self.0.stop_all("drain");
    }
}

#[cfg(test)]
mod tests;
