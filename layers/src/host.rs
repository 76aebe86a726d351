//! Names of hosts: as a request says them ([`Host`]), and as settings list them ([`HostName`]).
//!
//! Reading is strict, since what decides over a request must not be open to two readings: one authority, no user
//! information, letters, digits, `-`, `_` and dots, or an IP literal. Case and one dot at the end do not count.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::{Request, header, uri::Scheme};

/// A host and port, as a request says them.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    name: Name<'a>,
    port: Option<u16>,
}

/// An entry of a list of hosts: `example.com`, `example.com:8443`, `*.example.com` (every name below it, not itself), an IP address.
/// `localhost` stands for the names of the loopback: `localhost`, `127.0.0.1` and `[::1]`. Without a port, any port
/// is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName {
    pattern: Pattern,
    port: Option<u16>,
}

/// What is wrong with a Host or an Origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Problem {
    /// There is none.
    #[error("is missing")]
    Missing,
    /// There are several.
    #[error("stands twice")]
    Twice,
    /// The Host header and the authority of the request's URI are not the same.
    #[error("differs from the authority of the request")]
    Differs,
    /// It cannot be read.
    #[error("is malformed")]
    Malformed,
    /// It is not in the list.
    #[error("is not allowed")]
    Foreign,
}

/// An entry of a list of hosts or origins that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{entry}` {problem}")]
pub struct BadName {
    /// The entry, shortened where it is long.
    pub entry: Box<str>,
    /// What is wrong with it, and what would be right.
    pub problem: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Name<'a> {
    Ip(IpAddr),
    Dns(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pattern {
    Loopback,
    Ip(IpAddr),
    Name(Box<str>),
    Below(Box<str>),
}

/// The longest name that DNS has.
const MAX_NAME: usize = 253;

// === impl Host ===

impl<'a> Host<'a> {
    /// The host that a request is for: its one Host header, or the authority of its URI (HTTP/2), or both if they agree.
    ///
    /// # Errors
    /// When there is none, several, two different ones, or one that cannot be read.
    pub fn of<B>(request: &'a Request<B>) -> Result<Self, Problem> {
        let mut values = request.headers().get_all(header::HOST).iter();
        let header = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => return Err(Problem::Twice),
            (Some(value), None) => {
                let host = value.to_str().ok().and_then(Self::parse);
                Some(host.ok_or(Problem::Malformed)?)
            }
        };
        let uri = request.uri();
        let authority = match uri.authority() {
            None => None,
            Some(text) => Some(Self::parse(text.as_str()).ok_or(Problem::Malformed)?),
        };
        match (header, authority) {
            (None, None) => Err(Problem::Missing),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (Some(header), Some(authority)) => {
                let default = match uri.scheme() {
                    Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
                    Some(scheme) if *scheme == Scheme::HTTP => Some(80),
                    Some(_) | None => None,
                };
                let same = header.or_port(default).is(&authority.or_port(default));
                same.then_some(header).ok_or(Problem::Differs)
            }
        }
    }

    /// The host in `name`, `name:port`, `1.2.3.4:port` or `[::1]:port`.
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = match rest {
                "" => None,
                rest => read_port(rest.strip_prefix(':')?)?,
            };
            return Some(Self {
                name: Name::Ip(address.into()),
                port,
            });
        }
        let (name, port) = match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => (name, read_port(port)?),
        };
        let name = read_name(name)?;
        Some(Self { name, port })
    }

    /// The port, if one was said.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The same host, at this port where none was said.
    #[must_use]
    pub fn or_port(self, default: Option<u16>) -> Self {
        Self {
            port: self.port.or(default),
            ..self
        }
    }

    fn is(&self, other: &Self) -> bool {
        let same = match (self.name, other.name) {
            (Name::Ip(one), Name::Ip(two)) => one == two,
            (Name::Dns(one), Name::Dns(two)) => one.eq_ignore_ascii_case(two),
            (Name::Ip(_), Name::Dns(_)) | (Name::Dns(_), Name::Ip(_)) => false,
        };
        same && self.port == other.port
    }
}

/// The port in `text`; an empty one is none.
fn read_port(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    if text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().map(Some)
}

fn read_name(text: &str) -> Option<Name<'_>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(Name::Ip(address.into()));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| !label.is_empty() && label.bytes().all(fits);
    (text.len() <= MAX_NAME && text.split('.').all(label)).then_some(Name::Dns(text))
}

/// Text of a stranger for a log: one line of visible ASCII, shortened.
pub(crate) fn shown(text: &[u8]) -> Box<str> {
    const MOST: usize = 100;
    let visible = |&b: &u8| {
        if b == b' ' || b.is_ascii_graphic() {
            char::from(b)
        } else {
            '?'
        }
    };
    let mut line: String = text.iter().take(MOST).map(visible).collect();
    if text.len() > MOST {
        line.push_str("...");
    }
    line.into()
}

// === impl HostName ===

impl HostName {
    /// The names of the loopback, at any port.
    pub fn loopback() -> Self {
        Self {
            pattern: Pattern::Loopback,
            port: None,
        }
    }

    /// Reads an entry in which `localhost` is that name and nothing more.
    pub(crate) fn literal(entry: &str) -> Result<Self, BadName> {
        let bad = |problem| BadName {
            entry: shown(entry.as_bytes()),
            problem,
        };
        if let Ok(address) = entry.parse::<IpAddr>() {
            return Ok(Self {
                pattern: Pattern::Ip(address),
                port: None,
            });
        }
        if entry.contains('/') {
            return Err(bad(
                "is not a host: write `example.com` or `example.com:8443`",
            ));
        }
        if !entry.is_ascii() {
            return Err(bad("is not ASCII: write the name's `xn--` form"));
        }
        let (below, rest) = match entry.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, entry),
        };
        if rest.contains('*') {
            return Err(bad(
                "has a `*` in a wrong place: it may stand only at the beginning, as in `*.example.com`",
            ));
        }
        let host = Host::parse(rest).ok_or_else(|| {
            bad("is not a host: write `example.com`, `example.com:8443`, `*.example.com` or an IP address")
        })?;
        let pattern = match host.name {
            Name::Ip(_) if below => return Err(bad("has a `*` before an IP address")),
            Name::Ip(address) => Pattern::Ip(address),
            Name::Dns(name) if below => Pattern::Below(name.to_ascii_lowercase().into()),
            Name::Dns(name) => Pattern::Name(name.to_ascii_lowercase().into()),
        };
        Ok(Self {
            pattern,
            port: host.port,
        })
    }

    /// Whether the host is one of those meant. A host without a port counts as at 80 and at 443.
    pub fn allows(&self, host: &Host<'_>) -> bool {
        let port = match (self.port, host.port) {
            (None, _) => true,
            (Some(wanted), Some(port)) => wanted == port,
            (Some(wanted), None) => wanted == 80 || wanted == 443,
        };
        port && self.names(host)
    }

    /// Whether the host has one of the names meant, at whichever port.
    pub(crate) fn names(&self, host: &Host<'_>) -> bool {
        match (&self.pattern, host.name) {
            (Pattern::Loopback, Name::Ip(address)) => {
                address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
            }
            (Pattern::Loopback, Name::Dns(name)) => name.eq_ignore_ascii_case("localhost"),
            (Pattern::Ip(one), Name::Ip(two)) => *one == two,
            (Pattern::Name(one), Name::Dns(two)) => one.eq_ignore_ascii_case(two),
            (Pattern::Below(parent), Name::Dns(name)) => name
                .len()
                .checked_sub(parent.len() + 1)
                .filter(|at| *at > 0)
                .and_then(|at| name.get(at..))
                .and_then(|end| end.strip_prefix('.'))
                .is_some_and(|end| parent.eq_ignore_ascii_case(end)),
            (Pattern::Ip(_), Name::Dns(_))
            | (Pattern::Name(_) | Pattern::Below(_), Name::Ip(_)) => false,
        }
    }

    /// The port that is meant, if not any.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for HostName {
    type Err = BadName;

    fn from_str(entry: &str) -> Result<Self, BadName> {
        let name = Self::literal(entry)?;
        Ok(match &name.pattern {
            Pattern::Name(text) if **text == *"localhost" => Self {
                pattern: Pattern::Loopback,
                ..name
            },
            _ => name,
        })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Pattern::Loopback => f.write_str("localhost")?,
            Pattern::Ip(IpAddr::V4(address)) => write!(f, "{address}")?,
            Pattern::Ip(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Pattern::Name(name) => f.write_str(name)?,
            Pattern::Below(name) => write!(f, "*.{name}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
