//! The three tasks of a child.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

use super::{Child, Gone, StdioError, lines::Lines};
use crate::upstream::stdio::{
    pool::Seat,
    process::{Pipes, Process, drain},
};

/// How long a child that closed its stdout has to say how it ended, and one that ended to have its last words read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why the writer ended by itself.
enum Deaf {
    /// The child has closed its stdin, or ended.
    Closed,
    /// It has not read for too long.
    Stuck,
}

/// The tasks that the supervisor has.
struct Tasks {
    writer: JoinSet<Deaf>,
    reader: JoinSet<()>,
    errors: JoinSet<()>,
}

/// Starts the tasks. The supervisor belongs to `owner`, the others to the supervisor.
pub(super) fn start(
    child: &Arc<Child>,
    process: Process,
    pipes: Pipes,
    owner: &TaskTracker,
    seat: Seat,
) {
    let mut tasks = Tasks {
        writer: JoinSet::new(),
        reader: JoinSet::new(),
        errors: JoinSet::new(),
    };
    tasks.writer.spawn(write(child.clone(), pipes.stdin));
    tasks.reader.spawn(read(child.clone(), pipes.stdout));
    let (name, pid) = (child.settings.name.clone(), child.pid);
    tasks
        .errors
        .spawn(async move { drain(pipes.stderr, &name, pid).await });
    let child = child.clone();
    let deserted = Deserted(child.clone());
    owner.spawn(async move {
        supervise(child, process, tasks).await;
        drop(deserted);
        drop(seat);
    });
}

/// Tells the callers of a child whose supervisor ends before it has: it panicked, or its runtime is gone.
struct Deserted(Arc<Child>);

impl Drop for Deserted {
    fn drop(&mut self) {
        let child = &self.0;
        if child.desk().gone.is_none() {
            child.end(Gone::Stopped, "");
            let upstream = &*child.settings.name;
            tracing::error!(upstream, pid = child.pid, "the server is left alone");
        }
        child.desk().life.over();
    }
}

/// Waits for the end of the process, brings it about when asked to, and then ends everything that is left.
async fn supervise(child: Arc<Child>, mut process: Process, mut tasks: Tasks) {
    let (ended, stuck) = watch(&child, &mut process, &mut tasks).await;
    let asked = child.stop.is_cancelled();
    let (how, reason) = match ended {
        Some(how) => (how, "exited"),
        None if stuck => (Gone::Stuck, "stuck"),
        None if asked => (Gone::Stopped, ""),
        None => (Gone::Closed, "closed"),
    };
    let reason = child.end(how, reason);
    // Ending the writer closes stdin, which is the first step.
    tasks.writer.shutdown().await;
    if ended.is_none() {
        process.stop(child.settings.stop).await;
    } else {
        drop(process);
    }
    tasks.reader.shutdown().await;
    // What it said last is worth a log line, unless somebody else keeps the pipe open.
    let _late = tokio::time::timeout(LAST_WORDS, tasks.errors.join_next()).await;
    tasks.errors.shutdown().await;
    child.desk().life.over();
    child.meters.exit(reason);
    if reason == "exited" || reason == "closed" || reason == "stuck" {
        tracing::warn!(
            upstream = &*child.settings.name,
            pid = child.pid,
            "the server {how}"
        );
    } else {
        tracing::debug!(
            upstream = &*child.settings.name,
            pid = child.pid,
            reason,
            "the server has ended"
        );
    }
}

/// Waits until the process ends (then it says how) or is to be ended, perhaps because it does not read.
async fn watch(child: &Child, process: &mut Process, tasks: &mut Tasks) -> (Option<Gone>, bool) {
    tokio::select! {
        how = process.wait() => {
            // What it wrote before its end is still to be read, unless a grandchild keeps the pipe open.
            let _late = tokio::time::timeout(LAST_WORDS, tasks.reader.join_next()).await;
            (Some(how), false)
        }
        _ = tasks.reader.join_next(), if !tasks.reader.is_empty() => {
            (tokio::time::timeout(LAST_WORDS, process.wait()).await.ok(), false)
        }
        Some(deaf) = tasks.writer.join_next() => {
            child.desk().deaf = true;
            if !matches!(deaf, Ok(Deaf::Closed)) {
                return (None, true);
            }
            // It may be about to end, and may still answer what it has read.
            let ended = tokio::time::timeout(LAST_WORDS, async {
                let how = process.wait().await;
                let _read = tasks.reader.join_next().await;
                how
            });
            match ended.await {
                Ok(how) => (Some(how), false),
                // The process may have ended in that time, and left its pipe to somebody else.
                Err(_) => (process.ended(), true),
            }
        }
        () = child.stop.cancelled() => (None, false),
    }
}

/// Bytes that are being written, for the gauge.
struct Queued<'a>(&'a Child, usize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.0.meters.write_queue.decrement(self.1 as f64);
    }
}

/// Writes what gathers, until the child stops reading.
async fn write(child: Arc<Child>, mut stdin: ChildStdin) -> Deaf {
    let mut lines = BytesMut::new();
    loop {
        child.write.notified().await;
        loop {
            lines.clear();
            child.hand_over(&mut lines);
            if lines.is_empty() {
                break;
            }
            let queued = Queued(&child, lines.len());
            match write_all(&mut stdin, &lines, child.settings.stuck).await {
                Some(Ok(())) => {}
                Some(Err(_)) => return Deaf::Closed,
                None => return Deaf::Stuck,
            }
            drop(queued);
            if lines.capacity() > 1024 * 1024 {
                lines = BytesMut::new();
            }
        }
    }
}

/// Writes all of `lines`; `None` if nothing was read for `stuck`.
async fn write_all(
    stdin: &mut ChildStdin,
    mut lines: &[u8],
    stuck: Duration,
) -> Option<std::io::Result<()>> {
    while !lines.is_empty() {
        match tokio::time::timeout(stuck, stdin.write(lines)).await {
            Err(_) => return None,
            Ok(Ok(0)) => return Some(Err(std::io::ErrorKind::WriteZero.into())),
            Ok(Ok(wrote)) => lines = &lines[wrote..],
            Ok(Err(error)) => return Some(Err(error)),
        }
    }
    Some(Ok(()))
}

/// Reads lines to the end of stdout.
async fn read(child: Arc<Child>, mut stdout: ChildStdout) {
    const CHUNK: usize = 64 * 1024;
    let mut lines = Lines::new(child.settings.line_limit);
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut since = 0;
    loop {
        // A child that floods always has something to read, and would keep the worker, and the clocks that it drives, for itself.
        if since >= CHUNK {
            since = 0;
            tokio::task::yield_now().await;
        }
        if buffer.capacity() - buffer.len() < CHUNK / 4 {
            buffer.reserve(CHUNK);
        }
        match stdout.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                since += read;
                while let Some(cut) = lines.next(&mut buffer) {
                    child.take(cut);
                }
            }
        }
    }
}

impl Child {
    /// Gives the writer what has gathered.
    fn hand_over(&self, lines: &mut BytesMut) {
        let mut desk = self.desk();
        desk.taken = desk.next;
        std::mem::swap(lines, &mut desk.out);
    }

    /// The process has ended, or is made to: its calls fail, its sessions are over. Returns the reason for the metrics.
    fn end(&self, how: Gone, reason: &'static str) -> &'static str {
        let mut desk = self.desk();
        desk.gone = Some(how);
        let reason = desk.life.stop(reason);
        let taken = desk.taken;
        let calls: Vec<_> = desk.calls.drain().collect();
        let sessions: Vec<_> = desk.sessions.drain().map(|(_, session)| session).collect();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.meters.write_queue.decrement(desk.out.len() as f64);
        desk.out.clear();
        drop(desk);
        for session in sessions {
            session.end();
        }
        for (wire, pending) in calls {
            if let Some(session) = &pending.session {
                session.finish();
            }
            let sent = wire <= taken;
            pending.call.fail(StdioError::Gone { how, sent });
        }
        reason
    }
}
