//! Streams that stay open: what each costs in memory, and all of them in CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::caller::Caller;
use super::window::Window;
use super::{Era, Measured, PATIENCE, Plan, Tally, Target};

use crate::BoxError;
use crate::rpc::Events;
use crate::usage::{self, Processes};

/// How many streams are being opened at a time.
const OPENING: usize = 16;
/// Calls before memory is read for the first time, so that only the streams are counted.
const FIRST_CALLS: u32 = 200;

struct Stream {
    /// Held, since the connection ends with it.
    _caller: Caller,
    body: Incoming,
    events: Events,
}

pub(super) async fn measure(target: &Target, plan: &Plan) -> Result<Measured, BoxError> {
    let mut caller = Caller::connect(target.clone(), Era::Legacy, plan.callers).await?;
    for _ in 0..FIRST_CALLS {
        caller.echo_small().await?;
    }
    let processes = target.pid.map(Processes::of).transpose()?;
    let resident = || {
        processes
            .as_ref()
            .map(|of| usage::resident(&of.proxy) as i64)
    };
    let before = resident();

    let streams = timeout(PATIENCE, open(target, plan.callers))
        .await
        .map_err(|_| "the streams were not open in time")??;
    let window = Window::after(plan.warm_up, plan.window);
    let arrived = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn(stream.read(arrived.clone()));
    }
    let meter = window.meter(target).await?;
    let at_begin = arrived.load(Ordering::Relaxed);
    let mut measured = meter.stop(window).await?;
    measured.units = arrived.load(Ordering::Relaxed) - at_begin;
    measured.grown = resident().zip(before).map(|(after, before)| after - before);
    while let Some(ended) = tasks.try_join_next() {
        let mut tally = Tally::default();
        tally.error(&ended?);
        measured.add(tally);
    }
    Ok(measured)
}

/// Opens all streams, each in a session of its own, and reads the first event of each.
async fn open(target: &Target, streams: u32) -> Result<Vec<Stream>, BoxError> {
    let turns = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for number in 0..streams {
        let (target, turns) = (target.clone(), turns.clone());
        opening.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            Stream::open(target, number).await
        });
    }
    let mut streams = Vec::new();
    while let Some(stream) = opening.join_next().await {
        streams.push(stream??);
    }
    Ok(streams)
}

// === impl Stream ===

impl Stream {
    async fn open(target: Target, number: u32) -> Result<Self, BoxError> {
        let mut caller = Caller::connect(target, Era::Legacy, number).await?;
        let mut stream = Self {
            body: caller.listen(None).await?,
            _caller: caller,
            events: Events::default(),
        };
        stream.next().await?;
        Ok(stream)
    }

    /// Reads until the stream ends, which it should not, and says why.
    async fn read(mut self, arrived: Arc<AtomicU64>) -> BoxError {
        loop {
            match self.next().await {
                Ok(()) => arrived.fetch_add(1, Ordering::Relaxed),
                Err(error) => return error,
            };
        }
    }

    async fn next(&mut self) -> Result<(), BoxError> {
        while self.events.next().is_none() {
            let frame = self.body.frame().await.ok_or("a standing stream ended")??;
            if let Ok(bytes) = frame.into_data() {
                self.events.push(&bytes);
            }
        }
        Ok(())
    }
}
