//! What processes have used, as `/proc` tells it.

use std::fs;
use std::io;
use std::time::Duration;

/// The argument by which the server behind a bridge is told from the bridge.
const SERVER: &str = "echo-stdio";

/// A proxy's processes: the one that was started and its descendants (nginx has workers), without the
/// stdio servers among them, which are listed apart.
#[derive(Default)]
pub(crate) struct Processes {
    pub(crate) proxy: Vec<u32>,
    pub(crate) servers: Vec<u32>,
}

impl Processes {
    pub(crate) fn of(root: u32) -> io::Result<Self> {
        let mut found = Self::default();
        let parents = parents()?;
        let mut unseen = vec![root];
        while let Some(pid) = unseen.pop() {
            if is_server(pid) {
                found.servers.push(pid);
            } else {
                found.proxy.push(pid);
            }
            let children = parents.iter().filter(|(_, parent)| *parent == pid);
            unseen.extend(children.map(|(child, _)| *child));
        }
        Ok(found)
    }
}

/// User and system time of all threads, also of those that have ended. A process that is gone counts
/// nothing.
pub(crate) fn cpu(pids: &[u32]) -> Duration {
    let ticks: u64 = pids
        .iter()
        .filter_map(|pid| fields(*pid))
        .filter_map(|fields| {
            let time = |index: usize| fields.get(index)?.parse::<u64>().ok();
            Some(time(11)? + time(12)?)
        })
        .sum();
    ticks_to_time(ticks)
}

/// It was stopped by a signal, and has noticed.
pub(crate) fn is_stopped(pid: u32) -> bool {
    fields(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "T"))
}

/// Bytes in memory.
pub(crate) fn resident(pids: &[u32]) -> u64 {
    let of_one = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    pids.iter().filter_map(of_one).sum::<u64>() * 1024
}

/// What the whole machine has spent on work.
pub(crate) fn machine() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let times = stat.lines().next().unwrap_or_default();
    let ticks = times
        .split_ascii_whitespace()
        .skip(1)
        .take(8)
        .enumerate()
        // Neither idle nor waiting for a disk.
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    Ok(ticks_to_time(ticks))
}

fn ticks_to_time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Each process with its parent.
fn parents() -> io::Result<Vec<(u32, u32)>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else {
            continue;
        };
        let parent = fields(pid).and_then(|fields| fields.get(1)?.parse().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(parents)
}

/// What `/proc/PID/stat` says after the name, which may itself hold spaces: state, parent, …
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(
        after_name
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
    )
}

fn is_server(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(1) == Some(SERVER.as_bytes())
}
