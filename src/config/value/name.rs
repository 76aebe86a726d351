//! Hosts, paths, labels and variables.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use schemars::{Schema, json_schema};

use super::{HostName, Label, NamePattern, RoutePath, VariableName, Word};
use crate::config::interpolate::is_name;
use crate::config::read::{FromText, Wrong};

/// Room for the longest host and the longest path.
const LONGEST_LABEL: usize = 1024;

/// Longer paths are not written by hand.
const LONGEST_PATH: usize = 512;

impl FromText for HostName {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let lower = text.to_ascii_lowercase();
        let bare = lower
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(&lower);
        if bare.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self(format!("[{bare}]")));
        }
        let label = |label: &str| {
            let inside =
                |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
            (1..=63).contains(&label.len()) && label.chars().all(inside)
        };
        if lower.len() <= 253 && lower.split('.').all(label) {
            return Ok(Self(lower));
        }
        let name = lower
            .split_once("://")
            .map_or(lower.as_str(), |(_, rest)| rest);
        let name = name.split(['/', ':']).next().unwrap_or_default();
        let cure = if name.split('.').all(label) {
            format!("write the name alone, without a scheme, a port or a path: `{name}`")
        } else {
            "write a name such as `mcp.example.com`, or an IP address".to_owned()
        };
        Err(Wrong::new("is not a host name", cure))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["localhost", "mcp.example.com"] })
    }
}

/// Whatever a route is called when it has no name of its own is a label too, so that `explain` can print it.
impl FromText for Label {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let allowed = |letter: char| letter.is_ascii_graphic() && !"\"\\`".contains(letter);
        if (1..=LONGEST_LABEL).contains(&text.len()) && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        let cure = "use letters, digits and signs such as `-`, `_`, `.` and `/`, but no spaces";
        Err(Wrong::new("is not a name", cure))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": LONGEST_LABEL })
    }
}

impl FromText for RoutePath {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if !text.starts_with('/') {
            return Err(Wrong::new(
                "does not begin with `/`",
                format!("write `/{}`", text.trim_start_matches("./")),
            ));
        }
        if text.contains(['*', '{', '}']) {
            let cure = "a path takes everything below it by itself: write the part that is always the same";
            return Err(Wrong::new("is a pattern, not a path", cure));
        }
        let allowed =
            |letter: char| letter.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@/".contains(letter);
        let clean = text.chars().all(allowed) && !text.contains("//") && text.len() <= LONGEST_PATH;
        if !clean
            || text
                .split('/')
                .any(|segment| segment == "." || segment == "..")
        {
            let cure = "write a path such as `/mcp`, without a query and without `%`";
            return Err(Wrong::new("is not a path that can be matched", cure));
        }
        let trimmed = text.trim_end_matches('/');
        Ok(Self(if trimmed.is_empty() {
            "/".to_owned()
        } else {
            trimmed.to_owned()
        }))
    }

    fn describe() -> Schema {
        // A reference to the environment may stand at the beginning.
        json_schema!({ "type": "string", "pattern": "^[/$]", "examples": ["/mcp"] })
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.contains('\0') {
            return Err(Wrong::new("is not a path", ""));
        }
        Ok(Self::from(text))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl FromText for VariableName {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if is_name(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(
            "is not a name for an environment variable",
            "use letters, digits and `_`, no digit first",
        ))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" })
    }
}

impl FromText for NamePattern {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a name such as `search`, or a pattern such as `get_*`";
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Wrong::new("is not a name", example));
        }
        // Of the names that MCP recommends none has one of these.
        if text.contains(|c| "?[]{}()^$|+\\".contains(c)) {
            let cure = format!("only `*` stands for other text: {example}");
            return Err(Wrong::new("is not a pattern of this kind", cure));
        }
        Ok(Self(text.to_owned()))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "examples": ["search", "get_*"] })
    }
}

impl FromText for Word {
    const SECRET: bool = true;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.contains('\0') {
            return Err(Wrong::new(
                "holds a NUL character",
                "remove it: no program can be given one",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}
