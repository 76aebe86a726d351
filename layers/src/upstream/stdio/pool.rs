//! Children and sessions: who has which, when they start, and when they end.

mod backoff;
mod common;
mod start;
mod sweep;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::common::{Modern, Shared};
use self::{backoff::Backoff, common::Slot};
use super::{
    child::Child,
    error::StdioError,
    meters::Meters,
    session::Session,
    settings::{Isolation, StdioSettings},
};
use crate::metrics::UpWhile;

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
    backoff: Backoff,
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

    /// How long no child is to be started, if so.
    pub(super) fn backoff(&self) -> Option<Duration> {
        self.state().backoff.left(Instant::now())
    }

    /// A child has come up.
    fn came_up(&self) {
        self.state().backoff.came_up();
    }

    /// A child could not be started, or did not come up.
    fn failed(&self) {
        let mut state = self.state();
        state.backoff.failed(Instant::now(), fastrand::f64());
        // That it did not answer as a modern server does says nothing, if it does not answer as a legacy one either.
        state.legacy_until = None;
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
