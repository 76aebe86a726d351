//! The resources: a text that stays, a clock that ticks, and numbers by template.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::engine::{Caller, Engine, LISTS_LAST, Outcome};
use super::rpc::{Params, RpcError, text};

/// The resource that the tool `tick` changes.
pub(crate) const CLOCK: &str = "demo://clock";
const GREETING: &str = "demo://greeting";
const NUMBERS: &str = "demo://numbers/";

static CATALOGUE: LazyLock<Value> = LazyLock::new(|| {
    json!([
        {
            "uri": GREETING,
            "name": "greeting",
            "description": "A text that stays the same.",
            "mimeType": "text/plain",
        },
        {
            "uri": CLOCK,
            "name": "clock",
            "description": "How often the tool tick was called, and the time. Subscribe to hear of each tick.",
            "mimeType": "application/json",
        },
    ])
});

static TEMPLATES: LazyLock<Value> = LazyLock::new(|| {
    json!([{
        "uriTemplate": "demo://numbers/{n}",
        "name": "number",
        "description": "The square of a whole number.",
        "mimeType": "text/plain",
    }])
});

/// The resources, for `resources/list`.
pub(crate) fn catalogue() -> &'static Value {
    &CATALOGUE
}

/// The templates, for `resources/templates/list`.
pub(crate) fn templates() -> &'static Value {
    &TEMPLATES
}

/// Whether there is such a resource.
pub(crate) fn exists(uri: &str) -> bool {
    uri == CLOCK || uri == GREETING || number(uri).is_some()
}

/// The `uri` parameter, which must name a resource that exists.
pub(crate) fn require<'a>(params: &'a Params, caller: &Caller) -> Result<&'a str, RpcError> {
    let uri = text(params, "uri").ok_or_else(|| RpcError::invalid_params("uri is not a string"))?;
    if exists(uri) {
        return Ok(uri);
    }
    let code = match caller {
        Caller::Legacy(_) => -32002,
        Caller::Modern(_) => -32602,
    };
    Err(RpcError::new(code, "there is no such resource").with_data(json!({"uri": uri})))
}

/// Answers `resources/read`.
pub(crate) fn read(engine: &Engine, params: &Params, caller: &Caller) -> Result<Outcome, RpcError> {
    let uri = require(params, caller)?;
    let contents = |kind: &str, text: String| json!({"contents": [{"uri": uri, "mimeType": kind, "text": text}]});
    Ok(if uri == CLOCK {
        let now = jiff::Timestamp::now().to_string();
        let text = json!({"ticks": engine.ticks(), "now": now}).to_string();
        Outcome::Cacheable(contents("application/json", text), 0)
    } else if let Some(n) = number(uri) {
        Outcome::Cacheable(
            contents("text/plain", (u64::from(n) * u64::from(n)).to_string()),
            LISTS_LAST,
        )
    } else {
        Outcome::Cacheable(
            contents("text/plain", "Hello from the demo server.".to_owned()),
            LISTS_LAST,
        )
    })
}

fn number(uri: &str) -> Option<u32> {
    uri.strip_prefix(NUMBERS)?.parse().ok()
}
