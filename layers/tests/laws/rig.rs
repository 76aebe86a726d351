//! What a law gets: one layer over a leaf, requests for it, and a look at what it holds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::{Service, ServiceExt};
use ziggurat_layers::{
    Body, BoxError,
    exchange::Exchange,
    mcp::CallFacts,
    metrics::names::{BREAKER_STATE, ENDPOINT_LOAD, RETRY_BUDGET, SESSIONS},
};

use super::{
    leaf::{Leaf, Script, trailers},
    rows::{Built, Idle, Row},
};

/// What is asked, and how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Plain HTTP: a PUT whose body streams and has trailers, as has its answer.
    Plain,
    /// A legacy `tools/call` with its facts, answered with JSON.
    Json,
    /// The same, answered with an event stream.
    Events,
    /// The GET of MCP: a stream that stands.
    Standing,
}

/// Something in the extensions of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u32);

/// What a law gave: nothing, or what is wrong.
pub(crate) type Verdict = Result<(), String>;

/// One layer over one leaf.
pub(crate) struct Rig {
    pub(crate) row: Row,
    pub(crate) kind: Kind,
    pub(crate) service: Built,
    pub(crate) leaf: Arc<Script>,
    idle: Idle,
    metrics: PrometheusHandle,
    gauges: Vec<String>,
    tasks: usize,
}

/// Fails the law.
macro_rules! ensure {
    ($so:expr, $($message:tt)+) => {
        if !$so {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// Longer than any pause that a layer makes of itself here, and shorter than any of its clocks. (Time stands still unless everybody waits.)
pub(crate) const WHILE: Duration = Duration::from_secs(5);

/// Holds a law against these layers, with every kind of call, each time in a runtime of its own: says which of them break it, and how.
pub(crate) fn broken(rows: fn() -> Vec<Row>, law: impl AsyncFn(&Rig) -> Verdict) -> Vec<String> {
    let mut broken = Vec::new();
    for kind in [Kind::Plain, Kind::Json, Kind::Events, Kind::Standing] {
        for row in rows() {
            let name = row.service;
            let recorder = PrometheusBuilder::new().build_recorder();
            let metrics = recorder.handle();
            let _guard = metrics::set_default_local_recorder(&recorder);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let verdict = runtime.block_on(async {
                let rig = Rig::new(row, kind, metrics).await;
                law(&rig).await?;
                let unready = rig.leaf.unready_calls();
                ensure!(unready == 0, "{unready} calls to a service not ready");
                rig.leave()
            });
            if let Err(what) = verdict {
                broken.push(format!("{name} ({kind:?}): {what}"));
            }
        }
    }
    broken
}

// === impl Kind ===

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"a": 1.0}}}"#;

impl Kind {
    /// The frames of its answer.
    pub(crate) fn answer(self) -> Vec<Frame<Bytes>> {
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        match self {
            Self::Plain => vec![data("one "), data("two"), Frame::trailers(trailers("down"))],
            Self::Json => vec![data(r#"{"jsonrpc":"2.0","id":7,"re"#), data(r#"sult":{}}"#)],
            Self::Events | Self::Standing => vec![
                data(": hello\n\nid: 1\nda"),
                data("ta: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n"),
                Frame::trailers(trailers("down")),
            ],
        }
    }

    /// All its bytes.
    pub(crate) fn bytes(self) -> Bytes {
        let frames = self.answer().into_iter();
        let data = frames.filter_map(|frame| frame.into_data().ok());
        data.flatten().collect::<Vec<u8>>().into()
    }

    /// Its trailers.
    pub(crate) fn trailers(self) -> Option<HeaderMap> {
        self.answer().pop()?.into_trailers().ok()
    }

    /// It is answered with an event stream, whose length nobody knows.
    pub(crate) fn has_events(self) -> bool {
        matches!(self, Self::Events | Self::Standing)
    }

    /// Its errors are told in an envelope, since it has an id.
    pub(crate) fn has_id(self) -> bool {
        matches!(self, Self::Json | Self::Events)
    }

    pub(crate) fn media(self) -> &'static str {
        match self {
            Self::Plain => "text/plain",
            Self::Json => "application/json",
            Self::Events | Self::Standing => "text/event-stream",
        }
    }

    /// The bytes of a request of this kind, and its trailers.
    pub(crate) fn asked(self) -> (&'static str, Option<HeaderMap>) {
        match self {
            Self::Plain => ("uploaded", Some(trailers("up"))),
            Self::Json | Self::Events => (CALL, None),
            Self::Standing => ("", None),
        }
    }

    /// A request.
    pub(crate) fn request(self) -> Request<Body> {
        let request = match self {
            Self::Plain => Request::put("http://localhost/files/a?b=c"),
            Self::Json | Self::Events => Request::post("http://localhost/mcp"),
            Self::Standing => Request::get("http://localhost/mcp"),
        };
        let mut request = request
            .header(header::HOST, "localhost")
            .header(header::ORIGIN, "http://localhost:3000")
            .header(header::AUTHORIZATION, "Bearer secret")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header(header::CONTENT_TYPE, "application/json")
            .header("mcp-session-id", "s-1")
            .header("x-request-id", "r-1")
            .header("x-twice", "one")
            .header("x-twice", "two")
            .extension(Mark(7))
            .body(self.upload())
            .expect("a valid request");
        if self != Self::Plain {
            let body = Bytes::from_static(self.asked().0.as_bytes());
            let facts = CallFacts::read(request.method(), request.headers(), &body);
            Exchange::of(&mut request).set_call(facts.expect("a call"));
        }
        request
    }

    fn upload(self) -> Body {
        let (text, trailers) = self.asked();
        if matches!(self, Self::Json | Self::Standing) {
            return Body::full(text);
        }
        let (one, two) = text.split_at(5);
        let pieces = [one, two].map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let frames = pieces.into_iter().chain(trailers.map(Frame::trailers));
        let frames = frames.map(Ok::<_, BoxError>).collect::<Vec<_>>();
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }
}

// === impl Rig ===

impl Rig {
    async fn new(row: Row, kind: Kind, metrics: PrometheusHandle) -> Self {
        let (leaf, script) = Leaf::new(kind);
        let (service, idle) = (row.build)(leaf, kind);
        // Long enough for a breaker to be half-open.
        tokio::time::advance(Duration::from_secs(30)).await;
        let gauges = gauges(&metrics);
        Self {
            row,
            kind,
            service,
            leaf: script,
            idle,
            metrics,
            gauges,
            tasks: tasks(),
        }
    }

    /// Nothing of any call is left: no permit, no gauge, no task.
    pub(crate) fn is_idle(&self) -> Verdict {
        let in_flight = self.leaf.in_flight();
        ensure!(in_flight == 0, "{in_flight} calls of the leaf are held");
        self.has_ended()
    }

    /// No call is counted any more, though somebody may still hold its body.
    pub(crate) fn has_ended(&self) -> Verdict {
        if let Some(held) = (self.idle)() {
            return Err(held);
        }
        let now = gauges(&self.metrics);
        let left = now.iter().find(|gauge| !self.gauges.contains(gauge));
        ensure!(
            left.is_none(),
            "a gauge is not back: {}",
            left.map_or("", |l| l)
        );
        let tasks = tasks().saturating_sub(self.tasks);
        ensure!(tasks == 0, "{tasks} tasks are left");
        Ok(())
    }

    /// Lets go of the layer: nothing of it is left.
    fn leave(self) -> Verdict {
        self.is_idle()?;
        let Self { service, leaf, .. } = self;
        drop(service);
        let left = leaf.instances();
        ensure!(left == 0, "{left} instances of the leaf outlive the layer");
        Ok(())
    }

    /// Makes a service ready and calls it; to be spawned.
    pub(crate) fn call(&self, mut service: Built) -> impl Future<Output = Answered> + Send + use<> {
        let request = self.kind.request();
        async move { service.ready().await?.call(request).await }
    }

    /// A call that succeeds, as a whole.
    pub(crate) async fn succeeds(&self, service: &mut Built) -> Verdict {
        let called = async { service.ready().await?.call(self.kind.request()).await };
        let read = async { called.await?.into_body().collect().await };
        let read = tokio::time::timeout(WHILE, read).await;
        let read = read.map_err(|_late| "a call hangs".to_owned())?;
        let read = read.map_err(|error| format!("a call fails: {error:?}"))?;
        ensure!(read.to_bytes() == self.kind.bytes(), "a body differs");
        Ok(())
    }

    /// Whether the layer passes this request header on.
    pub(crate) fn passes(&self, name: &HeaderName) -> bool {
        !self.row.removes.contains(name)
    }
}

/// What a call gives.
pub(crate) type Answered = Result<http::Response<Body>, BoxError>;

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// The gauges that show what is in hand, with their values, that are not zero.
fn gauges(metrics: &PrometheusHandle) -> Vec<String> {
    let text = metrics.render();
    let kinds = text.lines().filter_map(|l| l.strip_prefix("# TYPE "));
    let names: Vec<_> = kinds.filter_map(|l| l.strip_suffix(" gauge")).collect();
    let is_gauge = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        // What was learnt, not what is held; and a session outlives its calls.
        names.contains(&name)
            && ![BREAKER_STATE, ENDPOINT_LOAD, RETRY_BUDGET, SESSIONS].contains(&name)
    };
    let lines = text.lines().filter(is_gauge);
    lines
        .filter(|line| !line.ends_with(" 0"))
        .map(str::to_owned)
        .collect()
}
