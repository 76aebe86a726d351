//! What a server says of its tools: `readOnlyHint` and `idempotentHint`, as read from the answers to `tools/list`.
//!
//! They are hints that a server may get wrong (MCP 2026-07-28, schema, `ToolAnnotations`), hence learnt only where the operator trusts them. A later
//! list replaces what an earlier one said of a tool; pages of one list add up.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use serde::Deserialize;

use crate::{
    body::{End, Track},
    exchange::Exchange,
    mcp::messages::Messages,
    observe::Media,
};

/// The tools of one upstream that say that their calls may be repeated. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Annotations {
    safe: Arc<RwLock<HashMap<Box<str>, bool>>>,
}

/// Reads along with a response that lists tools; nothing on any other.
#[derive(Debug, Default)]
pub struct Learning(Option<Box<Learner>>);

#[derive(Debug)]
struct Learner {
    store: Annotations,
    /// `None` once there was more than is kept.
    messages: Option<Messages>,
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    result: Tools<'a>,
}

#[derive(Deserialize)]
struct Tools<'a> {
    #[serde(borrow)]
    tools: Vec<Tool<'a>>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    annotations: Option<Hints>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Hints {
    read_only_hint: Option<bool>,
    idempotent_hint: Option<bool>,
}

// === impl Annotations ===

impl Annotations {
    /// The most tools that are kept; of others nothing is known.
    pub const MAX: usize = 4096;
    /// The most bytes of an answer that are read: of a longer one nothing is learnt.
    pub const MAX_ANSWER: usize = 1 << 20;

    /// Whether the tool is said to read only, or to be idempotent.
    pub fn is_safe(&self, tool: &str) -> bool {
        let safe = self.safe.read().unwrap_or_else(PoisonError::into_inner);
        safe.get(tool).copied().unwrap_or(false)
    }

    /// Learns from a JSON-RPC answer to `tools/list`; anything else teaches nothing.
    pub fn learn(&self, answer: &[u8]) {
        let Ok(Listed { result }) = serde_json::from_slice(answer) else {
            return;
        };
        let mut safe = self.safe.write().unwrap_or_else(PoisonError::into_inner);
        for Tool { name, annotations } in result.tools {
            let hints = annotations.unwrap_or_default();
            let says = hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true);
            if let Some(known) = safe.get_mut(&*name) {
                *known = says;
            } else if safe.len() < Self::MAX && name.len() <= 256 {
                safe.insert(name.into(), says);
            }
        }
    }

    /// Reads along with this response, if it lists tools.
    pub(super) fn follow<B>(&self, exchange: &Exchange, response: &Response<B>) -> Learning {
        let lists = exchange
            .call()
            .and_then(|call| call.request())
            .is_some_and(|request| request.is("tools/list"));
        let media = Media::of(response.headers());
        if !lists || response.status() != StatusCode::OK {
            return Learning(None);
        }
        Learning(Messages::of(media, Self::MAX_ANSWER).map(|messages| {
            Box::new(Learner {
                store: self.clone(),
                messages: Some(messages),
            })
        }))
    }
}

// === impl Learning ===

impl Track for Learning {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        let (Some(learner), Some(data)) = (&mut self.0, frame.data_ref()) else {
            return;
        };
        let Learner { store, messages } = &mut **learner;
        if let Some(reader) = messages
            && reader.feed(data, |text| store.learn(text)).is_err()
        {
            *messages = None;
        }
    }

    /// Also of a body that was dropped: clients leave when they have their answer.
    fn end(self, _end: End<'_>) {
        if let Some(learner) = self.0
            && let Some(messages) = learner.messages
        {
            messages.finish(|text| learner.store.learn(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"n","tools":[
        {"name":"read","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true,"title":"x"}},
        {"name":"s\u0065t","annotations":{"idempotentHint":true,"readOnlyHint":false}},
        {"name":"delete","annotations":{"destructiveHint":true}},
        {"name":"bare"}]}}"#;

    fn known(store: &Annotations) -> [bool; 4] {
        ["read", "set", "delete", "bare"].map(|tool| store.is_safe(tool))
    }

    #[test]
    fn a_list_teaches_and_a_later_one_replaces() {
        let store = Annotations::default();
        assert_eq!(known(&store), [false; 4]);
        store.learn(LIST.as_bytes());
        assert_eq!(known(&store), [true, true, false, false]);
        store.learn(br#"{"id":2,"result":{"tools":[{"name":"read"},{"name":"bare","annotations":{"readOnlyHint":true}}]}}"#);
        assert_eq!(known(&store), [false, true, false, true]);
        for nothing in ["", "{", r#"{"error":{}}"#, r#"{"result":{"tools":1}}"#] {
            store.learn(nothing.as_bytes());
        }
        assert_eq!(known(&store), [false, true, false, true]);
    }

    /// What is learnt from a response of this kind that comes in these pieces.
    fn learnt(media: Media, pieces: &[&[u8]]) -> [bool; 4] {
        let store = Annotations::default();
        let mut learning = Learning(Some(Box::new(Learner {
            store: store.clone(),
            messages: Messages::of(media, Annotations::MAX_ANSWER),
        })));
        for piece in pieces {
            learning.frame(&Frame::data(Bytes::copy_from_slice(piece)));
        }
        learning.end(End::Dropped);
        known(&store)
    }

    #[test]
    fn an_event_stream_teaches_too() {
        let list = LIST.replace('\n', " ");
        let stream = format!("data: {{\"method\":\"notifications/progress\"}}\n\ndata: {list}\n\n");
        let pieces: Vec<_> = stream.as_bytes().chunks(7).collect();
        assert_eq!(learnt(Media::Events, &pieces), [true, true, false, false]);
        assert_eq!(
            learnt(Media::Json, &[LIST.as_bytes()]),
            [true, true, false, false]
        );
    }

    #[test]
    fn a_store_and_an_answer_have_a_bound() {
        let store = Annotations::default();
        for n in 0..Annotations::MAX + 10 {
            store.learn(format!(r#"{{"result":{{"tools":[{{"name":"t{n}"}}]}}}}"#).as_bytes());
        }
        assert_eq!(
            store.safe.read().expect("not poisoned").len(),
            Annotations::MAX
        );
        let long = vec![b' '; Annotations::MAX_ANSWER];
        let pieces: [&[u8]; 3] = [&long, LIST.as_bytes(), LIST.as_bytes()];
        assert_eq!(learnt(Media::Json, &pieces), [false; 4]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            Annotations::default().learn(&bytes);
        }
    }
}
