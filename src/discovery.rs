//! Endpoints that are found by their name: each address that it resolves to is an endpoint of its own.
//!
//! A config names what is to be found (`each_address` of an endpoint); [`Discovery::expand`] turns it into one that names each address, and so all that knows endpoints knows these: the
//! balancer, probes, breakers, session ids, the operator's orders. When the addresses change, the endpoints of those upstreams alone do; what stays lives on.
//!
//! The system's resolver is asked, which tells no time to live, so names are asked for again and again. While nothing is known of a name it is an endpoint itself: calls are
//! told what the resolver says, and so are probes.

mod known;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use metrics::{Counter, Gauge};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use ziggurat_layers::metrics::{counter, gauge};

use self::known::Known;
use crate::config::{Config, Endpoint, HttpEndpoint, Replica};

/// The names that are looked up, and what is known of them. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Discovery {
    shared: Arc<Shared>,
}

struct Shared {
    resolve: Box<Resolve>,
    names: Mutex<BTreeMap<Box<str>, Name>>,
    /// There are other names to look up.
    set: Notify,
}

/// Asks for the addresses of a name.
type Resolve = dyn Fn(&str) -> Answer + Send + Sync;
type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

struct Name {
    known: Known,
    every: Duration,
    due: Instant,
    /// Who holds it asks.
    turn: Arc<Semaphore>,
    /// The last answer failed, and that was said.
    failing: bool,
    /// How many addresses there was no room for in the last one.
    left_out: usize,
    meters: Meters,
}

struct Meters {
    addresses: Gauge,
    ok: Counter,
    failed: Counter,
}

/// The names of the metrics.
mod names {
    pub(super) const LOOKUPS: &str = "ziggurat_dns_lookups_total";
    pub(super) const ADDRESSES: &str = "ziggurat_dns_addresses";
}

/// How long an answer may take. The resolver has clocks of its own, which are longer.
const LIMIT: Duration = Duration::from_secs(5);

/// How much earlier or later than asked a name is looked up, so that many proxies do not ask in step.
const JITTER: f64 = 0.1;

/// Tells the recorder what the metrics are.
pub(crate) fn describe() {
    metrics::describe_counter!(
        names::LOOKUPS,
        "Lookups of names whose addresses are endpoints of their own: ok or failed."
    );
    metrics::describe_gauge!(
        names::ADDRESSES,
        "Addresses of a name, each of which is an endpoint of its own."
    );
}

// === impl Discovery ===

impl Discovery {
    /// Asks the system.
    pub(crate) fn new() -> Self {
        Self::with(|host| {
            let host = (host.to_owned(), 0);
            Box::pin(async move {
                let found = tokio::net::lookup_host(host).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }

    fn with(resolve: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                resolve: Box::new(resolve),
                names: Mutex::default(),
                set: Notify::new(),
            }),
        }
    }

    /// From now on these are the names. Those that are new are asked for at once, by whoever [watches](Self::watch).
    pub(crate) fn set(&self, config: &Config) {
        let wanted: BTreeMap<&str, Duration> = wanted(config).collect();
        let mut names = self.names();
        names.retain(|host, name| {
            let stays = wanted.contains_key(&**host);
            if !stays {
                name.meters.addresses.set(0.0);
            }
            stays
        });
        let now = Instant::now();
        for (host, every) in wanted {
            let name = names.entry(host.into());
            let name = name.or_insert_with(|| Name::new(host, now));
            name.every = every;
            name.due = name.due.min(now + every);
        }
        drop(names);
        self.shared.set.notify_one();
    }

    /// Asks for the names that are due, and says whether the addresses of one have changed.
    pub(crate) async fn look(&self) -> bool {
        let now = Instant::now();
        let due: Vec<_> = {
            let names = self.names();
            let due = names.iter().filter(|(_, name)| name.due <= now);
            due.map(|(host, name)| (host.clone(), name.turn.clone()))
                .collect()
        };
        let asked = due.into_iter().map(async |(host, turn)| {
            let answer = self.ask(&host, turn).await;
            (host, answer)
        });
        let answers = join_all(asked).await;
        let mut names = self.names();
        let mut changed = false;
        for (host, answer) in answers {
            // Another config may be in force by now.
            if let Some(name) = names.get_mut(&host) {
                changed |= name.take(&host, answer);
            }
        }
        changed
    }

    /// Waits for an answer as long as one may take. One that takes longer keeps a thread busy, so that nobody asks again beside it.
    async fn ask(&self, host: &str, turn: Arc<Semaphore>) -> io::Result<Vec<IpAddr>> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let turn = turn.try_acquire_owned().map_err(|_| late())?;
        let answer = (self.shared.resolve)(host);
        let answer = tokio::spawn(async move {
            let answer = answer.await;
            drop(turn);
            answer
        });
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    /// The same as [`set`](Self::set) for a proxy that begins: names are asked for, more than once if need be, before anything goes by them.
    pub(crate) async fn begin(&self, config: &Config) {
        const TRIES: usize = 3;
        const PAUSE: Duration = Duration::from_secs(1);
        self.set(config);
        for tries in 1..=TRIES {
            self.look().await;
            let unknown = {
                let mut names = self.names();
                let unknown = names
                    .values_mut()
                    .filter(|name| name.known.addresses().len() == 0);
                unknown.map(|name| name.due = Instant::now()).count()
            };
            if unknown == 0 || tries == TRIES {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The config with an endpoint for each address that is known of a name.
    pub(crate) fn expand(&self, config: &Config) -> Config {
        let names = self.names();
        let mut config = config.clone();
        for upstream in &mut config.upstreams {
            let each = upstream.endpoints.iter();
            upstream.endpoints = each.flat_map(|replica| each_of(replica, &names)).collect();
        }
        config
    }

    /// Asks for names when they are due, and tells when their addresses have changed: again after each look, until that is heeded. For ever.
    pub(crate) async fn watch(self, heed: impl Fn() -> bool) {
        let mut news = false;
        loop {
            let due = self.names().values().map(|name| name.due).min();
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.shared.set.notified() => continue,
            }
            news |= self.look().await;
            news = news && !heed();
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Name>> {
        let names = self.shared.names.lock();
        names.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        let known = names.iter().map(|(host, name)| (host, &name.known));
        f.debug_map().entries(known).finish()
    }
}

/// The names to look up, and how often: of one that several endpoints have, as often as the last of them says.
fn wanted(config: &Config) -> impl Iterator<Item = (&str, Duration)> {
    let endpoints = config.upstreams.iter().flat_map(|u| &u.endpoints);
    endpoints.filter_map(|replica| match &replica.endpoint {
        Endpoint::Http(http) => Some((http.url.host()?, http.each_address?)),
        Endpoint::Stdio(_) => None,
    })
}

/// The endpoints that this one stands for.
fn each_of(replica: &Replica, names: &BTreeMap<Box<str>, Name>) -> Vec<Replica> {
    let found = match &replica.endpoint {
        Endpoint::Http(http) if http.each_address.is_some() => Some(http),
        Endpoint::Http(_) | Endpoint::Stdio(_) => None,
    };
    let known = found.and_then(|http| Some((http, names.get(http.url.host()?)?)));
    let Some((http, name)) = known.filter(|(_, name)| name.known.addresses().len() > 0) else {
        return vec![replica.clone()];
    };
    let at = |address: IpAddr| Replica {
        name: format!("{}@{address}", replica.name),
        endpoint: Endpoint::Http(HttpEndpoint {
            // How often is nothing that the endpoint is.
            each_address: None,
            address: Some(address),
            ..http.clone()
        }),
        ..replica.clone()
    };
    name.known.addresses().map(at).collect()
}

// === impl Name ===

impl Name {
    fn new(host: &str, due: Instant) -> Self {
        let lookups = |result| counter(names::LOOKUPS, &[("host", host), ("result", result)]);
        let meters = Meters {
            addresses: gauge(names::ADDRESSES, &[("host", host)]),
            ok: lookups("ok"),
            failed: lookups("failed"),
        };
        meters.addresses.set(0.0);
        Self {
            known: Known::default(),
            every: Duration::ZERO,
            due,
            turn: Arc::new(Semaphore::new(1)),
            failing: false,
            left_out: 0,
            meters,
        }
    }

    /// Whether the addresses have changed.
    fn take(&mut self, host: &str, answer: io::Result<Vec<IpAddr>>) -> bool {
        let share = 1.0 + JITTER * (2.0 * fastrand::f64() - 1.0);
        self.due = Instant::now() + self.every.mul_f64(share);
        let answer = match answer {
            Ok(answer) if !answer.is_empty() => answer,
            failed => {
                self.meters.failed.increment(1);
                if !self.failing {
                    let problem = failed
                        .err()
                        .map_or_else(|| "it has no address".to_owned(), |e| e.to_string());
                    tracing::warn!(
                        host,
                        problem,
                        "a name cannot be looked up; what is known of it stays"
                    );
                }
                self.failing = true;
                return false;
            }
        };
        self.meters.ok.increment(1);
        self.failing = false;
        let learnt = self.known.learn(answer);
        if learnt.left_out > 0 && learnt.left_out != self.left_out {
            tracing::warn!(
                host,
                left_out = learnt.left_out,
                "a name has more addresses than are used"
            );
        }
        self.left_out = learnt.left_out;
        if learnt.is_news() {
            let (added, removed) = (&learnt.added, &learnt.removed);
            tracing::info!(host, ?added, ?removed, "a name has other addresses");
        }
        self.meters
            .addresses
            .set(self.known.addresses().len() as f64);
        learnt.is_news()
    }
}

#[cfg(test)]
mod tests;
