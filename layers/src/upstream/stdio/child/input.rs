//! What a child writes: cut into lines, and each line handed to whom it belongs.

use bytes::{Buf, Bytes, BytesMut};

use super::{Child, Era, Id, Item, Message, Pending, StdioError, splice};
use crate::{
    mcp::{Kind, MessageFacts, envelope, peek::Peek, wire},
    upstream::stdio::message::{one_line, subscription},
};

/// Cuts a child's output into lines, and passes over those that are too long.
pub(super) struct Lines {
    limit: usize,
    /// Bytes of the current line that are known to have no line end.
    scanned: usize,
    /// The current line is too long: it is only looked at.
    oversized: Option<Box<Peek>>,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            scanned: 0,
            oversized: None,
        }
    }

    /// Takes the whole lines out of `buffer`.
    pub(super) fn take(&mut self, buffer: &mut BytesMut, child: &Child) {
        loop {
            let end = memchr::memchr(b'\n', &buffer[self.scanned..]).map(|at| self.scanned + at);
            if let Some(peek) = &mut self.oversized {
                let till = end.unwrap_or(buffer.len());
                peek.feed(&buffer[..till], |_| {});
                buffer.advance(till);
                self.scanned = 0;
                if end.is_none() {
                    return;
                }
                buffer.advance(1);
                child.oversized(peek.answered(), self.limit);
                self.oversized = None;
                continue;
            }
            let Some(end) = end else {
                self.scanned = buffer.len();
                if buffer.len() > self.limit {
                    self.scanned = 0;
                    self.oversized = Some(Box::default());
                    continue;
                }
                return;
            };
            self.scanned = 0;
            let line = buffer.split_to(end).freeze();
            buffer.advance(1);
            if line.len() > self.limit {
                let mut peek = Peek::default();
                peek.feed(&line, |_| {});
                child.oversized(peek.answered(), self.limit);
            } else {
                child.line(line);
            }
        }
    }
}

impl Child {
    /// Hands a line to whom it belongs.
    fn line(&self, line: Bytes) {
        let line = one_line(trim(line));
        if line.is_empty() {
            return;
        }
        let facts = std::str::from_utf8(&line)
            .ok()
            .and_then(|text| envelope::read_message(text, 0).ok());
        let Some(facts) = facts else {
            self.meters.noise("not_json");
            tracing::debug!(
                upstream = &*self.settings.name,
                pid = self.pid,
                bytes = line.len(),
                "the server wrote a line that is no message"
            );
            return;
        };
        match facts.kind {
            Kind::Response => self.response(&line, &facts),
            Kind::Notification if facts.is("notifications/progress") => {
                self.progress(&line, &facts)
            }
            Kind::Notification if facts.is("notifications/cancelled") => {
                self.cancelled(&line, &facts)
            }
            Kind::Notification => self.notification(line, &facts),
            Kind::Request => self.request(line, &facts),
        }
    }

    /// A line that was too long: the call that it answers fails.
    fn oversized(&self, answered: Option<&Id>, limit: usize) {
        self.meters.noise("too_long");
        tracing::warn!(
            upstream = &*self.settings.name,
            pid = self.pid,
            limit,
            "the server wrote a line that is too long"
        );
        let mut desk = self.desk();
        let wire = match answered.and_then(Id::as_number) {
            Some(wire) => Some(wire),
            // With one call in flight it can be no other's.
            None if desk.calls.len() == 1 => desk.calls.keys().next().copied(),
            None => None,
        };
        let failed = wire.and_then(|wire| desk.remove(wire));
        drop(desk);
        if let Some(pending) = failed {
            pending.call.fail(StdioError::LineTooLong { limit });
        }
    }

    fn response(&self, line: &Bytes, facts: &MessageFacts) {
        let Some((id, span)) = &facts.id else {
            self.meters.noise("unknown_id");
            return;
        };
        let mut desk = self.desk();
        let pending = id.as_number().and_then(|wire| desk.remove(wire));
        drop(desk);
        self.touch();
        // One that is unknown was cancelled, or is made up.
        let Some(pending) = pending else {
            self.meters.noise("unknown_id");
            return;
        };
        let mut edits = vec![(span.clone(), pending.id.as_json())];
        let subscription = self.subscription(line, &pending);
        if let Some((span, text)) = &subscription {
            edits.push((span.clone(), text));
            edits.sort_by_key(|(span, _)| span.start);
        }
        let message = splice(line, &edits);
        // Whoever detached is not told any more: what it held is given back here.
        let _taken = pending.call.push(Item {
            message,
            answer: Some(facts.error),
        });
    }

    fn progress(&self, line: &Bytes, facts: &MessageFacts) {
        let Some((token, span)) = &facts.progress_token else {
            return;
        };
        let desk = self.desk();
        let found = token.as_number().and_then(|wire| desk.calls.get(&wire));
        let Some((call, token)) = found.and_then(|p| Some((p.call.clone(), p.token.clone()?)))
        else {
            drop(desk);
            self.meters.noise("unknown_id");
            return;
        };
        drop(desk);
        self.give(&call, splice(line, &[(span.clone(), token.as_json())]));
    }

    /// The server takes back a request of its own, or ends a subscription (modern).
    fn cancelled(&self, line: &Bytes, facts: &MessageFacts) {
        if self.era == Era::Modern {
            let mut desk = self.desk();
            let ended = facts
                .cancels
                .as_ref()
                .and_then(|(id, _)| id.as_number())
                .and_then(|wire| desk.remove(wire));
            drop(desk);
            if let Some(pending) = ended {
                pending.call.end();
            }
        } else if !self.shared {
            self.unsolicited(line.clone(), true);
        }
    }

    fn notification(&self, line: Bytes, facts: &MessageFacts) {
        if self.era == Era::Modern {
            self.modern_notification(&line);
            return;
        }
        let general = facts.method.as_ref().is_some_and(|m| {
            let method = m.as_str();
            method.ends_with("/list_changed")
                || method == "notifications/resources/updated"
                || method == "notifications/elicitation/complete"
        });
        if self.shared {
            self.shared_notification(line, facts, general);
        } else {
            self.unsolicited(line, !general);
        }
    }

    /// A modern notification belongs to a subscription, or to the only call in flight.
    fn modern_notification(&self, line: &Bytes) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        if let Some((id, span)) = subscription(text) {
            let desk = self.desk();
            let found = id.as_number().and_then(|wire| desk.calls.get(&wire));
            let found = found.map(|p| (p.call.clone(), p.id.clone()));
            drop(desk);
            match found {
                Some((call, id)) => self.give(&call, splice(line, &[(span, id.as_json())])),
                None => self.meters.noise("unknown_id"),
            }
            return;
        }
        match self.only_call() {
            Some(call) => self.give(&call, Message::One(line.clone())),
            None => self.meters.noise("nobody"),
        }
    }

    /// What a shared legacy child says to everybody, to those who subscribed, or to the one whose call it must be about.
    fn shared_notification(&self, line: Bytes, facts: &MessageFacts, general: bool) {
        if !general {
            match self.only_call() {
                Some(call) => self.give(&call, Message::One(line)),
                None => self.meters.noise("nobody"),
            }
            return;
        }
        let uri = facts
            .is("notifications/resources/updated")
            .then(|| updated_uri(&line))
            .flatten();
        let updated = facts.is("notifications/resources/updated");
        for session in self.sessions() {
            if !updated || uri.as_deref().is_some_and(|uri| session.is_subscribed(uri)) {
                session.deliver(Message::One(line.clone()), self.settings.buffer);
            }
        }
    }

    fn request(&self, line: Bytes, facts: &MessageFacts) {
        if self.era == Era::Legacy && !self.shared {
            self.unsolicited(line, true);
            return;
        }
        // A modern server must not ask; of a shared one nobody knows whom it asks.
        let Some(id) = facts.id() else { return };
        let answer = if facts.is("ping") && self.era == Era::Legacy {
            wire::empty_result(id)
        } else {
            let text = "clients cannot be asked through this connection";
            wire::error(Some(id), -32601, text, None::<()>)
        };
        if self.tell(Message::One(answer)).is_err() {
            self.meters.noise("nobody");
        }
    }

    /// A message of a server with one client. What may be about a call goes to the only call, or to a standing stream, or to the newest
    /// call; the rest to a standing stream. What finds nobody waits in the session.
    fn unsolicited(&self, line: Bytes, about_call: bool) {
        let message = Message::One(line);
        let sessions = self.sessions();
        let session = sessions.first();
        let standing = session.is_some_and(|s| s.has_stream());
        let call = if about_call {
            self.only_call()
                .or_else(|| (!standing).then(|| self.newest_call()).flatten())
        } else {
            None
        };
        match (call, session) {
            (Some(call), _) => self.give(&call, message),
            (None, Some(session)) => session.deliver(message, self.settings.buffer),
            (None, None) => self.early(message),
        }
    }

    /// The call in flight, if it is the only one and somebody reads it.
    fn only_call(&self) -> Option<std::sync::Arc<super::Call>> {
        let desk = self.desk();
        let mut live = desk
            .calls
            .values()
            .filter(|p| p.call.is_live() && !p.initialize);
        match (live.next(), live.next()) {
            (Some(pending), None) => Some(pending.call.clone()),
            _ => None,
        }
    }

    fn newest_call(&self) -> Option<std::sync::Arc<super::Call>> {
        let desk = self.desk();
        let live = desk
            .calls
            .iter()
            .filter(|(_, p)| p.call.is_live() && !p.initialize);
        live.max_by_key(|(wire, _)| **wire)
            .map(|(_, p)| p.call.clone())
    }

    fn give(&self, call: &super::Call, message: Message) {
        if !call.push(Item {
            message,
            answer: None,
        }) {
            self.meters.noise("nobody");
        }
    }

    /// The place of a subscription's id in an answer, and the client's id for it.
    fn subscription(&self, line: &Bytes, pending: &Pending) -> Option<(crate::mcp::Span, String)> {
        if self.era != Era::Modern {
            return None;
        }
        let (_, span) = subscription(std::str::from_utf8(line).ok()?)?;
        Some((span, pending.id.as_json().to_owned()))
    }
}

fn trim(mut line: Bytes) -> Bytes {
    if line.last() == Some(&b'\r') {
        line.truncate(line.len() - 1);
    }
    if line.trim_ascii().is_empty() {
        Bytes::new()
    } else {
        line
    }
}

/// The resource that a `notifications/resources/updated` is about.
fn updated_uri(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Message {
        params: Params,
    }
    #[derive(serde::Deserialize)]
    struct Params {
        uri: String,
    }
    serde_json::from_slice::<Message>(line)
        .ok()
        .map(|m| m.params.uri)
}
