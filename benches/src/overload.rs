//! What happens when more is asked of ziggurat than the server behind it can do: how much is still done, how long
//! that takes, and how the rest is refused.
//!
//! The server is one [`replica`](crate::replica) with [`PLACES`] places and [`WORK`] for each call. What it can do is measured first, without a proxy
//! and with more callers than places, since timers and a busy machine take their part. Then the load comes at a fixed rate,
//! whatever the answers do (an open loop), and a call's latency counts from when it was due.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::BoxError;
use crate::client::{Client, Kind, Record};
use crate::contender::{Programs, Proxy};
use crate::ordeal::journal::Journal;

mod table;

/// How many calls the server works on at once, and for how long.
const PLACES: &str = "8";
const WORK: &str = "20ms";
/// The callers that find out what it can do.
const CLOSED_LOOP: u64 = 16;
/// What is asked for, in what the server can do.
const LOADS: [f64; 3] = [0.5, 1.0, 3.0];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The ziggurat program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    ziggurat: Option<PathBuf>,
    /// How long each load lasts
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// A first look: loads of 2 s
    #[arg(long)]
    quick: bool,
}

pub(crate) struct Report {
    seconds: f64,
    /// Calls a second, straight at the server.
    capacity: f64,
    phases: Vec<Phase>,
    /// Refused with `not_sent` or `rejected`, and executed.
    denied: usize,
}

/// One load.
struct Phase {
    load: f64,
    /// Calls a second.
    offered: f64,
    answered: f64,
    records: Vec<Record>,
}

type Pool = Arc<Mutex<Vec<Client>>>;

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let report = crate::unless_stopped(measure(&options)).await?;
    println!("{report}");
    match report.denied {
        0 => Ok(()),
        denied => {
            Err(format!("{denied} calls were executed, and refused as if they had not been").into())
        }
    }
}

async fn measure(options: &Options) -> Result<Report, BoxError> {
    let programs = Programs::find(options.ziggurat.clone())?;
    let seconds = match options.quick {
        true => 2.0,
        false => options.seconds,
    };
    let length = Duration::from_secs_f64(seconds);
    let journal = Journal::new()?;
    let path = journal.path();
    let path = path.to_string_lossy();
    let arguments = [
        "replica",
        "--journal",
        &path,
        "--name",
        "only",
        "--work",
        WORK,
        "--concurrency",
        PLACES,
    ];
    let server = programs.part(arguments).await?;
    let capacity = capacity(server.address, length / 2).await?;
    let template = include_str!("overload/ziggurat.yaml");
    let words = [("SERVER", server.address.to_string())];
    let proxy = programs
        .configured(Proxy::Ziggurat, template, &words)
        .await?;
    let mut report = Report {
        seconds,
        capacity,
        phases: Vec::new(),
        denied: 0,
    };
    for (number, load) in (1..).zip(LOADS) {
        eprintln!("{load} × {capacity:.0} calls/s");
        let first_id = number * 1_000_000_000;
        let rate = load * capacity;
        let records = open_loop(proxy.address, rate, length, first_id).await?;
        report.phases.push(Phase::of(load, length, records));
    }
    proxy.stop().await;
    server.stop().await;
    let executed = journal.read()?.counts();
    let records = report.phases.iter().flat_map(|phase| &phase.records);
    report.denied = records
        .filter(|record| record.is_denied() && executed.contains_key(&record.id))
        .count();
    Ok(report)
}

/// What the server does in a second when there is always one more who waits.
async fn capacity(server: SocketAddr, length: Duration) -> Result<f64, BoxError> {
    let end = Instant::now() + length;
    let mut callers = JoinSet::new();
    for number in 0..CLOSED_LOOP {
        callers.spawn(async move {
            let mut client = Client::new(server)?;
            let mut answered = 0_u64;
            while Instant::now() < end {
                let id = number * 1_000_000 + answered;
                let record = client.call(id, Kind::Echo).await;
                if !record.is_good() {
                    return Err(format!("the server alone fails: {}", record.ending).into());
                }
                answered += u64::from(record.end <= end);
            }
            Ok::<_, BoxError>(answered)
        });
    }
    let mut answered = 0;
    while let Some(of_one) = callers.join_next().await {
        answered += of_one??;
    }
    Ok(answered as f64 / length.as_secs_f64())
}

/// Each call when it is due, on a connection that is free then, or a new one.
async fn open_loop(
    proxy: SocketAddr,
    rate: f64,
    length: Duration,
    first_id: u64,
) -> Result<Vec<Record>, BoxError> {
    let pool = Pool::default();
    let mut calls = JoinSet::new();
    let begin = Instant::now();
    for number in 0..(rate * length.as_secs_f64()) as u64 {
        let due = begin + Duration::from_secs_f64(number as f64 / rate);
        sleep_until(due).await;
        let free = lock(&pool).pop();
        let mut client = match free {
            Some(free) => free,
            None => Client::new(proxy)?,
        };
        let pool = pool.clone();
        calls.spawn(async move {
            let record = client.call(first_id + number, Kind::Echo).await;
            lock(&pool).push(client);
            Record {
                start: due,
                ..record
            }
        });
    }
    let mut records = Vec::new();
    while let Some(record) = calls.join_next().await {
        records.push(record?);
    }
    Ok(records)
}

fn lock(pool: &Pool) -> MutexGuard<'_, Vec<Client>> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Phase ===

impl Phase {
    /// Answers count that came while the load lasted, which also leaves out what was still queued at its end.
    fn of(load: f64, length: Duration, records: Vec<Record>) -> Self {
        let seconds = length.as_secs_f64();
        let begin = records.iter().map(|record| record.start).min();
        let in_time = |record: &&Record| begin.is_some_and(|begin| record.end <= begin + length);
        let answered = records.iter().filter(|record| record.is_good());
        Self {
            load,
            offered: records.len() as f64 / seconds,
            answered: answered.filter(in_time).count() as f64 / seconds,
            records,
        }
    }
}
