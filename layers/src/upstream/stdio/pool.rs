//! Children and sessions: who has which, when they start, and when they end.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Extensions;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    call::{Call, Item},
    child::{Child, Lease, Origin},
    error::StdioError,
    message::{self, Message},
    meters::Meters,
    params::Schemas,
    session::Session,
    settings::{Isolation, StdioSettings},
};
use crate::{
    mcp::{Era, INITIALIZED, MODERN_VERSION, envelope, initialize_params},
    metrics::UpWhile,
};

/// Everything that belongs to one stdio upstream.
pub(super) struct Pool {
    pub(super) settings: Arc<StdioSettings>,
    pub(super) meters: Arc<Meters>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    closing: CancellationToken,
    state: Mutex<State>,
    modern: Slot<Modern>,
    shared: Slot<Shared>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Box<str>, Place>,
    children: Vec<Weak<Child>>,
    failures: u32,
    not_before: Option<Instant>,
    /// The command is known to speak the legacy era only, until then.
    legacy_until: Option<Instant>,
    sweeping: bool,
}

/// A session and the child that it is with.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) session: Arc<Session>,
    pub(super) child: Arc<Child>,
}

/// A child that many use, started once for all who wait.
#[derive(Debug)]
struct Slot<T> {
    now: Mutex<Option<Arc<T>>>,
    starting: Arc<tokio::sync::Mutex<()>>,
}

/// The child of modern calls.
#[derive(Debug)]
pub(super) struct Modern {
    pub(super) child: Arc<Child>,
    /// The revisions that it speaks.
    pub(super) versions: Vec<String>,
    pub(super) schemas: Schemas,
}

/// The child of all legacy sessions.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) child: Arc<Child>,
    /// The answer to its `initialize`.
    pub(super) answer: Bytes,
}

/// Stops a child that is dropped before it is known to be of use.
struct Trial(Option<Arc<Child>>);

/// How long the verdict "legacy only" holds: the command may be upgraded beneath us.
const VERDICT: Duration = Duration::from_secs(600);

/// Without the sessions, whose ids are secrets.
impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(settings: StdioSettings) -> Self {
        let most = settings.max_children.get().min(Semaphore::MAX_PERMITS);
        Self {
            meters: Arc::new(Meters::new(&settings.name)),
            settings: Arc::new(settings),
            places: Arc::new(Semaphore::new(most)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            state: Mutex::default(),
            modern: Slot::default(),
            shared: Slot::default(),
        }
    }

    /// The session of this id, if it lives.
    pub(super) fn session(&self, id: &str) -> Result<Place, StdioError> {
        let mut state = self.state();
        let place = state
            .sessions
            .get(id)
            .cloned()
            .ok_or(StdioError::SessionGone)?;
        if place.session.is_ended() || !place.child.is_open() {
            state.sessions.remove(id);
            drop(state);
            self.meters.evict("exit");
            return Err(StdioError::SessionGone);
        }
        Ok(place)
    }

    /// Begins a session with a child that has answered `initialize`.
    pub(super) fn begin(self: &Arc<Self>, child: &Arc<Child>) -> Result<Place, StdioError> {
        let limit = self.settings.max_sessions.get();
        let mut state = self.state();
        if state.sessions.len() >= limit {
            return Err(StdioError::Full {
                limit,
                what: "sessions",
            });
        }
        let id: Box<str> = random_id().into();
        let session = Arc::new(Session::new(
            id.clone(),
            UpWhile::new(&self.meters.sessions),
        ));
        let place = Place {
            session,
            child: child.clone(),
        };
        state.sessions.insert(id, place.clone());
        drop(state);
        let joined = place.child.join(place.session.clone());
        if let Err(error) = joined {
            self.state().sessions.remove(&place.session.id);
            return Err(error);
        }
        Ok(place)
    }

    /// Ends a session: on DELETE without a `reason`, else for it.
    pub(super) fn end(&self, place: &Place, reason: Option<&'static str>) {
        if self.state().sessions.remove(&place.session.id).is_none() {
            return;
        }
        if let Some(reason) = reason {
            self.meters.evict(reason);
        }
        place.child.leave(&place.session);
        place.session.end();
        if self.settings.isolation == Isolation::PerSession {
            place.child.stop(reason.unwrap_or("delete"));
        }
    }

    /// A child for one session; the client's own `initialize` is its first request. Returns the answer.
    pub(super) async fn initialize(
        self: &Arc<Self>,
        body: &Bytes,
        facts: &crate::mcp::MessageFacts,
        mut extensions: Extensions,
    ) -> Result<(Arc<Child>, Item), StdioError> {
        let child = self.start("session", Era::Legacy, false).await?;
        let mut trial = Trial(Some(child.clone()));
        let call = Arc::new(Call::new(1, self.settings.buffer));
        let lease = child.call(body, &[facts], call, &Origin::default(), &mut extensions)?;
        let item = self
            .greet(&child, lease)
            .await
            .inspect_err(|_| self.failed())?;
        self.came_up();
        if matches!(item.answer, Some(None)) {
            trial.0 = None;
        }
        Ok((child, item))
    }

    /// The child that all legacy sessions share.
    pub(super) async fn shared(self: &Arc<Self>) -> Result<Arc<Shared>, StdioError> {
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
                    how: super::error::Gone::Stopped,
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
    pub(super) async fn modern(self: &Arc<Self>) -> Result<Arc<Modern>, StdioError> {
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
            META = super::params::meta()
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

    /// Asks a child something on the proxy's own account.
    pub(super) async fn ask(
        &self,
        child: &Arc<Child>,
        request: String,
        limit: Duration,
    ) -> Result<Item, StdioError> {
        let lease = self.question(child, request)?;
        self.answer(&lease, limit).await
    }

    fn question(&self, child: &Arc<Child>, request: String) -> Result<Lease, StdioError> {
        let body = Bytes::from(request);
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let facts =
            envelope::read_message(text, 0).map_err(|_| StdioError::Misplaced("not a message"))?;
        let call = Arc::new(Call::new(1, self.settings.buffer));
        let origin = Origin {
            session: None,
            own: true,
        };
        child.call(&body, &[&facts], call, &origin, &mut Extensions::new())
    }

    /// Waits for a new child's first answer.
    async fn greet(&self, child: &Child, lease: Lease) -> Result<Item, StdioError> {
        let began = Instant::now();
        let answer = self.answer(&lease, self.settings.handshake).await;
        let took = began.elapsed().as_secs_f64();
        self.meters.handshake_time.record(took);
        match &answer {
            Ok(_) => child.ready(),
            Err(StdioError::Handshake { .. }) => self.meters.handshake_timeouts.increment(1),
            Err(_) => {}
        }
        answer
    }

    async fn answer(&self, lease: &Lease, limit: Duration) -> Result<Item, StdioError> {
        let answer = async {
            loop {
                match poll_fn(|cx| lease.call.poll_next(cx)).await {
                    Some(Ok(item)) if item.answer.is_none() => {}
                    Some(result) => return result,
                    None => return Err(StdioError::Closing),
                }
            }
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or(Err(StdioError::Handshake { limit }))
    }

    /// Starts a child, if there is room and it is not to be left alone for a while.
    async fn start(
        self: &Arc<Self>,
        reason: &'static str,
        era: Era,
        shared: bool,
    ) -> Result<Arc<Child>, StdioError> {
        if self.closing.is_cancelled() {
            return Err(StdioError::Closing);
        }
        self.sweep_from_now_on();
        if let Some(again) = self.backoff() {
            return Err(StdioError::Backoff { again });
        }
        let place = self.place().await?;
        self.meters.spawn(reason);
        let child = Child::start(
            &self.settings,
            &self.meters,
            era,
            shared,
            &self.tasks,
            place,
        )
        .inspect_err(|_| self.failed())?;
        let mut state = self.state();
        state.children.retain(|c| c.strong_count() > 0);
        state.children.push(Arc::downgrade(&child));
        drop(state);
        // Whoever closes stops those that are listed; it may have looked just before.
        if self.closing.is_cancelled() {
            child.stop("drain");
            return Err(StdioError::Closing);
        }
        Ok(child)
    }

    /// A place for a child. One that is on its way out is waited for.
    async fn place(&self) -> Result<OwnedSemaphorePermit, StdioError> {
        const GRACE: Duration = Duration::from_secs(1);
        let places = self.places.clone();
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let limit = self.settings.max_children.get();
        let full = StdioError::Full {
            limit,
            what: "server processes",
        };
        if !self.children().iter().any(|c| c.is_leaving()) {
            return Err(full);
        }
        let steps = self.settings.stop;
        let leaving = steps.stdin + steps.term + GRACE;
        match tokio::time::timeout(leaving, places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(full),
        }
    }

    /// How long no child is to be started, if so.
    pub(super) fn backoff(&self) -> Option<Duration> {
        let until = self.state().not_before?;
        until
            .checked_duration_since(Instant::now())
            .filter(|d| !d.is_zero())
    }

    /// A child has come up.
    fn came_up(&self) {
        let mut state = self.state();
        state.failures = 0;
        state.not_before = None;
    }

    /// A child could not be started, or did not come up: the next try comes later each time, with jitter.
    fn failed(&self) {
        const FIRST: f64 = 0.2;
        const MOST: f64 = 30.0;
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let most = (FIRST * 2_f64.powi(state.failures.min(20) as i32 - 1)).min(MOST);
        let wait = Duration::from_secs_f64(most * (0.5 + fastrand::f64() / 2.0));
        state.not_before = Some(Instant::now() + wait);
        // That it did not answer as a modern server does says nothing, if it does not answer as a legacy one either.
        state.legacy_until = None;
    }

    /// Ends what is idle or too old, for as long as the upstream is there.
    fn sweep_from_now_on(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state().sweeping, true) {
            return;
        }
        let every =
            (self.settings.idle / 8).clamp(Duration::from_millis(20), Duration::from_secs(15));
        let (pool, closing) = (Arc::downgrade(self), self.closing.clone());
        let meters = self.meters.clone();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = closing.cancelled() => break,
                    () = tokio::time::sleep(every) => {}
                }
                match pool.upgrade() {
                    Some(pool) => pool.sweep(),
                    None => break,
                }
            }
            meters.memory.set(0.0);
        });
    }

    fn sweep(&self) {
        let StdioSettings { idle, lifetime, .. } = *self.settings;
        let too_old = |age: Duration| lifetime.is_some_and(|most| age >= most);
        let places: Vec<Place> = self.state().sessions.values().cloned().collect();
        for place in places {
            let unused = place.session.idle();
            if place.session.is_ended() || !place.child.is_open() {
                self.end(&place, Some("exit"));
            } else if unused >= idle {
                self.end(&place, Some("idle"));
            } else if too_old(place.session.created.elapsed()) && !unused.is_zero() {
                self.end(&place, Some("lifetime"));
            }
        }
        let children = self.children();
        for child in &children {
            child.sweep();
            child.stop_unused(idle, lifetime);
        }
        let open = children.iter().filter(|c| c.is_open());
        let memory: u64 = open.filter_map(|c| resident(c.pid())).sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.meters.memory.set(memory as f64);
    }

    fn children(&self) -> Vec<Arc<Child>> {
        self.state()
            .children
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// What the children and sessions are, for an operator: no ids in full.
    pub(super) fn report(&self) -> Report {
        let children = self.children();
        let backoff = self.backoff();
        let state = self.state();
        let places = state.sessions.values();
        Report {
            children: children
                .iter()
                .filter(|c| c.is_open())
                .map(|c| c.pid())
                .collect(),
            sessions: state.sessions.len(),
            streams: places.filter(|place| place.session.has_stream()).count(),
            pending: children.iter().map(|c| c.pending()).sum(),
            backoff,
        }
    }

    /// Stops the child of this process id.
    pub(super) fn stop_child(&self, pid: i32) -> bool {
        let children = self.children();
        let child = children.iter().find(|c| c.is_open() && c.pid() == pid);
        if let Some(child) = child {
            child.stop("operator");
        }
        child.is_some()
    }

    /// Ends the standing streams of all sessions; their clients come back.
    pub(super) fn end_streams(&self) {
        let places: Vec<Place> = self.state().sessions.values().cloned().collect();
        for place in places {
            place.session.close_stream();
        }
    }

    /// Stops all children, and waits for their end.
    pub(super) async fn close(&self) {
        self.stop_all("drain");
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn stop_all(&self, reason: &'static str) {
        self.closing.cancel();
        for child in self.children() {
            child.stop(reason);
        }
        let places = std::mem::take(&mut self.state().sessions);
        for place in places.values() {
            let ended = place.session.is_ended();
            self.meters.evict(if ended { "exit" } else { reason });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an operator may know of a stdio upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The process ids of the children that work.
    pub children: Vec<i32>,
    /// How many sessions there are.
    pub sessions: usize,
    /// How many of them have their standing stream open.
    pub streams: usize,
    /// How many requests have no answer yet.
    pub pending: usize,
    /// How long no child will be started, after one failed to start.
    pub backoff: Option<Duration>,
}

impl Drop for Pool {
    /// The supervisors go on for as long as stopping takes, and then end by themselves.
    fn drop(&mut self) {
        self.stop_all("drain");
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            child.stop("refused");
        }
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
    fn get(&self, usable: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone().filter(|t| usable(t))
    }

    fn set(&self, value: T) -> Arc<T> {
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

/// 128 random bits from the system, as text.
fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(got) => filled += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system gives no random numbers: {error}"),
        }
    }
    format!("{:032x}", u128::from_ne_bytes(bytes))
}

/// The resident memory of a process in bytes, where the system has /proc.
fn resident(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
