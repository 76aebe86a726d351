//! What rules may say: in the config, or in a file of their own.
//!
//! The comments here are the descriptions in the JSON Schema, so they speak to whoever writes a rule.

use std::path::PathBuf;

use http::{HeaderName, StatusCode};
use schemars::{Schema, json_schema};
use serde_json::{Value, json};
use ziggurat_layers::intercept::{
    AtLimit, Direction, Pointer,
    rules::{Expression, OnError},
};
use ziggurat_layers::pattern::Pattern;

use super::mistake::Mistakes;
use super::node::{Node, Shape};
use super::read::{At, Dict, FromText, Keys, Property, Read, Wrong, object, section};
use super::value::{Clock, HeaderText, Label, SettableHeader, Size, Switch, Word, Worded};

section! {
    /// Rules for the messages of a route.
    RawIntercept {
        /// The rules, in their order: a list, or the path of a file with `rules:` at its top, seen from the folder of this file.
        rules: RulesOrFile,
        /// Whether the rules only count and log what they would do.
        dry_run: Switch = false,
        /// The largest message that rules are shown; a longer one is refused, unless it is a dry run.
        message_cap: Size = "4MiB",
    }
}

section! {
    /// A file of rules.
    RawRulesFile {
        /// The rules, in their order.
        rules: Vec<At<RawRule>>,
    }
}

section! {
    /// When it applies, and one thing that it does then: `continue`, `modify`, `block`, `mock`, `delay` or `pause`.
    RawRule {
        /// Its name in logs and metrics.
        name: At<Label>,
        /// When it applies: all that is named must fit.
        when: RawWhen = json!({}),
        /// Whether it just counts, and lets the next rule see.
        r#continue: Option<Switch>,
        /// What it changes.
        modify: Option<RawModify>,
        /// With which words it refuses.
        block: Option<Word>,
        /// With what it answers, without the server; in place of its answer, if the direction is `response`.
        mock: Option<At<RawMock>>,
        /// How long it has the exchange wait, up to 1h. At most 1000 of all do at once; more are refused.
        delay: Option<At<Clock>>,
        /// How it has the exchange wait for an operator.
        pause: Option<RawPause>,
        /// What happens if it cannot be judged, or what it does does not fit: `block` refuses, `skip` goes on as if it did not apply.
        on_error: OnError = "block",
    }
}

section! {
    /// When a rule applies. In patterns `*` stands for any text; of a list, one must fit.
    RawWhen {
        /// Which messages: `request` those of the client, `response` the answers, `server` notifications and questions of the server.
        direction: At<Direction> = "request",
        /// The method of MCP, of an answer that of its request; on a `protocol: http` route the HTTP method.
        method: Vec<Glob> = Vec::<&str>::new(),
        /// The tool that is called. Of `tool`, `prompt` and `resource` together one must fit.
        tool: At<Vec<Glob>> = Vec::<&str>::new(),
        /// The prompt that is got.
        prompt: Vec<Glob> = Vec::<&str>::new(),
        /// The URI of the resource.
        resource: Vec<Glob> = Vec::<&str>::new(),
        /// The path of the request.
        path: Vec<Glob> = Vec::<&str>::new(),
        /// Headers of the request, with patterns for their values.
        header: Option<Dict<HeaderName, Glob>>,
        /// Who the client is. This version of ziggurat authenticates nobody, so that no pattern fits.
        principal: At<Vec<Glob>> = Vec::<&str>::new(),
        /// A condition in CEL over `method`, `name`, `args`, `params`, `result`, `error`, `headers`, `principal`, `era`, `direction`, `http_method` and `path`.
        expression: Option<At<Expression>>,
    }
}

section! {
    /// What a rule changes: first `set`, then `remove`, then `patch`. What is not named keeps its bytes.
    RawModify {
        /// Values by JSON pointer into the message, such as `/params/arguments/path`.
        set: Option<Dict<Pointer, Json>>,
        /// Pointers to what is removed, if it is there.
        remove: Vec<At<Pointer>> = Vec::<&str>::new(),
        /// A JSON Patch (RFC 6902).
        patch: Vec<At<RawPatch>> = Vec::<&str>::new(),
        /// Headers of the request; on a `protocol: http` route also of the response.
        headers: Option<At<RawHeaders>>,
    }
}

section! {
    /// An operation of JSON Patch.
    RawPatch {
        /// `add`, `remove`, `replace`, `move`, `copy` or `test`.
        op: PatchWord,
        /// The place that it is about.
        path: At<Pointer>,
        /// From where, for `move` and `copy`.
        from: Option<At<Pointer>>,
        /// The value, for `add`, `replace` and `test`.
        value: Option<Json>,
    }
}

section! {
    /// Changes to headers.
    RawHeaders {
        /// Headers that are set.
        set: Option<Dict<SettableHeader, HeaderText>>,
        /// Headers that are removed.
        remove: Vec<SettableHeader> = Vec::<&str>::new(),
    }
}

section! {
    /// An answer, in one of four forms. In its texts `{{method}}`, `{{name}}`, `{{id}}`, `{{principal}}` and `{{/json/pointer}}` stand for what was asked.
    RawMock {
        /// The result of an MCP request.
        result: Option<Json>,
        /// The same for a tool that answers with one text.
        text: Option<Word>,
        /// A JSON-RPC error.
        error: Option<RawMockError>,
        /// A response, on a `protocol: http` route.
        http: Option<RawMockHttp>,
    }
}

section! {
    /// A JSON-RPC error.
    RawMockError {
        /// The code of the error.
        code: Integer,
        /// Its message.
        message: Word,
        /// What else it says.
        data: Option<Json>,
    }
}

section! {
    /// A response.
    RawMockHttp {
        /// Its status.
        status: Status = 200,
        /// Its headers.
        headers: Option<Dict<SettableHeader, HeaderText>>,
        /// The body of the response.
        body: Word = "",
    }
}

section! {
    /// How an exchange waits for an operator. At most 100 of all do at once; more are refused.
    RawPause {
        /// The longest wait, up to 24h.
        limit: At<Clock> = "5m",
        /// What happens then, and when ziggurat shuts down: `block` or `resume`.
        then: AtLimit = "block",
    }
}

/// A list of rules, or the path of a file.
#[derive(Clone, Debug)]
pub(super) enum RulesOrFile {
    File(At<PathBuf>),
    Rules(Vec<At<RawRule>>),
}

/// Any value that JSON can say.
#[derive(Clone, Debug)]
pub(super) struct Json(pub(super) Value);

/// A text with `*` for any text.
#[derive(Clone, Debug)]
pub(super) struct Glob(pub(super) Pattern);

/// A whole number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Integer(pub(super) i64);

/// The status of a response that is final.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status(pub(super) StatusCode);

/// The operations of JSON Patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchWord {
    Add,
    Remove,
    Replace,
    Move,
    Copy,
    Test,
}

impl Read for RulesOrFile {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.shape {
            Shape::Text(_) => At::read(node, mistakes).map(Self::File),
            Shape::Empty | Shape::List(_) | Shape::Map(_) => {
                Vec::read(node, mistakes).map(Self::Rules)
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [PathBuf::describe(), Vec::<At<RawRule>>::schema()] })
    }
}

impl Read for Json {
    fn read(node: &Node, _: &mut Mistakes) -> Option<Self> {
        Some(Self(json_of(node)))
    }

    fn schema() -> Schema {
        json_schema!({})
    }
}

/// Everything in a tree is a value of JSON.
fn json_of(node: &Node) -> Value {
    match &node.shape {
        Shape::Empty => Value::Null,
        Shape::Text(text) if text.plain => plain(&text.value),
        Shape::Text(text) => Value::String(text.value.clone()),
        Shape::List(items) => items.iter().map(json_of).collect(),
        Shape::Map(entries) => {
            let entries = entries.iter();
            Value::Object(
                entries
                    .map(|(key, node)| (key.name.clone(), json_of(node)))
                    .collect(),
            )
        }
    }
}

/// A number or a boolean of YAML; what JSON has no word for is a text.
fn plain(text: &str) -> Value {
    match text.to_ascii_lowercase().as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        lower => serde_json::from_str(lower).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

impl FromText for Glob {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.len() > 1024 {
            return Err(Wrong::new(
                "is not a pattern",
                "write a text of 1 to 1024 bytes, with `*` for any text",
            ));
        }
        Ok(Self(Pattern::new(text)))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 1024 })
    }
}

impl FromText for Pointer {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let cure = "write a JSON pointer such as `/params/arguments/path`, with `~1` for `/` in a key and `~0` for `~`";
        text.parse()
            .map_err(|error| Wrong::new(format!("{error}"), cure))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["/params/arguments/path"] })
    }
}

impl FromText for Expression {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let cure = "write a condition such as `args.path.startsWith(\"/etc\")`; of the macros there are `has`, `all` and `exists`";
        Self::new(text).map_err(|error| Wrong::new(error.to_string(), cure))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "maxLength": Expression::LONGEST })
    }
}

impl FromText for Integer {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let wrong = |_| Wrong::new("is not a whole number", "write one such as `-32000`");
        text.parse().map(Self).map_err(wrong)
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["integer", "string"] })
    }
}

impl FromText for Status {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let status = text
            .parse()
            .ok()
            .filter(|status| (200..600).contains(status));
        let status = status.and_then(|status: u16| StatusCode::from_u16(status).ok());
        let wrong = || Wrong::new("is not a status", "write a number from 200 to 599");
        status.map(Self).ok_or_else(wrong)
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 200, "maximum": 599 })
    }
}

impl Worded for PatchWord {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("add", Self::Add),
        ("remove", Self::Remove),
        ("replace", Self::Replace),
        ("move", Self::Move),
        ("copy", Self::Copy),
        ("test", Self::Test),
    ];
}

impl Worded for Direction {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("request", Self::Request),
        ("response", Self::Response),
        ("server", Self::Server),
    ];
}

impl Worded for OnError {
    const WORDS: &'static [(&'static str, Self)] = &[("block", Self::Block), ("skip", Self::Skip)];
}

impl Worded for AtLimit {
    const WORDS: &'static [(&'static str, Self)] =
        &[("block", Self::Block), ("resume", Self::Resume)];
}
