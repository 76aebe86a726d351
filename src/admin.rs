//! The admin listener: health, metrics, and what the proxy is doing, as JSON.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /livez` | 200 while the process serves |
//! | `GET /readyz` | 200, or 503 with the reason |
//! | `GET /metrics` | Prometheus text |
//! | `GET /admin/v1/config` | the configuration in force, secrets masked |
//! | `GET /admin/v1/{upstreams,sessions,streams}` | what there is now |
//! | `GET /admin/v1/limits` | the keys that are nearest to their rate limits |
//!
//! The first three answer anybody, since kubelets and scrapers come by IP and without a token. What is under `/admin/v1/`
//! is behind the [guard](AdminSettings) (`Host`, `Origin`) and a bearer token; without a token it is closed. What the
//! answers say comes from [`AdminSources`]; this module knows no other part of the proxy.

mod answer;
mod guard;
mod routes;
mod token;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;

pub(crate) use self::answer::millis;
pub use self::token::{TokenError, random_token};

/// Who may read what is under `/admin/v1/`.
#[derive(Clone, Default)]
pub struct AdminSettings {
    /// The bearer token; without one that part is closed.
    pub token: Option<String>,
    /// Names that `Host` may carry, beside loopback names and IP addresses.
    pub hosts: Vec<String>,
    /// Origins (`https://console.example.org`) that a browser may come from, beside the admin listener's own.
    pub origins: Vec<String>,
}

/// Says whether the proxy can take traffic.
pub trait Readiness: Send + Sync {
    /// The error says why not, in plain words.
    fn ready(&self) -> Result<(), String>;
}

/// Makes a text when it is asked for.
pub type TextSource = Arc<dyn Fn() -> String + Send + Sync>;
/// Makes a JSON value when it is asked for.
pub type JsonSource = Arc<dyn Fn() -> Value + Send + Sync>;

/// Where the answers come from.
#[derive(Clone)]
pub struct AdminSources {
    /// For `/readyz`.
    pub readiness: Arc<dyn Readiness>,
    /// For `/metrics`: the Prometheus text format.
    pub metrics: TextSource,
    /// For `config`: YAML or JSON, secrets masked.
    pub config: TextSource,
    /// For `upstreams`.
    pub upstreams: JsonSource,
    /// For `sessions`.
    pub sessions: JsonSource,
    /// For `streams`.
    pub streams: JsonSource,
    /// For `limits`.
    pub limits: JsonSource,
}

/// The service of the admin listener.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    settings: AdminSettings,
    sources: AdminSources,
}

// === impl Readiness ===

impl<F> Readiness for F
where
    F: Fn() -> Result<(), String> + Send + Sync,
{
    fn ready(&self) -> Result<(), String> {
        self()
    }
}

// === impl AdminSettings ===

impl fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminSettings")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("hosts", &self.hosts)
            .field("origins", &self.origins)
            .finish()
    }
}

// === impl Admin ===

impl Admin {
    /// The service for these sources.
    pub fn new(settings: AdminSettings, sources: AdminSources) -> Self {
        Self {
            shared: Arc::new(Shared { settings, sources }),
        }
    }
}

impl<B> tower::Service<Request<B>> for Admin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(routes::answer(
            &self.shared.settings,
            &self.shared.sources,
            &request,
        )))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
