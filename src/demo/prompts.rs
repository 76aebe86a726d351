//! The prompt, and the completion of arguments.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::engine::Outcome;
use super::rpc::{Params, RpcError, text};

const NAMES: [&str; 6] = ["Ada", "Alan", "Barbara", "Edsger", "Grace", "Tony"];
const NUMBERS: [&str; 4] = ["1", "10", "100", "1000"];

static CATALOGUE: LazyLock<Value> = LazyLock::new(|| {
    json!([{
        "name": "greet",
        "description": "Asks for a greeting.",
        "arguments": [{"name": "name", "description": "Whom to greet.", "required": true}],
    }])
});

/// The prompts, for `prompts/list`.
pub(crate) fn catalogue() -> &'static Value {
    &CATALOGUE
}

/// Answers `prompts/get`.
pub(crate) fn get(params: &Params) -> Result<Outcome, RpcError> {
    if text(params, "name") != Some("greet") {
        return Err(RpcError::invalid_params("there is no such prompt"));
    }
    let name = params
        .get("arguments")
        .and_then(|arguments| arguments.get("name"))
        .and_then(Value::as_str)
        .ok_or_else(|| RpcError::invalid_params("the argument name is missing"))?;
    Ok(Outcome::Result(json!({
        "description": "A greeting.",
        "messages": [{
            "role": "user",
            "content": {"type": "text", "text": format!("Please greet {name} in one sentence.")},
        }],
    })))
}

/// Answers `completion/complete`.
pub(crate) fn complete(params: &Params) -> Result<Outcome, RpcError> {
    let part = |object: &str, key: &str| {
        params
            .get(object)
            .and_then(|object| object.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let argument = part("argument", "name");
    let known: &[&str] = match part("ref", "type").as_str() {
        "ref/prompt" if part("ref", "name") == "greet" && argument == "name" => &NAMES,
        "ref/resource" if part("ref", "uri") == "demo://numbers/{n}" && argument == "n" => &NUMBERS,
        "ref/prompt" | "ref/resource" => {
            return Err(RpcError::invalid_params("there is no such reference"));
        }
        _ => return Err(RpcError::invalid_params("ref.type is not known")),
    };
    let typed = part("argument", "value");
    let values: Vec<_> = known
        .iter()
        .filter(|value| value.starts_with(&typed))
        .collect();
    Ok(Outcome::Result(json!({
        "completion": {"values": values, "total": values.len(), "hasMore": false},
    })))
}
