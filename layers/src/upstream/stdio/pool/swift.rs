//! Sessions that begin before their child has answered: with what the command has answered before to a client that said the same.
//!
//! The child is started all the same and gets the client's own `initialize`; what the session asks waits for it. If the child
//! answers otherwise the client was told something untrue, so the session ends (404) and its client begins anew.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;

use super::{
    Key, Place, Pool,
    snapshot::agree,
    start::{Need, OWN, Trial},
};
use crate::{
    mcp::MessageFacts,
    upstream::stdio::{call::Item, child::Lease, error::StdioError, message::Message},
};

/// An answer from before, and to whom it was given.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Known {
    key: Key,
    pub(in crate::upstream::stdio) answer: Bytes,
}

impl Pool {
    /// What a client says here, if what it is answered is to be kept.
    pub(in crate::upstream::stdio) fn key(&self, request: &[u8]) -> Option<Key> {
        let wanted = self.settings().snapshot;
        wanted.then(|| Key::of(request)).flatten()
    }

    /// What the command has answered to this, if a client is to be told so now: not if a process waits to be greeted, which answers
    /// as soon.
    pub(in crate::upstream::stdio) fn known(&self, key: &Key) -> Option<Known> {
        if self.state().ahead.has_spare() {
            return None;
        }
        let answer = self.snapshots().get(key)?;
        let key = key.clone();
        Some(Known { key, answer })
    }

    /// Notes what a child has answered to this.
    pub(in crate::upstream::stdio) fn learn(&self, key: Key, answer: &Message) {
        let answer = Bytes::from(answer.clone().into_parts().concat());
        self.snapshots().put(key, answer);
    }

    /// Begins a session whose child is still to answer.
    pub(in crate::upstream::stdio) async fn begin_swiftly(
        self: &Arc<Self>,
        known: Known,
        body: &Bytes,
        facts: &MessageFacts,
        principal: Option<Arc<str>>,
        extensions: Extensions,
    ) -> Result<Place, StdioError> {
        let child = self.start(&OWN).await;
        let child = child.inspect_err(|error| self.mishap(error, Need::Now))?;
        let mut trial = Trial::new(child);
        let lease = self.hand(&trial.child, body, facts, extensions)?;
        let place = self.begin(&trial.child, principal, false)?;
        trial.keep();
        let (pool, there) = (self.clone(), place.clone());
        self.common
            .tasks
            .spawn(async move { pool.confirm(known, &there, lease).await });
        Ok(place)
    }

    /// Waits for the child's own answer, and opens the session or ends it.
    async fn confirm(&self, known: Known, place: &Place, lease: Lease) {
        let answer = self.greet(lease).await;
        if answer.is_err() && place.child.was_stopped() {
            // The session was ended meanwhile.
            return;
        }
        let outcome = match answer {
            Ok(item) => {
                self.came_up(Need::Now);
                place.child.ready();
                self.compare(&known, item)
            }
            Err(error) => {
                self.mishap(&error, Need::Now);
                "failed"
            }
        };
        self.meters().snapshot(outcome);
        if outcome == "confirmed" {
            place.session.came_up();
            return;
        }
        self.snapshots().forget(&known.key);
        let settings = self.settings();
        tracing::warn!(
            upstream = &*settings.name,
            pid = place.child.pid(),
            outcome,
            "a client was told what the command had answered before; its own server says otherwise, so its session ends"
        );
        self.end(place, Some("snapshot"));
    }

    fn compare(&self, known: &Known, item: Item) -> &'static str {
        if item.answer != Some(None) {
            return "differs";
        }
        let answer = Bytes::from(item.message.into_parts().concat());
        if !agree(&known.answer, &answer) {
            return "differs";
        }
        self.snapshots().put(known.key.clone(), answer);
        "confirmed"
    }
}
