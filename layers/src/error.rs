//! Errors in transit: boxed, typed, found again by walking their causes.

use std::error::Error;

/// An error on its way outward. Each layer has a small concrete type; it travels boxed, so that the order
/// of layers does not change their types.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The first error of type `E` in the chain of causes that starts at `error`.
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What is known of a failed call's effect on the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing reached the upstream: the call may be sent again.
    NotSent,
    /// It may have been executed.
    Unknown,
    /// It was refused without being executed.
    Rejected,
}

impl Outcome {
    /// The word that errors carry: `not_sent`, `unknown`, `rejected`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
        }
    }
}
