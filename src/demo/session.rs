//! The state of one legacy session: what the handshake settled, and the questions put to the client.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::changes::Change;
use super::outlet::Outlet;
use super::revision::Level;
use super::rpc::{self, Id, RpcError};

const MAX_SUBSCRIPTIONS: usize = 64;
const MAX_QUESTIONS: usize = 64;

/// One legacy session. It dies with the connection (stdio), or by DELETE or eviction (HTTP).
#[derive(Debug)]
pub(crate) struct Session {
    id: Option<Box<str>>,
    state: Mutex<State>,
    alive: Arc<AtomicUsize>,
}

/// Why a question got no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The stream on which to ask is gone.
    Unreachable,
    /// The client answered with this error.
    Refused(Value),
    /// Too many questions are open.
    TooMany,
}

#[derive(Debug, Default)]
struct State {
    version: Option<&'static str>,
    capabilities: Value,
    level: Option<Level>,
    subscriptions: HashSet<String>,
    asked: HashMap<u64, oneshot::Sender<Result<Value, Value>>>,
    questions: u64,
}

/// Forgets an open question when its call ends, however it ends.
struct Question<'a> {
    session: &'a Session,
    id: u64,
}

// === impl Session ===

impl Session {
    /// A session before its handshake; `alive` counts it from then on, for as long as it lives.
    pub(crate) fn new(id: Option<Box<str>>, alive: Arc<AtomicUsize>) -> Self {
        Self {
            id,
            state: Mutex::default(),
            alive,
        }
    }

    /// The id that HTTP requests carry.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The revision that was settled on; none before the handshake.
    pub(crate) fn version(&self) -> Option<&'static str> {
        self.state().version
    }

    /// Ends the handshake; refused the second time.
    pub(crate) fn open(&self, version: &'static str, capabilities: Value) -> Result<(), RpcError> {
        let mut state = self.state();
        if state.version.is_some() {
            return Err(RpcError::invalid_request(
                "the session is initialized already",
            ));
        }
        state.version = Some(version);
        self.alive.fetch_add(1, Ordering::Relaxed);
        state.capabilities = capabilities;
        Ok(())
    }

    /// What the client said that it can do.
    pub(crate) fn capabilities(&self) -> Value {
        self.state().capabilities.clone()
    }

    /// Whether a log message of this level is wanted; all are, until the client sets a level.
    pub(crate) fn hears(&self, level: Level) -> bool {
        self.state().level.is_none_or(|least| level >= least)
    }

    /// Sets the least level of log messages.
    pub(crate) fn set_level(&self, level: Level) {
        self.state().level = Some(level);
    }

    /// Starts telling about changes of `uri`.
    pub(crate) fn subscribe(&self, uri: &str) -> Result<(), RpcError> {
        let mut state = self.state();
        if state.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(RpcError::internal("too many subscriptions"));
        }
        state.subscriptions.insert(uri.to_owned());
        Ok(())
    }

    /// Stops telling about changes of `uri`.
    pub(crate) fn unsubscribe(&self, uri: &str) {
        self.state().subscriptions.remove(uri);
    }

    /// Whether this session is to hear of `change`.
    pub(crate) fn wants(&self, change: &Change) -> bool {
        let state = self.state();
        match change {
            Change::Resource(uri) => state.subscriptions.contains(*uri),
            Change::List(_) => state.version.is_some(),
        }
    }

    /// Takes the client's answer to a question of ours; one that nobody waits for is dropped.
    pub(crate) fn answered(&self, id: &Id, outcome: Result<Value, Value>) {
        let waiting = id.number().and_then(|id| self.state().asked.remove(&id));
        if let Some(waiting) = waiting {
            // The call that asked may have been cancelled meanwhile.
            drop(waiting.send(outcome));
        }
    }

    /// Asks the client, on the stream of the call that needs to know, and waits for as long as it takes.
    pub(crate) async fn ask(
        &self,
        method: &str,
        params: &Value,
        outlet: &Outlet,
    ) -> Result<Value, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut state = self.state();
            if state.asked.len() >= MAX_QUESTIONS {
                return Err(Unanswered::TooMany);
            }
            state.questions += 1;
            let id = state.questions;
            state.asked.insert(id, answer);
            id
        };
        let _open = Question { session: self, id };
        if !outlet.send(rpc::request(id, method, params)).await {
            return Err(Unanswered::Unreachable);
        }
        match answered.await {
            Ok(outcome) => outcome.map_err(Unanswered::Refused),
            Err(_) => Err(Unanswered::Unreachable),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.version().is_some() {
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    /// What went wrong, for the tool's result.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Unreachable => "the client cannot be asked: its stream is gone".to_owned(),
            Self::Refused(error) => format!("the client answered with an error: {}", json!(error)),
            Self::TooMany => "too many questions are open in this session".to_owned(),
        }
    }
}

// === impl Question ===

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.session.state().asked.remove(&self.id);
    }
}
