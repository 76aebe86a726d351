//! Bounds on connections and streams, and who a request comes from.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::service_fn;

use super::*;
use crate::serve::testing::TestBody;

#[tokio::test]
async fn connections_over_the_bound_wait_for_their_turn() {
    let settings = ServeSettings {
        max_connections: 1,
        ..ServeSettings::default()
    };
    let running = Running::start(service_fn(async |_| Ok(whole("ok"))), settings).await;
    let mut first = running.raw().await;
    first.get("/").await;
    first.until("ok").await;

    let mut second = running.raw().await;
    second.get("/").await;
    let mut byte = [0];
    // The first connection works on while the second has no answer.
    for _ in 0..3 {
        first.get("/").await;
        first.until("ok").await;
        assert!(second.stream.try_read(&mut byte).is_err());
    }
    drop(first);
    second.until("ok").await;
}

#[tokio::test]
async fn open_connections_are_counted_until_they_close() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let metrics = recorder.handle();
    let running = Running::start(
        service_fn(async |_| Ok(whole("ok"))),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("ok").await;
    let text = metrics.render();
    assert!(
        text.contains("ziggurat_connections{listener=\"data\"} 1\n"),
        "{text}"
    );

    drop(client);
    running.drain.start();
    running.task.await.unwrap();
    let text = metrics.render();
    assert!(
        text.contains("ziggurat_connections{listener=\"data\"} 0\n"),
        "{text}"
    );
    assert!(
        text.contains("ziggurat_connections_total{listener=\"data\"} 1\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_request_knows_its_peer() {
    let service = service_fn(async |request: Request<_>| {
        let peer = request.extensions().get::<Peer>().unwrap();
        Ok(whole(format!("{} {}.", peer.addr, peer.tls)))
    });
    let running = Running::start(service, ServeSettings::default()).await;
    let mut client = running.raw().await;
    let addr = client.stream.local_addr().unwrap();
    client.get("/").await;
    client.until(&format!("{addr} false.")).await;
}

/// An event stream that always has more to send.
fn torrent(dropped: Arc<()>) -> http::Response<TestBody> {
    use futures_util::StreamExt;
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let pieces = futures_util::stream::repeat(piece).map(move |piece| {
        let _held = &dropped;
        Ok(Frame::data(piece))
    });
    http::Response::new(BodyExt::boxed(StreamBody::new(pieces)))
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_while_others_go_on() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let metrics = recorder.handle();
    let settings = ServeSettings {
        write_stall: Some(Duration::from_millis(300)),
        ..ServeSettings::default()
    };
    let held = Arc::new(());
    let body = held.clone();
    let service = service_fn(move |request: Request<_>| {
        let body = body.clone();
        async move {
            Ok(match request.uri().path() {
                "/torrent" => torrent(body),
                _ => whole("ok"),
            })
        }
    });
    let running = Running::start(service, settings).await;
    let before = Arc::strong_count(&held);
    let mut slow = running.raw().await;
    slow.get("/torrent").await;
    let mut other = running.raw().await;
    let cut = "ziggurat_sse_write_stalls_total{listener=\"data\"} 1\n";
    while !metrics.render().contains(cut) {
        other.get("/").await;
        other.until("ok").await;
        tokio::task::yield_now().await;
    }
    // Its connection has the service, too.
    drop(other);
    while Arc::strong_count(&held) > before {
        tokio::task::yield_now().await;
    }
    // One that reads is not cut, though it takes longer than that.
    let mut reader = running.raw().await;
    reader.get("/torrent").await;
    let mut buffer = vec![0; 1 << 20];
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        let read = tokio::io::AsyncReadExt::read(&mut reader.stream, &mut buffer).await;
        assert!(read.unwrap() > 0);
    }
    assert!(metrics.render().contains(cut));
}
