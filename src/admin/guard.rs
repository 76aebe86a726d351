//! Who may read the private part: the checks that keep web pages out, then the token.
//!
//! A page in a browser can send requests to a loopback address. If its own name was rebound to that address, `Host` gives
//! it away; if not, `Origin` does.

use http::header::{AUTHORIZATION, AsHeaderName, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Request};

use super::answer::Problem;
use super::token::same;
use super::{Access, AdminSettings};

/// Lets a request through to the private part, and says by whose token; or says why not.
pub(super) fn admit<'a, B>(
    settings: &'a AdminSettings,
    request: &Request<B>,
) -> Result<&'a str, Problem> {
    let host = authority(request).ok_or(Problem::HostRefused)?;
    if !host_allowed(settings, &host) {
        return Err(Problem::HostRefused);
    }
    if !origin_allowed(&host, request.headers()) {
        return Err(Problem::OriginRefused);
    }
    let tokens = match &settings.access {
        Access::Open => return Ok("anybody"),
        Access::Tokens(tokens) if tokens.is_empty() => return Err(Problem::NoToken),
        Access::Tokens(tokens) => tokens,
    };
    let sent = bearer(request.headers()).ok_or(Problem::WrongToken)?;
    let mut found = None;
    for token in tokens {
        // All of them, whichever is right.
        if same(sent, token.token.as_bytes()) {
            found = Some(&*token.name);
        }
    }
    found.ok_or(Problem::WrongToken)
}

/// Where the client thinks it is: the target's own authority (HTTP/2), else the one `Host` header.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let header = match only(request.headers(), HOST) {
        Ok(Some(host)) => Some(Authority::try_from(host).ok()?),
        Ok(None) => None,
        Err(Several) => return None,
    };
    match (request.uri().authority(), header) {
        (Some(target), Some(header)) if *target != header => None,
        (Some(target), _) => Some(target.clone()),
        (None, header) => header,
    }
}

fn host_allowed(settings: &AdminSettings, host: &Authority) -> bool {
    let name = host.host();
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok()
        || settings
            .hosts
            .iter()
            .any(|host| host.eq_ignore_ascii_case(name))
}

/// A page may come from this listener alone.
fn origin_allowed(host: &Authority, headers: &HeaderMap) -> bool {
    let origin = match only(headers, ORIGIN) {
        Ok(None) => return true,
        Ok(Some(origin)) => origin,
        Err(Several) => return false,
    };
    let Ok(origin) = std::str::from_utf8(origin) else {
        return false;
    };
    origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
        .is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
}

/// A header was sent more than once.
struct Several;

fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Result<Option<&[u8]>, Several> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first.map(http::HeaderValue::as_bytes)),
        (_, Some(_)) => Err(Several),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let sent = only(headers, AUTHORIZATION).ok()??;
    let (scheme, token) = sent.split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use http::HeaderValue;

    use super::super::AdminToken;
    use super::*;

    fn named(name: &str, token: &str) -> AdminToken {
        AdminToken {
            name: name.to_owned(),
            token: token.to_owned(),
        }
    }

    fn settings(token: Option<&str>) -> AdminSettings {
        AdminSettings {
            access: Access::Tokens(token.map(|token| named("ops", token)).into_iter().collect()),
            hosts: vec!["admin.example.org".to_owned()],
        }
    }

    fn with(headers: &[(&'static str, &'static str)]) -> Result<(), Problem> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        admit(&settings(Some("secret")), &request).map(drop)
    }

    const TOKEN: (&str, &str) = ("authorization", "Bearer secret");

    #[test]
    fn loopback_names_addresses_and_configured_hosts_pass() {
        for host in [
            "localhost",
            "LOCALHOST:9901",
            "127.0.0.1:9901",
            "[::1]:9901",
            "10.1.2.3",
            "admin.example.org",
        ] {
            assert_eq!(with(&[("host", host), TOKEN]), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_refused() {
        for host in [
            "evil.example.org",
            "localhost.evil.example.org",
            "127.0.0.1.nip.io",
            "",
            "a b",
        ] {
            assert_eq!(
                with(&[("host", host), TOKEN]),
                Err(Problem::HostRefused),
                "{host}"
            );
        }
        assert_eq!(with(&[TOKEN]), Err(Problem::HostRefused));
        assert_eq!(
            with(&[("host", "localhost"), ("host", "localhost"), TOKEN]),
            Err(Problem::HostRefused)
        );
    }

    #[test]
    fn an_origin_must_be_our_own() {
        let host = ("host", "localhost:9901");
        for origin in ["http://localhost:9901", "https://localhost:9901"] {
            assert_eq!(with(&[host, TOKEN, ("origin", origin)]), Ok(()), "{origin}");
        }
        for origin in [
            "http://localhost:1234",
            "https://evil.example.org",
            "null",
            "",
        ] {
            assert_eq!(
                with(&[host, TOKEN, ("origin", origin)]),
                Err(Problem::OriginRefused),
                "{origin}"
            );
        }
    }

    #[test]
    fn the_token_must_be_right_and_there_must_be_one() {
        let host = ("host", "localhost");
        assert_eq!(with(&[host]), Err(Problem::WrongToken));
        assert_eq!(
            with(&[host, ("authorization", "Bearer secre")]),
            Err(Problem::WrongToken)
        );
        assert_eq!(
            with(&[host, ("authorization", "Basic secret")]),
            Err(Problem::WrongToken)
        );
        assert_eq!(with(&[host, ("authorization", "bearer secret")]), Ok(()));
        assert_eq!(with(&[host, TOKEN, TOKEN]), Err(Problem::WrongToken));

        let mut request = Request::new(());
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_static("localhost"));
        request
            .headers_mut()
            .insert(AUTHORIZATION, HeaderValue::from_static("Bearer "));
        assert_eq!(admit(&settings(None), &request), Err(Problem::NoToken));
    }

    #[test]
    fn each_token_says_whose_it_is_and_an_open_door_only_keeps_web_pages_out() {
        let ask = |access: Access, sent: &'static str, host: &'static str| {
            let settings = AdminSettings {
                access,
                ..AdminSettings::default()
            };
            let request = Request::builder()
                .header(HOST, host)
                .header(AUTHORIZATION, sent)
                .body(());
            admit(&settings, &request.unwrap()).map(str::to_owned)
        };
        let two = || Access::Tokens(vec![named("ann", "secret-a"), named("bob", "secret-b")]);
        assert_eq!(ask(two(), "Bearer secret-a", "localhost"), Ok("ann".into()));
        assert_eq!(ask(two(), "Bearer secret-b", "localhost"), Ok("bob".into()));
        assert_eq!(
            ask(two(), "Bearer secret-", "localhost"),
            Err(Problem::WrongToken)
        );
        assert_eq!(ask(Access::Open, "", "localhost"), Ok("anybody".into()));
        assert_eq!(
            ask(Access::Open, "", "evil.example"),
            Err(Problem::HostRefused)
        );
    }
}
