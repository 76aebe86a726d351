//! What befalls a replica, and how it is healed.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::journal::Mark;
use super::trial::Fleet;
use crate::{BoxError, usage};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL, then started again
    Killed,
    /// SIGSTOP, then SIGCONT
    Frozen,
    /// It answers 503 to everything
    #[value(name = "503")]
    Refusing,
    /// It executes, and cuts the connection within the answer
    Cut,
}

impl Fault {
    /// When it came, and where the journal stood then.
    pub(super) async fn inject(self, fleet: &Fleet<'_>) -> Result<(Instant, Mark), BoxError> {
        let victim = fleet.victim()?;
        let before = (Instant::now(), fleet.journal.mark()?);
        victim.signal(match self {
            Self::Killed => Signal::KILL,
            Self::Frozen => Signal::STOP,
            Self::Refusing => Signal::USR1,
            Self::Cut => Signal::USR2,
        })?;
        if self != Self::Frozen {
            return Ok(before);
        }
        // On a busy machine it may work on for a while, until its main thread gets to see the signal.
        let pid = victim.pid().ok_or("the replica has ended")?;
        let patience = before.0 + Duration::from_secs(1);
        while !usage::is_stopped(pid) {
            if Instant::now() >= patience {
                return Err("the replica was told to freeze, and works on".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok((Instant::now(), fleet.journal.mark()?))
    }

    pub(super) async fn heal(self, fleet: &mut Fleet<'_>) -> Result<(), BoxError> {
        match self {
            Self::Killed => fleet.replace_victim().await,
            Self::Frozen => fleet.victim()?.signal(Signal::CONT),
            Self::Refusing => fleet.victim()?.signal(Signal::USR1),
            Self::Cut => fleet.victim()?.signal(Signal::USR2),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
            Self::Refusing => "503",
            Self::Cut => "cut",
        })
    }
}
