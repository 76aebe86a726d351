//! The responses of the admin listener.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

pub(super) type Answer = Response<Full<Bytes>>;

/// Why there is no answer to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    NotFound,
    MethodNotAllowed,
    HostRefused,
    OriginRefused,
    NoToken,
    WrongToken,
}

/// A body of some text type.
pub(super) fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A short plain sentence.
pub(super) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    text(status, "text/plain; charset=utf-8", body)
}

/// A JSON value.
pub(super) fn json(value: &Value) -> Answer {
    text(StatusCode::OK, "application/json", value.to_string())
}

// === impl Problem ===

impl Problem {
    /// Its `application/problem+json` response.
    pub(super) fn answer(self) -> Answer {
        let status = self.status();
        let body = json!({
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail(),
        });
        let mut answer = text(status, "application/problem+json", body.to_string());
        match self {
            Self::MethodNotAllowed => {
                answer
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::WrongToken => {
                let scheme = HeaderValue::from_static("Bearer realm=\"ziggurat admin\"");
                answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
            Self::NotFound | Self::HostRefused | Self::OriginRefused | Self::NoToken => {}
        }
        answer
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::HostRefused | Self::OriginRefused | Self::NoToken => StatusCode::FORBIDDEN,
            Self::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::NotFound => {
                "There is nothing at this path. Try /livez, /readyz, /metrics or /admin/v1/upstreams."
            }
            Self::MethodNotAllowed => "This path can only be read: use GET or HEAD.",
            Self::HostRefused => {
                "The Host header names neither a loopback name, nor an IP address, nor a host that the admin settings allow."
            }
            Self::OriginRefused => {
                "The Origin header names a site that the admin settings do not allow."
            }
            Self::NoToken => "This part of the admin API is closed, since no admin token is set.",
            Self::WrongToken => {
                "This part of the admin API needs its token: send `Authorization: Bearer <token>`."
            }
        }
    }
}

/// A time as the JSON of the admin API has it.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
