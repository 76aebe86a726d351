//! What befalls a replica, and how it is healed.

use std::fmt;

use clap::ValueEnum;
use rustix::process::Signal;

use super::trial::Fleet;
use crate::BoxError;

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
    pub(super) fn inject(self, fleet: &Fleet<'_>) -> Result<(), BoxError> {
        fleet.victim()?.signal(match self {
            Self::Killed => Signal::KILL,
            Self::Frozen => Signal::STOP,
            Self::Refusing => Signal::USR1,
            Self::Cut => Signal::USR2,
        })
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
