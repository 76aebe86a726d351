//! Ziggurat, the service.

pub mod demo;
