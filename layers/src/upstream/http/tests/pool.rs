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
async fn a_post_that_meets_a_closing_connection_is_repeated_only_if_unsent() {
    let mut repeated = 0;
    // The more the client's connection is polled after the close, the likelier it knows of it.
    for polls in 0..16 {
        let peer = Peer::start().await;
        let upstream = peer.upstream();
        let (first, (conn, _)) =
            tokio::join!(upstream.clone().oneshot(post("/", "1")), peer.serve(OK));
        text(first.expect("an answer")).await;
        settle().await;
        drop(conn);
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        let mut call = upstream.clone().oneshot(post("/", "2"));
        tokio::select! {
            result = &mut call => {
                let error = result.map(|r| r.status()).expect_err("written into the void");
                let broken = find::<UpstreamBroken>(&*error).expect("typed");
                assert_eq!(broken.phase, Phase::Head);
            }
            (_conn, seen) = peer.serve(OK) => {
                assert_eq!(seen.body, "2");
                assert_eq!(text(call.await.expect("an answer")).await, "ok");
                repeated += 1;
            }
        }
        assert!(peer.is_left_alone().await);
    }
    assert!(repeated > 0);
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
    // The first connection is taken until its answer is whole, so the second call opens another.
    let (busy, (mut busy_conn, _)) =
        tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(head));
    let (idle, (idle_conn, _)) =
        tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(OK));
    text(idle.expect("an answer")).await;
    settle().await;
    drop(upstream);
    idle_conn.closed().await;
    busy_conn.write("def").await;
    assert_eq!(text(busy.expect("a head")).await, "abcdef");
    busy_conn.closed().await;
}
