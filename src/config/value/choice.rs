//! Words of which one is chosen.

use schemars::{Schema, json_schema};

use crate::config::read::{FromText, Wrong};
use crate::config::{Errors, Isolation, Protocol};

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
