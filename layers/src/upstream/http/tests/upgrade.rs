use hyper_util::{rt::TokioIo, service::TowerToHyperService};

use super::*;

pub(super) const ASK: &str =
    "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";
pub(super) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-a: 1\r\n\r\n";

/// A client's connection to a server in front of the upstream.
pub(super) async fn front(upstream: HttpUpstream) -> Conn {
    let front = Peer::start().await;
    let (client, server) = tokio::join!(TcpStream::connect(front.address()), front.0.accept());
    let (server, _) = server.expect("a connection");
    // The layers above have changed the type of the body.
    let service = upstream.map_request(|r: Request<Incoming>| r.map(Body::new));
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), TowerToHyperService::new(service))
            .with_upgrades(),
    );
    Conn(BufReader::new(client.expect("a connection")))
}

#[tokio::test]
async fn after_an_upgrade_bytes_pass_both_ways_until_one_side_ends() {
    for client_ends in [true, false] {
        let peer = Peer::start().await;
        let upstream = peer.upstream();
        let mut client = front(upstream.clone()).await;
        client.write(ASK).await;
        let (mut server, seen) = peer.serve(SWITCH).await;
        assert_eq!(seen.headers["connection"], "upgrade");
        assert_eq!(seen.headers["upgrade"], "websocket");
        let answer = client.head().await;
        assert_eq!(answer.line, "HTTP/1.1 101 Switching Protocols");
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("x-a", "1"),
        ] {
            assert_eq!(answer.headers[name], value);
        }
        client.write("ping").await;
        assert_eq!(server.bytes(4).await, "ping");
        server.write("pong").await;
        assert_eq!(client.bytes(4).await, "pong");
        if client_ends {
            drop(client);
            server.closed().await;
        } else {
            drop(server);
            client.closed().await;
        }
        upstream.close().await;
    }
}

#[tokio::test]
async fn the_last_clone_ends_joined_connections() {
    let peer = Peer::start().await;
    let upstream = peer.upstream();
    let mut client = front(upstream.clone()).await;
    client.write(ASK).await;
    let (server, _) = peer.serve(SWITCH).await;
    client.head().await;
    settle().await;
    upstream.close().await;
    tokio::join!(server.closed(), client.closed());
}

#[tokio::test]
async fn an_upgrade_that_the_upstream_declines_is_a_plain_answer() {
    let peer = Peer::start().await;
    let mut client = front(peer.upstream()).await;
    client.write(ASK).await;
    let _server = peer.serve(OK).await;
    assert_eq!(client.head().await.line, "HTTP/1.1 200 OK");
    assert_eq!(client.bytes(2).await, "ok");
}

#[tokio::test]
async fn an_upgrade_to_http_or_tls_is_not_forwarded() {
    let peer = Peer::start().await;
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.2", "h2c, websocket"] {
        let mut client = front(peer.upstream()).await;
        let ask = ASK.replace("websocket", protocol);
        client.write(&ask).await;
        let (_conn, seen) = peer.serve(OK).await;
        assert!(!seen.headers.contains_key("upgrade"), "{protocol}");
        assert!(!seen.headers.contains_key("connection"), "{protocol}");
        assert_eq!(client.head().await.line, "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn an_mcp_call_does_not_upgrade() {
    let peer = Peer::start().await;
    let (mut request, _exchange) = mcp(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let (_response, (_conn, seen)) = tokio::join!(peer.upstream().oneshot(request), peer.serve(OK));
    assert!(!seen.headers.contains_key("upgrade"));
}
