//! The settings that the program's schema has for the layers that keep calls alive.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::Start;

/// What belongs to other layers, or says what there is: all below these is left out. A key that is new is not.
const OTHERS: [&str; 45] = [
    "server.access_log",
    "server.body_limit",
    "server.drain",
    "server.header_timeout",
    "server.heartbeat",
    "server.hosts",
    "server.origins",
    "server.replay_memory",
    "server.session_keys",
    "server.write_stall",
    "route.errors",
    "route.forward",
    "route.http_sse",
    "route.intercept",
    "route.match",
    "route.name",
    "route.protocol",
    "route.rate_limit",
    "route.replay",
    "route.session",
    "route.upstream",
    "upstream.stateless",
    "upstream.endpoints[url].headers",
    "upstream.endpoints[url].http2",
    "upstream.endpoints[url].keepalive",
    "upstream.endpoints[url].pool_idle",
    "upstream.endpoints[url].tls",
    "upstream.endpoints[url].transport",
    "upstream.endpoints[url].url",
    "upstream.endpoints[command].command",
    "upstream.endpoints[command].cwd",
    "upstream.endpoints[command].env",
    "upstream.endpoints[command].handshake",
    "upstream.endpoints[command].idle",
    "upstream.endpoints[command].isolation",
    "upstream.endpoints[command].lifetime",
    "upstream.endpoints[command].line_limit",
    "upstream.endpoints[command].max",
    "upstream.endpoints[command].recycle",
    "upstream.endpoints[command].sessions",
    "upstream.endpoints[command].silence",
    "upstream.endpoints[command].snapshot",
    "upstream.endpoints[command].starting",
    "upstream.endpoints[command].stop",
    "upstream.endpoints[command].warm",
];

/// The key paths of the settings, and whether they may be `off`.
pub(super) async fn settings() -> BTreeMap<String, bool> {
    let output = Start::args(&["schema"]).ends().await;
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = &schema["properties"];
    let mut found = BTreeMap::new();
    walk("server", &all["server"], &mut found);
    walk("route", &all["routes"]["items"], &mut found);
    let upstream = &all["upstreams"]["additionalProperties"];
    walk("upstream", upstream, &mut found);
    for other in OTHERS {
        let before = found.len();
        found.retain(|path, _| {
            let rest = path.strip_prefix(other);
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        assert!(found.len() < before, "the schema has no {other}");
    }
    found
}

/// Notes the settings at and below a place. A section that may also be written otherwise, such as `off`, is a setting, too.
fn walk(path: &str, schema: &Value, found: &mut BTreeMap<String, bool>) {
    for form in forms(schema) {
        let sections = sections_of_list(form);
        if let Some(keys) = form["properties"].as_object() {
            for (key, schema) in keys {
                walk(&format!("{path}.{key}"), schema, found);
            }
        } else if sections.is_empty() {
            let may_be_off = found.entry(path.to_owned()).or_default();
            *may_be_off |= form["const"] == "off";
        }
        for section in &sections {
            // Which of several kinds an item is, is seen by the key that it needs.
            let kind = section["required"][0].as_str().unwrap_or_default();
            let kind = if sections.len() > 1 { kind } else { "" };
            walk(&format!("{path}[{kind}]"), section, found);
        }
    }
}

/// The sections that the items of a list may be.
fn sections_of_list(schema: &Value) -> Vec<&Value> {
    let forms = schema.get("items").map(forms).unwrap_or_default();
    let sections = forms.into_iter();
    sections
        .filter(|form| form["properties"].is_object())
        .collect()
}

/// The forms that a value may have.
fn forms(schema: &Value) -> Vec<&Value> {
    match schema["anyOf"].as_array() {
        Some(forms) => forms.iter().flat_map(self::forms).collect(),
        None => vec![schema],
    }
}
