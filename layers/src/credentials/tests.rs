use std::{
    convert::Infallible,
    future::ready,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, HeaderValue};
use tower::{ServiceExt, service_fn};
use tracing::{Event, Metadata, field::Visit, span};

use super::*;
use crate::exchange::RouteInfo;

const ALL: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-own"];

fn request() -> Request<()> {
    let mut request = Request::new(());
    for name in ALL {
        let value = HeaderValue::from_static("secret");
        let name = HeaderName::from_static(name);
        request.headers_mut().append(name.clone(), value.clone());
        request.headers_mut().append(name, value);
    }
    request
}

/// What passes of [`ALL`].
async fn passes(forward: Vec<HeaderName>) -> Vec<&'static str> {
    let layer = CredentialsLayer::new(CredentialsSettings { forward });
    let service = layer.layer(service_fn(|request: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(
            request.headers().clone(),
        )))
    }));
    let response = service.oneshot(request()).await.expect("infallible");
    let headers: HeaderMap = response.into_body();
    ALL.into_iter()
        .filter(|name| headers.contains_key(*name))
        .collect()
}

#[tokio::test]
async fn credentials_are_held_back_unless_they_are_forwarded() {
    assert_eq!(passes(vec![]).await, ["x-own"]);
    assert_eq!(
        passes(vec![header::AUTHORIZATION]).await,
        ["authorization", "x-own"]
    );
    assert_eq!(passes(CREDENTIALS.to_vec()).await, ALL);
}

/// Keeps the warnings that are given.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicUsize>,
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        write!(self.0, "{field}={value:?} ").expect("to a string");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().contains("credentials")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed) as u64)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        line.push(' ');
        event.record(&mut Line(&mut line));
        self.lines.lock().expect("not poisoned").push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

async fn answer(layer: &CredentialsLayer, status: StatusCode, mut request: Request<()>) {
    let info = RouteInfo {
        name: "tools".into(),
        prefix: "/mcp".into(),
        errors: Default::default(),
    };
    Exchange::of(&mut request).set_route(Arc::new(info));
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let mut response = Response::new(());
        *response.status_mut() = status;
        ready(Ok::<_, Infallible>(response))
    }));
    service.oneshot(request).await.expect("infallible");
}

#[tokio::test(start_paused = true)]
async fn a_401_after_a_header_was_held_back_is_explained_once_a_minute() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let count = || log.lines.lock().expect("not poisoned").len();
    let layer = CredentialsLayer::new(CredentialsSettings::default());
    answer(&layer, StatusCode::OK, request()).await;
    answer(&layer, StatusCode::UNAUTHORIZED, Request::new(())).await;
    assert_eq!(count(), 0);
    answer(&layer, StatusCode::UNAUTHORIZED, request()).await;
    answer(&layer, StatusCode::UNAUTHORIZED, request()).await;
    assert_eq!(count(), 1);
    tokio::time::advance(PAUSE).await;
    answer(&layer.clone(), StatusCode::UNAUTHORIZED, request()).await;
    assert_eq!(count(), 2);
    let line = log.lines.lock().expect("not poisoned")[0].clone();
    for word in ["WARN", "forward: [authorization]", "headers:", "tools"] {
        assert!(line.contains(word), "{line}");
    }
    assert!(!line.contains("secret"), "{line}");
}

#[tokio::test]
async fn a_401_of_a_request_that_lost_nothing_is_not_explained() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let layer = CredentialsLayer::new(CredentialsSettings {
        forward: CREDENTIALS.to_vec(),
    });
    answer(&layer, StatusCode::UNAUTHORIZED, request()).await;
    assert!(log.lines.lock().expect("not poisoned").is_empty());
}
