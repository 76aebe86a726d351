//! Words of which one is chosen.

use http::HeaderName;
use schemars::{Schema, json_schema};
use ziggurat_layers::balance::HashKey;
use ziggurat_layers::http_sse::Serve;
use ziggurat_layers::rate_limit::KeyPart;
use ziggurat_layers::replay::Scope;
use ziggurat_layers::session::Heal;
use ziggurat_layers::upstream::sse::Transport;

use crate::config::read::{FromText, Wrong};
use crate::config::{Choice, Errors, Isolation, Per, ProbeKind, Protocol};

/// A value that is one of a few words: the table is read here, by the schema, and by `explain`.
pub(in crate::config) trait Worded: Copy + PartialEq + 'static {
    /// The words, and what they mean.
    const WORDS: &'static [(&'static str, Self)];

    /// Words that another version has.
    const ELSEWHERE: &'static [&'static str] = &[];

    /// The word of this value.
    fn word(self) -> &'static str {
        let mut words = Self::WORDS.iter();
        let found = words.find(|(_, value)| *value == self);
        found.map_or("", |(word, _)| word)
    }

    /// All words.
    fn words() -> Vec<&'static str> {
        Self::WORDS.iter().map(|(word, _)| *word).collect()
    }
}

impl<T: Worded> FromText for T {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let wrong = Wrong::choice(text, &T::words());
        Err(if T::ELSEWHERE.contains(&text) {
            Wrong::new("is not in this version of ziggurat", wrong.cure)
        } else {
            wrong
        })
    }

    fn describe() -> Schema {
        json_schema!({ "enum": T::words() })
    }
}

impl Worded for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("mcp", Self::Mcp), ("http", Self::Http)];
}

impl Worded for Errors {
    const WORDS: &'static [(&'static str, Self)] =
        &[("envelope", Self::Envelope), ("status", Self::Status)];
}

impl Worded for Isolation {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("per_session", Self::PerSession),
        ("shared", Self::Shared),
        ("per_principal", Self::PerPrincipal),
    ];
}

impl Worded for Choice {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("p2c", Self::P2c),
        ("least_request", Self::LeastRequest),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("hash", Self::Hash),
    ];
}

impl Worded for Heal {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("safe", Self::Safe),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

impl Worded for Serve {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("off", Self::Off),
    ];
}

impl Worded for Transport {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("streamable", Self::Streamable),
        ("sse", Self::Sse),
    ];
}

impl Worded for Scope {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("always", Self::Always)];
}

impl Worded for ProbeKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("mcp", Self::Mcp), ("tcp", Self::Tcp), ("http", Self::Http)];
}

impl Worded for Per {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("route", Self::Route),
        ("session", Self::Key(KeyPart::Session)),
        ("client", Self::Key(KeyPart::Client)),
        ("method", Self::Key(KeyPart::Method)),
        ("tool", Self::Key(KeyPart::Tool)),
    ];
    const ELSEWHERE: &'static [&'static str] = &["principal"];
}

/// `session`, `header:NAME`, or a JSON pointer into the arguments.
impl FromText for HashKey {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text == "session" {
            return Ok(Self::Session);
        }
        if text.starts_with('/') {
            return Ok(Self::Pointer(text.into()));
        }
        let name = text
            .strip_prefix("header:")
            .and_then(|name| name.trim().parse::<HeaderName>().ok());
        name.map(Self::Header).ok_or_else(|| {
            let cure = "write `session`, `header:NAME`, or a JSON pointer such as `/user`";
            Wrong::new("is not a key", cure)
        })
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["session", "header:x-user", "/user"] })
    }
}
