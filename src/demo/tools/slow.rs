//! The tools that take time, or speak before they answer.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use super::ask::Question;
use super::{failure, structured, success};
use crate::demo::call::Desk;
use crate::demo::changes::{Change, List};
use crate::demo::engine::Transport;
use crate::demo::resources;
use crate::demo::revision::Level;

/// The longest that a tool waits between two signs of life.
const LONGEST: Duration = Duration::from_secs(3600);
const MAX_STEPS: u64 = 1_000_000;

/// A tool with its arguments, ready to run.
#[derive(Debug)]
pub(crate) enum Slow {
    /// Waits.
    Sleep(Sleep),
    /// Reports progress.
    Progress(Progress),
    /// Logs.
    Log(Log),
    /// Logs a lot.
    Flood(Flood),
    /// Ticks the clock, or says that a list has changed.
    Tick(Tick),
    /// Writes a line that is no message.
    Garbage,
    /// Starts a process.
    SpawnChild(SpawnChild),
    /// Asks the client, in a session.
    Ask(Question),
}

#[derive(Debug, Deserialize)]
pub(crate) struct Sleep {
    ms: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Progress {
    steps: u64,
    #[serde(default)]
    interval_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Log {
    message: String,
    level: Option<Level>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Flood {
    lines: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tick {
    list: Option<List>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SpawnChild {
    #[serde(default)]
    inherit_stdout: bool,
}

// === impl Slow ===

impl Slow {
    /// Runs to the tool's result.
    pub(crate) async fn run(self, desk: &Desk) -> Value {
        match self {
            Self::Sleep(given) => {
                pause(given.ms).await;
                success(format!("slept for {} ms", given.ms))
            }
            Self::Progress(given) => progress(&given, desk).await,
            Self::Log(given) => {
                let sent = desk
                    .log(given.level.unwrap_or(Level::Info), &given.message)
                    .await;
                success(if sent {
                    "logged"
                } else {
                    "not logged: the client does not want it"
                })
            }
            Self::Flood(given) => flood(&given, desk).await,
            Self::Tick(given) => tick(&given, desk),
            Self::Garbage => {
                desk.garbage().await;
                success("the line before this one is not JSON")
            }
            Self::SpawnChild(given) => spawn_child(&given, desk),
            Self::Ask(question) => question.ask(desk).await,
        }
    }
}

async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms).min(LONGEST)).await;
    }
}

async fn progress(given: &Progress, desk: &Desk) -> Value {
    let steps = given.steps.min(MAX_STEPS);
    for step in 1..=steps {
        pause(given.interval_ms).await;
        desk.progress(step, steps).await;
    }
    success(format!("{steps} steps done"))
}

/// Log messages, or progress for a modern caller that wants progress but no log.
async fn flood(given: &Flood, desk: &Desk) -> Value {
    let lines = given.lines.min(MAX_STEPS);
    let mut logged = 0_u64;
    for line in 1..=lines {
        if desk
            .log(Level::Info, &format!("line {line} of {lines}"))
            .await
        {
            logged += 1;
        } else {
            desk.progress(line, lines).await;
        }
    }
    success(format!("{logged} of {lines} lines logged"))
}

fn tick(given: &Tick, desk: &Desk) -> Value {
    if let Some(list) = given.list {
        desk.engine.changes().tell(Change::List(list));
        return success("told that the list has changed");
    }
    let ticks = desk.engine.tick();
    desk.engine
        .changes()
        .tell(Change::Resource(resources::CLOCK));
    structured(
        format!("the clock has ticked {ticks} times"),
        json!({"ticks": ticks}),
    )
}

/// Over stdio the process is left behind on purpose, as a careless server does; over HTTP it dies with this server,
/// which may share its process with others.
fn spawn_child(given: &SpawnChild, desk: &Desk) -> Value {
    let stdio = desk.engine.transport() == Transport::Stdio;
    let stdout = if stdio && given.inherit_stdout {
        Stdio::inherit()
    } else {
        Stdio::null()
    };
    let mut command = Command::new("sleep");
    command
        .arg("600")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::null())
        .kill_on_drop(!stdio);
    match desk.engine.spawn(command) {
        Ok(pid) => structured(
            format!("started process {}", json!(pid)),
            json!({"pid": pid}),
        ),
        Err(error) => failure(format!("no process was started: {}", error.kind())),
    }
}
