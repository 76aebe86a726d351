//! Without the feature `cel` there are no expressions.

use serde_json::Value;

use super::{Context, Direction};
use crate::mcp::MessageFacts;

/// An expression: there is none without the feature `cel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {}

/// A text is no expression that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expressions are not in this build")]
pub struct BadExpression;

impl Expression {
    pub(super) fn is_true(
        &self,
        _: &Context,
        _: Direction,
        _: Option<&MessageFacts>,
        _: &Value,
    ) -> Result<bool, String> {
        match *self {}
    }
}
