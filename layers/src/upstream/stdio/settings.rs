//! What a stdio upstream is told.

use std::{
    ffi::OsString,
    fmt,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// The settings of a [`StdioUpstream`](super::StdioUpstream).
#[derive(Clone, PartialEq, Eq)]
pub struct StdioSettings {
    /// The upstream's name, the label of its metrics.
    pub name: Arc<str>,
    /// The program and its arguments; no shell is involved.
    pub command: Vec<OsString>,
    /// Variables beside those of [`INHERITED`].
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; the proxy's own if not given.
    pub cwd: Option<PathBuf>,
    /// Who shares a child.
    pub isolation: Isolation,
    /// A child or session that is not used for this long ends. A stream that is open or a call that runs is use.
    pub idle: Duration,
    /// A child that is older than this takes nobody new, once another has taken its place, and ends as soon as it has nothing to do.
    pub lifetime: Option<Duration>,
    /// The same for a child that has had this many requests of clients. A session stays with its child, so that this means the
    /// children that several clients share.
    pub recycle: Option<NonZeroU64>,
    /// How many children are kept ready ahead of need, within `max_children`. They are started processes that nobody has greeted, since
    /// a server's first request decides of its era and its client; whoever needs a child next gets one. With [`Isolation::Shared`] one of
    /// them is the shared child, greeted. So is the child of modern calls, beside these, once the server is known to speak that era.
    pub warm: usize,
    /// How many children may be starting at a time that nobody waits for: ahead of need, or to take the place of another. One that is not
    /// greeted counts for a second.
    pub starting: NonZeroUsize,
    /// Whether a client is answered its `initialize` with what the command has answered to the same one before, while its own child is
    /// still starting. If that child then answers otherwise (revision or capabilities), the session ends. Not for a child that is shared.
    pub snapshot: bool,
    /// The most children at a time. For whoever needs one more, one that nobody uses ends; what is kept ready ahead of need is the last to.
    pub max_children: NonZeroUsize,
    /// The most legacy sessions at a time, with however many children; also the most principals that have children.
    pub max_sessions: NonZeroUsize,
    /// The most unanswered requests of one child.
    pub max_pending: NonZeroUsize,
    /// How long a child may take to answer its first request.
    pub handshake: Duration,
    /// The longest line of a child, in bytes; also the longest request.
    pub line_limit: usize,
    /// The most bytes that wait for one reader, and for one child to read.
    pub buffer: usize,
    /// After this silence the answer to a waiting call becomes an event stream.
    pub silence: Duration,
    /// How long a child may leave its stdin unread while something is to be written.
    pub stuck: Duration,
    /// How a child is stopped.
    pub stop: Stop,
}

/// Who shares a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A child for each legacy session. Modern calls share one, since the protocol is stateless.
    PerSession,
    /// One child for all legacy sessions, and one for modern calls. The proxy does the handshake itself, without client
    /// capabilities; what cannot be attributed to one client is not delivered.
    Shared,
    /// One child for the legacy sessions of each principal, shared as with `Shared`, and one for each principal's modern calls. Who has no
    /// principal is served as with `PerSession`.
    PerPrincipal,
}

/// The steps in which a child is stopped: its stdin is closed, then its group gets SIGTERM, then SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// From closing stdin to SIGTERM.
    pub stdin: Duration,
    /// From SIGTERM to SIGKILL.
    pub term: Duration,
}

/// The variables that a child inherits, so that `npx`, `uvx` and the like work. Everything else, secrets above all, is given by
/// [`StdioSettings::env`] or not at all.
pub const INHERITED: &[&str] = &[
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "NODE_EXTRA_CA_CERTS",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];

/// Without arguments and the values of variables, which may be secrets.
impl fmt::Debug for StdioSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("StdioSettings")
            .field("name", &self.name)
            .field("program", &self.program())
            .field("env", &names)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

impl StdioSettings {
    /// This command with the defaults: a child per session, idle 10 minutes, none ahead of need (else two starting at a time), no snapshots, at most 32 children, 10,000 sessions and 1,024
    /// unanswered requests of each child, 60 s for the first answer, lines of 16 MiB, buffers of 8 MiB, 15 s of silence, 60 s
    /// of unread stdin, 2 s for stdin and 3 s for SIGTERM.
    pub fn new(
        name: impl Into<Arc<str>>,
        command: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        const fn many(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).expect("not zero")
        }
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            isolation: Isolation::PerSession,
            idle: Duration::from_secs(600),
            lifetime: None,
            recycle: None,
            warm: 0,
            starting: const { many(2) },
            snapshot: false,
            max_children: const { many(32) },
            max_sessions: const { many(10_000) },
            max_pending: const { many(1024) },
            handshake: Duration::from_secs(60),
            line_limit: 16 * 1024 * 1024,
            buffer: 8 * 1024 * 1024,
            silence: Duration::from_secs(15),
            stuck: Duration::from_secs(60),
            stop: Stop {
                stdin: Duration::from_secs(2),
                term: Duration::from_secs(3),
            },
        }
    }

    /// These settings for a process that runs already: what it *is* (name, command, variables, folder, isolation) stays.
    pub(super) fn of(self, process: &Self) -> Self {
        Self {
            name: process.name.clone(),
            command: process.command.clone(),
            env: process.env.clone(),
            cwd: process.cwd.clone(),
            isolation: process.isolation,
            ..self
        }
    }

    /// The program's name without its path, for logs and metrics.
    pub fn program(&self) -> String {
        let program = self.command.first().map(std::path::Path::new);
        program
            .and_then(|p| p.file_name())
            .map_or_else(String::new, |p| p.to_string_lossy().into_owned())
    }
}
