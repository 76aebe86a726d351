//! TLS on the listener, with HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{Start, Ziggurat, client::read_until, mcp::initialize, stdio, within};

/// A certificate and its key, and who trusts it.
struct Made {
    certificate: String,
    key: String,
    roots: RootCertStore,
}

impl Made {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            roots,
        }
    }
}

fn config() -> String {
    let listen =
        "listen: { address: \"127.0.0.1:0\", tls: { certificate: cert.pem, key: key.pem } }";
    format!("{listen}\n{}", stdio(""))
}

/// A ziggurat with a certificate, and who trusts it.
async fn secure() -> (Ziggurat, RootCertStore) {
    let made = Made::new();
    let z = Start::yaml(&config())
        .file("cert.pem", &made.certificate)
        .file("key.pem", &made.key)
        .up()
        .await;
    (z, made.roots)
}

/// Another file in the place of the one that it was started with.
fn renew(z: &Ziggurat, name: &str, text: &str) {
    std::fs::write(z.dir().join(name), text).unwrap();
}

async fn connect(z: &Ziggurat, roots: &RootCertStore, alpn: &[u8]) -> TlsStream<TcpStream> {
    try_connect(z, roots, alpn).await.unwrap()
}

async fn try_connect(
    z: &Ziggurat,
    roots: &RootCertStore,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = z.target().connect().await;
    let name = "localhost".try_into().unwrap();
    within(
        "a handshake",
        TlsConnector::from(Arc::new(config)).connect(name, stream),
    )
    .await
}

fn request(uri: &str) -> Request<Full<Bytes>> {
    Request::post(uri)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Full::new(Bytes::from(initialize("2025-11-25").to_string())))
        .unwrap()
}

async fn check(answer: http::Response<hyper::body::Incoming>, version: Version) {
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.version(), version);
    assert!(answer.headers().contains_key("mcp-session-id"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["id"], "init");
}

#[tokio::test]
async fn a_session_begins_over_http1_and_over_http2() {
    let (z, roots) = secure().await;
    let stream = connect(&z, &roots, b"http/1.1").await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut first = request("/mcp");
    first
        .headers_mut()
        .insert("host", "localhost".parse().unwrap());
    let answer = within("an answer", sender.send_request(first)).await;
    check(answer.unwrap(), Version::HTTP_11).await;
    connection.abort();

    let stream = connect(&z, &roots, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..2 {
        let answer = sender.send_request(request("https://localhost/mcp"));
        check(within("an answer", answer).await.unwrap(), Version::HTTP_2).await;
    }
    let foreign = sender.send_request(request("https://evil.example/mcp"));
    assert_eq!(within("a refusal", foreign).await.unwrap().status(), 403);
    connection.abort();
}

#[tokio::test]
async fn what_is_no_tls_is_turned_away_and_costs_nothing() {
    let (z, roots) = secure().await;
    drop(connect(&z, &roots, b"http/1.1").await);
    let before = z.baseline().await;
    let answer = z
        .target()
        .raw("GET /mcp HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer:?}");
    z.assert_back_to(&before).await;
    assert!(
        z.log().contains("https://"),
        "the banner says how to come in"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_served_after_a_reload_and_open_connections_go_on() {
    let (z, old) = secure().await;
    let mut kept = connect(&z, &old, b"http/1.1").await;
    let ask = b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let renewed = Made::new();
    // Halfway through, the two do not belong together.
    renew(&z, "cert.pem", &renewed.certificate);
    z.reload(&config(), "refused").await;
    z.logs(&["refused", "cert.pem", "key.pem"]).await;
    drop(connect(&z, &old, b"http/1.1").await);
    renew(&z, "key.pem", "no key");
    z.reload(&config(), "refused").await;
    drop(connect(&z, &old, b"http/1.1").await);

    renew(&z, "key.pem", &renewed.key);
    z.reload(&config(), "ok").await;
    let refused = try_connect(&z, &old, b"http/1.1").await;
    assert!(refused.is_err(), "who trusts the old one alone");
    drop(connect(&z, &renewed.roots, b"http/1.1").await);
    kept.write_all(ask).await.unwrap();
    read_until(&mut kept, "HTTP/1.1 404").await;
    assert!(!z.log().contains("next start"), "{}", z.log());
}

#[tokio::test]
async fn a_renewed_certificate_of_an_upstream_is_trusted_after_a_reload() {
    let first = Made::new();
    let secure = Start::yaml(&config())
        .file("cert.pem", &first.certificate)
        .file("key.pem", &first.key)
        .up()
        .await;
    let url = format!("https://localhost:{}/nowhere", secure.listen.port());
    let yaml = format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: a }}]\n\
         upstreams: {{ a: {{ circuit: off, endpoints: [{{ url: \"{url}\", tls: {{ ca: ca.pem }} }}] }} }}"
    );
    let z = Start::yaml(&yaml)
        .file("ca.pem", &first.certificate)
        .up()
        .await;
    let status = async || z.target().get("/").await.status.as_u16();
    assert_eq!(status().await, 404, "the answer of the upstream");

    renew(&z, "ca.pem", "nothing");
    z.reload(&yaml, "refused").await;
    assert_eq!(status().await, 404);
    let other = Made::new();
    renew(&z, "ca.pem", &other.certificate);
    z.reload(&yaml, "ok").await;
    assert_eq!(status().await, 502, "that is not whom it trusts now");
    renew(&z, "ca.pem", &first.certificate);
    z.reload(&yaml, "ok").await;
    assert_eq!(status().await, 404);
}
