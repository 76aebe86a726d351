//! A message as a hook sees it: its text, what is known of it, and how it may be changed.

use bytes::Bytes;
use serde_json::Value;

use super::json::{self, edit};
pub use super::json::{
    edit::{Edit, EditError, PatchOp},
    pointer::{BadPointer, Pointer},
};
use crate::mcp::{Kind, MessageFacts, envelope::read_message};

/// Which way a message goes, and what it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client: a request, a notification, or an answer to the server's question.
    Request,
    /// From the server: the answer to a request.
    Response,
    /// From the server: a notification, or a question.
    Server,
}

/// One message, or on a plain HTTP route one body or the data of one event.
#[derive(Debug)]
pub struct Message {
    direction: Direction,
    text: Bytes,
    /// None of a plain body.
    facts: Option<MessageFacts>,
    /// The text, read strictly, once somebody looked into it.
    value: Option<Value>,
    /// The most bytes that it may have.
    limit: usize,
    changed: bool,
}

/// A change that was not made: the message is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// The text cannot be read, or not in one way only.
    #[error("the message cannot be read: {0}")]
    Unreadable(String),
    /// It does not fit.
    #[error("the change does not fit: {0}")]
    Unfit(#[from] EditError),
    /// It would be another message.
    #[error("the {0} of a message must stay as it is")]
    Identity(&'static str),
}

impl Direction {
    /// The word of logs and of the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Server => "server",
        }
    }
}

impl Message {
    /// A message of the client, at its place in a body that was inspected.
    pub(super) fn asked(text: Bytes, facts: MessageFacts, limit: usize) -> Self {
        Self::new(Direction::Request, text, Some(facts), limit)
    }

    /// A message of the server.
    pub(super) fn told(text: Bytes, limit: usize) -> Result<Self, String> {
        let read = std::str::from_utf8(&text).map_err(|_| "it is not UTF-8".to_owned())?;
        let facts = read_message(read, 0).map_err(|error| error.to_string())?;
        let direction = match facts.kind {
            Kind::Response => Direction::Response,
            Kind::Request | Kind::Notification => Direction::Server,
        };
        Ok(Self::new(direction, text, Some(facts), limit))
    }

    /// A body, or the data of an event, of plain HTTP.
    pub(super) fn plain(direction: Direction, text: Bytes, limit: usize) -> Self {
        Self::new(direction, text, None, limit)
    }

    fn new(direction: Direction, text: Bytes, facts: Option<MessageFacts>, limit: usize) -> Self {
        Self {
            direction,
            text,
            facts,
            value: None,
            limit,
            changed: false,
        }
    }

    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// What is known of it; nothing of a plain body. The places in it are those that it came with.
    pub fn facts(&self) -> Option<&MessageFacts> {
        self.facts.as_ref()
    }

    /// Its bytes as they are now.
    pub fn bytes(&self) -> &Bytes {
        &self.text
    }

    /// Whether it has been changed.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The message as a value, read strictly: of an object with a key that stands twice another reader could see something else.
    ///
    /// # Errors
    /// When it is not JSON, or a key stands twice in it.
    pub fn value(&mut self) -> Result<&Value, NotChanged> {
        let value = match self.value.take() {
            Some(value) => value,
            None => json::parse(text_of(&self.text)?).map_err(NotChanged::Unreadable)?,
        };
        Ok(self.value.insert(value))
    }

    /// Its value (see [`value`](Self::value)), and what is known of it.
    pub(super) fn read(&mut self) -> Result<(&Value, Option<&MessageFacts>), NotChanged> {
        self.value()?;
        let value = self.value.as_ref().unwrap_or(&Value::Null);
        Ok((value, self.facts.as_ref()))
    }

    /// The same message as it came, for who keeps it.
    pub(super) fn kept(&self) -> Self {
        let facts = self.facts.clone();
        Self::new(self.direction, self.text.clone(), facts, self.limit)
    }

    /// Makes these changes: all, or none. What they do not touch keeps its bytes.
    ///
    /// # Errors
    /// When one does not fit, or the message would be another one: id, method, tokens and revision stay.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<(), NotChanged> {
        self.value()?;
        let mut text = text_of(&self.text)?.to_owned();
        for change in edits {
            text = edit::apply(&text, change, self.limit)?;
        }
        self.replace(text)
    }

    /// Puts another text in its place.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn replace(&mut self, text: String) -> Result<(), NotChanged> {
        if text.as_bytes() == &*self.text {
            return Ok(());
        }
        let (facts, value) = self.other(&text)?.unzip();
        self.facts = facts;
        self.value = value;
        self.text = text.into();
        self.changed = true;
        Ok(())
    }

    /// Whether another text may be put in its place.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub(super) fn check(&self, text: &str) -> Result<(), NotChanged> {
        if text.as_bytes() == &*self.text {
            return Ok(());
        }
        self.other(text).map(|_read| ())
    }

    /// What another text in its place says; nothing of a plain body.
    fn other(&self, text: &str) -> Result<Option<(MessageFacts, Value)>, NotChanged> {
        if text.len() > self.limit {
            return Err(EditError::TooLong(self.limit).into());
        }
        let Some(facts) = &self.facts else {
            return Ok(None);
        };
        let value = json::parse(text).map_err(NotChanged::Unreadable)?;
        let new = read_message(text, 0).map_err(|e| NotChanged::Unreadable(e.to_string()))?;
        same_message(facts, &new)?;
        Ok(Some((new, value)))
    }
}

fn text_of(bytes: &Bytes) -> Result<&str, NotChanged> {
    std::str::from_utf8(bytes).map_err(|_| NotChanged::Unreadable("it is not UTF-8".to_owned()))
}

/// What others go by must not change under them.
fn same_message(old: &MessageFacts, new: &MessageFacts) -> Result<(), NotChanged> {
    let id = |token: &Option<(crate::mcp::Id, crate::mcp::Span)>| {
        token.as_ref().map(|(id, _)| id.clone())
    };
    let differs = [
        ("kind", old.kind != new.kind),
        ("id", old.id() != new.id()),
        ("method", old.method != new.method),
        (
            "progress token",
            id(&old.progress_token) != id(&new.progress_token),
        ),
        ("cancelled request", id(&old.cancels) != id(&new.cancels)),
        ("revision", old.version != new.version),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(NotChanged::Identity(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Message {
        Message::told(Bytes::copy_from_slice(text.as_bytes()), 200).expect("a message")
    }

    fn set(pointer: &str, value: &str) -> Edit {
        Edit::Set(pointer.parse().expect("a pointer"), value.into())
    }

    #[test]
    fn a_change_is_made_as_a_whole_or_not_at_all() {
        let text = r#"{"jsonrpc":"2.0", "id":7,"result":{"a":1.0,"b":[]}}"#;
        let mut message = told(text);
        assert_eq!(message.direction(), Direction::Response);
        let unfit = message.apply(&[set("/result/a", "2"), set("/result/x/y", "3")]);
        assert!(matches!(unfit, Err(NotChanged::Unfit(_))));
        assert!(!message.is_changed() && message.bytes() == text);
        message
            .apply(&[set("/result/b/0", "\"new\"")])
            .expect("it fits");
        assert!(message.is_changed());
        assert_eq!(message.bytes(), &text.replace("[]", "[\"new\"]"));
        assert_eq!(message.value().expect("JSON")["result"]["b"][0], "new");
    }

    #[test]
    fn a_message_stays_the_one_that_it_is() {
        let call =
            r#"{"id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":5}}}"#;
        for edit in [
            set("/id", "2"),
            set("/method", "\"ping\""),
            set("/params/_meta/progressToken", "\"5\""),
            set(
                "/params/_meta",
                "{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}",
            ),
            Edit::Remove("/id".parse().expect("a pointer")),
            set("", "[]"),
            set("", "{}"),
        ] {
            let mut message = told(call);
            assert!(
                message.apply(std::slice::from_ref(&edit)).is_err(),
                "{edit:?}"
            );
            assert!(!message.is_changed() && message.bytes() == call);
            assert_eq!(message.value().expect("JSON")["id"], 1);
        }
        let mut message = told(call);
        message
            .apply(&[set("/params/name", "\"b\"")])
            .expect("it fits");
        assert_eq!(message.facts().and_then(|f| f.tool()), Some("b"));
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_not_read() {
        let mut message = told(r#"{"id":1,"method":"x","params":{"a":{"b":1,"b":2}}}"#);
        assert!(matches!(message.value(), Err(NotChanged::Unreadable(_))));
        assert!(message.apply(&[]).is_err());
    }
}
