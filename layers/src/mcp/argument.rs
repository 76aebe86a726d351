//! One value among the arguments of a tool call, for who places or counts calls by it.

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Call {
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    arguments: Value,
}

/// The JSON text of what `pointer` (RFC 6901) finds in `params.arguments` of this message.
pub(crate) fn find(message: &[u8], pointer: &str) -> Option<String> {
    let call: Call = serde_json::from_slice(message).ok()?;
    call.params.arguments.pointer(pointer).map(Value::to_string)
}
