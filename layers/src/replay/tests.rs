//! Against a scripted upstream, in paused time.

use std::{
    any::Any,
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use http::{HeaderValue, Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, attempt::Unresumable, exchange::GiveUp, mcp::CallFacts, waits::Waits};

mod bounds;
mod life;
mod model;
mod rules;

/// What the upstream says next: bytes, or that it fails, with [`PANIC`] by a panic. At [`SWEEP`] it sweeps the store while it is polled.
type Said = Result<&'static str, &'static str>;

/// A stream of the upstream, from its side.
type Source = Sender<Said>;

/// One that was opened, and the `Last-Event-ID` that it was asked with.
type Opened = (Source, Option<String>);

/// The layer over a scripted upstream.
struct Rig {
    settings: ReplaySettings,
    store: ReplayStore,
    /// The upstream cannot resume its streams.
    unresumable: bool,
    /// What it opened.
    opened: Arc<Mutex<Vec<Opened>>>,
    session: InSession,
    /// Its streams hold the store, which they sweep when they are told.
    sweeps: bool,
}

/// A client that reads.
struct Reading {
    status: u16,
    body: Pin<Box<ReplayBody<Body>>>,
    unread: String,
    exchange: Arc<Exchange>,
}

/// What came: an id, and data.
type Came = (Option<String>, String);

const CALL: &str = r#"{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"x"}}"#;

const PANIC: &str = "panic";

const SWEEP: &str = ": sweep\n\n";

/// Longer than anything takes but clocks.
const MOMENT: Duration = Duration::from_millis(100);

fn session(serial: u128) -> InSession {
    InSession {
        serial: serial << 96,
        ended: CancellationToken::new(),
        busy: None,
    }
}

fn body_of(receiver: Receiver<Said>, swept: Option<ReplayStore>) -> Body {
    let source = (receiver, swept);
    let frames = futures_util::stream::unfold(source, async |(mut receiver, swept)| {
        let said = receiver.recv().await?;
        if let Some(store) = swept.as_ref().filter(|_| said == Ok(SWEEP)) {
            store.sweep();
        }
        assert!(said != Err(PANIC), "as the test wants it");
        let frame = said.map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
        Some((frame.map_err(BoxError::from), (receiver, swept)))
    });
    Body::new(StreamBody::new(frames))
}

impl Rig {
    fn new() -> Self {
        Self {
            settings: ReplaySettings::default(),
            store: ReplayStore::default(),
            unresumable: true,
            opened: Arc::default(),
            session: session(1),
            sweeps: false,
        }
    }

    fn always() -> Self {
        let mut rig = Self::new();
        rig.unresumable = false;
        rig.settings.scope = Scope::Always;
        rig
    }

    async fn send(&self, method: Method, version: &str, last: Option<&str>) -> Reading {
        self.send_in(&self.session, method, version, last).await
    }

    async fn send_in(
        &self,
        session: &InSession,
        method: Method,
        version: &str,
        last: Option<&str>,
    ) -> Reading {
        let (opened, unresumable) = (self.opened.clone(), self.unresumable);
        let swept = self.sweeps.then(|| self.store.clone());
        let upstream = service_fn(move |request: Request<Body>| {
            let (source, receiver) = mpsc::channel(1024);
            let last = headers::single(request.headers(), &LAST_EVENT_ID).map(str::to_owned);
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.push((source, last));
            let mut response = Response::new(body_of(receiver, swept.clone()));
            let kind = HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            if unresumable {
                response.extensions_mut().insert(Unresumable);
            }
            std::future::ready(Ok::<_, BoxError>(response))
        });
        let layer = ReplayLayer::new(self.settings.clone(), self.store.clone());
        let call = if method == Method::POST { CALL } else { "" };
        let mut request = Request::new(Body::full(call));
        *request.method_mut() = method;
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(header::ACCEPT, accept);
        let version = version.parse().expect("a value");
        request
            .headers_mut()
            .insert(headers::PROTOCOL_VERSION, version);
        if let Some(last) = last {
            let last = last.parse().expect("a value");
            request.headers_mut().insert(LAST_EVENT_ID, last);
        }
        let facts = CallFacts::read(request.method(), request.headers(), &Bytes::from(call));
        let exchange = Exchange::of(&mut request);
        exchange.set_call(facts.expect("facts"));
        exchange.response().observe(&Waits::default());
        request.extensions_mut().insert(session.clone());
        let response = layer.layer(upstream).oneshot(request).await;
        let response = response.expect("a response");
        Reading {
            status: response.status().as_u16(),
            body: Box::pin(response.into_body()),
            unread: String::new(),
            exchange,
        }
    }

    /// A call of a client that gets no priming event.
    async fn call(&self) -> (Reading, Source) {
        let reading = self.send(Method::POST, "2025-06-18", None).await;
        (reading, self.source())
    }

    async fn get(&self, last: Option<&str>) -> Reading {
        self.send(Method::GET, "2025-06-18", last).await
    }

    /// The newest stream of the upstream.
    fn source(&self) -> Source {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.last().expect("it opened one").0.clone()
    }

    /// It forgets that it has a stream, so that the stream ends when the test lets go of it.
    fn release(&self) {
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn asked(&self) -> usize {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.len()
    }
}

impl Reading {
    /// The next event with data or an id; none at the end; `timeout` after a while.
    async fn next(&mut self) -> Option<Came> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = event.lines().filter_map(|l| l.strip_prefix(name));
                    lines.next_back().map(|value| value.trim().to_owned())
                };
                let (id, data) = (field("id:"), field("data:"));
                self.unread = rest.to_owned();
                if id.is_some() || data.is_some() {
                    return Some((id, data.unwrap_or_default()));
                }
                continue;
            }
            match tokio::time::timeout(MOMENT, self.body.frame()).await {
                Err(_nothing) => return Some((None, "nothing".to_owned())),
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some((None, format!("failed: {error}"))),
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.unread += str::from_utf8(&data).expect("text");
                }
            }
        }
    }

    /// The id of the next event, which has this data.
    async fn event(&mut self, data: &str) -> String {
        let (id, found) = self.next().await.expect("an event");
        assert_eq!(found, data);
        id.expect("an id")
    }

    async fn nothing(&mut self) {
        assert_eq!(self.next().await, Some((None, "nothing".to_owned())));
    }
}
