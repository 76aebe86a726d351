//! The calls that are running: owned here, cancelled by id, aborted when this is dropped.

use std::collections::HashMap;

use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

use super::rpc::Id;

const MAX_CALLS: usize = 1024;

/// The running calls of one connection or session.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    tasks: JoinSet<()>,
    calls: HashMap<tokio::task::Id, (Id, AbortHandle)>,
}

// === impl Inflight ===

impl Inflight {
    /// Whether there is room for one more call.
    pub(crate) fn has_room(&mut self) -> bool {
        self.reap();
        self.calls.len() < MAX_CALLS
    }

    /// Whether nothing runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Forgets the calls that have ended.
    pub(crate) fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended.map(|(task, ())| task));
        }
    }

    /// Waits until a call ends, and forgets it.
    pub(crate) async fn ended(&mut self) {
        if let Some(ended) = self.tasks.join_next_with_id().await {
            self.forget(ended.map(|(task, ())| task));
        }
    }

    /// Runs a call.
    pub(crate) fn spawn(&mut self, id: Id, call: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(call);
        self.calls.insert(handle.id(), (id, handle));
    }

    /// Stops the call that `request` names; it says nothing more. Unknown or ended: nothing happens.
    pub(crate) fn cancel(&self, request: &Value) {
        for (_, handle) in self.calls.values().filter(|(id, _)| id.is(request)) {
            handle.abort();
        }
    }

    fn forget(&mut self, ended: Result<tokio::task::Id, tokio::task::JoinError>) {
        let task = ended.unwrap_or_else(|error| error.id());
        self.calls.remove(&task);
    }
}
