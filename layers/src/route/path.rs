//! Paths: prefixes of whole segments, and the other way in which a path may be read.

use std::{borrow::Cow, fmt, str::FromStr};

use super::UnsafePath;
use crate::host::shown;

/// The beginning of a path, in whole segments. The default is `/`, which covers everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PathPrefix(
    /// Without the slash at its end, so `/` is empty.
    Box<str>,
);

/// A path prefix that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{path}` is not a path prefix: write `/` or whole segments, such as `/mcp`, in plain characters"
)]
pub struct BadPath {
    /// What was given, shortened where it is long.
    pub path: Box<str>,
}

// === impl PathPrefix ===

impl PathPrefix {
    /// Whether a path begins with these segments.
    pub(super) fn covers(&self, path: &[u8]) -> bool {
        self.0.is_empty()
            || path
                .strip_prefix(self.0.as_bytes())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    /// The prefix as text, `/` for everything.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }
}

impl FromStr for PathPrefix {
    type Err = BadPath;

    fn from_str(path: &str) -> Result<Self, BadPath> {
        let plain = |b: u8| b.is_ascii_graphic() && !b"%;\\?#\"<>`{}|^".contains(&b);
        let prefix = path.strip_suffix('/').unwrap_or(path);
        let mut segments = prefix.split('/').skip(1);
        let good = path.starts_with('/')
            && path.bytes().all(plain)
            && segments.all(|s| !matches!(s, "" | "." | ".."));
        if good {
            Ok(Self(prefix.into()))
        } else {
            Err(BadPath {
                path: shown(path.as_bytes()),
            })
        }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === reading ===

/// The path as an upstream may read it that resolves what can be resolved: percent-encoding, backslashes, doubled slashes
/// and segment parameters. None if that is the path itself.
pub(super) fn resolve(path: &str) -> Result<Option<Vec<u8>>, UnsafePath> {
    let odd =
        |pair: &[u8]| matches!(pair[0], b'%' | b'\\' | b';') || matches!(pair, [b'/', b'/' | b'.']);
    let last = path.as_bytes().last();
    if !path.as_bytes().windows(2).any(odd) && !matches!(last, Some(b'%' | b'\\' | b';')) {
        return Ok(None);
    }
    let decoded = decode(path.as_bytes());
    let mut resolved = Vec::with_capacity(decoded.len());
    for segment in decoded.split(|b| matches!(b, b'/' | b'\\')) {
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        match name {
            b"." | b".." => return Err(UnsafePath),
            b"" => {}
            name => {
                resolved.push(b'/');
                resolved.extend_from_slice(name);
            }
        }
    }
    Ok(Some(resolved))
}

fn decode(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let coded = match (first, after) {
            (b'%', [high, low, after @ ..]) => digit(*high)
                .zip(digit(*low))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = coded.unwrap_or((first, after));
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}
