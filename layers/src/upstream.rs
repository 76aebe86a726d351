//! Upstream services: the leaves.
pub mod stdio;
