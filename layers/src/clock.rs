//! A clock over a future or body: armed only when something has to be waited for, and moved by what is due
//! rather than reset with each frame.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::exchange::Exchange;

/// A lazy timer. Handing it from a future to a body keeps it armed.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
}

/// When a clock runs out.
pub(crate) enum Due {
    /// At this time, as things stand.
    At(Instant),
    /// Not now: a client is being asked. To be looked at again after this time.
    Paused(Duration),
}

impl Clock {
    /// Ready when what is due has come. To be polled after whatever it limits, so that a finished answer wins.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, due: impl Fn() -> Due) -> Poll<()> {
        let at = |due| match due {
            Due::At(at) => at,
            Due::Paused(again) => Instant::now() + again,
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(at(due()))));
        loop {
            ready!(sleep.as_mut().poll(cx));
            match due() {
                Due::At(at) if at <= Instant::now() => return Poll::Ready(()),
                next => sleep.as_mut().reset(at(next)),
            }
        }
    }
}

/// When `limit` of silence is over: counted from `start`, or from the end of the newest question to the client.
pub(crate) fn due(exchange: &Exchange, start: Instant, limit: Duration) -> Due {
    let wait = exchange.wait();
    if wait.open {
        return Due::Paused(limit);
    }
    Due::At(start.max(wait.ended.unwrap_or(start)) + limit)
}
