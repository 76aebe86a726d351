//! What happens to headers: hop-by-hop ones end here, and this hop is written down.
//!
//! RFC 9110: 7.6.1 (Connection), 7.6.3 (Via), 10.1.1 (Expect), 10.1.4 (TE); RFC 9112: 6.1 (Transfer-Encoding with Content-Length); RFC 7239.

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{self, Entry},
    request::Parts,
};

use crate::exchange::Client;

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
        client: Option<&Client>,
        protocol: Option<&HeaderValue>,
    ) {
        let headers = &mut parts.headers;
        let host = headers.remove(header::HOST);
        strip_request(headers);
        if let Some(via) = &self.via {
            headers.append(header::VIA, via.of(parts.version));
        }
        if self.forwarded != Forwarded::Off {
            let hop = Hop {
                client,
                host: host.or_else(|| authority(&parts.uri)),
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
    Present::of(headers).strip(headers);
}

fn strip_request(headers: &mut HeaderMap) {
    let present = Present::of(headers);
    // Trailers are the one thing that TE may ask for beyond this hop.
    let trailers = present.te && has_token(headers, &header::TE, "trailers");
    present.strip(headers);
    if present.te {
        headers.remove(header::TE);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if present.origin {
        headers.remove(header::ORIGIN);
    }
    // The client was, or will be, told to go on by this proxy's own server, as soon as its body is wanted.
    let go_on = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if present.expect && headers.get(header::EXPECT).is_some_and(go_on) {
        headers.remove(header::EXPECT);
    }
}

/// Which of the headers that end here are there: most requests have none, and one look at all names costs less than a
/// search for each.
#[derive(Default)]
struct Present {
    connection: bool,
    other_hop: bool,
    transfer_encoding: bool,
    te: bool,
    origin: bool,
    expect: bool,
}

impl Present {
    fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONNECTION => present.connection = true,
                header::UPGRADE => present.other_hop = true,
                header::TRANSFER_ENCODING => present.transfer_encoding = true,
                header::TE => present.te = true,
                header::ORIGIN => present.origin = true,
                header::EXPECT => present.expect = true,
                _ => present.other_hop |= *name == KEEP_ALIVE || *name == PROXY_CONNECTION,
            }
        }
        present
    }

    /// Removes what belongs to the connection.
    fn strip(&self, headers: &mut HeaderMap) {
        if self.connection {
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
        }
        if self.other_hop {
            headers.remove(KEEP_ALIVE);
            headers.remove(PROXY_CONNECTION);
            headers.remove(header::UPGRADE);
        }
        if self.transfer_encoding {
            headers.remove(header::TRANSFER_ENCODING);
            headers.remove(header::CONTENT_LENGTH);
        }
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
struct Hop<'a> {
    client: Option<&'a Client>,
    host: Option<HeaderValue>,
}

impl Hop<'_> {
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
        add(X_FORWARDED_FOR, self.client.map(|c| c.text().clone()));
        let proto = HeaderValue::from_static(self.proto());
        add(X_FORWARDED_HOST, self.host);
        add(X_FORWARDED_PROTO, Some(proto));
    }

    fn proto(&self) -> &'static str {
        match self.client {
            Some(client) if client.is_secure() => "https",
            Some(_) | None => "http",
        }
    }

    fn forwarded(&self) -> Option<HeaderValue> {
        let client = self.client.map_or(&b"unknown"[..], |c| c.text().as_bytes());
        let host = self.host.as_ref().filter(|h| h.to_str().is_ok());
        let host = host.map(HeaderValue::as_bytes).unwrap_or_default();
        let mut text = Vec::with_capacity(client.len() + 2 * host.len() + 40);
        text.extend_from_slice(b"for=");
        if client.contains(&b':') {
            for part in [b"\"[", client, b"]\""] {
                text.extend_from_slice(part);
            }
        } else {
            text.extend_from_slice(client);
        }
        if !host.is_empty() {
            text.extend_from_slice(b";host=\"");
            for byte in host {
                if matches!(byte, b'"' | b'\\') {
                    text.push(b'\\');
                }
                text.push(*byte);
            }
            text.push(b'"');
        }
        text.extend_from_slice(b";proto=");
        text.extend_from_slice(self.proto().as_bytes());
        HeaderValue::from_bytes(&text).ok()
    }
}

/// Puts the value at the end of a list, on one line: some servers read only one.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(place) => {
            place.insert(value);
        }
        Entry::Occupied(mut place) => {
            let mut line = Vec::new();
            for came in place.iter() {
                line.extend_from_slice(came.as_bytes());
                line.extend_from_slice(b", ");
            }
            line.extend_from_slice(value.as_bytes());
            place.insert(HeaderValue::try_from(line).unwrap_or(value));
        }
    }
}
