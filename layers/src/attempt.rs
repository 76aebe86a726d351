//! What a layer says of the attempt it is about to make, for the layers below it. Both ride in the request's extensions.
//!
//! A retry layer asks more than once, and an inner layer cannot tell a first attempt from a later one; [`Tried`] tells where
//! the call has been. A session belongs to one endpoint; [`Pinned`] names it. What a layer sends by itself, and no client asked for, is [`Unasked`].

use std::sync::Arc;

/// Endpoints that this call was tried at; a balancer prefers others.
#[derive(Clone, Debug, Default)]
pub struct Tried(pub Arc<[Arc<str>]>);

/// The one endpoint that this call must go to.
#[derive(Clone, Debug)]
pub struct Pinned(pub Arc<str>);

/// The proxy sends this by itself, to heal a session: the handshake, and the request that found out once more. It does not count against the client.
#[derive(Clone, Copy, Debug)]
pub struct Unasked;
