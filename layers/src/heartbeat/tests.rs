use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, BoxError, observe::ObserveLayer};

const EVENTS: &str = "text/event-stream";

/// A response of these headers, whose body comes through a channel, behind the layer and an observer.
async fn open(headers: &'static [(&'static str, &'static str)]) -> (Sender, Response<Body>) {
    let (send, receive) = mpsc::channel::<Result<&'static str, BoxError>>(8);
    let receive = Arc::new(std::sync::Mutex::new(Some(receive)));
    let inner = ObserveLayer::new("u").layer(service_fn(move |_: Request<Body>| {
        let receive = receive.lock().expect("not poisoned").take();
        async move {
            let stream = futures_util::stream::unfold(receive, async |receive| {
                let mut receive = receive?;
                let piece = receive.recv().await?;
                let frame = piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
                Some((frame, Some(receive)))
            });
            let mut response = Response::builder();
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            response
                .body(Body::new(StreamBody::new(stream)))
                .map_err(BoxError::from)
        }
    }));
    let service = HeartbeatLayer::new(Some(HeartbeatSettings::default())).layer(inner);
    let response = service.oneshot(Request::new(Body::empty())).await;
    (send, response.expect("a head").map(Body::new))
}

type Sender = mpsc::Sender<Result<&'static str, BoxError>>;

async fn next(body: &mut Body) -> String {
    let frame = body.frame().await.expect("a frame").expect("no error");
    String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_gets_a_comment_at_once_and_after_each_interval() {
    let (send, response) = open(&[("content-type", EVENTS)]).await;
    let mut body = response.into_body();
    let start = Instant::now();
    assert_eq!(next(&mut body).await, ":\n\n");
    assert_eq!(start.elapsed(), Duration::ZERO);
    for beat in 1..4 {
        assert_eq!(next(&mut body).await, ":\n\n");
        assert!(start.elapsed() >= Duration::from_secs(15 * beat));
        assert!(start.elapsed() < Duration::from_secs(15 * beat + 1));
    }
    // What passes puts it off.
    tokio::time::advance(Duration::from_secs(10)).await;
    send.send(Ok("data: a\n\n")).await.expect("open");
    assert_eq!(next(&mut body).await, "data: a\n\n");
    let event = Instant::now();
    assert_eq!(next(&mut body).await, ":\n\n");
    assert!(event.elapsed() >= Duration::from_secs(15));
    // And nothing comes after the end.
    drop(send);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_there_at_once_needs_no_comment() {
    let (send, response) = open(&[("content-type", EVENTS)]).await;
    send.send(Ok("data: a\n\n")).await.expect("open");
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await, "data: a\n\n");
    drop(send);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_torn_event_never_has_a_comment_inside() {
    let (send, response) = open(&[("content-type", EVENTS)]).await;
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await, ":\n\n");
    let long: &str = Box::leak(format!("data: {}", "x".repeat(2 << 20)).into_boxed_str());
    send.send(Ok(long)).await.expect("open");
    assert_eq!(next(&mut body).await.len(), long.len());
    let hour = tokio::time::timeout(Duration::from_secs(3600), body.frame());
    assert!(hour.await.is_err(), "its end has not come");
    send.send(Ok("\n\n")).await.expect("open");
    assert_eq!(next(&mut body).await, "\n\n");
    assert_eq!(next(&mut body).await, ":\n\n");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_the_end() {
    let (send, response) = open(&[("content-type", EVENTS)]).await;
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await, ":\n\n");
    send.send(Err("cut".into())).await.expect("open");
    assert!(body.frame().await.expect("a frame").is_err());
    let after = tokio::time::timeout(Duration::from_secs(3600), body.frame());
    assert!(after.await.is_err(), "nothing comes after it");
}

#[tokio::test(start_paused = true)]
async fn other_responses_and_encoded_ones_are_left_alone() {
    for headers in [
        &[("content-type", "application/json")][..],
        &[("content-type", EVENTS), ("content-encoding", "gzip")],
    ] {
        let (_send, response) = open(headers).await;
        assert!(!response.headers().contains_key("x-accel-buffering"));
        assert!(!response.headers().contains_key("cache-control"));
        let mut body = response.into_body();
        let hour = tokio::time::timeout(Duration::from_secs(3600), body.frame());
        assert!(hour.await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_observes_gets_no_comment() {
    let service = service_fn(async |_: Request<Body>| {
        let silent = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        Response::builder()
            .header("content-type", EVENTS)
            .body(Body::new(StreamBody::new(silent)))
            .map_err(BoxError::from)
    });
    let service = HeartbeatLayer::new(Some(HeartbeatSettings::default())).layer(service);
    let response = service.oneshot(Request::new(Body::empty())).await;
    let mut body = response.expect("a head").into_body();
    let hour = tokio::time::timeout(Duration::from_secs(3600), body.frame());
    assert!(hour.await.is_err());
}

#[test]
fn the_head_says_that_nothing_is_to_be_held_back_or_changed() {
    for (given, expected) in [
        (&[][..], &["no-cache, no-transform"][..]),
        (&["no-store"], &["no-store, no-transform"]),
        (&["no-cache, No-Transform"], &["no-cache, No-Transform"]),
        (
            &["private", "no-cache"],
            &["private, no-transform", "no-cache"],
        ),
    ] {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_static(value));
        }
        announce(&mut headers);
        let now: Vec<_> = headers.get_all(header::CACHE_CONTROL).iter().collect();
        assert_eq!(now, expected);
        assert_eq!(headers[ACCEL_BUFFERING], "no");
    }
}
