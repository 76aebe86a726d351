//! What an operator may know of a child.

use std::time::Duration;

use super::{Child, Stage};

/// What an operator may know of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildReport {
    /// The id of its process.
    pub pid: i32,
    /// `starting`, `warm`, `idle`, `leased` or `stopping`.
    pub state: &'static str,
    /// How many sessions it has.
    pub sessions: usize,
    /// How many requests it has not answered yet.
    pub pending: usize,
    /// For how long it has been there.
    pub age: Duration,
}

impl ChildReport {
    /// Whether it is not on its way out.
    pub fn is_working(&self) -> bool {
        self.state != Stage::Stopping.as_str()
    }

    /// The resident memory of its process in bytes, read now; nothing where the system has no `/proc`.
    pub fn memory(&self) -> Option<u64> {
        resident(self.pid)
    }
}

impl Child {
    /// What it is at; nothing once it is over.
    pub(in crate::upstream::stdio) fn report(&self) -> Option<ChildReport> {
        let desk = self.desk();
        Some(ChildReport {
            pid: self.pid,
            state: desk.stage()?.as_str(),
            sessions: desk.sessions.len(),
            pending: desk.calls.len(),
            age: self.age(),
        })
    }

    /// The resident memory of its process in bytes, while it takes requests.
    pub(in crate::upstream::stdio) fn memory(&self) -> Option<u64> {
        self.is_open().then(|| resident(self.pid))?
    }
}

fn resident(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
