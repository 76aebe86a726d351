//! What can go wrong at a stdio upstream.

use std::{fmt, time::Duration};

use crate::error::Outcome;

/// A failure of a stdio upstream, or its refusal of a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StdioError {
    /// The program could not be started.
    #[error("cannot start `{program}`: {source}")]
    Spawn {
        /// Its name, without path and arguments.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It failed to start before, and is given time.
    #[error("the server failed to start; the next try is in {again:?}")]
    Backoff {
        /// When it will be started again.
        again: Duration,
    },
    /// It did not answer its first request in time.
    #[error("the server did not answer within {limit:?} of its start")]
    Handshake {
        /// The limit.
        limit: Duration,
        /// That was the client's own call.
        sent: bool,
    },
    /// It went away with the call unanswered.
    #[error("the server {how}")]
    Gone {
        /// How.
        how: Gone,
        /// The call had been handed to it.
        sent: bool,
    },
    /// It wrote a line that is longer than allowed; the call that it answered fails.
    #[error("the server's answer is longer than {limit} bytes")]
    LineTooLong {
        /// The limit.
        limit: usize,
    },
    /// Its answer was not JSON, or not a message.
    #[error("the server's answer is not a JSON-RPC message")]
    Garbled,
    /// The request is longer than allowed.
    #[error("the request is longer than {limit} bytes")]
    RequestTooLong {
        /// The limit.
        limit: usize,
    },
    /// The reader of this stream was too slow.
    #[error("the client did not read its stream; more than {limit} bytes were waiting")]
    SlowReader {
        /// The limit.
        limit: usize,
    },
    /// The child has more to do than it may have.
    #[error("the server has too much to do ({what})")]
    Busy {
        /// Which bound was met.
        what: &'static str,
    },
    /// As many children or sessions as there may be.
    #[error("there are {limit} {what} already")]
    Full {
        /// The bound.
        limit: usize,
        /// What there are too many of.
        what: &'static str,
    },
    /// The upstream is closing.
    #[error("the server is being stopped")]
    Closing,
    /// A legacy request without `Mcp-Session-Id`.
    #[error("the request needs an Mcp-Session-Id; begin with initialize")]
    SessionRequired,
    /// A session that does not exist, or no more.
    #[error("the session does not exist or has ended; begin anew with initialize")]
    SessionGone,
    /// A request method that the endpoint does not have in this era.
    #[error("the method is not allowed here")]
    NotAllowed,
    /// A GET that does not accept an event stream.
    #[error("a GET must accept text/event-stream")]
    NotAcceptable,
    /// A message that must not be sent in this era.
    #[error("{0}")]
    Misplaced(&'static str),
    /// A modern request for a server that only knows the handshake.
    #[error("the server behind this endpoint speaks an earlier revision; begin with initialize")]
    LegacyServer,
    /// A modern request for a method that only the legacy era has.
    #[error("this revision has no such method")]
    NoSuchMethod,
    /// A modern request without what each must carry.
    #[error("params._meta needs {0}")]
    MetaMissing(&'static str),
    /// A revision that the server does not speak.
    #[error("protocol version {requested} is not supported")]
    UnsupportedVersion {
        /// What the client asked for.
        requested: String,
        /// What the server speaks.
        supported: Vec<String>,
    },
}

/// How a child went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It closed its standard output.
    Closed,
    /// It stopped reading its standard input.
    Stuck,
    /// It was stopped by the proxy.
    Stopped,
    /// It answered its first request, which was the proxy's own, with an error or with what is no answer.
    Ungreeted,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Self::Closed => f.write_str("closed its standard output"),
            Self::Stuck => f.write_str("stopped reading its standard input"),
            Self::Stopped => f.write_str("was stopped"),
            Self::Ungreeted => f.write_str("did not take the first request"),
        }
    }
}

impl StdioError {
    /// The same failure, of a request that the proxy made before it sent the client's.
    pub(super) fn unsent(self) -> Self {
        match self {
            Self::Gone { how, .. } => Self::Gone { how, sent: false },
            Self::Handshake { limit, .. } => Self::Handshake { limit, sent: false },
            Self::LineTooLong { .. } | Self::Garbled | Self::SlowReader { .. } => Self::Gone {
                how: Gone::Ungreeted,
                sent: false,
            },
            error => error,
        }
    }

    /// Whether it says nothing of the command: the proxy refused to start it, or stopped it.
    pub(super) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::Backoff { .. }
                | Self::Closing
                | Self::Gone {
                    how: Gone::Stopped,
                    ..
                }
        )
    }

    /// What is known of the call's effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Spawn { .. }
            | Self::Backoff { .. }
            | Self::Busy { .. }
            | Self::Full { .. }
            | Self::Closing
            | Self::Handshake { sent: false, .. }
            | Self::Gone { sent: false, .. } => Outcome::NotSent,
            Self::Handshake { sent: true, .. }
            | Self::Gone { sent: true, .. }
            | Self::LineTooLong { .. }
            | Self::Garbled
            | Self::SlowReader { .. } => Outcome::Unknown,
            Self::RequestTooLong { .. }
            | Self::SessionRequired
            | Self::SessionGone
            | Self::NotAllowed
            | Self::NotAcceptable
            | Self::Misplaced(_)
            | Self::LegacyServer
            | Self::NoSuchMethod
            | Self::MetaMissing(_)
            | Self::UnsupportedVersion { .. } => Outcome::Rejected,
        }
    }
}
