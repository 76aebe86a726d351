//! TLS to the upstream: whom to trust, who to be. The cryptography is aws-lc-rs, whatever the process has set as its default.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::settings::{HttpUpstreamError, Pem, TlsSettings};

/// The TLS settings in rustls' terms.
pub(super) fn config(
    settings: &TlsSettings,
    alpn: &[&[u8]],
) -> Result<ClientConfig, HttpUpstreamError> {
    let roots = match &settings.ca {
        Some(ca) => private(ca)?,
        None => system()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &settings.identity {
        Some(identity) => {
            let chain = certificates(&identity.chain, "client certificate")?;
            let what = "client key";
            let key = PrivateKeyDer::from_pem_slice(&identity.key.read(what)?)
                .map_err(|_| HttpUpstreamError::Pem { what })?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

fn private(ca: &Pem) -> Result<RootCertStore, HttpUpstreamError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, "CA certificate")? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn system() -> Result<RootCertStore, HttpUpstreamError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _ignored) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(HttpUpstreamError::NoRoots);
    }
    Ok(roots)
}

fn certificates(
    pem: &Pem,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, HttpUpstreamError> {
    let text = pem.read(what)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| HttpUpstreamError::Pem { what })?;
    if found.is_empty() {
        return Err(HttpUpstreamError::Pem { what });
    }
    Ok(found)
}
