//! The few messages that a proxy writes itself.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Id;

#[derive(Serialize)]
struct ErrorMessage<'a, D> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    error: ErrorObject<'a, D>,
}

#[derive(Serialize)]
struct ErrorObject<'a, D> {
    code: i64,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<D>,
}

/// A JSON-RPC error. Without an id it answers nobody in particular (`id: null`).
pub fn error<D: Serialize>(id: Option<&Id>, code: i64, message: &str, data: Option<D>) -> Bytes {
    let id = id.and_then(|id| RawValue::from_string(id.as_json().to_owned()).ok());
    let message = ErrorMessage {
        jsonrpc: "2.0",
        id: id.as_deref(),
        error: ErrorObject {
            code,
            message,
            data,
        },
    };
    serde_json::to_vec(&message).map_or_else(|_| Bytes::new(), Bytes::from)
}

/// A `notifications/cancelled` that names a request.
pub fn cancelled(id: &Id, reason: &str) -> Bytes {
    let reason = serde_json::to_string(reason).unwrap_or_else(|_| "\"\"".to_owned());
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":{reason}}}}}"#
    ))
}

/// A result with nothing in it.
pub fn empty_result(id: &Id) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#))
}

/// A message as one event of an event stream, on one line: line breaks inside JSON can only be white space.
pub fn event(message: &[u8]) -> Bytes {
    const HEAD: &[u8] = b"event: message\ndata: ";
    let mut event = BytesMut::with_capacity(HEAD.len() + message.len() + 2);
    event.extend_from_slice(HEAD);
    event.extend_from_slice(message);
    for byte in &mut event[HEAD.len()..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// A response whose body is an event stream, which nobody on its way may keep back.
pub(crate) fn event_stream<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let text = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, text("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, text("no-cache, no-transform"));
    headers.insert("x-accel-buffering", text("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_on_one_line() {
        assert_eq!(
            event(b"{\r\n \"a\": 1\n}"),
            &b"event: message\ndata: {   \"a\": 1 }\n\n"[..]
        );
    }
}
