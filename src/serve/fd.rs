//! File descriptors: how many the process may have, and how many connections that allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are kept for everything that is not a connection: logs, children's pipes, timers, the config file.
const RESERVE: u64 = 128;
/// More connections than this are never allowed, however high the limit is.
const MOST: u64 = 1 << 20;
/// Fewer are never asked for; below that the process cannot work anyway.
const LEAST: u64 = 32;

/// Raises the soft limit on file descriptors to the hard one. Returns the limit in force, `None` if there is none.
pub fn raise_fd_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => getrlimit(Resource::Nofile).current,
        Err(error) => {
            tracing::warn!(%error, "the limit on file descriptors could not be raised");
            limit.current
        }
    }
}

/// How many connections a listener can hold under a limit on file descriptors, when each of them may need a second
/// descriptor towards an upstream.
pub fn connection_bound(fd_limit: Option<u64>) -> usize {
    let connections = match fd_limit {
        Some(limit) => limit.saturating_sub(RESERVE) / 2,
        None => MOST,
    };
    usize::try_from(connections.clamp(LEAST, MOST)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_leaves_room_for_upstream_connections() {
        assert_eq!(connection_bound(Some(1024)), 448);
        assert_eq!(connection_bound(Some(16)), 32);
        assert_eq!(connection_bound(Some(u64::MAX)), 1 << 20);
        assert_eq!(connection_bound(None), 1 << 20);
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let limit = raise_fd_limit();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
        assert_eq!(raise_fd_limit(), limit);
    }
}
