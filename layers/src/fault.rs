//! Everything that can go wrong, as one closed list.
//!
//! Errors travel as small typed values of the layers that made them. [`Fault::of`] finds them by walking the causes, which is the only
//! place where that is done; what it does not know is a [`Fault::Bug`]. What a fault means to a client stands in one table
//! ([`rescue`](crate::rescue)).

use std::{error::Error, time::Duration};

use http::StatusCode;

use crate::{
    balance::{NoEndpoint, PinnedGone, QueueFull, QueueTimeout},
    cap::BodyTooLarge,
    chaos::Injected,
    circuit::{CircuitOpen, Scope},
    deadline::DeadlineExceeded,
    drain::Draining,
    error::{Outcome, find},
    gate::GateShut,
    guard::{HostRefused, OriginRefused, Problem},
    inspect::{Encoded, NotJson, UploadFailed, UploadTimeout},
    intercept::{Blocked, PauseFull, Unreadable},
    limit::{Shed, ToolBusy},
    mcp::{EnvelopeError, events::EventTooLong, headers::HeaderMismatch},
    rate_limit::RateLimited,
    replay::EventsLost,
    rescue::AnswerMissing,
    route::{NoRoute, UnsafePath},
    switch::SwitchedOff,
    timeout::{HeadTimeout, IdleTimeout},
};

/// What went wrong. The text of a variant is safe to show to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The body is no message of MCP.
    BadMessage(String),
    /// A header contradicts the body (modern).
    HeaderMismatch(String),
    /// The revision is not spoken here (modern).
    UnsupportedVersion {
        /// What was asked for.
        requested: String,
        /// What is spoken.
        supported: Vec<String>,
    },
    /// A modern request for a method that only the legacy era has.
    NoSuchMethod,
    /// A modern request lacks what each must carry.
    MetaMissing(String),
    /// A message that must not be sent, or not in this era.
    Misplaced(String),
    /// The body is larger than allowed.
    BodyTooLarge(String),
    /// The body has a type or an encoding that is not taken.
    UnsupportedMedia(String),
    /// The body did not come in time.
    UploadTimeout,
    /// The client broke off while sending.
    UploadFailed,
    /// The Host is not one of ours.
    HostRefused,
    /// The Host is missing, stands twice, or cannot be read.
    BadHost,
    /// The Origin is not allowed.
    OriginRefused,
    /// A path that could mean two things.
    UnsafePath,
    /// No route matches.
    NoRoute,
    /// Over a cap.
    Shed(String),
    /// Over a cap of the calls of some tools.
    ToolBusy {
        /// What there is too much of.
        message: String,
        /// There may be room for it later.
        later: bool,
    },
    /// Over a rate limit.
    RateLimited(Box<RateLimited>),
    /// The endpoint takes no calls now; perhaps after this time.
    GateShut(String, Option<Duration>),
    /// The circuit breaker of an endpoint, or of a tool at all endpoints, is open; perhaps no longer after this time.
    CircuitOpen(String, Scope, Option<Duration>),
    /// The operator switched off what was asked for.
    SwitchedOff(String),
    /// A fault was injected, for a test.
    Injected {
        /// The request had been handed over.
        sent: bool,
    },
    /// No endpoint takes calls now; perhaps after this time.
    NoEndpoint(String, Option<Duration>),
    /// The endpoint that the call is pinned to was taken out.
    EndpointGone,
    /// Every endpoint is busy, and too many calls wait.
    QueueFull(String),
    /// Every endpoint was busy for too long.
    QueueTimeout(String),
    /// The proxy is shutting down.
    Draining {
        /// An upstream was asked.
        sent: bool,
    },
    /// The call took too long.
    Deadline {
        /// What ran out.
        message: String,
        /// An upstream was asked.
        sent: bool,
    },
    /// The response head took too long.
    HeadTimeout(String),
    /// The response stopped.
    IdleTimeout(String),
    /// The connection took too long.
    ConnectTimeout(String),
    /// There is no connection to be had, for this reason.
    ConnectFailed(String),
    /// The request cannot be sent on.
    Unforwardable(String),
    /// The upstream broke off.
    UpstreamBroken(Outcome),
    /// The upstream ended its event stream without an answer.
    AnswerMissing,
    /// The server program could not be started.
    SpawnFailed(String),
    /// The server program failed to start, and is left alone for a while.
    Backoff(Duration),
    /// The server program, or an old server, did not come up in time.
    Handshake {
        /// What it did not do.
        message: String,
        /// The call had been handed over.
        sent: bool,
    },
    /// The server program went away.
    ServerGone {
        /// How.
        message: String,
        /// The call had been handed over.
        sent: bool,
    },
    /// The server's answer is longer than allowed.
    AnswerTooLong(String),
    /// The server's answer is not a message.
    AnswerGarbled(String),
    /// The client reads too slowly.
    SlowReader(String),
    /// The server program has too much to do, or there are too many.
    ServerBusy(String),
    /// A legacy request without a session.
    SessionRequired,
    /// The session is gone.
    SessionGone,
    /// There are too many sessions; perhaps not after this time.
    SessionsFull(String, Duration),
    /// The upstream gave a session an id that cannot be one.
    BadSessionId,
    /// The channel of an old client is gone.
    NoChannel,
    /// The upstream refused a call with this status, and said nothing that a client could read.
    UpstreamStatus(StatusCode),
    /// An old server does not say where to post, or must not be believed.
    BadEndpoint(String),
    /// A rule says no.
    Blocked {
        /// What the client is told.
        message: String,
        /// An upstream was asked.
        sent: bool,
    },
    /// What rules must see cannot be read, or cannot be changed as they say.
    Unreadable {
        /// Why.
        message: String,
        /// An upstream was asked.
        sent: bool,
    },
    /// Too many exchanges wait for an operator.
    PauseFull {
        /// How many do.
        message: String,
        /// An upstream was asked.
        sent: bool,
    },
    /// The HTTP method has no meaning here.
    NotAllowed,
    /// The client accepts nothing that could be sent.
    NotAcceptable,
    /// A modern request for a legacy server.
    LegacyServer(String),
    /// What the client missed of a stream is not kept any more.
    EventsLost,
    /// Something that should not be.
    Bug,
}

/// Who is to blame for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Whoever sent the request.
    Client,
    /// Whoever was to answer it.
    Upstream,
    /// The proxy, or its limits.
    Proxy,
}

impl Fault {
    /// The fault that an error is.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        // Those of sessions first: they have other faults as their source.
        Self::session(error)
            .or_else(|| Self::ours(error))
            .or_else(|| Self::intercept(error))
            .or_else(|| Self::balance(error))
            .or_else(|| Self::clocks(error))
            .or_else(|| Self::edge(error))
            .or_else(|| Self::upstream(error))
            .unwrap_or(Self::Bug)
    }

    fn ours(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(e) = find::<EnvelopeError>(error) {
            return Some(Self::BadMessage(e.to_string()));
        }
        if let Some(e) = find::<HeaderMismatch>(error) {
            return Some(Self::HeaderMismatch(e.to_string()));
        }
        if let Some(e) = find::<Draining>(error) {
            return Some(Self::Draining { sent: e.sent });
        }
        if let Some(e) = find::<GateShut>(error) {
            return Some(Self::GateShut(e.to_string(), e.retry_after));
        }
        if let Some(e) = find::<CircuitOpen>(error) {
            return Some(Self::CircuitOpen(e.to_string(), e.scope, e.retry_after));
        }
        if find::<AnswerMissing>(error).is_some() {
            return Some(Self::AnswerMissing);
        }
        if let Some(e) = find::<SwitchedOff>(error) {
            return Some(Self::SwitchedOff(e.to_string()));
        }
        if let Some(e) = find::<Injected>(error) {
            return Some(Self::Injected { sent: e.sent });
        }
        if let Some(e) = find::<RateLimited>(error) {
            return Some(Self::RateLimited(Box::new(e.clone())));
        }
        if find::<EventsLost>(error).is_some() {
            return Some(Self::EventsLost);
        }
        if let Some(e) = find::<ToolBusy>(error) {
            return Some(Self::ToolBusy {
                message: e.message(),
                later: !e.is_never_let_in(),
            });
        }
        find::<Shed>(error).map(|e| Self::Shed(e.to_string()))
    }

    fn intercept(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(e) = find::<Blocked>(error) {
            return Some(Self::Blocked {
                message: e.to_string(),
                sent: e.sent,
            });
        }
        if let Some(e) = find::<Unreadable>(error) {
            return Some(Self::Unreadable {
                message: e.to_string(),
                sent: e.sent,
            });
        }
        find::<PauseFull>(error).map(|e| Self::PauseFull {
            message: e.to_string(),
            sent: e.sent,
        })
    }

    fn balance(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(e) = find::<NoEndpoint>(error) {
            return Some(Self::NoEndpoint(e.to_string(), e.retry_after));
        }
        if find::<PinnedGone>(error).is_some() {
            return Some(Self::EndpointGone);
        }
        if let Some(e) = find::<QueueFull>(error) {
            return Some(Self::QueueFull(e.to_string()));
        }
        find::<QueueTimeout>(error).map(|e| Self::QueueTimeout(e.to_string()))
    }

    fn clocks(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(e) = find::<DeadlineExceeded>(error) {
            return Some(Self::Deadline {
                message: e.to_string(),
                sent: e.sent,
            });
        }
        if let Some(e) = find::<HeadTimeout>(error) {
            return Some(Self::HeadTimeout(e.to_string()));
        }
        find::<IdleTimeout>(error).map(|e| Self::IdleTimeout(e.to_string()))
    }

    /// What the layers at the edge refuse.
    fn edge(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(e) = find::<HostRefused>(error) {
            return Some(match e.problem {
                Problem::Foreign => Self::HostRefused,
                Problem::Missing | Problem::Twice | Problem::Differs | Problem::Malformed => {
                    Self::BadHost
                }
            });
        }
        if find::<OriginRefused>(error).is_some() {
            return Some(Self::OriginRefused);
        }
        if let Some(e) = find::<BodyTooLarge>(error) {
            return Some(Self::BodyTooLarge(e.to_string()));
        }
        if find::<NotJson>(error).is_some() || find::<Encoded>(error).is_some() {
            return Some(Self::UnsupportedMedia(error.to_string()));
        }
        if find::<UploadTimeout>(error).is_some() {
            return Some(Self::UploadTimeout);
        }
        if find::<UploadFailed>(error).is_some() {
            return Some(Self::UploadFailed);
        }
        if find::<UnsafePath>(error).is_some() {
            return Some(Self::UnsafePath);
        }
        find::<NoRoute>(error).map(|_| Self::NoRoute)
    }

    #[cfg(not(feature = "session"))]
    fn session(_: &(dyn Error + 'static)) -> Option<Self> {
        None
    }

    #[cfg(feature = "session")]
    fn session(error: &(dyn Error + 'static)) -> Option<Self> {
        use crate::session as s;
        if find::<s::SessionGone>(error).is_some() {
            return Some(Self::SessionGone);
        }
        if let Some(e) = find::<s::SessionsFull>(error) {
            return Some(Self::SessionsFull(e.to_string(), e.retry_after));
        }
        if find::<s::BadSessionId>(error).is_some() {
            return Some(Self::BadSessionId);
        }
        Self::old_client(error)
    }

    #[cfg(feature = "session")]
    fn old_client(error: &(dyn Error + 'static)) -> Option<Self> {
        use crate::http_sse as o;
        if find::<o::NoChannel>(error).is_some() {
            return Some(Self::NoChannel);
        }
        if let Some(e) = find::<o::SlowReader>(error) {
            return Some(Self::SlowReader(e.to_string()));
        }
        if let Some(e) = find::<o::UpstreamStatus>(error) {
            return Some(Self::UpstreamStatus(e.status));
        }
        find::<o::NoAnswer>(error).map(|_| Self::UpstreamBroken(Outcome::Unknown))
    }

    fn upstream(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(e) = find::<EventTooLong>(error) {
            return Some(Self::AnswerTooLong(e.to_string()));
        }
        #[cfg(feature = "stdio")]
        if let Some(e) = find::<crate::upstream::stdio::StdioError>(error) {
            return Some(Self::stdio(e));
        }
        #[cfg(all(feature = "http", feature = "session"))]
        if let Some(e) = find::<crate::upstream::sse::SseError>(error) {
            return Some(Self::sse(e));
        }
        #[cfg(feature = "http")]
        if let Some(fault) = Self::http(error) {
            return Some(fault);
        }
        let _none = error;
        None
    }

    #[cfg(feature = "http")]
    fn http(error: &(dyn Error + 'static)) -> Option<Self> {
        use crate::upstream::http as h;
        if let Some(e) = find::<h::ConnectTimeout>(error) {
            return Some(Self::ConnectTimeout(e.to_string()));
        }
        if let Some(e) = find::<h::ConnectFailed>(error) {
            return Some(Self::ConnectFailed(e.problem.to_string()));
        }
        if let Some(e) = find::<h::Unforwardable>(error) {
            return Some(Self::Unforwardable(e.to_string()));
        }
        if find::<h::RequestBroken>(error).is_some() {
            return Some(Self::UploadFailed);
        }
        find::<h::UpstreamBroken>(error).map(|e| Self::UpstreamBroken(e.outcome()))
    }

    #[cfg(all(feature = "http", feature = "session"))]
    fn sse(error: &crate::upstream::sse::SseError) -> Self {
        use crate::upstream::sse::SseError as E;
        let message = error.to_string();
        match error {
            // Until that is known nothing can be posted.
            E::NoEndpoint { .. } => Self::Handshake {
                message,
                sent: false,
            },
            E::NoStream { status } if status.is_success() => Self::BadEndpoint(message),
            E::NoStream { status } | E::Refused { status } => Self::UpstreamStatus(*status),
            E::ForeignEndpoint | E::BadEndpoint => Self::BadEndpoint(message),
            E::Gone { sent } => Self::ServerGone {
                message,
                sent: *sent,
            },
            E::TooLong { .. } => Self::AnswerTooLong(message),
            E::SlowReader { .. } => Self::SlowReader(message),
            E::Full { .. } => Self::ServerBusy(message),
            E::Duplicate => Self::Misplaced(message),
            E::SessionRequired => Self::SessionRequired,
            E::SessionGone => Self::SessionGone,
            E::NotAllowed => Self::NotAllowed,
            E::NotAcceptable => Self::NotAcceptable,
            E::LegacyServer => Self::LegacyServer(message),
        }
    }

    #[cfg(feature = "stdio")]
    fn stdio(error: &crate::upstream::stdio::StdioError) -> Self {
        use crate::upstream::stdio::StdioError as E;
        let message = error.to_string();
        match error {
            E::Spawn { .. } => Self::SpawnFailed(message),
            E::Backoff { again } => Self::Backoff(*again),
            E::Handshake { sent, .. } => Self::Handshake {
                message,
                sent: *sent,
            },
            E::Gone { sent, .. } => Self::ServerGone {
                message,
                sent: *sent,
            },
            E::LineTooLong { .. } => Self::AnswerTooLong(message),
            E::Garbled => Self::AnswerGarbled(message),
            E::RequestTooLong { .. } => Self::BodyTooLarge(message),
            E::SlowReader { .. } => Self::SlowReader(message),
            E::Busy { .. } | E::Full { .. } => Self::ServerBusy(message),
            E::Closing => Self::Draining { sent: false },
            E::SessionRequired => Self::SessionRequired,
            E::SessionGone => Self::SessionGone,
            E::NotAllowed => Self::NotAllowed,
            E::NotAcceptable => Self::NotAcceptable,
            E::Misplaced(_) => Self::Misplaced(message),
            E::LegacyServer => Self::LegacyServer(message),
            E::NoSuchMethod => Self::NoSuchMethod,
            E::MetaMissing(_) => Self::MetaMissing(message),
            E::UnsupportedVersion {
                requested,
                supported,
            } => Self::UnsupportedVersion {
                requested: requested.clone(),
                supported: supported.clone(),
            },
        }
    }
}
