//! Reads the envelope of a request body: one pass, strict where two parsers could disagree.
//!
//! The body must be valid UTF-8 and valid JSON. Keys of the envelope that decide what the message is
//! (`id`, `method`, `params`, `params.name`, `params._meta`, …) must not stand twice, since a server might read the other one.
//! Everything else in the body is skipped, and not judged.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderMap, Method as HttpMethod};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    CallFacts, Era, Id, Kind, META_CAPABILITIES, META_VERSION, MODERN_VERSION, MessageFacts,
    Messages, Method, ShortText, Span, Verb, headers,
};

/// A request body that is not a JSON-RPC message of MCP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The bytes are not UTF-8.
    #[error("the body is not UTF-8 (byte {0})")]
    Utf8(usize),
    /// The text is not JSON, or a key of the envelope stands twice.
    #[error("the body is not a JSON-RPC message: {0}")]
    Json(String),
    /// An id that is neither a string nor an integer, or is too long.
    #[error(
        "an id must be a string or an integer of at most {} bytes",
        Id::MAX_LEN
    )]
    BadId,
    /// Neither a method nor a result nor an error.
    #[error("a message needs a method, a result or an error")]
    Shapeless,
    /// A batch in a revision that has none, or with an `initialize`, or empty.
    #[error("{0}")]
    Batch(&'static str),
}

impl CallFacts {
    /// The most messages that a batch may have.
    pub const MAX_BATCH: usize = 1000;

    /// Reads the facts of a request from its method, headers and whole body.
    ///
    /// # Errors
    /// When the body is not a message of MCP. Bodies of GET, DELETE and other methods are not read.
    pub fn read(
        method: &HttpMethod,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Self, EnvelopeError> {
        let mut facts = Self::head(method, headers);
        if facts.verb != Verb::Post {
            return Ok(facts);
        }
        let text = std::str::from_utf8(body).map_err(|e| EnvelopeError::Utf8(e.valid_up_to()))?;
        if text.trim_ascii_start().starts_with('[') {
            facts.batch = true;
            has_batches(facts.version.as_deref())?;
            facts.messages = Messages::Many(read_batch(text)?);
        } else {
            facts.messages = Messages::One(read_message(text, 0)?);
        }
        facts.settle();
        Ok(facts)
    }

    /// The facts of a request with messages that were read already.
    ///
    /// # Errors
    /// When its headers name a revision that has no batches, and it is one.
    #[cfg(feature = "session")]
    pub(crate) fn with(
        method: &HttpMethod,
        headers: &HeaderMap,
        messages: Messages,
    ) -> Result<Self, EnvelopeError> {
        let mut facts = Self::head(method, headers);
        facts.batch = matches!(messages, Messages::Many(_));
        if facts.batch {
            has_batches(facts.version.as_deref())?;
        }
        facts.messages = messages;
        facts.settle();
        Ok(facts)
    }

    /// What a request says before its messages.
    fn head(method: &HttpMethod, headers: &HeaderMap) -> Self {
        let verb = match *method {
            HttpMethod::POST => Verb::Post,
            HttpMethod::GET => Verb::Get,
            HttpMethod::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        Self {
            era: Era::Legacy,
            version: headers::single(headers, &headers::PROTOCOL_VERSION).map(ShortText::from),
            session: headers::single(headers, &headers::SESSION_ID).map(Into::into),
            verb,
            batch: false,
            messages: Messages::None,
        }
    }

    /// Decides the era from what was read: the envelope is the source of truth. Without one, a header that names the modern
    /// revision makes the request a modern one that lacks what it must carry.
    fn settle(&mut self) {
        let Some(message) = self.messages().first() else {
            return;
        };
        // An `initialize` is legacy, unless both header and envelope say otherwise: then it is a modern request for a
        // method that the modern era does not have.
        if message.is("initialize") && self.version != message.version {
            return;
        }
        if let Some(version) = message.version.clone() {
            self.era = Era::Modern;
            self.version = Some(version);
        } else if self.version.as_deref() == Some(MODERN_VERSION) && !self.batch {
            self.era = Era::Modern;
        }
    }
}

fn has_batches(version: Option<&str>) -> Result<(), EnvelopeError> {
    if version.is_some_and(|v| v != "2025-03-26") {
        return Err(EnvelopeError::Batch(
            "batches exist only in revision 2025-03-26",
        ));
    }
    Ok(())
}

fn read_batch(text: &str) -> Result<Vec<MessageFacts>, EnvelopeError> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(json)?;
    if elements.is_empty() {
        return Err(EnvelopeError::Batch("a batch must not be empty"));
    }
    if elements.len() > CallFacts::MAX_BATCH {
        return Err(EnvelopeError::Batch("a batch has at most 1000 messages"));
    }
    let mut messages = Vec::with_capacity(elements.len());
    for element in elements {
        let message = read_message(element.get(), offset(text, element.get()))?;
        if message.is("initialize") {
            return Err(EnvelopeError::Batch("initialize must not be in a batch"));
        }
        if message.version.is_some() {
            return Err(EnvelopeError::Batch(
                "a modern request must not be in a batch",
            ));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Reads one message; `base` is where `text` stands in the body.
///
/// # Errors
/// When it is not a message of MCP.
pub fn read_message(text: &str, base: usize) -> Result<MessageFacts, EnvelopeError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let envelope = Envelope
        .deserialize(&mut deserializer)
        .and_then(|envelope| deserializer.end().map(|()| envelope))
        .map_err(json)?;
    let place = |raw: &str| -> Result<(Id, Span), EnvelopeError> {
        let start = base + offset(text, raw);
        let id = Id::from_json(raw).ok_or(EnvelopeError::BadId)?;
        Ok((id, start..start + raw.len()))
    };
    let kind = match (&envelope.method, envelope.id, envelope.answer) {
        (Some(_), Some(_), _) => Kind::Request,
        (Some(_), None, _) => Kind::Notification,
        (None, _, true) => Kind::Response,
        (None, _, false) => return Err(EnvelopeError::Shapeless),
    };
    let params = envelope.params.unwrap_or_default();
    // An error response may carry `null` for an id that could not be read: it answers nobody.
    let id = match envelope.id {
        Some("null") if kind == Kind::Response => None,
        Some(raw) => Some(place(raw)?),
        None => None,
    };
    let method = envelope.method.as_deref().map(Method::new);
    let name = match method.as_ref().map(Method::as_str) {
        Some("tools/call" | "prompts/get") => params.name,
        Some("resources/read" | "resources/subscribe" | "resources/unsubscribe") => params.uri,
        Some("tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result") => params.task_id,
        Some(_) | None => None,
    };
    let is = |wanted: &str| method.as_ref().is_some_and(|m| m.as_str() == wanted);
    let token = if is("notifications/progress") {
        params.progress_token
    } else {
        params.meta.progress_token
    };
    let cancels = params.request_id.filter(|_| is("notifications/cancelled"));
    Ok(MessageFacts {
        kind,
        id,
        name: name.as_deref().map(Into::into),
        progress_token: token.map(place).transpose()?,
        cancels: cancels.map(place).transpose()?,
        version: params.meta.version.as_deref().map(Into::into),
        continues: params.continues,
        client_said: params.meta.capabilities,
        error: envelope.error,
        span: base..base + text.len(),
        method,
    })
}

fn json(error: serde_json::Error) -> EnvelopeError {
    EnvelopeError::Json(error.to_string())
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

// === the parts of the envelope that are read ===

struct Envelope;

#[derive(Default)]
struct EnvelopeParts<'a> {
    id: Option<&'a str>,
    method: Option<Cow<'a, str>>,
    params: Option<ParamsParts<'a>>,
    answer: bool,
    error: Option<i64>,
}

#[derive(Deserialize)]
struct ErrorCode {
    code: i64,
}

struct Params;

#[derive(Default)]
struct ParamsParts<'a> {
    name: Option<Cow<'a, str>>,
    uri: Option<Cow<'a, str>>,
    task_id: Option<Cow<'a, str>>,
    request_id: Option<&'a str>,
    progress_token: Option<&'a str>,
    meta: MetaParts<'a>,
    continues: bool,
}

struct Meta;

#[derive(Default)]
struct MetaParts<'a> {
    version: Option<Cow<'a, str>>,
    progress_token: Option<&'a str>,
    capabilities: bool,
}

/// A key, decoded; borrowed when it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The text of a value that must be a string where it is one at all; any other type counts as absent,
/// and is left to the server to judge.
fn text<'de, M: MapAccess<'de>>(map: &mut M) -> Result<Option<Cow<'de, str>>, M::Error> {
    let raw = raw(map)?;
    if !raw.starts_with('"') {
        return Ok(None);
    }
    if let Some(plain) = raw.get(1..raw.len() - 1).filter(|s| !s.contains('\\')) {
        return Ok(Some(Cow::Borrowed(plain)));
    }
    serde_json::from_str(raw)
        .map(|s| Some(Cow::Owned(s)))
        .map_err(M::Error::custom)
}

fn raw<'de, M: MapAccess<'de>>(map: &mut M) -> Result<&'de str, M::Error> {
    map.next_value::<&RawValue>().map(RawValue::get)
}

fn once<T, E: serde::de::Error>(
    slot: &mut Option<T>,
    name: &'static str,
    value: Option<T>,
) -> Result<(), E> {
    if slot.is_some() {
        return Err(E::duplicate_field(name));
    }
    *slot = value;
    Ok(())
}

/// Marks a key as seen.
fn mark<E: serde::de::Error>(seen: &mut u16, bit: u16, name: &'static str) -> Result<(), E> {
    if *seen & bit != 0 {
        return Err(E::duplicate_field(name));
    }
    *seen |= bit;
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Envelope {
    type Value = EnvelopeParts<'de>;
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope {
    type Value = EnvelopeParts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message (an object)")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut parts = EnvelopeParts::default();
        let mut seen = 0;
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "id" => {
                    let value = raw(&mut map)?;
                    once(&mut parts.id, "id", Some(value))?;
                }
                "method" => {
                    mark(&mut seen, 1, "method")?;
                    parts.method = Some(
                        text(&mut map)?
                            .ok_or_else(|| M::Error::custom("`method` must be a string"))?,
                    );
                }
                "params" => {
                    mark(&mut seen, 2, "params")?;
                    parts.params = map.next_value_seed(Optional(Params))?;
                }
                "result" => {
                    mark(&mut seen, 4, "result")?;
                    map.next_value::<IgnoredAny>()?;
                    parts.answer = true;
                }
                "error" => {
                    mark(&mut seen, 8, "error")?;
                    let error = raw(&mut map)?;
                    if error != "null" {
                        parts.answer = true;
                        parts.error =
                            Some(serde_json::from_str(error).map_or(0, |e: ErrorCode| e.code));
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(parts)
    }
}

/// A seed whose value may be `null`, which counts as absent.
struct Optional<S>(S);

impl<'de, S> DeserializeSeed<'de> for Optional<S>
where
    S: Visitor<'de>,
{
    type Value = Option<S::Value>;
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_option(self)
    }
}

impl<'de, S: Visitor<'de>> Visitor<'de> for Optional<S> {
    type Value = Option<S::Value>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self.0).map(Some)
    }
}

impl<'de> Visitor<'de> for Params {
    type Value = ParamsParts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object as `params`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut parts = ParamsParts::default();
        let mut seen = 0;
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "name" => {
                    mark(&mut seen, 1, "name")?;
                    parts.name = text(&mut map)?;
                }
                "uri" => {
                    mark(&mut seen, 2, "uri")?;
                    parts.uri = text(&mut map)?;
                }
                "taskId" => {
                    mark(&mut seen, 4, "taskId")?;
                    parts.task_id = text(&mut map)?;
                }
                "requestId" => {
                    mark(&mut seen, 8, "requestId")?;
                    parts.request_id = Some(raw(&mut map)?);
                }
                "progressToken" => {
                    mark(&mut seen, 16, "progressToken")?;
                    parts.progress_token = Some(raw(&mut map)?);
                }
                "_meta" => {
                    mark(&mut seen, 32, "_meta")?;
                    parts.meta = map.next_value_seed(Optional(Meta))?.unwrap_or_default();
                }
                // Rules and limits look into them: two parsers must not find different ones.
                "arguments" => {
                    mark(&mut seen, 64, "arguments")?;
                    map.next_value::<IgnoredAny>()?;
                }
                "inputResponses" | "requestState" => {
                    map.next_value::<IgnoredAny>()?;
                    parts.continues = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(parts)
    }
}

impl<'de> Visitor<'de> for Meta {
    type Value = MetaParts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object as `_meta`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut parts = MetaParts::default();
        let mut seen = 0;
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                META_VERSION => {
                    mark(&mut seen, 1, META_VERSION)?;
                    parts.version = text(&mut map)?;
                }
                "progressToken" => {
                    mark(&mut seen, 2, "progressToken")?;
                    parts.progress_token = Some(raw(&mut map)?);
                }
                META_CAPABILITIES => {
                    mark(&mut seen, 4, META_CAPABILITIES)?;
                    parts.capabilities = raw(&mut map)?.starts_with('{');
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<CallFacts, EnvelopeError> {
        CallFacts::read(
            &HttpMethod::POST,
            &HeaderMap::new(),
            &Bytes::copy_from_slice(body.as_bytes()),
        )
    }

    #[test]
    fn a_legacy_call_is_read_with_its_places() {
        let body = r#"{"jsonrpc":"2.0","id":"7","method":"tools/call","params":{"name":"echo","arguments":{"name":"no"},"_meta":{"progressToken":5}}}"#;
        let facts = read(body).expect("a message");
        assert_eq!(facts.era, Era::Legacy);
        let call = facts.request().expect("one request");
        assert_eq!(call.tool(), Some("echo"));
        let (id, span) = call.id.clone().expect("an id");
        assert_eq!((id.as_json(), &body[span]), ("\"7\"", "\"7\""));
        let (token, span) = call.progress_token.clone().expect("a token");
        assert_eq!((token.as_json(), &body[span]), ("5", "5"));
    }

    #[test]
    fn the_envelope_decides_the_era() {
        let modern = r#"{"id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        assert_eq!(read(modern).expect("a message").era, Era::Modern);
        let init = modern.replace("tools/list", "initialize");
        assert_eq!(read(&init).expect("a message").era, Era::Legacy);
    }

    #[test]
    fn duplicate_keys_are_refused_where_they_matter_even_escaped() {
        for body in [
            r#"{"id":1,"method":"a","method":"b"}"#,
            r#"{"id":1,"id":2,"method":"a"}"#,
            r#"{"id":1,"method":"a","m\u0065thod":"b"}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"id":1,"method":"tools/call","params":{},"params":{}}"#,
            r#"{"id":1,"method":"tools/call","params":{"_meta":{},"_meta":{}}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":5,"name":"b"}}"#,
            r#"{"id":1,"method":"tools/call","params":{"arguments":{},"arg\u0075ments":{}}}"#,
        ] {
            assert!(matches!(read(body), Err(EnvelopeError::Json(_))), "{body}");
        }
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        for body in [
            "",
            "{",
            "nul",
            "5",
            "\"x\"",
            "{}",
            r#"{"id":1}"#,
            r#"{"id":null,"method":"a"}"#,
            r#"{"id":1.5,"method":"a"}"#,
            r#"{"id":{},"method":"a"}"#,
            r#"{"id":1,"method":5}"#,
            r#"{"id":1,"method":"a","params":[1]}"#,
            r#"{"id":1,"method":"a"} x"#,
            "[]",
            r#"[{"id":1,"method":"initialize"}]"#,
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_passes_as_an_envelope() {
        let deep = format!(
            r#"{{"id":1,"method":"a","params":{{"x":{}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        // Skipped, not recursed into: a server's own limit is its own business.
        let _either = read(&deep);
        assert!(read(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn a_batch_is_read_element_by_element() {
        let body = r#" [{"id":1,"method":"ping"}, {"method":"notifications/initialized"}]"#;
        let facts = read(body).expect("a batch");
        assert!(facts.batch);
        assert_eq!(facts.requests().count(), 1);
        assert_eq!(
            &body[facts.messages()[1].span.clone()],
            r#"{"method":"notifications/initialized"}"#
        );
        let mut headers = HeaderMap::new();
        headers.insert(
            headers::PROTOCOL_VERSION,
            "2025-06-18".parse().expect("a value"),
        );
        assert!(CallFacts::read(&HttpMethod::POST, &headers, &Bytes::from(body)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(body: Vec<u8>) {
            let _either = CallFacts::read(&HttpMethod::POST, &HeaderMap::new(), &Bytes::from(body));
        }

        #[test]
        fn ids_and_tokens_stand_where_the_facts_say(id in 0u64.., text in "[a-z\\\\\"\\u{e9}]{0,8}", pad in "[ \n\t]{0,3}") {
            let quoted = serde_json::to_string(&text).expect("text");
            let body = format!("{{{pad}\"id\"{pad}:{pad}{id}{pad},\"params\":{{\"_meta\":{{\"progressToken\":{quoted}}}}},\"method\":\"x\"}}");
            let facts = read(&body).expect("a message");
            let message = facts.request().expect("a request");
            let (_, span) = message.id.clone().expect("an id");
            proptest::prop_assert_eq!(&body[span], id.to_string());
            let (_, span) = message.progress_token.clone().expect("a token");
            proptest::prop_assert_eq!(&body[span], quoted);
        }
    }
}
