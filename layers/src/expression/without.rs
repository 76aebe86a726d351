//! Without the feature `cel` there are no expressions.

mod about;

pub(crate) use self::about::{About, Sees, Unclear};

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

    /// The text.
    pub fn as_str(&self) -> &str {
        match *self {}
    }

    /// Whether it looks into the message.
    pub fn reads_message(&self) -> bool {
        match *self {}
    }

    /// Whether it looks at what only an answer has.
    pub fn reads_answer(&self) -> bool {
        match *self {}
    }

    /// Whether what it says may be a secret.
    pub fn may_tell_secrets(&self) -> bool {
        match *self {}
    }

    pub(crate) fn uses(&self, _: Sees) -> bool {
        match *self {}
    }

    pub(crate) fn is_true(&self, _: &About<'_>) -> Result<bool, String> {
        match *self {}
    }

    pub(crate) fn key(&self, _: &About<'_>) -> Result<Option<String>, Unclear> {
        match *self {}
    }
}
