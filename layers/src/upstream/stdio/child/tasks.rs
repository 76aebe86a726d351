//! The three tasks of a child.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    sync::OwnedSemaphorePermit,
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

use super::{Child, Gone, StdioError, UpWhile, input::Lines};
use crate::upstream::stdio::process::{Pipes, Process, drain};

/// How long a child that closed its stdout has to say how it ended, and one that ended to have its last words read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Starts the tasks. The supervisor belongs to `owner`, the others to the supervisor.
pub(super) fn start(
    child: &Arc<Child>,
    process: Process,
    pipes: Pipes,
    owner: &TaskTracker,
    place: OwnedSemaphorePermit,
) {
    let mut parts = JoinSet::new();
    parts.spawn(write(child.clone(), pipes.stdin));
    let mut reader = JoinSet::new();
    reader.spawn(read(child.clone(), pipes.stdout));
    let (name, pid) = (child.settings.name.clone(), child.pid);
    parts.spawn(async move {
        drain(pipes.stderr, &name, pid).await;
        None
    });
    let child = child.clone();
    owner.spawn(async move {
        supervise(child, process, parts, reader).await;
        drop(place);
    });
}

/// Waits for the end of the process, brings it about when asked to, and then ends everything that is left.
async fn supervise(
    child: Arc<Child>,
    mut process: Process,
    mut parts: JoinSet<Option<Gone>>,
    mut reader: JoinSet<()>,
) {
    let ready = UpWhile::new(&child.meters.ready);
    let mut stuck = None;
    let ended = loop {
        tokio::select! {
            how = process.wait() => {
                // What it wrote before its end is still to be read, unless a grandchild keeps the pipe open.
                let _late = tokio::time::timeout(LAST_WORDS, reader.join_next()).await;
                break Some(how);
            }
            _ = reader.join_next(), if !reader.is_empty() => {
                break tokio::time::timeout(LAST_WORDS, process.wait()).await.ok();
            }
            Some(part) = parts.join_next() => {
                // The writer ends early only if the child does not read, or has closed its stdin.
                if let Ok(Some(how)) = part {
                    stuck = Some(how);
                    break None;
                }
            }
            () = child.stop.cancelled() => break None,
        }
    };
    drop(ready);
    let stopping = UpWhile::new(&child.meters.stopping);
    let asked = child.stop.is_cancelled();
    let (how, reason) = match (ended, stuck) {
        (Some(how), _) => (how, "exited"),
        (None, Some(how)) => (how, "stuck"),
        (None, None) if asked => (Gone::Stopped, ""),
        (None, None) => (Gone::Closed, "closed"),
    };
    let reason = child.end(how, reason);
    if ended.is_none() {
        // Ending the writer closes stdin, which is the first step.
        parts.abort_all();
        while parts.join_next().await.is_some() {}
        process.stop(child.settings.stop).await;
    } else {
        drop(process);
    }
    reader.shutdown().await;
    parts.shutdown().await;
    drop(stopping);
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

/// Writes what gathers, until the child stops reading.
async fn write(child: Arc<Child>, mut stdin: ChildStdin) -> Option<Gone> {
    let mut lines = BytesMut::new();
    loop {
        child.write.notified().await;
        loop {
            lines.clear();
            std::mem::swap(&mut lines, &mut child.desk().out);
            if lines.is_empty() {
                break;
            }
            let wrote = write_all(&mut stdin, &lines, child.settings.stuck).await;
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            child.meters.write_queue.decrement(lines.len() as f64);
            match wrote {
                Some(Ok(())) => {}
                // It has closed its stdin. Its answers may still come; if it ends, the supervisor sees that.
                Some(Err(_)) => return Some(Gone::Stuck),
                None => return Some(Gone::Stuck),
            }
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
    loop {
        if buffer.capacity() - buffer.len() < CHUNK / 4 {
            buffer.reserve(CHUNK);
        }
        match stdout.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => lines.take(&mut buffer, &child),
        }
    }
}

impl Child {
    /// The process has ended, or is made to: its calls fail, its sessions are over. Returns the reason for the metrics.
    fn end(&self, how: Gone, reason: &'static str) -> &'static str {
        let mut desk = self.desk();
        desk.gone = Some(how);
        let reason = *desk.end.get_or_insert(reason);
        let calls: Vec<_> = desk.calls.drain().map(|(_, pending)| pending).collect();
        let sessions: Vec<_> = desk.sessions.drain().map(|(_, session)| session).collect();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.meters.write_queue.decrement(desk.out.len() as f64);
        desk.out.clear();
        drop(desk);
        for pending in calls {
            if let Some(session) = &pending.session {
                session.finish();
            }
            pending.call.fail(StdioError::Gone { how, sent: true });
        }
        for session in sessions {
            session.end();
        }
        reason
    }
}
