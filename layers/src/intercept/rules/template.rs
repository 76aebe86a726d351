//! Answers with places in them for what was asked.
//!
//! In a text, `{{method}}`, `{{name}}`, `{{id}}`, `{{principal}}` and `{{/a/json/pointer}}` stand for the method, the tool (prompt, resource), the id of the request, the client, and
//! a value in the message. A text that is nothing but one of these becomes the value itself, with its type; in a longer one the value is written out.
//! What is not there is `null`, or in a longer text nothing.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::Context;
use crate::{
    intercept::{Mock, Pointer},
    mcp::MessageFacts,
};

/// A value with places in its texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    value: Value,
    /// One of its places is for who the client is.
    uses_principal: bool,
}

/// An answer, before what was asked is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Respond {
    /// To an MCP request: a result.
    Result(Template),
    /// To an MCP request: a JSON-RPC error.
    Error {
        /// Its code.
        code: i64,
        /// Its message, a text.
        message: Template,
        /// What else it says.
        data: Option<Template>,
    },
    /// On plain HTTP: a response.
    Http {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// Its body.
        body: Template,
    },
}

/// A text has a place for something that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// What stands between the braces is none of what may.
    #[error("has a place for `{0}`, which is not known")]
    Unknown(String),
    /// There are too many places.
    #[error("has more than {} places", Template::PLACES)]
    TooMany,
}

/// What is known of the request.
pub(super) struct Known<'a> {
    pub(super) asked: Option<&'a MessageFacts>,
    /// The message that the rule looked at.
    pub(super) body: Option<&'a Value>,
    pub(super) context: &'a Context,
}

enum Piece<'a> {
    Text(&'a str),
    Place(&'a str),
}

impl Template {
    /// The most places in one.
    pub const PLACES: usize = 32;
    /// The most bytes that they may be filled with, all together.
    pub const FILL: usize = 1 << 20;

    /// A template of this value.
    ///
    /// # Errors
    /// When a text has a place for something that is not known.
    pub fn new(value: Value) -> Result<Self, BadTemplate> {
        let mut met = Met::default();
        met.look(&value)?;
        Ok(Self {
            value,
            uses_principal: met.principal,
        })
    }

    /// Whether it has a place for who the client is.
    pub fn uses_principal(&self) -> bool {
        self.uses_principal
    }

    /// The value as it was written.
    pub fn value(&self) -> &Value {
        &self.value
    }

    fn fill(&self, known: &Known<'_>) -> Result<Value, String> {
        let mut left = Self::FILL;
        fill(&self.value, known, &mut left)
    }

    fn text(&self, known: &Known<'_>) -> Result<String, String> {
        Ok(match self.fill(known)? {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

impl Respond {
    pub(super) fn fill(&self, known: &Known<'_>) -> Result<Mock, String> {
        Ok(match self {
            Self::Result(result) => Mock::Result(result.fill(known)?),
            Self::Error {
                code,
                message,
                data,
            } => Mock::Error {
                code: *code,
                message: message.text(known)?,
                data: data.as_ref().map(|data| data.fill(known)).transpose()?,
            },
            Self::Http {
                status,
                headers,
                body,
            } => {
                let mut response = Response::new(Bytes::from(body.text(known)?));
                *response.status_mut() = *status;
                response.headers_mut().extend(headers.iter().cloned());
                Mock::Response(response)
            }
        })
    }
}

/// The pieces of a text. Braces that are not closed are text.
fn pieces(mut text: &str) -> Vec<Piece<'_>> {
    let mut all = Vec::new();
    while let Some((before, rest)) = text.split_once("{{") {
        let Some((place, after)) = rest.split_once("}}") else {
            break;
        };
        if !before.is_empty() {
            all.push(Piece::Text(before));
        }
        all.push(Piece::Place(place.trim()));
        text = after;
    }
    if !text.is_empty() {
        all.push(Piece::Text(text));
    }
    all
}

/// The places of a template.
#[derive(Default)]
struct Met {
    places: usize,
    principal: bool,
}

impl Met {
    /// Nesting is bounded by whoever wrote the value.
    fn look(&mut self, value: &Value) -> Result<(), BadTemplate> {
        match value {
            Value::String(text) => pieces(text).iter().try_for_each(|piece| match piece {
                Piece::Text(_) => Ok(()),
                Piece::Place(place) => self.place(place),
            }),
            Value::Array(all) => all.iter().try_for_each(|value| self.look(value)),
            Value::Object(all) => all.values().try_for_each(|value| self.look(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    fn place(&mut self, place: &str) -> Result<(), BadTemplate> {
        let is_known = ["method", "name", "id", "principal"].contains(&place)
            || (place.starts_with('/') && place.parse::<Pointer>().is_ok());
        if !is_known {
            return Err(BadTemplate::Unknown(place.to_owned()));
        }
        self.principal |= place == "principal";
        self.places += 1;
        if self.places > Template::PLACES {
            return Err(BadTemplate::TooMany);
        }
        Ok(())
    }
}

fn fill(value: &Value, known: &Known<'_>, left: &mut usize) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match &pieces(text)[..] {
            [Piece::Place(place)] => {
                let value = known.value(place);
                spend(left, value.to_string().len())?;
                value
            }
            pieces => Value::String(written(pieces, known, left)?),
        },
        Value::Array(all) => {
            let all = all.iter().map(|value| fill(value, known, left));
            Value::Array(all.collect::<Result<_, _>>()?)
        }
        Value::Object(all) => {
            let all = all
                .iter()
                .map(|(key, value)| Ok((key.clone(), fill(value, known, left)?)));
            Value::Object(all.collect::<Result<_, String>>()?)
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain.clone(),
    })
}

fn written(pieces: &[Piece<'_>], known: &Known<'_>, left: &mut usize) -> Result<String, String> {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Place(place) => {
                let text = match known.value(place) {
                    Value::String(text) => text,
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                spend(left, text.len())?;
                out.push_str(&text);
            }
        }
    }
    Ok(out)
}

fn spend(left: &mut usize, bytes: usize) -> Result<(), String> {
    *left = left
        .checked_sub(bytes)
        .ok_or("what is put into the answer is too long")?;
    Ok(())
}

impl Known<'_> {
    fn value(&self, place: &str) -> Value {
        let asked = self.asked;
        match place {
            "method" => asked
                .and_then(|m| m.method.as_ref())
                .map(|m| m.as_str().into()),
            "name" => asked.and_then(|m| m.name.as_deref()).map(Value::from),
            "id" => asked
                .and_then(|m| m.id())
                .and_then(|id| serde_json::from_str(id.as_json()).ok()),
            "principal" => self
                .context
                .exchange()
                .principal()
                .map(|p| Value::from(&**p)),
            pointer => self.body.and_then(|body| body.pointer(pointer)).cloned(),
        }
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::{exchange::Exchange, mcp::envelope::read_message};

    fn filled(template: Value) -> Result<Value, String> {
        let body = json!({"id": 7, "method": "tools/call", "params": {"name": "a", "arguments": {"n": 1.5, "t": "x", "l": [1]}}});
        let facts = read_message(&body.to_string(), 0).expect("a message");
        let context = Context::new(
            Arc::new(Exchange::new("r")),
            None,
            Method::POST,
            "/",
            HeaderMap::new(),
        );
        let known = Known {
            asked: Some(&facts),
            body: Some(&body),
            context: &context,
        };
        Template::new(template).expect("a template").fill(&known)
    }

    #[test]
    fn places_are_filled_with_what_was_asked() {
        for (template, value) in [
            (json!("plain {{ not closed"), json!("plain {{ not closed")),
            (
                json!(["{{/params/arguments/n}}", "{{ name }}", "{{id}}"]),
                json!([1.5, "a", 7]),
            ),
            (
                json!({"k": "{{method}}: {{/params/arguments/l}} {{/params/none}}!"}),
                json!({"k": "tools/call: [1] !"}),
            ),
            (json!("{{principal}}"), Value::Null),
            (json!([null, true, 5]), json!([null, true, 5])),
        ] {
            assert_eq!(filled(template), Ok(value));
        }
    }

    #[test]
    fn it_is_known_who_asks_for_the_principal() {
        for (template, asks) in [
            (json!({"a": ["for {{ principal }}"]}), true),
            (json!("{{id}}{{principal}}"), true),
            (json!({"{{principal}}": "{{name}} principal"}), false),
            (json!("{{/principal}} {{ principal"), false),
        ] {
            let made = Template::new(template.clone()).expect("a template");
            assert_eq!(made.uses_principal(), asks, "{template}");
        }
    }

    #[test]
    fn what_is_not_known_is_told_at_once_and_nothing_grows_without_bound() {
        for unknown in ["{{nam}}", "{{/~x}}", "{{}}"] {
            assert!(matches!(
                Template::new(json!([unknown])),
                Err(BadTemplate::Unknown(_))
            ));
        }
        assert_eq!(
            Template::new(json!("{{id}}".repeat(33))),
            Err(BadTemplate::TooMany)
        );
        let mut left = 3;
        assert!(spend(&mut left, 3).is_ok() && spend(&mut left, 1).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_template_or_is_refused(text in "[{}a-z/~ ]{0,30}") {
            if let Ok(template) = Template::new(json!(text)) {
                let context = Context::new(Arc::new(Exchange::new("r")), None, Method::POST, "/", HeaderMap::new());
                let known = Known { asked: None, body: None, context: &context };
                proptest::prop_assert!(template.fill(&known).is_ok());
            }
        }
    }
}
