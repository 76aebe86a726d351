//! MCP facts: what a layer may want to know of a call, read once.
//!
//! [`CallFacts::read`] reads the envelope of a request (and nothing else of it) together with its headers.
//! The layer [`inspect`](crate::inspect) does so once for each request and files the result in the
//! [`Exchange`](crate::exchange::Exchange); every other layer reads it there. What passes in the other direction is seen by
//! [`observe`](crate::observe), with the streaming readers [`sse::Scanner`] and [`peek::Peek`].
//!
//! Ids keep their value and JSON type; messages are never written again through typed structs. An [`Id`] is
//! the id's JSON text.

pub(crate) mod argument;
pub mod envelope;
pub mod events;
pub mod headers;
pub(crate) mod messages;
pub mod peek;
mod short;
pub mod sse;
pub(crate) mod strict;
pub mod wire;

use std::{borrow::Cow, fmt, ops::Range};

pub use envelope::EnvelopeError;
pub use short::ShortText;

/// The two families of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: `initialize`, sessions, a GET stream.
    Legacy,
    /// 2026-07-28: stateless, metadata in every request.
    Modern,
}

/// The three kinds of JSON-RPC message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A method and an id: wants an answer.
    Request,
    /// A method without an id.
    Notification,
    /// An answer: a result or an error.
    Response,
}

/// A JSON-RPC id as JSON text (`7`, `"7"`), so that value and type survive. Text that was written with
/// escapes is kept without them, so that equal ids are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Id(ShortText);

/// A method's name. The names that the specification defines cost no allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Method(Cow<'static, str>);

/// A place in the body that was read: where an id or token stands, for those whose job is to change it.
pub type Span = Range<usize>;

/// What is known of one JSON-RPC message of a request.
#[derive(Debug, Clone)]
pub struct MessageFacts {
    /// Request, notification or response.
    pub kind: Kind,
    /// The id of a request or response, and where it stands.
    pub id: Option<(Id, Span)>,
    /// The method of a request or notification.
    pub method: Option<Method>,
    /// The tool's or prompt's name, the resource's URI, or the task's id.
    pub name: Option<ShortText>,
    /// `params._meta.progressToken`, and where it stands. On a `notifications/progress` it is `params.progressToken`.
    pub progress_token: Option<(Id, Span)>,
    /// The request that a `notifications/cancelled` names, and where it does.
    pub cancels: Option<(Id, Span)>,
    /// The revision in `params._meta`, which makes the message a modern one.
    pub version: Option<ShortText>,
    /// It carries `inputResponses` or `requestState`, so it must never be repeated.
    pub continues: bool,
    /// `params._meta` says what the client can do, as a modern request must.
    pub client_said: bool,
    /// The code of an error response; 0 if it has none.
    pub error: Option<i64>,
    /// Where the message stands in the body: all of it, but for a batch.
    pub span: Span,
}

/// What is known of one HTTP request to an MCP endpoint.
#[derive(Debug, Clone)]
pub struct CallFacts {
    /// The era that the client speaks.
    pub era: Era,
    /// The revision, if it was said: in the envelope (modern), in the header, or asked for by `initialize`.
    pub version: Option<ShortText>,
    /// `Mcp-Session-Id`, if sent. Untrusted, and not a thing to log.
    pub session: Option<ShortText>,
    /// What kind of HTTP request it is.
    pub verb: Verb,
    /// The body is a JSON array (revision 2025-03-26).
    pub batch: bool,
    /// The messages: none for GET and DELETE, one for most, more in a batch.
    pub messages: Messages,
}

/// The HTTP methods that MCP gives a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Carries messages.
    Post,
    /// Opens or resumes an event stream.
    Get,
    /// Ends a session.
    Delete,
    /// Anything else (OPTIONS, HEAD, …): passed on as it is.
    Other,
}

/// No message, one, or the elements of a batch.
#[derive(Debug, Clone, Default)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub enum Messages {
    /// GET and DELETE.
    #[default]
    None,
    /// The usual case, without an allocation of its own.
    One(MessageFacts),
    /// A batch.
    Many(Vec<MessageFacts>),
}

// === impl CallFacts ===

impl CallFacts {
    /// The same call with nothing but this message.
    pub(crate) fn only(&self, message: MessageFacts) -> Self {
        Self {
            era: self.era,
            version: self.version.clone(),
            session: self.session.clone(),
            verb: self.verb,
            batch: self.batch,
            messages: Messages::One(message),
        }
    }

    /// The messages of the call.
    pub fn messages(&self) -> &[MessageFacts] {
        match &self.messages {
            Messages::None => &[],
            Messages::One(message) => std::slice::from_ref(message),
            Messages::Many(messages) => messages,
        }
    }

    /// The messages that want an answer.
    pub fn requests(&self) -> impl Iterator<Item = &MessageFacts> {
        self.messages().iter().filter(|m| m.kind == Kind::Request)
    }

    /// The one request of the call, if it is not a batch.
    pub fn request(&self) -> Option<&MessageFacts> {
        match &self.messages {
            Messages::One(message) if message.kind == Kind::Request => Some(message),
            Messages::One(_) | Messages::None | Messages::Many(_) => None,
        }
    }

    /// Some message of the call has this method.
    pub fn has_method(&self, name: &str) -> bool {
        self.messages()
            .iter()
            .any(|m| m.method.as_ref().is_some_and(|m| m.as_str() == name))
    }

    /// A stream that stands until somebody ends it: GET, or `subscriptions/listen`.
    pub fn is_standing(&self) -> bool {
        let listens = |message: &MessageFacts| message.is("subscriptions/listen");
        // Not in a batch: a call beside it would have no clock.
        self.verb == Verb::Get || self.request().is_some_and(listens)
    }

    /// Nothing in it waits for an answer: DELETE, notifications, client responses. It must not queue behind
    /// the calls that may be waiting for it.
    pub fn is_fire_and_forget(&self) -> bool {
        let may_act = || self.messages().iter().any(MessageFacts::may_act);
        self.verb == Verb::Delete || (self.verb == Verb::Post && !may_act())
    }

    /// The tool that it is a call of: that of the one message in it for which a server may do something, with an id or without, or of several such
    /// messages if all call the same tool. What stands beside that in a batch (notifications, answers) changes nothing. A batch with several tools, or with a call
    /// beside another request, is no tool's.
    pub fn tool(&self) -> Option<&str> {
        let mut acting = self.messages().iter().filter(|m| m.may_act());
        let tool = acting.next()?.tool()?;
        acting.all(|m| m.tool() == Some(tool)).then_some(tool)
    }

    /// The request is an `initialize`, which begins a legacy session.
    pub fn is_initialize(&self) -> bool {
        self.era == Era::Legacy && self.request().is_some_and(|m| m.is("initialize"))
    }
}

impl MessageFacts {
    /// A server may do something for it: a request, and whatever is none of MCP's notifications although it has no id.
    pub fn may_act(&self) -> bool {
        match self.kind {
            Kind::Request => true,
            Kind::Response => false,
            Kind::Notification => {
                let method = self.method.as_ref().map_or("", Method::as_str);
                !method.starts_with("notifications/")
            }
        }
    }

    /// The same for a body that is this message alone.
    #[cfg(all(feature = "http", feature = "session"))]
    pub(crate) fn alone(&self) -> Self {
        let base = self.span.start;
        let mut alone = self.clone();
        let places = [&mut alone.id, &mut alone.progress_token, &mut alone.cancels];
        let spans = places.into_iter().flatten().map(|(_, span)| span);
        for span in spans.chain([&mut alone.span]) {
            *span = span.start - base..span.end - base;
        }
        alone
    }

    /// The method is `name`.
    pub fn is(&self, name: &str) -> bool {
        self.method.as_ref().is_some_and(|m| m.as_str() == name)
    }

    /// The id, for a request or a response.
    pub fn id(&self) -> Option<&Id> {
        self.id.as_ref().map(|(id, _)| id)
    }

    /// The tool that a `tools/call` names.
    pub fn tool(&self) -> Option<&str> {
        if self.is("tools/call") {
            self.name.as_deref()
        } else {
            None
        }
    }
}

// === impl Id ===

impl Id {
    /// The longest id that is accepted, in bytes of JSON text.
    pub const MAX_LEN: usize = 1024;

    /// The id in this JSON text, if it is a string or an integer that is not too long.
    pub fn from_json(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > Self::MAX_LEN {
            return None;
        }
        if bytes[0] == b'"' {
            if !bytes.contains(&b'\\') {
                return Some(Self(text.into()));
            }
            let plain: String = serde_json::from_str(text).ok()?;
            return Some(Self(serde_json::to_string(&plain).ok()?.into()));
        }
        let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
        (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then(|| Self(text.into()))
    }

    /// The integer as an id.
    pub fn from_number(number: u64) -> Self {
        Self(number.to_string().into())
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The integer, if it is a small one written plainly.
    pub fn as_number(&self) -> Option<u64> {
        self.0.parse().ok()
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Method ===

/// Every method that a revision of the specification defines.
pub const METHODS: &[&str] = &[
    "completion/complete",
    "elicitation/create",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/elicitation/complete",
    "notifications/initialized",
    "notifications/message",
    "notifications/progress",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/roots/list_changed",
    "notifications/subscriptions/acknowledged",
    "notifications/tasks/status",
    "notifications/tools/list_changed",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "roots/list",
    "sampling/createMessage",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tools/call",
    "tools/list",
];

impl Method {
    /// The method of this name.
    pub fn new(name: &str) -> Self {
        Self(match METHODS.binary_search(&name) {
            Ok(at) => Cow::Borrowed(METHODS[at]),
            Err(_) => Cow::Owned(name.to_owned()),
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name if the specification defines it; what a metric may use as a label.
    pub fn known(&self) -> Option<&'static str> {
        match self.0 {
            Cow::Borrowed(name) => Some(name),
            Cow::Owned(_) => None,
        }
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Era ===

impl Era {
    /// The label of metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// The revision of the modern era.
pub const MODERN_VERSION: &str = "2026-07-28";

/// The newest legacy revision.
pub(crate) const LEGACY_VERSION: &str = "2025-11-25";

/// How the proxy introduces itself.
pub(crate) const CLIENT: &str = concat!(
    r#"{"name":"ziggurat","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// What a client says when the handshake is made.
pub(crate) const INITIALIZED: &str = "notifications/initialized";

/// The parameters with which the proxy itself begins a handshake.
pub(crate) fn initialize_params() -> String {
    format!(r#"{{"protocolVersion":"{LEGACY_VERSION}","capabilities":{{}},"clientInfo":{CLIENT}}}"#)
}

/// The `_meta` key whose presence makes a request a modern one.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// The `_meta` key with the client's capabilities, which every modern request carries.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The `_meta` key that names the `subscriptions/listen` to which a modern message belongs.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_methods_are_sorted() {
        assert!(METHODS.is_sorted());
    }

    #[test]
    fn an_id_keeps_its_type_and_folds_escapes() {
        assert_ne!(Id::from_json("1"), Id::from_json("\"1\""));
        assert_eq!(Id::from_json("\"\\u0061\""), Id::from_json("\"a\""));
        for bad in ["null", "1.5", "1e3", "true", "{}", "[]", "", "-"] {
            assert_eq!(Id::from_json(bad), None, "{bad}");
        }
    }

    fn posted(body: &'static str) -> CallFacts {
        let (headers, body) = (
            http::HeaderMap::new(),
            bytes::Bytes::from_static(body.as_bytes()),
        );
        CallFacts::read(&http::Method::POST, &headers, &body).expect("a message")
    }

    #[test]
    fn what_a_server_might_execute_is_a_call_with_or_without_an_id() {
        for (body, free) in [
            (r#"{"id":1,"method":"tools/call"}"#, false),
            (r#"{"method":"tools/call","params":{"name":"a"}}"#, false),
            (r#"{"method":"notifications/initialized"}"#, true),
            (r#"{"id":1,"result":{}}"#, true),
            (
                r#"[{"method":"notifications/a"},{"id":1,"result":{}}]"#,
                true,
            ),
            (r#"[{"method":"notifications/a"},{"method":"ping"}]"#, false),
        ] {
            assert_eq!(posted(body).is_fire_and_forget(), free, "{body}");
        }
    }

    #[cfg(all(feature = "http", feature = "session"))]
    #[test]
    fn a_message_of_a_batch_is_the_same_alone() {
        let body = r#"[{"method":"ping","id":1}, {"id":"b","method":"tools/call","params":{"name":"a","_meta":{"progressToken":7}}},{"method":"notifications/cancelled","params":{"requestId":1}}]"#;
        for message in posted(body).messages() {
            let alone = &body[message.span.clone()];
            let read = envelope::read_message(alone, 0).expect("a message");
            assert_eq!(format!("{:?}", message.alone()), format!("{read:?}"));
        }
    }

    #[test]
    fn a_call_is_one_of_its_tool_whatever_stands_beside_it() {
        let call = |tool: &str| {
            format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
        };
        let (a, b) = (&call("a"), &call("b"));
        let unanswered = &a.replace(r#""id":1,"#, "");
        let note = r#"{"method":"notifications/foo"}"#;
        let answer = r#"{"id":1,"result":{}}"#;
        let ping = r#"{"id":2,"method":"ping"}"#;
        for (body, tool) in [
            (a.clone(), Some("a")),
            (unanswered.clone(), Some("a")),
            (format!("[{a}]"), Some("a")),
            (format!("[{unanswered}]"), Some("a")),
            (format!("[{a},{note}]"), Some("a")),
            (format!("[{answer},{note},{a}]"), Some("a")),
            (format!("[{a},{unanswered},{a}]"), Some("a")),
            (format!("[{a},{b}]"), None),
            (format!("[{a},{ping}]"), None),
            (format!("[{ping},{a}]"), None),
            (a.replace("tools/call", "prompts/get"), None),
            (format!("[{note}]"), None),
            (answer.to_owned(), None),
        ] {
            let (headers, bytes) = (http::HeaderMap::new(), bytes::Bytes::from(body.clone()));
            let facts = CallFacts::read(&http::Method::POST, &headers, &bytes);
            assert_eq!(facts.expect("a message").tool(), tool, "{body}");
        }
    }

    #[test]
    fn a_call_does_not_become_a_standing_stream_by_what_stands_beside_it() {
        let listen = r#"{"id":1,"method":"subscriptions/listen"}"#;
        assert!(posted(listen).is_standing());
        let both = r#"[{"id":1,"method":"subscriptions/listen"},{"id":2,"method":"tools/call"}]"#;
        assert!(!posted(both).is_standing());
    }
}
