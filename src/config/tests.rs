//! The config from text to settings and back. Variables come from a table, so that no test depends on where it runs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::time::Duration;

use super::check::Context;
use super::source::parse;
use super::*;

mod explaining;
mod importing;
mod mistakes;
mod reading;

const FIXTURES: &[(&str, &str)] = &[
    (
        "anchors.yaml",
        include_str!("../../tests/fixtures/anchors.yaml"),
    ),
    ("full.yaml", include_str!("../../tests/fixtures/full.yaml")),
    ("json.yaml", include_str!("../../tests/fixtures/json.yaml")),
    (
        "minimal.yaml",
        include_str!("../../tests/fixtures/minimal.yaml"),
    ),
    ("off.yaml", include_str!("../../tests/fixtures/off.yaml")),
    (
        "stdio.yaml",
        include_str!("../../tests/fixtures/stdio.yaml"),
    ),
];

fn variables(name: &str) -> Option<String> {
    let value = match name {
        "TOOLS_TOKEN" => "s3cr3t-tools",
        "TENANT_TOKEN" => "s3cr3t-tenant",
        "FILES_TOKEN" => "s3cr3t-files",
        "ADMIN_TOKEN" => "s3cr3t-admin-0123",
        "SESSION_KEY" => "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "EMPTY" => "",
        "BAD" => "s3cr3t bad",
        _ => return None,
    };
    Some(value.to_owned())
}

fn read_with(text: &str, overrides: &Overrides) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    parse(
        text,
        "z.yaml",
        &Context {
            named: false,
            folder: None,
            environment: &variables,
            overrides,
        },
    )
}

fn read(text: &str) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    read_with(text, &Overrides::default())
}

/// A config that is right, whatever it warns of.
fn good(text: &str) -> Config {
    match read(text) {
        Ok((config, _)) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// What is said about a config that is wrong.
fn bad(text: &str) -> String {
    match read(text) {
        Ok((config, _)) => panic!("this was taken: {config:?}"),
        Err(errors) => errors.to_string(),
    }
}

fn warnings(text: &str) -> String {
    match read(text) {
        Ok((_, warnings)) => warnings
            .iter()
            .map(|warning| format!("{warning}\n"))
            .collect(),
        Err(errors) => panic!("{errors}"),
    }
}

/// A config with one route and one upstream, and the given lines in the upstream's endpoint.
fn with_endpoint(lines: &str) -> String {
    let lines = lines.replace('\n', "\n        ");
    format!(
        "routes:\n  - match: {{ path: /mcp }}\n    upstream: tools\nupstreams:\n  tools:\n    endpoints:\n      - {lines}\n"
    )
}

/// A config with one upstream, and the given lines in a route.
fn with_route(lines: &str) -> String {
    let lines = lines.replace('\n', "\n    ");
    format!(
        "routes:\n  - {lines}\n    upstream: tools\nupstreams:\n  tools:\n    endpoints: [{{ url: \"http://127.0.0.1:1\" }}]\n"
    )
}

/// The minimal config with the given lines before it.
fn with_top(lines: &str) -> String {
    format!(
        "{lines}\n{}",
        with_endpoint("url: http://127.0.0.1:3001/mcp")
    )
}

fn http(config: &Config) -> &HttpEndpoint {
    match &config.upstreams[0].endpoints[0].endpoint {
        Endpoint::Http(endpoint) => endpoint,
        Endpoint::Stdio(endpoint) => panic!("{endpoint:?}"),
    }
}

fn stdio(config: &Config, index: usize) -> &StdioEndpoint {
    match &config.upstreams[index].endpoints[0].endpoint {
        Endpoint::Stdio(endpoint) => endpoint,
        Endpoint::Http(endpoint) => panic!("{endpoint:?}"),
    }
}
