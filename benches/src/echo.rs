//! What the echo server answers, whatever it is asked over. It serves both eras, and does as little as
//! a correct answer allows, so that the proxy in front of it is what gets measured.
//!
//! | tool | arguments | answer |
//! | --- | --- | --- |
//! | `echo` | `text` | the text |
//! | `progress` | `steps` | that many progress notifications, then `done` |
//! | `big` | `bytes` | a text of that many `x` |

use serde_json::value::RawValue;

use crate::rpc::{LEGACY, MODERN, Params, Request};

pub(crate) enum Answer {
    /// A notification: nobody waits.
    Nothing,
    Message(String),
    Stream(Progress),
}

/// The messages of one `progress` call: the notifications, then the response.
pub(crate) struct Progress {
    token: Box<str>,
    step: u64,
    steps: u64,
    response: Option<String>,
}

impl Iterator for Progress {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.step == self.steps {
            return self.response.take();
        }
        self.step += 1;
        Some(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":{},"total":{}}}}}"#,
            self.token, self.step, self.steps
        ))
    }
}

const CAPABILITIES: &str = r#"{"tools":{},"logging":{}}"#;
const SERVER: &str = r#"{"name":"ziggurat-bench-echo","version":"1"}"#;
const TOOLS: &str = concat!(
    r#"[{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}},"#,
    r#"{"name":"progress","inputSchema":{"type":"object","properties":{"steps":{"type":"integer"}}}},"#,
    r#"{"name":"big","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer"}}}}]"#
);

pub(crate) fn answer(request: &Request<'_>) -> Answer {
    let Some(id) = request.id else {
        return Answer::Nothing;
    };
    let params = &request.params;
    let result = match &*request.method {
        "tools/call" => return call(id, params),
        "initialize" => format!(
            r#"{{"protocolVersion":"{}","capabilities":{CAPABILITIES},"serverInfo":{SERVER}}}"#,
            negotiated(params)
        ),
        "server/discover" => format!(
            r#"{{"resultType":"complete","supportedVersions":["{MODERN}"],"capabilities":{CAPABILITIES},"ttlMs":60000,"cacheScope":"public","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER}}}}}"#
        ),
        "tools/list" if is_modern(params) => format!(
            r#"{{"resultType":"complete","tools":{TOOLS},"ttlMs":60000,"cacheScope":"public"}}"#
        ),
        "tools/list" => format!(r#"{{"tools":{TOOLS}}}"#),
        "ping" | "logging/setLevel" => "{}".to_owned(),
        _ => return Answer::Message(error(id, -32601, "no such method")),
    };
    Answer::Message(response(id, &result))
}

fn call(id: &RawValue, params: &Params<'_>) -> Answer {
    let arguments = &params.arguments;
    match params.name.as_deref() {
        Some("echo") => {
            let text = arguments.text.map_or(r#""""#, RawValue::get);
            Answer::Message(tool_result(id, params, text))
        }
        Some("big") => {
            let text = format!("\"{}\"", "x".repeat(arguments.bytes));
            Answer::Message(tool_result(id, params, &text))
        }
        Some("progress") => Answer::Stream(Progress {
            token: params
                .meta
                .progress_token
                .map_or("null", RawValue::get)
                .into(),
            step: 0,
            // Whoever gave no token gets no progress.
            steps: params.meta.progress_token.map_or(0, |_| arguments.steps),
            response: Some(tool_result(id, params, r#""done""#)),
        }),
        _ => Answer::Message(error(id, -32602, "no such tool")),
    }
}

pub(crate) fn is_modern(params: &Params<'_>) -> bool {
    params.meta.version.is_some()
}

/// The client's own revision when it is one with a handshake, else the newest of those.
fn negotiated<'a>(params: &'a Params<'_>) -> &'a str {
    match params.version.as_deref() {
        Some(known @ ("2024-11-05" | "2025-03-26" | "2025-06-18" | LEGACY)) => known,
        _ => LEGACY,
    }
}

fn tool_result(id: &RawValue, params: &Params<'_>, text: &str) -> String {
    let result_type = if is_modern(params) {
        r#""resultType":"complete","#
    } else {
        ""
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{{result_type}"content":[{{"type":"text","text":{text}}}]}}}}"#
    )
}

fn response(id: &RawValue, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

pub(crate) fn error(id: &RawValue, code: i32, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
}
