//! What happens to headers: hop-by-hop ones end here, and this hop is written down.
//!
//! RFC 9110: 7.6.1 (Connection), 7.6.3 (Via), 10.1.1 (Expect), 10.1.4 (TE); RFC 9112: 6.1 (Transfer-Encoding with Content-Length); RFC 7239.

use std::{fmt::Write, net::IpAddr};

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request::Parts,
    uri::Scheme,
};

use super::{
    settings::{Forwarded, HttpUpstreamError, HttpUpstreamSettings},
    target::Target,
};

/// What is done to the headers of each request.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// None on HTTP/2, which has `:authority`.
    host: Option<HeaderValue>,
    via: Option<Via>,
    forwarded: Forwarded,
    set: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
struct Via {
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What nobody may set: it belongs to the connection or to the body.
const OURS: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];

// === impl Outgoing ===

impl Outgoing {
    pub(super) fn new(
        settings: &HttpUpstreamSettings,
        target: &Target,
    ) -> Result<Self, HttpUpstreamError> {
        let mut set = settings.headers.clone();
        for (name, value) in &mut set {
            if OURS.contains(name) {
                return Err(HttpUpstreamError::Header(name.clone()));
            }
            value.set_sensitive(true);
        }
        Ok(Self {
            host: (!settings.http2).then(|| target.host().clone()),
            via: settings.via.as_deref().map(Via::new).transpose()?,
            forwarded: settings.forwarded,
            set,
        })
    }

    /// Makes a client's headers the upstream's. An upgrade to `protocol` is asked for anew.
    pub(super) fn apply(
        &self,
        parts: &mut Parts,
        extensions: &Extensions,
        client: Option<IpAddr>,
        protocol: Option<&HeaderValue>,
    ) {
        let headers = &mut parts.headers;
        let host = headers.remove(header::HOST);
        strip_request(headers);
        if let Some(via) = &self.via {
            headers.append(header::VIA, via.of(parts.version));
        }
        if self.forwarded != Forwarded::Off {
            let tls = extensions.get::<Scheme>() == Some(&Scheme::HTTPS);
            let hop = Hop {
                client,
                host: host.or_else(|| authority(&parts.uri)),
                proto: if tls { "https" } else { "http" },
            };
            hop.write(headers, self.forwarded);
        }
        if let Some(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        if let Some(protocol) = protocol {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
    }
}

fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// Makes an upstream's response headers the client's.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
}

fn strip_request(headers: &mut HeaderMap) {
    // Trailers are the one thing that TE may ask for beyond this hop.
    let trailers = has_token(headers, &header::TE, "trailers");
    strip(headers);
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(header::ORIGIN);
    // The client was, or will be, told to go on by this proxy's own server, as soon as its body is wanted.
    let go_on = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get(header::EXPECT).is_some_and(go_on) {
        headers.remove(header::EXPECT);
    }
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter(|t| {
            !["close", "keep-alive", "upgrade"]
                .iter()
                .any(|k| t.eq_ignore_ascii_case(k))
        })
        .filter_map(|t| HeaderName::from_bytes(t.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::UPGRADE);
    if headers.remove(header::TRANSFER_ENCODING).is_some() {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Some value of the list has this token, whatever its case and parameters.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|t| {
        t.split(';')
            .next()
            .is_some_and(|t| t.trim().eq_ignore_ascii_case(token))
    })
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

// === impl Via ===

impl Via {
    fn new(name: &str) -> Result<Self, HttpUpstreamError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(word) {
            return Err(HttpUpstreamError::Via);
        }
        let value = |version| {
            HeaderValue::from_str(&format!("{version} {name}")).map_err(|_| HttpUpstreamError::Via)
        };
        Ok(Self {
            http10: value("1.0")?,
            http11: value("1.1")?,
            http2: value("2")?,
        })
    }

    /// The version is the one in which the message came.
    fn of(&self, version: Version) -> HeaderValue {
        match version {
            Version::HTTP_2 => self.http2.clone(),
            Version::HTTP_10 => self.http10.clone(),
            _ => self.http11.clone(),
        }
    }
}

/// This hop, as RFC 7239 and its older kin describe it.
struct Hop {
    client: Option<IpAddr>,
    host: Option<HeaderValue>,
    proto: &'static str,
}

impl Hop {
    fn write(self, headers: &mut HeaderMap, how: Forwarded) {
        let mut add = |name: HeaderName, value: Option<HeaderValue>| match value {
            Some(value) if how == Forwarded::Append => append(headers, name, value),
            Some(value) => {
                headers.insert(name, value);
            }
            None if how == Forwarded::Replace => {
                headers.remove(name);
            }
            None => {}
        };
        add(header::FORWARDED, self.forwarded());
        let client = self.client.map(|c| c.to_string());
        add(
            X_FORWARDED_FOR,
            client.and_then(|c| HeaderValue::try_from(c).ok()),
        );
        add(X_FORWARDED_HOST, self.host);
        add(
            X_FORWARDED_PROTO,
            Some(HeaderValue::from_static(self.proto)),
        );
    }

    fn forwarded(&self) -> Option<HeaderValue> {
        let mut text = String::with_capacity(64);
        match self.client {
            Some(IpAddr::V4(client)) => write!(text, "for={client}"),
            Some(IpAddr::V6(client)) => write!(text, "for=\"[{client}]\""),
            None => write!(text, "for=unknown"),
        }
        .ok()?;
        if let Some(host) = self.host.as_ref().and_then(|h| h.to_str().ok()) {
            text.push_str(";host=\"");
            for c in host.chars() {
                if matches!(c, '"' | '\\') {
                    text.push('\\');
                }
                text.push(c);
            }
            text.push('"');
        }
        write!(text, ";proto={}", self.proto).ok()?;
        HeaderValue::try_from(text).ok()
    }
}

/// Puts the value at the end of a list, on one line: some servers read only one.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let mut line = Vec::new();
    for came in headers.get_all(&name) {
        line.extend_from_slice(came.as_bytes());
        line.extend_from_slice(b", ");
    }
    let value = if line.is_empty() {
        value
    } else {
        line.extend_from_slice(value.as_bytes());
        HeaderValue::try_from(line).unwrap_or(value)
    };
    headers.insert(name, value);
}
