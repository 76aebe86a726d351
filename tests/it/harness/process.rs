//! Processes, as /proc shows them.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use super::within;

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

/// A child that is killed, and buried, when it is dropped.
#[derive(Debug)]
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    /// The first line on its stdout, which is then read on: nothing may block on a full pipe, or fail on a closed one.
    pub(crate) async fn first_line(&mut self) -> String {
        let mut stdout = BufReader::new(self.0.stdout.take().unwrap());
        let (send, line) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _read = stdout.read_line(&mut line);
            let _unheard = send.send(line);
            let _rest = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        line.await.unwrap()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A demo server over HTTP; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    _child: Owned,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn demo() -> Self {
        let mut command = Command::new(super::BIN);
        command
            .args(["demo", "--http", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = Owned(command.spawn().unwrap());
        let line = within("the demo server says where it listens", child.first_line()).await;
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = said["listen"].as_str().unwrap().parse().unwrap();
        Self {
            _child: child,
            address,
        }
    }
}
