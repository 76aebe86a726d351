use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
};

use http_body::Body as _;
use tower::ServiceBuilder;

use super::*;
use crate::{
    exchange::GiveUp,
    mcp::peek::Answer,
    observe::ObserveLayer,
    resume::{ResumeLayer, ResumeSettings},
};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"a1","method":"tools/call","params":{"name":"slow"}}"#;

/// Sends the call, and drops it before its answer after `before` was done to its exchange.
async fn drop_unanswered(
    peer: &Peer,
    upstream: &HttpUpstream,
    body: &'static str,
    before: impl FnOnce(&Exchange),
) {
    drop_sent(peer, upstream, mcp(body), before).await;
}

async fn drop_sent(
    peer: &Peer,
    upstream: &HttpUpstream,
    (request, exchange): (Request<Body>, Arc<Exchange>),
    before: impl FnOnce(&Exchange),
) {
    let mut call = upstream.clone().oneshot(request);
    let server = async {
        let mut conn = peer.accept().await;
        conn.request().await;
        conn
    };
    let conn = tokio::select! {
        _ = &mut call => panic!("nobody answered"),
        conn = server => conn,
    };
    before(&exchange);
    drop(call);
    conn.closed().await;
}

#[tokio::test]
async fn a_legacy_call_that_was_given_up_is_cancelled_once() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    drop_unanswered(&peer, &upstream, CALL, |e| e.give_up(GiveUp::Timeout)).await;
    let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
    let (_conn, seen) = peer.serve(accepted).await;
    assert_eq!(seen.line, "POST /mcp HTTP/1.1");
    assert_eq!(
        seen.body,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a1","reason":"timeout"}}"#
    );
    for (name, value) in [
        ("mcp-session-id", "s-1"),
        ("mcp-protocol-version", "2025-11-25"),
        ("authorization", "Bearer t"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ] {
        assert_eq!(seen.headers[name], value);
    }
    upstream.close().await;
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_cancellation_names_the_session_as_the_upstream_knows_it() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let (mut request, exchange) = mcp(CALL);
    let own = http::HeaderValue::from_static("up-1");
    request.headers_mut().insert("mcp-session-id", own);
    let give_up = |e: &Exchange| e.give_up(GiveUp::Timeout);
    drop_sent(&peer, &upstream, (request, exchange.clone()), give_up).await;
    let (_conn, seen) = peer.serve(OK).await;
    let known = exchange.call().and_then(|call| call.session.as_deref());
    assert_eq!(known, Some("s-1"), "what the client sent");
    assert_eq!(seen.headers["mcp-session-id"], "up-1");
}

#[tokio::test]
async fn a_call_that_is_given_up_in_its_stream_is_cancelled_too() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let (request, exchange) = mcp(CALL);
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let (response, (conn, _)) = tokio::join!(upstream.clone().oneshot(request), peer.serve(head));
    let response = response.expect("a head");
    exchange.give_up(GiveUp::Drain);
    drop(response);
    conn.closed().await;
    let (closed, (_, seen)) = tokio::join!(upstream.close(), peer.serve(OK));
    assert!(seen.body.contains("\"drain\""), "{}", seen.body);
    let () = closed;
}

#[tokio::test]
async fn a_call_that_is_given_up_while_its_stream_is_away_is_cancelled_too() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let broke = Arc::new(AtomicBool::new(false));
    let breaks = broke.clone();
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new("u", Some(ResumeSettings::default())))
        .layer(ObserveLayer::new("u"))
        .map_response(move |response: Response<HttpBody>| {
            let breaks = breaks.clone();
            let broken = move |error| {
                breaks.store(true, Ordering::Relaxed);
                error
            };
            response.map(|body| body.map_err(broken))
        })
        .service(upstream.clone());
    let cut = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\nid: 1\nretry: 20000\ndata:\n\n";
    for (answered, gave_up) in [(false, true), (true, true), (false, false)] {
        let (request, exchange) = mcp(CALL);
        let (response, conn) = tokio::join!(service.clone().oneshot(request), peer.serve(cut));
        drop(conn);
        let mut body = Box::pin(response.expect("a head").into_body());
        body.frame().await.expect("a frame").expect("an event");
        poll_fn(|cx| {
            assert!(
                body.as_mut().poll_frame(cx).is_pending(),
                "the pause is long"
            );
            let broke = broke.swap(false, Ordering::Relaxed);
            if broke {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        if answered {
            exchange.response().saw_answer(Answer::Result);
        }
        if gave_up {
            exchange.give_up(GiveUp::Timeout);
        }
        drop(body);
        if gave_up && !answered {
            let accepted =
                "HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let (_conn, seen) = peer.serve(accepted).await;
            assert_eq!(seen.line, "POST /mcp HTTP/1.1");
            let cancelled = r#""params":{"requestId":"a1","reason":"timeout"}"#;
            assert!(seen.body.contains(cancelled), "{}", seen.body);
        }
    }
    upstream.close().await;
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn nothing_is_sent_where_nothing_is_to_be_cancelled() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let modern = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slow",
        "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    // The client went away.
    drop_unanswered(&peer, &upstream, CALL, |_| ()).await;
    for body in [modern, initialize, notification] {
        drop_unanswered(&peer, &upstream, body, |e| e.give_up(GiveUp::Timeout)).await;
    }
    drop_unanswered(&peer, &upstream, CALL, |e| {
        e.response().saw_answer(Answer::Result);
        e.give_up(GiveUp::Timeout);
    })
    .await;
    upstream.close().await;
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_call_that_ended_is_not_cancelled() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let refused = "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nabc";
    for answer in [OK, refused] {
        let (request, exchange) = mcp(CALL);
        let (response, (conn, _)) =
            tokio::join!(upstream.clone().oneshot(request), peer.serve(answer));
        let mut body = response.expect("an answer").into_body();
        assert!(body.frame().await.is_some());
        exchange.give_up(GiveUp::Timeout);
        drop((body, conn));
        settle().await;
    }
    upstream.close().await;
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn the_last_clone_takes_its_notices_with_it() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    drop_unanswered(&peer, &upstream, CALL, |e| e.give_up(GiveUp::Operator)).await;
    let mut conn = peer.accept().await;
    assert!(conn.request().await.body.contains("\"operator\""));
    drop(upstream);
    conn.closed().await;
}
