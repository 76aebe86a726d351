//! The state of one channel: what waits for its client, its session, and its calls.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    HttpSseSettings, NoChannel, SlowReader,
    body::{Farewell, Told},
    channels::Channels,
};
use crate::{exchange::Exchange, limit::Shed};

/// What is between an old client and its upstream.
pub(super) struct Channel {
    route: Option<Arc<str>>,
    principal: Option<Arc<str>>,
    most_calls: NonZeroUsize,
    buffer: usize,
    state: Mutex<State>,
}

/// The session that a client began through its channel.
#[derive(Clone, Default)]
pub(super) struct Session {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    slow: bool,
    waker: Option<Waker>,
    used: Option<Instant>,
    calls: usize,
    session: Session,
    /// What keeps the session's GET stream open.
    standing: Option<AbortHandle>,
    /// Calls, and the standing stream; aborted when the channel closes.
    tasks: JoinSet<()>,
    leave: Option<Leave>,
}

/// What is to be done when a channel closes, or begins another session. A session's end is the client's, so it does not wait for a client that reads.
pub(super) struct Leave {
    pub(super) channels: Channels,
    pub(super) token: Box<str>,
    pub(super) farewell: Farewell,
}

/// Calls in flight, as many as there are in one POST.
pub(super) struct InFlight(Arc<Channel>, usize);

/// Without the session's id.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

impl Channel {
    pub(super) fn new(exchange: &Exchange, settings: &HttpSseSettings) -> Self {
        Self {
            route: exchange.route().map(|route| route.name.clone()),
            principal: exchange.principal().cloned(),
            most_calls: settings.calls,
            buffer: settings.buffer,
            state: Mutex::new(State {
                used: Some(Instant::now()),
                ..State::default()
            }),
        }
    }

    /// Whether it is good for this request: the same route, the same principal.
    pub(super) fn is_for(&self, exchange: &Exchange) -> bool {
        self.route.as_ref() == exchange.route().map(|route| &route.name)
            && self.principal.as_ref() == exchange.principal()
    }

    /// Something for the client. What comes after the end is dropped; what is over the bound ends the channel.
    pub(super) fn push(&self, event: Bytes) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        state.used = Some(Instant::now());
        state.bytes += event.len();
        if state.bytes <= self.buffer || state.queue.is_empty() {
            state.queue.push_back(event);
            return wake(state);
        }
        (state.ended, state.slow) = (true, true);
        wake(state);
        self.close();
    }

    /// What is to be done when it closes.
    pub(super) fn on_close(&self, leave: Leave) {
        self.state().leave = Some(leave);
    }

    /// Nothing more is taken from its client.
    pub(super) fn is_ended(&self) -> bool {
        self.state().ended
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        wake(state);
    }

    /// The server does not know this session any more. Nothing more will come then, unless the channel has begun another since.
    pub(super) fn lose(&self, session: &HeaderValue) {
        let mut state = self.state();
        if state.session.id.as_ref() == Some(session) {
            state.ended = true;
            wake(state);
        }
    }

    /// The next event, the failure, or the end.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, SlowReader>>> {
        let mut state = self.state();
        if let Some(event) = state.queue.pop_front() {
            state.bytes -= event.len();
            return Poll::Ready(Some(Ok(event)));
        }
        if std::mem::take(&mut state.slow) {
            return Poll::Ready(Some(Err(SlowReader { limit: self.buffer })));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Until when it may stay as quiet as it is; `None` while there is a call.
    pub(super) fn quiet_until(&self, idle: Duration) -> Option<Instant> {
        let state = self.state();
        (state.calls == 0).then(|| state.used.unwrap_or_else(Instant::now) + idle)
    }

    /// Its session, as far as it has one.
    pub(super) fn session(&self) -> Session {
        self.state().session.clone()
    }

    /// It has a session now. The one before is ended, with its GET stream; or the new one, if the channel is at its end already.
    pub(super) fn begin_session(&self, session: Session) {
        // An `initialize` that failed, or a server that has no sessions.
        if session.id.is_none() {
            return;
        }
        let mut state = self.state();
        let over = if state.ended {
            session
        } else {
            if let Some(standing) = state.standing.take() {
                standing.abort();
            }
            let same = state.session.id == session.id;
            let before = std::mem::replace(&mut state.session, session);
            if same {
                return;
            }
            before
        };
        let farewell = state.farewell(over);
        drop(state);
        say(farewell);
    }

    /// The revision that was negotiated.
    pub(super) fn negotiated(&self, version: HeaderValue) {
        self.state().session.version = Some(version);
    }

    /// So many calls begin, all or none. Once it has ended nobody would run them, nor hear that there are too many.
    pub(super) fn begin(
        self: &Arc<Self>,
        calls: usize,
    ) -> Result<Result<InFlight, Shed>, NoChannel> {
        let mut state = self.state();
        if state.ended {
            return Err(NoChannel);
        }
        let limit = self.most_calls.get();
        if calls > limit.saturating_sub(state.calls) {
            let what = "calls of one event stream";
            return Ok(Err(Shed { limit, what }));
        }
        state.calls += calls;
        state.used = Some(Instant::now());
        Ok(Ok(InFlight(self.clone(), calls)))
    }

    /// It was used.
    pub(super) fn touch(&self) {
        self.state().used = Some(Instant::now());
    }

    /// Runs what keeps the session's GET stream open, if there is a session; once for each.
    pub(super) fn stand(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state();
        if !state.ended && state.session.id.is_some() && state.standing.is_none() {
            state.standing = Some(state.tasks.spawn(task));
        }
    }

    /// Runs something for as long as the channel is open.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state();
        while state.tasks.try_join_next().is_some() {}
        if !state.ended {
            state.tasks.spawn(task);
        }
    }

    /// Ends all that goes on: its calls are dropped, its session is ended.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.ended = true;
        state.queue.clear();
        let tasks = std::mem::take(&mut state.tasks);
        let session = std::mem::take(&mut state.session);
        let farewell = state.farewell(session);
        let leave = state.leave.as_ref();
        let place = leave.map(|leave| (leave.channels.clone(), leave.token.clone()));
        drop(state);
        // Aborts them.
        drop(tasks);
        if let Some((channels, token)) = place {
            channels.remove(&token);
        }
        say(farewell);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How a session is ended, if it is one.
    fn farewell(&mut self, session: Session) -> Option<(Channels, Told)> {
        let leave = self.leave.as_mut().filter(|_| session.id.is_some())?;
        Some((leave.channels.clone(), (leave.farewell)(session)))
    }
}

/// Ends a session, outside the lock.
fn say(farewell: Option<(Channels, Told)>) {
    if let Some((channels, told)) = farewell {
        channels.say_farewell(told);
    }
}

/// Wakes the reader, outside the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.calls -= self.1;
        state.used = Some(Instant::now());
        // The body may wait for just this: to end, or for its idle clock to begin.
        wake(state);
    }
}
