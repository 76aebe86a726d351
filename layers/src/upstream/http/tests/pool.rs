use std::time::Duration;

use super::*;

#[tokio::test]
async fn a_connection_is_used_again() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let (first, (mut conn, _)) =
        tokio::join!(upstream.clone().oneshot(post("/", "1")), peer.serve(OK));
    text(first.expect("an answer")).await;
    settle().await;
    let (second, ()) = tokio::join!(upstream.clone().oneshot(post("/", "2")), async {
        assert_eq!(conn.request().await.body, "2");
        conn.write(OK).await;
    });
    text(second.expect("an answer")).await;
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_post_survives_a_connection_that_closed_while_idle() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    for round in 0..10 {
        let (first, (conn, _)) =
            tokio::join!(upstream.clone().oneshot(post("/", "1")), peer.serve(OK));
        text(first.expect("an answer")).await;
        settle().await;
        // Nobody is polled between the close and the next call, so the client writes into a closing connection.
        drop(conn);
        let (second, (conn, seen)) =
            tokio::join!(upstream.clone().oneshot(post("/", "2")), peer.serve(OK));
        assert_eq!(
            text(second.expect("repeated unsent")).await,
            "ok",
            "{round}"
        );
        assert_eq!(seen.body, "2");
        drop(conn);
        settle().await;
    }
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("");
    settings.pool_idle = Duration::from_millis(50);
    let upstream = HttpUpstream::new(settings).expect("of use");
    let (response, (conn, _)) =
        tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(OK));
    text(response.expect("an answer")).await;
    conn.closed().await;
    drop(upstream);
}

#[tokio::test]
async fn the_last_clone_takes_idle_connections_with_it_but_no_response() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("");
    settings.pool_idle = Duration::from_secs(3600);
    let upstream = HttpUpstream::new(settings).expect("of use");
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc";
    let (idle, (idle_conn, _)) =
        tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(OK));
    let (busy, (mut busy_conn, _)) = {
        // The first connection is still taken while its answer is unread.
        tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(head))
    };
    text(idle.expect("an answer")).await;
    settle().await;
    drop(upstream);
    idle_conn.closed().await;
    busy_conn.write("def").await;
    assert_eq!(text(busy.expect("a head")).await, "abcdef");
    busy_conn.closed().await;
}
