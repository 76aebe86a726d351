//! Expressions (CEL, the Common Expression Language) over what is known of a call and over its arguments.
//!
//! | name | value |
//! | --- | --- |
//! | `direction` | `request`, `response` or `server` |
//! | `method`, `name` | the method, and the tool, prompt or resource; empty where there is none. For an answer, those of its request |
//! | `era` | `legacy`, `modern`; empty on plain HTTP |
//! | `principal` | who the client is; empty where that is not known |
//! | `http_method`, `path` | of the HTTP request |
//! | `headers` | its headers, by their names in lower case; of one that stands twice the first |
//! | `params`, `args` | `params` of the message, and `params.arguments`; empty maps where there are none |
//! | `result`, `error` | of an answer; null where there is none |
//!
//! What it may cost is bounded: by the length of the expression, by the functions that it may use, and by how much of a message it may look into. Of the macros
//! there are `has`, `all` and `exists`, not one within another; a lookup with `in` inside of one needs a list that is written out, and nothing is added up there.
//! There are no regular expressions.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, LazyLock},
};

use cel::{
    Context as Scope, Env, Program, Value as Cel,
    common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr},
};
use serde_json::Value;

use super::{
    Context,
    about::{About, Sees},
};
use crate::mcp::Era;

/// A condition, read and found good. Clones are the same one.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    program: Arc<Program>,
    /// The names that it looks at.
    uses: Arc<BTreeSet<&'static str>>,
}

/// A text is no expression that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadExpression {
    /// It is too long.
    #[error(
        "is longer than {} bytes, deeper than {} levels, or has more than {} brackets or {} parts",
        Expression::LONGEST,
        Expression::DEEPEST,
        Expression::BRACKETS,
        Expression::PARTS
    )]
    TooLong,
    /// It cannot be read; at this column.
    #[error("is no expression: {problem} (column {column})")]
    Unreadable {
        /// Where.
        column: usize,
        /// Why.
        problem: String,
    },
    /// It uses something that is not there.
    #[error("uses `{0}`, which is not there")]
    Unknown(String),
    /// It could cost too much.
    #[error("could take too long: {0}")]
    Costly(&'static str),
}

/// The names that an expression may use.
const NAMES: &[&str] = &[
    "args",
    "direction",
    "era",
    "error",
    "headers",
    "http_method",
    "method",
    "name",
    "params",
    "path",
    "principal",
    "result",
];

/// The functions that it may use, beside operators and macros.
const FUNCTIONS: &[&str] = &[
    "contains",
    "double",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

impl Expression {
    /// The most bytes of a text.
    pub const LONGEST: usize = 2048;
    /// The most levels of parts within parts.
    pub const DEEPEST: usize = 32;
    /// The most brackets and conditions of a text, whether within each other or not.
    pub const BRACKETS: usize = 40;
    /// The most parts of an expression.
    pub const PARTS: usize = 400;
    /// The most parts of what a macro asks of each element.
    pub const REPEATED: usize = 32;
    /// The most values of a message that it may look into.
    pub const VALUES: usize = 2000;
    /// The most bytes of texts in them.
    pub const BYTES: usize = 64 * 1024;

    /// Reads an expression.
    ///
    /// # Errors
    /// When it cannot be read, uses what is not there, or could cost too much.
    pub fn new(text: &str) -> Result<Self, BadExpression> {
        // The parser goes down a level for each of these, and has no bound of its own.
        let deeper = text
            .bytes()
            .filter(|b| matches!(b, b'(' | b'[' | b'{' | b'?'))
            .count();
        if text.len() > Self::LONGEST || deeper > Self::BRACKETS {
            return Err(BadExpression::TooLong);
        }
        let text: Arc<str> = text.into();
        let source = text.clone();
        // How deep the parser goes is its own business: it gets a stack that no text of this length uses up.
        let reader = std::thread::Builder::new().stack_size(STACK);
        let read = reader.spawn(move || read(&source));
        let failed = |problem: &str| BadExpression::Unreadable {
            column: 0,
            problem: problem.to_owned(),
        };
        let read = read.map_err(|_| failed("there is no thread to read it in"))?;
        let (program, uses) = read
            .join()
            .map_err(|_| failed("it makes the parser fail"))??;
        Ok(Self {
            text,
            program: Arc::new(program),
            uses: Arc::new(uses),
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it looks at this.
    pub(super) fn uses(&self, what: Sees) -> bool {
        let names: &[&str] = match what {
            Sees::Name => &["name"],
            Sees::Method => &["method"],
            Sees::Body => &["args", "error", "params", "result"],
        };
        names.iter().any(|name| self.uses.contains(name))
    }

    /// Whether it is true of this.
    pub(super) fn is_true(&self, context: &Context, about: &About<'_>) -> Result<bool, String> {
        let mut room = Room {
            values: Self::VALUES,
            bytes: Self::BYTES,
        };
        let scope = scope(&self.uses, context, about, &mut room)?;
        match self.program.execute(&scope) {
            Ok(Cel::Bool(yes)) => Ok(yes),
            Ok(_) => Err("its expression is neither true nor false".to_owned()),
            // The error would show values.
            Err(error) => Err(format!("its expression failed: {}", kind(&error))),
        }
    }
}

/// Reads a text and looks whether it may be used, and which names it uses.
fn read(text: &str) -> Result<(Program, BTreeSet<&'static str>), BadExpression> {
    let program = Program::compile(text).map_err(|errors| {
        let first = errors.errors.first();
        let problem = first.map_or("", |error| error.msg.lines().next().unwrap_or_default());
        let column = first.map_or(0, |error| usize::try_from(error.pos.1).unwrap_or(0));
        BadExpression::Unreadable {
            column,
            problem: problem.to_owned(),
        }
    })?;
    let mut check = Check::default();
    check.look(program.expression())?;
    Ok((program, check.uses))
}

/// For reading.
const STACK: usize = 64 << 20;

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// What went wrong, without the values with which it did.
fn kind(error: &cel::ExecutionError) -> String {
    use cel::ExecutionError as E;
    match error {
        E::NoSuchKey(_) => "a key is missing (ask with `has` first)".to_owned(),
        E::NoSuchOverload(_) | E::ValuesNotComparable(..) | E::UnsupportedBinaryOperator(..) => {
            "a value has another type".to_owned()
        }
        E::IndexOutOfBounds(_) => "a list is too short".to_owned(),
        _ => "it could not be worked out".to_owned(),
    }
}

// === what it may be ===

#[derive(Default)]
struct Check {
    parts: usize,
    depth: usize,
    /// How many parts a macro repeats; none outside of one.
    repeated: Option<usize>,
    /// The names that macros bring.
    own: Vec<String>,
    /// The names of ours that are used.
    uses: BTreeSet<&'static str>,
}

impl Check {
    fn look(&mut self, expr: &IdedExpr) -> Result<(), BadExpression> {
        self.depth += 1;
        let looked = self.look_into(expr);
        self.depth -= 1;
        looked
    }

    fn look_into(&mut self, expr: &IdedExpr) -> Result<(), BadExpression> {
        self.parts += 1;
        if self.parts > Expression::PARTS || self.depth > Expression::DEEPEST {
            return Err(BadExpression::TooLong);
        }
        if let Some(repeated) = &mut self.repeated {
            *repeated += 1;
            if *repeated > Expression::REPEATED {
                return Err(BadExpression::Costly(
                    "a macro asks too much of each element",
                ));
            }
        }
        match &expr.expr {
            Expr::Ident(name) => self.name(name),
            Expr::Literal(_) => Ok(()),
            Expr::Select(select) => self.look(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|part| self.look(part)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.look(&entry.key)?;
                    self.look(&entry.value)
                }
                EntryExpr::StructField(field) => self.look(&field.value),
            }),
            Expr::Call(call) => {
                self.function(&call.func_name, &call.args)?;
                let target = call.target.iter().map(|target| &**target);
                target
                    .chain(&call.args)
                    .try_for_each(|part| self.look(part))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => {
                Err(BadExpression::Unknown("a structure".to_owned()))
            }
        }
    }

    fn name(&mut self, name: &str) -> Result<(), BadExpression> {
        let known = NAMES.iter().find(|known| **known == name);
        if known.is_none() && !self.own.iter().any(|own| own == name) {
            return Err(BadExpression::Unknown(name.to_owned()));
        }
        self.uses.extend(known);
        Ok(())
    }

    fn function(&self, name: &str, args: &[IdedExpr]) -> Result<(), BadExpression> {
        let operator = name.contains('_') && !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !operator && !name.starts_with('@') && !FUNCTIONS.contains(&name) {
            return Err(BadExpression::Unknown(name.to_owned()));
        }
        if self.repeated.is_none() {
            return Ok(());
        }
        let written = matches!(args.get(1).map(|list| &list.expr), Some(Expr::List(_)));
        match name {
            "_+_" => Err(BadExpression::Costly("a macro adds up")),
            "@in" if !written => Err(BadExpression::Costly(
                "a macro looks something up in a list that is not written out",
            )),
            _ => Ok(()),
        }
    }

    fn comprehension(&mut self, of: &ComprehensionExpr) -> Result<(), BadExpression> {
        if self.repeated.is_some() {
            return Err(BadExpression::Costly("a macro stands within another"));
        }
        self.look(&of.iter_range)?;
        let outer = self.own.len();
        self.own.extend([of.iter_var.clone(), of.accu_var.clone()]);
        self.own.extend(of.iter_var2.clone());
        self.look(&of.accu_init)?;
        self.repeated = Some(0);
        self.look(&of.loop_cond)?;
        self.look(&of.loop_step)?;
        self.repeated = None;
        self.look(&of.result)?;
        self.own.truncate(outer);
        Ok(())
    }
}

// === what it looks at ===

/// How much may still be looked into.
struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self
            .values
            .checked_sub(1)
            .zip(self.bytes.checked_sub(bytes));
        (self.values, self.bytes) =
            left.ok_or("its expression cannot look into a message that is so large")?;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<Cel, String> {
        self.take(text.len())?;
        Ok(Cel::from(text))
    }

    /// Integers stay such, however they are signed, so that they compare.
    fn value(&mut self, value: &Value) -> Result<Cel, String> {
        self.take(0)?;
        Ok(match value {
            Value::Null => Cel::Null,
            Value::Bool(value) => Cel::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(signed), _) => Cel::Int(signed),
                (None, Some(unsigned)) => Cel::UInt(unsigned),
                (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.text(text)?,
            Value::Array(all) => {
                let all = all.iter().map(|value| self.value(value));
                Cel::from(all.collect::<Result<Vec<_>, _>>()?)
            }
            Value::Object(all) => {
                let mut map = HashMap::with_capacity(all.len());
                for (key, value) in all {
                    self.take(key.len())?;
                    map.insert(key.clone(), self.value(value)?);
                }
                Cel::Map(map.into())
            }
        })
    }
}

/// The standard library, which takes its time to build.
static LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The values of the names that are used.
fn scope<'a>(
    uses: &BTreeSet<&'static str>,
    context: &Context,
    about: &About<'_>,
    room: &mut Room,
) -> Result<Scope<'a, 'a>, String> {
    let mut scope = Scope::with_env(LIBRARY.clone());
    let exchange = context.exchange();
    let era = exchange.asked().map_or("", |call| Era::as_str(call.era));
    let principal = exchange.principal().map_or("", |principal| principal);
    for (name, text) in [
        ("direction", about.direction.as_str()),
        ("method", about.method.unwrap_or_default()),
        ("name", about.name.unwrap_or_default()),
        ("era", era),
        ("principal", principal),
        ("http_method", context.method().as_str()),
        ("path", context.path()),
    ] {
        if uses.contains(name) {
            scope.add_variable_from_value(name, room.text(text)?);
        }
    }
    if uses.contains("headers") {
        scope.add_variable_from_value("headers", headers(context, room)?);
    }
    if uses.contains("params") || uses.contains("args") {
        let (params, args) = params(about.body, uses.contains("params"), room)?;
        scope.add_variable_from_value("params", params);
        scope.add_variable_from_value("args", args);
    }
    for name in ["result", "error"] {
        if uses.contains(name) {
            scope.add_variable_from_value(name, room.value(&about.body[name])?);
        }
    }
    Ok(scope)
}

fn headers(context: &Context, room: &mut Room) -> Result<Cel, String> {
    let mut headers: HashMap<String, Cel> = HashMap::new();
    for (name, value) in context.headers() {
        if let Ok(text) = value.to_str()
            && !headers.contains_key(name.as_str())
        {
            headers.insert(name.as_str().to_owned(), room.text(text)?);
        }
    }
    Ok(Cel::Map(headers.into()))
}

/// The parameters of a message, if `all` are asked for, and its arguments, which are a part of them and looked into once.
fn params(body: &Value, all: bool, room: &mut Room) -> Result<(Cel, Cel), String> {
    let empty = || Cel::Map(HashMap::<String, Cel>::new().into());
    let params = body.get("params");
    let arguments = params.and_then(|params| params.get("arguments"));
    let args = arguments
        .map(|arguments| room.value(arguments))
        .transpose()?;
    let params = match params {
        Some(Value::Object(members)) if all => {
            room.take(0)?;
            let mut map = HashMap::with_capacity(members.len());
            for (key, value) in members {
                room.take(key.len())?;
                let value = match &args {
                    Some(args) if key == "arguments" => args.clone(),
                    Some(_) | None => room.value(value)?,
                };
                map.insert(key.clone(), value);
            }
            Cel::Map(map.into())
        }
        Some(other) if all => room.value(other)?,
        Some(_) | None => empty(),
    };
    Ok((params, args.unwrap_or_else(empty)))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::{exchange::Exchange, intercept::Direction, mcp::envelope::read_message};

    fn ask(text: &str, body: &Value) -> Result<bool, String> {
        let exchange = Exchange::new("r");
        exchange.set_principal("alice".into());
        let mut headers = HeaderMap::new();
        headers.insert("x-team", "red".parse().expect("a value"));
        let context = Context::new(Arc::new(exchange), None, Method::POST, "/mcp", headers);
        let facts = read_message(&body.to_string(), 0).expect("a message");
        let method = facts.method.as_ref().map(|method| method.as_str());
        let about = About {
            direction: method.map_or(Direction::Response, |_| Direction::Request),
            method,
            name: facts.name.as_deref(),
            body,
        };
        let expression = Expression::new(text).expect("an expression");
        expression.is_true(&context, &about)
    }

    fn call(arguments: Value) -> Value {
        json!({"id": 1, "method": "tools/call", "params": {"name": "read", "arguments": arguments}})
    }

    #[test]
    fn an_expression_looks_at_facts_and_arguments() {
        let body = call(
            json!({"path": "/etc/passwd", "n": 5, "f": 1.5, "l": ["a", "b"], "deep": {"x": null}}),
        );
        for (text, expected) in [
            ("args.path.startsWith('/etc')", true),
            ("args.n > 4 && args.n + 1 == 6 && args.f < 2.0", true),
            ("has(args.none) || size(args.l) == 2", true),
            (
                "args.l.exists(x, x == 'b') && !args.l.all(x, x in ['a'])",
                true,
            ),
            (
                "'b' in args.l && args.l[0] == 'a' && args.deep.x == null",
                true,
            ),
            (
                "method == 'tools/call' && name == 'read' && direction == 'request' && era == ''",
                true,
            ),
            (
                "principal == 'alice' && headers['x-team'] == 'red' && path == '/mcp'",
                true,
            ),
            ("params.name == 'write' || http_method == 'GET'", false),
            ("result == null && error == null", true),
        ] {
            assert_eq!(ask(text, &body), Ok(expected), "{text}");
        }
        let answer = json!({"id": 1, "result": {"isError": true}});
        assert_eq!(
            ask("direction == 'response' && result.isError", &answer),
            Ok(true)
        );
    }

    #[test]
    fn what_fails_at_run_time_is_told_without_its_values() {
        let body = call(json!({"secret": "hush", "l": []}));
        for text in [
            "args.none == 1",
            "args.secret > 5",
            "args.l[3] == 1",
            "args.secret",
            "int(args.secret) == 1",
        ] {
            let error = ask(text, &body).expect_err("it fails");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn what_is_not_there_or_costs_too_much_is_refused_at_once() {
        use BadExpression as B;
        for text in [
            "",
            "args.",
            "1 +",
            &"(".repeat(2000),
            &"a".repeat(2049),
            &"!".repeat(2000),
            &"[".repeat(41),
            &"a?".repeat(900),
        ] {
            assert!(
                matches!(
                    Expression::new(text),
                    Err(B::Unreadable { .. } | B::TooLong)
                ),
                "{text}"
            );
        }
        for (text, unknown) in [
            ("arg.x == 1", "arg"),
            ("args.x.matches('a')", "matches"),
            ("now() > 1", "now"),
        ] {
            assert_eq!(
                Expression::new(text),
                Err(B::Unknown(unknown.to_owned())),
                "{text}"
            );
        }
        for text in [
            "args.a.all(x, args.b.all(y, x == y))",
            "args.a.map(x, x) == []",
            "args.a.all(x, x in args.a)",
            "args.a.exists(x, args.b + x == 'a')",
        ] {
            assert!(matches!(Expression::new(text), Err(B::Costly(_))), "{text}");
        }
        for deep in [&"a.".repeat(900), &"1+".repeat(900), &"!(".repeat(40)] {
            assert!(Expression::new(&format!("{deep}args{}", ")".repeat(40))).is_err());
        }
        let many = vec!["args.x == 1"; 150].join("||");
        assert_eq!(Expression::new(&many), Err(B::TooLong));
        let repeated = format!("args.l.all(x, {})", vec!["x == 1"; 20].join("||"));
        assert!(matches!(Expression::new(&repeated), Err(B::Costly(_))));
    }

    #[test]
    fn a_large_message_is_not_looked_into() {
        let many = call(json!({"l": vec![0; Expression::VALUES]}));
        let long = call(json!({"t": "x".repeat(Expression::BYTES)}));
        let both = json!({"l": vec![0; Expression::VALUES / 2 - 50], "t": "x".repeat(10)});
        for body in [many, long] {
            for text in ["args.a == 1", "has(params.a)", "args == params"] {
                assert!(ask(text, &body).is_err(), "{text}");
            }
            // What does not ask about it goes by the rest.
            assert_eq!(ask("name == 'read'", &body), Ok(true));
        }
        // Arguments are looked into once, by whichever name.
        let both = call(both);
        assert_eq!(ask("params.arguments.t == args.t", &both), Ok(true));
    }

    proptest::proptest! {
        #[test]
        fn any_text_and_any_arguments_end_in_a_word(text in "(args|\\.a|\\.all\\(x, |has\\(|x|\\)|==|<|&&|!|\\[|\\]|'a'|1|\\(|,| ){0,14}", a in "[a\\[\\]0-9,]{0,6}") {
            if let Ok(expression) = Expression::new(&text) {
                let value = serde_json::from_str::<Value>(&a).unwrap_or_default();
                let context = Context::new(Arc::new(Exchange::new("r")), None, Method::GET, "/", HeaderMap::new());
                let body = call(json!({"a": value}));
                let about = About { body: &body, ..About::nothing(Direction::Request) };
                let _either = expression.is_true(&context, &about);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in "\\PC{0,200}") {
            let _either = Expression::new(&text);
        }
    }
}
