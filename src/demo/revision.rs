//! The protocol revisions, and what a request says about its own.

use serde_json::{Value, json};

use super::rpc::{Params, RpcError};

/// The revision with per-request metadata.
pub(crate) const MODERN: &str = "2026-07-28";
/// The revisions with a handshake, oldest first.
pub(crate) const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The only revision that has batches.
pub(crate) const WITH_BATCHES: &str = "2025-03-26";

/// The reserved `_meta` key for the revision of a request.
pub(crate) const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
/// The reserved `_meta` key for what the client can do.
pub(crate) const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
/// The reserved `_meta` key for the log level of a request.
pub(crate) const LOG_LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";
/// The reserved `_meta` key for the server's name.
pub(crate) const SERVER_INFO_KEY: &str = "io.modelcontextprotocol/serverInfo";
/// The reserved `_meta` key that ties a notification to its subscription.
pub(crate) const SUBSCRIPTION_KEY: &str = "io.modelcontextprotocol/subscriptionId";

/// How loud a log message is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// For the developer.
    Debug,
    /// For the curious.
    Info,
    /// Normal, but of note.
    Notice,
    /// May become an error.
    Warning,
    /// Something failed.
    Error,
    /// A part is down.
    Critical,
    /// Act now.
    Alert,
    /// Nothing works.
    Emergency,
}

/// What a modern request says about itself: present, not yet judged.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    version: &'a str,
    capabilities: &'a Value,
    level: Option<&'a Value>,
}

/// What a modern request may count on.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// What its client can do.
    pub(crate) capabilities: Value,
    /// From which level on it wants log messages; none unless it says so.
    pub(crate) level: Option<Level>,
}

/// Whether a request carries the mark of the modern era. `initialize` never does, whatever is stamped on it.
pub(crate) fn is_modern(method: &str, params: &Params) -> bool {
    method != "initialize"
        && params
            .get("_meta")
            .is_some_and(|meta| meta.get(VERSION_KEY).is_some())
}

/// The revision that the handshake settles on.
pub(crate) fn negotiate(asked: &str) -> &'static str {
    let newest = LEGACY[LEGACY.len() - 1];
    LEGACY
        .into_iter()
        .find(|known| *known == asked)
        .unwrap_or(newest)
}

/// −32022 for a revision that is not served in the modern way.
pub(crate) fn unsupported(requested: &str) -> RpcError {
    RpcError::new(
        -32022,
        format!("protocol version {requested} is not supported"),
    )
    .with_data(json!({"supported": [MODERN], "requested": requested}))
    .with_status(400)
}

// === impl Claim ===

impl<'a> Claim<'a> {
    /// Reads the envelope; both required keys must be there.
    pub(crate) fn read(params: &'a Params) -> Result<Self, RpcError> {
        let missing =
            |key| RpcError::invalid_params(format!("params._meta lacks {key}")).with_status(400);
        let meta = params
            .get("_meta")
            .and_then(Value::as_object)
            .ok_or_else(|| missing(VERSION_KEY))?;
        let version = meta
            .get(VERSION_KEY)
            .and_then(Value::as_str)
            .ok_or_else(|| missing(VERSION_KEY))?;
        let capabilities = meta
            .get(CAPABILITIES_KEY)
            .filter(|value| value.is_object())
            .ok_or_else(|| missing(CAPABILITIES_KEY))?;
        Ok(Self {
            version,
            capabilities,
            level: meta.get(LOG_LEVEL_KEY),
        })
    }

    /// The revision that the request is written in.
    pub(crate) fn version(&self) -> &'a str {
        self.version
    }

    /// Accepts the claim if its revision is served.
    pub(crate) fn accept(self) -> Result<Envelope, RpcError> {
        if self.version != MODERN {
            return Err(unsupported(self.version));
        }
        let level = match self.level {
            None => None,
            Some(value) => Some(Level::read(value).map_err(|error| error.with_status(400))?),
        };
        Ok(Envelope {
            capabilities: self.capabilities.clone(),
            level,
        })
    }
}

// === impl Level ===

impl Level {
    /// Reads a level by its name.
    pub(crate) fn read(value: &Value) -> Result<Self, RpcError> {
        serde::Deserialize::deserialize(value)
            .map_err(|_| RpcError::invalid_params("there is no such log level"))
    }
}
