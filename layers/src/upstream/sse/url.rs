//! Where messages are posted: the URI of the `endpoint` event, held against the URL of the stream (RFC 3986, 5.2).

use http::{
    Uri,
    uri::{Authority, PathAndQuery},
};

use super::SseError;

/// The path and query of an endpoint. It must be at the origin of the stream: a server must not make the proxy call others.
pub(super) fn resolve(stream: &Uri, endpoint: &str) -> Result<PathAndQuery, SseError> {
    let endpoint = endpoint.trim();
    let endpoint = endpoint.split('#').next().unwrap_or_default();
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), Some(rest)),
        _ => (None, endpoint.strip_prefix("//")),
    };
    let path = match rest {
        Some(rest) => {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(at);
            let same = scheme.is_none_or(|s| {
                stream
                    .scheme_str()
                    .is_some_and(|o| o.eq_ignore_ascii_case(s))
            }) && is_same(stream, authority);
            if !same {
                return Err(SseError::ForeignEndpoint);
            }
            match path {
                path if path.starts_with('/') => path.to_owned(),
                path => format!("/{path}"),
            }
        }
        None if endpoint.starts_with('/') => endpoint.to_owned(),
        None if endpoint.starts_with('?') => format!("{}{endpoint}", stream.path()),
        None => {
            let folder = stream.path().rfind('/').map_or(0, |at| at + 1);
            format!("{}{endpoint}", &stream.path()[..folder])
        }
    };
    let plain = path.split('?').next().unwrap_or_default();
    if endpoint.is_empty() || plain.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(SseError::BadEndpoint);
    }
    path.parse().map_err(|_| SseError::BadEndpoint)
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// The same host and port.
fn is_same(stream: &Uri, authority: &str) -> bool {
    let usual = if stream.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let (Some(own), Ok(other)) = (stream.authority(), authority.parse::<Authority>()) else {
        return false;
    };
    let port = |a: &Authority| a.port_u16().unwrap_or(usual);
    !authority.contains('@')
        && own.host().eq_ignore_ascii_case(other.host())
        && port(own) == port(&other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str) -> Result<String, SseError> {
        let stream = Uri::from_static("http://h:80/a/sse?k=1");
        resolve(&stream, endpoint).map(|path| path.to_string())
    }

    #[test]
    fn endpoints_are_found_at_the_same_origin() {
        for (endpoint, path) in [
            ("/messages?s=1", "/messages?s=1"),
            ("messages?s=1", "/a/messages?s=1"),
            ("?s=1", "/a/sse?s=1"),
            ("http://h/m", "/m"),
            ("HTTP://H:80/m?x=http://other/", "/m?x=http://other/"),
            ("//h/m", "/m"),
            ("http://h?s=1", "/?s=1"),
            (" /m#part\r", "/m"),
        ] {
            assert_eq!(at(endpoint).expect(endpoint), path, "{endpoint}");
        }
    }

    #[test]
    fn another_origin_and_what_climbs_is_refused() {
        for endpoint in [
            "http://other/m",
            "https://h/m",
            "http://h:81/m",
            "//other/m",
            "http://u@h/m",
            "http://h@other/m",
            "file:///etc/passwd",
        ] {
            assert!(
                matches!(at(endpoint), Err(SseError::ForeignEndpoint)),
                "{endpoint}"
            );
        }
        for endpoint in ["", "../m", "/a/../m", "/a b"] {
            assert!(
                matches!(at(endpoint), Err(SseError::BadEndpoint)),
                "{endpoint}"
            );
        }
    }
}
