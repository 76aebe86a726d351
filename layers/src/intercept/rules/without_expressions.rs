//! Without the feature `cel` there are no expressions.

use super::Context;
use super::about::{About, Sees};

/// An expression: there is none without the feature `cel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {}

/// A text is no expression that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expressions are not in this build")]
pub struct BadExpression;

impl Expression {
    /// Whether it asks who the client is.
    pub fn names_principal(&self) -> bool {
        match *self {}
    }

    pub(super) fn uses(&self, _: Sees) -> bool {
        match *self {}
    }

    pub(super) fn is_true(&self, _: &Context, _: &About<'_>) -> Result<bool, String> {
        match *self {}
    }
}
