//! What `tools/list` says.

use std::sync::LazyLock;

use serde_json::{Value, json};

static TOOLS: LazyLock<Value> =
    LazyLock::new(|| Value::Array([plain(), timed(), asking(), rude()].concat()));

/// The tools, for `tools/list`.
pub(crate) fn catalogue() -> &'static Value {
    &TOOLS
}

/// A tool with arguments; `required` says which of them it cannot do without.
fn tool(name: &str, description: &str, properties: &Value, required: &[&str]) -> Value {
    json!({
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": properties, "required": required},
    })
}

/// The same, marked as harmless.
fn reading(name: &str, description: &str, properties: &Value, required: &[&str]) -> Value {
    let mut tool = tool(name, description, properties, required);
    tool["annotations"] =
        json!({"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false});
    tool
}

fn whole(description: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": description})
}

fn string(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn plain() -> Vec<Value> {
    let number = json!({"type": "number"});
    let mut add = reading(
        "add",
        "Adds two numbers.",
        &json!({"a": number, "b": number}),
        &["a", "b"],
    );
    add["outputSchema"] =
        json!({"type": "object", "properties": {"sum": number}, "required": ["sum"]});
    let region = json!({"type": "string", "description": "Its region.", "x-mcp-header": "Region"});
    vec![
        reading(
            "echo",
            "Gives the text back.",
            &json!({"text": string("The text.")}),
            &["text"],
        ),
        add,
        reading(
            "weather",
            "Tells the weather, which is always fine. The region is also sent as a header.",
            &json!({"city": string("The city."), "region": region}),
            &["city"],
        ),
        reading(
            "env",
            "The value of an environment variable.",
            &json!({"name": string("Its name.")}),
            &["name"],
        ),
        reading(
            "whoami",
            "Which process answers, and what it sees of the caller.",
            &json!({}),
            &[],
        ),
        reading(
            "big",
            "A text of so many bytes.",
            &json!({"bytes": whole("How many.")}),
            &["bytes"],
        ),
        reading(
            "fail",
            "Fails, with a result that says so.",
            &json!({}),
            &[],
        ),
        reading(
            "error",
            "Answers with a JSON-RPC error.",
            &json!({"code": {"type": "integer"}, "message": string("Its text.")}),
            &["code"],
        ),
    ]
}

fn timed() -> Vec<Value> {
    let levels = [
        "debug",
        "info",
        "notice",
        "warning",
        "error",
        "critical",
        "alert",
        "emergency",
    ];
    vec![
        reading(
            "sleep",
            "Waits, then answers.",
            &json!({"ms": whole("Milliseconds.")}),
            &["ms"],
        ),
        reading(
            "progress",
            "Reports progress step by step, then answers.",
            &json!({"steps": whole("How many."), "interval_ms": whole("Milliseconds before each.")}),
            &["steps"],
        ),
        tool(
            "log",
            "Sends a log message.",
            &json!({"message": string("What it says."), "level": {"type": "string", "enum": levels}}),
            &["message"],
        ),
        tool(
            "flood",
            "Sends many log messages.",
            &json!({"lines": whole("How many.")}),
            &["lines"],
        ),
        tool(
            "tick",
            "Ticks demo://clock, or tells that a list has changed.",
            &json!({"list": {"type": "string", "enum": ["tools", "prompts", "resources"]}}),
            &[],
        ),
    ]
}

fn asking() -> Vec<Value> {
    vec![
        tool(
            "ask",
            "Asks the user.",
            &json!({"question": string("What to ask.")}),
            &[],
        ),
        tool(
            "sample",
            "Asks the client's model.",
            &json!({"prompt": string("What to ask.")}),
            &[],
        ),
        tool("roots", "Asks for the client's roots.", &json!({}), &[]),
    ]
}

fn rude() -> Vec<Value> {
    vec![
        tool(
            "crash",
            "Ends the process with 3; over HTTP, cuts the connection.",
            &json!({}),
            &[],
        ),
        tool(
            "garbage",
            "Writes a line that is not JSON, then answers. Stdio only.",
            &json!({}),
            &[],
        ),
        tool(
            "hang_stdin",
            "Answers, and reads stdin no more. Stdio only.",
            &json!({}),
            &[],
        ),
        tool(
            "spawn_child",
            "Starts a process that sleeps for ten minutes, and tells its pid.",
            &json!({"inherit_stdout": {
                "type": "boolean",
                "description": "Whether it holds the server's stdout open. Stdio only.",
            }}),
            &[],
        ),
    ]
}
