//! Words of which one is chosen.

use http::HeaderName;
use schemars::{Schema, json_schema};
use ziggurat_layers::balance::HashKey;
use ziggurat_layers::session::Heal;

use crate::config::read::{FromText, Wrong};
use crate::config::{Choice, Errors, Isolation, ProbeKind, Protocol};

impl FromText for Protocol {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "mcp" => Ok(Self::Mcp),
            "http" => Ok(Self::Http),
            _ => Err(Wrong::choice(text, &["mcp", "http"])),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "enum": ["mcp", "http"] })
    }
}

impl FromText for Errors {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "envelope" => Ok(Self::Envelope),
            "status" => Ok(Self::Status),
            _ => Err(Wrong::choice(text, &["envelope", "status"])),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "enum": ["envelope", "status"] })
    }
}

impl FromText for Isolation {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "per_session" => Ok(Self::PerSession),
            "shared" => Ok(Self::Shared),
            "per_principal" => Err(Wrong::new(
                "is not in this version of ziggurat",
                "write `per_session` or `shared`",
            )),
            _ => Err(Wrong::choice(text, &["per_session", "shared"])),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "enum": ["per_session", "shared"] })
    }
}

impl FromText for Choice {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.as_str() == text)
            .ok_or_else(|| Wrong::choice(text, &Self::ALL.map(Self::as_str)))
    }

    fn describe() -> Schema {
        json_schema!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl FromText for Heal {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "safe" => Ok(Self::Safe),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(Wrong::choice(text, &["safe", "always", "never"])),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "enum": ["safe", "always", "never"] })
    }
}

impl FromText for ProbeKind {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "mcp" => Ok(Self::Mcp),
            "tcp" => Ok(Self::Tcp),
            "http" => Ok(Self::Http),
            _ => Err(Wrong::choice(text, &["mcp", "tcp", "http"])),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "enum": ["mcp", "tcp", "http"] })
    }
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
