//! The kinds of single values that a file may hold: durations, sizes, counts, addresses, names.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use schemars::{Schema, json_schema};

use super::interpolate::is_name;
use super::read::{FromText, Wrong};
use super::{Errors, Isolation, Protocol};

/// A duration above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(pub(super) Duration);

/// A duration, or none at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause(pub(super) Duration);

/// A number of bytes above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

/// A number above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) NonZeroUsize);

/// `true` or `false`, `on` or `off`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch(pub(super) bool);

/// A host name or address, without a scheme and without a port; in lower case.
#[derive(Clone, Debug)]
pub(super) struct HostName(pub(super) String);

/// A name that metrics and logs can carry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label(pub(super) String);

/// The path of a route.
#[derive(Clone, Debug)]
pub(super) struct RoutePath(pub(super) String);

/// Any text, which may be a secret.
#[derive(Clone, Debug)]
pub(super) struct Word(pub(super) String);

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VariableName(pub(super) String);

/// A header that the operator may set on a request to an upstream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SettableHeader(pub(super) HeaderName);

/// The value of a header, which may be a secret.
#[derive(Clone, Debug)]
pub(super) struct HeaderText(pub(super) HeaderValue);

/// The URL of an upstream.
#[derive(Clone, Debug)]
pub(super) struct Url(pub(super) http::Uri);

/// Longer clocks are a slip of the hand, and would overflow arithmetic with the time of day.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Headers that say where a message ends or how a connection is used; setting them would break the message.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const EXAMPLE_DURATIONS: &str = "write a duration such as `250ms`, `30s`, `5m` or `1h`";

// === impl FromText ===

impl FromText for Pause {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit()) {
            let cure = format!("write `{text}s` if seconds are meant");
            return Err(Wrong::new("has no unit", cure));
        }
        let parsed = jiff::SignedDuration::from_str(text)
            .map_err(|_| Wrong::new("is not a duration", EXAMPLE_DURATIONS))?;
        let duration =
            Duration::try_from(parsed).map_err(|_| Wrong::new("is negative", EXAMPLE_DURATIONS))?;
        if duration > LONGEST {
            return Err(Wrong::new("is longer than a year", EXAMPLE_DURATIONS));
        }
        Ok(Self(duration))
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "integer"], "examples": ["250ms", "30s", "5m", "1h"] })
    }
}

impl FromText for Clock {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match Pause::from_text(text)?.0 {
            Duration::ZERO => Err(Wrong::new("is no time at all", EXAMPLE_DURATIONS)),
            duration => Ok(Self(duration)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["250ms", "30s", "5m", "1h"] })
    }
}

impl FromText for Size {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a size such as `64KiB` or `4MiB`";
        match bytesize::ByteSize::from_str(text) {
            Ok(size) if size.as_u64() > 0 => Ok(Self(size.as_u64())),
            Ok(_) => Err(Wrong::new("leaves room for nothing", example)),
            Err(_) => Err(Wrong::new("is not a size", example)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "integer"], "examples": ["64KiB", "4MiB"] })
    }
}

impl FromText for Count {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text.parse::<usize>().map(NonZeroUsize::new) {
            Ok(Some(count)) => Ok(Self(count)),
            Ok(None) => Err(Wrong::new(
                "would let nothing through",
                "write a number from 1 up",
            )),
            Err(_) => Err(Wrong::new("is not a number", "write a number from 1 up")),
        }
    }

    fn describe() -> Schema {
        // A reference to the environment is text.
        json_schema!({ "type": ["integer", "string"], "minimum": 1 })
    }
}

impl FromText for Switch {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "true" | "on" => Ok(Self(true)),
            "false" | "off" => Ok(Self(false)),
            _ => Err(Wrong::new(
                "is neither `true` nor `false`",
                "write `true` or `false`",
            )),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["boolean", "string"] })
    }
}

impl FromText for SocketAddr {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            let example = match text
                .rsplit_once(':')
                .map_or(text, |(_, port)| port)
                .parse::<u16>()
            {
                Ok(port) => {
                    format!("write `127.0.0.1:{port}`, or `0.0.0.0:{port}` for all interfaces")
                }
                Err(_) => "write an IP address and a port, such as `127.0.0.1:8080`".to_owned(),
            };
            Wrong::new("is not an address to listen on", example)
        })
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080"] })
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

impl FromText for HostName {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let lower = text.to_ascii_lowercase();
        let bare = lower
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(&lower);
        if bare.parse::<std::net::Ipv6Addr>().is_ok() {
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

impl FromText for Label {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@".contains(letter);
        if (1..=128).contains(&text.len()) && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(
            "is not a name",
            "use letters, digits and `-_./:@`, at most 128 of them",
        ))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9_./:@-]{1,128}$" })
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
        let path = text.parse::<http::uri::PathAndQuery>();
        let clean = path.is_ok_and(|path| path.path() == text)
            && !text.contains("//")
            && !text.contains('%');
        if !clean
            || text
                .split('/')
                .any(|segment| segment == "." || segment == "..")
        {
            return Err(Wrong::new(
                "is not a path that a request could have",
                "write a path such as `/mcp`",
            ));
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

impl FromText for HeaderName {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new("is not a name for a header", "use letters, digits and `-`"))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" })
    }
}

impl FromText for SettableHeader {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let name = HeaderName::from_text(text)?;
        if FRAMING.contains(&name.as_str()) {
            return Err(Wrong::new(
                "is a header that the proxy writes itself",
                "remove it",
            ));
        }
        Ok(Self(name))
    }

    fn describe() -> Schema {
        HeaderName::describe()
    }
}

impl FromText for HeaderText {
    const SECRET: bool = true;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let mut value = HeaderValue::from_str(text).map_err(|_| {
            let message = "holds a character that a header cannot carry, such as a line break";
            Wrong::new(
                message,
                "remove it; a variable that was read from a file often ends with a line break",
            )
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

impl FromText for Url {
    const SECRET: bool = true;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let message = "is a URL without a scheme";
            let harmless =
                !text.contains(['@', '?']) && format!("http://{text}").parse::<http::Uri>().is_ok();
            let cure = if harmless {
                format!("write `http://{text}`")
            } else {
                "begin it with `http://` or `https://`".to_owned()
            };
            return Err(Wrong::new(message, cure));
        };
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(Wrong::new(
                "is a URL of a kind that cannot be called",
                "begin it with `http://` or `https://`",
            ));
        }
        if rest
            .split(['/', '?'])
            .next()
            .unwrap_or_default()
            .contains('@')
        {
            let cure =
                "give the credentials as a header: `headers: { authorization: \"${NAME}\" }`";
            return Err(Wrong::new(
                "is a URL with a user name or a password in it",
                cure,
            ));
        }
        if rest.contains('#') {
            return Err(Wrong::new(
                "is a URL with a fragment",
                "remove what follows the `#`: it is never sent",
            ));
        }
        match text.parse::<http::Uri>() {
            Ok(url) if url.host().is_some_and(|host| !host.is_empty()) => Ok(Self(url)),
            _ => Err(Wrong::new(
                "is not a URL",
                "write one such as `http://127.0.0.1:3001/mcp`",
            )),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["http://127.0.0.1:3001/mcp"] })
    }
}

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
