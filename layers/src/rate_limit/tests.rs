//! The layer, with time that stands still unless a test moves it.

#[cfg(feature = "cel")]
mod expressions;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use tokio::time::advance;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Body,
    attempt::{InSession, Unasked},
    error::find,
    exchange::{Client, Exchange},
    mcp::CallFacts,
};

/// What the inner service got.
type Seen = Arc<AtomicUsize>;

struct Rig {
    layer: RateLimitLayer,
    seen: Seen,
}

/// A request of a client.
struct Ask {
    method: Method,
    body: String,
    address: &'static str,
    session: Option<u128>,
    mcp: bool,
}

fn rig(limits: &[RateLimitSettings]) -> Rig {
    Rig::of(RateLimitLayer::new("r", limits))
}

fn limit(name: &str, per: &[KeyPart], rate: &str) -> RateLimitSettings {
    RateLimitSettings {
        name: name.to_owned(),
        per: per.to_vec(),
        allowance: allowance(rate),
        ..RateLimitSettings::default()
    }
}

fn allowance(rate: &str) -> Allowance {
    Allowance {
        rate: Some(rate.parse().expect("a rate")),
        ..Allowance::default()
    }
}

fn post(body: &str) -> Ask {
    Ask {
        method: Method::POST,
        body: body.to_owned(),
        address: "10.0.0.1",
        session: None,
        mcp: true,
    }
}

fn call(tool: &str) -> Ask {
    post(&message("tools/call", tool))
}

fn message(method: &str, tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"{tool}"}}}}"#)
}

fn bare(method: Method) -> Ask {
    Ask { method, ..post("") }
}

impl Ask {
    fn of(self, session: u128) -> Self {
        Self {
            session: Some(session),
            ..self
        }
    }

    fn from(self, address: &'static str) -> Self {
        Self { address, ..self }
    }

    fn plain(self) -> Self {
        Self { mcp: false, ..self }
    }

    fn request(self) -> Request<Body> {
        let mut request = Request::new(Body::full(self.body.clone()));
        *request.method_mut() = self.method.clone();
        if self.method == Method::GET {
            let stream = HeaderValue::from_static("text/event-stream");
            request.headers_mut().insert("accept", stream);
        }
        let exchange = Exchange::of(&mut request);
        exchange.set_client(Client::new(
            self.address.parse().expect("an address"),
            false,
        ));
        if let Some(session) = self.session {
            request.extensions_mut().insert(InSession {
                serial: session,
                ..InSession::default()
            });
        }
        if self.mcp {
            let body = Bytes::from(self.body);
            let facts = CallFacts::read(&self.method, request.headers(), &body);
            exchange.set_call(facts.expect("facts"));
        }
        request
    }
}

impl Rig {
    fn of(layer: RateLimitLayer) -> Self {
        Self {
            layer,
            seen: Seen::default(),
        }
    }

    async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Tracked<Body, Hold<Places>>>, RateLimited> {
        let seen = self.seen.clone();
        let inner = service_fn(move |_: Request<Body>| {
            seen.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, BoxError>(Response::new(Body::full("x"))) }
        });
        let sent = self.layer.layer(inner).oneshot(request).await;
        sent.map_err(|error| find::<RateLimited>(&*error).expect("the limit's").clone())
    }

    async fn refused(&self, request: Request<Body>) -> RateLimited {
        self.send(request).await.err().expect("over a limit")
    }

    async fn passes(&self, ask: Ask) -> bool {
        self.send(ask.request()).await.is_ok()
    }

    /// How many of so many calls pass at once.
    async fn passed(&self, calls: usize, ask: impl Fn() -> Ask) -> usize {
        let mut passed = 0;
        for _ in 0..calls {
            passed += usize::from(self.passes(ask()).await);
        }
        passed
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_may_come_back_at_the_time_told_and_not_before() {
    let rig = rig(&[limit("client", &[KeyPart::Client], "2/s")]);
    assert_eq!(rig.passed(3, || call("a")).await, 2);
    let limited = rig.refused(call("a").request()).await;
    let after = limited.retry_after.expect("a time");
    assert_eq!(after, Duration::from_millis(500));
    advance(after - Duration::from_millis(1)).await;
    assert!(!rig.passes(call("a")).await);
    advance(Duration::from_millis(1)).await;
    assert!(rig.passes(call("a")).await);
    assert_eq!(rig.seen.load(Ordering::Relaxed), 3, "nothing else was sent");
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_bucket() {
    let rig = rig(&[limit("own", &[KeyPart::Session, KeyPart::Tool], "1/h")]);
    for (session, tool) in [(1, "a"), (1, "b"), (2, "a"), (2, "b")] {
        assert_eq!(rig.passed(2, || call(tool).of(session)).await, 1);
    }
    let list = || post(&message("tools/list", "a"));
    assert_eq!(rig.passed(5, list).await, 5, "no call of a tool");
}

#[tokio::test(start_paused = true)]
async fn a_limit_by_session_is_not_dodged_without_one() {
    let rig = rig(&[limit("session", &[KeyPart::Session], "1/h")]);
    assert!(rig.passes(call("a").of(1)).await);
    // Modern calls, and `initialize`: by their client.
    let initialize = || post(&message("initialize", ""));
    assert_eq!(rig.passed(3, initialize).await, 1);
    assert!(!rig.passes(call("a")).await);
    assert!(rig.passes(call("a").from("10.0.0.2")).await);
    // What the client says of its session is no proof.
    let mut request = call("a").request();
    request.extensions_mut().clear();
    let forged = HeaderValue::from_static("forged");
    request.headers_mut().insert("mcp-session-id", forged);
    let exchange = Exchange::of(&mut request);
    exchange.set_client(Client::new("10.0.0.1".parse().expect("an address"), false));
    let body = Bytes::from(call("a").body);
    let facts = CallFacts::read(&Method::POST, request.headers(), &body).expect("facts");
    assert!(facts.session.is_some());
    exchange.set_call(facts);
    assert!(rig.send(request).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn all_limits_must_be_passed_and_one_that_refuses_costs_the_others_nothing() {
    let rig = rig(&[
        limit("all", &[], "4/h"),
        limit("tool", &[KeyPart::Tool], "1/h"),
    ]);
    assert_eq!(rig.passed(9, || call("a")).await, 1);
    for tool in ["b", "c", "d"] {
        assert!(rig.passes(call(tool)).await, "{tool}");
    }
    let limited = rig.refused(call("e").request()).await;
    assert_eq!(&*limited.limit, "all");
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_all_calls_pass_or_none() {
    let rig = rig(&[limit("tool", &[KeyPart::Tool], "3/h")]);
    let batch = |tools: &[&str]| {
        let calls: Vec<_> = tools.iter().map(|t| message("tools/call", t)).collect();
        let note = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;
        post(&format!("[{note},{}]", calls.join(",")))
    };
    assert!(rig.passes(batch(&["a", "b", "a"])).await);
    assert!(!rig.passes(batch(&["b", "a", "b", "a"])).await);
    assert!(rig.passes(batch(&["b", "a", "b"])).await);
    assert!(!rig.passes(call("a")).await && !rig.passes(call("b")).await);
    let limited = rig.refused(batch(&["c"; 4]).request()).await;
    assert_eq!(limited.excess, Excess::Batch { calls: 4, burst: 3 });
    assert_eq!(limited.retry_after, None);
}

#[tokio::test(start_paused = true)]
async fn what_calls_may_wait_for_is_not_limited_and_a_call_in_disguise_is() {
    let rig = rig(&[limit("all", &[], "1/h")]);
    assert!(rig.passes(call("a")).await);
    let note = || post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#);
    let answer = || post(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    for free in [note(), answer(), bare(Method::DELETE)] {
        assert!(rig.passes(free).await);
    }
    let disguised = post(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#);
    assert!(!rig.passes(disguised).await);
    assert!(!rig.passes(bare(Method::GET)).await);
    let mut healing = call("a").request();
    healing.extensions_mut().insert(Unasked);
    assert!(rig.send(healing).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn plain_http_is_limited_by_its_method_and_client() {
    let rig = rig(&[limit("m", &[KeyPart::Client, KeyPart::Method], "1/h")]);
    for method in [Method::GET, Method::POST, Method::DELETE] {
        assert_eq!(rig.passed(3, || bare(method.clone()).plain()).await, 1);
    }
    let [one, other] = ["ODD", "EVEN"].map(|m| Method::from_bytes(m.as_bytes()).expect("a method"));
    assert!(rig.passes(bare(one).plain()).await);
    assert!(
        !rig.passes(bare(other).plain()).await,
        "made-up methods are one"
    );
    assert!(rig.passes(bare(Method::GET).plain().from("10.0.0.2")).await);
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_for_what_its_selector_takes_and_the_first_tier_counts() {
    let mut limit = limit("tools", &[KeyPart::Client], "1/h");
    limit.selector.tools = vec!["get_*".into(), "search".into()];
    let tier = |networks: &[&str], allowance| Tier {
        selector: Selector {
            clients: networks.iter().map(|n| n.parse().expect("one")).collect(),
            ..Selector::default()
        },
        allowance,
    };
    limit.tiers = vec![
        tier(&["10.1.0.0/16"], allowance("3/h")),
        tier(&["10.0.0.0/8", "2001:db8::/32"], allowance("2/h")),
        tier(&["127.0.0.1"], Allowance::default()),
    ];
    let rig = rig(&[limit]);
    for (address, passed) in [
        ("10.1.0.1", 3),
        ("10.2.0.1", 2),
        ("2001:db8::1", 2),
        ("192.0.2.1", 1),
        ("127.0.0.1", 9),
    ] {
        let get = || call("get_x").from(address);
        assert_eq!(rig.passed(9, get).await, passed, "{address}");
        assert_eq!(rig.passed(9, || call("set_x").from(address)).await, 9);
    }
    assert!(
        !rig.passes(call("search").from("192.0.2.1")).await,
        "one bucket for all of them"
    );
}

#[tokio::test(start_paused = true)]
async fn streams_have_places_until_their_bodies_are_over() {
    let mut limit = limit("streams", &[KeyPart::Session], "100/s");
    limit.allowance.streams = NonZeroUsize::new(2);
    let rig = rig(&[limit]);
    let stream = || bare(Method::GET).of(1).request();
    let first = rig.send(stream()).await.expect("a place");
    let _second = rig.send(stream()).await.expect("a place");
    let limited = rig.refused(stream()).await;
    assert!(matches!(limited.excess, Excess::Streams(_)));
    assert!(limited.retry_after.is_some() && limited.fields().is_none());
    assert!(rig.passes(call("a").of(1)).await, "a call needs no place");
    assert!(rig.passes(bare(Method::GET).of(2)).await);
    drop(first);
    // A heal opens it again: without a call, but with a place.
    let mut again = stream();
    again.extensions_mut().insert(Unasked);
    let again = rig.send(again).await.expect("a place");
    assert!(rig.send(stream()).await.is_err());
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn a_response_tells_of_the_limit_that_has_least_left() {
    let rig = rig(&[
        limit("many", &[], "9/s"),
        limit("few", &[KeyPart::Client], "2/s"),
    ]);
    let response = rig.send(call("a").request()).await.expect("passes");
    assert_eq!(response.headers()[RATELIMIT], "\"few\";r=1;t=1");
    let untouched = post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#);
    let response = rig.send(untouched.request()).await.expect("passes");
    assert!(!response.headers().contains_key(RATELIMIT));
}

#[tokio::test(start_paused = true)]
async fn buckets_and_streams_outlive_their_settings() {
    let limits = RateLimits::new("r");
    let with = |rate: &str| {
        let mut limit = limit("client", &[KeyPart::Client], rate);
        limit.allowance.streams = NonZeroUsize::new(1);
        [limit]
    };
    let old = Rig::of(limits.layer(&with("4/h")));
    assert_eq!(old.passed(9, || call("a")).await, 4);
    let _stream = old.send(bare(Method::GET).from("10.0.0.2").request()).await;
    let new = Rig::of(limits.layer(&with("6/h")));
    limits.retain(&with("6/h"));
    assert_eq!(new.passed(9, || call("a")).await, 2, "four of six are used");
    assert!(!new.passes(bare(Method::GET).from("10.0.0.2")).await);
    limits.retain(&[]);
    assert!(limits.look(9).is_empty());
    let anew = Rig::of(limits.layer(&with("4/h")));
    assert!(anew.passes(call("a")).await);
}

#[tokio::test(start_paused = true)]
async fn a_look_shows_who_is_near_a_limit_and_never_a_whole_session() {
    let limits = RateLimits::new("r");
    let mut settings = limit("session", &[KeyPart::Session], "4/h");
    settings.allowance.streams = NonZeroUsize::new(3);
    let rig = Rig::of(limits.layer(&[settings]));
    let session = 0xabcd_ef01_2345_6789_0000_0000_0000_0001;
    assert_eq!(rig.passed(3, || call("a").of(session)).await, 3);
    assert!(rig.passes(call("a")).await);
    let _stream = rig.send(bare(Method::GET).of(session).request()).await;
    let look = limits.look(1);
    assert_eq!((&*look[0].limit, look[0].keys), ("session", 2));
    let key = vec![("session", "abcdef01".to_owned())];
    assert_eq!(
        look[0].nearest,
        [KeyReport {
            key: key.clone(),
            used: 4,
            burst: 4,
            wait: Duration::from_secs(900)
        }]
    );
    assert_eq!(look[0].streams, [(key, 1)]);
}

/// A store that has to be asked, and that says what was given back.
#[derive(Debug)]
struct Remote {
    inner: MemoryStore,
    returned: Arc<Mutex<u32>>,
}

impl RateStore for Remote {
    fn take(&self, key: &[u8], quota: Quota, calls: u32) -> Reply {
        let Reply::Now(answer) = self.inner.take(key, quota, calls) else {
            unreachable!("it is in memory")
        };
        Reply::Later(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer
        }))
    }

    fn give_back(&self, key: &[u8], quota: Quota, calls: u32) {
        *self.returned.lock().expect("no panic") += calls;
        self.inner.give_back(key, quota, calls);
    }

    fn nearest(&self, most: usize) -> Vec<Usage> {
        self.inner.nearest(most)
    }

    fn sweep(&self) -> usize {
        self.inner.sweep()
    }

    fn resize(&self, most: NonZeroUsize) {
        self.inner.resize(most);
    }

    fn crowded(&self) -> u64 {
        self.inner.crowded()
    }
}

/// The limit `near` counts here, the others have to be asked about.
fn mixed(returned: &Arc<Mutex<u32>>) -> RateLimits {
    let returned = returned.clone();
    RateLimits::with_stores("r", move |name, keys| {
        let inner = MemoryStore::new(keys);
        if name == "near" {
            return Arc::new(inner);
        }
        let returned = returned.clone();
        Arc::new(Remote { inner, returned })
    })
}

#[tokio::test(start_paused = true)]
async fn a_store_may_have_to_be_asked() {
    let returned = Arc::default();
    let rig = Rig::of(mixed(&returned).layer(&[
        limit("near", &[], "9/h"),
        limit("far", &[], "5/h"),
        limit("farther", &[KeyPart::Tool], "2/h"),
    ]));
    let response = rig.send(call("a").request()).await.expect("passes");
    assert_eq!(response.headers()[RATELIMIT], "\"farther\";r=1;t=1800");
    assert!(rig.passes(call("a")).await);
    let limited = rig.refused(call("a").request()).await;
    assert_eq!(&*limited.limit, "farther");
    assert_eq!(
        *returned.lock().expect("no panic"),
        1,
        "the far one has it back"
    );
    // Who goes away while it is asked has used up nothing either: not what he was asked for last, which nobody knows.
    let gone = rig.send(call("b").request());
    assert!(
        tokio::time::timeout(Duration::from_millis(15), gone)
            .await
            .is_err()
    );
    assert_eq!(*returned.lock().expect("no panic"), 2);
    assert_eq!(rig.passed(9, || call("c")).await, 2);
    assert_eq!(
        rig.passed(9, || call("d")).await,
        1,
        "five in all at the far one"
    );
    assert_eq!(rig.seen.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn without_limits_nothing_is_looked_at() {
    let rig = rig(&[]);
    let response = rig.send(Request::new(Body::empty())).await.expect("passes");
    assert!(response.headers().is_empty());
    // And without an exchange, all that are not known are one client.
    let rig = self::rig(&[limit("client", &[KeyPart::Client], "1/h")]);
    assert!(rig.send(Request::new(Body::empty())).await.is_ok());
    assert!(rig.send(Request::new(Body::empty())).await.is_err());
}

#[test]
fn a_burst_is_what_the_rate_says_unless_it_is_set() {
    let quota = allowance("50/m").quota().expect("a rate");
    assert_eq!(
        (quota.burst(), quota.window()),
        (50, Duration::from_secs(60))
    );
    let quota = Allowance::new("50/m".parse().expect("a rate"), NonZeroU32::MIN).quota();
    assert_eq!(quota.map(Quota::burst), Some(1));
}
