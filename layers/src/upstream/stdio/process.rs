//! The process of a child: started in a group of its own, stopped in steps, never left behind.

use std::{process::ExitStatus, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use super::{
    error::{Gone, StdioError},
    reaper::{self, Watched},
    settings::{INHERITED, StdioSettings, Stop},
};

/// A running process and its group. Dropping it kills the group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Group,
}

/// The pipes of a process.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// A process group that is killed on drop, and then no longer watched.
#[derive(Debug)]
struct Group {
    id: Pid,
    _watched: Watched,
}

/// Starts the command of these settings.
pub(super) fn spawn(settings: &StdioSettings) -> Result<(Process, Pipes), StdioError> {
    let failed = |source| StdioError::Spawn {
        program: settings.program(),
        source,
    };
    let (program, args) = settings
        .command
        .split_first()
        .ok_or_else(|| failed(std::io::Error::other("the command is empty")))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .envs(settings.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(cwd) = &settings.cwd {
        command.current_dir(cwd);
    }
    let mut child = command.spawn().map_err(failed)?;
    let id = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| failed(std::io::Error::other("it has no process id")))?;
    let group = Group {
        id,
        _watched: reaper::watch(id),
    };
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(failed(std::io::Error::other("it has no pipes")));
    };
    let pipes = Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((Process { child, group }, pipes))
}

impl Process {
    /// The process id, which is also the group's.
    pub(super) fn pid(&self) -> i32 {
        self.group.id.as_raw_nonzero().get()
    }

    /// Waits until the process ends.
    pub(super) async fn wait(&mut self) -> Gone {
        self.child.wait().await.map_or(Gone::Closed, gone)
    }

    /// How the process ended, if it has.
    pub(super) fn ended(&mut self) -> Option<Gone> {
        self.child.try_wait().ok().flatten().map(gone)
    }

    /// Stops the process, whose stdin has been closed: it has time to leave by itself, then gets SIGTERM, then SIGKILL. What is left
    /// of its group is killed in any case.
    pub(super) async fn stop(mut self, steps: Stop) -> Gone {
        if let Some(gone) = self.wait_for(steps.stdin).await {
            return gone;
        }
        self.group.signal(Signal::TERM);
        if let Some(gone) = self.wait_for(steps.term).await {
            return gone;
        }
        self.group.signal(Signal::KILL);
        self.wait().await
    }

    async fn wait_for(&mut self, time: Duration) -> Option<Gone> {
        tokio::time::timeout(time, self.wait()).await.ok()
    }
}

fn gone(status: ExitStatus) -> Gone {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Gone::Exited(code),
        (None, Some(signal)) => Gone::Killed(signal),
        (None, None) => Gone::Closed,
    }
}

impl Group {
    fn signal(&self, signal: Signal) {
        // It fails only if nobody of the group is left.
        let _gone = kill_process_group(self.id, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Reads a child's stderr to its end and logs it line by line, the lines and their number bounded.
pub(super) async fn drain(stderr: ChildStderr, upstream: &str, pid: i32) {
    const LINE: u64 = 4096;
    /// Lines that are logged in full for each second of a child's life, on average, after a first burst.
    const RATE: f64 = 20.0;
    const BURST: f64 = 200.0;
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut tokens = BURST;
    let mut last = tokio::time::Instant::now();
    let mut dropped = 0_u64;
    loop {
        line.clear();
        match (&mut reader).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let now = tokio::time::Instant::now();
        tokens = ((now - last).as_secs_f64().mul_add(RATE, tokens)).min(BURST);
        last = now;
        if tokens < 1.0 {
            dropped += 1;
            continue;
        }
        tokens -= 1.0;
        if dropped > 0 {
            tracing::warn!(
                upstream,
                pid,
                dropped,
                "the server's stderr was too much to log"
            );
            dropped = 0;
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text
            .trim_end()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        tracing::info!(target: "ziggurat::stderr", upstream, pid, "{text}");
    }
}
