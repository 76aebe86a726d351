//! The tools that answer at once.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Number, Value, json};

use super::{failure, structured, success};
use crate::demo::engine::{Caller, Engine, Transport};
use crate::demo::rpc::RpcError;

/// The longest text that `big` makes.
const BIGGEST: usize = 64 << 20;

#[derive(Deserialize)]
pub(super) struct Echo {
    text: String,
}

#[derive(Deserialize)]
pub(super) struct Add {
    a: Number,
    b: Number,
}

#[derive(Deserialize)]
pub(super) struct Weather {
    city: String,
    region: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Env {
    name: String,
}

#[derive(Deserialize)]
pub(super) struct Big {
    bytes: usize,
}

#[derive(Deserialize)]
pub(super) struct Fault {
    code: i64,
    message: Option<String>,
}

pub(super) fn echo(given: Echo) -> Value {
    success(given.text)
}

pub(super) fn add(given: &Add) -> Value {
    let whole = given.a.as_i64().zip(given.b.as_i64());
    let sum = match whole.and_then(|(a, b)| a.checked_add(b)) {
        Some(sum) => json!(sum),
        None => json!(given.a.as_f64().unwrap_or(0.0) + given.b.as_f64().unwrap_or(0.0)),
    };
    structured(sum.to_string(), json!({"sum": sum}))
}

pub(super) fn weather(given: &Weather) -> Value {
    let region = given.region.as_deref().unwrap_or("its region");
    success(format!("It is sunny in {}, {region}.", given.city))
}

pub(super) fn env(given: &Env) -> Value {
    match std::env::var_os(&given.name) {
        Some(value) => {
            let value = value.to_string_lossy().into_owned();
            structured(value.clone(), json!({"name": given.name, "value": value}))
        }
        None => failure(format!("{} is not set", given.name)),
    }
}

pub(super) fn big(given: &Big) -> Value {
    if given.bytes > BIGGEST {
        return failure(format!("more than {BIGGEST} bytes are too many"));
    }
    success("x".repeat(given.bytes))
}

pub(super) fn error(given: &Fault) -> RpcError {
    let message = given
        .message
        .as_deref()
        .unwrap_or("this error was asked for");
    RpcError::new(given.code, message)
}

pub(super) fn whoami(engine: &Engine, caller: &Caller, headers: Option<&HeaderMap>) -> Value {
    let (era, session) = match caller {
        Caller::Legacy(session) => ("legacy", session.id().map(str::to_owned)),
        Caller::Modern(_) => ("modern", None),
    };
    let transport = match engine.transport() {
        Transport::Stdio => "stdio",
        Transport::Http => "http",
    };
    let who = json!({
        "pid": std::process::id(),
        "instance": engine.instance(),
        "transport": transport,
        "era": era,
        "protocolVersion": caller.version(),
        "session": session,
        "sessions": engine.sessions(),
        "headers": headers.map(shown),
    });
    structured(who.to_string(), who)
}

/// The headers by name; those that came more than once are joined.
fn shown(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut all = BTreeMap::<_, String>::new();
    for (name, value) in headers {
        let seen = all.entry(name.as_str()).or_default();
        if !seen.is_empty() {
            seen.push_str(", ");
        }
        seen.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    all
}
