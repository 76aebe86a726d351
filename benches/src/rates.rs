//! What a rate limit costs: time for each call and memory for each key, with 1 to 100,000 keys, and under a flood of new ones.

use std::{
    hint::black_box,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ziggurat_layers::rate_limit::{MemoryStore, Quota, Rate, RateStore, Reply};

use crate::{BoxError, usage};

/// How it is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many calls each figure is made of
    #[arg(long, default_value_t = 5_000_000)]
    calls: usize,
}

const KEYS: [usize; 3] = [1, 10_000, 100_000];

/// Prints a table.
pub(crate) fn run(options: &Options) -> Result<(), BoxError> {
    let calls = options.calls;
    println!("| keys | ns a call, one thread | two threads | resident bytes a key |");
    println!("| ---: | ---: | ---: | ---: |");
    for keys in KEYS {
        let all = names(keys);
        let before = resident();
        let store = Arc::new(filled(&all)?);
        let bytes = resident().saturating_sub(before) / keys as u64;
        // Each of the two spends less than half of what the keys may spend, so that no call is refused.
        let calls = calls.min(keys * (Quota::MAX_BURST as usize / 4));
        let one = nanos(spread(&store, &all, calls, 1), calls);
        let two = nanos(spread(&store, &all, calls, 2), calls);
        let bytes = if keys == 1 {
            "–".to_owned()
        } else {
            bytes.to_string()
        };
        println!("| {keys} | {one:.0} | {two:.0} | {bytes} |");
    }
    println!(
        "\nA key that is new, in a store that is full (nearly all are refused): {:.0} ns",
        flood(calls)?
    );
    Ok(())
}

/// What keys look like: a session and a tool.
fn names(keys: usize) -> Arc<Vec<Vec<u8>>> {
    let name = |n: usize| {
        let mut key = vec![b's', 16];
        key.extend(
            (n as u128)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_be_bytes(),
        );
        key.extend(b"t\x04echo");
        key
    };
    Arc::new((0..keys).map(name).collect())
}

/// Nothing is earned back while it is measured.
fn quota() -> Result<Quota, BoxError> {
    let rate: Rate = "1/h".parse()?;
    Ok(Quota::new(rate, NonZeroU32::MAX))
}

fn filled(names: &[Vec<u8>]) -> Result<MemoryStore, BoxError> {
    let most = NonZeroUsize::new(names.len().max(200_000)).ok_or("no keys")?;
    let (store, quota) = (MemoryStore::new(most), quota()?);
    for name in names {
        take(&store, name, quota);
    }
    Ok(store)
}

fn take(store: &MemoryStore, key: &[u8], quota: Quota) {
    let Reply::Now(answer) = store.take(key, quota, 1) else {
        return;
    };
    black_box(answer.is_ok());
}

/// So many calls, by keys at random, on so many threads.
fn spread(
    store: &Arc<MemoryStore>,
    names: &Arc<Vec<Vec<u8>>>,
    calls: usize,
    threads: usize,
) -> Duration {
    let Ok(quota) = quota() else {
        return Duration::ZERO;
    };
    let start = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|seed| {
            let (store, names) = (store.clone(), names.clone());
            thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                for _ in 0..calls / threads {
                    take(&store, &names[random.usize(..names.len())], quota);
                }
            })
        })
        .collect();
    for worker in workers {
        // A worker that panicked has said so.
        drop(worker.join());
    }
    start.elapsed()
}

/// New keys only, ten times as many as there is room for.
fn flood(calls: usize) -> Result<f64, BoxError> {
    let (room, quota) = (100_000, quota()?);
    let store = MemoryStore::new(NonZeroUsize::new(room).ok_or("no room")?);
    for n in 0..room * 2 {
        take(&store, &n.to_be_bytes(), quota);
    }
    let start = Instant::now();
    for n in 0..calls {
        take(&store, &(room * 2 + n).to_be_bytes(), quota);
    }
    Ok(nanos(start.elapsed(), calls))
}

fn nanos(time: Duration, calls: usize) -> f64 {
    time.as_nanos() as f64 / calls as f64
}

fn resident() -> u64 {
    usage::resident(&[std::process::id()])
}
