//! The responses of the admin listener.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

pub(super) type Answer = Response<Full<Bytes>>;

/// Why there is no answer to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    NotFound,
    /// With the methods that are.
    MethodNotAllowed(&'static str),
    HostRefused,
    OriginRefused,
    NoToken,
    WrongToken,
    NotJson,
    BodyTooLarge,
    BodyTooSlow,
    BadBody(String),
    /// What an order names is not there.
    Unknown(String),
    /// It cannot be done as things are.
    Conflict(String),
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
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
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
        let headers = answer.headers_mut();
        match self {
            Self::MethodNotAllowed(methods) => {
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Self::WrongToken => {
                let scheme = HeaderValue::from_static("Bearer realm=\"ziggurat admin\"");
                headers.insert(WWW_AUTHENTICATE, scheme);
            }
            // What is left of the body is not waited for.
            Self::BodyTooLarge | Self::BodyTooSlow => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::NotFound
            | Self::HostRefused
            | Self::OriginRefused
            | Self::NoToken
            | Self::NotJson
            | Self::BadBody(_)
            | Self::Unknown(_)
            | Self::Conflict(_) => {}
        }
        answer
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::HostRefused | Self::OriginRefused | Self::NoToken => StatusCode::FORBIDDEN,
            Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BadBody(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
        }
    }

    fn detail(&self) -> String {
        let text = match self {
            Self::NotFound => {
                "There is nothing at this path. Try /livez, /readyz, /metrics or /admin/v1/openapi.json."
            }
            Self::MethodNotAllowed(methods) => {
                return format!("This path takes another method: {methods}.");
            }
            Self::HostRefused => {
                "The Host header names neither a loopback name, nor an IP address, nor a host that the admin settings allow."
            }
            Self::OriginRefused => "The Origin header names another site than this listener.",
            Self::NoToken => "This part of the admin API is closed, since no admin token is set.",
            Self::WrongToken => {
                "This part of the admin API needs its token: send `Authorization: Bearer <token>`."
            }
            Self::NotJson => {
                "The body must be JSON, and say so: send `Content-Type: application/json`."
            }
            Self::BodyTooLarge => "The body is larger than any that is taken here.",
            Self::BodyTooSlow => "The body did not come in time.",
            Self::BadBody(why) => return format!("The body is not what this path takes: {why}."),
            Self::Unknown(why) | Self::Conflict(why) => why,
        };
        text.to_owned()
    }
}
