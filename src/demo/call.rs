//! A call that takes time, or that speaks before it answers.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::changes::Filter;
use super::engine::{Caller, Engine};
use super::outlet::Outlet;
use super::revision::Level;
use super::rpc::{self, Id, Reply};
use super::tools::Slow;

/// A call that is ready to run.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: Id,
    pub(crate) caller: Caller,
    pub(crate) engine: Arc<Engine>,
    pub(crate) progress: Option<Value>,
    pub(crate) work: Work,
}

/// What a call does.
#[derive(Debug)]
pub(crate) enum Work {
    /// A tool.
    Tool(Slow),
    /// `subscriptions/listen`.
    Listen(Filter),
}

/// What a running call has at hand.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The id of the call.
    pub(crate) id: Id,
    /// Who calls.
    pub(crate) caller: Caller,
    /// The server.
    pub(crate) engine: Arc<Engine>,
    /// Where its messages go.
    pub(crate) outlet: Outlet,
    progress: Option<Value>,
}

// === impl Call ===

impl Call {
    /// Runs to the answer. Dropped before that, it has been cancelled.
    pub(crate) async fn run(self, outlet: Outlet) -> Reply {
        let desk = Desk {
            id: self.id,
            caller: self.caller,
            engine: self.engine,
            progress: self.progress,
            outlet,
        };
        let result = match self.work {
            Work::Tool(tool) => tool.run(&desk).await,
            Work::Listen(filter) => filter.run(&desk).await,
        };
        Reply::result(&desk.id, &desk.caller.dress(result, None))
    }
}

// === impl Desk ===

impl Desk {
    /// Tells how far the call is, if its caller wants to know.
    pub(crate) async fn progress(&self, done: u64, total: u64) {
        if let Some(token) = &self.progress {
            let params = json!({"progressToken": token, "progress": done, "total": total});
            self.outlet
                .send(rpc::notification("notifications/progress", &params))
                .await;
        }
    }

    /// Sends a log message if its caller wants this level; tells whether it went out.
    pub(crate) async fn log(&self, level: Level, data: &str) -> bool {
        if !self.caller.hears(level) {
            return false;
        }
        let params = json!({"level": level, "logger": "demo", "data": data});
        self.outlet
            .send(rpc::notification("notifications/message", &params))
            .await
    }

    /// Sends a line that is no message at all.
    pub(crate) async fn garbage(&self) {
        self.outlet
            .send(Bytes::from_static(b"this line is not JSON"))
            .await;
    }
}
