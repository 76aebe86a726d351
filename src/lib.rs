//! The ziggurat binary's parts: the listener, telemetry, the admin listener, and the stack that a reload swaps.

pub mod admin;
pub mod live;
pub mod serve;
pub mod telemetry;
