//! A request in somebody's hands, and what becomes of it when they let go.

use std::sync::Arc;

use http::Extensions;

use super::{Call, Child, Era, desk::Detached};
use crate::{deadline::ExpiresAt, exchange::Exchange};

/// A request that was handed over, for as long as somebody waits for it. Dropping it before its end says so to the child, or
/// leaves the call with the child, as era and reason have it.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Lease {
    pub(in crate::upstream::stdio) child: Arc<Child>,
    pub(in crate::upstream::stdio) call: Arc<Call>,
    pub(in crate::upstream::stdio) wires: Vec<u64>,
    pub(in crate::upstream::stdio) extensions: Extensions,
}

impl Lease {
    /// Every answer has been read.
    pub(in crate::upstream::stdio) fn is_done(&self) -> bool {
        self.call.is_drained()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let exchange = self.extensions.get::<Arc<Exchange>>();
        let why = exchange.and_then(|e| e.gave_up());
        let standing = exchange
            .and_then(|e| e.call())
            .is_some_and(|c| c.is_standing());
        let extensions = std::mem::take(&mut self.extensions);
        let mut desk = self.child.desk();
        self.wires.retain(|wire| desk.calls.contains_key(wire));
        if self.wires.is_empty() {
            drop(desk);
            return;
        }
        let _unread = self.call.detach();
        let modern = self.child.era() == Era::Modern || standing;
        let reason = why.map(|why| why.as_str());
        let mut over = Vec::new();
        if let Some(reason) = reason.or(modern.then_some("the client went away")) {
            for wire in &self.wires {
                over.extend(self.child.cancel(&mut desk, *wire, reason));
            }
        } else {
            // Legacy: going away is not a cancel. The child goes on, and so does what the call holds.
            let until = ExpiresAt::of_detached(extensions.get());
            for wire in &self.wires {
                if let Some(pending) = desk.calls.get_mut(wire) {
                    pending.detached = Some(Detached {
                        until,
                        _extensions: extensions.clone(),
                    });
                }
            }
        }
        drop(desk);
        self.child.write.notify_one();
    }
}
