//! Outliers: an endpoint that does worse than the others of its upstream is left alone for a while.
//!
//! [`OutlierLayer`] counts how the calls of one endpoint go, as told by [`verdict`](crate::verdict); the [`OutlierDetector`] of the upstream
//! compares its endpoints and *ejects* one by shutting its gate ([`Reason::Outlier`]) for a time, after which it is open by itself:
//!
//! - **in a row**: at once, after some gateway errors in a row (no connection, no answer in time, a broken one, 502, 503, 504). Any other
//!   answer ends the row, since then the server itself has spoken;
//! - **by rate**: at the end of an interval, where its share of failures lies above the mean of the endpoints' shares by more than some
//!   standard deviations. This is Envoy's success-rate ejection (Envoy, "Outlier detection": threshold = mean - factor × standard deviation of
//!   success rates), turned to failures, with a floor under it so that one failure among perfect endpoints is none to eject for.
//!
//! An ejection lasts `base` times its number in a row, up to `max`; each interval in which an endpoint was back and good takes one from the
//! number. At most a share of the endpoints is out at once, but one always may be; the last one that takes calls never is. An
//! endpoint without calls is never ejected, and rates are compared when a call ends, so that no task is needed.
//!
//! How that differs from the [`circuit`](crate::circuit) breaker: the breaker judges an endpoint by itself, takes out as many as are bad (all of them,
//! if the fault is common to all), counts every failure, and lets one back by trying it. The detector knows what is usual, so that it finds
//! what is bad only by comparison and leaves a fleet alone that is bad as a whole, and lets one back by time alone.
//!
//! Place: at the endpoint, outside its clocks, so that a timeout is a failure, and inside the circuit breaker, whose refusals are not calls. Readiness
//! and errors: the inner service's; calls are refused by who obeys the gate. Bodies: forwarded, watched to their end. Standing
//! streams count with their response head; messages that want no answer do not count.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use ziggurat_layers::{Body, BoxError, gate::Gate, health::outlier::{OutlierDetector, OutlierLayer, OutlierSettings}};
//!
//! let detector = OutlierDetector::new("tools");
//! detector.set(Some(OutlierSettings::default()));
//! let endpoint = detector.endpoint("127.0.0.1:3001", &Gate::new());
//! let service = ServiceBuilder::new()
//!     .layer(OutlierLayer::new(endpoint))
//!     .service(service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty()))));
//! # let _ = service;
//! ```

mod compare;
mod detector;
mod settings;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tower::{Layer, Service};

use self::detector::{InUse, Shown};
pub use self::{
    detector::{OutlierDetector, OutlierHandle, OutlierReport},
    settings::{Factor, OutlierSettings, RateSettings},
};
#[cfg(doc)]
use crate::gate::Reason;
use crate::{
    body::Tracked,
    class::Class,
    error::BoxError,
    exchange::Exchange,
    verdict::{Attempt, Judge, Verdict, Watch, Watched},
};

/// Counts how the calls of one endpoint go.
#[derive(Debug, Clone)]
pub struct OutlierLayer {
    endpoint: OutlierHandle,
}

/// The service of [`OutlierLayer`].
#[derive(Debug, Clone)]
pub struct Outlier<S> {
    inner: S,
    endpoint: OutlierHandle,
}

/// One attempt, as its endpoint's detector sees it.
#[derive(Debug)]
pub struct Counted {
    endpoint: InUse,
    /// It was not counted yet, and is to be.
    due: bool,
    standing: bool,
    status: Option<StatusCode>,
}

// === impl OutlierLayer ===

impl OutlierLayer {
    /// A layer for this endpoint. While its detector is off it counts nothing.
    pub fn new(endpoint: OutlierHandle) -> Self {
        Self { endpoint }
    }
}

impl<S> Layer<S> for OutlierLayer {
    type Service = Outlier<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Outlier {
            inner,
            endpoint: self.endpoint.clone(),
        }
    }
}

// === impl Outlier ===

impl<S, Req, Res> Service<Request<Req>> for Outlier<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Into<BoxError>,
    Res: HttpBody<Data = Bytes>,
    Res::Error: Into<BoxError>,
{
    type Response = Response<Tracked<Res, Attempt<Counted>>>;
    type Error = BoxError;
    type Future = Watched<S::Future, Counted>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let class = Class::of(&request);
        let counted = Counted {
            endpoint: self.endpoint.begin(),
            due: class != Class::Free,
            standing: class == Class::Stream,
            status: None,
        };
        Watched::new(
            self.inner.call(request),
            exchange,
            Judge::default(),
            counted,
        )
    }
}

// === impl Counted ===

impl Counted {
    fn settle(&mut self, verdict: Verdict) {
        if !std::mem::take(&mut self.due) {
            return;
        }
        let answered = self.status.is_some_and(|status| {
            status.is_server_error()
                && !matches!(
                    status,
                    StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                )
        });
        self.endpoint.end(Shown {
            verdict,
            gateway: verdict == Verdict::Failure && !answered,
        });
    }
}

impl Watch for Counted {
    fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
        let verdict = Judge::default().head(status);
        // What failed will not get better; and of a stream that stands, nothing more is to be expected.
        if verdict == Verdict::Failure || self.standing {
            self.settle(verdict);
        }
    }

    fn end(mut self, verdict: Verdict) {
        self.settle(verdict);
    }
}

#[cfg(test)]
mod tests;
