use std::convert::Infallible;

use http_body_util::Full;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate authority.
pub(super) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a certificate")
}

/// A certificate and its key.
fn certificate(authority: &CertifiedIssuer<'_, KeyPair>) -> (rcgen::Certificate, KeyPair) {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, authority).expect("signed"), key)
}

/// Accepts TLS from clients with a certificate of the authority.
fn acceptor(authority: &CertifiedIssuer<'_, KeyPair>, alpn: &[&[u8]]) -> TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let (chain, key) = certificate(authority);
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("roots"))
        .with_single_cert(vec![chain.der().clone()], key)
        .expect("a pair");
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves connections with hyper; each answer names the request's version and path.
fn serve(peer: Peer, tls: Option<TlsAcceptor>) {
    let answer = hyper::service::service_fn(async |request: Request<Incoming>| {
        let text = format!("{:?} {}", request.version(), request.uri().path());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = peer.0.accept().await {
            let server = auto::Builder::new(TokioExecutor::new());
            let tls = tls.clone();
            tokio::spawn(async move {
                let _ended = match tls {
                    None => server.serve_connection(TokioIo::new(stream), answer).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => server.serve_connection(TokioIo::new(stream), answer).await,
                        Err(error) => Err(error.into()),
                    },
                };
            });
        }
    });
}

async fn answer(settings: HttpUpstreamSettings) -> Result<String, BoxError> {
    let upstream = HttpUpstream::new(settings)?;
    Ok(text(upstream.oneshot(post("/x", "")).await?).await)
}

#[tokio::test]
async fn http2_by_prior_knowledge() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("");
    serve(peer, None);
    assert_eq!(answer(settings.clone()).await.expect("one"), "HTTP/1.1 /x");
    settings.http2 = true;
    assert_eq!(answer(settings).await.expect("one"), "HTTP/2.0 /x");
}

#[tokio::test]
async fn dropping_an_http2_response_resets_its_stream() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("");
    settings.http2 = true;
    let upstream = HttpUpstream::new(settings).expect("of use");
    let (gone, mut is_gone) = mpsc::channel::<()>(1);
    let server = async move {
        let (stream, _) = peer.0.accept().await.expect("a connection");
        // One frame, then silence for as long as somebody listens.
        let answer = hyper::service::service_fn(move |_: Request<Incoming>| {
            let gone = gone.clone();
            let first = http_body::Frame::data(Bytes::from_static(b"data: 1\n\n"));
            let frames = futures_util::stream::unfold(Some(first), move |first| {
                let _held = &gone;
                let frame = first.map(|f| (Ok::<_, Infallible>(f), None));
                async {
                    match frame {
                        Some(frame) => Some(frame),
                        None => std::future::pending().await,
                    }
                }
            });
            let body = BodyExt::boxed_unsync(http_body_util::StreamBody::new(frames));
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let _ended = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answer)
            .await;
    };
    tokio::spawn(server);
    let response = upstream.clone().oneshot(post("/", "")).await;
    let mut body = response.expect("a head").into_body();
    assert!(body.frame().await.is_some());
    assert!(is_gone.recv().now_or_never().is_none());
    drop(body);
    // The server holds one sender for itself, so what ends is the stream's.
    while is_gone.sender_strong_count() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tls_with_a_private_authority_and_a_client_certificate() {
    let authority = authority();
    let (chain, key) = certificate(&authority);
    for (alpn, http2, expected) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], false, "HTTP/2.0 /x"),
        (&[b"http/1.1".as_slice()][..], false, "HTTP/1.1 /x"),
        (&[b"h2".as_slice()][..], true, "HTTP/2.0 /x"),
    ] {
        let peer = Peer::start().await;
        let mut settings = peer.settings("");
        let url = format!("https://{}", peer.address());
        settings.url = url.parse().expect("a URL");
        settings.http2 = http2;
        settings.tls = TlsSettings {
            ca: Some(Pem::Text(authority.pem().into())),
            identity: Some(ClientIdentity {
                chain: Pem::Text(chain.pem().into()),
                key: Pem::Text(key.serialize_pem().into()),
            }),
        };
        serve(peer, Some(acceptor(&authority, alpn)));
        assert_eq!(answer(settings.clone()).await.expect("one"), expected);
        settings.tls.identity = None;
        assert!(answer(settings).await.is_err(), "no certificate");
    }
}

#[tokio::test]
async fn an_upgrade_over_tls_speaks_http1_though_the_server_prefers_http2() {
    let authority = authority();
    let (chain, key) = certificate(&authority);
    let peer = Peer::start().await;
    let mut settings = peer.settings("");
    let url = format!("https://{}", peer.address());
    settings.url = url.parse().expect("a URL");
    settings.tls.ca = Some(Pem::Text(authority.pem().into()));
    settings.tls.identity = Some(ClientIdentity {
        chain: Pem::Text(chain.pem().into()),
        key: Pem::Text(key.serialize_pem().into()),
    });
    let upstream = HttpUpstream::new(settings).expect("of use");
    let mut client = upgrade::front(upstream.clone()).await;
    client.write(upgrade::ASK).await;
    let (stream, _) = peer.0.accept().await.expect("a connection");
    let tls = acceptor(&authority, &[b"h2", b"http/1.1"]);
    let mut server = BufReader::new(tls.accept(stream).await.expect("a handshake"));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        server.read_line(&mut line).await.expect("text");
    }
    server
        .write_all(upgrade::SWITCH.as_bytes())
        .await
        .expect("open");
    server.write_all(b"hello").await.expect("open");
    server.flush().await.expect("open");
    assert_eq!(client.head().await.line, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(client.bytes(5).await, "hello");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_fails_the_connection() {
    let peer = Peer::start().await;
    let mut settings = peer.settings("");
    let url = format!("https://{}", peer.address());
    settings.url = url.parse().expect("a URL");
    settings.tls.ca = Some(Pem::Text(authority().pem().into()));
    serve(peer, Some(acceptor(&authority(), &[b"http/1.1"])));
    let error = answer(settings).await.expect_err("not trusted");
    let failed = find::<ConnectFailed>(&*error).expect("typed");
    assert_eq!(failed.problem, ConnectProblem::Tls);
}

#[test]
fn pem_of_no_use_says_what_is_missing() {
    let url: http::Uri = "https://h/".parse().expect("a URL");
    for (ca, says) in [
        (Pem::Text(b"nothing".to_vec()), "CA certificate"),
        (Pem::File("/nowhere/ca.pem".into()), "CA certificate"),
    ] {
        let mut settings = HttpUpstreamSettings::new("test", url.clone());
        settings.tls.ca = Some(ca);
        let error = HttpUpstream::new(settings).expect_err("of no use");
        assert!(error.to_string().contains(says), "{error}");
    }
}
