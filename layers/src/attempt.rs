//! What an attempt says to the layers inside it.
//!
//! A retry layer asks more than once, and an inner layer cannot tell a first attempt from a later one. [`Tried`], in the extensions
//! of a repeated request, tells it where the call has been.

use std::sync::Arc;

/// Endpoints that this call was tried at; a balancer prefers others.
#[derive(Clone, Debug, Default)]
pub struct Tried(pub Arc<[Arc<str>]>);
