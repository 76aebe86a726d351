//! What a layer says of the attempt it is about to make, for the balancer below it to obey. Both ride in the request's extensions.

use std::sync::Arc;

/// Endpoints that this call was tried at; a balancer prefers others.
#[derive(Clone, Debug, Default)]
pub struct Tried(pub Arc<[Arc<str>]>);

/// The one endpoint that this call must go to.
#[derive(Clone, Debug)]
pub struct Pinned(pub Arc<str>);
