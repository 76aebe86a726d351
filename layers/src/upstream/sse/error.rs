//! What can go wrong at a server that speaks HTTP+SSE.

use std::time::Duration;

use http::StatusCode;

/// A failure of an [`SseUpstream`](super::SseUpstream), or its refusal of a request. Those of its HTTP service pass as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// The stream did not say where to post.
    #[error("the server did not say where to post within {limit:?}")]
    NoEndpoint {
        /// The limit.
        limit: Duration,
    },
    /// The GET was answered with this status, or with something else than an event stream.
    #[error("the server opened no event stream (status {status})")]
    NoStream {
        /// The status.
        status: StatusCode,
    },
    /// It says to post at another origin.
    #[error("the server says to post at another origin")]
    ForeignEndpoint,
    /// What it says is no URI.
    #[error("the server says to post at something that is no URI")]
    BadEndpoint,
    /// A message that was posted was refused with this status.
    #[error("the server refused the message with status {status}")]
    Refused {
        /// The status.
        status: StatusCode,
    },
    /// The stream ended with the call unanswered.
    #[error("the server closed its event stream")]
    Gone {
        /// The call had been posted.
        sent: bool,
    },
    /// A message is longer than allowed.
    #[error("a message of the server is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The reader of this response was too slow.
    #[error("the client did not read its stream; more than {limit} bytes were waiting")]
    SlowReader {
        /// The limit.
        limit: usize,
    },
    /// As many sessions, or unanswered requests, as there may be.
    #[error("there are {limit} {what} already")]
    Full {
        /// The bound.
        limit: usize,
        /// What there are too many of.
        what: &'static str,
    },
    /// The request has the id of another that has no answer yet.
    #[error("another request with this id has no answer yet")]
    Duplicate,
    /// A request outside of a session.
    #[error("the request needs an Mcp-Session-Id; begin with initialize")]
    SessionRequired,
    /// A session that does not exist, or no more.
    #[error("the session does not exist or has ended; begin anew with initialize")]
    SessionGone,
    /// A request method that the endpoint does not have.
    #[error("the method is not allowed here")]
    NotAllowed,
    /// A GET that does not accept an event stream.
    #[error("a GET must accept text/event-stream")]
    NotAcceptable,
    /// A modern request.
    #[error("the server behind this endpoint speaks an earlier revision; begin with initialize")]
    LegacyServer,
}
