//! Access that was refused: each is counted, and the audit has a line of it, at most one a second, so that nobody fills a disk by guessing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use ziggurat_layers::metrics::counter;

use super::answer::Problem;
use crate::serve::Peer;

/// Counts who was not let in.
#[derive(Debug)]
pub(super) struct Refused {
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
        for reason in ["host", "origin", "token"] {
            counter(NAME, &[("reason", reason)]).absolute(0);
        }
        Self {
            said: Mutex::default(),
        }
    }

    /// Somebody was not let in.
    pub(super) fn note(&self, problem: &Problem, peer: Option<Peer>) {
        let reason = match problem {
            Problem::HostRefused => "host",
            Problem::OriginRefused => "origin",
            Problem::NoToken | Problem::WrongToken => "token",
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
        counter(NAME, &[("reason", reason)]).increment(1);
        let Some(unsaid) = self.due(Instant::now()) else {
            return;
        };
        let peer = peer.map(|peer| tracing::field::display(peer.addr));
        tracing::info!(target: "audit", reason, peer, unsaid, "access refused");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_a_line_a_second_and_it_says_how_many_have_none() {
        let refused = Refused::new();
        let due = || refused.due(Instant::now());
        assert_eq!([due(), due(), due()], [Some(0), None, None]);
        tokio::time::advance(EVERY).await;
        assert_eq!([due(), due()], [Some(2), None]);
    }
}
