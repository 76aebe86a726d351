use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use tokio::{sync::mpsc, time::Instant};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{error, mcp::EnvelopeError};

const SETTINGS: InspectSettings = InspectSettings {
    mcp: true,
    cap: 200,
    upload: Duration::from_secs(30),
};
const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

fn post(body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    request
}

fn post_text(text: impl Into<Bytes>) -> Request<Body> {
    post(Body::full(text))
}

/// A body whose frames are sent by the test.
fn streamed() -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Body) {
    let (sender, receiver) = mpsc::channel(64);
    let stream = futures_util::stream::unfold(receiver, async |mut r: mpsc::Receiver<_>| {
        Some((r.recv().await?, r))
    });
    (sender, Body::new(StreamBody::new(stream)))
}

fn frames(frames: Vec<Bytes>) -> Body {
    let frames = frames
        .into_iter()
        .map(|f| Ok::<_, Infallible>(Frame::data(f)));
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// What the inner service is given: the headers and the body.
async fn pass(
    settings: InspectSettings,
    request: Request<Body>,
) -> Result<(HeaderMap, Bytes), BoxError> {
    let service = InspectLayer::new(settings).layer(service_fn(async |request: Request<Body>| {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new((parts.headers, body)))
    }));
    Ok(service.oneshot(request).await?.into_body())
}

async fn refused<E: std::error::Error + Clone + 'static>(request: Request<Body>) -> E {
    let error = pass(SETTINGS, request).await.expect_err("refused");
    error::find::<E>(&*error).expect("of that type").clone()
}

#[tokio::test]
async fn the_facts_of_a_call_are_filed_and_its_bytes_go_on() {
    let mut request = post_text(CALL);
    let exchange = Exchange::of(&mut request);
    let (headers, body) = pass(SETTINGS, request).await.expect("passes");
    let call = exchange.call().expect("filed");
    assert_eq!(
        call.request().and_then(|m| m.id()).map(|i| i.as_json()),
        Some("7")
    );
    assert_eq!(body, CALL);
    assert_eq!(headers[header::CONTENT_LENGTH], CALL.len().to_string());
}

#[tokio::test]
async fn a_body_of_one_frame_is_not_copied() {
    let bytes = Bytes::from(CALL.as_bytes().to_vec());
    let address = bytes.as_ptr();
    for body in [Body::full(bytes.clone()), frames(vec![bytes.clone()])] {
        let (_, body) = pass(SETTINGS, post(body)).await.expect("passes");
        assert_eq!(body.as_ptr(), address);
    }
}

#[tokio::test]
async fn a_chunked_body_gets_an_exact_length() {
    let (first, second) = CALL.as_bytes().split_at(10);
    let mut request = post(frames(vec![
        Bytes::from_static(first),
        Bytes::new(),
        Bytes::from_static(second),
    ]));
    let chunked = HeaderValue::from_static("chunked");
    request
        .headers_mut()
        .insert(header::TRANSFER_ENCODING, chunked);
    let (headers, body) = pass(SETTINGS, request).await.expect("passes");
    assert_eq!(body, CALL);
    assert_eq!(headers[header::CONTENT_LENGTH], CALL.len().to_string());
    assert!(!headers.contains_key(header::TRANSFER_ENCODING));
}

proptest! {
    #[test]
    fn a_body_survives_however_it_is_cut(cuts in proptest::collection::vec(0..CALL.len(), 0..8)) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut rest = Bytes::from_static(CALL.as_bytes());
        for pair in [&[0][..], &cuts].concat().windows(2) {
            pieces.push(rest.split_to(pair[1] - pair[0]));
        }
        pieces.push(rest);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (_, body) = runtime.block_on(pass(SETTINGS, post(frames(pieces)))).expect("passes");
        prop_assert_eq!(body, CALL);
    }
}

#[tokio::test]
async fn get_and_delete_are_filed_without_reading_the_body() {
    for method in [Method::GET, Method::DELETE, Method::OPTIONS] {
        let (_sender, body) = streamed();
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        let session = HeaderValue::from_static("s1");
        request.headers_mut().insert(headers::SESSION_ID, session);
        let exchange = Exchange::of(&mut request);
        let service = InspectLayer::new(SETTINGS)
            .layer(service_fn(async |_: Request<Body>| Ok::<_, BoxError>(())));
        service.oneshot(request).await.expect("passes");
        let call = exchange.call().expect("filed");
        assert_eq!(call.session.as_deref(), Some("s1"));
        assert_eq!(call.is_standing(), method == Method::GET);
    }
}

#[tokio::test]
async fn plain_http_is_not_read() {
    let mut request = post_text("not json, and longer than the cap".repeat(99));
    request.headers_mut().remove(header::CONTENT_TYPE);
    let exchange = Exchange::of(&mut request);
    let off = InspectSettings {
        mcp: false,
        ..SETTINGS
    };
    let (headers, _) = pass(off, request).await.expect("passes");
    assert!(exchange.call().is_none());
    assert!(!headers.contains_key(header::CONTENT_LENGTH));
}

#[tokio::test]
async fn a_header_that_contradicts_the_body_is_refused_after_the_facts_are_filed() {
    let body = r#"{"id":7,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let mut request = post_text(body);
    let exchange = Exchange::of(&mut request);
    let mismatch: headers::HeaderMismatch = refused(request).await;
    assert_eq!(mismatch.header, "MCP-Protocol-Version");
    assert!(exchange.call().is_some());
}

#[tokio::test]
async fn only_json_in_plain_bytes_is_read() {
    for kind in [
        None,
        Some("text/plain"),
        Some("application/jsonl"),
        Some("multipart/form-data"),
    ] {
        let mut request = post_text(CALL);
        request.headers_mut().remove(header::CONTENT_TYPE);
        if let Some(kind) = kind {
            let kind = HeaderValue::from_static(kind);
            request.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        let _: NotJson = refused(request).await;
    }
    let mut twice = post_text(CALL);
    let json = HeaderValue::from_static("application/json");
    twice.headers_mut().append(header::CONTENT_TYPE, json);
    let _: NotJson = refused(twice).await;
    let mut encoded = post_text(CALL);
    let gzip = HeaderValue::from_static("gzip");
    encoded.headers_mut().insert(header::CONTENT_ENCODING, gzip);
    let _: Encoded = refused(encoded).await;
    let mut plain = post_text(CALL);
    let identity = HeaderValue::from_static("Identity");
    plain
        .headers_mut()
        .insert(header::CONTENT_ENCODING, identity);
    assert!(pass(SETTINGS, plain).await.is_ok());
    let error = pass(SETTINGS, post_text("{"))
        .await
        .expect_err("no message");
    assert!(error::find::<EnvelopeError>(&*error).is_some());
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_declared_or_not() {
    let too_large = BodyTooLarge { limit: 200 };
    assert_eq!(
        refused::<BodyTooLarge>(post_text("x".repeat(201))).await,
        too_large
    );
    let piece = Bytes::from(vec![b'x'; 150]);
    let endless = frames(vec![piece.clone(), piece]);
    assert_eq!(refused::<BodyTooLarge>(post(endless)).await, too_large);
    // A cap further out is not taken for a client that went away.
    let outer = Body::new(cap::Capped::new(Body::full("x".repeat(99)), Some(9)));
    assert_eq!(
        refused::<BodyTooLarge>(post(outer)).await,
        BodyTooLarge { limit: 9 }
    );
}

#[tokio::test(start_paused = true)]
async fn a_stalled_upload_ends() {
    let (sender, body) = streamed();
    let piece = Frame::data(Bytes::from_static(b"{"));
    sender.send(Ok(piece)).await.expect("sent");
    let start = Instant::now();
    let limit = SETTINGS.upload;
    assert_eq!(
        refused::<UploadTimeout>(post(body)).await,
        UploadTimeout { limit }
    );
    assert_eq!(start.elapsed(), limit);
    assert!(sender.is_closed(), "the body is let go");
}

#[tokio::test(start_paused = true)]
async fn a_dripping_upload_ends_too() {
    let (sender, body) = streamed();
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let piece = Frame::data(Bytes::from_static(b" "));
            if sender.send(Ok(piece)).await.is_err() {
                return std::future::pending::<()>().await;
            }
        }
    };
    let start = Instant::now();
    tokio::select! {
        _timeout = refused::<UploadTimeout>(post(body)) => {}
        () = drip => {}
    }
    assert_eq!(start.elapsed(), SETTINGS.upload);
}

#[tokio::test]
async fn an_upload_that_breaks_off_says_why() {
    let (sender, body) = streamed();
    sender.send(Err("reset".into())).await.expect("sent");
    let error = pass(SETTINGS, post(body)).await.expect_err("broken");
    let failed = error::find::<UploadFailed>(&*error).expect("of that type");
    assert_eq!(failed.source.to_string(), "reset");
}

/// A service that must be called on the instance that was ready.
struct Picky {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Picky {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            calls: self.calls.clone(),
        }
    }
}

impl Service<Request<Body>> for Picky {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(mem::take(&mut self.ready), "called without being ready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(()))
    }
}

async fn ready(service: &mut Inspect<Picky>) -> &mut Inspect<Picky> {
    ServiceExt::<Request<Body>>::ready(service)
        .await
        .expect("ready")
}

#[tokio::test]
async fn the_instance_that_was_ready_is_called_and_only_when_the_body_is_there() {
    let calls = Arc::new(AtomicUsize::new(0));
    let picky = Picky {
        ready: false,
        calls: calls.clone(),
    };
    let mut service = InspectLayer::new(SETTINGS).layer(picky);
    let (sender, body) = streamed();
    let first = ready(&mut service).await.call(post(body));
    let second = ready(&mut service).await.call(post_text(CALL));
    second.await.expect("passes");
    let mut first = tokio_test::task::spawn(first);
    assert!(first.poll().is_pending());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let piece = Frame::data(Bytes::from_static(CALL.as_bytes()));
    sender.send(Ok(piece)).await.expect("sent");
    drop(sender);
    first.await.expect("passes");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}
