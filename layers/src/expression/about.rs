//! What an expression is asked about.

use http::{HeaderMap, Method};
use serde_json::Value;

use crate::exchange::Exchange;

/// A message, or an exchange without one.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "cel"),
    expect(dead_code, reason = "without expressions nobody asks")
)]
pub(crate) struct About<'a> {
    pub(crate) exchange: Option<&'a Exchange>,
    pub(crate) http_method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// `request`, `response` or `server`.
    pub(crate) direction: &'static str,
    /// None where there is no message.
    pub(crate) method: Option<&'a str>,
    /// The tool, prompt or resource of the request.
    pub(crate) name: Option<&'a str>,
    /// The message; needed only where that is asked for ([`Sees::Body`]).
    pub(crate) body: &'a Value,
}

/// Why an expression does not say anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    not(feature = "cel"),
    expect(dead_code, reason = "without expressions nobody asks")
)]
pub(crate) enum Unclear {
    /// It cannot look into so much.
    #[error("its expression cannot look into a message that is so large")]
    TooLarge,
    /// It fails; without the values with which it did.
    #[error("{0}")]
    Fails(String),
}

/// What an expression may look at that is not always known, or costs something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees {
    Name,
    Method,
    /// The message.
    Body,
}
