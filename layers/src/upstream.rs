//! Upstream services: the leaves of the tower.
//!
//! An upstream service takes an `http::Request` and answers with an `http::Response`, whatever it does to get one. It knows nothing of the layers
//! above it; what it must know of a call (era, why it was given up) it reads from the request's
//! [`Exchange`](crate::exchange::Exchange). It is always ready: holding back is the layers' business.

#[cfg(feature = "http")]
pub mod http;
#[cfg(any(feature = "stdio", all(feature = "http", feature = "session")))]
mod mailbox;
#[cfg(any(feature = "stdio", all(feature = "http", feature = "session")))]
mod outbox;
#[cfg(all(feature = "http", feature = "session"))]
pub mod sse;
#[cfg(feature = "stdio")]
pub mod stdio;
