//! What a child writes: each line is handed to whom it belongs.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Call, Child, Era, Item, Message, Noise, Session, StdioError,
    desk::Pending,
    lines::{Cut, Skimmed},
    splice,
};
use crate::{
    mcp::{Kind, MessageFacts, envelope, peek::Seen, wire},
    upstream::stdio::message::{level, one_line, subscription},
};

impl Child {
    /// Hands what was cut to whom it belongs.
    pub(super) fn take(&self, cut: Cut) {
        match cut {
            Cut::Line(line) => self.line(line),
            Cut::TooLong(skimmed) => self.oversized(&skimmed),
        }
    }

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
            self.garbled(&line);
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

    /// A line that is no message: a call that it was to answer fails.
    fn garbled(&self, line: &Bytes) {
        self.meters.noise(Noise::NotJson);
        tracing::debug!(
            upstream = &*self.settings.name,
            pid = self.pid,
            bytes = line.len(),
            "the server wrote a line that is no message"
        );
        let mut skimmed = Skimmed::default();
        skimmed.feed(line);
        if let Some(wire) = skimmed.answers() {
            self.fail(wire, StdioError::Garbled);
        }
    }

    /// A line that was too long: the call that it answers fails. A request is answered, since nobody else can.
    fn oversized(&self, skimmed: &Skimmed) {
        let limit = self.settings.line_limit;
        self.meters.noise(Noise::TooLong);
        tracing::warn!(
            upstream = &*self.settings.name,
            pid = self.pid,
            limit,
            "the server wrote a line that is too long"
        );
        match &skimmed.seen {
            Some(Seen::Request { id, .. }) if self.era() == Era::Legacy => {
                self.reply(wire::error(
                    Some(id),
                    -32603,
                    "the request is too long",
                    None::<()>,
                ));
            }
            Some(Seen::Request { .. } | Seen::Notification { .. }) => {}
            Some(Seen::Response(_)) | None => {
                // With one call in flight it can be no other's.
                if let Some(wire) = skimmed.answers().or_else(|| self.only_wire()) {
                    self.fail(wire, StdioError::LineTooLong { limit });
                }
            }
        }
    }

    /// A call has failed.
    fn fail(&self, wire: u64, error: StdioError) {
        let failed = self.desk().remove(wire);
        self.touch();
        if let Some(pending) = failed {
            pending.call.fail(error);
        }
    }

    fn only_wire(&self) -> Option<u64> {
        let mut desk = self.desk();
        let mut wires = desk.calls.keys().copied();
        let only = wires.next().filter(|_| wires.next().is_none());
        drop(wires);
        only.filter(|_| !desk.is_haunted())
    }

    fn response(&self, line: &Bytes, facts: &MessageFacts) {
        let Some((id, span)) = &facts.id else {
            self.meters.noise(Noise::UnknownId);
            return;
        };
        let mut desk = self.desk();
        let wire = id.as_number();
        let pending = wire.and_then(|wire| desk.remove(wire));
        if pending.is_none() {
            desk.ghosts.retain(|(ghost, _)| Some(*ghost) != wire);
        }
        drop(desk);
        self.touch();
        // One that is unknown was cancelled, or is made up.
        let Some(pending) = pending else {
            self.meters.noise(Noise::UnknownId);
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
            self.meters.noise(Noise::UnknownId);
            return;
        };
        drop(desk);
        self.give(&call, splice(line, &[(span.clone(), token.as_json())]));
    }

    /// The server takes back a request of its own, or ends a subscription (modern).
    fn cancelled(&self, line: &Bytes, facts: &MessageFacts) {
        if self.era() == Era::Modern {
            let mut desk = self.desk();
            let ended = facts
                .cancels
                .as_ref()
                .and_then(|(id, _)| id.as_number())
                .and_then(|wire| desk.remove(wire));
            drop(desk);
            if let Some(pending) = ended {
                self.touch();
                pending.call.forgo();
            }
        } else if !self.is_shared() {
            self.unsolicited(line.clone(), true);
        }
    }

    fn notification(&self, line: Bytes, facts: &MessageFacts) {
        if self.era() == Era::Modern {
            self.modern_notification(&line);
            return;
        }
        let general = facts.method.as_ref().is_some_and(|m| {
            let method = m.as_str();
            method.ends_with("/list_changed")
                || method == "notifications/resources/updated"
                || method == "notifications/elicitation/complete"
        });
        if self.is_shared() {
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
                None => self.meters.noise(Noise::UnknownId),
            }
            return;
        }
        match self.only_call() {
            Some((call, _)) => self.give(&call, Message::One(line.clone())),
            None => self.meters.noise(Noise::Nobody),
        }
    }

    /// What a shared legacy child says to everybody, to those who subscribed, or to the one whose call it must be about.
    fn shared_notification(&self, line: Bytes, facts: &MessageFacts, general: bool) {
        if !general {
            match self.only_call() {
                // The child logs at the lowest level that anybody wants; this client may want less.
                Some((_, Some(session))) if is_below(&line, facts, session.level()) => {}
                Some((call, _)) => self.give(&call, Message::One(line)),
                None => self.meters.noise(Noise::Nobody),
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
        if self.era() == Era::Legacy && !self.is_shared() {
            self.unsolicited(line, true);
            return;
        }
        // A modern server must not ask, and is not to be answered.
        if self.era() == Era::Modern {
            self.meters.noise(Noise::Nobody);
            tracing::debug!(
                upstream = &*self.settings.name,
                pid = self.pid,
                "the server sent a request, which its revision does not have"
            );
            return;
        }
        // Of a shared server nobody knows whom it asks.
        let Some(id) = facts.id() else { return };
        self.reply(if facts.is("ping") {
            wire::empty_result(id)
        } else {
            let text = "clients cannot be asked through this connection";
            wire::error(Some(id), -32601, text, None::<()>)
        });
    }

    /// Answers a request of the server.
    fn reply(&self, answer: Bytes) {
        if self.tell(Message::One(answer)).is_err() {
            self.meters.noise(Noise::Nobody);
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
                .map(|(call, _)| call)
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

    /// The call in flight, if it is the only one and somebody reads it, and its session. Where clients share the child, a call whose
    /// client has gone counts as well: what the server says may be about that.
    fn only_call(&self) -> Option<(Arc<Call>, Option<Arc<Session>>)> {
        let mut desk = self.desk();
        if self.is_shared() && desk.is_haunted() {
            return None;
        }
        let mut calls = desk
            .calls
            .values()
            .filter(|p| !p.initialize && !p.quiet && (self.is_shared() || p.call.is_live()));
        match (calls.next(), calls.next()) {
            (Some(p), None) if p.call.is_live() => Some((p.call.clone(), p.session.clone())),
            _ => None,
        }
    }

    fn newest_call(&self) -> Option<Arc<Call>> {
        let desk = self.desk();
        let live = desk
            .calls
            .iter()
            .filter(|(_, p)| p.call.is_live() && !p.initialize);
        live.max_by_key(|(wire, _)| **wire)
            .map(|(_, p)| p.call.clone())
    }

    fn give(&self, call: &Call, message: Message) {
        if !call.push(Item {
            message,
            answer: None,
        }) {
            self.meters.noise(Noise::Nobody);
        }
    }

    /// The place of a subscription's id in an answer, and the client's id for it.
    fn subscription(&self, line: &Bytes, pending: &Pending) -> Option<(crate::mcp::Span, String)> {
        if self.era() != Era::Modern {
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

/// A log message below this level.
fn is_below(line: &[u8], facts: &MessageFacts, least: Option<u8>) -> bool {
    facts.is("notifications/message")
        && least.is_some_and(|least| level(line).is_some_and(|level| level < least))
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
