//! What clients notice when the event streams of the server behind ziggurat are cut at random: whether an event is lost, or
//! comes twice, and whether a call fails or is executed twice.
//!
//! Every event carries its number. A client whose own stream ends all the same comes back with `Last-Event-ID`, as the SDKs do, and that is counted.
//! The server is a [`cutter`](crate::cutter).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::BoxError;
use crate::contender::{Programs, Proxy, Transport};
use crate::cutter::{Counts, STEPS};
use crate::load::{Caller, Era, Target, open};
use crate::rpc::{Events, Reply};

/// How many streams are being opened at a time.
const OPENING: usize = 16;
/// How long calls may take that are under way at the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// A standing stream of which nothing came for so long before the end is counted: cuts and pauses are far shorter.
const SILENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The ziggurat program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    ziggurat: Option<PathBuf>,
    /// Standing streams, each in a session of its own
    #[arg(long, default_value_t = 1000)]
    streams: u32,
    /// Calls a second
    #[arg(long, default_value_t = 200.0)]
    calls: f64,
    /// How long all that lasts
    #[arg(long, default_value_t = 120.0)]
    seconds: f64,
    /// How many seconds a standing stream lives on average until it is cut
    #[arg(long, default_value_t = 10.0)]
    life: f64,
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    /// Streams that ended for the client.
    noticed: AtomicU64,
    /// Streams that stood to the end, and said nothing any more.
    silent: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

/// A standing stream, as its client has it.
struct Stream {
    caller: Caller,
    body: Incoming,
    events: Events,
    newest: u64,
    /// When an event came last.
    last: Instant,
}

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let (seen, counts) = crate::unless_stopped(measure(&options)).await?;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!("| | |\n| --- | --- |");
    for (what, count) in [
        ("streams", u64::from(options.streams)),
        ("connections cut", counts.cuts),
        ("of these, within an event", counts.torn),
        ("streams gone on with", counts.resumed),
        ("events of standing streams", of(&seen.events)),
        ("events lost", of(&seen.lost)),
        ("events twice", of(&seen.doubled)),
        ("times that a client noticed", of(&seen.noticed)),
        ("streams silent at the end", of(&seen.silent)),
        ("calls answered, with all their events", of(&seen.answered)),
        ("calls failed", of(&seen.failed)),
        ("calls executed", counts.executed),
        ("calls executed twice", counts.doubled),
    ] {
        println!("| {what} | {count} |");
    }
    let first = seen.first_failure.lock();
    if let Some(first) = first.unwrap_or_else(PoisonError::into_inner).as_ref() {
        println!("\nThe first failure: {first}");
    }
    let lost = of(&seen.lost) + of(&seen.silent);
    let wrong = lost + of(&seen.doubled) + of(&seen.failed) + counts.doubled;
    match (counts.cuts, wrong) {
        (0, _) => Err("nothing was cut".into()),
        (_, 0) => Ok(()),
        (_, wrong) => Err(format!("{wrong} things went wrong").into()),
    }
}

async fn measure(options: &Options) -> Result<(Arc<Seen>, Counts), BoxError> {
    let programs = Programs::find(options.ziggurat.clone())?;
    let life = options.life.to_string();
    let server = programs.part(["cutter", "--life", &life]).await?;
    let proxy = programs
        .start(Proxy::Ziggurat, Transport::Http, server.address)
        .await?
        .ok_or("the program is missing")?;
    let target = Target {
        address: proxy.address,
        path: Uri::from_static("/mcp"),
        pid: None,
    };
    let seen = Arc::new(Seen::default());
    let streams = open_all(&target, options.streams).await?;
    eprintln!("{} streams are open", streams.len());
    let end = Instant::now() + Duration::try_from_secs_f64(options.seconds)?;
    let mut readers = JoinSet::new();
    for stream in streams {
        readers.spawn(stream.read(seen.clone(), end));
    }
    call(&target, options, &seen, end).await?;
    while let Some(done) = readers.join_next().await {
        done??;
    }
    proxy.stop().await;
    let counts = counts(server.address).await?;
    server.stop().await;
    Ok((seen, counts))
}

async fn counts(server: std::net::SocketAddr) -> Result<Counts, BoxError> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static("/counts");
    let host = http::HeaderValue::try_from(server.to_string())?;
    request.headers_mut().insert("host", host);
    let response = open(server).await?.send_request(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

async fn open_all(target: &Target, streams: u32) -> Result<Vec<Stream>, BoxError> {
    let turns = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for number in 0..streams {
        let (target, turns) = (target.clone(), turns.clone());
        opening.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            let mut caller = Caller::connect(target, Era::Legacy, number).await?;
            let body = caller.listen(None).await?;
            Ok::<_, BoxError>(Stream {
                caller,
                body,
                events: Events::default(),
                newest: 0,
                last: Instant::now(),
            })
        });
    }
    let mut all = Vec::new();
    while let Some(stream) = opening.join_next().await {
        all.push(stream??);
    }
    Ok(all)
}

/// Each call when it is due, on a connection that is free then, or a new one.
async fn call(
    target: &Target,
    options: &Options,
    seen: &Arc<Seen>,
    end: Instant,
) -> Result<(), BoxError> {
    let free: Arc<Mutex<Vec<Caller>>> = Arc::default();
    let mut calls = JoinSet::new();
    let begin = Instant::now();
    let mut callers = options.streams;
    for number in 0_u32.. {
        let due = begin + Duration::try_from_secs_f64(f64::from(number) / options.calls)?;
        if due >= end {
            break;
        }
        sleep_until(due).await;
        let kept = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut caller = match kept {
            Some(caller) => caller,
            None => {
                callers += 1;
                Caller::connect(target.clone(), Era::Legacy, callers).await?
            }
        };
        let (free, seen) = (free.clone(), seen.clone());
        calls.spawn(async move {
            match caller.progress(STEPS, |_| {}).await {
                Ok(()) => {
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                    free.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(caller);
                }
                Err(error) => {
                    seen.failed.fetch_add(1, Ordering::Relaxed);
                    let mut first = seen
                        .first_failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert_with(|| error.to_string());
                }
            }
        });
    }
    while let Some(done) = timeout_at(end + PATIENCE, calls.join_next()).await? {
        done?;
    }
    Ok(())
}

// === impl Stream ===

impl Stream {
    /// Reads until `end`; comes back with the newest id whenever the stream ends.
    async fn read(mut self, seen: Arc<Seen>, end: Instant) -> Result<(), BoxError> {
        while let Ok(went) = timeout_at(end, self.follow(&seen)).await {
            went?;
            seen.noticed.fetch_add(1, Ordering::Relaxed);
            if timeout_at(end, self.come_back()).await.is_err() {
                break;
            }
        }
        let silent = end.saturating_duration_since(self.last) > SILENCE;
        seen.silent.fetch_add(silent.into(), Ordering::Relaxed);
        Ok(())
    }

    /// Reads until the stream ends, however that comes.
    async fn follow(&mut self, seen: &Seen) -> Result<(), BoxError> {
        loop {
            while let Some(event) = self.events.next() {
                let reply: Reply<'_> = serde_json::from_slice(&event)?;
                let number = reply.params.and_then(|params| params.progress);
                let number = number.ok_or("an event without a number")?;
                seen.events.fetch_add(1, Ordering::Relaxed);
                self.last = Instant::now();
                if number <= self.newest {
                    seen.doubled.fetch_add(1, Ordering::Relaxed);
                } else {
                    let skipped = number - self.newest - 1;
                    seen.lost.fetch_add(skipped, Ordering::Relaxed);
                    self.newest = number;
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.events.push(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => return Ok(()),
            }
        }
    }

    async fn come_back(&mut self) {
        loop {
            self.caller.reconnect().await;
            let id = self.events.id().map(str::to_owned);
            if let Ok(body) = self.caller.listen(id.as_deref()).await {
                self.body = body;
                self.events.forget();
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
