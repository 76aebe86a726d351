//! Waits for the answer to one JSON-RPC request, whether it comes as JSON or on an event stream.

use http::{Response, StatusCode};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::probe::{LIMIT, ProbeError};
use crate::{
    Body,
    mcp::messages::{Unread, find},
    observe::Media,
};

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A result, as JSON text.
    Result(Box<str>),
    /// A JSON-RPC error.
    Error(i64),
    /// A status other than 2xx, and the code of the JSON-RPC error that came with it.
    Refused(StatusCode, Option<i64>),
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<IgnoredAny>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Code>,
}

#[derive(Deserialize)]
struct Code {
    code: i64,
}

/// Reads a response up to the answer to the request `id`. A status of 2xx alone is none.
pub(super) async fn read(response: Response<Body>, id: u64) -> Result<Reply, ProbeError> {
    let (status, media) = (response.status(), Media::of(response.headers()));
    let body = response.into_body();
    if !status.is_success() {
        let code = |text: &[u8]| {
            Some(
                serde_json::from_slice::<Message<'_>>(text)
                    .ok()?
                    .error?
                    .code,
            )
        };
        let json = media == Media::Json;
        let found = if json {
            find(body, media, LIMIT, code).await
        } else {
            Ok(None)
        };
        return Ok(Reply::Refused(status, found.ok().flatten()));
    }
    let found = find(body, media, LIMIT, |text| answer(text, id)).await;
    found
        .map_err(|error| match error {
            Unread::Broken(error) => ProbeError::Call(error),
            Unread::TooLong => ProbeError::TooLong,
        })?
        .ok_or(ProbeError::NoAnswer)
}

/// The answer to `id`, if this message is it.
fn answer(text: &[u8], id: u64) -> Option<Reply> {
    let message: Message<'_> = serde_json::from_slice(text).ok()?;
    if message.method.is_some() || message.id?.get() != id.to_string() {
        return None;
    }
    match (message.error, message.result) {
        (Some(Code { code }), _) => Some(Reply::Error(code)),
        (None, result) => Some(Reply::Result(result?.get().into())),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn response(status: u16, kind: &'static str, pieces: &[&str]) -> Response<Body> {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| {
                let data = bytes::Bytes::copy_from_slice(piece.as_bytes());
                Ok::<_, crate::BoxError>(Frame::data(data))
            })
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    const JSON: &str = "application/json";
    const EVENTS: &str = "text/event-stream";

    #[tokio::test]
    async fn an_answer_is_found_however_it_comes() {
        let result = r#"{"jsonrpc":"2.0","id":7,"result":{"a":1}}"#;
        let found = Reply::Result(r#"{"a":1}"#.into());
        let (first, rest) = result.split_at(9);
        assert_eq!(
            read(response(200, JSON, &[first, rest]), 7).await.ok(),
            Some(found)
        );
        for end in ["\n", "\r", "\r\n"] {
            let stream = concat!(
                ": hi\n\nid: 1\ndata:\n\ndata: {\"method\":\"ping\",\"id\":7}\n\n",
                "data: {\"id\":8,\"result\":1}\n\n",
                "data: {\"id\":7,\ndata:\"error\":{\"code\":-32601}}\n\n",
                "data: {\"id\":7,\"result\":1}\n\n",
            )
            .replace('\n', end);
            for cut in 1..stream.len() {
                let (first, rest) = stream.split_at(cut);
                let reply = read(response(200, EVENTS, &[first, rest]), 7).await;
                assert_eq!(reply.ok(), Some(Reply::Error(-32601)), "{cut} {end:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_only_looks_like_an_answer_is_none() {
        for (kind, text) in [
            (JSON, r#"{"id":8,"result":{}}"#),
            (JSON, r#"{"id":"7","result":{}}"#),
            (JSON, r#"{"id":7,"method":"ping"}"#),
            (JSON, "{}"),
            (JSON, ""),
            (EVENTS, "data: {\"id\":7,\"result\":{}}"),
            ("text/html", "<p>fine</p>"),
        ] {
            let reply = read(response(200, kind, &[text]), 7).await;
            assert!(matches!(reply, Err(ProbeError::NoAnswer)), "{text}");
        }
        let endless = "x".repeat(LIMIT + 1);
        for kind in [JSON, EVENTS] {
            let reply = read(response(200, kind, &[&endless]), 7).await;
            assert!(matches!(reply, Err(ProbeError::TooLong)), "{kind}");
        }
    }

    #[tokio::test]
    async fn a_status_is_told_with_its_code() {
        let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32022,"message":"no"}}"#;
        let status = StatusCode::BAD_REQUEST;
        for (kind, text, code) in [
            (JSON, error, Some(-32022)),
            (JSON, "no", None),
            ("text/plain", error, None),
        ] {
            let reply = read(response(400, kind, &[text]), 7).await;
            assert_eq!(reply.ok(), Some(Reply::Refused(status, code)));
        }
    }
}
