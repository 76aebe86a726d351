//! Clients that share a legacy child: what the proxy itself answers for it.

use bytes::Bytes;

use super::{Incoming, LEGACY};
use crate::{
    mcp::{MessageFacts, wire},
    upstream::stdio::{
        error::StdioError,
        message::{Message, level, result, result_member, splice},
        pool::Place,
        session::SUBSCRIPTIONS,
    },
};

impl Incoming {
    /// What the proxy itself knows for a client of a shared child.
    pub(super) fn answer_for_shared(
        &self,
        place: &Place,
        requests: &[&MessageFacts],
    ) -> Result<Option<Message>, StdioError> {
        let [request] = requests else { return Ok(None) };
        let (Some(id), session) = (request.id(), &place.session) else {
            return Ok(None);
        };
        let name = request.name.as_deref().unwrap_or_default();
        if request.is("resources/subscribe") {
            if !session.subscribe(name) {
                return Err(StdioError::Full {
                    limit: SUBSCRIPTIONS,
                    what: "subscriptions",
                });
            }
        } else if request.is("resources/unsubscribe") {
            session.unsubscribe(name);
            if place.child.sessions().iter().any(|s| s.is_subscribed(name)) {
                return Ok(Some(Message::One(wire::empty_result(id))));
            }
        } else if request.is("logging/setLevel") {
            let Some(level) = level(&self.body[request.span.clone()]) else {
                return Ok(None);
            };
            session.set_level(level);
            if !place.child.wants_level(level) {
                return Ok(Some(Message::One(wire::empty_result(id))));
            }
        }
        Ok(None)
    }
}

/// The answer to a later `initialize` of a shared child: the first one's result, with this client's id and, where it asked
/// for an earlier revision, with that.
pub(super) fn answer_again(first: &Bytes, request: &MessageFacts, body: &Bytes) -> Message {
    let asked = std::str::from_utf8(&body[request.span.clone()])
        .ok()
        .and_then(asked_version);
    let whole = answer_with_id(first, request);
    let text = std::str::from_utf8(&whole).unwrap_or_default();
    match (asked, result_member(text, "protocolVersion")) {
        (Some(asked), Some((negotiated, span))) if *asked < *negotiated.trim_matches('"') => {
            splice(&whole, &[(span, &format!("\"{asked}\""))])
        }
        _ => Message::One(whole),
    }
}

/// An answer from before, for this request.
pub(super) fn answer_with_id(first: &Bytes, request: &MessageFacts) -> Bytes {
    let text = std::str::from_utf8(first).unwrap_or_default();
    let result = result(text).unwrap_or("{}");
    let id = request.id().map_or("null", |id| id.as_json());
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
    ))
}

/// The legacy revision that an `initialize` asks for, if it is a known one.
fn asked_version(request: &str) -> Option<&'static str> {
    #[derive(serde::Deserialize)]
    struct Request {
        params: Params,
    }
    #[derive(serde::Deserialize)]
    struct Params {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let request: Request = serde_json::from_str(request).ok()?;
    let asked = request.params.version;
    LEGACY.into_iter().find(|known| **known == *asked)
}
