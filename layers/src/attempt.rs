//! What a layer says of the attempt it is about to make, for the layers below it. It rides in the request's extensions.
//!
//! A retry layer asks more than once, and an inner layer cannot tell a first attempt from a later one; [`Tried`] tells where
//! the call has been. A session belongs to one endpoint; [`Pinned`] names it, and [`InSession`] the session. What a layer sends by itself, and no
//! client asked for, is [`Unasked`]. In the other direction, [`Unresumable`] in the extensions of a response says something of its stream.

use std::{
    any::Any,
    sync::{Arc, Weak},
};

use tokio_util::sync::CancellationToken;

/// Endpoints that this call was tried at; a balancer prefers others.
#[derive(Clone, Debug, Default)]
pub struct Tried(pub Arc<[Arc<str>]>);

/// The one endpoint that this call must go to.
#[derive(Clone, Debug)]
pub struct Pinned(pub Arc<str>);

/// The proxy sends this by itself: to heal a session (the handshake, and the request that found out once more), or to end one. It does not count against the client.
#[derive(Clone, Copy, Debug)]
pub struct Unasked;

/// The session that this request belongs to. Whoever puts it in has checked that the client may use it.
#[derive(Clone, Debug, Default)]
pub struct InSession {
    /// What tells the session from all others.
    pub serial: u128,
    /// Cancelled when the session ends other than by a DELETE, or begins anew elsewhere: what it had going then is over.
    pub ended: CancellationToken,
    /// The session counts as in use for as long as somebody has this (see [`InSession::hold`]).
    pub busy: Option<Weak<dyn Any + Send + Sync>>,
}

/// The event stream of this response cannot be resumed by whoever sends it, so that a [`replay`](crate::replay) layer keeps it. What comes for a
/// standing stream while there is none the sender keeps for the next one.
#[derive(Clone, Copy, Debug)]
pub struct Unresumable;

/// What keeps a session in use.
pub type Hold = Arc<dyn Any + Send + Sync>;

impl InSession {
    /// Keeps the session in use until this is dropped, for a call that goes on without its client.
    pub fn hold(&self) -> Option<Hold> {
        self.busy.as_ref()?.upgrade()
    }
}
