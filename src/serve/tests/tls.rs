//! TLS on the listener.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::service_fn;

use super::super::{TlsError, load_tls};
use super::*;

struct Files {
    _dir: TempDir,
    certificate: PathBuf,
    key: PathBuf,
    roots: RootCertStore,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Self {
            _dir: dir,
            certificate,
            key,
            roots,
        }
    }

    async fn connect(&self, running: &Running, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = running.raw().await.stream;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }
}

async fn start(files: &Files) -> Running {
    let tls = load_tls(&files.certificate, &files.key).unwrap();
    let service = service_fn(async |request: Request<_>| {
        let peer = request.extensions().get::<Peer>().unwrap();
        Ok(whole(format!("{:?} {}.", request.version(), peer.tls)))
    });
    Running::start_tls(service, ServeSettings::default(), Some(tls)).await
}

#[tokio::test]
async fn http2_is_agreed_by_alpn() {
    let files = Files::new();
    let running = start(&files).await;
    let stream = files.connect(&running, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://localhost/")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "HTTP/2.0 true."
    );
    running.drain.start();
    running.task.await.unwrap();
    drop(connection.await);
}

#[tokio::test]
async fn http1_still_works() {
    let files = Files::new();
    let running = start(&files).await;
    let mut stream = files.connect(&running, &[b"http/1.1"]).await;
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
        .await
        .unwrap();
    assert!(answer.ends_with("HTTP/1.1 true."), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_come_is_given_up() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let files = Files::new();
    let running = start(&files).await;
    let start = tokio::time::Instant::now();
    assert_eq!(running.raw().await.rest().await, "");
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    let text = recorder.handle().render();
    assert!(
        text.contains("ziggurat_tls_handshake_failures_total{listener=\"data\"} 1\n"),
        "{text}"
    );
}

#[tokio::test]
async fn plain_http_is_not_answered() {
    let files = Files::new();
    let running = start(&files).await;
    let mut client = running.raw().await;
    client.get("/").await;
    let mut bytes = Vec::new();
    drop(tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut bytes).await);
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    let other = Files::new();
    let empty = files.certificate.with_file_name("empty.pem");
    fs::write(&empty, "nothing here\n").unwrap();
    let missing = files.certificate.with_file_name("missing.pem");

    let error = |certificate, key| load_tls(certificate, key).unwrap_err();
    assert!(
        matches!(error(&missing, &files.key), TlsError::Certificate { path, .. } if path == missing)
    );
    assert!(matches!(error(&empty, &files.key), TlsError::NoCertificate { path } if path == empty));
    assert!(matches!(
        error(&files.key, &files.key),
        TlsError::NoCertificate { .. }
    ));
    assert!(
        matches!(error(&files.certificate, &missing), TlsError::Key { path, .. } if path == missing)
    );
    assert!(matches!(error(&files.certificate, &empty), TlsError::NoKey { path } if path == empty));
    assert!(matches!(
        error(&files.certificate, &other.key),
        TlsError::Unusable { .. }
    ));
}
