use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, error};

/// Frames of a body that does not say how long it is.
fn drip(frames: &[&'static [u8]]) -> Body {
    let frames: Vec<_> = frames
        .iter()
        .map(|f| Ok::<_, Infallible>(Frame::data(Bytes::from_static(f))))
        .collect();
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// Sends the body through a layer with this limit; the number of bytes that its reader got.
async fn send(limit: Option<u64>, request: Request<Body>) -> Result<usize, BoxError> {
    let service = BodyLimitLayer::new(limit).layer(service_fn(async |request: Request<Body>| {
        let read = request.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new(read.len()))
    }));
    Ok(service.oneshot(request).await?.into_body())
}

#[tokio::test]
async fn a_declared_length_over_the_cap_is_refused_before_the_service_is_called() {
    let called = Arc::new(AtomicBool::new(false));
    let seen = called.clone();
    let service = BodyLimitLayer::new(Some(9)).layer(service_fn(move |_: Request<Body>| {
        seen.store(true, Ordering::Relaxed);
        async { Ok::<_, BoxError>(()) }
    }));
    for length in ["10", "99999999999999999999999999"] {
        let mut request = Request::new(drip(&[]));
        let value = length.parse().expect("a value");
        request.headers_mut().insert(header::CONTENT_LENGTH, value);
        let error = service.clone().oneshot(request).await.expect_err("refused");
        assert_eq!(
            error::find::<BodyTooLarge>(&*error),
            Some(&BodyTooLarge { limit: 9 })
        );
    }
    assert!(!called.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_where_it_passes_the_cap() {
    assert_eq!(
        send(Some(9), Request::new(drip(&[b"12345", b"6789"])))
            .await
            .expect("fits"),
        9
    );
    let error = send(Some(9), Request::new(drip(&[b"12345", b"67890"])))
        .await
        .expect_err("too large");
    assert!(error::find::<BodyTooLarge>(&*error).is_some());
}

#[tokio::test]
async fn a_capped_body_is_over_after_its_error() {
    let mut body = Capped::new(drip(&[b"12", b"3"]), Some(1));
    assert!(body.frame().await.expect("a frame").is_err());
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn no_limit_lets_everything_pass_and_keeps_the_length() {
    assert_eq!(
        send(None, Request::new(Body::full("x".repeat(10_000))))
            .await
            .expect("no cap"),
        10_000
    );
    assert_eq!(
        Capped::new(Body::full("xyz"), Some(9)).size_hint().exact(),
        Some(3)
    );
}
