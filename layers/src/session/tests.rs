//! Against a scripted server of the legacy era, in paused time.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use self::channel::stream_of;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    attempt::Pinned,
    balance::{NoEndpoint, PinnedGone},
    exchange::{EndpointInfo, ErrorStyle, RouteInfo},
    fault::Fault,
};

mod caps;
mod expiry;
mod farewell;
mod heal;
mod ids;
mod life;
mod model;
mod moves;

/// A body of what comes through a channel.
mod channel {
    use bytes::Bytes;
    use futures_util::Stream;
    use http_body::Frame;
    use tokio::sync::mpsc::Receiver;

    use crate::BoxError;

    pub(super) fn stream_of(
        receiver: Receiver<&'static str>,
    ) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> {
        futures_util::stream::unfold(receiver, async |mut receiver| {
            let text = receiver.recv().await?;
            let frame = Frame::data(Bytes::from_static(text.as_bytes()));
            Some((Ok(frame), receiver))
        })
    }
}

/// A server, and what it saw.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    /// Its sessions.
    known: HashSet<String>,
    begun: usize,
    /// It has no sessions at all.
    sessionless: bool,
    /// Statuses for the next requests of sessions.
    statuses: Vec<u16>,
    /// The endpoint was taken out, for those who are pinned to it.
    gone: bool,
    /// No endpoint takes calls.
    down: bool,
    /// The revision that it speaks, if not the usual one.
    revision: Option<&'static str>,
    /// The id of the next session, if not the usual one.
    next_id: Option<&'static str>,
    seen: Vec<Seen>,
    bodies: Vec<String>,
    last_event_ids: Vec<HeaderValue>,
    streams: Vec<mpsc::Sender<&'static str>>,
    /// Each is a call that is not answered until it is dropped.
    slow: bool,
}

/// A request as the server got it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    method: Method,
    session: Option<String>,
    pinned: Option<String>,
}

impl Server {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script().seen)
    }

    fn answer(&self, request: &Request<Body>) -> std::result::Result<Response<Body>, BoxError> {
        let mut script = self.script();
        let exchange = Exchange::get(request).expect("an exchange");
        let id = request.headers().get(SESSION_ID);
        let id = id.map(|id| id.to_str().expect("text").to_owned());
        script.seen.push(Seen {
            method: request.method().clone(),
            session: id.clone(),
            pinned: request
                .extensions()
                .get::<Pinned>()
                .map(|p| p.0.to_string()),
        });
        let body = request.body().bytes().cloned().unwrap_or_default();
        let body = String::from_utf8(body.to_vec()).expect("text");
        script.bodies.push(body.clone());
        let last = request.headers().get("last-event-id").cloned();
        script.last_event_ids.extend(last);
        if script.down {
            let (retry_after, reasons) = (None, Vec::new());
            let none = NoEndpoint {
                retry_after,
                reasons,
            };
            return Err(none.into());
        }
        if script.gone && request.extensions().get::<Pinned>().is_some() {
            return Err(PinnedGone.into());
        }
        exchange.attempt(Arc::new(EndpointInfo {
            upstream: "tools".into(),
            endpoint: "a:1".into(),
        }));
        let mut response = Response::new(Body::full("{}"));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if body.contains("\"initialize\"") {
            let revision = script.revision.unwrap_or("2025-11-25");
            let result = format!(
                r#"{{"jsonrpc":"2.0","id":0,"result":{{"protocolVersion":"{revision}"}}}}"#
            );
            *response.body_mut() = Body::full(result);
        }
        let id = match id {
            None if script.sessionless => return Ok(response),
            None => {
                if let Some(status) = script.statuses.pop() {
                    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                    return Ok(response);
                }
                script.begun += 1;
                let usual = || format!("up-{}", script.begun);
                let id = script.next_id.map_or_else(usual, str::to_owned);
                script.next_id = None;
                script.known.insert(id.clone());
                id
            }
            Some(id) => {
                if let Some(status) = script.statuses.pop() {
                    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                } else if !script.known.contains(&id) {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                } else if request.method() == Method::DELETE {
                    script.known.remove(&id);
                } else if request.method() == Method::GET || script.slow {
                    let (sender, receiver) = mpsc::channel(8);
                    script.streams.push(sender);
                    *response.body_mut() = Body::new(StreamBody::new(stream_of(receiver)));
                }
                id
            }
        };
        let id = HeaderValue::try_from(id).expect("a value");
        response.headers_mut().insert(SESSION_ID, id);
        Ok(response)
    }
}

/// A layer over a server.
#[derive(Clone)]
struct Rig {
    layer: SessionLayer,
    server: Server,
    store: Arc<MemoryStore>,
    keys: Keys,
    settings: SessionSettings,
    route: &'static str,
    principal: Option<&'static str>,
}

/// A key, always the same for a number.
fn key(number: u8) -> Key {
    Key::from_text(&format!("{number:02x}").repeat(32)).expect("a key")
}

const INITIALIZE: &str =
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"pay"}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

impl Rig {
    fn new(settings: SessionSettings) -> Self {
        let keys = Keys::new(key(1), []);
        let store = Arc::new(MemoryStore::new());
        Self {
            layer: SessionLayer::new(settings.clone(), keys.clone(), store.clone()),
            server: Server::default(),
            store,
            keys,
            settings,
            route: "tools",
            principal: None,
        }
    }

    /// The same over a new store, as after a restart.
    fn restarted(&self, keys: Keys) -> Self {
        let store = Arc::new(MemoryStore::new());
        Self {
            layer: SessionLayer::new(self.settings.clone(), keys.clone(), store.clone()),
            store,
            keys,
            ..self.clone()
        }
    }

    fn on(&self, route: &'static str) -> Self {
        Self {
            route,
            ..self.clone()
        }
    }

    fn by(&self, principal: &'static str) -> Self {
        Self {
            principal: Some(principal),
            ..self.clone()
        }
    }

    fn request(&self, method: Method, id: Option<&str>, body: &'static str) -> Request<Body> {
        let mut headers = HeaderMap::new();
        if let Some(id) = id {
            headers.insert(SESSION_ID, id.parse().expect("a value"));
        }
        let facts = CallFacts::read(&method, &headers, &Bytes::from_static(body.as_bytes()));
        let mut request = Request::new(Body::full(body));
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        let exchange = Exchange::of(&mut request);
        exchange.set_call(facts.expect("a call"));
        exchange.set_route(Arc::new(RouteInfo {
            name: self.route.into(),
            prefix: "/".into(),
            errors: ErrorStyle::Envelope,
        }));
        if let Some(principal) = self.principal {
            exchange.set_principal(principal.into());
        }
        request
    }

    async fn send(&self, request: Request<Body>) -> Result<Body> {
        let server = self.server.clone();
        let service = self.layer.layer(service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                tokio::task::yield_now().await;
                server.answer(&request)
            }
        }));
        service.oneshot(request).await
    }

    /// What becomes of a request: its status, or the fault.
    async fn try_send(
        &self,
        method: Method,
        id: &str,
        body: &'static str,
    ) -> std::result::Result<u16, Fault> {
        match self.send(self.request(method, Some(id), body)).await {
            Ok(response) => {
                let status = response.status().as_u16();
                response.into_body().collect().await.expect("whole");
                Ok(status)
            }
            Err(error) => Err(Fault::of(&*error)),
        }
    }

    async fn ping(&self, id: &str) -> std::result::Result<u16, Fault> {
        self.try_send(Method::POST, id, PING).await
    }

    async fn delete(&self, id: &str) -> std::result::Result<u16, Fault> {
        self.try_send(Method::DELETE, id, "").await
    }

    async fn try_initialize(&self) -> std::result::Result<String, BoxError> {
        let response = self
            .send(self.request(Method::POST, None, INITIALIZE))
            .await?;
        Ok(session_of(&response).expect("an id"))
    }

    async fn initialize(&self) -> String {
        self.try_initialize().await.expect("a session")
    }

    async fn full(&self) -> SessionsFull {
        let error = self.try_initialize().await.expect_err("too many");
        *error.downcast().expect("that it is full")
    }

    async fn stream(&self, id: &str) -> SessionBody<Body> {
        let response = self.send(self.request(Method::GET, Some(id), "")).await;
        response.expect("a stream").into_body()
    }

    async fn list(&self) -> Vec<SessionInfo> {
        self.store.list(usize::MAX).await
    }
}

fn session_of<B>(response: &Response<B>) -> Option<String> {
    let id = response.headers().get(SESSION_ID)?;
    Some(id.to_str().expect("text").to_owned())
}

/// The defaults, without a heal.
fn settings() -> SessionSettings {
    SessionSettings {
        heal: Heal::Never,
        ..SessionSettings::default()
    }
}

async fn wait(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

const GONE: std::result::Result<u16, Fault> = Err(Fault::SessionGone);
