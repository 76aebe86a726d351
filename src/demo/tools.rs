//! The tools. Those that answer at once are in [`quick`], those that take time or speak first in [`slow`], those that
//! ask the client in [`ask`]; [`catalogue`] describes them all.

mod ask;
mod catalogue;
mod quick;
mod slow;

use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::call::Work;
use super::engine::{Caller, Engine, Outcome, Transport};
use super::rpc::{Params, RpcError, text};

pub(crate) use catalogue::catalogue;
pub(crate) use slow::Slow;

/// The input schema of a tool, if there is such a tool.
pub(crate) fn input_schema(name: &str) -> Option<&'static Value> {
    let tools = catalogue().as_array()?;
    let tool = tools.iter().find(|tool| tool["name"] == name)?;
    tool.get("inputSchema")
}

/// Answers `tools/call`.
pub(crate) fn call(
    engine: &Engine,
    params: &Params,
    caller: &Caller,
    headers: Option<&HeaderMap>,
) -> Result<Outcome, RpcError> {
    let name =
        text(params, "name").ok_or_else(|| RpcError::invalid_params("name is not a string"))?;
    let given = Arguments(params.get("arguments").unwrap_or(&Value::Null));
    let on_stdio = |outcome: Outcome| match engine.transport() {
        Transport::Stdio => outcome,
        Transport::Http => Outcome::Result(failure("this tool works over stdio only")),
    };
    Ok(match name {
        "echo" => Outcome::Result(quick::echo(given.read()?)),
        "add" => Outcome::Result(quick::add(&given.read()?)),
        "weather" => Outcome::Result(quick::weather(&given.read()?)),
        "env" => Outcome::Result(quick::env(&given.read()?)),
        "whoami" => Outcome::Result(quick::whoami(engine, caller, headers)),
        "big" => Outcome::Result(quick::big(&given.read()?)),
        "fail" => Outcome::Result(failure("this tool always fails")),
        "error" => return Err(quick::error(&given.read()?)),
        "crash" => Outcome::Crash,
        "hang_stdin" => on_stdio(Outcome::Hang(success("stdin is not read any more"))),
        "garbage" => on_stdio(Outcome::Later(Work::Tool(Slow::Garbage))),
        "sleep" => later(Slow::Sleep(given.read()?)),
        "progress" => later(Slow::Progress(given.read()?)),
        "log" => later(Slow::Log(given.read()?)),
        "flood" => later(Slow::Flood(given.read()?)),
        "tick" => later(Slow::Tick(given.read()?)),
        "spawn_child" => later(Slow::SpawnChild(given.read()?)),
        "ask" | "sample" | "roots" => ask::call(name, given.0, params, caller)?,
        _ => return Err(RpcError::invalid_params(format!("there is no tool {name}"))),
    })
}

/// The arguments of a call, not yet checked.
struct Arguments<'a>(&'a Value);

impl Arguments<'_> {
    /// The arguments in the tool's own type; none given is the same as an empty object.
    fn read<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        let empty = Value::Object(Params::new());
        let given = if self.0.is_null() { &empty } else { self.0 };
        T::deserialize(given)
            .map_err(|error| RpcError::invalid_params(format!("bad arguments: {error}")))
    }
}

fn later(tool: Slow) -> Outcome {
    Outcome::Later(Work::Tool(tool))
}

/// A tool result with a text.
fn success(text: impl Into<String>) -> Value {
    json!({"content": [{"type": "text", "text": text.into()}], "isError": false})
}

/// A tool result with a text, and the same for programs.
fn structured(text: impl Into<String>, value: Value) -> Value {
    let mut result = success(text);
    result["structuredContent"] = value;
    result
}

/// A tool result that says that the tool failed.
fn failure(text: impl Into<String>) -> Value {
    json!({"content": [{"type": "text", "text": text.into()}], "isError": true})
}
