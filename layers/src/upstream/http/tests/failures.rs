use std::time::Duration;

use super::*;
use crate::error::Outcome;

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    let peer = Peer::start().await;
    let (upstream, address) = (peer.upstream(), peer.address());
    drop(peer);
    let error = error(upstream, post("/", "")).await;
    let failed = find::<ConnectFailed>(&*error).expect("typed");
    assert_eq!(failed.problem, ConnectProblem::Refused);
    assert_eq!(*failed.address, *address.to_string());
    assert!(find::<std::io::Error>(&*error).is_some());
}

#[tokio::test]
async fn a_name_without_an_address_is_said_to_be_one() {
    let url = "http://nowhere.invalid/".parse().expect("a URL");
    let mut settings = HttpUpstreamSettings::new("test", url);
    settings.connect_timeout = Duration::from_secs(60);
    let upstream = HttpUpstream::new(settings).expect("of use");
    let error = error(upstream, post("/", "")).await;
    let failed = find::<ConnectFailed>(&*error).expect("typed");
    assert_eq!(failed.problem, ConnectProblem::Dns);
}

#[tokio::test]
async fn an_address_that_is_set_is_where_a_name_leads() {
    let peer = Peer::start().await;
    let url = format!("http://name.invalid:{}", peer.address().port());
    let settings = HttpUpstreamSettings {
        address: Some(peer.address().ip()),
        ..HttpUpstreamSettings::new("test", url.parse().expect("a URL"))
    };
    let upstream = HttpUpstream::new(settings).expect("of use");
    let call = tokio::spawn(upstream.oneshot(Request::new(Body::empty())));
    let (_conn, seen) = peer.serve(OK).await;
    let expected = format!("name.invalid:{}", peer.address().port());
    assert_eq!(seen.headers["host"], expected.as_str());
    assert_eq!(
        call.await.expect("no panic").expect("an answer").status(),
        200
    );
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_is_a_connect_timeout() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("/");
    let url = format!("https://{}", peer.address());
    settings.url = url.parse().expect("a URL");
    settings.connect_timeout = Duration::from_millis(50);
    settings.tls.ca = Some(Pem::Text(versions::authority().pem().into()));
    let upstream = HttpUpstream::new(settings).expect("of use");
    // The kernel accepts; nobody shakes hands.
    let error = error(upstream, post("/", "")).await;
    let limit = Duration::from_millis(50);
    assert_eq!(find(&*error), Some(&ConnectTimeout { limit }));
}

#[tokio::test]
async fn a_request_that_was_read_is_not_repeated() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    // On a new connection, and on one that was in use before.
    for used in [false, true] {
        let server = async {
            let mut conn = peer.accept().await;
            if used {
                conn.request().await;
                conn.write(OK).await;
            }
            assert_eq!(conn.request().await.body, "once");
        };
        let client = async {
            if used {
                let first = upstream.clone().oneshot(post("/", "first")).await;
                text(first.expect("an answer")).await;
                settle().await;
            }
            error(upstream.clone(), post("/", "once")).await
        };
        let (error, ()) = tokio::join!(client, server);
        let broken = find::<UpstreamBroken>(&*error).expect("typed");
        assert_eq!(broken.phase, Phase::Head);
        assert_eq!(broken.outcome(), Outcome::Unknown);
        assert!(peer.is_left_alone().await);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_broken() {
    let peer = Peer::start().await;
    let (error, _) = tokio::join!(
        error(peer.upstream(), post("/", "")),
        peer.serve("SSH-2.0-OpenSSH_9.9\r\n")
    );
    let broken = find::<UpstreamBroken>(&*error).expect("typed");
    assert_eq!(broken.phase, Phase::Head);
}

#[tokio::test]
async fn a_body_that_is_cut_or_reset_is_broken() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    for (head, reset) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            false,
        ),
    ] {
        let (response, (conn, _)) =
            tokio::join!(upstream.clone().oneshot(post("/", "")), peer.serve(head));
        let mut body = response.expect("a head").into_body();
        let frame = body.frame().await.expect("a frame").expect("whole");
        assert_eq!(frame.into_data().expect("data"), "abc");
        if reset {
            conn.0.get_ref().set_zero_linger().expect("a socket");
        }
        drop(conn);
        let error = body.frame().await.expect("not the end").expect_err("cut");
        let broken = find::<UpstreamBroken>(&*error).expect("typed");
        assert_eq!(broken.phase, Phase::Body);
    }
}

#[tokio::test]
async fn a_request_body_that_fails_is_not_the_upstreams_fault() {
    #[derive(Debug, thiserror::Error)]
    #[error("cut by a layer")]
    struct Cut;

    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let body = futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>(Cut)]);
    let body = http_body_util::StreamBody::new(body);
    let request = Request::post("/").body(Body::new(body)).expect("a request");
    let server = async { peer.accept().await.closed().await };
    let (error, ()) = tokio::join!(error(upstream, request), server);
    assert!(find::<RequestBroken>(&*error).is_some());
    assert!(find::<Cut>(&*error).is_some());
}

#[tokio::test]
async fn connect_and_paths_that_climb_are_refused_unsent() {
    let peer = Peer::start().await;
    let connect = Request::connect("h:1").body(Body::empty()).expect("one");
    let refused = error(peer.upstream(), connect).await;
    assert_eq!(find(&*refused), Some(&Unforwardable::Connect));
    let refused = error(peer.upstream(), post("/a/%2e%2e/b", "")).await;
    assert_eq!(find(&*refused), Some(&Unforwardable::PathClimbs));
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_broken() {
    let peer = Peer::start().await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let (error, _) = tokio::join!(error(peer.upstream(), post("/", "")), peer.serve(answer));
    assert!(find::<UpstreamBroken>(&*error).is_some());
}
