use http::{HeaderValue, header};

use super::*;
use crate::exchange::{self, RouteInfo};

async fn seen_of(settings: HttpUpstreamSettings, peer: &Peer, request: Request<Body>) -> Seen {
    let upstream = HttpUpstream::new(settings).expect("of use");
    let (response, (_, seen)) = tokio::join!(upstream.oneshot(request), peer.serve(OK));
    assert_eq!(text(response.expect("an answer")).await, "ok");
    seen
}

fn with(mut request: Request<Body>, headers: &[(&'static str, &'static str)]) -> Request<Body> {
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    request
}

#[tokio::test]
async fn the_route_and_the_url_make_the_path() {
    let peer = Peer::start().await;
    let mut request = post("/tools/x?a=1", "{}");
    Exchange::of(&mut request).set_route(Arc::new(RouteInfo {
        name: "tools".into(),
        prefix: "/tools".into(),
        errors: crate::exchange::ErrorStyle::Envelope,
    }));
    let seen = seen_of(peer.settings("/mcp?k=2"), &peer, request).await;
    assert_eq!(seen.line, "POST /mcp/x?k=2&a=1 HTTP/1.1");
    assert_eq!(seen.headers["host"], peer.address().to_string());
    assert_eq!(seen.headers["content-length"], "2");
    assert_eq!(seen.body, "{}");
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_and_end_to_end_ones_pass() {
    let peer = Peer::start().await;
    let request = with(
        post("/", "{}"),
        &[
            ("connection", "close, X-Hop"),
            ("connection", "keep-alive, x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers;q=0.5"),
            ("upgrade", "websocket"),
            ("origin", "http://localhost"),
            ("expect", "100-continue"),
            ("mcp-session-id", "s"),
            ("last-event-id", "7"),
            ("authorization", "Bearer t"),
            ("cookie", "a=b"),
        ],
    );
    let seen = seen_of(peer.settings("/"), &peer, request).await;
    for gone in [
        "connection",
        "x-hop",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "origin",
        "expect",
    ] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    for (name, value) in [
        ("te", "trailers"),
        ("mcp-session-id", "s"),
        ("last-event-id", "7"),
        ("authorization", "Bearer t"),
        ("cookie", "a=b"),
    ] {
        assert_eq!(seen.headers[name], value);
    }
}

#[tokio::test]
async fn a_response_passes_but_for_its_hop_by_hop_headers() {
    let peer = Peer::start().await;
    let answer = "HTTP/1.1 302 Found\r\nlocation: /else\r\nconnection: X-Hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
                  via: 1.1 other\r\nset-cookie: a=b\r\nset-cookie: c=d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let (response, _) = tokio::join!(peer.upstream().oneshot(post("/", "")), peer.serve(answer));
    let response = response.expect("a redirect passes");
    assert_eq!(response.status(), StatusCode::FOUND);
    let mut names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["location", "set-cookie", "via"]);
    assert_eq!(response.headers()["via"], "1.1 other");
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn this_hop_is_written_down() {
    let peer = Peer::start().await;
    let came = [
        ("host", "proxy.example:8080"),
        ("via", "1.0 edge"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "5.6.7.8"),
    ];
    let request = || {
        let mut request = with(post("/", ""), &came);
        Exchange::of(&mut request).set_client(exchange::Client::new(
            "2001:db8::7".parse().expect("an address"),
            true,
        ));
        request
    };
    let seen = seen_of(peer.settings("/"), &peer, request()).await;
    let via: Vec<_> = seen.headers.get_all(header::VIA).iter().collect();
    assert_eq!(via, ["1.0 edge", "1.1 ziggurat"]);
    let hop = "for=\"[2001:db8::7]\";host=\"proxy.example:8080\";proto=https";
    for (name, value) in [
        ("forwarded", &*format!("for=1.2.3.4, {hop}")),
        ("x-forwarded-for", "1.2.3.4, 5.6.7.8, 2001:db8::7"),
        ("x-forwarded-host", "proxy.example:8080"),
        ("x-forwarded-proto", "https"),
    ] {
        let lines: Vec<_> = seen.headers.get_all(name).iter().collect();
        assert_eq!(lines, [value]);
    }

    let mut settings = peer.settings("/");
    settings.forwarded = Forwarded::Replace;
    settings.via = None;
    let seen = seen_of(settings, &peer, request()).await;
    assert_eq!(seen.headers["forwarded"], hop);
    assert_eq!(seen.headers["x-forwarded-for"], "2001:db8::7");
    assert_eq!(seen.headers["via"], "1.0 edge");

    let mut settings = peer.settings("/");
    settings.forwarded = Forwarded::Off;
    let seen = seen_of(settings, &peer, request()).await;
    assert_eq!(seen.headers["forwarded"], "for=1.2.3.4");
    assert!(!seen.headers.contains_key("x-forwarded-host"));
}

#[tokio::test]
async fn configured_headers_replace_the_clients() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("/");
    let secret = HeaderValue::from_static("Bearer upstream");
    settings.headers = vec![(header::AUTHORIZATION, secret)];
    assert!(!format!("{settings:?}").contains("Bearer"));
    let request = with(post("/", ""), &[("authorization", "Bearer client")]);
    let seen = seen_of(settings, &peer, request).await;
    let lines: Vec<_> = seen.headers.get_all("authorization").iter().collect();
    assert_eq!(lines, ["Bearer upstream"]);
}

#[tokio::test]
async fn headers_of_the_connection_cannot_be_configured() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("/");
    settings.headers = vec![(header::CONNECTION, HeaderValue::from_static("close"))];
    let error = HttpUpstream::new(settings).expect_err("refused");
    assert!(error.to_string().contains("connection"), "{error}");
    let mut settings = peer.settings("/");
    settings.via = Some("a b".into());
    assert!(matches!(
        HttpUpstream::new(settings),
        Err(HttpUpstreamError::Via)
    ));
}

#[tokio::test]
async fn a_length_beside_a_transfer_encoding_does_not_pass() {
    let peer = Peer::start().await;
    let body = http_body_util::StreamBody::new(futures_util::stream::iter([Ok::<_, BoxError>(
        http_body::Frame::data(Bytes::from_static(b"abc")),
    )]));
    let request = Request::post("/").body(Body::new(body)).expect("a request");
    let request = with(
        request,
        &[("transfer-encoding", "chunked"), ("content-length", "99")],
    );
    let seen = seen_of(peer.settings("/"), &peer, request).await;
    assert!(!seen.headers.contains_key("content-length"));
    assert_eq!(seen.body, "abc");
}
