//! What kills the children when the proxy is killed hard.
//!
//! A parent-death signal follows a thread and is lost on fork, so it does not do. Instead a small process holds a pipe to the
//! proxy: it is told of each process group that begins and ends, and when the pipe closes without a goodbye, which is what
//! the death of the proxy looks like, it kills the groups that are left. It is a few lines of POSIX shell, so that
//! a program that embeds this crate needs no second binary. One serves the whole process, and lives in a group of its own, out of
//! reach of a terminal's Ctrl-C.

use std::{
    io::Write,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
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

/// Puts a process group under the reaper's watch.
pub(super) fn watch(group: Pid) -> Watched {
    tell('+', group);
    Watched(group)
}

impl Drop for Watched {
    fn drop(&mut self) {
        tell('-', self.0);
    }
}

/// The pipe to the reaper; `None` where it could not be started, or has gone.
fn pipe() -> &'static Mutex<Option<ChildStdin>> {
    static PIPE: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    PIPE.get_or_init(|| Mutex::new(start()))
}

fn start() -> Option<ChildStdin> {
    use std::os::unix::process::CommandExt;
    let started = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "ziggurat-reaper"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    match started {
        Ok(mut child) => child.stdin.take(),
        Err(error) => {
            tracing::warn!(%error, "no reaper: children may outlive a proxy that is killed hard");
            None
        }
    }
}

fn tell(op: char, group: Pid) {
    let mut pipe = pipe().lock().unwrap_or_else(PoisonError::into_inner);
    // A line is far below PIPE_BUF, and the reaper always reads: this does not block.
    let line = format!("{op} {}\n", group.as_raw_nonzero());
    let told = pipe.as_mut().map(|pipe| pipe.write_all(line.as_bytes()));
    if let Some(Err(error)) = told {
        tracing::warn!(%error, "the reaper is gone: children may outlive a proxy that is killed hard");
        *pipe = None;
    }
}
