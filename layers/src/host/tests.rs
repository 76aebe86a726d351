use proptest::prelude::*;

use super::*;

fn request(hosts: &[&str], uri: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = uri.parse().expect("a URI");
    for host in hosts {
        let value = host.parse().expect("a value");
        request.headers_mut().append(header::HOST, value);
    }
    request
}

fn allows(entry: &str, host: &str) -> bool {
    let entry: HostName = entry.parse().expect("an entry");
    entry.allows(&Host::parse(host).expect("a host"))
}

#[test]
fn the_host_stands_in_the_header_or_the_authority_or_both_alike() {
    for (hosts, uri) in [
        (&["a.example:81"][..], "/x"),
        (&[], "http://a.example:81/x"),
        (&["A.example.:81"], "http://a.EXAMPLE:81/x"),
        (&["a.example:80"], "http://a.example/x"),
        (&["a.example"], "https://a.example:443/x"),
    ] {
        assert!(Host::of(&request(hosts, uri)).is_ok(), "{hosts:?} {uri}");
    }
    for (hosts, uri, problem) in [
        (&[][..], "/x", Problem::Missing),
        (&["a.example", "a.example"], "/x", Problem::Twice),
        (&["a.example"], "http://b.example/x", Problem::Differs),
        (&["a.example"], "http://a.example:81/x", Problem::Differs),
        (&["127.0.0.1"], "http://localhost/x", Problem::Differs),
        (&["a.example/x"], "/x", Problem::Malformed),
        (&[""], "/x", Problem::Malformed),
        (&[], "http://user@a.example/x", Problem::Malformed),
    ] {
        let found = Host::of(&request(hosts, uri)).expect_err("a problem");
        assert_eq!(found, problem, "{hosts:?} {uri}");
    }
}

#[test]
fn a_host_has_one_reading_or_none() {
    for good in [
        "a",
        "a.",
        "a_b-c.d:1",
        "1.2.3.4",
        "1.2.3.4:",
        "[::1]",
        "[::1]:65535",
    ] {
        assert!(Host::parse(good).is_some(), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "a..b",
        "a b",
        "a,b",
        "a@b",
        "a:b",
        "a:1:2",
        "a:65536",
        "a:+1",
        "a:-1",
        "::1",
        "[::1",
        "[::1]x",
        "[a]",
        "[::1%25lo]",
        "a/",
        "a#",
        "a?",
        "a%2e",
        "é",
        "*",
        "a\\b",
    ] {
        assert!(Host::parse(bad).is_none(), "{bad}");
    }
    assert!(Host::parse(&"a".repeat(254)).is_none());
}

#[test]
fn localhost_stands_for_the_loopback_at_any_port() {
    for host in [
        "localhost",
        "LOCALHOST:1",
        "localhost.:2",
        "127.0.0.1:3",
        "[::1]:4",
        "[0:0:0:0:0:0:0:1]",
    ] {
        assert!(allows("localhost", host), "{host}");
        assert!(
            !allows("localhost:9", host) || !host.contains(':'),
            "{host}"
        );
    }
    for host in [
        "localhost.evil.example",
        "xlocalhost",
        "127.0.0.2",
        "0.0.0.0",
        "[::]",
        "127.1",
        "2130706433",
    ] {
        assert!(!allows("localhost", host), "{host}");
    }
    assert!(allows("localhost:9", "127.0.0.1:9"));
}

#[test]
fn a_port_is_any_port_unless_one_is_set() {
    assert!(allows("a.example", "a.example:81"));
    assert!(allows("a.example:81", "a.example:81"));
    assert!(!allows("a.example:81", "a.example:82"));
    assert!(!allows("a.example:81", "a.example"));
    assert!(allows("a.example:80", "a.example"));
    assert!(allows("a.example:443", "a.example"));
}

#[test]
fn an_address_is_compared_as_an_address() {
    assert!(allows("::1", "[0::1]:80"));
    assert!(allows("[2001:db8::1]:81", "[2001:DB8:0::1]:81"));
    assert!(allows("10.0.0.1", "10.0.0.1.:5"));
    assert!(!allows("127.0.0.1", "localhost"));
    assert!(!allows("127.0.0.1", "[::1]"));
}

#[test]
fn a_star_stands_for_every_name_below() {
    assert!(allows("*.a.example", "b.A.example"));
    assert!(allows("*.a.example:81", "c.b.a.example.:81"));
    for host in [
        "a.example",
        "xa.example",
        "b.a.example.evil.example",
        ".a.example",
    ] {
        let host = Host::parse(host);
        let entry: HostName = "*.a.example".parse().expect("an entry");
        assert!(!host.is_some_and(|h| entry.allows(&h)), "{host:?}");
    }
}

#[test]
fn a_bad_entry_is_refused_with_what_would_be_right() {
    for (entry, says) in [
        ("http://a.example", "write `example.com`"),
        ("a.example/mcp", "write `example.com`"),
        ("*", "as in `*.example.com`"),
        ("a.*.example", "as in `*.example.com`"),
        ("*.10.0.0.1", "before an IP address"),
        ("a.example:http", "is not a host"),
        ("a.example:99999", "is not a host"),
        ("", "is not a host"),
        ("bücher.example", "`xn--` form"),
    ] {
        let error = entry.parse::<HostName>().expect_err(entry);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn what_a_stranger_said_is_shown_on_one_short_line() {
    assert_eq!(&*shown(b"a\nb\r\x1b[2Jc\xff"), "a?b??[2Jc?");
    assert_eq!(shown(&[b'x'; 5000]).len(), 103);
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,9}(\\.[a-z][a-z0-9_]{0,9}){1,3}"
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        let _host = Host::parse(&text);
        let _entry = text.parse::<HostName>();
    }

    #[test]
    fn an_entry_is_written_as_it_is_read(name in name(), port in any::<Option<u16>>(), below in any::<bool>()) {
        let star = if below { "*." } else { "" };
        let port = port.map_or(String::new(), |p| format!(":{p}"));
        let text = format!("{star}{name}{port}");
        let entry: HostName = text.parse().expect("an entry");
        prop_assert_eq!(entry.to_string(), text);
    }

    #[test]
    fn case_and_a_dot_at_the_end_do_not_count(name in name(), port in 1..u16::MAX) {
        let said = format!("{}.:{port}", name.to_uppercase());
        prop_assert!(allows(&name, &said));
        let entry = format!("{name}:{port}");
        prop_assert!(allows(&entry, &said));
    }

    #[test]
    fn a_name_allows_nothing_but_itself(name in name(), more in "[a-z0-9-]{1,5}") {
        for other in [
            format!("{more}{name}"), format!("{name}{more}"), format!("{more}.{name}"), format!("{name}.{more}"),
        ] {
            prop_assert!(!allows(&name, &other));
        }
        let entry = format!("*.{name}");
        let below = format!("{more}.{name}");
        prop_assert!(allows(&entry, &below));
        let beside = format!("{more}{name}");
        prop_assert!(!allows(&entry, &beside));
    }

    #[test]
    fn what_is_shown_is_one_line_of_ascii(text in any::<Vec<u8>>()) {
        let shown = shown(&text);
        prop_assert!(shown.len() <= 103);
        prop_assert!(shown.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
    }
}
