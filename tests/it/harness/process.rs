//! Processes, as /proc shows them.

use std::fs;

/// The state and the parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a process lives; one that only waits to be buried does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The living children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_some_and(|(state, parent)| parent == pid && state != 'Z'))
        .collect()
}

/// Its children, and theirs.
pub(crate) fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut at = 0;
    while let Some(next) = all.get(at).copied() {
        all.extend(children(next));
        at += 1;
    }
    all
}

/// How many descriptors a process has open.
pub(crate) fn fds(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The words that a process was started with.
pub(crate) fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Resident memory in bytes.
pub(crate) fn resident(pid: i32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most memory that was ever resident, in bytes.
pub(crate) fn peak(pid: i32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: i32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Sends a signal by its name, such as `TERM`.
pub(crate) fn signal(pid: i32, name: &str) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let signal = match name {
        "TERM" => rustix::process::Signal::TERM,
        "HUP" => rustix::process::Signal::HUP,
        "INT" => rustix::process::Signal::INT,
        "KILL" => rustix::process::Signal::KILL,
        "STOP" => rustix::process::Signal::STOP,
        other => panic!("no signal {other}"),
    };
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A demo server over HTTP; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: std::process::Child,
    pub(crate) address: std::net::SocketAddr,
}

impl Server {
    pub(crate) fn demo() -> Self {
        use std::io::BufRead;
        let mut child = std::process::Command::new(super::BIN)
            .args(["demo", "--http", "127.0.0.1:0"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = said["listen"].as_str().unwrap().parse().unwrap();
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
