//! The service crate of ziggurat: it reads a config, stacks the tower of [`ziggurat_layers`], and serves it.
//!
//! A request's way stands on one screen: [`stack`]. [`config`] reads the file into checked values, [`settings`] turns those into what the layers
//! take, `assemble` stacks the terraces of a config, `discovery` finds the endpoints that a name stands for, `upstreams` keeps the upstream services over reloads, `kept` whatever else outlives them, `standing` what the operator ordered, [`app`]
//! runs it all, on [`serve`]'s listeners, beside [`admin`] and [`telemetry`]. [`demo`] is an MCP server to try it with.

pub mod admin;
pub mod app;
mod assemble;
mod caps;
pub mod cli;
pub mod config;
pub mod demo;
mod discovery;
mod erase;
mod kept;
pub mod live;
mod rates;
mod replays;
pub mod serve;
mod sessions;
pub mod settings;
pub mod stack;
mod standing;
pub mod telemetry;
mod trace;
mod upstreams;
