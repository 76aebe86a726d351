//! The service crate of ziggurat.

pub mod cli;
pub mod config;
pub mod demo;
