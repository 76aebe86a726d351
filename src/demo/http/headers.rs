//! What the headers of a request must say: which types it accepts, and, in the modern era, the same as the body.

use http::{HeaderMap, HeaderName, header};
use serde_json::Value;

use crate::demo::rpc::{Params, Request, RpcError, text};
use crate::demo::tools;

/// The revision of a request.
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The session of a legacy request.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const PARAM_PREFIX: &str = "mcp-param-";

/// Whether `Accept` allows all of `kinds`. No header means that anything goes.
pub(super) fn accepts(headers: &HeaderMap, kinds: &[&str]) -> bool {
    let mut given = headers.get_all(header::ACCEPT).iter().peekable();
    if given.peek().is_none() {
        return true;
    }
    let ranges: Vec<_> = given
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| {
            range
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        })
        .collect();
    kinds.iter().all(|kind| {
        let group = kind.split('/').next().unwrap_or_default();
        ranges
            .iter()
            .any(|range| range == "*/*" || range == kind || range.strip_suffix("/*") == Some(group))
    })
}

/// Whether the body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind
        .and_then(|kind| kind.split(';').next())
        .unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// The value of a header that is there once.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
}

/// Checks that the headers of a modern request say the same as its body.
pub(super) fn check(headers: &HeaderMap, request: &Request, version: &str) -> Result<(), RpcError> {
    same(headers, &VERSION, |given| given == version)?;
    same(headers, &METHOD, |given| given == request.method)?;
    let key = match request.method.as_str() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return Ok(()),
    };
    if let Some(name) = text(&request.params, key) {
        same(headers, &NAME, |given| {
            decode(given).is_some_and(|given| given == name)
        })?;
        if request.method == "tools/call" {
            arguments(headers, &request.params, name)?;
        }
    }
    Ok(())
}

/// Checks the headers that mirror arguments of a tool.
fn arguments(headers: &HeaderMap, params: &Params, tool: &str) -> Result<(), RpcError> {
    let Some(schema) = tools::input_schema(tool) else {
        return Ok(());
    };
    let given = params.get("arguments").unwrap_or(&Value::Null);
    let mut mirrored = Vec::new();
    annotated(schema, Some(given), &mut mirrored);
    for (name, value) in mirrored {
        let name = HeaderName::try_from(format!("{PARAM_PREFIX}{name}"))
            .map_err(|_| RpcError::internal("a tool's x-mcp-header is not a header name"))?;
        match value {
            Some(value) if !value.is_null() => {
                same(headers, &name, |given| {
                    decode(given).is_some_and(|given| mirrors(&given, value))
                })?;
            }
            _ if headers.contains_key(&name) => {
                return Err(mismatch(&name, "mirrors an argument that was not given"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Walks the properties of a schema beside the arguments, and collects the annotated ones.
fn annotated<'a>(
    schema: &'a Value,
    given: Option<&'a Value>,
    found: &mut Vec<(&'a str, Option<&'a Value>)>,
) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, property) in properties.into_iter().flatten() {
        let value = given.and_then(|given| given.get(key));
        if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str) {
            found.push((header, value));
        }
        annotated(property, value, found);
    }
}

/// Whether a decoded header says the same as an argument.
fn mirrors(given: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text == given,
        Value::Bool(truth) => given == if *truth { "true" } else { "false" },
        Value::Number(number) => {
            let same = |given: f64| {
                number
                    .as_f64()
                    .is_some_and(|number| number.total_cmp(&given).is_eq())
            };
            given == number.to_string() || given.parse().is_ok_and(same)
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Checks one header: there, once, readable, and as it should be.
fn same(
    headers: &HeaderMap,
    name: &HeaderName,
    right: impl FnOnce(&str) -> bool,
) -> Result<(), RpcError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| mismatch(name, "is missing"))?;
    if values.next().is_some() {
        return Err(mismatch(name, "is there more than once"));
    }
    let value = value
        .to_str()
        .map_err(|_| mismatch(name, "has invalid characters"))?;
    if right(value.trim_matches([' ', '\t'])) {
        Ok(())
    } else {
        Err(mismatch(name, "does not match the body"))
    }
}

fn mismatch(name: &HeaderName, what: &str) -> RpcError {
    RpcError::header_mismatch(format!("the header {name} {what}"))
}

/// Undoes the encoding of values that a header cannot carry; `None` when it is broken.
fn decode(value: &str) -> Option<String> {
    let encoded = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    match encoded {
        None => Some(value.to_owned()),
        Some(encoded) => String::from_utf8(base64(encoded)?).ok(),
    }
}

/// Decodes base64 in the standard alphabet, with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn both_types_must_be_acceptable() {
        let both = ["application/json", "text/event-stream"];
        assert!(accepts(&HeaderMap::new(), &both));
        assert!(accepts(&accept("*/*"), &both));
        assert!(accepts(
            &accept("application/json;q=0.9, Text/Event-Stream"),
            &both
        ));
        assert!(accepts(&accept("application/*, text/*"), &both));
        assert!(!accepts(&accept("application/json"), &both));
    }

    #[test]
    fn encoded_values_are_decoded_and_broken_ones_are_not() {
        assert_eq!(decode("us-west1").as_deref(), Some("us-west1"));
        assert_eq!(
            decode("=?base64?SGVsbG8sIOS4lueVjA==?=").as_deref(),
            Some("Hello, 世界")
        );
        assert_eq!(
            decode("=?base64?IHBhZGRlZCA=?=").as_deref(),
            Some(" padded ")
        );
        assert_eq!(decode("=?base64??=").as_deref(), Some(""));
        assert_eq!(decode("=?base64?SGVsbG8?="), None);
        assert_eq!(decode("=?base64?!!!!?="), None);
        assert_eq!(decode("=?base64?====?="), None);
        assert_eq!(decode("=?base64?/w==?="), None);
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_truth_as_text() {
        assert!(mirrors("42.0", &json!(42)));
        assert!(mirrors("-7", &json!(-7)));
        assert!(!mirrors("43", &json!(42)));
        assert!(mirrors("true", &json!(true)));
        assert!(!mirrors("True", &json!(true)));
    }

    #[test]
    fn nested_properties_may_be_mirrored_too() {
        let schema =
            json!({"properties": {"where": {"properties": {"zone": {"x-mcp-header": "Zone"}}}}});
        let given = json!({"where": {"zone": "b"}});
        let mut found = Vec::new();
        annotated(&schema, Some(&given), &mut found);
        assert_eq!(found, [("Zone", Some(&json!("b")))]);
    }
}
