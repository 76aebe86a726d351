//! The headers of MCP: their names, their values, and the rule that they agree with the body.
//!
//! Rules: revision 2026-07-28, Streamable HTTP, "Request Metadata", "Value Encoding", "Server Validation".

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use super::{CallFacts, Era};

/// `Mcp-Session-Id` (legacy).
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version`.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method` (modern).
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name` (modern).
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Last-Event-ID` (server-sent events).
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What every header that mirrors an argument begins with (modern).
pub const PARAM_PREFIX: &str = "mcp-param-";

/// What a GET that opens a stream accepts.
pub(crate) const EVENTS: &str = "text/event-stream";
/// What a POST accepts.
pub(crate) const JSON_OR_EVENTS: &str = "application/json, text/event-stream";

/// A header that contradicts the body, is missing, or stands twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header {header} {problem}")]
pub struct HeaderMismatch {
    /// Its name, as it is usually spelt.
    pub header: Cow<'static, str>,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A revision that a request asks for and that nobody here speaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol version {requested} is not supported")]
pub struct UnsupportedVersion {
    /// What was asked for.
    pub requested: Box<str>,
}

/// The text of a header that stands exactly once, with the white space around it removed.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(|v| v.trim_matches([' ', '\t'])),
        _ => None,
    }
}

/// Takes out what a request says of its own message and its own answer, for another that is made after it.
#[cfg(any(feature = "http", feature = "session"))]
pub(crate) fn forget_message(headers: &mut HeaderMap) {
    let own = |name: &HeaderName| {
        let listed = [
            header::ACCEPT,
            header::EXPECT,
            header::TRANSFER_ENCODING,
            LAST_EVENT_ID,
            METHOD,
            NAME,
        ];
        let prefixed = ["content-", PARAM_PREFIX];
        listed.contains(name) || prefixed.iter().any(|p| name.as_str().starts_with(p))
    };
    let own: Vec<_> = headers.keys().filter(|name| own(name)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// Whether an event stream may be the answer.
pub(crate) fn accepts_events(headers: &HeaderMap) -> bool {
    accepts(headers, &[EVENTS, "text/*", "*/*"])
}

/// Whether an event stream is asked for by its name: many accept whatever comes, and mean none.
pub(crate) fn asks_for_events(headers: &HeaderMap) -> bool {
    accepts(headers, &[EVENTS])
}

/// Whether `Accept` lists one of these; quality values are left out of account.
fn accepts(headers: &HeaderMap, kinds: &[&str]) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let mut ranges = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    ranges.any(|range| {
        let kind = range.split(|b| *b == b';').next().unwrap_or_default();
        let kind = kind.trim_ascii();
        kinds
            .iter()
            .any(|k| kind.eq_ignore_ascii_case(k.as_bytes()))
    })
}

/// Checks that the headers of a modern request say what its body says. Legacy requests, notifications and
/// requests without a body have nothing to check.
///
/// # Errors
/// Names the first header that is missing, stands twice, or differs.
pub fn check(facts: &CallFacts, headers: &HeaderMap) -> Result<(), HeaderMismatch> {
    if facts.era != Era::Modern {
        return Ok(());
    }
    let Some(message) = facts.request() else {
        return Ok(());
    };
    // Without the envelope there is nothing to agree with: the server says what is missing.
    let Some(version) = message.version.as_deref() else {
        return Ok(());
    };
    agree(headers, &PROTOCOL_VERSION, "MCP-Protocol-Version", version)?;
    if let Some(method) = &message.method {
        agree(headers, &METHOD, "Mcp-Method", method.as_str())?;
    }
    let named = matches!(
        message.method.as_ref().map(super::Method::as_str),
        Some(
            "tools/call"
                | "prompts/get"
                | "resources/read"
                | "tasks/get"
                | "tasks/update"
                | "tasks/cancel"
        )
    );
    match &message.name {
        Some(name) if named => agree(headers, &NAME, "Mcp-Name", name),
        Some(_) | None => Ok(()),
    }
}

fn agree(
    headers: &HeaderMap,
    name: &HeaderName,
    spelt: &'static str,
    body: &str,
) -> Result<(), HeaderMismatch> {
    let wrong = |problem| HeaderMismatch {
        header: Cow::Borrowed(spelt),
        problem,
    };
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(wrong("is missing")),
        (Some(_), Some(_)) => Err(wrong("stands twice")),
        (Some(value), None) => match decode(value) {
            None => Err(wrong("is not validly encoded")),
            Some(text) if text == body => Ok(()),
            Some(_) => Err(wrong("does not match the body")),
        },
    }
}

/// Checks that `Mcp-Method` and `Mcp-Name`, where a request of any era has them, say what its body says: somebody behind might go by them.
///
/// # Errors
/// Names the first header that stands twice, or differs.
pub fn check_present(facts: &CallFacts, headers: &HeaderMap) -> Result<(), HeaderMismatch> {
    let (message, others) = match facts.messages() {
        [message, others @ ..] => (Some(message), !others.is_empty()),
        [] => (None, false),
    };
    let method = message
        .and_then(|m| m.method.as_ref())
        .map(super::Method::as_str);
    let name = message.and_then(|m| m.name.as_deref());
    for (header, spelt, said) in [(&METHOD, "Mcp-Method", method), (&NAME, "Mcp-Name", name)] {
        if !headers.contains_key(header) {
            continue;
        }
        match said {
            Some(said) if !others => agree(headers, header, spelt, said)?,
            Some(_) | None => {
                return Err(HeaderMismatch {
                    header: Cow::Borrowed(spelt),
                    problem: "does not match the body",
                });
            }
        }
    }
    Ok(())
}

/// A text as a header value: as it is where that can be, else in its base64 form.
pub fn encode(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|b| (0x20..0x7f).contains(&b))
        && text.trim_matches([' ', '\t']) == text
        && !text.starts_with("=?base64?");
    let coded = (!plain).then(|| format!("=?base64?{}?=", STANDARD.encode(text)));
    // Both forms are visible ASCII and spaces.
    HeaderValue::from_str(coded.as_deref().unwrap_or(text))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Whether a header that says `text` mirrors this argument: strings are equal by character, integers by value, booleans by word.
pub(crate) fn mirrors(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Bool(value) => text == if *value { "true" } else { "false" },
        Value::Number(number) => {
            number.to_string() == text
                || matches!((number.as_f64(), text.parse::<f64>()), (Some(a), Ok(b)) if a == b && a.abs() < 9_007_199_254_740_992.0)
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The text of a header value, out of its base64 form where it has that (`=?base64?…?=`).
pub fn decode(value: &HeaderValue) -> Option<Cow<'_, str>> {
    let text = value.to_str().ok()?.trim_matches([' ', '\t']);
    match text
        .strip_prefix("=?base64?")
        .and_then(|t| t.strip_suffix("?="))
    {
        None => Some(Cow::Borrowed(text)),
        Some(coded) => {
            let bytes = STANDARD.decode(coded).ok()?;
            String::from_utf8(bytes).ok().map(Cow::Owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::*;

    fn call(name: &str) -> CallFacts {
        let body = format!(
            r#"{{"id":1,"method":"tools/call","params":{{"name":{},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#,
            serde_json::to_string(name).expect("text")
        );
        CallFacts::read(&Method::POST, &HeaderMap::new(), &Bytes::from(body)).expect("a call")
    }

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().expect("a value"));
        }
        map
    }

    const GOOD: [(&str, &str); 2] = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
    ];

    #[test]
    fn headers_that_agree_pass_also_encoded() {
        for value in ["echo", "  echo\t", "=?base64?ZWNobw==?="] {
            let headers = with(&[GOOD[0], GOOD[1], ("mcp-name", value)]);
            assert_eq!(check(&call("echo"), &headers), Ok(()), "{value}");
        }
        let headers = with(&[GOOD[0], GOOD[1], ("mcp-name", "=?base64?w6k=?=")]);
        assert_eq!(check(&call("é"), &headers), Ok(()));
    }

    #[test]
    fn headers_that_a_legacy_request_need_not_have_must_agree_if_it_has_them() {
        let legacy = |body: &'static str| {
            CallFacts::read(
                &Method::POST,
                &HeaderMap::new(),
                &Bytes::from_static(body.as_bytes()),
            )
            .expect("a call")
        };
        let call = legacy(r#"{"id":1,"method":"tools/call","params":{"name":"echo"}}"#);
        let told = legacy(r#"{"method":"notifications/initialized"}"#);
        let batch = legacy(r#"[{"id":1,"method":"ping"},{"id":2,"method":"ping"}]"#);
        let of = |name, value: &str| with(&[(name, value)]);
        for (facts, headers, passes) in [
            (&call, HeaderMap::new(), true),
            (&call, of("mcp-name", "=?base64?ZWNobw==?="), true),
            (&call, of("mcp-name", "=?base64?ZWNob28=?="), false),
            (&call, of("mcp-method", "tools/list"), false),
            (&told, of("mcp-method", "notifications/initialized"), true),
            (&told, of("mcp-name", "echo"), false),
            (&batch, of("mcp-method", "ping"), false),
        ] {
            assert_eq!(
                check_present(facts, &headers).is_ok(),
                passes,
                "{headers:?}"
            );
        }
    }

    #[cfg(any(feature = "http", feature = "session"))]
    #[test]
    fn what_a_request_says_of_its_own_message_goes_no_further() {
        let mut headers = with(&[
            ("accept", "*/*"),
            ("content-type", "application/json"),
            ("content-digest", "x"),
            ("last-event-id", "7"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
            ("mcp-param-region", "eu"),
            ("mcp-param-region", "us"),
            ("authorization", "Bearer t"),
            ("mcp-protocol-version", "2025-11-25"),
            ("x-request-id", "r"),
        ]);
        forget_message(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["authorization", "mcp-protocol-version", "x-request-id"]
        );
    }

    #[test]
    fn event_streams_are_accepted_by_name_or_by_what_stands_for_it() {
        for (values, accepts, asks) in [
            (&["text/event-stream"][..], true, true),
            (&["application/json", "Text/Event-Stream;q=0.5"], true, true),
            (&["application/json,\ttext/event-stream ; x=y"], true, true),
            (&["text/*"], true, false),
            (&["application/json, */*;q=0.1"], true, false),
            (&["application/json", "text/event-streams"], false, false),
            (&[""], false, false),
            (&[], false, false),
        ] {
            let headers = with(&values.iter().map(|v| ("accept", *v)).collect::<Vec<_>>());
            let found = (accepts_events(&headers), asks_for_events(&headers));
            assert_eq!(found, (accepts, asks), "{values:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in "(=\\?base64\\?)?[ \t]?\\PC{0,12}[ \t]?") {
            let value = encode(&text);
            let decoded = decode(&value);
            proptest::prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }
    }

    #[test]
    fn headers_that_differ_are_missing_or_stand_twice_are_refused() {
        for extra in [
            vec![],
            vec![("mcp-name", "Echo")],
            vec![("mcp-name", "=?base64?***?=")],
            vec![("mcp-name", "echo"), ("mcp-name", "echo")],
        ] {
            let mut pairs = GOOD.to_vec();
            pairs.extend(extra);
            let error = check(&call("echo"), &with(&pairs)).expect_err("a mismatch");
            assert_eq!(error.header, "Mcp-Name");
        }
        assert!(check(&call("echo"), &with(&[("mcp-name", "echo")])).is_err());
    }
}
