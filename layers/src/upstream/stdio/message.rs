//! Lines on their way: rewritten where an id stands, never through typed structs.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::{Id, META_SUBSCRIPTION, Span};

/// One message without its line end: one piece, or a few where it is too long to be copied.
#[derive(Debug, Clone)]
pub(super) enum Message {
    One(Bytes),
    Many(Vec<Bytes>),
}

/// Longer messages are passed on in pieces rather than copied.
const COPY: usize = 16 * 1024;

impl Message {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Many(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    /// The message with memory of its own: what was cut out of a child's output holds on to all that was read with it.
    pub(super) fn compact(self) -> Self {
        match self {
            Self::One(bytes) if bytes.len() <= COPY => Self::One(Bytes::copy_from_slice(&bytes)),
            other => other,
        }
    }

    pub(super) fn into_parts(self) -> Vec<Bytes> {
        match self {
            Self::One(bytes) => vec![bytes],
            Self::Many(parts) => parts,
        }
    }

    /// The message as one event of an event stream.
    pub(super) fn into_event(self) -> Self {
        const HEAD: &[u8] = b"event: message\ndata: ";
        const TAIL: &[u8] = b"\n\n";
        match self {
            Self::One(bytes) if bytes.len() <= COPY => {
                let mut event = BytesMut::with_capacity(HEAD.len() + bytes.len() + TAIL.len());
                event.extend_from_slice(HEAD);
                event.extend_from_slice(&bytes);
                event.extend_from_slice(TAIL);
                Self::One(event.freeze())
            }
            other => {
                let mut parts = vec![Bytes::from_static(HEAD)];
                parts.extend(other.into_parts());
                parts.push(Bytes::from_static(TAIL));
                Self::Many(parts)
            }
        }
    }
}

/// `line` with other text at these places, which are in order and do not overlap.
pub(super) fn splice(line: &Bytes, edits: &[(Span, &str)]) -> Message {
    if edits.is_empty() {
        return Message::One(line.clone());
    }
    if line.len() <= COPY {
        let grown: usize = edits.iter().map(|(_, text)| text.len()).sum();
        let mut out = BytesMut::with_capacity(line.len() + grown);
        let mut at = 0;
        for (span, text) in edits {
            out.extend_from_slice(&line[at..span.start]);
            out.extend_from_slice(text.as_bytes());
            at = span.end;
        }
        out.extend_from_slice(&line[at..]);
        return Message::One(out.freeze());
    }
    let mut parts = Vec::with_capacity(2 * edits.len() + 1);
    let mut at = 0;
    for (span, text) in edits {
        parts.push(line.slice(at..span.start));
        parts.push(Bytes::copy_from_slice(text.as_bytes()));
        at = span.end;
    }
    parts.push(line.slice(at..));
    Message::Many(parts)
}

/// `text` without line breaks: inside JSON they can only be white space.
pub(super) fn one_line(text: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &text).is_none() {
        return text;
    }
    let mut text = BytesMut::from(text);
    for byte in text.iter_mut() {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    text.freeze()
}

/// A request that ends the subscription to a resource.
pub(super) fn unsubscribe(id: u64, uri: &str) -> Bytes {
    let uri = serde_json::Value::from(uri);
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"resources/unsubscribe","params":{{"uri":{uri}}}}}"#
    ))
}

/// The log levels (RFC 5424), from the lowest up.
const LEVELS: [&str; 8] = [
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
];

/// The number of the log level that a message names in its `params`.
pub(super) fn level(message: &[u8]) -> Option<u8> {
    #[derive(serde::Deserialize)]
    struct Message {
        params: Params,
    }
    #[derive(serde::Deserialize)]
    struct Params {
        level: String,
    }
    let message: Message = serde_json::from_slice(message).ok()?;
    let at = LEVELS.iter().position(|l| *l == message.params.level)?;
    u8::try_from(at).ok()
}

/// A request that sets the log level to the one with this number.
pub(super) fn set_level(id: u64, level: u8) -> Bytes {
    let level = LEVELS.get(usize::from(level)).unwrap_or(&LEVELS[0]);
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"logging/setLevel","params":{{"level":"{level}"}}}}"#
    ))
}

/// The subscription that a modern message belongs to, and where its id stands.
pub(super) fn subscription(text: &str) -> Option<(Id, Span)> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        params: Option<Holder<'a>>,
        #[serde(borrow)]
        result: Option<Holder<'a>>,
    }
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<Meta<'a>>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
        id: Option<&'a RawValue>,
    }
    // A quick look first: few messages have one.
    memchr::memmem::find(text.as_bytes(), META_SUBSCRIPTION.as_bytes())?;
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    let raw = envelope.params.or(envelope.result)?.meta?.id?.get();
    Some((Id::from_json(raw)?, place(text, raw)))
}

/// The raw text of a member of a response's `result`, and where it stands.
pub(super) fn result_member<'a>(text: &'a str, key: &str) -> Option<(&'a str, Span)> {
    let result = result(text)?;
    let members: std::collections::HashMap<&str, &RawValue> = serde_json::from_str(result).ok()?;
    let raw = members.get(key)?.get();
    Some((raw, place(text, raw)))
}

/// The raw text of a response's `result`.
pub(super) fn result(text: &str) -> Option<&str> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    envelope.result.map(RawValue::get)
}

fn place(whole: &str, part: &str) -> Span {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: Message) -> String {
        String::from_utf8(message.into_parts().concat()).expect("text")
    }

    #[test]
    fn long_and_short_lines_are_spliced_alike() {
        for pad in [1, 2 * COPY] {
            let line = Bytes::from(format!(
                "{{\"id\":12,\"x\":\"{}\",\"t\":3}}",
                "y".repeat(pad)
            ));
            let end = line.len() - 2;
            let out = text(splice(&line, &[(6..8, "\"abc\""), (end..end + 1, "4")]));
            assert_eq!(
                out,
                format!("{{\"id\":\"abc\",\"x\":\"{}\",\"t\":4}}", "y".repeat(pad))
            );
        }
    }

    #[test]
    fn a_subscription_is_found_in_params_and_in_results() {
        for key in ["params", "result"] {
            let line = format!(
                r#"{{"{key}":{{"a":1,"_meta":{{"io.modelcontextprotocol/subscriptionId":7}}}}}}"#
            );
            let (id, span) = subscription(&line).expect("found");
            assert_eq!((id.as_json(), &line[span]), ("7", "7"));
        }
        assert_eq!(subscription("{}"), None);
    }

    #[test]
    fn line_breaks_become_spaces() {
        assert_eq!(
            one_line(Bytes::from_static(b"{\r\n \"a\": 1\n}")),
            &b"{   \"a\": 1 }"[..]
        );
    }
}
