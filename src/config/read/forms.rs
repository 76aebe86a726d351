//! The forms that values come in: left out, in lists, in maps, switched off, short or long.

use schemars::{Schema, json_schema};

use super::{At, Dict, FromText, OneOrMany, OrOff, Read, ShortOr};
use crate::config::mistake::Mistakes;
use crate::config::node::{Node, Place, Shape};

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

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.shape {
            Shape::List(_) => Vec::read(node, mistakes).map(Self),
            Shape::Empty | Shape::Text(_) | Shape::Map(_) => {
                T::read(node, mistakes).map(|one| Self(vec![one]))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [T::schema(), Vec::<T>::schema()] })
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
    pub(in crate::config) fn into_pairs<W>(self, value: impl Fn(V) -> W) -> Vec<(K, W)> {
        self.entries
            .into_iter()
            .map(|(key, entry)| (key.value, value(entry)))
            .collect()
    }
}
