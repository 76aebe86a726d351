//! Access that was refused: each is counted, and the audit has a line of it, at most one a second for each reason, so that nobody fills a disk by guessing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;
use tokio::time::Instant;
use ziggurat_layers::metrics::counter;

use super::answer::Problem;
use crate::serve::Peer;

/// Counts who was not let in.
#[derive(Debug)]
pub(super) struct Refused {
    host: Reason,
    origin: Reason,
    token: Reason,
}

/// Why somebody was not let in. Each reason has lines of its own, so that a page which asks over and over under a foreign name hides nobody who guesses tokens.
struct Reason {
    name: &'static str,
    counter: Counter,
    said: Mutex<Said>,
}

/// What the audit has of it.
#[derive(Debug, Default)]
struct Said {
    newest: Option<Instant>,
    /// How many have no line.
    unsaid: u64,
}

const NAME: &str = "ziggurat_admin_refused_total";

/// How often there is a line.
const EVERY: Duration = Duration::from_secs(1);

// === impl Refused ===

impl Refused {
    pub(super) fn new() -> Self {
        metrics::describe_counter!(
            NAME,
            "Requests that the admin API refused for their Host, their Origin, or their token."
        );
        Self {
            host: Reason::new("host"),
            origin: Reason::new("origin"),
            token: Reason::new("token"),
        }
    }

    /// Somebody was not let in.
    pub(super) fn note(&self, problem: &Problem, peer: Option<Peer>) {
        let reason = match problem {
            Problem::HostRefused => &self.host,
            Problem::OriginRefused => &self.origin,
            Problem::NoToken | Problem::WrongToken => &self.token,
            // These are of whoever was let in.
            Problem::NotFound
            | Problem::MethodNotAllowed(_)
            | Problem::NotJson
            | Problem::BodyTooLarge
            | Problem::BodyTooSlow
            | Problem::BadBody(_)
            | Problem::Unknown(_)
            | Problem::Conflict(_) => return,
        };
        reason.note(peer);
    }
}

// === impl Reason ===

impl Reason {
    fn new(name: &'static str) -> Self {
        let counter = counter(NAME, &[("reason", name)]);
        counter.absolute(0);
        Self {
            name,
            counter,
            said: Mutex::default(),
        }
    }

    fn note(&self, peer: Option<Peer>) {
        self.counter.increment(1);
        let Some(unsaid) = self.due(Instant::now()) else {
            return;
        };
        let peer = peer.map(|peer| tracing::field::display(peer.addr));
        tracing::info!(target: "audit", reason = self.name, peer, unsaid, "access refused");
    }

    /// How many were not told since the last line, if another one is due.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let due = said
            .newest
            .is_none_or(|newest| now.duration_since(newest) >= EVERY);
        if !due {
            said.unsaid = said.unsaid.saturating_add(1);
            return None;
        }
        said.newest = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reason").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reason_has_a_line_a_second_which_says_how_many_have_none() {
        let refused = Refused::new();
        let due = |reason: &Reason| reason.due(Instant::now());
        let hosts = || due(&refused.host);
        assert_eq!([hosts(), hosts(), hosts()], [Some(0), None, None]);
        assert_eq!(
            due(&refused.token),
            Some(0),
            "the other reasons do not hide it"
        );
        tokio::time::advance(EVERY).await;
        assert_eq!([hosts(), hosts()], [Some(2), None]);
    }
}
