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

mod about;
mod check;
mod scope;

use std::{collections::BTreeSet, fmt, sync::Arc};

use cel::{Program, Value as Cel};

use crate::secret::suggests_secret;

pub(crate) use self::about::{About, Sees, Unclear};

/// An expression, read and found good. Clones are the same one.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    program: Arc<Program>,
    /// The names that it looks at.
    uses: Arc<BTreeSet<Variable>>,
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

/// What an expression may look at, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Variable {
    Args,
    Direction,
    Era,
    Error,
    Headers,
    HttpMethod,
    Method,
    Name,
    Params,
    Path,
    Principal,
    Result,
}

// === impl Expression ===

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
    /// The most values that it may look into, keys, headers and facts among them; a text in a message counts twice.
    pub const VALUES: usize = 2000;
    /// The most bytes of the texts and keys among them.
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
    pub(crate) fn uses(&self, what: Sees) -> bool {
        let names: &[Variable] = match what {
            Sees::Name => &[Variable::Name],
            Sees::Method => &[Variable::Method],
            Sees::Body => &[
                Variable::Args,
                Variable::Error,
                Variable::Params,
                Variable::Result,
            ],
        };
        names.iter().any(|name| self.uses.contains(name))
    }

    /// Whether it looks into the message.
    pub fn reads_message(&self) -> bool {
        self.uses(Sees::Body)
    }

    /// Whether it looks at what only an answer has.
    pub fn reads_answer(&self) -> bool {
        let of_answers = [Variable::Error, Variable::Result];
        of_answers.iter().any(|name| self.uses.contains(name))
    }

    /// Whether what it says may be a secret, by the names that stand in it.
    pub fn may_tell_secrets(&self) -> bool {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        self.text
            .split(|letter| !is_name(letter))
            .any(suggests_secret)
    }

    /// Whether it asks who the client is.
    pub fn names_principal(&self) -> bool {
        self.uses.contains(&Variable::Principal)
    }

    /// Whether it is true of this.
    pub(crate) fn is_true(&self, about: &About<'_>) -> Result<bool, String> {
        match self.value(about).map_err(|unclear| unclear.to_string())? {
            Cel::Bool(yes) => Ok(yes),
            _ => Err("its expression is neither true nor false".to_owned()),
        }
    }

    /// What it says of this, as a text by which things are told apart; none where it says null.
    pub(crate) fn key(&self, about: &About<'_>) -> Result<Option<String>, Unclear> {
        Ok(Some(match self.value(about)? {
            Cel::Null => return Ok(None),
            Cel::String(text) => text.as_str().to_owned(),
            Cel::Bool(value) => value.to_string(),
            Cel::Int(value) => value.to_string(),
            Cel::UInt(value) => value.to_string(),
            Cel::Float(value) => value.to_string(),
            _ => {
                let problem = "its expression is no text, no number, and neither true nor false";
                return Err(Unclear::Fails(problem.to_owned()));
            }
        }))
    }

    fn value(&self, about: &About<'_>) -> Result<Cel, Unclear> {
        let scope = scope::scope(&self.uses, about)?;
        // The error would show values.
        let failed = |error| Unclear::Fails(format!("its expression failed: {}", kind(&error)));
        self.program.execute(&scope).map_err(failed)
    }
}

/// Reads a text and looks whether it may be used, and which names it uses.
fn read(text: &str) -> Result<(Program, BTreeSet<Variable>), BadExpression> {
    let program = Program::compile(text).map_err(|errors| {
        let first = errors.errors.first();
        let problem = first.map_or("", |error| error.msg.lines().next().unwrap_or_default());
        let column = first.map_or(0, |error| usize::try_from(error.pos.1).unwrap_or(0));
        BadExpression::Unreadable {
            column,
            problem: problem.to_owned(),
        }
    })?;
    let uses = check::check(program.expression())?;
    Ok((program, uses))
}

/// For reading.
const STACK: usize = 64 << 20;

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

// === impl Variable ===

impl Variable {
    const ALL: [Self; 12] = [
        Self::Args,
        Self::Direction,
        Self::Era,
        Self::Error,
        Self::Headers,
        Self::HttpMethod,
        Self::Method,
        Self::Name,
        Self::Params,
        Self::Path,
        Self::Principal,
        Self::Result,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Args => "args",
            Self::Direction => "direction",
            Self::Era => "era",
            Self::Error => "error",
            Self::Headers => "headers",
            Self::HttpMethod => "http_method",
            Self::Method => "method",
            Self::Name => "name",
            Self::Params => "params",
            Self::Path => "path",
            Self::Principal => "principal",
            Self::Result => "result",
        }
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

#[cfg(test)]
mod tests;
