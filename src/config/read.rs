//! How a value is read from the tree, and how the JSON Schema describes it: two sides of one trait, so that they agree.

use schemars::{Schema, json_schema};
use serde_json::Value;

use super::mistake::{Mistakes, nearest};
use super::node::{Key, Node, Place, Shape, join};

/// A type that a file can hold.
pub(super) trait Read: Sized {
    /// Reads the value; `None` means that a mistake was noted.
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self>;

    /// What it means that the key is not there; `None` for a key that must be.
    fn absent() -> Option<Self> {
        None
    }

    /// The JSON Schema of the value.
    fn schema() -> Schema;
}

/// A type that is written as a single value.
pub(super) trait FromText: Sized {
    /// Reads the text.
    fn from_text(text: &str) -> Result<Self, Wrong>;

    /// Whether the text must not be repeated in a message.
    const SECRET: bool = false;

    /// The JSON Schema of the value.
    fn describe() -> Schema;
}

/// Why a text is not what was expected: `message` continues the sentence that begins with the text.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) cure: String,
}

/// A value and the place where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A layer's setting, or `off`.
#[derive(Clone, Debug)]
pub(super) enum OrOff<T> {
    On(T),
    Off,
}

/// A setting with a short form, a single value, beside the long one.
#[derive(Clone, Debug)]
pub(super) enum ShortOr<S, L> {
    Short(S),
    Long(L),
}

/// A map whose keys are chosen by the operator, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Dict<K, V> {
    pub(super) entries: Vec<(At<K>, V)>,
    /// The keys as written, also of the entries that could not be read.
    pub(super) keys: Vec<String>,
}

/// The keys of a section while it is being read.
pub(super) struct Keys<'a> {
    place: &'a Place,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

/// Keys that this version does not have: whoever writes one has read about another version.
const ELSEWHERE: &[&str] = &[
    "auth",
    "authorize",
    "balance",
    "bridge",
    "cache",
    "circuit",
    "circuit_breaker",
    "discover",
    "fault_injection",
    "heal",
    "health",
    "hedge",
    "intercept",
    "lost_session",
    "merge",
    "queue",
    "rate_limit",
    "record",
    "replay",
    "resume",
    "retry",
    "session",
    "tape",
    "token",
    "trust_annotations",
    "warm",
    "weight",
];

/// Defines a section of the file: a struct, how it is read, and its JSON Schema.
///
/// A field is a key. It must be there unless it has a default, which is written as it would be in the file, or a type that may be absent.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:expr)?,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub(super) struct $name { $($(#[doc = $doc])* pub(super) $field: $type,)* }

        impl Read for $name {
            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                let mut keys = Keys::open(node, mistakes)?;
                $(let $field = keys.take::<$type>(stringify!($field), section!(@default $($default)?), mistakes);)*
                keys.close(mistakes);
                Some(Self { $($field: $field?,)* })
            }

            fn schema() -> Schema {
                object(&[$($about),*], vec![$(Property {
                    name: stringify!($field),
                    about: &[$($doc),*],
                    default: section!(@default $($default)?),
                    required: <$type as Read>::absent().is_none(),
                    schema: <$type as Read>::schema(),
                },)*])
            }
        }
    };
    (@default) => { None };
    (@default $default:expr) => { Some(json!($default)) };
}
pub(super) use section;

/// A key of a section, for the schema.
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
    pub(super) default: Option<Value>,
    pub(super) required: bool,
    pub(super) schema: Schema,
}

// === impl Wrong ===

impl Wrong {
    pub(super) fn new(message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            cure: cure.into(),
        }
    }

    /// The word is none of those that may stand here.
    pub(super) fn choice(word: &str, choices: &[&str]) -> Self {
        let cure = match nearest(word, choices.iter().copied()) {
            Some(choice) => format!("did you mean `{choice}`?"),
            None => format!("write {}", listed(choices)),
        };
        Self::new(format!("is not one of {}", listed(choices)), cure)
    }
}

/// Words in backquotes, with commas between them.
pub(super) fn listed<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("`{}`", word.as_ref()))
        .collect();
    words.join(", ")
}

// === impl Read ===

impl<T: FromText> Read for T {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Some(text) = node.text() else {
            mistakes.error(
                &node.place,
                format!("a single value belongs here, but this is {}", node.kind()),
                "",
            );
            return None;
        };
        match T::from_text(&text.value) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let shown = if T::SECRET {
                    "the value".to_owned()
                } else {
                    format!("`{}`", text.shown())
                };
                // A cure may be made of the value, and what came from the environment is not to be seen.
                let cure = if text.template.is_some() {
                    "correct the environment variable".to_owned()
                } else {
                    wrong.cure
                };
                mistakes.error(&node.place, format!("{shown} {}", wrong.message), cure);
                None
            }
        }
    }

    fn schema() -> Schema {
        T::describe()
    }
}

impl<T: Read> Read for Option<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        T::read(node, mistakes).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn schema() -> Schema {
        T::schema()
    }
}

/// Items with mistakes are left out, so that the others are still looked at.
impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Shape::List(items) = &node.shape else {
            let cure = "write a list: `[a, b]`, or one item on each line after `- `";
            mistakes.error(
                &node.place,
                format!("a list belongs here, but this is {}", node.kind()),
                cure,
            );
            return None;
        };
        Some(
            items
                .iter()
                .filter_map(|item| T::read(item, mistakes))
                .collect(),
        )
    }

    fn schema() -> Schema {
        json_schema!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Read> Read for At<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        T::read(node, mistakes).map(|value| Self {
            value,
            place: node.place.clone(),
        })
    }

    fn absent() -> Option<Self> {
        T::absent().map(|value| Self {
            value,
            place: Place::default(),
        })
    }

    fn schema() -> Schema {
        T::schema()
    }
}

impl<T: Read> Read for OrOff<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        // Tools that rewrite YAML by its older rules turn `off` into `false`.
        match node.text() {
            Some(text) if text.value == "off" || text.value == "false" => Some(Self::Off),
            _ => T::read(node, mistakes).map(Self::On),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, { "const": false }, T::schema()] })
    }
}

impl<S: FromText, L: Read> Read for ShortOr<S, L> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.shape {
            Shape::Map(_) => L::read(node, mistakes).map(Self::Long),
            Shape::Empty | Shape::Text(_) | Shape::List(_) => {
                S::read(node, mistakes).map(Self::Short)
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [S::schema(), L::schema()] })
    }
}

/// Entries with mistakes are left out, so that the others are still looked at.
impl<K: FromText + PartialEq, V: Read> Read for Dict<K, V> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Shape::Map(nodes) = &node.shape else {
            let message = format!("a map belongs here, but this is {}", node.kind());
            mistakes.error(&node.place, message, "write one `name: value` on each line");
            return None;
        };
        let mut entries: Vec<(At<K>, V)> = Vec::with_capacity(nodes.len());
        for (key, node) in nodes {
            let name = match K::from_text(&key.name) {
                Ok(name) => name,
                Err(wrong) => {
                    mistakes.error(
                        &key.place,
                        format!("`{}` {}", key.name, wrong.message),
                        wrong.cure,
                    );
                    continue;
                }
            };
            if entries.iter().any(|(known, _)| known.value == name) {
                mistakes.error(
                    &key.place,
                    format!("`{}` is given twice", key.name),
                    "remove one of the two",
                );
                continue;
            }
            if let Some(value) = V::read(node, mistakes) {
                entries.push((
                    At {
                        value: name,
                        place: key.place.clone(),
                    },
                    value,
                ));
            }
        }
        Some(Self {
            entries,
            keys: nodes.iter().map(|(key, _)| key.name.clone()).collect(),
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "object", "propertyNames": K::describe(), "additionalProperties": V::schema() })
    }
}

impl<K: Clone, V> Dict<K, V> {
    /// The entries without their places.
    pub(super) fn into_pairs<W>(self, value: impl Fn(V) -> W) -> Vec<(K, W)> {
        self.entries
            .into_iter()
            .map(|(key, entry)| (key.value, value(entry)))
            .collect()
    }
}

// === impl Keys ===

impl<'a> Keys<'a> {
    /// Looks into a section; one with nothing in it is a section where everything is left out.
    pub(super) fn open(node: &'a Node, mistakes: &mut Mistakes) -> Option<Self> {
        let entries = match &node.shape {
            Shape::Empty => &[],
            Shape::Map(entries) => entries.as_slice(),
            Shape::Text(_) | Shape::List(_) => {
                let message = format!(
                    "a map of settings belongs here, but this is {}",
                    node.kind()
                );
                mistakes.error(&node.place, message, "");
                return None;
            }
        };
        Some(Self {
            place: &node.place,
            entries,
            known: Vec::new(),
        })
    }

    /// Reads one key. A value with a mistake counts as the default, so that what depends on it is still looked at.
    pub(super) fn take<T: Read>(
        &mut self,
        name: &'static str,
        default: Option<Value>,
        mistakes: &mut Mistakes,
    ) -> Option<T> {
        let name = plain(name);
        self.known.push(name);
        let path = join(&self.place.path, name);
        let found = self.entries.iter().find(|(key, _)| key.name == name);
        if let Some((_, node)) = found
            && let Some(value) = T::read(node, mistakes)
        {
            return Some(value);
        }
        if let Some(default) = default {
            return T::read(&Node::of(&default, &path), mistakes);
        }
        let absent = T::absent();
        if absent.is_none() && found.is_none() {
            mistakes.error(self.place, format!("`{name}` is missing"), "");
        }
        absent
    }

    /// Reports the keys that nobody took.
    pub(super) fn close(self, mistakes: &mut Mistakes) {
        for (key, _) in self.entries {
            let name = key.name.as_str();
            if self.known.contains(&name) {
                continue;
            }
            let cure = if ELSEWHERE.contains(&name) {
                format!("this version of ziggurat does not have `{name}`; remove it")
            } else if let Some(known) = nearest(name, self.known.iter().copied()) {
                format!("did you mean `{known}`?")
            } else {
                format!("the keys here are {}", listed(&self.known))
            };
            mistakes.error(&key.place, "there is no such key", cure);
        }
    }
}

/// The name of a field as a key: a raw identifier loses its mark.
fn plain(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// The schema of a section.
pub(super) fn object(about: &[&str], properties: Vec<Property>) -> Schema {
    let mut required = Vec::new();
    let mut described = serde_json::Map::new();
    for property in properties {
        let name = plain(property.name);
        let mut schema = property.schema;
        schema.insert("description".to_owned(), prose(property.about).into());
        match property.default {
            Some(default) => drop(schema.insert("default".to_owned(), default)),
            None if property.required => required.push(name),
            None => {}
        }
        described.insert(name.to_owned(), schema.to_value());
    }
    json_schema!({
        "type": "object",
        "description": prose(about),
        "properties": described,
        "required": required,
        "additionalProperties": false,
    })
}

/// Doc comments as one line of text.
fn prose(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}
