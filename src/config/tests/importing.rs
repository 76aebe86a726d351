//! The files of MCP clients become configs.

use super::*;
use crate::config::import::translate;

/// The text that an import gives, which must be a config that `check` accepts.
#[track_caller]
fn imported(json: &str) -> String {
    let text = translate(json, "mcp.json").unwrap();
    good(&text);
    text
}

#[test]
fn each_server_gets_a_route_and_an_upstream() {
    let text = imported(
        r#"{
  "mcpServers": {
    "Everything Server": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-everything"], "env": { "LOG": "1" } },
    "remote": { "type": "http", "url": "https://a.example/mcp", "headers": { "Authorization": "Bearer ${TOOLS_TOKEN}" } }
  }
}"#,
    );
    assert_eq!(
        text,
        r#"# made from mcp.json by `ziggurat import`
routes:
  - match:
      path: /everything-server
    upstream: everything-server
  - match:
      path: /remote
    upstream: remote
upstreams:
  everything-server:
    endpoints:
      - command: [npx, "-y", "@modelcontextprotocol/server-everything"]
        env:
          LOG: "1"
  remote:
    endpoints:
      - url: "https://a.example/mcp"
        headers:
          Authorization: "Bearer ${TOOLS_TOKEN}"
"#
    );
}

#[test]
fn comments_and_trailing_commas_of_editors_are_allowed() {
    let text = imported(
        "// mine\n{ /* all\nof them */ \"servers\": { \"a\": { \"command\": \"run\", \"args\": [\"http://x//y\", \"/*no*/\",], }, }, }",
    );
    assert!(
        text.contains(r#"command: [run, "http://x//y", "/*no*/"]"#),
        "{text}"
    );
}

#[test]
fn references_of_other_clients_become_ours_and_nothing_else_does() {
    let text = imported(
        r#"{ "mcp": { "servers": { "a": { "command": "run", "args": ["${workspaceFolder}/x"],
            "env": { "A": "${env:FILES_TOKEN}", "B": "${EMPTY}", "C": "${EMPTY:-d}", "D": "$$ ${", "E": "$" } } } } }"#,
    );
    for expected in [
        r#"A: "${FILES_TOKEN}""#,
        r#"C: "${EMPTY:-d}""#,
        r#"D: "$$ $${""#,
        r#""$${workspaceFolder}/x""#,
        "# ${workspaceFolder} means something to that client only",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let text = translate(
        r#"{ "servers": { "a": { "url": "http://a", "headers": { "x": "${input:api-key}" } } } }"#,
        "x",
    )
    .unwrap();
    assert!(text.contains("x: \"${API_KEY}\""), "{text}");
}

#[test]
fn secrets_stay_as_they_are_and_are_pointed_out() {
    let text = imported(
        r#"{ "mcpServers": { "a": { "command": "run", "env": { "API_KEY": "s3cr3t" } } } }"#,
    );
    assert!(text.contains("API_KEY: s3cr3t"), "{text}");
    assert!(text.contains("# API_KEY is written out here"), "{text}");
}

#[test]
fn what_cannot_be_taken_over_is_named() {
    let text = imported(
        r#"{ "mcpServers": {
            "old": { "type": "sse", "url": "http://a.example/sse" },
            "asleep": { "command": "run", "disabled": true },
            "line\nbreak": { },
            "good": { "command": "run", "autoApprove": ["x"], "timeout": 60 } } }"#,
    );
    for expected in [
        "# old: left out, it uses the HTTP+SSE transport",
        "# asleep: left out, it is disabled",
        "# line break: left out, it has neither",
        "# not taken over: autoApprove, timeout",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

#[test]
fn names_that_come_out_alike_are_numbered() {
    let text = imported(
        r#"{ "mcpServers": { "A b": { "command": "x" }, "a-B": { "command": "y" }, "日本": { "command": "z" }, "off": { "command": "w" } } }"#,
    );
    for expected in [
        "path: /a-b\n",
        "path: /a-b-2\n",
        "path: /server\n",
        "path: /off\n",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

#[test]
fn a_file_without_servers_is_refused() {
    let said = |text: &str| translate(text, "mcp.json").unwrap_err().to_string();
    assert!(said("{}").contains("there is no map `mcpServers`"));
    assert!(said("{ \"mcpServers\": {} }").contains("no server here that could be taken over"));
    assert!(said("{ \"mcpServers\": { \"a\": 1 } }").contains("a: left out, it is not an object"));
    assert!(said("{").contains("mcp.json:1:"), "{}", said("{"));
}
