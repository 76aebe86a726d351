//! Where sessions are kept.
//!
//! The layer keeps nothing of a session itself, so that replicas of the proxy may share a store one day: what it must wait for is asked with a
//! future, and what it only tells (`touch`, `leave`, `note`, `end`) is a notice that never blocks; a store that is elsewhere queues it. Times are the
//! store's own. A store that others share must count what a process has in hand as a lease, since a process that dies says nothing.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Uri;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{farewell::Farewell, seal::Serial};
use crate::mcp::{Era, ShortText};

/// Keeps sessions, within limits.
pub trait SessionStore: fmt::Debug + Send + Sync {
    /// Holds a place for a session that is about to begin, so that one too many is refused before anything is sent. It is given back
    /// with [`Ending::Unused`].
    fn reserve<'a>(
        &'a self,
        key: &'a SessionKey,
        principal: Option<Arc<str>>,
        limits: &'a Limits,
    ) -> Answer<'a, Result<(), SessionsFull>>;

    /// The session begins, in the place that is held for it. The client's own `initialize` is kept for a heal, if there may be one.
    fn begin<'a>(
        &'a self,
        key: &'a SessionKey,
        home: Home,
        asked: Asked,
        initialize: Option<Bytes>,
    ) -> Answer<'a, ()>;

    /// A request of a session came. One that the store does not know, and of which it does not know either that it ended, is entered anew: the
    /// id was sealed by this proxy before it restarted, or by another.
    fn enter<'a>(
        &'a self,
        key: &'a SessionKey,
        visit: Visit<'a>,
        limits: &'a Limits,
    ) -> Answer<'a, Result<Live, NotLive>>;

    /// A message of the session passed to its client.
    fn touch(&self, key: &SessionKey);

    /// A call that [`Visit::in_hand`] announced is over.
    fn leave(&self, key: &SessionKey);

    /// Something that a heal must know of has happened.
    fn note(&self, key: &SessionKey, note: Note);

    /// How the session stands now, and what a heal must know of.
    fn recall<'a>(&'a self, key: &'a SessionKey) -> Answer<'a, Option<(Live, History)>>;

    /// The session was healed, and lives elsewhere from now on; unless somebody else has moved it from `old` before. Says how it stands then. If its
    /// old home may still have it, that is to be told.
    fn settle<'a>(
        &'a self,
        key: &'a SessionKey,
        old: &'a Home,
        new: Home,
        still_there: bool,
    ) -> Answer<'a, Option<Live>>;

    /// The session is over, or never began.
    fn end(&self, key: &SessionKey, why: Ending);

    /// Ends what expired. The store does a little of this with each call; somebody should ask for all of it now and then, since where no
    /// calls come nothing else does.
    fn sweep(&self);

    /// The sessions that ended here while their upstreams may still have them, at most so many; each is given once, and not before its last
    /// call is over. As many wait as there may be sessions, and beyond that the oldest are forgotten.
    fn farewells(&self, most: usize) -> Answer<'_, Vec<Farewell>>;

    /// The sessions there are, at most so many.
    fn list(&self, most: usize) -> Answer<'_, Vec<SessionInfo>>;
}

/// An answer that a store may have to wait for.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a store knows a session by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The route's name.
    pub route: Arc<str>,
    /// The session's number.
    pub serial: Serial,
}

/// Where a session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The endpoint that it lives at; empty if that has no name.
    pub endpoint: Arc<str>,
    /// Its id there. Not a thing to log.
    pub upstream_id: Arc<str>,
}

/// How a client asks for its session, and so how its upstream is told that it ended.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The URI of the request.
    pub uri: Uri,
    /// `MCP-Protocol-Version`, if it was sent.
    pub version: Option<ShortText>,
}

/// A request of a session.
#[derive(Debug, Clone)]
pub struct Visit<'a> {
    /// Where the session lives, as its sealed id has it.
    pub home: Home,
    /// How it was asked for.
    pub asked: &'a Asked,
    /// Who the client is, where that is known.
    pub principal: Option<Arc<str>>,
    /// How old the session is.
    pub age: Duration,
    /// The request is a call, which holds off idle expiry until it is over.
    pub in_hand: bool,
}

/// A session that is alive.
#[derive(Debug, Clone)]
pub struct Live {
    /// Where it lives now.
    pub home: Home,
    /// Cancelled when the session ends other than by its client's wish, or moves, as far as this process learns of it.
    pub ended: CancellationToken,
    /// A GET opened a stream in this session: a server that answers it with a lost status says something by that.
    pub streamed: bool,
    /// Held by whoever heals the session, so that nobody else in this process does; says until when it is not to be moved, after that failed.
    pub turn: Arc<Mutex<Option<Instant>>>,
}

/// Something that a heal must know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The client said that it is initialized.
    Initialized,
    /// It set the log level, with this request.
    Level(Bytes),
    /// It subscribed to a resource, with this request.
    Subscribed(Box<str>, Bytes),
    /// It subscribed to it no more.
    Unsubscribed(Box<str>),
    /// A GET opened a stream.
    Streamed,
    /// A call goes out that is not safe to repeat.
    Risky,
    /// Such a call was rejected, and had no effect.
    Rejected,
}

/// What was said in a session so far. It has a bound ([`History::MAX`]), beyond which it is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The client's own `initialize`.
    pub initialize: Option<Bytes>,
    /// It said `notifications/initialized`.
    pub initialized: bool,
    /// A GET opened a stream.
    pub streamed: bool,
    /// The newest request for a log level.
    pub level: Option<Bytes>,
    /// The subscriptions, by resource, each with its request.
    pub subscriptions: BTreeMap<Box<str>, Bytes>,
    /// The calls that were not safe to repeat, and may have had an effect.
    pub risky: u32,
}

/// Why a request has no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLive {
    /// The session is over.
    Ended,
    /// It would be entered anew, if there were a place.
    Full(SessionsFull),
}

/// The limits of the sessions of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a session may be quiet.
    pub idle: Duration,
    /// How old it may become.
    pub lifetime: Option<Duration>,
    /// How many there may be.
    pub max: usize,
    /// How many of them may be one principal's.
    pub max_per_principal: usize,
    /// Other processes may serve the same sessions.
    pub shared: bool,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its client ended it.
    Deleted,
    /// It never began.
    Unused,
    /// It was quiet for too long.
    Idle,
    /// It grew too old.
    Lifetime,
    /// It was quiet when there was no place for a new one.
    Evicted,
    /// Its upstream does not know it any more.
    Lost,
    /// Its endpoint was taken out.
    EndpointGone,
    /// The operator ended it.
    Operator,
}

/// There are too many sessions, all of them in use. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the limit of {limit} sessions {}", if *.own { "of one client" } else { "on this route" })]
pub struct SessionsFull {
    /// The limit.
    pub limit: usize,
    /// It is that of one principal's sessions.
    pub own: bool,
    /// When a place may be free.
    pub retry_after: Duration,
}

/// A session as the admin API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// What the store knows it by; its text is the beginning of its serial, which is no secret.
    pub key: SessionKey,
    /// The era of its client.
    pub era: Era,
    /// The endpoint that it lives at.
    pub endpoint: Arc<str>,
    /// How old it is.
    pub age: Duration,
    /// For how long it has been quiet: zero while a call is in hand.
    pub idle: Duration,
    /// How many calls are in hand.
    pub in_hand: u32,
    /// It was entered anew by what its sealed id says.
    pub restored: bool,
    /// How often it was healed.
    pub healed: u32,
}

// === impl History ===

impl History {
    /// The most bytes that are kept of a session: 32 KiB.
    pub const MAX: usize = 32 << 10;

    /// A session that began with this `initialize`.
    pub fn new(initialize: Option<Bytes>) -> Self {
        Self {
            initialize: initialize.filter(|bytes| bytes.len() <= Self::MAX).map(own),
            ..Self::default()
        }
    }

    /// Something happened. What is to be said again is kept only where there is an `initialize` to begin with.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Level(_) | Note::Subscribed(..) if self.initialize.is_none() => {}
            Note::Initialized => self.initialized = true,
            Note::Streamed => self.streamed = true,
            Note::Level(request) => self.level = Some(own(request)),
            Note::Subscribed(resource, request) => {
                self.subscriptions.insert(resource, own(request));
            }
            Note::Unsubscribed(resource) => {
                self.subscriptions.remove(&resource);
            }
            Note::Risky => self.risky = self.risky.saturating_add(1),
            Note::Rejected => self.risky = self.risky.saturating_sub(1),
        }
        let subscriptions = self.subscriptions.iter().map(|(k, v)| k.len() + v.len());
        let rest = [&self.initialize, &self.level].into_iter().flatten();
        if subscriptions.chain(rest.map(Bytes::len)).sum::<usize>() > Self::MAX {
            *self = Self {
                risky: self.risky,
                streamed: self.streamed,
                ..Self::default()
            };
        }
    }
}

/// The bytes alone, without the buffer that they came in.
fn own(bytes: Bytes) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

// === impl Ending ===

impl Ending {
    /// Those that are evictions.
    pub const EVICTIONS: [Self; 6] = [
        Self::Idle,
        Self::Lifetime,
        Self::Evicted,
        Self::Lost,
        Self::EndpointGone,
        Self::Operator,
    ];

    /// The upstream does not know of this end by itself, and nobody goes on with the session: another process might, where the keys are shared, if it was
    /// only quiet here.
    pub fn is_to_be_told(self, shared: bool) -> bool {
        match self {
            Self::Lifetime | Self::Operator => true,
            Self::Idle | Self::Evicted => !shared,
            Self::Deleted | Self::Unused | Self::Lost | Self::EndpointGone => false,
        }
    }

    /// The label of metrics and logs; none for an end that is no eviction.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Deleted | Self::Unused => None,
            Self::Idle => Some("idle"),
            Self::Lifetime => Some("lifetime"),
            Self::Evicted => Some("cap"),
            Self::Lost => Some("lost"),
            Self::EndpointGone => Some("endpoint_gone"),
            Self::Operator => Some("operator"),
        }
    }
}

// === impl Limits ===

impl Limits {
    /// How long a session must have been quiet to be ended for the sake of a new one: a tenth of [`idle`](Self::idle).
    pub fn spare(&self) -> Duration {
        self.idle / 10
    }
}
