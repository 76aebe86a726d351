//! A YAML file as a tree that knows where each of its values stands.
//!
//! Reading goes through this tree, and not straight into structs, so that one mistake does not hide the next one, and so that a value is
//! the text that stands in the file: `version: 1.10` is `1.10`, whatever a number would make of it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use super::interpolate::{Environment, interpolate};
use super::mistake::Mistakes;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) shape: Shape,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Nothing stands behind the key.
    Empty,
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A single value.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// The value, with variables replaced.
    pub(super) value: String,
    /// What stands in the file, if a variable was replaced in it.
    pub(super) template: Option<String>,
    /// It stands there without quotes, as a number or as `true` or `false`.
    pub(super) plain: bool,
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

/// Where something stands; line 0 means that it is in no file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
    /// The way to it from the top, like `routes[0].match.path`.
    pub(super) path: String,
}

/// A node as the YAML reader delivers it.
struct Read(Spanned<ReadShape>);

enum ReadShape {
    Empty,
    /// A number or a boolean: its text is in the source.
    Plain,
    Text(String),
    List(Vec<Read>),
    Map(Vec<(Spanned<String>, Read)>),
}

struct ReadVisitor;

// === impl Node ===

impl Node {
    /// Reads a file; what keeps it from being a tree at all is one mistake. Without an environment, values stay as they are written.
    pub(super) fn parse(
        source: &str,
        environment: Option<Environment<'_>>,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        // `off` is a word here, not a boolean; and no part of the file is repeated in an error.
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        match serde_saphyr::from_str_with_options::<Read>(source, options) {
            Ok(read) => Some(read.place(source, String::new(), environment, mistakes)),
            Err(error) => {
                let place = error
                    .location()
                    .map_or_else(Place::default, |location| Place {
                        line: location.line(),
                        column: location.column(),
                        path: String::new(),
                    });
                let message = UserMessageFormatter
                    .format_message(error.without_snippet())
                    .into_owned();
                let line = source.lines().nth((place.line as usize).saturating_sub(1));
                let cure = match line {
                    Some(line) if line.contains("${") => {
                        "between `{ }` and `[ ]`, write `\"${NAME}\"` with quotes"
                    }
                    _ => "",
                };
                mistakes.error(&place, format!("this is not valid YAML: {message}"), cure);
                None
            }
        }
    }

    /// A value that stands in no file: a default, or something from the command line.
    pub(super) fn of(value: &Value, path: &str) -> Self {
        let place = Place {
            path: path.to_owned(),
            ..Place::default()
        };
        let text = |value: String, plain: bool| {
            Shape::Text(Text {
                value,
                template: None,
                plain,
            })
        };
        let shape = match value {
            Value::Null => Shape::Empty,
            Value::Bool(value) => text(value.to_string(), true),
            Value::Number(value) => text(value.to_string(), true),
            Value::String(value) => text(value.clone(), false),
            Value::Array(items) => Shape::List(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| Self::of(item, &format!("{path}[{index}]")))
                    .collect(),
            ),
            Value::Object(entries) => Shape::Map(
                entries
                    .iter()
                    .map(|(name, value)| {
                        let value = Self::of(value, &join(path, name));
                        (
                            Key {
                                place: value.place.clone(),
                                name: name.clone(),
                            },
                            value,
                        )
                    })
                    .collect(),
            ),
        };
        Self { place, shape }
    }

    /// The value behind a key of a map.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Map(entries) => entries
                .iter()
                .find(|(key, _)| key.name == name)
                .map(|(_, value)| value),
            Shape::Empty | Shape::Text(_) | Shape::List(_) => None,
        }
    }

    /// The single value that this is.
    pub(super) fn text(&self) -> Option<&Text> {
        match &self.shape {
            Shape::Text(text) => Some(text),
            Shape::Empty | Shape::List(_) | Shape::Map(_) => None,
        }
    }

    /// What this is, for a message that expected something else.
    pub(super) fn kind(&self) -> &'static str {
        match &self.shape {
            Shape::Empty => "nothing",
            Shape::Text(_) => "a single value",
            Shape::List(_) => "a list",
            Shape::Map(_) => "a map",
        }
    }
}

// === impl Text ===

impl Text {
    /// The value as it may be shown: as it stands in the file.
    pub(super) fn shown(&self) -> &str {
        self.template.as_deref().unwrap_or(&self.value)
    }
}

// === impl Read ===

impl Read {
    fn place(
        self,
        source: &str,
        path: String,
        environment: Option<Environment<'_>>,
        mistakes: &mut Mistakes,
    ) -> Node {
        let place = Place {
            line: self.0.defined.line(),
            column: self.0.defined.column(),
            path,
        };
        let shape = match self.0.value {
            ReadShape::Empty => Shape::Empty,
            ReadShape::Plain => {
                let span = self.0.defined.span();
                let range = span.byte_offset().zip(span.byte_len());
                let range = range.map(|(start, length)| start as usize..(start + length) as usize);
                let value = range
                    .and_then(|range| source.get(range))
                    .unwrap_or_default()
                    .to_owned();
                Shape::Text(Text {
                    value,
                    template: None,
                    plain: true,
                })
            }
            ReadShape::Text(value) => Shape::Text(match environment {
                Some(environment) => interpolate(value, &place, environment, mistakes),
                None => Text {
                    value,
                    template: None,
                    plain: false,
                },
            }),
            ReadShape::List(items) => {
                let items = items.into_iter().enumerate();
                let path = &place.path;
                Shape::List(
                    items
                        .map(|(index, item)| {
                            item.place(source, format!("{path}[{index}]"), environment, mistakes)
                        })
                        .collect(),
                )
            }
            ReadShape::Map(entries) => Shape::Map(
                entries
                    .into_iter()
                    .map(|(name, value)| {
                        let path = join(&place.path, &name.value);
                        let (line, column) = (name.defined.line(), name.defined.column());
                        let key = Key {
                            place: Place {
                                line,
                                column,
                                path: path.clone(),
                            },
                            name: name.value,
                        };
                        (key, value.place(source, path, environment, mistakes))
                    })
                    .collect(),
            ),
        };
        Node { place, shape }
    }
}

/// The path of a key below another one.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for ReadShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor)
    }
}

// === impl ReadVisitor ===

impl<'de> Visitor<'de> for ReadVisitor {
    type Value = ReadShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<ReadShape, E> {
        Ok(ReadShape::Empty)
    }

    fn visit_bool<E>(self, _: bool) -> Result<ReadShape, E> {
        Ok(ReadShape::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<ReadShape, E> {
        Ok(ReadShape::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<ReadShape, E> {
        Ok(ReadShape::Plain)
    }

    fn visit_i128<E>(self, _: i128) -> Result<ReadShape, E> {
        Ok(ReadShape::Plain)
    }

    fn visit_u128<E>(self, _: u128) -> Result<ReadShape, E> {
        Ok(ReadShape::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<ReadShape, E> {
        Ok(ReadShape::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<ReadShape, E> {
        Ok(ReadShape::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<ReadShape, E> {
        Ok(ReadShape::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<ReadShape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(ReadShape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<ReadShape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(ReadShape::Map(entries))
    }
}
