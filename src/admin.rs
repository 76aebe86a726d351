//! The admin listener: health, metrics, what the proxy is doing, and what the operator may do about it.
//!
//! `/livez`, `/readyz` and `/metrics` answer anybody, since kubelets and scrapers come by IP and without a token. What is under `/admin/v1/`
//! is behind the [guard](AdminSettings) (`Host`, `Origin`) and a bearer token; nothing of a body is read before both were right.
//!
//! All that the listener does stands in one table (`operations`): name, method, path, what it takes and answers, what it does. The routes, the OpenAPI
//! document at `/admin/v1/openapi.json`, the tests and `ziggurat admin` with its help are made of it, so that they cannot disagree. A new operation is
//! a row there, a type in `view` or `order`, and a method or an arm of what implements [`Proxy`]; this module knows no other part of the proxy.
//!
//! An action stops or narrows what the config allows, or takes that back; there is none that adds or alters an upstream or a command. Each
//! leaves one line in the log (target `audit`): what, before, after, and who. Such lines are written whatever the log level is. Who is not let in is counted,
//! and leaves a line as well, though not each a line of its own.

mod answer;
mod body;
mod guard;
pub(crate) mod openapi;
pub(crate) mod operations;
mod order;
mod refused;
mod routes;
mod token;
mod token_file;
mod view;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;

use self::operations::Table;
pub use self::order::*;
use self::refused::Refused;
pub use self::token::{TokenError, random_token};
pub(crate) use self::token_file::TokenFile;
pub use self::view::*;

/// Who may use what is under `/admin/v1/`.
#[derive(Clone, Default)]
pub struct AdminSettings {
    /// Whether tokens are asked for, and which.
    pub access: Access,
    /// Names that `Host` may carry, beside loopback names and IP addresses.
    pub hosts: Vec<String>,
}

/// What a client must show.
#[derive(Clone)]
pub enum Access {
    /// One of these tokens; without any, that part is closed.
    Tokens(Vec<AdminToken>),
    /// Nothing: whoever reaches the listener may do all.
    Open,
}

/// A token, and what the audit calls whoever has it.
#[derive(Clone)]
pub struct AdminToken {
    /// Its name.
    pub name: String,
    /// The token itself.
    pub token: String,
}

/// The proxy, as the admin listener sees it.
pub trait Proxy: Send + Sync {
    /// Whether it can take traffic; the error says why not, in plain words.
    fn ready(&self) -> Result<(), String>;
    /// The metrics, in the text format of Prometheus.
    fn metrics(&self) -> String;
    /// What runs here.
    fn build(&self) -> BuildView;
    /// The upstreams, with their endpoints.
    fn upstreams(&self) -> Vec<UpstreamView>;
    /// The sessions.
    fn sessions(&self) -> SessionsView;
    /// The open streams.
    fn streams(&self) -> Vec<StreamsView>;
    /// The child processes.
    fn children(&self) -> Vec<ChildView>;
    /// The keys that are nearest to their rate limits.
    fn limits(&self) -> Vec<LimitView>;
    /// The exchanges that wait for a decision.
    fn paused(&self) -> Vec<PausedView>;
    /// The config in force, secrets masked.
    fn config(&self) -> ConfigView;
    /// What the operator set and has not taken back.
    fn overrides(&self) -> Vec<OverrideView>;
    /// What is logged.
    fn log(&self) -> LogView;
    /// Does what the operator wants.
    ///
    /// # Errors
    /// When there is no such thing, or it cannot be done now.
    fn act(&self, order: Order, by: &str) -> Result<Change, Refusal>;
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names something that is not there.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
}

/// The service of the admin listener.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    settings: AdminSettings,
    proxy: Arc<dyn Proxy>,
    table: Table,
    refused: Refused,
}

// === impl Access ===

impl Default for Access {
    fn default() -> Self {
        Self::Tokens(Vec::new())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => f
                .debug_list()
                .entries(tokens.iter().map(|t| &t.name))
                .finish(),
            Self::Open => f.write_str("Open"),
        }
    }
}

// === impl AdminSettings ===

impl fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminSettings")
            .field("access", &self.access)
            .field("hosts", &self.hosts)
            .finish()
    }
}

// === impl AdminToken ===

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminToken({})", self.name)
    }
}

// === impl Admin ===

impl Admin {
    /// The service for this proxy.
    pub fn new(settings: AdminSettings, proxy: Arc<dyn Proxy>) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                proxy,
                table: Table::new(),
                refused: Refused::new(),
            }),
        }
    }
}

impl<B> tower::Service<Request<B>> for Admin
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    // Boxed: a body may have to be awaited, and nobody is in a hurry here.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { Ok(routes::answer(&shared, request).await) })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
