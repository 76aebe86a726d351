//! Event streams that do not break: what the upstream cuts is gone on with, and what is quiet or not read is dealt with.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    Ziggurat,
    client::{Target, read_until},
    http, until,
    upstream::{Received, Upstream, Wire},
    within,
};

/// The events of a stream of `n`, the last of which answers call 1.
fn stored(n: usize) -> Vec<String> {
    let message = |at: usize| {
        if at + 1 == n {
            return json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}});
        }
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"at": at}})
    };
    (0..n)
        .map(|at| format!("id: {at}\nevent: message\ndata: {}\n\n", message(at)))
        .collect()
}

/// A server that keeps its events, and cuts each connection in the middle of the second event that it sends on it.
async fn keeper(received: Received, wire: Wire, events: Arc<Vec<String>>) -> Option<Wire> {
    let after = received.header("last-event-id");
    let from = after.parse::<usize>().map_or(0, |id| id + 1);
    let rest = &events[from.min(events.len())..];
    let wire = wire.sse().await.drip(&rest[0]).await;
    match rest.get(1) {
        None => wire.end().await,
        // No reset: that would take back what has not been read yet, also the only id.
        Some(next) => wire.drip(&next[..next.len() / 2]).await.close(),
    }
}

async fn keeps(n: usize) -> Upstream {
    let events = Arc::new(stored(n));
    Upstream::start(move |received, wire| keeper(received, wire, events.clone())).await
}

#[tokio::test]
async fn a_call_that_is_cut_in_the_middle_of_events_goes_on_and_its_client_never_notices() {
    let upstream = keeps(5).await;
    let z = Ziggurat::yaml(&http(&upstream.url("/mcp"))).await;
    let call = z.target().stateless("/mcp").call(1, "any", json!({})).await;
    let text = within("the call ends", call.text()).await;
    assert_eq!(text.replace(":\n\n", ""), stored(5).concat());
    let received = upstream.received();
    assert_eq!(received.len(), 5);
    let cursors = received[1..].iter().map(|r| r.header("last-event-id"));
    assert!(cursors.eq(["0", "1", "2", "3"]));
    assert!(received[1..].iter().all(|r| r.method == "GET"));
    let resumed = ["upstream=\"tools\"", "outcome=\"resumed\""];
    let metrics = z.metrics().await;
    assert_eq!(metrics.sum("ziggurat_resumes_total", &resumed), 4.0);
}

#[tokio::test]
async fn a_get_stream_that_is_cut_goes_on() {
    let upstream = keeps(4).await;
    let z = Ziggurat::yaml(&http(&upstream.url("/mcp"))).await;
    let stream = z.target().stateless("/mcp").stream().await;
    let text = within("the server ends it", stream.text()).await;
    assert_eq!(text.replace(":\n\n", ""), stored(4).concat());
    assert_eq!(upstream.received().len(), 4);
}

fn plain(upstream: &Upstream, server: &str) -> String {
    let url = upstream.url("");
    format!(
        "server: {{ {server} }}\n\
         routes: [{{ match: {{ path: / }}, protocol: http, upstream: u }}]\n\
         upstreams: {{ u: {{ endpoints: [{{ url: \"{url}\" }}] }} }}"
    )
}

#[tokio::test]
async fn plain_events_that_are_cut_go_on() {
    let upstream = keeps(4).await;
    let z = Ziggurat::yaml(&plain(&upstream, "")).await;
    let events = [("accept", "text/event-stream")];
    let stream = z.target().request("GET", "/x", &events, "").await;
    let text = within("the server ends it", stream.text()).await;
    assert_eq!(text.replace(":\n\n", ""), stored(4).concat());
}

#[tokio::test]
async fn a_stream_that_ends_without_its_answer_says_so() {
    let upstream = Upstream::start(async |_: Received, wire: Wire| {
        wire.sse()
            .await
            .event("{\"method\":\"x\"}")
            .await
            .end()
            .await
    })
    .await;
    let z = Ziggurat::yaml(&http(&upstream.url("/mcp"))).await;
    let call = z.target().stateless("/mcp").call(1, "any", json!({})).await;
    let answer = call.last().await;
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["error"]["data"]["kind"], "answer_missing");
    assert_eq!(answer["error"]["data"]["outcome"], "unknown");
}

#[tokio::test]
async fn a_client_that_polls_by_itself_sees_what_its_server_sends() {
    const PRIMED: &str = "id: 7\nretry: 10\ndata:\n\n";
    let upstream = Upstream::start(async |_: Received, wire: Wire| {
        wire.sse().await.drip(PRIMED).await.end().await
    })
    .await;
    let z = Ziggurat::yaml(&http(&upstream.url("/mcp"))).await;
    let call = z.target().stateless("/mcp").call(1, "any", json!({})).await;
    let text = call.text().await;
    assert_eq!(text.trim_start_matches(":\n\n"), PRIMED);
    assert_eq!(upstream.received().len(), 1);
}

/// Sends a GET, and gives the connection.
async fn get(target: &Target, path: &str) -> tokio::net::TcpStream {
    let mut client = target.connect().await;
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_quiet_stream_has_a_comment_at_its_head_and_heartbeats_and_a_torn_event_has_none() {
    let upstream = Upstream::start(async |received: Received, wire: Wire| {
        let wire = wire.sse().await;
        if received.path == "/quiet" {
            return wire.stall().await;
        }
        let long = "x".repeat(1 << 20);
        let begun = wire.drip("data: ").await.drip(&long).await;
        begun.stall().await
    })
    .await;
    let z = Ziggurat::yaml(&plain(&upstream, "heartbeat: 50ms")).await;
    let mut torn = get(&z.target(), "/torn").await;
    let (mut part, mut came) = (vec![0; 1 << 16], 0);
    while came < 1 << 20 {
        came += within("a part of it", torn.read(&mut part)).await.unwrap();
    }
    let mut quiet = get(&z.target(), "/quiet").await;
    let head = read_until(&mut quiet, "\r\n\r\n").await.to_lowercase();
    assert!(head.contains("x-accel-buffering: no\r\n"), "{head}");
    assert!(
        head.contains("cache-control: no-cache, no-transform\r\n"),
        "{head}"
    );
    for _ in 0..5 {
        read_until(&mut quiet, "3\r\n:\n\n\r\n").await;
    }
    // As long as that took, none came on the other.
    while let Ok(read) = torn.try_read(&mut part) {
        let text = String::from_utf8_lossy(&part[..read]);
        assert!(read > 0 && !text.contains(':'), "{text}");
    }
}

/// At `/torrent` an event stream of 64 MiB, elsewhere a short answer.
async fn torrent(received: Received, mut wire: Wire) -> Option<Wire> {
    if received.path != "/torrent" {
        return wire.json("{}").await;
    }
    wire = wire.sse().await;
    let event = format!("data: {}\n\n", "x".repeat(1 << 16));
    for _ in 0..1000 {
        wire = wire.drip(&event).await;
    }
    wire.stall().await
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_and_its_upstream_learns_it_while_others_go_on() {
    let upstream = Upstream::start(torrent).await;
    let z = Ziggurat::yaml(&plain(&upstream, "write_stall: 300ms")).await;
    let mut slow = get(&z.target(), "/torrent").await;
    until("it is cut", async || {
        assert_eq!(z.target().get("/other").await.status, 200);
        z.metrics()
            .await
            .sum("ziggurat_sse_write_stalls_total", &[])
            == 1.0
    })
    .await;
    upstream.left().await;
    let mut rest = Vec::new();
    let _cut = within("it is closed", slow.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_stream_of_http2_that_is_not_read_is_reset_while_the_others_of_its_connection_go_on() {
    let upstream = Upstream::start(torrent).await;
    let z = Ziggurat::yaml(&plain(&upstream, "write_stall: 300ms")).await;
    let socket = TokioIo::new(z.target().connect().await);
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(1 << 16);
    let (sender, connection) = client.handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = async |path: &str| {
        let uri = format!("http://localhost{path}");
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.clone().send_request(request);
        within("a head", answer).await.unwrap().into_body()
    };
    let mut torrent = ask("/torrent").await;
    until("it is reset", async || {
        assert_eq!(
            ask("/other").await.collect().await.unwrap().to_bytes(),
            "{}"
        );
        z.metrics()
            .await
            .sum("ziggurat_sse_write_stalls_total", &[])
            == 1.0
    })
    .await;
    upstream.left().await;
    let end = within("what had come before", async {
        while let Some(frame) = torrent.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(())
    });
    end.await.unwrap_err();
    assert_eq!(
        ask("/other").await.collect().await.unwrap().to_bytes(),
        "{}"
    );
    connection.abort();
}
