//! Requests that are made to be read in two ways, or to hold a connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tower::service_fn;

use super::super::testing::TestBody;
use super::*;

/// Tells what it was asked, after it has read all of it.
async fn describe(request: Request<Incoming>) -> Result<Response<TestBody>, Infallible> {
    let length = request.headers().contains_key(CONTENT_LENGTH);
    let coding = request.headers().contains_key(TRANSFER_ENCODING);
    let path = request.uri().path().to_owned();
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::from_static(b"(broken)"),
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(whole(format!(
        "{path} length={length} coding={coding} body={body}."
    )))
}

/// Sends `bytes` and the end, and reads everything that comes back.
async fn talk(bytes: &str) -> String {
    let running = Running::start(service_fn(describe), ServeSettings::default()).await;
    let mut client = running.raw().await;
    client.send(bytes).await;
    client.rest().await
}

#[tokio::test]
async fn a_length_beside_a_coding_is_ignored_and_the_connection_closes() {
    for headers in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let answers = talk(&format!(
            "POST /one HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
        ))
        .await;
        assert!(
            answers.contains("/one length=false coding=true body=."),
            "{answers}"
        );
        assert!(answers.contains("connection: close"), "{answers}");
        assert!(!answers.contains("/smuggled"), "{answers}");
    }
}

#[tokio::test]
async fn heads_that_can_be_read_in_two_ways_are_refused() {
    for (headers, status) in [
        ("host: localhost\r\nx-folded: a\r\n b", "400"),
        ("host: localhost\r\n leading: space", "400"),
        ("host: localhost\r\ncontent-length : 5", "400"),
        (
            "host: localhost\r\ncontent-length: 5\r\ncontent-length: 6",
            "400",
        ),
        ("host: localhost\r\ncontent-length: +5", "400"),
        ("host: localhost\r\ncontent-length: 5, 6", "400"),
        ("host: localhost\r\ncontent-length: 0x5", "400"),
        (
            "host: localhost\r\ntransfer-encoding: chunked, identity",
            "400",
        ),
        ("host: localhost\r\ntransfer-encoding: xchunked", "400"),
        ("host: localhost\r\ntransfer-encoding: gzip, chunked", "501"),
        (
            "host: localhost\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked",
            "501",
        ),
        ("host: localhost\r\nx-null: a\0b", "400"),
        ("host: localhost\r\nx-return: a\rb: c", "400"),
        ("host: localhost\r\nno colon", "400"),
        ("host: localhost\r\nhost: other", "400"),
        ("x-no: host", "400"),
    ] {
        let answer = talk(&format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{headers:?} gave {answer:?}"
        );
        assert!(
            !answer.contains("length="),
            "{headers:?} reached the service"
        );
    }
}

#[tokio::test]
async fn old_versions_cannot_have_a_coding() {
    let answer =
        talk("POST / HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
            .await;
    assert!(
        answer.starts_with("HTTP/1.0 400") || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_chunk_that_is_not_one_breaks_the_body() {
    for chunk in [
        "-1\r\n",
        "ffffffffffffffffff\r\n",
        "5 5\r\n",
        "3\r\nabcd\r\n",
    ] {
        let answer = talk(&format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
        ))
        .await;
        assert!(
            answer.contains("body=(broken)") || answer.contains("400"),
            "{chunk:?} gave {answer}"
        );
    }
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let settings = ServeSettings {
        max_header_bytes: 8 * 1024,
        ..ServeSettings::default()
    };
    let running = Running::start(service_fn(describe), settings).await;
    let mut client = running.raw().await;
    let huge = "x".repeat(20 * 1024);
    client
        .send(&format!(
            "GET / HTTP/1.1\r\nhost: localhost\r\nx-huge: {huge}\r\n\r\n"
        ))
        .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_cut() {
    let running = Running::start(service_fn(describe), ServeSettings::default()).await;
    let mut client = running.raw().await;
    // Once on a new connection, and once on one that was kept alive.
    client.get("/").await;
    client.until("body=.").await;
    tokio::time::sleep(Duration::from_secs(20)).await;

    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\n").await;
    let mut drips = 0;
    while client.stream.write_all(b"x-drip: 1\r\n").await.is_ok() && drips < 100 {
        drips += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((9..=12).contains(&drips), "cut after {drips} drips");
    assert!(start.elapsed() < Duration::from_secs(13));
    assert_eq!(client.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_cut() {
    let running = Running::start(service_fn(describe), ServeSettings::default()).await;
    for first in ["", "G", "PRI * HTTP/2.0\r\n"] {
        let start = Instant::now();
        let mut client = running.raw().await;
        client.send(first).await;
        assert_eq!(client.rest().await, "");
        assert_eq!(start.elapsed().as_secs(), 10, "after {first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_its_own_time() {
    let running = Running::start(service_fn(describe), ServeSettings::default()).await;
    let mut client = running.raw().await;
    for _ in 0..3 {
        client.get("/").await;
        client.until("body=.").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    client.get("/").await;
    client.until("body=.").await;
    let start = Instant::now();
    assert_eq!(client.rest().await, "");
    assert_eq!(start.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_holds_the_connection_only_for_a_while() {
    const SIZE: usize = 64 << 20;
    let running = Running::start(
        service_fn(async |_| Ok(whole(vec![b'x'; SIZE]))),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(client.rest().await.len() < SIZE);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_slowly_is_read_to_the_end() {
    const SIZE: usize = 64 << 20;
    let running = Running::start(
        service_fn(async |_| Ok(whole(vec![b'x'; SIZE]))),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    let (mut chunk, mut read) = (vec![0; 4 << 20], 0);
    while read < SIZE {
        let size = client.stream.read(&mut chunk).await.unwrap();
        assert!(size > 0, "closed after {read} bytes");
        read += size;
        // Each of the reads can take a minute, and all of them take many.
        tokio::time::sleep(Duration::from_secs(1 + size as u64 / (128 << 10))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_clock_runs_on_an_exchange() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = service_fn(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok(endless()) }
    });
    let running = Running::start(service, ServeSettings::default()).await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("data: 1\n\n\r\n").await;
    let waited = tokio::time::timeout(Duration::from_secs(3600), client.rest()).await;
    assert!(waited.is_err(), "a standing stream was closed");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_arrives_although_the_body_was_not_read() {
    let service = service_fn(async |_: Request<Incoming>| {
        let mut response = whole("too large");
        *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        Ok(response)
    });
    let running = Running::start(service, ServeSettings::default()).await;
    let mut client = running.raw().await;
    let size = 8 << 20;
    client
        .send(&format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
        ))
        .await;
    client.stream.write_all(&vec![b'x'; size]).await.unwrap();
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.ends_with("too large"), "{answer}");
}
