//! The service crate of ziggurat.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod live;
pub mod serve;
pub mod telemetry;
