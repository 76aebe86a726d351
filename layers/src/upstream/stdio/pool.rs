//! Children and sessions: who has which, when they start, and when they end.

mod ahead;
mod backoff;
mod common;
mod keeper;
mod seats;
mod snapshot;
mod start;
mod swift;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    ahead::Ahead, backoff::Backoff, common::Bench, seats::Seats, snapshot::Snapshots, start::Need,
};
pub(super) use self::{
    common::{Modern, Shared, Way, Who},
    seats::Seat,
    snapshot::Key,
};
use super::{
    child::{self, Child, ChildReport, Stage},
    error::StdioError,
    meters::Meters,
    session::Session,
    settings::StdioSettings,
};
use crate::metrics::UpWhile;

/// Everything that belongs to one stdio upstream.
pub(super) struct Pool {
    settings: ArcSwap<StdioSettings>,
    /// What its children have of it.
    common: child::Common,
    seats: Arc<Seats>,
    closing: CancellationToken,
    state: Mutex<State>,
    snapshots: Mutex<Snapshots>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Box<str>, Place>,
    children: Vec<Weak<Child>>,
    /// The children that many use: of everybody, or of each principal.
    benches: HashMap<Who, Arc<Bench>>,
    backoff: Backoff,
    /// What is started ahead of need.
    ahead: Ahead,
    /// The command is known to speak the legacy era only, until then.
    legacy_until: Option<Instant>,
    /// It has spoken the modern era.
    modern: bool,
    kept: bool,
    /// How many processes were started so far.
    started: u64,
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
        let wake = Arc::new(Notify::new());
        Self {
            common: child::Common {
                meters: Arc::new(Meters::new(&settings.name)),
                tasks: TaskTracker::new(),
                wake: wake.clone(),
            },
            settings: ArcSwap::from_pointee(settings),
            seats: Seats::new(wake),
            closing: CancellationToken::new(),
            state: Mutex::default(),
            snapshots: Mutex::default(),
        }
    }

    /// The settings as they are now.
    pub(super) fn settings(&self) -> Arc<StdioSettings> {
        self.settings.load_full()
    }

    /// Other settings for the same process.
    pub(super) fn set(&self, settings: StdioSettings) {
        let settings = settings.of(&self.settings());
        self.settings.store(Arc::new(settings));
        self.common.wake.notify_one();
        self.seats.tell();
    }

    fn meters(&self) -> &Meters {
        &self.common.meters
    }

    /// The session of this id, if it lives and is this client's.
    pub(super) fn session(
        &self,
        id: &str,
        principal: Option<&Arc<str>>,
    ) -> Result<Place, StdioError> {
        let place = self.state().sessions.get(id).cloned();
        // Somebody else's is told from none at all by nobody.
        let place = place
            .filter(|place| place.session.principal.as_ref() == principal)
            .ok_or(StdioError::SessionGone)?;
        if place.session.is_ended() || !place.child.is_open() {
            if self.state().sessions.remove(id).is_some() {
                self.meters().evict("exit");
            }
            return Err(StdioError::SessionGone);
        }
        Ok(place)
    }

    /// Begins a session with a child that has answered `initialize` (`up`), or is about to.
    pub(super) fn begin(
        &self,
        child: &Arc<Child>,
        principal: Option<Arc<str>>,
        up: bool,
    ) -> Result<Place, StdioError> {
        let limit = self.settings().max_sessions.get();
        // Let go of when the state is free again.
        let ended: Vec<_>;
        let mut state = self.state();
        if state.sessions.len() >= limit {
            let sessions = &mut state.sessions;
            ended = sessions
                .extract_if(|_, place| place.session.is_ended())
                .collect();
            ended.iter().for_each(|_| self.meters().evict("exit"));
        }
        if state.sessions.len() >= limit {
            return Err(StdioError::Full {
                limit,
                what: "sessions",
            });
        }
        let id: Box<str> = random_id().into();
        let gauge = UpWhile::new(&self.meters().sessions);
        let session = Arc::new(Session::new(id.clone(), principal, up, gauge));
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
        if up {
            place.child.ready();
        }
        Ok(place)
    }

    /// Ends a session: on DELETE without a `reason`, else for it.
    pub(super) fn end(&self, place: &Place, reason: Option<&'static str>) {
        if self.state().sessions.remove(&place.session.id).is_none() {
            return;
        }
        if let Some(reason) = reason {
            self.meters().evict(reason);
        }
        place.child.leave(&place.session);
        place.session.end();
        if !place.child.is_shared() {
            place.child.stop(reason.unwrap_or("delete"));
        }
    }

    /// How long no child is to be started, if so.
    pub(super) fn backoff(&self) -> Option<Duration> {
        self.state().backoff.left(Instant::now())
    }

    /// A child has come up. Where nobody waited for it, that says nothing of whether it will stay: the pause of what is started ahead stands.
    fn came_up(&self, need: Need) {
        let mut state = self.state();
        state.backoff.came_up();
        if need == Need::Now {
            state.ahead.backoff.came_up();
        }
    }

    /// A child could not be started, or did not come up.
    fn failed(&self) {
        let mut state = self.state();
        state.backoff.failed(Instant::now(), fastrand::f64());
        // That it did not answer as a modern server does says nothing, if it does not answer as a legacy one either.
        state.legacy_until = None;
    }

    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        let children: Vec<_> = children.iter().filter_map(|c| c.report()).collect();
        let count = |state| children.iter().filter(|c| c.state == state).count();
        let states = Stage::ALL.map(Stage::as_str);
        let state = self.state();
        let places = state.sessions.values();
        Report {
            states: states.map(|state| (state, count(state))),
            sessions: state.sessions.len(),
            streams: places.filter(|place| place.session.has_stream()).count(),
            pending: children.iter().map(|c| c.pending).sum(),
            backoff: state.backoff.left(Instant::now()),
            started: state.started,
            children,
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
        self.common.tasks.close();
        self.common.tasks.wait().await;
    }

    /// Stops all children, and starts no other.
    pub(super) fn stop_all(&self, reason: &'static str) {
        self.closing.cancel();
        for child in self.children() {
            child.stop(reason);
        }
        let places = std::mem::take(&mut self.state().sessions);
        for place in places.values() {
            let ended = place.session.is_ended();
            self.meters().evict(if ended { "exit" } else { reason });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an operator may know of a stdio upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The children whose process, or group, is not gone.
    pub children: Vec<ChildReport>,
    /// How many children are in each state: `starting`, `warm`, `idle`, `leased`, `stopping`.
    pub states: [(&'static str, usize); 5],
    /// How many sessions there are.
    pub sessions: usize,
    /// How many of them have their standing stream open.
    pub streams: usize,
    /// How many requests have no answer yet.
    pub pending: usize,
    /// How long no child will be started, after one failed to start.
    pub backoff: Option<Duration>,
    /// How many processes were started so far.
    pub started: u64,
}

impl Report {
    /// The process ids of the children that work.
    pub fn pids(&self) -> Vec<i32> {
        let working = self.children.iter().filter(|c| c.is_working());
        working.map(|c| c.pid).collect()
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
