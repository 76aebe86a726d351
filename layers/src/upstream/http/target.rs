//! Where a request goes: the endpoint's URL, and what of the request's path and query is put into it.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{error::Unforwardable, settings::HttpUpstreamError};

/// An endpoint's URL, taken apart once.
#[derive(Debug)]
pub(super) struct Target {
    scheme: Scheme,
    authority: Authority,
    address: Arc<str>,
    host: HeaderValue,
    /// The URL's path, if it is other than `/`.
    base: Option<Box<str>>,
    query: Option<Box<str>>,
    /// The URL as it is.
    exact: Uri,
}

impl Target {
    pub(super) fn new(url: &Uri) -> Result<Self, HttpUpstreamError> {
        let scheme = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
            Some(_) | None => return Err(HttpUpstreamError::Scheme),
        };
        let authority = url.authority().ok_or(HttpUpstreamError::Host)?.clone();
        if authority.as_str().contains('@') {
            return Err(HttpUpstreamError::UserInfo);
        }
        if authority.host().is_empty() {
            return Err(HttpUpstreamError::Host);
        }
        let tls = scheme == Scheme::HTTPS;
        let usual = if tls { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(usual);
        let address = format!("{}:{port}", authority.host());
        let host = if port == usual {
            authority.host()
        } else {
            &address
        };
        let host = HeaderValue::from_str(host).map_err(|_| HttpUpstreamError::Host)?;
        Ok(Self {
            host,
            address: address.into(),
            base: Some(url.path())
                .filter(|p| !matches!(*p, "" | "/"))
                .map(Into::into),
            query: url.query().map(Into::into),
            exact: url.clone(),
            scheme,
            authority,
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Host and port, for messages.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The value of `Host`: the port only where it is not the scheme's own.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The URL for a request, whose route matched this prefix.
    pub(super) fn uri(&self, request: &Uri, prefix: Option<&str>) -> Result<Uri, Unforwardable> {
        let path = request.path();
        if path.split('/').any(is_up) {
            return Err(Unforwardable::PathClimbs);
        }
        let whole = match request.path_and_query() {
            // Nothing to change, so nothing to copy.
            Some(whole) if self.base.is_none() && self.query.is_none() => whole.clone(),
            _ => {
                let path = self.path(path, prefix);
                let query = match (self.query.as_deref(), request.query()) {
                    (_, None) if self.base.as_deref() == Some(&*path) => {
                        return Ok(self.exact.clone());
                    }
                    (None, None) => None,
                    (Some(query), None) | (None, Some(query)) => Some(Cow::Borrowed(query)),
                    (Some(ours), Some(theirs)) => Some(Cow::Owned(format!("{ours}&{theirs}"))),
                };
                let text = match query {
                    Some(query) => format!("{path}?{query}"),
                    None => path.into_owned(),
                };
                PathAndQuery::from_maybe_shared(Bytes::from(text))
                    .map_err(|_| Unforwardable::TooLong)?
            }
        };
        self.at(whole)
    }

    /// The URL of this path and query at the origin.
    pub(super) fn at(&self, path: PathAndQuery) -> Result<Uri, Unforwardable> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| Unforwardable::TooLong)
    }

    fn path<'a>(&'a self, path: &'a str, prefix: Option<&str>) -> Cow<'a, str> {
        let Some(base) = self.base.as_deref() else {
            return Cow::Borrowed(if path.is_empty() { "/" } else { path });
        };
        let rest = match prefix {
            _ if path == "*" => "",
            Some(prefix) => after(path, prefix).unwrap_or(path),
            None => match after(path, base).unwrap_or(path) {
                "/" => "",
                rest => rest,
            },
        };
        if rest.is_empty() {
            return Cow::Borrowed(base);
        }
        let slash = if rest.starts_with('/') { "" } else { "/" };
        Cow::Owned(format!("{}{slash}{rest}", base.trim_end_matches('/')))
    }
}

/// What follows the prefix, if that ends where a segment does.
fn after<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// The segment is `..`, also with its dots encoded.
fn is_up(segment: &str) -> bool {
    let mut rest = segment.as_bytes();
    for _ in 0..2 {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return false,
        };
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(url: &str, request: &str, prefix: Option<&str>) -> String {
        let target = Target::new(&url.parse().expect("a URL")).expect("of use");
        let request = request.parse().expect("a URI");
        target
            .uri(&request, prefix)
            .expect("forwardable")
            .to_string()
    }

    #[test]
    fn a_path_in_the_url_takes_the_place_of_the_prefix() {
        for (url, request, prefix, expected) in [
            ("http://h", "/a/b?c=d", Some("/a"), "http://h/a/b?c=d"),
            ("http://h/", "/a", Some("/"), "http://h/a"),
            ("http://h/", "*", None, "http://h*"),
            ("http://h/mcp", "/tools", Some("/tools"), "http://h/mcp"),
            ("http://h/mcp", "/tools/", Some("/tools"), "http://h/mcp/"),
            ("http://h/mcp", "/tools/x", Some("/tools"), "http://h/mcp/x"),
            (
                "http://h/mcp",
                "/toolsx",
                Some("/tools"),
                "http://h/mcp/toolsx",
            ),
            ("http://h/mcp", "/x", Some("/"), "http://h/mcp/x"),
            ("http://h/mcp", "/", Some("/"), "http://h/mcp"),
            ("http://h/mcp/", "/a", Some("/a"), "http://h/mcp/"),
            ("http://h/mcp/", "/a/x", Some("/a"), "http://h/mcp/x"),
            ("http://h/mcp", "/mcp", None, "http://h/mcp"),
            ("http://h/mcp", "/", None, "http://h/mcp"),
            ("http://h/api", "/x", None, "http://h/api/x"),
            ("http://h/api", "*", None, "http://h/api"),
            ("https://h:8443/m", "/m?q", Some("/m"), "https://h:8443/m?q"),
        ] {
            assert_eq!(uri(url, request, prefix), expected, "{url} {request}");
        }
    }

    #[test]
    fn queries_are_joined_the_urls_own_first() {
        for (url, request, expected) in [
            ("http://h/m?k=1", "/m", "http://h/m?k=1"),
            ("http://h/m?k=1", "/m?a=2", "http://h/m?k=1&a=2"),
            ("http://h/?k=1", "/m?a=2", "http://h/m?k=1&a=2"),
            ("http://h?k=1", "/m", "http://h/m?k=1"),
        ] {
            assert_eq!(uri(url, request, Some("/m")), expected, "{url} {request}");
        }
    }

    #[test]
    fn a_path_that_leads_upwards_is_refused() {
        let target = Target::new(&"http://h/m".parse().expect("a URL")).expect("of use");
        for bad in ["/m/../admin", "/m/%2E./admin", "/m/%2e%2e", "/.."] {
            let request = bad.parse().expect("a URI");
            let refused = target.uri(&request, Some("/m"));
            assert_eq!(refused, Err(Unforwardable::PathClimbs), "{bad}");
        }
        for good in ["/m/a..b", "/m/...", "/m/.well-known/x", "/m/%2e"] {
            let request = good.parse().expect("a URI");
            assert!(target.uri(&request, Some("/m")).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_host_has_a_port_where_it_is_not_the_usual_one() {
        for (url, host, address) in [
            ("http://h:80/", "h", "h:80"),
            ("https://h", "h", "h:443"),
            ("https://h:80", "h:80", "h:80"),
            ("http://[::1]:3000", "[::1]:3000", "[::1]:3000"),
        ] {
            let target = Target::new(&url.parse().expect("a URL")).expect("of use");
            assert_eq!(target.host(), host);
            assert_eq!(&**target.address(), address);
        }
    }

    #[test]
    fn a_url_of_no_use_says_why() {
        for (url, why) in [
            ("ftp://h/", "http://"),
            ("/mcp", "http://"),
            ("h:80", "http://"),
            ("http://u:p@h/", "authorization"),
        ] {
            let error = Target::new(&url.parse().expect("a URI")).expect_err("of no use");
            assert!(error.to_string().contains(why), "{url}: {error}");
            assert!(!error.to_string().contains("u:p"));
        }
    }
}
