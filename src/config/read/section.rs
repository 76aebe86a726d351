//! Sections: maps whose keys are known.

use schemars::{Schema, json_schema};
use serde_json::Value;

use super::{Read, listed};
use crate::config::mistake::Mistakes;
use crate::config::nearest::nearest;
use crate::config::node::{Key, Node, Place, Shape, join};

/// The keys of a section while it is being read.
pub(in crate::config) struct Keys<'a> {
    place: &'a Place,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

/// Keys that this version does not have: whoever writes one has read about another version.
const ELSEWHERE: &[&str] = &["auth", "authorize", "cache", "tape"];

/// Defines a section of the file: a struct, how it is read, and its JSON Schema.
///
/// A field is a key. It must be there unless it has a default, which is written as it would be in the file, or a type that may be absent.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:expr)?,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub(in crate::config) struct $name { $($(#[doc = $doc])* pub(in crate::config) $field: $type,)* }

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
pub(in crate::config) use section;

/// A key of a section, for the schema.
pub(in crate::config) struct Property {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) about: &'static [&'static str],
    pub(in crate::config) default: Option<Value>,
    pub(in crate::config) required: bool,
    pub(in crate::config) schema: Schema,
}

// === impl Keys ===

impl<'a> Keys<'a> {
    /// Looks into a section; one with nothing in it is a section where everything is left out.
    pub(in crate::config) fn open(node: &'a Node, mistakes: &mut Mistakes) -> Option<Self> {
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
    pub(in crate::config) fn take<T: Read>(
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
    pub(in crate::config) fn close(self, mistakes: &mut Mistakes) {
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
pub(in crate::config) fn object(about: &[&str], properties: Vec<Property>) -> Schema {
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
