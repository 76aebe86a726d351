use http_body::{Body as _, Frame};
use tokio::sync::mpsc;

use super::*;

#[tokio::test]
async fn both_directions_stream() {
    let peer = Peer::start().await;
    let (sender, mut receiver) = mpsc::channel::<&'static str>(1);
    let body = futures_util::stream::poll_fn(move |cx| {
        let frame = |text: &'static str| {
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(text.as_bytes())))
        };
        receiver.poll_recv(cx).map(|t| t.map(frame))
    });
    let request = Request::post("/")
        .body(http_body_util::StreamBody::new(body))
        .expect("a request");
    let upstream = peer.upstream();
    let server = async {
        let mut conn = peer.accept().await;
        assert_eq!(conn.head().await.headers["transfer-encoding"], "chunked");
        sender.send("one").await.expect("read");
        assert_eq!(conn.chunk().await, "one");
        conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        conn
    };
    let (response, mut conn) = tokio::join!(upstream.oneshot(request), server);
    let mut body = response.expect("a head").into_body();
    for (up, down) in [("two", "data: 2\n\n"), ("three", "data: 3\n\n")] {
        sender.send(up).await.expect("read");
        assert_eq!(conn.chunk().await, up);
        conn.write(&format!("{:x}\r\n{down}\r\n", down.len())).await;
        let frame = body.frame().await.expect("an event").expect("whole");
        assert_eq!(frame.into_data().expect("data"), down);
    }
    drop(sender);
    assert_eq!(conn.chunk().await, "");
    conn.write("0\r\n\r\n").await;
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_known_length_is_told() {
    let peer = Peer::start().await;
    let (response, _) = tokio::join!(peer.upstream().oneshot(post("/", "")), peer.serve(OK));
    let response = response.expect("an answer");
    assert_eq!(response.headers()["content-length"], "2");
    assert_eq!(response.body().size_hint().exact(), Some(2));
}

#[tokio::test]
async fn dropping_the_response_body_closes_the_connection() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let (response, (conn, _)) =
        tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(head));
    let mut body = response.expect("a head").into_body();
    assert!(body.frame().await.is_some());
    drop(body);
    conn.closed().await;
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let mut call = upstream.clone().oneshot(post("/", ""));
    let server = async {
        let mut conn = peer.accept().await;
        conn.request().await;
        conn
    };
    let conn = tokio::select! {
        _ = &mut call => panic!("nobody answered"),
        conn = server => conn,
    };
    drop(call);
    conn.closed().await;
}
