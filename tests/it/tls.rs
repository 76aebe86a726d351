//! TLS on the listener, with HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{Start, Ziggurat, mcp::initialize, stdio, within};

/// A ziggurat with a certificate, and who trusts it.
async fn secure() -> (Ziggurat, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let listen =
        "listen: { address: \"127.0.0.1:0\", tls: { certificate: cert.pem, key: key.pem } }";
    let z = Start::yaml(&format!("{listen}\n{}", stdio("")))
        .file("cert.pem", &made.cert.pem())
        .file("key.pem", &made.signing_key.serialize_pem())
        .up()
        .await;
    (z, roots)
}

async fn connect(z: &Ziggurat, roots: &RootCertStore, alpn: &[u8]) -> TlsStream<TcpStream> {
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
    .unwrap()
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
