//! Addresses, URLs and headers.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::{Schema, json_schema};
use ziggurat_layers::rate_limit::Network;
use ziggurat_layers::session::Key;

use super::{AdminToken, ErrorStatus, HeaderText, SealKey, SettableHeader, Statuses, Url};
use crate::config::read::{FromText, Wrong};

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

impl FromText for Network {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write an address such as `10.0.0.1`, or a network such as `10.0.0.0/8`";
        let parsed = text.parse();
        parsed.map_err(|_| Wrong::new("is not an address or a network", example))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["10.0.0.1", "10.0.0.0/8", "2001:db8::/32"] })
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

impl FromText for ErrorStatus {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let status = text.parse().ok().and_then(|n| StatusCode::from_u16(n).ok());
        match status.filter(|s| s.is_client_error() || s.is_server_error()) {
            Some(status) => Ok(Self(status)),
            None => Err(Wrong::new(
                "is not the status of an error",
                "write a number from 400 to 599",
            )),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 400, "maximum": 599 })
    }
}

impl FromText for AdminToken {
    const SECRET: bool = true;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(
            "is not 16 to 256 letters, digits and signs without a space",
            "make one with `openssl rand -hex 16`, put it into an environment variable, and write `${NAME}`",
        ))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["${ADMIN_TOKEN}"] })
    }
}

impl FromText for SealKey {
    const SECRET: bool = true;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        match Key::from_text(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(Wrong::new(
                "is not 32 bytes as base64 or hexadecimal digits",
                "make one with `openssl rand -base64 32`, put it into an environment variable, and write `${NAME}`",
            )),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["${SESSION_KEY}"] })
    }
}

impl FromText for Statuses {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let number = text.trim().parse().ok();
            number.filter(|number: &u16| (100..600).contains(number))
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first, last)),
            _ => Err(Wrong::new(
                "is not a range of statuses",
                "write `200`, or `200-399`",
            )),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "integer"], "examples": ["200-399", 200] })
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
