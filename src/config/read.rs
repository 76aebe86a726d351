//! How a value is read from the tree, and how the JSON Schema describes it: two sides of one trait, so that they agree.

use schemars::Schema;

use super::mistake::Mistakes;
use super::nearest::nearest;
use super::node::{Node, Place};

pub(super) use self::section::{Keys, Property, object, section};

mod forms;
mod section;

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

/// A list, or its only item by itself.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

/// A map whose keys are chosen by the operator, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Dict<K, V> {
    pub(super) entries: Vec<(At<K>, V)>,
    /// The keys as written, also of the entries that could not be read.
    pub(super) keys: Vec<String>,
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
