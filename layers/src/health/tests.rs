//! Probers against scripted services, with the clock stopped; and over real connections.

#[cfg(feature = "http")]
mod over_http;
mod sessions;

use std::{
    num::NonZeroU32,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    exchange::{Exchange, GiveUp},
    gate::Reason,
    limit::Shed,
    mcp::headers,
    share::Share,
};

type Core = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// An endpoint whose behaviour can be changed, and what it was asked.
#[derive(Clone, Default)]
struct Script {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    mode: Mutex<Mode>,
    /// What was asked, with the session, and when.
    log: Mutex<Vec<(String, Instant)>>,
    exchanges: Mutex<Vec<Arc<Exchange>>>,
    sessions: AtomicU32,
}

/// What it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// Answers as a modern server.
    #[default]
    Modern,
    /// Answers as a legacy server, which knows only its newest session.
    Legacy,
    /// The same, but in its first session it does not answer to a ping.
    Stuck,
    /// The same as legacy, without session ids.
    Stateless,
    /// Begins an event stream, says that it lives, and never answers.
    Liar,
    /// Says 200 and something else.
    Babble,
    /// Says nothing at all.
    Hangs,
    /// Answers with this status.
    Status(u16),
    /// Answers each request with a JSON-RPC error of this code.
    Code(i64),
    /// Fails, as the connection would.
    Fails,
    /// Fails by a limit of the proxy.
    Sheds,
}

impl Script {
    fn new(mode: Mode) -> Self {
        let this = Self::default();
        this.set(mode);
        this
    }

    fn set(&self, mode: Mode) {
        *self.inner.mode.lock().expect("not poisoned") = mode;
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<String> {
        let mut log = self.inner.log.lock().expect("not poisoned");
        log.drain(..).map(|(what, _)| what).collect()
    }

    fn times(&self) -> Vec<Instant> {
        let log = self.inner.log.lock().expect("not poisoned");
        log.iter().map(|(_, at)| *at).collect()
    }

    fn newest_session(&self) -> String {
        format!("s{}", self.inner.sessions.load(Ordering::Relaxed))
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let exchange = Exchange::get(&request).expect("an exchange").clone();
        let facts = exchange.call();
        let message = facts.and_then(|f| f.messages().first());
        let method = message
            .and_then(|m| m.method.as_ref())
            .map_or_else(|| request.method().as_str(), |m| m.as_str());
        let session = facts.and_then(|f| f.session.as_deref());
        let line = format!("{method} {}", session.unwrap_or("-"));
        let id = message
            .and_then(|m| m.id())
            .map_or_else(|| "null".to_owned(), |id| id.as_json().to_owned());
        self.inner
            .log
            .lock()
            .expect("not poisoned")
            .push((line, Instant::now()));
        self.inner
            .exchanges
            .lock()
            .expect("not poisoned")
            .push(exchange.clone());
        let mode = *self.inner.mode.lock().expect("not poisoned");
        let result = |result: &str| {
            json(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
            ))
        };
        let error = |code: i64| {
            json(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"no"}}}}"#
            ))
        };
        Ok(match (mode, method) {
            (Mode::Hangs, _) => std::future::pending().await,
            (Mode::Fails, _) => return Err("Bearer secret".into()),
            (Mode::Sheds, _) => {
                return Err(Shed {
                    limit: 1,
                    what: "calls",
                }
                .into());
            }
            (Mode::Status(code), _) => status(code),
            (Mode::Code(code), _) => error(code),
            (Mode::Babble, _) => json(r#"{"status":"ok"}"#.to_owned()),
            (Mode::Liar, _) => {
                let alive = Frame::data(Bytes::from_static(b": alive\n\n"));
                let forever = futures_util::stream::unfold(Some(alive), async |alive| {
                    let alive = match alive {
                        Some(alive) => alive,
                        None => std::future::pending().await,
                    };
                    Some((Ok::<_, BoxError>(alive), None))
                });
                events(Body::new(StreamBody::new(Box::pin(forever))))
            }
            (Mode::Modern, "server/discover") => {
                let version = request.headers().get(headers::PROTOCOL_VERSION);
                assert_eq!(version, Some(&HeaderValue::from_static("2026-07-28")));
                let method = request.headers().get(headers::METHOD);
                assert_eq!(method, Some(&HeaderValue::from_static("server/discover")));
                result(r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#)
            }
            (Mode::Modern, _) => status(400),
            (Mode::Stuck, "ping") if session == Some("s1") => std::future::pending().await,
            (Mode::Legacy | Mode::Stuck | Mode::Stateless, "initialize") => {
                let mut response = result(r#"{"protocolVersion":"2025-06-18","capabilities":{}}"#);
                if mode != Mode::Stateless {
                    self.inner.sessions.fetch_add(1, Ordering::Relaxed);
                    let id = HeaderValue::try_from(self.newest_session()).expect("an id");
                    response.headers_mut().insert(headers::SESSION_ID, id);
                }
                response
            }
            (Mode::Legacy, "server/discover") => status(400),
            (Mode::Stateless, "server/discover") => error(-32601),
            (Mode::Legacy, _) if session != Some(&*self.newest_session()) => status(404),
            (_, "notifications/initialized") => status(202),
            (_, "DELETE") => status(200),
            // On a stream, after something else.
            (_, "ping") => events(Body::full(format!(
                "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}}\n\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n\n"
            ))),
            (_, _) => status(400),
        })
    }

    /// The endpoint's core service.
    fn service(&self) -> Core {
        let script = self.clone();
        Core::new(service_fn(move |request| script.clone().answer(request)))
    }

    fn prober(&self, handle: &HealthHandle, gate: &Gate, settings: HealthSettings) -> Prober<Core> {
        Prober::new(handle, gate.clone(), settings, self.service()).seed(7)
    }
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}

fn typed(body: Body, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json(text: String) -> Response<Body> {
    typed(Body::full(text), "application/json")
}

fn events(body: Body) -> Response<Body> {
    typed(body, "text/event-stream")
}

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);

/// The defaults, without jitter.
fn settings(probe: Probe) -> HealthSettings {
    HealthSettings {
        probe,
        jitter: Share::NONE,
        ..HealthSettings::default()
    }
}

fn http() -> Probe {
    Probe::Http(HttpProbe::default())
}

fn handle() -> HealthHandle {
    HealthHandle::new("tools", "e1")
}

fn report(handle: &HealthHandle) -> HealthReport {
    handle.look().expect("a prober is at work")
}

/// Lets so many intervals pass, with the probes in them.
async fn intervals(count: u32) {
    for _ in 0..count {
        tokio::time::sleep(INTERVAL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_falls_after_some_failures_and_rises_after_some_successes() {
    let (script, handle, gate) = (Script::new(Mode::Status(503)), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(http())).spawn();
    assert_eq!(report(&handle).state, HealthState::Unknown);
    intervals(2).await;
    assert_eq!(report(&handle).failures, 2);
    assert_eq!(report(&handle).state, HealthState::Unknown);
    assert!(!gate.is_shut_by(Reason::Health));
    intervals(1).await;
    assert_eq!(report(&handle).state, HealthState::Unhealthy);
    assert!(gate.is_shut_by(Reason::Health));
    let error = report(&handle).error.expect("an error");
    assert_eq!(&*error, "the status 503 is not expected");
    script.set(Mode::Status(204));
    intervals(1).await;
    assert!(gate.is_shut_by(Reason::Health));
    intervals(1).await;
    assert!(!gate.is_shut_by(Reason::Health));
    let now = report(&handle);
    assert_eq!((now.state, now.successes), (HealthState::Healthy, 2));
    assert_eq!(now.error, Some(error), "the last error stays to be seen");
    task.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_fails_at_its_timeout() {
    for mode in [Mode::Hangs, Mode::Liar] {
        let (script, handle, gate) = (Script::new(mode), handle(), Gate::new());
        let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
        intervals(2).await;
        let last = report(&handle).last.expect("a probe");
        assert_eq!(last.result, ProbeResult::Timeout, "{mode:?}");
        assert_eq!(last.took, TIMEOUT, "{mode:?}");
        let given_up = script.inner.exchanges.lock().expect("not poisoned")[0].gave_up();
        assert_eq!(given_up, Some(GiveUp::Timeout));
        intervals(4).await;
        assert!(gate.is_shut_by(Reason::Health), "{mode:?}");
        drop(task);
    }
}

#[tokio::test(start_paused = true)]
async fn a_front_that_lies_is_caught_by_mcp_and_not_by_http() {
    for mode in [Mode::Liar, Mode::Babble, Mode::Code(504)] {
        let script = Script::new(mode);
        let (mcp, plain) = (handle(), handle());
        let gates = [Gate::new(), Gate::new()];
        let tasks = [
            script.prober(&mcp, &gates[0], settings(Probe::Mcp)).spawn(),
            script.prober(&plain, &gates[1], settings(http())).spawn(),
        ];
        intervals(6).await;
        assert_eq!(report(&mcp).state, HealthState::Unhealthy, "{mode:?}");
        assert_eq!(report(&plain).state, HealthState::Healthy, "{mode:?}");
        drop(tasks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_front_that_begins_to_lie_is_caught_in_either_era() {
    for honest in [Mode::Modern, Mode::Legacy] {
        let (script, handle, gate) = (Script::new(honest), handle(), Gate::new());
        let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
        intervals(1).await;
        assert_eq!(report(&handle).state, HealthState::Healthy);
        script.set(Mode::Liar);
        intervals(5).await;
        assert!(gate.is_shut_by(Reason::Health), "{honest:?}");
        script.set(honest);
        intervals(3).await;
        assert!(!gate.is_shut_by(Reason::Health), "{honest:?}");
        drop(task);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_us_out_lives_and_our_own_limits_say_nothing() {
    for (mode, result, state) in [
        (
            Mode::Status(401),
            ProbeResult::Success,
            HealthState::Healthy,
        ),
        (
            Mode::Status(429),
            ProbeResult::Success,
            HealthState::Healthy,
        ),
        (
            Mode::Code(-32022),
            ProbeResult::Success,
            HealthState::Healthy,
        ),
        (Mode::Sheds, ProbeResult::Neutral, HealthState::Unknown),
        (Mode::Fails, ProbeResult::Failure, HealthState::Unhealthy),
        (
            Mode::Status(502),
            ProbeResult::Failure,
            HealthState::Unhealthy,
        ),
        (
            Mode::Status(302),
            ProbeResult::Failure,
            HealthState::Unhealthy,
        ),
        (
            Mode::Status(404),
            ProbeResult::Failure,
            HealthState::Unhealthy,
        ),
    ] {
        let (script, handle, gate) = (Script::new(mode), handle(), Gate::new());
        let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
        intervals(4).await;
        let now = report(&handle);
        assert_eq!(now.last.map(|l| l.result), Some(result), "{mode:?}");
        assert_eq!(now.state, state, "{mode:?}");
        if result == ProbeResult::Neutral {
            assert_eq!(now.error, None, "{mode:?}");
        }
        let error = now.error.unwrap_or_default();
        assert!(!error.contains("secret"), "{error}");
        drop(task);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_searched_also_across_its_pieces() {
    let body = |pieces: &'static [&'static str]| {
        service_fn(move |_: Request<Body>| async move {
            let frames = pieces
                .iter()
                .map(|p| Ok::<_, BoxError>(Frame::data(Bytes::from(*p))));
            Ok::<_, BoxError>(Response::new(Body::new(StreamBody::new(
                futures_util::stream::iter(frames),
            ))))
        })
    };
    let probe = HttpProbe {
        contains: Some("all good".into()),
        ..HttpProbe::default()
    };
    for (pieces, good) in [
        (["it is all ", "good here"].as_slice(), true),
        (&["a", "l", "l", " ", "g", "o", "o", "d"], true),
        (&["all ", "is good"], false),
        (&[], false),
    ] {
        let result = probe::http(&body(pieces), &probe, TIMEOUT).await;
        assert_eq!(result.is_ok(), good, "{pieces:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_are_spread_and_keep_to_their_jitter() {
    let mut firsts = Vec::new();
    for seed in 0..20 {
        let (script, handle) = (Script::new(Mode::Modern), handle());
        let began = Instant::now();
        let settings = HealthSettings::default();
        let task = Prober::new(&handle, Gate::new(), settings, script.service())
            .seed(seed)
            .spawn();
        intervals(20).await;
        drop(task);
        let times = script.times();
        firsts.push(times[0] - began);
        for pair in times.windows(2) {
            let pause = pair[1] - pair[0];
            // The timer counts whole milliseconds.
            assert!(pause >= INTERVAL.mul_f64(0.8), "{pause:?}");
            assert!(
                pause <= INTERVAL.mul_f64(1.2) + Duration::from_millis(2),
                "{pause:?}"
            );
        }
    }
    assert!(
        firsts
            .iter()
            .all(|first| *first <= INTERVAL + Duration::from_millis(1))
    );
    let early = firsts.iter().filter(|first| **first < INTERVAL / 2).count();
    assert!((4..=16).contains(&early), "{firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_prober_the_gate_is_open() {
    for close in [true, false] {
        let (script, handle, gate) = (Script::new(Mode::Fails), handle(), Gate::new());
        let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
        intervals(3).await;
        assert!(gate.is_shut_by(Reason::Health));
        if close {
            task.close().await;
        } else {
            drop(task);
        }
        assert!(!gate.is_shut_by(Reason::Health));
        assert_eq!(handle.look(), None);
        script.asked();
        intervals(3).await;
        assert!(script.asked().is_empty());
        assert!(!gate.is_shut_by(Reason::Health));
    }
    // A future that is dropped, and a prober that was never run.
    let (script, handle, gate) = (Script::new(Mode::Fails), handle(), Gate::new());
    let prober = script.prober(&handle, &gate, settings(Probe::Mcp));
    assert!(
        tokio::time::timeout(INTERVAL * 3, prober.run())
            .await
            .is_err()
    );
    assert!(!gate.is_shut_by(Reason::Health));
    drop(script.prober(&handle, &gate, settings(Probe::Mcp)));
    assert_eq!(handle.look(), None);
}

#[tokio::test(start_paused = true)]
async fn the_next_prober_goes_on_where_the_last_one_was() {
    let (script, handle) = (Script::new(Mode::Fails), handle());
    let (before, after) = (Gate::new(), Gate::new());
    let first = script
        .prober(&handle, &before, settings(Probe::Mcp))
        .spawn();
    intervals(3).await;
    assert!(before.is_shut_by(Reason::Health));
    let quick = HealthSettings {
        rise: NonZeroU32::MIN,
        ..settings(Probe::Mcp)
    };
    let second = script.prober(&handle, &after, quick).spawn();
    assert!(!before.is_shut_by(Reason::Health) && after.is_shut_by(Reason::Health));
    drop(first);
    assert_eq!(report(&handle).state, HealthState::Unhealthy);
    assert!(after.is_shut_by(Reason::Health));
    script.set(Mode::Modern);
    intervals(1).await;
    assert!(!after.is_shut_by(Reason::Health));
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn each_result_moves_its_metric() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = ::metrics::with_local_recorder(&recorder, handle);
    for mode in [Mode::Modern, Mode::Status(500), Mode::Hangs, Mode::Sheds] {
        let script = Script::new(mode);
        let task = script
            .prober(&handle, &Gate::new(), settings(Probe::Mcp))
            .spawn();
        intervals(2).await;
        drop(task);
    }
    let text = recorder.handle().render();
    for result in ProbeResult::ALL {
        let series = format!(
            "ziggurat_health_probe_duration_seconds_count{{upstream=\"tools\",result=\"{}\"}} ",
            result.as_str()
        );
        // Each stands there from the beginning, at 0.
        let count = text.lines().find_map(|line| line.strip_prefix(&series));
        let count = count.unwrap_or_else(|| panic!("no {series}: {text}"));
        assert_ne!(count, "0", "{series}");
    }
}
