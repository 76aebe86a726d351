//! Children that many use: the one of all legacy sessions, and the one of modern calls. Each is started once for all who wait.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Pool, start::Trial};
use crate::{
    mcp::{Era, INITIALIZED, MODERN_VERSION, initialize_params},
    upstream::stdio::{
        call::Item,
        child::Child,
        error::{Gone, StdioError},
        message::{self, Message},
        params::{self, Schemas},
    },
};

/// A child that many use, started once for all who wait.
#[derive(Debug)]
pub(super) struct Slot<T> {
    now: Mutex<Option<Arc<T>>>,
    pub(super) starting: Arc<tokio::sync::Mutex<()>>,
}

/// The child of modern calls.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Modern {
    pub(in crate::upstream::stdio) child: Arc<Child>,
    /// The revisions that it speaks.
    pub(in crate::upstream::stdio) versions: Vec<String>,
    pub(in crate::upstream::stdio) schemas: Schemas,
}

/// The child of all legacy sessions.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Shared {
    pub(in crate::upstream::stdio) child: Arc<Child>,
    /// The answer to its `initialize`.
    pub(in crate::upstream::stdio) answer: Bytes,
}

/// How long the verdict "legacy only" holds: the command may be upgraded beneath us.
const VERDICT: Duration = Duration::from_secs(600);

impl Pool {
    /// The child that all legacy sessions share.
    pub(in crate::upstream::stdio) async fn shared(
        self: &Arc<Self>,
    ) -> Result<Arc<Shared>, StdioError> {
        if let Some(shared) = self.shared.get(|s| s.child.is_open()) {
            return Ok(shared);
        }
        let turn = self.shared.starting.clone().lock_owned().await;
        if let Some(shared) = self.shared.get(|s| s.child.is_open()) {
            return Ok(shared);
        }
        let pool = self.clone();
        let start = async move {
            let _turn = turn;
            pool.start_shared().await
        };
        self.to_its_end(start).await
    }

    async fn start_shared(self: &Arc<Self>) -> Result<Arc<Shared>, StdioError> {
        let child = self.start("shared", Era::Legacy, true).await?;
        let mut trial = Trial(Some(child.clone()));
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}}"#,
            initialize_params()
        );
        let lease = self.question(&child, request)?;
        let answer = self
            .greet(&child, lease)
            .await
            .and_then(|item| match item.answer {
                Some(None) => Ok(item),
                _ => Err(StdioError::Gone {
                    how: Gone::Stopped,
                    sent: true,
                }),
            })
            .inspect_err(|_| self.failed())?;
        self.came_up();
        let answer = Bytes::from(answer.message.into_parts().concat());
        let ready = format!(r#"{{"jsonrpc":"2.0","method":"{INITIALIZED}"}}"#);
        child.tell(Message::One(Bytes::from(ready)))?;
        trial.0 = None;
        Ok(self.shared.set(Shared { child, answer }))
    }

    /// Runs a start to its end, whether or not the one who began it stays: others wait for it, or will.
    async fn to_its_end<T: Send + 'static>(
        &self,
        start: impl Future<Output = Result<T, StdioError>> + Send + 'static,
    ) -> Result<T, StdioError> {
        let done = self.tasks.spawn(start).await;
        done.unwrap_or(Err(StdioError::Closing))
    }

    /// The child of modern calls.
    pub(in crate::upstream::stdio) async fn modern(
        self: &Arc<Self>,
    ) -> Result<Arc<Modern>, StdioError> {
        if let Some(modern) = self.modern.get(|m| m.child.is_open()) {
            return Ok(modern);
        }
        let turn = self.modern.starting.clone().lock_owned().await;
        if let Some(modern) = self.modern.get(|m| m.child.is_open()) {
            return Ok(modern);
        }
        let pool = self.clone();
        let start = async move {
            let _turn = turn;
            pool.start_modern().await
        };
        self.to_its_end(start).await
    }

    async fn start_modern(self: &Arc<Self>) -> Result<Arc<Modern>, StdioError> {
        let verdict = self.state().legacy_until;
        if verdict.is_some_and(|until| until > Instant::now()) {
            return Err(StdioError::LegacyServer);
        }
        let known = self.modern.get(|_| true).is_some();
        let child = self.start("modern", Era::Modern, true).await?;
        let mut trial = Trial(Some(child.clone()));
        // What speaks the modern era answers this; what exits, or answers otherwise, speaks the legacy one.
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{META}}}"#,
            META = params::meta()
        );
        let lease = self.question(&child, request)?;
        let versions = match self.greet(&child, lease).await {
            Ok(item) => versions(&item),
            Err(StdioError::Gone { .. } | StdioError::Handshake { .. }) if !known => None,
            // It has spoken the modern era before: now it does not come up.
            Err(error) => {
                self.failed();
                return Err(error.unsent());
            }
        };
        let Some(versions) = versions else {
            self.state().legacy_until = Some(Instant::now() + VERDICT);
            return Err(StdioError::LegacyServer);
        };
        self.came_up();
        trial.0 = None;
        Ok(self.modern.set(Modern {
            child,
            versions,
            schemas: Schemas::default(),
        }))
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            now: Mutex::new(None),
            starting: Arc::default(),
        }
    }
}

impl<T> Slot<T> {
    pub(super) fn get(&self, usable: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone().filter(|t| usable(t))
    }

    pub(super) fn set(&self, value: T) -> Arc<T> {
        let value = Arc::new(value);
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        value
    }
}

/// The revisions in the answer to `server/discover`, if it is one of the modern era.
fn versions(item: &Item) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Discovered {
        #[serde(rename = "supportedVersions")]
        supported: Vec<String>,
    }
    match item.answer? {
        None => {
            let text = item.message.clone().into_parts().concat();
            let result = message::result(std::str::from_utf8(&text).ok()?)?;
            let found: Discovered = serde_json::from_str(result).ok()?;
            Some(found.supported)
        }
        Some(-32022..=-32020) => Some(vec![MODERN_VERSION.to_owned()]),
        Some(_) => None,
    }
}
