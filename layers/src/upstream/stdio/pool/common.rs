//! Children that many use: the one of legacy sessions and the one of modern calls, of everybody or of a principal. Each is started once for all
//! who wait.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Pool,
    start::{Need, Start},
};
use crate::{
    mcp::{Era, INITIALIZED, MODERN_VERSION, initialize_params},
    upstream::stdio::{
        call::Item,
        child::{Child, Role},
        error::{Gone, StdioError},
        message::{self, Message},
        params::{self, Schemas},
        settings::Isolation,
    },
};

/// Whose children they are: a principal's, or everybody's.
pub(in crate::upstream::stdio) type Who = Option<Arc<str>>;

/// The children that somebody's sessions and calls share.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) who: Who,
    pub(super) legacy: Slot<Shared>,
    pub(super) modern: Slot<Modern>,
}

/// A child that many use, started once for all who wait.
#[derive(Debug)]
pub(super) struct Slot<T> {
    now: Mutex<Option<Arc<T>>>,
    pub(super) starting: Arc<tokio::sync::Mutex<()>>,
}

/// What is known of a child that many use.
pub(super) trait Many {
    fn child(&self) -> &Arc<Child>;
}

/// The child of modern calls.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Modern {
    pub(in crate::upstream::stdio) child: Arc<Child>,
    /// The revisions that it speaks.
    pub(in crate::upstream::stdio) versions: Vec<String>,
    pub(in crate::upstream::stdio) schemas: Schemas,
}

/// The child of legacy sessions that are not alone.
#[derive(Debug)]
pub(in crate::upstream::stdio) struct Shared {
    pub(in crate::upstream::stdio) child: Arc<Child>,
    /// The answer to its `initialize`.
    pub(in crate::upstream::stdio) answer: Bytes,
}

/// The child of a legacy session.
pub(in crate::upstream::stdio) enum Way {
    /// One of its own.
    Own,
    /// One that it shares.
    Shared(Who),
}

/// How long the verdict that a server speaks one era only holds: the command may be upgraded beneath us.
const VERDICT: Duration = Duration::from_secs(600);

/// A server that answers the proxy's own greeting otherwise than it should; it is ended.
const UNGREETED: StdioError = StdioError::Gone {
    how: Gone::Ungreeted,
    sent: false,
};

impl Pool {
    /// Which child the sessions of this client get.
    pub(in crate::upstream::stdio) fn way(&self, principal: Option<&Arc<str>>) -> Way {
        match (self.settings().isolation, principal) {
            (Isolation::PerSession, _) | (Isolation::PerPrincipal, None) => Way::Own,
            (Isolation::Shared, _) => Way::Shared(None),
            (Isolation::PerPrincipal, Some(principal)) => Way::Shared(Some(principal.clone())),
        }
    }

    /// The children of somebody.
    pub(super) fn bench(&self, who: Who) -> Result<Arc<Bench>, StdioError> {
        let limit = self.settings().max_sessions.get();
        let mut state = self.state();
        if let Some(bench) = state.benches.get(&who) {
            return Ok(bench.clone());
        }
        if state.benches.len() >= limit {
            state.benches.retain(|_, bench| bench.is_used());
        }
        if state.benches.len() >= limit {
            return Err(StdioError::Full {
                limit,
                what: "principals",
            });
        }
        let bench = Arc::new(Bench {
            who: who.clone(),
            legacy: Slot::default(),
            modern: Slot::default(),
        });
        state.benches.insert(who, bench.clone());
        Ok(bench)
    }

    /// The child that legacy sessions share: all of them, or a principal's.
    pub(in crate::upstream::stdio) async fn shared(
        self: &Arc<Self>,
        who: Who,
    ) -> Result<Arc<Shared>, StdioError> {
        let bench = self.bench(who)?;
        if let Some(shared) = bench.legacy.open() {
            return Ok(shared);
        }
        let turn = bench.legacy.starting.clone().lock_owned().await;
        if let Some(shared) = bench.legacy.open() {
            return Ok(shared);
        }
        let pool = self.clone();
        let start = async move {
            let _turn = turn;
            pool.start_shared(&bench, Need::Now).await
        };
        self.to_its_end(start).await
    }

    /// Starts that child, whose turn the caller has. Of what fails here nothing was a client's.
    pub(super) async fn start_shared(
        self: &Arc<Self>,
        bench: &Bench,
        need: Need,
    ) -> Result<Arc<Shared>, StdioError> {
        let greeted = self.greet_shared(bench, need).await;
        greeted.map_err(StdioError::unsent)
    }

    async fn greet_shared(
        self: &Arc<Self>,
        bench: &Bench,
        need: Need,
    ) -> Result<Arc<Shared>, StdioError> {
        let what = Start {
            reason: if bench.who.is_some() {
                "principal"
            } else {
                "shared"
            },
            role: Role {
                era: Era::Legacy,
                shared: true,
            },
            need,
        };
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}}"#,
            initialize_params()
        );
        let first = self
            .come_up(&what, |child| self.question(child, request.clone()))
            .await;
        let (mut trial, item) = first.inspect_err(|error| self.mishap(error, need))?;
        if item.answer != Some(None) {
            self.mishap(&UNGREETED, need);
            if need == Need::Ahead {
                self.state().ahead.no_legacy_until = Some(Instant::now() + VERDICT);
            }
            return Err(UNGREETED);
        }
        self.came_up(need);
        let answer = Bytes::from(item.message.into_parts().concat());
        let ready = format!(r#"{{"jsonrpc":"2.0","method":"{INITIALIZED}"}}"#);
        trial.child.tell(Message::One(Bytes::from(ready)))?;
        let child = trial.keep();
        Ok(bench.legacy.set(Shared { child, answer }))
    }

    /// Runs a start to its end, whether or not the one who began it stays: others wait for it, or will.
    async fn to_its_end<T: Send + 'static>(
        &self,
        start: impl Future<Output = Result<T, StdioError>> + Send + 'static,
    ) -> Result<T, StdioError> {
        let done = self.common.tasks.spawn(start).await;
        done.unwrap_or(Err(StdioError::Closing))
    }

    /// The child of this client's modern calls: everybody's, but with [`Isolation::PerPrincipal`].
    pub(in crate::upstream::stdio) async fn modern(
        self: &Arc<Self>,
        principal: Option<&Arc<str>>,
    ) -> Result<Arc<Modern>, StdioError> {
        let own = self.settings().isolation == Isolation::PerPrincipal;
        let bench = self.bench(principal.filter(|_| own).cloned())?;
        if let Some(modern) = bench.modern.open() {
            return Ok(modern);
        }
        let turn = bench.modern.starting.clone().lock_owned().await;
        if let Some(modern) = bench.modern.open() {
            return Ok(modern);
        }
        let pool = self.clone();
        let start = async move {
            let _turn = turn;
            pool.start_modern(&bench, Need::Now).await
        };
        self.to_its_end(start).await
    }

    /// Starts that child, whose turn the caller has.
    pub(super) async fn start_modern(
        self: &Arc<Self>,
        bench: &Bench,
        need: Need,
    ) -> Result<Arc<Modern>, StdioError> {
        let verdict = self.state().legacy_until;
        if verdict.is_some_and(|until| until > Instant::now()) {
            return Err(StdioError::LegacyServer);
        }
        let what = Start {
            reason: "modern",
            role: Role {
                era: Era::Modern,
                shared: true,
            },
            need,
        };
        // What speaks the modern era answers this; what exits, or answers otherwise, speaks the legacy one.
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{META}}}"#,
            META = params::meta()
        );
        let first = self
            .come_up(&what, |child| self.question(child, request.clone()))
            .await;
        let (mut trial, item) = match first {
            Ok(greeted) => greeted,
            Err(error @ (StdioError::Gone { .. } | StdioError::Handshake { .. }))
                if !error.is_ours() =>
            {
                return Err(self.is_not_modern(error, false, need));
            }
            Err(error) => {
                self.mishap(&error, need);
                return Err(error.unsent());
            }
        };
        let Some(versions) = versions(&item) else {
            let denied = matches!(item.answer, Some(Some(-32602..=-32600)));
            return Err(self.is_not_modern(UNGREETED, denied, need));
        };
        self.came_up(need);
        self.speaks_modern();
        Ok(bench.modern.set(Modern {
            child: trial.keep(),
            versions,
            schemas: Schemas::default(),
        }))
    }

    fn speaks_modern(&self) {
        let mut state = self.state();
        state.modern = true;
        state.legacy_until = None;
    }

    /// A child did not answer as one of the modern era does: then the command speaks the legacy one. If it has spoken the modern era before,
    /// that is a mishap, unless it says itself that it knows no such request (`denied`).
    fn is_not_modern(&self, error: StdioError, denied: bool, need: Need) -> StdioError {
        let mut state = self.state();
        state.modern &= !denied;
        if !state.modern {
            state.legacy_until = Some(Instant::now() + VERDICT);
            return StdioError::LegacyServer;
        }
        drop(state);
        self.mishap(&error, need);
        error.unsent()
    }
}

impl Bench {
    /// Somebody has it in hand, or a child of it has not ended.
    pub(super) fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || self.legacy.is_used() || self.modern.is_used()
    }
}

impl Many for Modern {
    fn child(&self) -> &Arc<Child> {
        &self.child
    }
}

impl Many for Shared {
    fn child(&self) -> &Arc<Child> {
        &self.child
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

impl<T: Many> Slot<T> {
    /// The child, if it takes requests.
    pub(super) fn open(&self) -> Option<Arc<T>> {
        let now = self.now().clone();
        now.filter(|many| many.child().is_open())
    }

    /// Gives this child the place. It is nobody's until then, and not unused.
    fn set(&self, value: T) -> Arc<T> {
        let value = Arc::new(value);
        *self.now() = Some(value.clone());
        value.child().ready();
        value
    }

    /// Strikes off the child, and returns it, if it has ended or is about to.
    pub(super) fn take_ended(&self) -> Option<Arc<T>> {
        self.now().take_if(|many| many.child().has_ended())
    }

    /// There is a child, whether or not it takes requests.
    pub(super) fn is_taken(&self) -> bool {
        self.now().is_some()
    }

    fn is_used(&self) -> bool {
        self.now()
            .as_ref()
            .is_some_and(|many| many.child().stage().is_some())
    }

    fn now(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
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
