//! What an HTTP upstream is told.

use std::{borrow::Cow, fmt, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};

/// What an HTTP upstream is.
#[derive(Clone)]
pub struct HttpUpstreamSettings {
    /// The upstream's name, for logs.
    pub name: Arc<str>,
    /// The endpoint: `http` or `https`. With a path other than `/`, that path takes the place of the prefix that the route
    /// matched; without one the request's path is kept whole. A request that took no route is one whose prefix is the URL's own
    /// path, if it begins with that. The URL's query is kept, and put before the request's.
    pub url: Uri,
    /// Where to connect, whatever the name in the URL resolves to; `Host` and TLS go by the name. Default: wherever it resolves to at each connection.
    pub address: Option<IpAddr>,
    /// Set on each request, in place of the client's headers of these names.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// HTTP/2 only: without TLS by prior knowledge (h2c), with TLS as the only offer. Default: no; then TLS offers
    /// both, and no TLS means HTTP/1.1.
    pub http2: bool,
    /// Whom to trust, and who to be.
    pub tls: TlsSettings,
    /// How long a connection may take to come about, TLS included. Default: 2 s.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Default: 4 s, below the 5 s after which a Node server closes it.
    pub pool_idle: Duration,
    /// The most unused connections that are kept. Default: 1024.
    pub pool_max: usize,
    /// TCP keep-alive probes, and HTTP/2 pings while calls are in flight, after this much silence; zero is off. Default: 30 s.
    pub keepalive: Duration,
    /// The name in `Via`; `None` adds none. Default: `ziggurat`.
    pub via: Option<Box<str>>,
    /// What happens to `Forwarded` and `X-Forwarded-*`. Default: [`Forwarded::Append`].
    pub forwarded: Forwarded,
}

/// TLS to the upstream.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// The certificates that are trusted, in place of the system's.
    pub ca: Option<Pem>,
    /// The certificate that the server may ask for.
    pub identity: Option<ClientIdentity>,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// The certificate and those between it and its root.
    pub chain: Pem,
    /// Its private key.
    pub key: Pem,
}

/// PEM text, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file.
    File(PathBuf),
    /// Here.
    Text(Vec<u8>),
}

/// What happens to `Forwarded`, `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto` of requests.
///
/// The client's address is the exchange's, the host that of the request. The scheme is `http` unless the listener put an
/// [`http::uri::Scheme`] into the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    /// This hop is appended to what came (RFC 7239, 4).
    #[default]
    Append,
    /// What came is not trusted, and replaced.
    Replace,
    /// What came passes, and nothing is added.
    Off,
}

/// Settings that are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpUpstreamError {
    /// The URL is neither http nor https.
    #[error("the URL must begin with http:// or https://")]
    Scheme,
    /// The URL has no host.
    #[error("the URL names no host")]
    Host,
    /// The URL has a user or password in it.
    #[error("the URL must not hold a user or password: set the header authorization instead")]
    UserInfo,
    /// A header that belongs to the connection, or to the body.
    #[error("the header {0} cannot be set: it belongs to the connection")]
    Header(HeaderName),
    /// A name that cannot stand in `Via`.
    #[error("the name for Via must be a word of letters and digits")]
    Via,
    /// A file could not be read.
    #[error("cannot read the {what}")]
    Read {
        /// What it holds.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// PEM text without what it should hold.
    #[error("there is no usable {what} in the PEM text")]
    Pem {
        /// What it should hold.
        what: &'static str,
    },
    /// No certificate of the system is readable.
    #[error("the system's root certificates cannot be found: set a CA")]
    NoRoots,
    /// The certificates are of no use to TLS.
    #[error("the certificates cannot be used")]
    Tls(#[from] rustls::Error),
}

// === impl HttpUpstreamSettings ===

impl HttpUpstreamSettings {
    /// The defaults, for this endpoint.
    pub fn new(name: impl Into<Arc<str>>, url: Uri) -> Self {
        Self {
            name: name.into(),
            url,
            address: None,
            headers: Vec::new(),
            http2: false,
            tls: TlsSettings::default(),
            connect_timeout: Duration::from_secs(2),
            pool_idle: Duration::from_secs(4),
            pool_max: 1024,
            keepalive: Duration::from_secs(30),
            via: Some("ziggurat".into()),
            forwarded: Forwarded::default(),
        }
    }
}

/// Shows no header's value and no query, which may be secrets.
impl fmt::Debug for HttpUpstreamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("HttpUpstreamSettings")
            .field("name", &self.name)
            .field("host", &self.url.host())
            .field("address", &self.address)
            .field("headers", &headers)
            .field("http2", &self.http2)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("pool_idle", &self.pool_idle)
            .field("pool_max", &self.pool_max)
            .field("keepalive", &self.keepalive)
            .field("via", &self.via)
            .field("forwarded", &self.forwarded)
            .finish_non_exhaustive()
    }
}

// === impl Pem ===

impl Pem {
    pub(super) fn read(&self, what: &'static str) -> Result<Cow<'_, [u8]>, HttpUpstreamError> {
        match self {
            Self::Text(text) => Ok(Cow::Borrowed(text)),
            Self::File(path) => std::fs::read(path)
                .map(Cow::Owned)
                .map_err(|source| HttpUpstreamError::Read { what, source }),
        }
    }
}

/// Shows where the text is, not what it is.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}
