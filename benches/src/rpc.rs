//! The few JSON-RPC messages of the benchmark, as the server and the load generator read them, and the
//! framing of server-sent events. Reading borrows; nothing here is a general MCP type.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// The modern revision: no sessions, the version in each request.
pub(crate) const MODERN: &str = "2026-07-28";
/// The newest revision with a handshake.
pub(crate) const LEGACY: &str = "2025-11-25";

pub(crate) const EVENT_STREAM: &str = "text/event-stream";
pub(crate) const JSON: &str = "application/json";

/// What a modern request says of itself.
pub(crate) const ENVELOPE: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"ziggurat-bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}"#;

/// Header names, lower case as `http` wants them.
pub(crate) mod header {
    pub(crate) const METHOD: &str = "mcp-method";
    pub(crate) const NAME: &str = "mcp-name";
    pub(crate) const SESSION: &str = "mcp-session-id";
    pub(crate) const VERSION: &str = "mcp-protocol-version";
}

/// A request or notification, as the echo server reads it.
#[derive(Deserialize)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) method: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) params: Params<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Params<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) arguments: Arguments<'a>,
    #[serde(borrow, rename = "protocolVersion")]
    pub(crate) version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "_meta")]
    pub(crate) meta: Meta<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Arguments<'a> {
    #[serde(borrow)]
    pub(crate) text: Option<&'a RawValue>,
    pub(crate) steps: u64,
    pub(crate) bytes: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    pub(crate) progress_token: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    pub(crate) version: Option<Cow<'a, str>>,
}

/// A response or notification, as the load generator reads it.
#[derive(Deserialize)]
pub(crate) struct Reply<'a> {
    pub(crate) id: Option<u64>,
    #[serde(borrow)]
    pub(crate) method: Option<Cow<'a, str>>,
    pub(crate) params: Option<Step>,
    #[serde(borrow)]
    pub(crate) result: Option<Outcome<'a>>,
    #[serde(borrow)]
    pub(crate) error: Option<Failure<'a>>,
}

/// The parameters of `notifications/progress`; other notifications have none of them.
#[derive(Deserialize)]
pub(crate) struct Step {
    #[serde(rename = "progressToken")]
    pub(crate) token: Option<u64>,
    pub(crate) progress: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct Outcome<'a> {
    #[serde(borrow, default)]
    pub(crate) content: Vec<Content<'a>>,
    #[serde(default)]
    pub(crate) tools: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
pub(crate) struct Content<'a> {
    #[serde(borrow)]
    pub(crate) text: Cow<'a, str>,
}

/// An error, with what ziggurat says of it.
#[derive(Deserialize)]
pub(crate) struct Failure<'a> {
    pub(crate) code: i64,
    #[serde(borrow, default)]
    pub(crate) data: Details<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Details<'a> {
    #[serde(borrow)]
    pub(crate) kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) outcome: Option<Cow<'a, str>>,
    pub(crate) retry_after_ms: Option<u64>,
}

impl Reply<'_> {
    /// The text of the tool result, when this is the answer to `id`.
    pub(crate) fn text_for(&self, id: u64) -> Option<&str> {
        match self.result.as_ref()?.content.as_slice() {
            [only] if self.id == Some(id) => Some(&only.text),
            _ => None,
        }
    }
}

/// One server-sent event that carries `message`.
pub(crate) fn event(message: &str) -> Bytes {
    Bytes::from(["event: message\ndata: ", message, "\n\n"].concat())
}

/// Server-sent events, cut out of the bytes as they come.
#[derive(Default)]
pub(crate) struct Events {
    unread: BytesMut,
    /// How much of `unread` is known to hold no end of an event.
    searched: usize,
    id: Option<Bytes>,
}

impl Events {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The id of the newest event.
    pub(crate) fn id(&self) -> Option<&str> {
        std::str::from_utf8(self.id.as_ref()?).ok()
    }

    /// Drops what came of an event whose end will not: another stream follows, with the same ids.
    pub(crate) fn forget(&mut self) {
        self.unread.clear();
        self.searched = 0;
    }

    /// The data of the next whole event. Comments and events without data are passed over.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = memchr::memmem::find(&self.unread[self.searched..], b"\n\n") else {
                self.searched = self.unread.len().saturating_sub(1);
                return None;
            };
            let mut event = self.unread.split_to(self.searched + end + 2).freeze();
            self.searched = 0;
            let mut found = None;
            while !event.is_empty() {
                let line_end = memchr::memchr(b'\n', &event).unwrap_or(event.len());
                let line = event.split_to(line_end);
                event.advance(1.min(event.len()));
                if let Some(data) = line.strip_prefix(b"data:") {
                    let data = data.trim_ascii();
                    if !data.is_empty() {
                        found = Some(line.slice_ref(data));
                    }
                } else if let Some(id) = line.strip_prefix(b"id:") {
                    self.id = Some(line.slice_ref(id.trim_ascii()));
                }
            }
            if found.is_some() {
                return found;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_bytes_are_cut() {
        let wire =
            b": hello\n\nid: 1\ndata: \n\nevent: message\ndata: {\"a\":1}\n\ndata:{}\n\ndata: half";
        for cut in 0..wire.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                events.push(part);
                while let Some(data) = events.next() {
                    seen.push(data);
                }
            }
            assert_eq!(seen, [&b"{\"a\":1}"[..], b"{}"], "cut at {cut}");
            assert_eq!(events.id(), Some("1"));
        }
    }

    #[test]
    fn an_event_is_read_back_as_it_was_written() {
        let mut events = Events::default();
        events.push(&event("{\"id\":7}"));
        assert_eq!(events.next().as_deref(), Some(&b"{\"id\":7}"[..]));
    }
}
