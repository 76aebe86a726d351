//! The actor of a child: it owns the process, its pipes, and each call that was handed to it.
//!
//! Callers put their line into the outgoing buffer and a [`Call`] into the table, under one short lock. Three tasks do the rest: a writer,
//! which writes whatever has gathered in one go; a reader, which finds for each line the call that it belongs to; and a
//! supervisor, which waits for the end. On the wire the proxy's own ids and progress tokens are used: a number for each
//! call, and the same number as its token.

mod input;
mod tasks;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::Extensions;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    call::{Call, Item},
    error::{Gone, StdioError},
    message::{Message, one_line, splice, unsubscribe},
    meters::{Meters, Noise},
    session::Session,
    settings::StdioSettings,
};
use crate::{
    deadline::ExpiresAt,
    mcp::{Era, Id, MessageFacts, wire},
    metrics::UpWhile,
};

/// A child process with everything that was handed to it.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) era: Era,
    /// Several clients share it, so nothing is guessed.
    shared: bool,
    pid: i32,
    settings: Arc<StdioSettings>,
    meters: Arc<Meters>,
    desk: Mutex<Desk>,
    /// There is something to write, or stdin is to be closed.
    write: Notify,
    /// Asks the supervisor to stop the process.
    stop: CancellationToken,
    started: Instant,
    /// Milliseconds from `started` to the newest use.
    used: AtomicU64,
}

/// What is under the lock.
#[derive(Debug, Default)]
struct Desk {
    next: u64,
    calls: HashMap<u64, Pending>,
    sessions: HashMap<u64, Arc<Session>>,
    /// What came before there was a session to take it.
    early: VecDeque<Message>,
    out: BytesMut,
    /// The newest request that the writer has taken.
    taken: u64,
    /// Requests that were cancelled, and until when their server may still be at them.
    ghosts: VecDeque<(u64, Instant)>,
    /// It has closed its stdin.
    deaf: bool,
    /// Why it ends, once it does.
    end: Option<&'static str>,
    gone: Option<Gone>,
    /// The gauge of its state.
    stage: Option<UpWhile>,
}

/// A request on the wire.
#[derive(Debug)]
struct Pending {
    call: Arc<Call>,
    id: Id,
    token: Option<Id>,
    session: Option<Arc<Session>>,
    initialize: bool,
    /// A subscription, or a request of the proxy's own: nothing but what bears its id belongs to it.
    quiet: bool,
    /// Since when its client is gone, and what is kept for it (permits, the exchange).
    detached: Option<Detached>,
    _gauge: UpWhile,
}

#[derive(Debug)]
struct Detached {
    until: Instant,
    _extensions: Extensions,
}

/// How long a call whose client has gone is kept, if it has no deadline.
const DETACHED: Duration = Duration::from_secs(3600);

/// How long a server may still be at a call that was cancelled, unless it answers before. Servers that heed a cancellation never answer,
/// so that this is how long a cancellation keeps log messages from everybody else.
const GHOST: Duration = Duration::from_millis(500);

/// A request that was handed over, for as long as somebody waits for it. Dropping it before its end says so to the child, or
/// leaves the call with the child, as era and reason have it.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) child: Arc<Child>,
    pub(super) call: Arc<Call>,
    pub(super) wires: Vec<u64>,
    pub(super) extensions: Extensions,
}

/// Who a request comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) session: Option<Arc<Session>>,
    /// It is the proxy that asks.
    pub(super) own: bool,
}

impl Child {
    /// Starts a process.
    pub(super) fn start(
        settings: &Arc<StdioSettings>,
        meters: &Arc<Meters>,
        era: Era,
        shared: bool,
        owner: &tokio_util::task::TaskTracker,
        place: OwnedSemaphorePermit,
    ) -> Result<Arc<Self>, StdioError> {
        let begin = Instant::now();
        let (process, pipes) = super::process::spawn(settings)?;
        meters.spawn_time.record(begin.elapsed().as_secs_f64());
        let child = Arc::new(Self {
            era,
            shared,
            pid: process.pid(),
            settings: settings.clone(),
            meters: meters.clone(),
            desk: Mutex::new(Desk {
                stage: Some(UpWhile::new(&meters.starting)),
                ..Desk::default()
            }),
            write: Notify::new(),
            stop: CancellationToken::new(),
            started: begin,
            used: AtomicU64::new(0),
        });
        tracing::debug!(
            upstream = &*settings.name,
            pid = child.pid,
            era = era.as_str(),
            "started a server"
        );
        tasks::start(&child, process, pipes, owner, place);
        Ok(child)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// It takes requests.
    pub(super) fn is_open(&self) -> bool {
        let desk = self.desk();
        desk.end.is_none() && desk.gone.is_none() && !desk.deaf
    }

    /// It is being stopped.
    pub(super) fn is_leaving(&self) -> bool {
        let desk = self.desk();
        (desk.end.is_some() || desk.gone.is_some()) && desk.stage.is_some()
    }

    /// It has answered its first request.
    pub(super) fn ready(&self) {
        let mut desk = self.desk();
        if desk.gone.is_none() {
            desk.stage = Some(UpWhile::new(&self.meters.ready));
        }
    }

    /// Stops it if it has neither sessions nor calls, and has had none for `idle` or is older than `lifetime`.
    pub(super) fn stop_unused(&self, idle: Duration, lifetime: Option<Duration>) {
        let mut desk = self.desk();
        if !desk.calls.is_empty() || !desk.sessions.is_empty() || desk.end.is_some() {
            return;
        }
        let age = self.started.elapsed();
        let unused = age.saturating_sub(Duration::from_millis(self.used.load(Ordering::Relaxed)));
        if unused >= idle {
            desk.end = Some("idle");
        } else if lifetime.is_some_and(|most| age >= most) {
            desk.end = Some("lifetime");
        } else {
            return;
        }
        drop(desk);
        self.stop.cancel();
    }

    /// Requests that have no answer yet.
    pub(super) fn pending(&self) -> usize {
        self.desk().calls.len()
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

    /// Adds a session, whose client gets what belongs to no call.
    pub(super) fn join(&self, session: Arc<Session>) -> Result<(), StdioError> {
        let mut desk = self.open_desk()?;
        let early = std::mem::take(&mut desk.early);
        desk.sessions.insert(session.serial, session.clone());
        drop(desk);
        for message in early {
            session.deliver(message, self.settings.buffer);
        }
        Ok(())
    }

    /// Keeps a message for the session that is about to begin.
    fn early(&self, message: Message) {
        const MOST: usize = 64;
        let mut desk = self.desk();
        if desk.early.len() < MOST {
            desk.early.push_back(message.compact());
        } else {
            self.meters.noise(Noise::Nobody);
        }
    }

    /// Takes a session away: its calls fail, and so end its subscriptions at a shared child.
    pub(super) fn leave(&self, session: &Session) {
        let serial = session.serial;
        let mut desk = self.desk();
        desk.sessions.remove(&serial);
        let theirs: Vec<u64> = desk
            .calls
            .iter()
            .filter(|(_, p)| p.session.as_ref().is_some_and(|s| s.serial == serial))
            .map(|(wire, _)| *wire)
            .collect();
        let over: Vec<Pending> = theirs
            .into_iter()
            .filter_map(|wire| {
                let pending = desk.calls.get(&wire)?;
                pending.call.fail(StdioError::SessionGone);
                self.cancel(&mut desk, wire, "the session has ended")
            })
            .collect();
        for uri in session.subscriptions() {
            if !desk.sessions.values().any(|s| s.is_subscribed(&uri)) {
                self.unsubscribe(&mut desk, &uri);
            }
        }
        drop(desk);
        drop(over);
        self.write.notify_one();
    }

    /// Tells the child that nobody wants a resource's updates any more.
    fn unsubscribe(&self, desk: &mut Desk, uri: &str) {
        if desk.end.is_some() || desk.gone.is_some() {
            return;
        }
        let wire = desk.next + 1;
        if self
            .put(desk, Message::One(unsubscribe(wire, uri)))
            .is_err()
        {
            return;
        }
        desk.next = wire;
        desk.calls.insert(
            wire,
            Pending {
                call: Arc::new(Call::new(1, 0)),
                id: Id::from_number(0),
                token: None,
                session: None,
                initialize: false,
                quiet: true,
                // Nobody waits for the answer.
                detached: Some(Detached {
                    until: Instant::now() + self.settings.handshake,
                    _extensions: Extensions::new(),
                }),
                _gauge: UpWhile::new(&self.meters.pending),
            },
        );
    }

    /// Sessions that are there.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.desk().sessions.values().cloned().collect()
    }

    /// Stops the process, for this reason.
    pub(super) fn stop(&self, why: &'static str) {
        let mut desk = self.desk();
        if desk.end.is_none() {
            desk.end = Some(why);
        }
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
        if !pending.initialize && desk.end.is_none() && desk.gone.is_none() {
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
        if !self.shared || pending.quiet {
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

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The desk, if requests are still taken.
    fn open_desk(&self) -> Result<MutexGuard<'_, Desk>, StdioError> {
        let desk = self.desk();
        match (desk.gone, desk.end) {
            (Some(how), _) => Err(StdioError::Gone { how, sent: false }),
            (None, Some(_)) => Err(StdioError::Gone {
                how: Gone::Stopped,
                sent: false,
            }),
            (None, None) if desk.deaf => Err(StdioError::Gone {
                how: Gone::Stuck,
                sent: false,
            }),
            (None, None) => Ok(desk),
        }
    }
}

impl Desk {
    fn remove(&mut self, wire: u64) -> Option<Pending> {
        let pending = self.calls.remove(&wire)?;
        if let Some(session) = &pending.session {
            session.finish();
        }
        Some(pending)
    }

    /// The server may be at a call that was cancelled.
    fn is_haunted(&mut self) -> bool {
        let now = Instant::now();
        while self.ghosts.front().is_some_and(|(_, until)| *until <= now) {
            self.ghosts.pop_front();
        }
        !self.ghosts.is_empty()
    }
}

impl Lease {
    /// Every answer has been read.
    pub(super) fn is_done(&self) -> bool {
        self.call.is_drained()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let exchange = self.extensions.get::<Arc<crate::exchange::Exchange>>();
        let why = exchange.and_then(|e| e.gave_up());
        let standing = exchange
            .and_then(|e| e.call())
            .is_some_and(|c| c.is_standing());
        let extensions = std::mem::take(&mut self.extensions);
        let mut desk = self.child.desk();
        self.wires.retain(|wire| desk.calls.contains_key(wire));
        if self.wires.is_empty() {
            drop(desk);
            return;
        }
        let _unread = self.call.detach();
        let modern = self.child.era == Era::Modern || standing;
        let reason = why.map(|why| why.as_str());
        let mut over = Vec::new();
        if let Some(reason) = reason.or(modern.then_some("the client went away")) {
            for wire in &self.wires {
                over.extend(self.child.cancel(&mut desk, *wire, reason));
            }
        } else {
            // Legacy: going away is not a cancel. The child goes on, and so does what the call holds.
            let until = extensions
                .get::<ExpiresAt>()
                .map_or_else(|| Instant::now() + DETACHED, |e| e.0);
            for wire in &self.wires {
                if let Some(pending) = desk.calls.get_mut(wire) {
                    pending.detached = Some(Detached {
                        until,
                        _extensions: extensions.clone(),
                    });
                }
            }
        }
        drop(desk);
        self.child.write.notify_one();
    }
}
