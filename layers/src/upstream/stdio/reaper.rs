//! What kills the children when the proxy is killed hard.
//!
//! A parent-death signal follows a thread and is lost on fork, so it does not do. Instead a small process holds a pipe to the
//! proxy: it is told of each process group that begins and ends, and when the pipe closes without a goodbye, which is what
//! the death of the proxy looks like, it kills the groups that are left. It is a few lines of POSIX shell, so that
//! a program that embeds this crate needs no second binary. One serves the whole process, and lives in a group of its own, out of
//! reach of a terminal's Ctrl-C.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::Pid;

/// Reads `+ PGID` and `- PGID`; at the end of its input it kills what is left. (`-s`, since dash takes no `--` after `-KILL`.)
const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=' '
while read -r op id; do
  case $op in
    +) groups="$groups$id " ;;
    -) case $groups in *" $id "*) groups="${groups%%" $id "*} ${groups#*" $id "}" ;; esac ;;
  esac
done
for id in $groups; do kill -s KILL -- "-$id" 2>/dev/null; done
"#;

/// A process group that the reaper watches; forgotten on drop, which comes after the group is dead.
#[derive(Debug)]
pub(super) struct Watched(Pid);

/// The reaper, and what it is to know.
#[derive(Debug, Default)]
struct Reaper {
    process: Option<Child>,
    groups: BTreeSet<i32>,
    /// It cannot be started.
    given_up: bool,
}

/// Puts a process group under the reaper's watch.
pub(super) fn watch(group: Pid) -> Watched {
    let id = group.as_raw_nonzero().get();
    let mut reaper = reaper();
    reaper.groups.insert(id);
    reaper.tell('+', id);
    Watched(group)
}

/// The process id of the reaper.
#[cfg(test)]
pub(super) fn pid() -> Option<u32> {
    reaper().process.as_ref().map(Child::id)
}

impl Drop for Watched {
    fn drop(&mut self) {
        let id = self.0.as_raw_nonzero().get();
        let mut reaper = reaper();
        reaper.groups.remove(&id);
        reaper.tell('-', id);
    }
}

fn reaper() -> MutexGuard<'static, Reaper> {
    static REAPER: Mutex<Reaper> = Mutex::new(Reaper {
        process: None,
        groups: BTreeSet::new(),
        given_up: false,
    });
    REAPER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reaper {
    /// Tells it of one change; a new one is told everything.
    fn tell(&mut self, op: char, id: i32) {
        if self.given_up || self.write(&format!("{op} {id}\n")).is_ok() {
            return;
        }
        let told = self.start().and_then(|()| {
            let all: String = self.groups.iter().map(|id| format!("+ {id}\n")).collect();
            self.write(&all)
        });
        if let Err(error) = told {
            self.given_up = true;
            tracing::warn!(%error, "no reaper: children may outlive a proxy that is killed hard");
        }
    }

    /// A line is far below PIPE_BUF, and the reaper always reads: this does not block.
    fn write(&mut self, lines: &str) -> io::Result<()> {
        let pipe = self.process.as_mut().and_then(|p| p.stdin.as_mut());
        let pipe = pipe.ok_or(io::ErrorKind::NotConnected)?;
        pipe.write_all(lines.as_bytes())
    }

    fn start(&mut self) -> io::Result<()> {
        use std::os::unix::process::CommandExt;
        if let Some(mut dead) = self.process.take() {
            // It reads no more, so it is dead or about to be.
            dead.kill()?;
            dead.wait()?;
            tracing::warn!("the reaper has died; another takes its place");
        }
        let started = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "ziggurat-reaper"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        self.process = Some(started);
        Ok(())
    }
}
