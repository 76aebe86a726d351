//! Exchanges that wait for an operator: bounded in number and in time.

mod mask;

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

use super::{Block, Context, Direction, Message, NotChanged, PauseFull, chain::Stage};
use crate::{
    exchange::Exchange,
    mcp::{Id, ShortText},
    metrics::{UpWhile, gauge, names},
};

/// How long an exchange may wait, and what happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseSettings {
    /// The longest wait.
    pub limit: Duration,
    /// What happens when it is over, or when the proxy shuts down.
    pub then: AtLimit,
}

/// What becomes of an exchange about which nobody decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AtLimit {
    /// It is blocked.
    #[default]
    Block,
    /// It goes on.
    Resume,
}

/// What an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It goes on as it is.
    Resume,
    /// It goes on with this text in the place of the message.
    ResumeWith(String),
    /// It is refused.
    Block(Block),
}

/// A decision that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    /// There is no such exchange, or not any more.
    #[error("no exchange waits under this number")]
    Gone,
    /// It cannot go on with this message. It still waits.
    #[error("it cannot go on so, and still waits: {0}")]
    Unfit(NotChanged),
    /// A mask stands in its message, and hides nothing there. It still waits.
    #[error(
        "it cannot go on so, and still waits: `***` stands where no secret was, or in a list of another length: write what belongs there"
    )]
    Masked,
}

/// The exchanges that wait. Clones are the same place; it outlives the layers that use it.
#[derive(Debug, Clone)]
pub struct Paused {
    shared: Arc<Shared>,
}

/// One exchange that waits.
#[derive(Debug, Clone)]
pub struct PausedExchange {
    /// Its number, for a decision.
    pub id: u64,
    /// Who had it wait.
    pub by: String,
    /// The route.
    pub route: String,
    /// The request's id.
    pub request_id: String,
    /// Whether it waits on its way in or out.
    pub direction: Direction,
    /// The method: of MCP, or of HTTP where there is no message.
    pub method: String,
    /// The tool, prompt or resource.
    pub name: Option<String>,
    /// How long it has waited.
    pub waited: Duration,
    /// How long it still will.
    pub left: Duration,
    /// What happens then.
    pub then: AtLimit,
}

/// What is kept of an exchange while it waits.
pub(super) struct Snapshot {
    shown: PausedExchange,
    /// The session, and the request in it, that its client may take back.
    request: Option<(ShortText, Id)>,
    message: Option<Arc<Message>>,
}

struct Shared {
    most: usize,
    places: Mutex<Places>,
    /// The places of those that only take their time.
    delays: Semaphore,
    /// Turns true on shutdown.
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct Places {
    newest: u64,
    closed: bool,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    decide: oneshot::Sender<Resolution>,
    snapshot: Snapshot,
    since: Instant,
    until: Instant,
}

/// A place; given back when this is dropped, also with an exchange whose client went away.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
    _counted: UpWhile,
}

// === impl PauseSettings ===

impl PauseSettings {
    /// The longest wait, whatever is asked for.
    pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
}

// === impl Paused ===

impl Paused {
    /// The most exchanges that wait at once, unless said otherwise.
    pub const MOST: usize = 100;

    /// The most exchanges that are delayed at once.
    pub const DELAYED: usize = 1000;

    /// A place where so many exchanges may wait for a decision.
    pub fn new(most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                most,
                places: Mutex::default(),
                delays: Semaphore::new(Self::DELAYED),
                closed: watch::Sender::new(false),
            }),
        }
    }

    /// Those that wait, the oldest first.
    pub fn list(&self) -> Vec<PausedExchange> {
        let now = Instant::now();
        let places = self.shared.places();
        let all = places.waiting.iter();
        all.map(|(id, waiting)| waiting.shown(*id, now)).collect()
    }

    /// Those that wait, the oldest first, each with its message: what looks like a secret is masked in it, and of one that is not JSON, or longer than
    /// 64 KiB, only the length is told.
    pub fn all(&self) -> Vec<(PausedExchange, Option<Value>)> {
        let now = Instant::now();
        let all: Vec<_> = {
            let places = self.shared.places();
            let all = places.waiting.iter();
            all.map(|(id, waiting)| (waiting.shown(*id, now), waiting.snapshot.message.clone()))
                .collect()
        };
        let show = |message: Arc<Message>| mask::masked(message.bytes());
        all.into_iter()
            .map(|(shown, message)| (shown, message.map(show)))
            .collect()
    }

    /// Decides about one that waits. In a message that it should go on with, what [`all`](Self::all) masks in its own may stand masked.
    ///
    /// # Errors
    /// When it does not wait (any more), or cannot go on with the message that it should; then it still waits.
    pub fn decide(&self, id: u64, mut resolution: Resolution) -> Result<(), NotDecided> {
        if let Resolution::ResumeWith(text) = &mut resolution {
            let message = {
                let places = self.shared.places();
                let waiting = places.waiting.get(&id).ok_or(NotDecided::Gone)?;
                waiting.snapshot.message.clone()
            };
            let message = message.ok_or_else(|| NotChanged::Unreadable("it has none".to_owned()));
            let message = message.map_err(NotDecided::Unfit)?;
            let back = mask::unmasked(message.bytes(), mem::take(text));
            *text = back.map_err(|_left| NotDecided::Masked)?;
            message.check(text).map_err(NotDecided::Unfit)?;
        }
        let waiting = self.shared.places().waiting.remove(&id);
        let decide = waiting.ok_or(NotDecided::Gone)?.decide;
        decide.send(resolution).map_err(|_gone| NotDecided::Gone)
    }

    /// Ends the wait of what the client takes back with this exchange, by a `notifications/cancelled` in the same session: an operator may let it go on much later.
    pub(super) fn heed(&self, exchange: &Exchange) {
        let Some((call, session)) = exchange
            .asked()
            .and_then(|c| Some((c, c.session.as_ref()?)))
        else {
            return;
        };
        let ids = call.messages().iter();
        let ids = ids.filter_map(|message| message.cancels.as_ref());
        for (id, _) in ids {
            let taken = self.shared.places().take_back(session, id);
            for waiting in taken {
                let message = "the client took the call back".to_owned();
                let _gone = waiting.decide.send(Resolution::Block(Block { message }));
            }
        }
    }

    /// From now on nobody waits: for a shutdown. Those who do, and those who would, go by what their time limit says; delays end.
    pub fn close(&self) {
        let waiting = {
            let mut places = self.shared.places();
            places.closed = true;
            mem::take(&mut places.waiting)
        };
        drop(waiting);
        self.shared.closed.send_replace(true);
    }

    /// Waits for so long, or until a shutdown.
    pub(super) async fn delay(&self, time: Duration) -> Result<(), PauseFull> {
        let Ok(_place) = self.shared.delays.try_acquire() else {
            return Err(PauseFull {
                most: Self::DELAYED,
                sent: false,
            });
        };
        let mut closed = self.shared.closed.subscribe();
        let shutdown = closed.wait_for(|closed| *closed);
        let _ends = tokio::time::timeout(time, shutdown).await;
        Ok(())
    }

    /// Waits for a decision.
    pub(super) async fn wait(
        &self,
        settings: PauseSettings,
        snapshot: Snapshot,
    ) -> Result<Resolution, PauseFull> {
        let (decide, mut decision) = oneshot::channel();
        let (limit, since) = (settings.limit.min(PauseSettings::LONGEST), Instant::now());
        let (rule, request_id) = (snapshot.shown.by.clone(), snapshot.shown.request_id.clone());
        let route = snapshot.shown.route.clone();
        let waiting = Waiting {
            decide,
            since,
            until: since + limit,
            snapshot: snapshot.until(settings.then),
        };
        let id = {
            let mut places = self.shared.places();
            if places.closed {
                return Ok(settings.then.resolution());
            }
            if places.waiting.len() >= self.shared.most {
                return Err(PauseFull {
                    most: self.shared.most,
                    sent: false,
                });
            }
            places.newest += 1;
            let id = places.newest;
            places.waiting.insert(id, waiting);
            id
        };
        let _place = Place {
            shared: &self.shared,
            id,
            _counted: UpWhile::new(&gauge(names::INTERCEPT_PAUSED, &[("route", &route)])),
        };
        tracing::info!(
            number = id,
            rule,
            request_id,
            "an exchange waits for a decision"
        );
        let decided = match tokio::time::timeout(limit, &mut decision).await {
            Ok(decided) => decided.ok(),
            Err(_late) => self.last_word(id, decision).await,
        };
        Ok(decided.unwrap_or_else(|| settings.then.resolution()))
    }

    /// The time of an exchange is over. If its place was taken meanwhile, somebody is deciding in this very moment, and was told that it counts.
    async fn last_word(
        &self,
        id: u64,
        decision: oneshot::Receiver<Resolution>,
    ) -> Option<Resolution> {
        let place = self.shared.places().waiting.remove(&id);
        match place {
            Some(_nobody) => None,
            None => decision.await.ok(),
        }
    }
}

impl Default for Paused {
    fn default() -> Self {
        Self::new(Self::MOST)
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Takes out what waits of this request.
    fn take_back(&mut self, session: &ShortText, id: &Id) -> Vec<Waiting> {
        let of = |waiting: &Waiting| {
            let request = waiting.snapshot.request.as_ref();
            request.is_some_and(|(s, i)| s == session && i == id)
        };
        let waiting = self.waiting.iter();
        let numbers: Vec<u64> = waiting.filter(|(_, w)| of(w)).map(|(n, _)| *n).collect();
        let taken = numbers.iter().map(|number| self.waiting.remove(number));
        taken.flatten().collect()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.places().waiting.len();
        f.debug_struct("Paused")
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let gone = self.shared.places().waiting.remove(&self.id);
        // Outside the lock.
        drop(gone);
    }
}

impl Waiting {
    fn shown(&self, id: u64, now: Instant) -> PausedExchange {
        PausedExchange {
            id,
            waited: now.saturating_duration_since(self.since),
            left: self.until.saturating_duration_since(now),
            ..self.snapshot.shown.clone()
        }
    }
}

impl AtLimit {
    fn resolution(self) -> Resolution {
        match self {
            Self::Resume => Resolution::Resume,
            Self::Block => Resolution::Block(Block {
                message: "held back for a decision that nobody made".to_owned(),
            }),
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn of(by: &str, context: &Context, message: Option<&Message>, stage: Stage) -> Self {
        let facts = message.and_then(Message::facts);
        let method = facts
            .and_then(|f| f.method.as_ref())
            .map(|m| m.as_str().to_owned());
        let direction = match (message, stage) {
            (Some(message), _) => message.direction(),
            (None, Stage::Asking) => Direction::Request,
            (None, Stage::Answering) => Direction::Response,
        };
        let exchange = context.exchange();
        let session = exchange.asked().and_then(|call| call.session.clone());
        let request = message.and_then(|message| match message.direction() {
            Direction::Request | Direction::Response => message.facts()?.id().cloned(),
            Direction::Server => context.asked(message)?.id().cloned(),
        });
        Self {
            request: session.zip(request),
            shown: PausedExchange {
                id: 0,
                by: by.to_owned(),
                route: context.route().to_owned(),
                request_id: exchange.id().to_owned(),
                direction,
                method: method.unwrap_or_else(|| context.method().to_string()),
                name: facts.and_then(|f| f.name.as_deref()).map(str::to_owned),
                waited: Duration::ZERO,
                left: Duration::ZERO,
                then: AtLimit::default(),
            },
            message: message.map(|message| Arc::new(message.kept())),
        }
    }

    fn until(mut self, then: AtLimit) -> Self {
        self.shown.then = then;
        self
    }
}

#[cfg(test)]
mod tests;
