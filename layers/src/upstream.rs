//! The leaves: services that reach a server.
//!
//! An upstream service is a `Service<http::Request<B>>` like every layer above it, and it is the last one: what comes out is what
//! the server said. It stands for one endpoint. It never knows which layers stand above it; what it needs of a call it reads in
//! the [`Exchange`](crate::exchange::Exchange), and it works without one. It is always ready: waiting and refusing are for the
//! layers above. Its errors are typed, and say whether the call may have had an effect.

#[cfg(feature = "http")]
pub mod http;
