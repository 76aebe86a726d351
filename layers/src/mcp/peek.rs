//! A streaming look at a JSON-RPC message: what it is, without holding it.
//!
//! [`Peek`] is fed the bytes of one JSON text as they pass, in pieces of any size, and says of each message in
//! it whether it is a request, a notification, or a response, and how a response ended. It keeps a few bytes of state and
//! copies only method and id. It does not validate: text that is not JSON yields nothing, or nonsense that
//! nobody acts on, and is the reader's business.

use memchr::memchr2;

use super::{Id, Method};

/// What a message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The peer asks something.
    Request {
        /// The id to answer with.
        id: Id,
        /// What it asks for.
        method: Method,
    },
    /// The peer tells something.
    Notification {
        /// What it tells.
        method: Method,
    },
    /// The peer answers.
    Response(Answer),
}

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// With a result.
    Result,
    /// With a tool result that has `isError: true`.
    ToolError,
    /// With a JSON-RPC error of this code.
    Error(i64),
}

/// The reader. One for each JSON text; [`Peek::reset`] makes it new.
#[derive(Debug)]
pub struct Peek {
    state: State,
    depth: u32,
    /// Whether each of the outer three containers is an object.
    objects: [bool; 3],
    /// 1 inside a batch, else 0: how deep the messages stand.
    base: u32,
    /// The key of the value that stands or comes next, at the message's own level and one below.
    keys: [Key; 2],
    text: Vec<u8>,
    capture: bool,
    message: Partial,
    /// The id of the newest response.
    answered: Option<Id>,
}

#[derive(Debug, Default)]
struct Partial {
    method: Option<Method>,
    id: Option<Id>,
    result: bool,
    tool_error: bool,
    error: bool,
    code: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between tokens; in an object `key` says whether a key comes next.
    Between { key: bool },
    /// Inside a string.
    Text { key: bool, escaped: bool },
    /// Inside a number or a literal.
    Scalar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Other,
    Id,
    Method,
    Result,
    Error,
    IsError,
    Code,
}

/// A longer key or value than this is none that matters.
const LONGEST: usize = 1026;
/// So many bytes of a string are looked at one by one.
const NEAR: usize = 24;

impl Default for Peek {
    fn default() -> Self {
        Self {
            state: State::Between { key: false },
            depth: 0,
            objects: [false; 3],
            base: 0,
            keys: [Key::Other; 2],
            text: Vec::new(),
            capture: false,
            message: Partial::default(),
            answered: None,
        }
    }
}

impl Peek {
    /// Forgets everything, for the next text.
    pub fn reset(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        *self = Self {
            text,
            ..Self::default()
        };
    }

    /// The id that the newest response answers.
    pub fn answered(&self) -> Option<&Id> {
        self.answered.as_ref()
    }

    /// Reads on, and tells each message that ends in `bytes`.
    pub fn feed(&mut self, bytes: &[u8], mut tell: impl FnMut(Seen)) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Text { key, escaped } => self.in_text(rest, key, escaped),
                State::Scalar => self.in_scalar(rest),
                State::Between { .. } if self.depth > self.base + 2 => self.skip(rest),
                State::Between { key } => self.between(rest, key, &mut tell),
            };
        }
    }

    /// Reads one token, or its beginning; returns how far it got. What is whole is not copied.
    fn between(&mut self, bytes: &[u8], key: bool, tell: &mut impl FnMut(Seen)) -> usize {
        match bytes[0] {
            b'"' => {
                let key = key && self.in_object();
                self.start(key);
                let text = &bytes[1..];
                if let Some(end) = mark(text)
                    && text[end] == b'"'
                {
                    self.finish_text(&text[..end], key);
                    return end + 2;
                }
                self.state = State::Text {
                    key,
                    escaped: false,
                };
            }
            b'{' | b'[' => self.open(bytes[0] == b'{'),
            b'}' | b']' => self.close(tell),
            b',' => self.state = State::Between { key: true },
            b':' => self.state = State::Between { key: false },
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ => {
                self.start(false);
                self.state = State::Scalar;
                return self.in_scalar(bytes);
            }
        }
        1
    }

    /// Passes over what lies too deep to matter, up to the end of `bytes`; returns how far it got.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.depth > self.base + 2 {
            let marks = |b: &u8| matches!(b, b'"' | b'{' | b'}' | b'[' | b']');
            let Some(found) = bytes[at..].iter().position(marks) else {
                return bytes.len();
            };
            at += found + 1;
            match bytes[at - 1] {
                b'"' => {
                    self.start(false);
                    at += self.in_text(&bytes[at..], false, false);
                    if self.state != (State::Between { key: false }) {
                        return at;
                    }
                }
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                _ => self.depth -= 1,
            }
        }
        self.state = State::Between { key: false };
        at
    }

    /// Reads inside a scalar up to its end or the end of `bytes`; returns how far it got.
    fn in_scalar(&mut self, bytes: &[u8]) -> usize {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
        let Some(end) = bytes.iter().position(ends) else {
            self.push(bytes);
            return bytes.len();
        };
        self.state = State::Between { key: false };
        self.finish(&bytes[..end], |this, text| this.value(text, false));
        end
    }

    /// Reads inside a string up to its end, an escape, or the end of `bytes`; returns how far it got.
    fn in_text(&mut self, bytes: &[u8], key: bool, escaped: bool) -> usize {
        let mut at = 0;
        let mut escaped = escaped;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if escaped {
                self.push(&rest[..1]);
                escaped = false;
                at += 1;
                continue;
            }
            let Some(found) = mark(rest) else {
                self.push(rest);
                at = bytes.len();
                break;
            };
            at += found + 1;
            if rest[found] == b'"' {
                self.finish_text(&rest[..found], key);
                return at;
            }
            self.push(&rest[..=found]);
            escaped = true;
        }
        self.state = State::Text { key, escaped };
        at
    }

    /// A string has ended with `last`.
    fn finish_text(&mut self, last: &[u8], key: bool) {
        self.state = State::Between { key: false };
        self.finish(last, |this, text| match (key, text) {
            (true, Some(text)) => this.key(text),
            (true, None) => this.key(b""),
            (false, text) => this.value(text, true),
        });
    }

    /// Hands on a token that has ended with `last`; `None` if it was not to be kept.
    fn finish(&mut self, last: &[u8], tell: impl FnOnce(&mut Self, Option<&[u8]>)) {
        if self.text.is_empty() {
            let kept = self.capture && last.len() <= LONGEST;
            return tell(self, kept.then_some(last));
        }
        self.push(last);
        let text = std::mem::take(&mut self.text);
        tell(self, self.capture.then_some(&text[..]));
        self.text = text;
    }

    fn open(&mut self, object: bool) {
        if self.depth == 0 && !object {
            self.base = 1;
        }
        if let Some(slot) = self.objects.get_mut(self.depth as usize) {
            *slot = object;
        }
        if self.depth == self.base + 1 {
            self.container();
        }
        self.depth = self.depth.saturating_add(1);
        self.state = State::Between { key: true };
        if self.depth == self.base + 1 && object {
            self.message = Partial::default();
            self.keys = [Key::Other; 2];
        } else if self.depth == self.base + 2 {
            self.keys[1] = Key::Other;
        }
    }

    fn close(&mut self, tell: &mut impl FnMut(Seen)) {
        let was_message = self.depth == self.base + 1 && self.in_object();
        self.depth = self.depth.saturating_sub(1);
        self.state = State::Between { key: false };
        if was_message
            && let Some(seen) = std::mem::take(&mut self.message).finish(&mut self.answered)
        {
            tell(seen);
        }
    }

    /// The level of the current container: 0 is the message, 1 its direct values.
    fn level(&self) -> Option<usize> {
        let level = self.depth.checked_sub(self.base + 1)?;
        (level < 2).then_some(level as usize)
    }

    fn in_object(&self) -> bool {
        self.depth > 0
            && self
                .objects
                .get(self.depth as usize - 1)
                .copied()
                .unwrap_or(false)
            && self.level().is_some()
    }

    /// A string or scalar begins: is it one to keep?
    fn start(&mut self, key: bool) {
        self.text.clear();
        self.capture = key
            || self
                .level()
                .is_some_and(|level| self.in_object() && self.keys[level] != Key::Other);
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.capture {
            if self.text.len() + bytes.len() > LONGEST {
                self.capture = false;
                self.text.clear();
                return;
            }
            self.text.extend_from_slice(bytes);
        }
    }

    fn key(&mut self, text: &[u8]) {
        let Some(level) = self.level() else { return };
        let decoded;
        let mut text = text;
        if text.contains(&b'\\') {
            decoded = unescape(text).unwrap_or_default();
            text = decoded.as_bytes();
        }
        self.keys[level] = match (level, text, self.keys[0]) {
            (0, b"id", _) => Key::Id,
            (0, b"method", _) => Key::Method,
            (0, b"result", _) => Key::Result,
            (0, b"error", _) => Key::Error,
            (1, b"isError", Key::Result) => Key::IsError,
            (1, b"code", Key::Error) => Key::Code,
            _ => Key::Other,
        };
    }

    /// A container begins as a value of the message.
    fn container(&mut self) {
        match self.keys[0] {
            Key::Result => self.message.result = true,
            Key::Error => self.message.error = true,
            Key::Other | Key::Id | Key::Method | Key::IsError | Key::Code => {}
        }
    }

    /// A string (`quoted`) or scalar has ended as a value.
    fn value(&mut self, text: Option<&[u8]>, quoted: bool) {
        let Some(level) = self.level().filter(|_| self.in_object()) else {
            return;
        };
        let text = || text.and_then(|text| std::str::from_utf8(text).ok());
        match self.keys[level] {
            Key::Id => {
                self.message.id = text().and_then(|t| {
                    if quoted {
                        Id::from_json(&format!("\"{t}\""))
                    } else {
                        Id::from_json(t)
                    }
                });
            }
            Key::Method if quoted => {
                self.message.method = text().map(|t| {
                    if t.contains('\\') {
                        Method::new(&unescape(t.as_bytes()).unwrap_or_default())
                    } else {
                        Method::new(t)
                    }
                });
            }
            Key::Result => self.message.result = true,
            Key::Error => self.message.error = quoted || text() != Some("null"),
            Key::IsError => self.message.tool_error = !quoted && text() == Some("true"),
            Key::Code => self.message.code = text().and_then(|t| t.parse().ok()).unwrap_or(0),
            Key::Method | Key::Other => {}
        }
    }
}

impl Partial {
    fn finish(self, answered: &mut Option<Id>) -> Option<Seen> {
        match (self.method, self.id) {
            (Some(method), Some(id)) => Some(Seen::Request { id, method }),
            (Some(method), None) => Some(Seen::Notification { method }),
            (None, id) => {
                *answered = id;
                let answer = if self.error {
                    Answer::Error(self.code)
                } else if self.tool_error {
                    Answer::ToolError
                } else if self.result {
                    Answer::Result
                } else {
                    return None;
                };
                Some(Seen::Response(answer))
            }
        }
    }
}

/// Where in a string its end or an escape stands.
fn mark(text: &[u8]) -> Option<usize> {
    // Nearly all are short, and then a look at each byte costs less than to set out for a search.
    let (near, far) = text.split_at(text.len().min(NEAR));
    let marks = |byte: &u8| matches!(byte, b'"' | b'\\');
    near.iter()
        .position(marks)
        .or_else(|| Some(memchr2(b'"', b'\\', far)? + near.len()))
}

fn unescape(text: &[u8]) -> Option<String> {
    let quoted = format!("\"{}\"", std::str::from_utf8(text).ok()?);
    serde_json::from_str(&quoted).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(text: &str, step: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut peek = Peek::default();
        for piece in text.as_bytes().chunks(step.max(1)) {
            peek.feed(piece, |s| seen.push(s));
        }
        seen
    }

    #[test]
    fn each_kind_of_message_is_told_however_it_is_cut() {
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"isError":true,"text":"a\"}{"}],"isError" : false}}"#;
        let failed = r#"{"result":{"x":{"isError":false},"isError":true},"id":"1"}"#;
        let error = r#"{"error":{"data":{"code":5},"code":-32601,"message":"no"},"id":1}"#;
        let request = r#"{"method":"sampling/createMessage","id":"a\\b","params":{"method":"x"}}"#;
        let notice = r#"{"m\u0065thod":"notifications/progress","params":{"id":3}}"#;
        for step in 1..9 {
            assert_eq!(peek(result, step), [Seen::Response(Answer::Result)]);
            assert_eq!(peek(failed, step), [Seen::Response(Answer::ToolError)]);
            assert_eq!(peek(error, step), [Seen::Response(Answer::Error(-32601))]);
            let id = Id::from_json(r#""a\\b""#).expect("an id");
            let method = Method::new("sampling/createMessage");
            assert_eq!(peek(request, step), [Seen::Request { id, method }]);
            let method = Method::new("notifications/progress");
            assert_eq!(peek(notice, step), [Seen::Notification { method }]);
        }
    }

    #[test]
    fn a_batch_tells_each_of_its_messages() {
        let text = r#"[{"id":1,"result":{}}, {"method":"a"},{"id":2,"error":{"code":7}} ]"#;
        assert_eq!(
            peek(text, 3),
            [
                Seen::Response(Answer::Result),
                Seen::Notification {
                    method: Method::new("a")
                },
                Seen::Response(Answer::Error(7)),
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_told_does_not_depend_on_the_cuts(
            id in 0u64.., text in "\\PC{0,20}", failed: bool, depth in 0usize..6, step in 1usize..20,
        ) {
            let text = serde_json::to_string(&text).expect("text");
            let nest = format!("{}{text}{}", "[{\"isError\":".repeat(depth), "}]".repeat(depth));
            let body = format!("{{\"id\":{id},\"result\":{{\"a\":{nest},\"isError\":{failed},\"b\":{nest}}},\"z\":{nest}}}");
            let answer = if failed { Answer::ToolError } else { Answer::Result };
            proptest::prop_assert_eq!(peek(&body, step), [Seen::Response(answer)]);
        }

        #[test]
        fn any_bytes_pass_without_panic(bytes: Vec<u8>) {
            Peek::default().feed(&bytes, |_| {});
        }
    }
}
