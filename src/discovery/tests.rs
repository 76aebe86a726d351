//! Against a resolver that says what it is told to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// What the resolver says of each name; of others that there is no such name.
#[derive(Clone, Default)]
struct Zone(
    Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>,
    Arc<AtomicUsize>,
);

impl Zone {
    fn say(&self, host: &str, addresses: &[&'static str]) {
        let mut zone = self.0.lock().unwrap();
        zone.insert(host.to_owned(), addresses.to_vec());
    }

    fn forget(&self, host: &str) {
        self.0.lock().unwrap().remove(host);
    }

    fn asked(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn discovery(&self) -> Discovery {
        let zone = self.clone();
        Discovery::with(move |host| {
            zone.1.fetch_add(1, Ordering::Relaxed);
            let found = zone.0.lock().unwrap().get(host).cloned();
            Box::pin(async move {
                let found = found.ok_or(io::ErrorKind::NotFound)?;
                Ok(found
                    .iter()
                    .map(|address| address.parse().unwrap())
                    .collect())
            })
        })
    }
}

fn config(endpoints: &str) -> Config {
    let text = format!(
        "routes: [{{ match: {{ path: /mcp }}, upstream: u }}]\nupstreams: {{ u: {{ endpoints: [{endpoints}] }} }}\n"
    );
    Config::parse(&text, "test.yaml").unwrap().0
}

fn endpoints(config: &Config) -> Vec<(&str, Option<IpAddr>)> {
    let all = config.upstreams.iter().flat_map(|u| &u.endpoints);
    all.map(|replica| match &replica.endpoint {
        Endpoint::Http(http) => (&*replica.name, http.address),
        Endpoint::Stdio(_) => (&*replica.name, None),
    })
    .collect()
}

const FOUND: &str = "{ url: \"http://a.test:81/mcp\", each_address: 10s, weight: 3 }";

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_address_is_an_endpoint_and_until_one_is_known_the_name_is() {
    let zone = Zone::default();
    let found = zone.discovery();
    let written = config(&format!("{FOUND}, {{ url: \"http://a.test:82\" }}"));
    found.set(&written);
    assert!(!found.look().await, "there is no such name");
    assert_eq!(found.expand(&written), written);

    zone.say("a.test", &["10.0.0.2", "10.0.0.1", "fd00::1"]);
    assert!(!found.look().await, "it is not due yet");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(found.look().await);
    let expanded = found.expand(&written);
    assert_eq!(
        endpoints(&expanded),
        [
            ("a.test:81@10.0.0.1", ip("10.0.0.1")),
            ("a.test:81@10.0.0.2", ip("10.0.0.2")),
            ("a.test:81@fd00::1", ip("fd00::1")),
            ("a.test:82", None),
        ]
    );
    assert!(
        expanded.upstreams[0].endpoints[..3]
            .iter()
            .all(|replica| replica.weight == 3)
    );
}

#[tokio::test(start_paused = true)]
async fn names_are_asked_for_as_long_as_somebody_wants_them_and_news_are_told() {
    let zone = Zone::default();
    zone.say("a.test", &["10.0.0.1"]);
    let found = zone.discovery();
    let news = Arc::new(AtomicUsize::new(0));
    let watching = {
        let news = news.clone();
        found.clone().watch(move || {
            // The first time it cannot be done.
            news.fetch_add(1, Ordering::Relaxed) > 0
        })
    };
    let _watching = tokio::spawn(watching);
    let told = || (zone.asked(), news.load(Ordering::Relaxed));
    let wait = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;

    wait(100).await;
    assert_eq!(told(), (0, 0), "nothing is wanted");
    let written = config(FOUND);
    found.set(&written);
    wait(1).await;
    assert_eq!(told(), (1, 1));
    wait(100).await;
    let (asked, told_of) = told();
    assert!(
        (9..=12).contains(&asked) && told_of == 2,
        "it is told again until it is heeded: {asked} {told_of}"
    );

    zone.say("a.test", &["10.0.0.2"]);
    // A look comes after nine to eleven seconds, so never two of them in one.
    let until_told = async |times| {
        for _ in 0..12 {
            if news.load(Ordering::Relaxed) < times {
                wait(1).await;
            }
        }
        assert_eq!(news.load(Ordering::Relaxed), times);
        endpoints(&found.expand(&written)).len()
    };
    assert_eq!(until_told(3).await, 2, "one is new");
    assert_eq!(until_told(4).await, 1, "one is gone");
    let now = found.expand(&written);
    assert_eq!(endpoints(&now), [("a.test:81@10.0.0.2", ip("10.0.0.2"))]);

    zone.forget("a.test");
    wait(100).await;
    assert_eq!(found.expand(&written), now, "what is known stays");
    assert_eq!(news.load(Ordering::Relaxed), 4);

    found.set(&config("{ url: \"http://a.test:81/mcp\" }"));
    let before = zone.asked();
    wait(100).await;
    assert_eq!(zone.asked(), before, "nobody wants it any more");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_not_waited_for_and_takes_nothing_away() {
    let hangs = Arc::new(Mutex::new(false));
    let found = {
        let hangs = hangs.clone();
        Discovery::with(move |_| {
            let hangs = *hangs.lock().unwrap();
            Box::pin(async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(vec!["10.0.0.1".parse().unwrap()])
            })
        })
    };
    let written = config(FOUND);
    found.set(&written);
    assert!(found.look().await);
    *hangs.lock().unwrap() = true;
    tokio::time::advance(Duration::from_secs(11)).await;
    let asked = Instant::now();
    assert!(!found.look().await);
    assert_eq!(asked.elapsed(), LIMIT);
    // It still hangs: nobody asks again beside it, and nobody waits.
    tokio::time::advance(Duration::from_secs(11)).await;
    let asked = Instant::now();
    assert!(!found.look().await);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(endpoints(&found.expand(&written)).len(), 1);
    assert!(found.expand(&written) != written);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_begins_asks_more_than_once() {
    let zone = Zone::default();
    let found = zone.discovery();
    let written = config(FOUND);
    let began = Instant::now();
    let later = zone.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        later.say("a.test", &["10.0.0.1"]);
    });
    found.begin(&written).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(endpoints(&found.expand(&written)).len(), 1);
    assert!(found.expand(&written) != written);
    // How often it is looked up makes no other endpoint of it.
    let often = config(&FOUND.replace("10s", "20s"));
    assert_eq!(
        found.expand(&often).upstreams,
        found.expand(&written).upstreams
    );
}
