//! What can go wrong, and what hyper's errors mean in these terms.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use hyper_util::client::legacy;

use crate::error::{BoxError, Outcome, find};

/// No connection came about in time, TLS included. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream took longer than {limit:?} to accept a connection")]
pub struct ConnectTimeout {
    /// The limit.
    pub limit: Duration,
}

/// No connection came about. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}: {problem}")]
pub struct ConnectFailed {
    /// What was tried: host and port.
    pub address: Arc<str>,
    /// What went wrong.
    pub problem: ConnectProblem,
    source: BoxError,
}

/// Why a connection did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectProblem {
    /// The host's name has no address.
    Dns,
    /// Nobody listens there.
    Refused,
    /// The TLS handshake failed: an untrusted certificate, a wrong name, no common version.
    Tls,
    /// Anything else: no route, no free port, a reset.
    Unreachable,
}

/// The connection broke, or what came over it was not HTTP.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the upstream broke {phase}")]
pub struct UpstreamBroken {
    /// How far the call had come.
    pub phase: Phase,
    source: BoxError,
}

/// How far a call had come when its connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing of the request was written.
    Unsent,
    /// Something of the request may have been written; no response head came.
    Head,
    /// In the middle of the response body.
    Body,
}

/// The request's own body failed while it was being sent: the client went away, or a layer cut it. What happened is in the
/// chain of causes. The upstream saw a part of the request at most.
#[derive(Debug, thiserror::Error)]
#[error("the request body ended early")]
pub struct RequestBroken {
    source: BoxError,
}

/// A request that has no way to the upstream. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unforwardable {
    /// The method CONNECT, which asks for a tunnel through a forward proxy.
    #[error("CONNECT is not forwarded")]
    Connect,
    /// A path with `..` in it, which would leave the prefix that the route matched.
    #[error("the path leads upwards")]
    PathClimbs,
    /// Path and query are together longer than a URI may be (64 KiB).
    #[error("the path is too long")]
    TooLong,
}

/// Marks an error of the request's body.
#[derive(Debug, thiserror::Error)]
#[error("the request body failed")]
pub(super) struct FromClient(#[source] pub(super) BoxError);

/// Marks a name that did not resolve.
#[derive(Debug, thiserror::Error)]
#[error("the name does not resolve")]
pub(super) struct DnsFailed(#[source] pub(super) io::Error);

#[derive(Debug, thiserror::Error)]
#[error("it switched protocols without being asked")]
struct Unasked;

// === impl UpstreamBroken ===

impl UpstreamBroken {
    /// What is known of the call's effect.
    pub fn outcome(&self) -> Outcome {
        match self.phase {
            Phase::Unsent => Outcome::NotSent,
            Phase::Head | Phase::Body => Outcome::Unknown,
        }
    }

    pub(super) fn in_body(source: hyper::Error) -> Self {
        Self {
            phase: Phase::Body,
            source: source.into(),
        }
    }

    /// A 101 for which nobody asked.
    pub(super) fn unasked() -> Self {
        Self {
            phase: Phase::Head,
            source: Unasked.into(),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsent => "before the request was sent",
            Self::Head => "before the response head came",
            Self::Body => "in the middle of the response",
        })
    }
}

impl fmt::Display for ConnectProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "its name does not resolve",
            Self::Refused => "it refuses connections",
            Self::Tls => "the TLS handshake failed",
            Self::Unreachable => "it is not reachable",
        })
    }
}

/// The typed error for an error of hyper's client.
pub(super) fn classify(error: legacy::Error, address: &Arc<str>) -> BoxError {
    if let Some(timeout) = find::<ConnectTimeout>(&error) {
        return (*timeout).into();
    }
    if find::<FromClient>(&error).is_some() {
        let source = error.into();
        return RequestBroken { source }.into();
    }
    if error.is_connect() {
        return ConnectFailed {
            address: address.clone(),
            problem: ConnectProblem::of(&error),
            source: error.into(),
        }
        .into();
    }
    UpstreamBroken {
        phase: if was_sent(&error) {
            Phase::Head
        } else {
            Phase::Unsent
        },
        source: error.into(),
    }
    .into()
}

/// Whether something of the request may have been written. hyper's client gives an error the connection's facts as soon as the
/// request was handed to a connection, and says "canceled" when the connection gave it back untouched.
fn was_sent(error: &legacy::Error) -> bool {
    let canceled = error
        .source()
        .and_then(|e| e.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_canceled);
    error.connect_info().is_some() && !canceled
}

impl ConnectProblem {
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<DnsFailed>() {
                return Self::Dns;
            }
            if error.is::<rustls::Error>() {
                return Self::Tls;
            }
            next = match error.downcast_ref::<io::Error>() {
                Some(io) if io.kind() == io::ErrorKind::ConnectionRefused => return Self::Refused,
                // An I/O error's `source` skips the error that it wraps.
                Some(io) => io.get_ref().map(|e| e as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        Self::Unreachable
    }
}
