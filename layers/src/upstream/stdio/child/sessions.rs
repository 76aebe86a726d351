//! The sessions of a child: who joins and leaves, what they have subscribed to, and how much they want logged.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use tokio::time::Instant;

use super::{
    Call, Child, Id, Message, Noise, Session, StdioError, UpWhile,
    desk::{Desk, Detached, Pending},
};
use crate::upstream::stdio::message::{set_level, unsubscribe};

impl Child {
    /// Adds a session, whose client gets what belongs to no call.
    pub(in crate::upstream::stdio) fn join(&self, session: Arc<Session>) -> Result<(), StdioError> {
        let mut desk = self.open_desk()?;
        let early = std::mem::take(&mut desk.early);
        desk.sessions.insert(session.serial, session.clone());
        desk.life.taken();
        drop(desk);
        self.touch();
        for message in early {
            session.deliver(message, self.settings.buffer);
        }
        Ok(())
    }

    /// Keeps a message for the session that is about to begin, as far as it would wait for a reader.
    pub(super) fn early(&self, message: Message) {
        const MOST: usize = 64;
        let mut desk = self.desk();
        let bytes: usize = desk.early.iter().map(Message::len).sum();
        let fits = desk.early.len() < MOST && bytes + message.len() <= self.settings.buffer;
        // One that several clients share is for nobody in particular.
        if fits && !self.is_shared() {
            desk.early.push_back(message.compact());
        } else {
            self.meters.noise(Noise::Nobody);
        }
    }

    /// Takes a session away: its calls fail, and so end its subscriptions at a shared child.
    pub(in crate::upstream::stdio) fn leave(&self, session: &Session) {
        let serial = session.serial;
        let mut desk = self.desk();
        desk.sessions.remove(&serial);
        let theirs: Vec<u64> = desk
            .calls
            .iter()
            .filter(|(_, p)| p.session.as_ref().is_some_and(|s| s.serial == serial))
            .map(|(wire, _)| *wire)
            .collect();
        let over: Vec<Pending> = theirs
            .into_iter()
            .filter_map(|wire| {
                let pending = desk.calls.get(&wire)?;
                pending.call.fail(StdioError::SessionGone);
                self.cancel(&mut desk, wire, "the session has ended")
            })
            .collect();
        for uri in session.subscriptions() {
            if !desk.sessions.values().any(|s| s.is_subscribed(&uri)) {
                self.unsubscribe(&mut desk, &uri);
            }
        }
        if self.is_shared() {
            self.settle_level(&mut desk);
        }
        drop(desk);
        drop(over);
        self.touch();
        self.write.notify_one();
    }

    /// Tells the child that nobody wants a resource's updates any more.
    fn unsubscribe(&self, desk: &mut Desk, uri: &str) {
        self.ask_quietly(desk, |wire| unsubscribe(wire, uri));
    }

    /// Whether a client's wish for this log level is to be sent on. The child logs at the lowest level that anybody wants: if that is
    /// another one, the child hears of that.
    pub(in crate::upstream::stdio) fn wants_level(&self, level: u8) -> bool {
        let mut desk = self.desk();
        let forward = desk.lowest_level().is_none_or(|lowest| lowest == level);
        if forward {
            desk.level = Some(level);
        } else {
            self.settle_level(&mut desk);
        }
        drop(desk);
        self.write.notify_one();
        forward
    }

    /// Has the child log at the lowest level that anybody wants, if it logs at another one.
    fn settle_level(&self, desk: &mut Desk) {
        let Some(lowest) = desk.lowest_level() else {
            return;
        };
        if desk.level.is_some_and(|now| now != lowest)
            && self.ask_quietly(desk, |wire| set_level(wire, lowest))
        {
            desk.level = Some(lowest);
        }
    }

    /// Asks the child something whose answer nobody waits for. False if there is no room.
    fn ask_quietly(&self, desk: &mut Desk, line: impl FnOnce(u64) -> Bytes) -> bool {
        if desk.life.end().is_some() {
            return false;
        }
        let wire = desk.next + 1;
        if self.put(desk, Message::One(line(wire))).is_err() {
            return false;
        }
        desk.next = wire;
        desk.calls.insert(
            wire,
            Pending {
                call: Arc::new(Call::new(1, 0)),
                id: Id::from_number(0),
                token: None,
                session: None,
                initialize: false,
                quiet: true,
                detached: Some(Detached {
                    until: Instant::now() + self.settings.handshake,
                    _extensions: Extensions::new(),
                }),
                _gauge: UpWhile::new(&self.meters.pending),
            },
        );
        true
    }

    /// Sessions that are there.
    pub(in crate::upstream::stdio) fn sessions(&self) -> Vec<Arc<Session>> {
        self.desk().sessions.values().cloned().collect()
    }
}
