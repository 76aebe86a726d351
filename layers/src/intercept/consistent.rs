//! What mirrors the body in the headers follows it: `Mcp-Name` and `Mcp-Param-*` (MCP 2026-07-28, Streamable HTTP, "Request Metadata").

use http::{HeaderMap, HeaderName};
use serde_json::Value;

use crate::mcp::{
    CallFacts, Era,
    headers::{self, HeaderMismatch, NAME, PARAM_PREFIX},
};

/// Has the headers of a changed request say what its body says now; `old` and `new` are its arguments before and after.
///
/// # Errors
/// When it cannot be told which argument a header mirrors, or a hook left headers that contradict the body.
pub(super) fn follow(
    call: &CallFacts,
    headers: &mut HeaderMap,
    (old, new): (&Value, &Value),
) -> Result<(), HeaderMismatch> {
    let name = call.request().and_then(|message| message.name.as_deref());
    if let Some(name) = name.filter(|_| headers.contains_key(&NAME)) {
        headers.insert(NAME, headers::encode(name));
    }
    if call.era == Era::Modern && old != new {
        let mirrors: Vec<_> = mirrors(headers).cloned().collect();
        for mirror in mirrors {
            follow_argument(&mirror, headers, (old, new))?;
        }
    }
    headers::check(call, headers)?;
    headers::check_present(call, headers)
}

/// Whether a header mirrors an argument: only then the arguments of a changed request have to be known.
pub(super) fn has_mirrors(headers: &HeaderMap) -> bool {
    mirrors(headers).next().is_some()
}

fn mirrors(headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    let mirrors = |name: &&HeaderName| name.as_str().starts_with(PARAM_PREFIX);
    headers.keys().filter(mirrors)
}

fn follow_argument(
    mirror: &HeaderName,
    headers: &mut HeaderMap,
    (old, new): (&Value, &Value),
) -> Result<(), HeaderMismatch> {
    let unclear = || HeaderMismatch {
        header: mirror.to_string().into(),
        problem: "mirrors an argument that was changed, and it is not clear which",
    };
    let value = headers::single(headers, mirror).and_then(|_| headers.get(mirror));
    let said = value.and_then(headers::decode).ok_or_else(unclear)?;
    let mut places = Vec::new();
    find(old, &said, &mut Vec::new(), &mut places);
    // An argument of the header's own name is the one; its author may have chosen any other.
    let own = mirror
        .as_str()
        .strip_prefix(PARAM_PREFIX)
        .unwrap_or_default();
    let named = |place: &Vec<String>| {
        place
            .last()
            .is_some_and(|key| key.eq_ignore_ascii_case(own))
    };
    if places.iter().any(named) {
        places.retain(named);
    }
    let now: Vec<_> = places.iter().map(|place| at(new, place)).collect();
    let Some(first) = now.first() else {
        // It mirrors nothing that is there: the server says so.
        return Ok(());
    };
    if now.iter().any(|other| other != first) {
        return Err(unclear());
    }
    match first {
        None | Some(Value::Null) => drop(headers.remove(mirror)),
        Some(Value::String(text)) if **text == *said => {}
        Some(Value::String(text)) => drop(headers.insert(mirror, headers::encode(text))),
        Some(scalar @ (Value::Bool(_) | Value::Number(_))) => {
            if !headers::mirrors(scalar, &said) {
                headers.insert(mirror, headers::encode(&scalar.to_string()));
            }
        }
        Some(Value::Array(_) | Value::Object(_)) => return Err(unclear()),
    }
    Ok(())
}

/// The places of the scalars, reached through objects alone, that a header says so.
fn find(value: &Value, said: &str, way: &mut Vec<String>, places: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                way.push(key.clone());
                find(value, said, way, places);
                way.pop();
            }
        }
        scalar if headers::mirrors(scalar, said) => places.push(way.clone()),
        _ => {}
    }
}

fn at<'a>(value: &'a Value, place: &[String]) -> Option<&'a Value> {
    place.iter().try_fold(value, |value, key| value.get(key))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;
    use serde_json::json;

    use super::*;

    fn call(name: &str) -> CallFacts {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let body =
            json!({"id": 1, "method": "tools/call", "params": {"name": name, "_meta": meta}});
        CallFacts::read(
            &Method::POST,
            &HeaderMap::new(),
            &Bytes::from(body.to_string()),
        )
        .expect("a call")
    }

    fn sent(more: &[(&'static str, &str)]) -> HeaderMap {
        let always = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
        ];
        let all = always.iter().chain(more);
        all.map(|(n, v)| (HeaderName::from_static(n), v.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn headers_follow_the_body() {
        let old = json!({"region": "eu", "deep": {"count": 4, "on": true}, "text": "x"});
        let new = json!({"region": "é", "deep": {"count": 5}, "text": "y"});
        let mut headers = sent(&[
            ("mcp-param-region", "eu"),
            ("mcp-param-number", "4.0"),
            ("mcp-param-flag", "true"),
            ("mcp-param-other", "none"),
        ]);
        follow(&call("écho"), &mut headers, (&old, &new)).expect("it is clear");
        for (name, value) in [
            ("mcp-name", Some("=?base64?w6ljaG8=?=")),
            ("mcp-param-region", Some("=?base64?w6k=?=")),
            ("mcp-param-number", Some("5")),
            ("mcp-param-flag", None),
            ("mcp-param-other", Some("none")),
        ] {
            assert_eq!(
                headers.get(name).map(|v| v.to_str().expect("ASCII")),
                value,
                "{name}"
            );
        }
    }

    #[test]
    fn where_it_is_not_clear_what_a_header_mirrors_the_change_is_refused() {
        let old = json!({"a": "x", "b": "x"});
        for (header, new, clear) in [
            ("mcp-param-c", json!({"a": "y", "b": "x"}), false),
            ("mcp-param-c", json!({"a": "y", "b": "y"}), true),
            ("mcp-param-b", json!({"a": "y", "b": "x"}), true),
            ("mcp-param-c", json!({"a": [], "b": []}), false),
        ] {
            let mut headers = sent(&[(header, "x")]);
            let followed = follow(&call("echo"), &mut headers, (&old, &new));
            assert_eq!(followed.is_ok(), clear, "{header} {new}");
        }
    }

    #[test]
    fn a_header_that_a_hook_made_wrong_does_not_pass() {
        let mut headers = sent(&[]);
        headers.insert("mcp-method", "tools/list".parse().expect("a value"));
        assert!(follow(&call("echo"), &mut headers, (&Value::Null, &Value::Null)).is_err());
    }
}
