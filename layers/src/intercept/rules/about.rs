//! What an expression is asked about.

use serde_json::Value;

use super::Direction;

/// A message, or an exchange without one.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "cel"),
    expect(dead_code, reason = "without expressions nobody asks")
)]
pub(super) struct About<'a> {
    pub(super) direction: Direction,
    pub(super) method: Option<&'a str>,
    /// The tool, prompt or resource of the request.
    pub(super) name: Option<&'a str>,
    /// The message; needed only where that is asked for ([`Sees::Body`]).
    pub(super) body: &'a Value,
}

/// What an expression may look at that is not always known, or costs something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    Name,
    Method,
    Body,
}

impl About<'_> {
    /// Nothing but the exchange.
    pub(super) fn nothing(direction: Direction) -> Self {
        Self {
            direction,
            method: None,
            name: None,
            body: &Value::Null,
        }
    }
}
