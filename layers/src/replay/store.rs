//! The streams of all sessions, and the tasks that read on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::metrics::{Counter, Gauge};
use foldhash::fast::RandomState;
use futures_util::future::poll_fn;
use tokio::{runtime::Handle, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    budget::Budget,
    id::{Kind, StreamId},
    stream::Stream,
};
use crate::{
    attempt::InSession,
    metrics::{UpWhile, counter, gauge, names},
};

/// Keeps the streams of all routes. Clones share them; with the last one (and the last response that is still read) everything ends.
#[derive(Debug, Clone)]
pub struct ReplayStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Nobody who holds it waits for a stream.
    table: Mutex<Table>,
    budget: Arc<Budget>,
    /// Owns them: they end with it.
    tasks: Mutex<JoinSet<()>>,
    detached: Gauge,
    replays: [(Outcome, Counter); 4],
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<u128, Kept, RandomState>,
}

/// The streams of one session.
#[derive(Debug)]
struct Kept {
    ended: CancellationToken,
    streams: Vec<Arc<Stream>>,
}

/// What became of a client that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Replayed,
    Gap,
    Lost,
    Complete,
}

/// The most streams of a session.
pub(super) const STREAMS: usize = 256;

// === impl ReplayStore ===

impl Default for ReplayStore {
    /// With the default limit.
    fn default() -> Self {
        Self::new(Self::LIMIT)
    }
}

impl ReplayStore {
    /// How many bytes are kept by default: 64 MiB.
    pub const LIMIT: usize = 64 << 20;

    /// An empty store that keeps no more bytes than this.
    pub fn new(limit: usize) -> Self {
        let outcome = |outcome: Outcome| {
            let labels = [("outcome", outcome.as_str())];
            (outcome, counter(names::REPLAYS, &labels))
        };
        let detached = gauge(names::REPLAY_DETACHED, &[]);
        detached.increment(0.0);
        Self {
            shared: Arc::new(Shared {
                table: Mutex::default(),
                budget: Arc::new(Budget::new(limit)),
                tasks: Mutex::default(),
                detached,
                replays: Outcome::ALL.map(outcome),
            }),
        }
    }

    /// Sets the limit anew; what is over it goes, the oldest first.
    pub fn set_limit(&self, limit: usize) {
        self.shared.budget.set_limit(limit);
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        self.shared.budget.held()
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let mut replays = self.shared.replays.iter();
        if let Some((_, counter)) = replays.find(|(one, _)| *one == outcome) {
            counter.increment(1);
        }
    }

    /// A number that no stream of this session has.
    pub(super) fn number(&self, serial: u128) -> u32 {
        let table = self.shared.table();
        let streams = table.sessions.get(&serial).map(|kept| &kept.streams);
        loop {
            let number = fastrand::u32(..);
            if !streams.is_some_and(|all| all.iter().any(|s| s.id.stream == number)) {
                return number;
            }
        }
    }

    /// Keeps a stream, unless its session is over.
    pub(super) fn add(&self, member: &InSession, stream: Arc<Stream>) {
        if member.ended.is_cancelled() {
            return stream.forget();
        }
        let mut table = self.shared.table();
        let kept = table.sessions.entry(member.serial).or_insert_with(|| Kept {
            ended: member.ended.clone(),
            streams: Vec::new(),
        });
        let mut gone = Vec::new();
        if kept.ended.is_cancelled() {
            // The session began anew; what it had is over.
            kept.ended = member.ended.clone();
            gone = std::mem::take(&mut kept.streams);
        }
        if kept.streams.len() >= STREAMS {
            let over = kept.streams.iter().position(|s| s.is_over());
            let at = over.unwrap_or_default();
            gone.push(kept.streams.remove(at));
        }
        kept.streams.push(stream);
        drop(table);
        gone.iter().for_each(|stream| stream.forget());
    }

    /// Lets go of what is over or too old. Somebody should ask for that about every second; without it, what is over stays until the limit is reached.
    pub fn sweep(&self) {
        self.shared.sweep();
    }

    /// The stream of this session with this id.
    pub(super) fn find(&self, serial: u128, id: &StreamId) -> Option<Arc<Stream>> {
        let table = self.shared.table();
        let mut streams = table.sessions.get(&serial)?.live()?.iter();
        let same = |s: &&Arc<Stream>| s.id.stream == id.stream && s.id.kind == id.kind;
        streams.find(same).cloned()
    }

    /// The newest standing stream of this session, if no client reads it.
    pub(super) fn unread(&self, serial: u128) -> Option<Arc<Stream>> {
        let table = self.shared.table();
        let mut streams = table.sessions.get(&serial)?.live()?.iter().rev();
        let newest = streams.find(|s| s.id.kind == Kind::Standing)?.clone();
        // Whoever reads it may have its lock for a while.
        drop(table);
        (!newest.look(0).read).then_some(newest)
    }

    /// The session is over.
    pub(super) fn forget(&self, serial: u128) {
        let gone = self.shared.table().sessions.remove(&serial);
        let streams = gone.map(|kept| kept.streams).unwrap_or_default();
        streams.iter().for_each(|stream| stream.forget());
    }

    /// Reads on in this turn, for a client that went away.
    pub(super) fn read_on(&self, stream: Arc<Stream>, turn: u64, limit: Duration) {
        let up = UpWhile::new(&self.shared.detached);
        let task = {
            let stream = stream.clone();
            async move {
                let read = poll_fn(|cx| stream.poll_on(cx, turn));
                tokio::select! {
                    _over = tokio::time::timeout(limit, read) => stream.stop(turn),
                    () = stream.ended.cancelled() => stream.forget(),
                }
                drop(up);
            }
        };
        if !self.spawn(task) {
            stream.stop(turn);
        }
    }

    /// Starts a task; not where there is no runtime any more.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let tasks = self.shared.tasks.lock();
        let mut tasks = tasks.unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &runtime);
        true
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) {
        let (now, mut gone) = (Instant::now(), Vec::new());
        let mut table = self.table();
        table.sessions.retain(|_, kept| {
            let ended = kept.ended.is_cancelled();
            kept.streams.retain(|stream| {
                let stays = !ended && stream.is_wanted(now);
                if !stays {
                    gone.push(stream.clone());
                }
                stays
            });
            !kept.streams.is_empty()
        });
        drop(table);
        gone.iter().for_each(|stream| stream.forget());
        self.budget.sweep();
    }
}

impl Kept {
    fn live(&self) -> Option<&Vec<Arc<Stream>>> {
        (!self.ended.is_cancelled()).then_some(&self.streams)
    }
}

// === impl Outcome ===

impl Outcome {
    const ALL: [Self; 4] = [Self::Replayed, Self::Gap, Self::Lost, Self::Complete];

    fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Gap => "gap",
            Self::Lost => "lost",
            Self::Complete => "complete",
        }
    }
}
