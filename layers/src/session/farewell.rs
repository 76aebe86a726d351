//! Tells an upstream that a session ended here, so that it need not keep it until an expiry of its own.

use std::{sync::Arc, time::Duration};

use ::metrics::Counter;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use tower::{Service, ServiceExt};

use super::store::{Home, SessionKey};
use crate::{
    Body,
    attempt::{Pinned, Unasked},
    error::BoxError,
    exchange::{Exchange, RouteInfo},
    mcp::{
        CallFacts, ShortText,
        headers::{PROTOCOL_VERSION, SESSION_ID},
    },
    metrics::{self, names},
};

/// A session that ended here, while its upstream may still have it. Its own DELETE is all that is sent: without what its client may have forwarded, which nobody keeps.
#[derive(Debug, Clone)]
pub struct Farewell {
    /// What the session was known by.
    pub key: SessionKey,
    /// Where it lived.
    pub home: Home,
    /// Whose it was.
    pub principal: Option<Arc<str>>,
    /// The path that it was begun at.
    pub path: Box<str>,
    /// The revision that its client named.
    pub version: Option<ShortText>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarewellOutcome {
    /// The upstream ended the session.
    Ended,
    /// It did not have it any more.
    Gone,
    /// It does not let sessions be ended, or not by us.
    Refused,
    /// It could not be asked.
    Failed,
    /// Too many sessions ended, or there is no such endpoint any more.
    Forgotten,
}

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The most bytes of an answer.
const ANSWER: usize = 16 << 10;

impl Farewell {
    /// Says it to a service that leads to the session's upstream or, better, its endpoint.
    pub async fn say<S, B>(self, service: S, route: Arc<RouteInfo>) -> FarewellOutcome
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let Some(request) = self.request(route) else {
            return self.count(FarewellOutcome::Failed);
        };
        let session = self.key.serial;
        let answer = async {
            let response = service.oneshot(request).await.map_err(Into::into)?;
            let status = response.status();
            // Read to its end, so that its connection can be used again.
            let body = Limited::new(response.into_body(), ANSWER);
            let _rest = body.collect().await;
            Ok::<_, BoxError>(status)
        };
        let outcome = match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(status)) => FarewellOutcome::of(status),
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &*error;
                tracing::debug!(%session, error, "could not end a session at its upstream");
                FarewellOutcome::Failed
            }
            Err(_) => {
                tracing::debug!(%session, "no answer to the end of a session");
                FarewellOutcome::Failed
            }
        };
        self.count(outcome)
    }

    /// Nobody is told.
    pub fn forgotten(&self) {
        self.count(FarewellOutcome::Forgotten);
    }

    fn request(&self, route: Arc<RouteInfo>) -> Option<Request<Body>> {
        let mut headers = HeaderMap::new();
        headers.insert(SESSION_ID, value(&self.home.upstream_id)?);
        if let Some(version) = &self.version {
            headers.insert(PROTOCOL_VERSION, value(version)?);
        }
        let facts = CallFacts::read(&Method::DELETE, &headers, &Bytes::new()).ok()?;
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = self.path.parse::<Uri>().ok()?;
        *request.headers_mut() = headers;
        let exchange = Exchange::of(&mut request);
        exchange.set_route(route);
        exchange.set_call(facts);
        if let Some(principal) = &self.principal {
            exchange.set_principal(principal.clone());
        }
        request.extensions_mut().insert(Unasked);
        if !self.home.endpoint.is_empty() {
            let pinned = Pinned(self.home.endpoint.clone());
            request.extensions_mut().insert(pinned);
        }
        Some(request)
    }

    /// Rare enough to look the counter up.
    fn count(&self, outcome: FarewellOutcome) -> FarewellOutcome {
        outcome.counter(&self.key.route).increment(1);
        outcome
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

// === impl FarewellOutcome ===

impl FarewellOutcome {
    fn of(status: StatusCode) -> Self {
        match status {
            status if status.is_success() => Self::Ended,
            StatusCode::NOT_FOUND => Self::Gone,
            _ => Self::Refused,
        }
    }

    /// What counts it.
    pub(super) fn counter(self, route: &str) -> Counter {
        let labels = [("route", route), ("outcome", self.as_str())];
        metrics::counter(names::SESSION_FAREWELLS, &labels)
    }

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Forgotten => "forgotten",
        }
    }
}
