//! Endpoints that are found by their name: each address that it resolves to is an endpoint of its own.
//!
//! A config names what is to be found (`each_address` of an endpoint); [`Discovery::expand`] turns it into one that names each address, and so all that knows endpoints knows these: the
//! balancer, probes, breakers, session ids, the operator's orders. When the addresses change, the config is put in force again as by a reload, in which everything lives on that is
//! still the same.
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
use tokio::{sync::Notify, time::Instant};
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
    /// The last answer failed, and that was said.
    failing: bool,
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
        let due: Vec<Box<str>> = {
            let names = self.names();
            let due = names.iter().filter(|(_, name)| name.due <= now);
            due.map(|(host, _)| host.clone()).collect()
        };
        let asked = due.into_iter().map(async |host| {
            let answer = tokio::time::timeout(LIMIT, (self.shared.resolve)(&host)).await;
            let late = |_| Err(io::ErrorKind::TimedOut.into());
            (host, answer.unwrap_or_else(late))
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

    /// Asks for names when they are due, and tells when their addresses have changed; for ever.
    pub(crate) async fn watch(self, changed: impl Fn()) {
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
            if self.look().await {
                changed();
            }
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
            failing: false,
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
        if learnt.left_out > 0 {
            tracing::warn!(
                host,
                left_out = learnt.left_out,
                "a name has more addresses than are used"
            );
        }
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
