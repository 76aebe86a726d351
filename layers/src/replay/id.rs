//! The ids of events: which stream, which event of it, and whose.
//!
//! `zc-89abcdef-01234567-12-NDI`: the kind (`zc` a call's, `zg` a standing stream), a mark of the session, the stream, the number of the event, and, for a
//! call, its JSON-RPC id in base64, so that it can be told how it stands even by a process that does not know the stream. Nothing in it grants anything: streams
//! are looked up among those of the session that asks.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;

use crate::mcp::Id;

/// What kind of stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The answer to a call.
    Call,
    /// The GET stream of a session.
    Standing,
}

/// What the ids of one stream have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamId {
    pub(super) kind: Kind,
    /// The session's mark.
    pub(super) mark: u32,
    /// Tells the streams of a session apart, also those of an earlier process.
    pub(super) stream: u32,
    /// The request that is answered.
    pub(super) request: Option<Id>,
}

/// The lines of the ids of one stream, but for the number.
#[derive(Debug)]
pub(super) struct Lines {
    before: Box<str>,
    after: Box<str>,
}

/// The longest request id that an event id carries, in bytes of JSON text.
const LONGEST: usize = 64;

/// How many digits an event's number has at most, unless a stream is read for ages.
const DIGITS: usize = 8;

/// The mark of a session in event ids.
pub(super) fn mark(serial: u128) -> u32 {
    (serial >> 96) as u32
}

// === impl StreamId ===

impl StreamId {
    /// What the lines of its ids have in common.
    pub(super) fn lines(&self) -> Lines {
        let kind = match self.kind {
            Kind::Call => "zc",
            Kind::Standing => "zg",
        };
        let (mark, stream) = (self.mark, self.stream);
        let mut after = String::new();
        if let Some(id) = self.request.as_ref().map(Id::as_json)
            && id.len() <= LONGEST
        {
            after.push('-');
            URL_SAFE_NO_PAD.encode_string(id, &mut after);
        }
        after.push('\n');
        Lines {
            before: format!("id: {kind}-{mark:08x}-{stream:08x}-").into(),
            after: after.into(),
        }
    }

    /// Reads the id of an event, if it is one of ours.
    pub(super) fn read(text: &str) -> Option<(Self, u64)> {
        let mut parts = text.splitn(5, '-');
        let kind = match parts.next()? {
            "zc" => Kind::Call,
            "zg" => Kind::Standing,
            _ => return None,
        };
        let mut hex = || {
            let part = parts.next()?;
            let digits = part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let (mark, stream) = (hex()?, hex()?);
        let number = parts.next()?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = number.parse().ok()?;
        let request = match parts.next() {
            None => None,
            Some(coded) => {
                let bytes = URL_SAFE_NO_PAD.decode(coded).ok()?;
                Some(Id::from_json(std::str::from_utf8(&bytes).ok()?)?)
            }
        };
        let id = Self {
            kind,
            mark,
            stream,
            request,
        };
        Some((id, number))
    }
}

// === impl Lines ===

impl Lines {
    /// The line of an event's id; `retry` in milliseconds stands before it, if any.
    pub(super) fn line(&self, number: u64, retry: Option<u64>) -> Bytes {
        let Self { before, after } = self;
        let mut line = String::with_capacity(before.len() + after.len() + DIGITS);
        // Writing to a string does not fail.
        if let Some(retry) = retry {
            let _ok = writeln!(line, "retry: {retry}");
        }
        let _ok = write!(line, "{before}{number}{after}");
        Bytes::from(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id_of(line: &Bytes) -> &str {
        let text = std::str::from_utf8(line).expect("text");
        text.lines()
            .find_map(|l| l.strip_prefix("id: "))
            .expect("an id")
    }

    proptest! {
        #[test]
        fn an_id_comes_back_as_it_was(standing: bool, mark: u32, stream: u32, number: u64, request in "[a-z\"\\\\ é]{0,12}") {
            let request = serde_json::to_string(&request).expect("text");
            let id = StreamId {
                kind: if standing { Kind::Standing } else { Kind::Call },
                mark,
                stream,
                request: Id::from_json(&request).filter(|_| !standing),
            };
            let line = id.lines().line(number, None);
            prop_assert_eq!(StreamId::read(id_of(&line)), Some((id, number)));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(zc|zg|-|[0-9a-f]{8}|\\PC){0,12}") {
            let _none = StreamId::read(&text);
        }
    }

    #[test]
    fn what_is_not_ours_is_none() {
        for bad in [
            "",
            "7",
            "zc-1-2-3",
            "zx-00000000-00000000-1",
            "zc-00000000-00000000-",
            "zc-00000000-00000000-+1",
            "zc-+0000000-00000000-1",
            "zc-00000000-00000000-1-*",
            "zc-00000000-00000000-1-bnVsbA",
            "zc-00000000-00000000-99999999999999999999999",
        ] {
            assert_eq!(StreamId::read(bad), None, "{bad}");
        }
    }
}
