//! The actor of a child: it owns the process, its pipes, and each call that was handed to it.
//!
//! Callers put their line into the outgoing buffer and a [`Call`] into the table, under one short lock. Three tasks do the rest: a writer,
//! which writes whatever has gathered in one go; a reader, which finds for each line the call that it belongs to; and a
//! supervisor, which waits for the end. On the wire the proxy's own ids and progress tokens are used: a number for each
//! call, and the same number as its token.

mod desk;
mod input;
mod lease;
mod life;
mod lines;
mod report;
mod sessions;
mod state;
mod tasks;

pub use self::report::ChildReport;
pub(super) use self::{lease::Lease, life::Stage};

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Extensions;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::desk::{Desk, Held, Pending};
use super::{
    call::{Call, Item},
    error::{Gone, StdioError},
    message::{Message, one_line, splice},
    meters::{Meters, Noise},
    pool::Seat,
    session::Session,
    settings::StdioSettings,
};
use crate::{
    mcp::{Era, Id, MessageFacts, wire},
    metrics::UpWhile,
};

/// A child process with everything that was handed to it.
#[derive(Debug)]
pub(super) struct Child {
    /// What it is for; nothing yet for one that was started ahead of need.
    role: OnceLock<Role>,
    pid: i32,
    /// Those that it was started with.
    settings: Arc<StdioSettings>,
    meters: Arc<Meters>,
    desk: Mutex<Desk>,
    /// There is something to write, or stdin is to be closed.
    write: Notify,
    /// Asks the supervisor to stop the process.
    stop: CancellationToken,
    /// Wakes whoever keeps the children, when it ends or is to be replaced.
    wake: Arc<Notify>,
    started: Instant,
    /// Milliseconds from `started` to the newest use.
    used: AtomicU64,
}

/// How long a server may still be at a call that was cancelled, unless it answers before. Servers that heed a cancellation never answer,
/// so that this is how long a cancellation keeps log messages from everybody else.
const GHOST: Duration = Duration::from_millis(500);

/// What a child is for. A server keeps to the era of its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) era: Era,
    /// Several clients share it, so nothing is guessed.
    pub(super) shared: bool,
}

/// What the children of a pool have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) meters: Arc<Meters>,
    /// Owns their supervisors.
    pub(super) tasks: TaskTracker,
    pub(super) wake: Arc<Notify>,
}

/// Who a request comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) session: Option<Arc<Session>>,
    /// It is the proxy that asks.
    pub(super) own: bool,
}

impl Child {
    /// Starts a process that holds a seat, perhaps ahead of need.
    pub(super) fn start(
        settings: &Arc<StdioSettings>,
        common: &Common,
        ahead: bool,
        seat: Seat,
    ) -> Result<Arc<Self>, StdioError> {
        let begin = Instant::now();
        let (process, pipes) = super::process::spawn(settings)?;
        common
            .meters
            .spawn_time
            .record(begin.elapsed().as_secs_f64());
        let child = Arc::new(Self {
            role: OnceLock::new(),
            pid: process.pid(),
            settings: settings.clone(),
            meters: common.meters.clone(),
            desk: Mutex::new(Desk::new(ahead)),
            write: Notify::new(),
            stop: CancellationToken::new(),
            wake: common.wake.clone(),
            started: begin,
            used: AtomicU64::new(0),
        });
        // The gauge of its state begins.
        drop(child.desk());
        tracing::debug!(
            upstream = &*settings.name,
            pid = child.pid,
            ahead,
            "started a server"
        );
        tasks::start(&child, process, pipes, &common.tasks, seat);
        Ok(child)
    }

    /// Says what it is for, and whether that is still ahead of need. False if it takes no requests any more.
    pub(super) fn assign(&self, role: Role, ahead: bool) -> bool {
        let mut desk = self.desk();
        if desk.life.end().is_some() || desk.deaf {
            return false;
        }
        let _first = self.role.set(role);
        if role.shared {
            // What it said before it was greeted is for nobody in particular.
            desk.early.clear();
        }
        if !ahead {
            desk.life.taken();
        }
        drop(desk);
        self.touch();
        true
    }

    pub(super) fn era(&self) -> Era {
        self.role.get().map_or(Era::Legacy, |role| role.era)
    }

    /// Several clients share it.
    pub(super) fn is_shared(&self) -> bool {
        self.role.get().is_some_and(|role| role.shared)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// It takes requests.
    pub(super) fn is_open(&self) -> bool {
        let desk = self.desk();
        desk.life.end().is_none() && !desk.deaf
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(now, Ordering::Relaxed);
    }

    /// Sends requests, all or none, and says where their answers come. On success the extensions are taken.
    pub(super) fn call(
        self: &Arc<Self>,
        body: &Bytes,
        requests: &[&MessageFacts],
        call: Arc<Call>,
        origin: &Origin,
        extensions: &mut Extensions,
    ) -> Result<Lease, StdioError> {
        /// What two numbers of the wire's add to a line, with its end.
        const GROWTH: usize = 41;
        let mut lines = Vec::with_capacity(requests.len());
        for message in requests {
            lines.push((*message, one_line(body.slice(message.span.clone()))));
        }
        let mut wires = Vec::with_capacity(lines.len());
        let mut desk = self.open_desk()?;
        if desk.calls.len() + lines.len() > self.settings.max_pending.get() {
            return Err(StdioError::Busy {
                what: "unanswered requests",
            });
        }
        self.room(&desk, lines.iter().map(|(_, l)| l.len() + GROWTH).sum())?;
        for (message, line) in lines {
            let Some((id, span)) = &message.id else {
                continue;
            };
            desk.next += 1;
            let wire = desk.next;
            let text = wire.to_string();
            let base = message.span.start;
            let shift = |span: &crate::mcp::Span| span.start - base..span.end - base;
            let mut edits = vec![(shift(span), text.as_str())];
            let token = message.progress_token.as_ref().map(|(token, span)| {
                edits.push((shift(span), text.as_str()));
                token.clone()
            });
            edits.sort_by_key(|(span, _)| span.start);
            self.write_line(&mut desk, splice(&line, &edits));
            if let Some(session) = &origin.session {
                session.begin();
            }
            desk.calls.insert(
                wire,
                Pending {
                    call: call.clone(),
                    id: id.clone(),
                    token,
                    session: origin.session.clone(),
                    initialize: message.is("initialize"),
                    quiet: origin.own || message.is("subscriptions/listen"),
                    detached: None,
                    _gauge: UpWhile::new(&self.meters.pending),
                },
            );
            wires.push(wire);
        }
        let client = !origin.own && !requests.iter().any(|m| m.is("initialize"));
        if client {
            let before = desk.life.served();
            let worn = self.is_worn(desk.life.serve(wires.len())) && !self.is_worn(before);
            if worn && self.is_shared() {
                self.wake.notify_one();
            }
        }
        drop(desk);
        self.touch();
        self.write.notify_one();
        Ok(Lease {
            child: self.clone(),
            call,
            wires,
            extensions: std::mem::take(extensions),
        })
    }

    /// So many requests are as many as it may have.
    fn is_worn(&self, served: u64) -> bool {
        self.settings
            .recycle
            .is_some_and(|most| served >= most.get())
    }

    /// Sends a message that has no answer.
    pub(super) fn tell(&self, message: Message) -> Result<(), StdioError> {
        let mut desk = self.open_desk()?;
        self.put(&mut desk, message)?;
        drop(desk);
        self.touch();
        self.write.notify_one();
        Ok(())
    }

    /// Forwards a client's cancellation of its own request, and ends that request's response.
    pub(super) fn cancel_by_client(
        &self,
        id: &Id,
        session: u64,
        line: &Bytes,
        span: &crate::mcp::Span,
    ) {
        let mut desk = self.desk();
        let found = desk.calls.iter().find(|(_, pending)| {
            pending.id == *id
                && pending
                    .session
                    .as_ref()
                    .is_some_and(|s| s.serial == session)
                && !pending.initialize
        });
        let Some(wire) = found.map(|(wire, _)| *wire) else {
            return;
        };
        let Some(pending) = desk.remove(wire) else {
            return;
        };
        let told = self.put(
            &mut desk,
            splice(line, &[(span.clone(), &wire.to_string())]),
        );
        self.haunt(&mut desk, wire, &pending);
        drop(desk);
        self.touch();
        self.write.notify_one();
        if told.is_err() {
            tracing::debug!(pid = self.pid, "a cancellation found no room");
        }
        // Nothing more is to be sent for it (MCP, cancellation): its response ends without an answer.
        pending.call.forgo();
    }

    /// Stops the process, for this reason.
    pub(super) fn stop(&self, why: &'static str) {
        let mut desk = self.desk();
        desk.life.stop(why);
        drop(desk);
        self.stop.cancel();
    }

    /// Gives up calls whose clients have gone and whose time is over.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut desk = self.desk();
        let over: Vec<u64> = desk
            .calls
            .iter()
            .filter(|(_, p)| p.detached.as_ref().is_some_and(|d| d.until <= now))
            .map(|(wire, _)| *wire)
            .collect();
        let over: Vec<Pending> = over
            .into_iter()
            .filter_map(|wire| self.cancel(&mut desk, wire, "timeout"))
            .collect();
        drop(desk);
        if !over.is_empty() {
            self.write.notify_one();
        }
    }

    /// Removes a request and tells the child, unless it is an `initialize`, which cannot be cancelled. What the request held
    /// is to be dropped when the desk is free again.
    fn cancel(&self, desk: &mut Desk, wire: u64, reason: &str) -> Option<Pending> {
        let pending = desk.remove(wire)?;
        self.touch();
        pending.call.forgo();
        self.haunt(desk, wire, &pending);
        if !pending.initialize && desk.life.end().is_none() {
            let line = Message::One(wire::cancelled(&Id::from_number(wire), reason));
            if self.put(desk, line).is_err() {
                tracing::debug!(pid = self.pid, "a cancellation found no room");
            }
        }
        Some(pending)
    }

    /// Notes that the server may go on with a request that was cancelled, and speak of it: among several clients, nobody else's
    /// call is the only one then.
    fn haunt(&self, desk: &mut Desk, wire: u64, pending: &Pending) {
        const MOST: usize = 256;
        if !self.is_shared() || pending.quiet {
            return;
        }
        if desk.ghosts.len() >= MOST {
            desk.ghosts.pop_front();
        }
        desk.ghosts.push_back((wire, Instant::now() + GHOST));
    }

    /// Puts a line into the outgoing buffer.
    fn put(&self, desk: &mut Desk, message: Message) -> Result<(), StdioError> {
        self.room(desk, message.len() + 1)?;
        self.write_line(desk, message);
        Ok(())
    }

    /// Whether the outgoing buffer takes so many bytes. What comes alone may be longer than it: the line limit bounds that.
    fn room(&self, desk: &Desk, len: usize) -> Result<(), StdioError> {
        if !desk.out.is_empty() && desk.out.len() + len > self.settings.buffer {
            return Err(StdioError::Busy {
                what: "unread requests",
            });
        }
        Ok(())
    }

    fn write_line(&self, desk: &mut Desk, message: Message) {
        let len = message.len() + 1;
        match message {
            Message::One(bytes) => desk.out.extend_from_slice(&bytes),
            Message::Many(parts) => parts
                .iter()
                .for_each(|part| desk.out.extend_from_slice(part)),
        }
        desk.out.extend_from_slice(b"\n");
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.meters.write_queue.increment(len as f64);
    }

    fn desk(&self) -> Held<'_> {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        Held::new(desk, self)
    }

    /// The desk, if requests are still taken.
    fn open_desk(&self) -> Result<Held<'_>, StdioError> {
        let desk = self.desk();
        let gone = match (desk.gone, desk.life.end()) {
            (Some(how), _) => Some(how),
            (None, Some(_)) => Some(Gone::Stopped),
            (None, None) => desk.deaf.then_some(Gone::Stuck),
        };
        match gone {
            Some(how) => Err(StdioError::Gone { how, sent: false }),
            None => Ok(desk),
        }
    }
}
