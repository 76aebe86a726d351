//! Origins: as a browser says them, and as settings list them.

use std::{fmt, str::FromStr};

use crate::host::{BadName, Host, HostName, shown};

/// An origin as a browser says it: scheme, host and port.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    scheme: &'a str,
    host: Host<'a>,
}

/// An entry of a list of origins: a host (`app.example.com`, `*.example.com`, `localhost`; see [`HostName`]) for http and https and any
/// port, or a whole origin (`https://app.example.com:8443`, `vscode-webview://…`) for just that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginName(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Host(HostName),
    Whole { scheme: Box<str>, host: HostName },
}

// === impl Origin ===

impl<'a> Origin<'a> {
    /// The origin in `scheme://host` or `scheme://host:port`, with nothing behind it.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, host) = text.split_once("://")?;
        if !is_scheme(scheme) {
            return None;
        }
        let host = Host::parse(host)?.or_port(default_port(scheme));
        Some(Self { scheme, host })
    }
}

fn is_scheme(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(fits)
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else {
        None
    }
}

// === impl OriginName ===

impl OriginName {
    /// Whether the origin is one of those meant.
    pub fn allows(&self, origin: &Origin<'_>) -> bool {
        match &self.0 {
            Kind::Host(host) => default_port(origin.scheme).is_some() && host.allows(&origin.host),
            Kind::Whole { scheme, host } => {
                origin.scheme.eq_ignore_ascii_case(scheme)
                    && host.port().or(default_port(scheme)) == origin.host.port()
                    && host.names(&origin.host)
            }
        }
    }
}

impl From<HostName> for OriginName {
    /// Every http and https origin at that host.
    fn from(host: HostName) -> Self {
        Self(Kind::Host(host))
    }
}

impl FromStr for OriginName {
    type Err = BadName;

    fn from_str(entry: &str) -> Result<Self, BadName> {
        let bad = |problem| BadName {
            entry: shown(entry.as_bytes()),
            problem,
        };
        if entry == "null" {
            return Err(bad(
                "cannot be allowed: any page can have that origin, such as a file or a sandboxed frame",
            ));
        }
        let Some((scheme, host)) = entry.split_once("://") else {
            return entry.parse().map(|host| Self(Kind::Host(host)));
        };
        if !is_scheme(scheme) || host.contains('/') {
            return Err(bad(
                "is not an origin: write scheme, host and perhaps a port, as in `https://app.example.com`, and no path",
            ));
        }
        let host = HostName::literal(host).map_err(|e| bad(e.problem))?;
        Ok(Self(Kind::Whole {
            scheme: scheme.to_ascii_lowercase().into(),
            host,
        }))
    }
}

impl fmt::Display for OriginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Host(host) => host.fmt(f),
            Kind::Whole { scheme, host } => write!(f, "{scheme}://{host}"),
        }
    }
}
