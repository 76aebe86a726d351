//! One trial: replicas, proxy and callers, the fault in the midst of it, and the healing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::fault::Fault;
use super::findings::{Findings, Marks, Moments};
use super::journal::Journal;
use super::settings;
use crate::BoxError;
use crate::client::{Client, Kind, Record};
use crate::contender::{Programs, Proxy, Running};

/// How long one request keeps a replica busy.
pub(super) const WORK: &str = "5ms";
/// What the callers call, in turn.
const MIX: [Kind; 4] = [Kind::List, Kind::Echo, Kind::List, Kind::Stream];
/// The replica that fails.
pub(super) const VICTIM: &str = "a";
/// Each with an address of its own: while one is down, no connection that goes out from here can take its port.
const REPLICAS: [(&str, &str); 3] = [
    (VICTIM, "127.0.0.11:0"),
    ("b", "127.0.0.12:0"),
    ("c", "127.0.0.13:0"),
];

/// How long everything is well, how long the fault lasts, and how long the load goes on after the healing.
#[derive(Clone, Copy)]
pub(super) struct Phases {
    pub(super) before: Duration,
    pub(super) fault: Duration,
    pub(super) after: Duration,
}

/// The replicas.
pub(super) struct Fleet<'a> {
    programs: &'a Programs,
    pub(super) journal: &'a Journal,
    replicas: Vec<Running>,
}

pub(super) async fn run(
    programs: &Programs,
    proxy: Proxy,
    fault: Fault,
    callers: u32,
    phases: Phases,
) -> Result<Findings, BoxError> {
    let journal = Journal::new()?;
    let mut fleet = Fleet::start(programs, &journal).await?;
    let (template, _) = settings(proxy).ok_or("it has no configuration")?;
    let running = programs
        .configured(proxy, template, &fleet.addresses())
        .await?;
    let begin = Instant::now();
    let end = begin + phases.before + phases.fault + phases.after;
    let mut load = JoinSet::new();
    for number in 0..callers {
        load.spawn(call_until(end, running.address, number));
    }

    sleep_until(begin + phases.before).await;
    let (fault_at, at_fault) = fault.inject(&fleet).await?;
    sleep_until(begin + phases.before + phases.fault).await;
    let healed = Instant::now();
    fault.heal(&mut fleet).await?;
    sleep_until(end - phases.recovery()).await;
    let recovering = journal.mark()?;
    sleep_until(end).await;
    let marks = Marks {
        fault: at_fault,
        recovering,
        end: journal.mark()?,
    };

    let mut records = Vec::new();
    while let Some(of_one) = load.join_next().await {
        records.extend(of_one??);
    }
    running.stop().await;
    fleet.stop().await;
    let moments = Moments {
        fault: fault_at,
        healed,
    };
    Ok(Findings::of(&records, &journal.read()?, moments, marks))
}

async fn call_until(end: Instant, proxy: SocketAddr, number: u32) -> Result<Vec<Record>, BoxError> {
    let mut client = Client::new(proxy)?;
    let mut records = Vec::new();
    // Ids lie far apart, and each caller begins elsewhere in the mix.
    let mut id = u64::from(number) * 1_000_000_001;
    while Instant::now() < end {
        let kind = MIX[id as usize % MIX.len()];
        records.push(client.call(id, kind).await);
        id += 1;
    }
    Ok(records)
}

// === impl Phases ===

impl Phases {
    /// The last part, in which the healed replica's share is taken.
    pub(super) fn recovery(&self) -> Duration {
        self.after.mul_f64(0.4)
    }
}

// === impl Fleet ===

impl<'a> Fleet<'a> {
    async fn start(programs: &'a Programs, journal: &'a Journal) -> Result<Self, BoxError> {
        let mut fleet = Self {
            programs,
            journal,
            replicas: Vec::new(),
        };
        for (name, listen) in REPLICAS {
            fleet.replicas.push(fleet.replica(name, listen).await?);
        }
        Ok(fleet)
    }

    async fn replica(&self, name: &str, listen: &str) -> Result<Running, BoxError> {
        let journal = self.journal.path();
        let journal = journal.to_string_lossy();
        let arguments = [
            "replica",
            "--listen",
            listen,
            "--journal",
            &journal,
            "--name",
            name,
            "--work",
            WORK,
        ];
        self.programs.part(arguments).await
    }

    /// The words of the configurations that stand for the replicas.
    fn addresses(&self) -> Vec<(&'static str, String)> {
        let words = ["FIRST", "SECOND", "THIRD"].into_iter();
        let addresses = self.replicas.iter().map(|of| of.address.to_string());
        words.zip(addresses).collect()
    }

    pub(super) fn victim(&self) -> Result<&Running, BoxError> {
        Ok(self.replicas.first().ok_or("there are no replicas")?)
    }

    /// Starts it again where it was.
    pub(super) async fn replace_victim(&mut self) -> Result<(), BoxError> {
        let listen = self.victim()?.address.to_string();
        self.replicas[0] = self.replica(VICTIM, &listen).await?;
        Ok(())
    }

    async fn stop(self) {
        for replica in self.replicas {
            replica.stop().await;
        }
    }
}
