//! One request of a probe: sent, read, and judged.

use std::{ops::RangeInclusive, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use memchr::memmem;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

use super::{handle::ProbeResult, settings::HttpProbe};
use crate::{
    Body,
    error::BoxError,
    exchange::{Exchange, GiveUp},
    fault::Fault,
    verdict::{Judge, Verdict},
};

/// How a probe failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{}", told(.0))]
    Call(BoxError),
    #[error("cannot connect: {0}")]
    Connect(std::io::ErrorKind),
    #[error("the status {} is not expected", .0.as_u16())]
    Status(StatusCode),
    #[error("the body lacks the text that is expected")]
    TextMissing,
    #[error("{method} was answered with status {}", status.as_u16())]
    Refused {
        method: &'static str,
        status: StatusCode,
    },
    #[error("{method} was answered with the JSON-RPC error {code}")]
    Rpc { method: &'static str, code: i64 },
    #[error("the response has no JSON-RPC answer")]
    NoAnswer,
    #[error("the answer is longer than {LIMIT} bytes")]
    TooLong,
}

/// The most of an answer that is read: 1 MiB.
pub(super) const LIMIT: usize = 1024 * 1024;

/// What the proxy calls itself.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("ziggurat/", env!("CARGO_PKG_VERSION")));

/// Our errors show no secrets; what another's show, nobody knows.
fn told(error: &BoxError) -> String {
    match Fault::of(&**error) {
        Fault::Bug => "the call failed".to_owned(),
        _ => error.to_string(),
    }
}

impl ProbeError {
    pub(super) fn result(&self) -> ProbeResult {
        match self {
            Self::Timeout(_) => ProbeResult::Timeout,
            // A probe is too much for no server.
            Self::Call(error) if matches!(Fault::of(&**error), Fault::ServerGone { .. }) => {
                ProbeResult::Failure
            }
            Self::Call(error) if Judge::default().error(error) == Verdict::Neutral => {
                ProbeResult::Neutral
            }
            Self::Call(_)
            | Self::Connect(_)
            | Self::Status(_)
            | Self::TextMissing
            | Self::Refused { .. }
            | Self::Rpc { .. }
            | Self::NoAnswer
            | Self::TooLong => ProbeResult::Failure,
        }
    }
}

/// Says why a request was given up, if its probe is dropped in the middle: so a server does not go on with it.
struct Unfinished(Arc<Exchange>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.give_up(GiveUp::Operator);
    }
}

/// Sends a request, and reads what is wanted of its response, all within `limit`.
pub(super) async fn send<S, T, R>(
    service: &S,
    mut request: Request<Body>,
    limit: Duration,
    read: impl FnOnce(Response<Body>) -> R + Send,
) -> Result<T, ProbeError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone,
    R: Future<Output = Result<T, ProbeError>>,
{
    request.headers_mut().insert(header::USER_AGENT, AGENT);
    let exchange = Exchange::of(&mut request);
    let service = service.clone();
    let call = async {
        let response = service.oneshot(request).await.map_err(ProbeError::Call)?;
        read(response).await
    };
    let mut call = pin!(call);
    // Goes before the call does.
    let unfinished = Unfinished(exchange);
    let ended = tokio::time::timeout(limit, call.as_mut()).await;
    if ended.is_err() {
        unfinished.0.give_up(GiveUp::Timeout);
    }
    ended.unwrap_or(Err(ProbeError::Timeout(limit)))
}

/// Asks for a path.
pub(super) async fn http<S>(
    service: &S,
    probe: &HttpProbe,
    limit: Duration,
) -> Result<(), ProbeError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone,
{
    let mut request = Request::new(Body::empty());
    *request.method_mut() = probe.method.clone();
    *request.uri_mut() = probe.path.clone().into();
    let check = |response| check(response, probe.expect.clone(), probe.contains.as_deref());
    send(service, request, limit, check).await
}

async fn check(
    response: Response<Body>,
    expect: RangeInclusive<u16>,
    contains: Option<&str>,
) -> Result<(), ProbeError> {
    if !expect.contains(&response.status().as_u16()) {
        return Err(ProbeError::Status(response.status()));
    }
    let Some(wanted) = contains.map(str::as_bytes) else {
        return Ok(());
    };
    let mut body = response.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ProbeError::Call)?.into_data() else {
            continue;
        };
        // What was read before may have its beginning.
        let from = read.len().saturating_sub(wanted.len());
        read.extend_from_slice(&data);
        if memmem::find(&read[from..], wanted).is_some() {
            return Ok(());
        }
        if read.len() > LIMIT {
            break;
        }
    }
    Err(ProbeError::TextMissing)
}

/// Connects, and closes.
pub(super) async fn tcp(address: &str, limit: Duration) -> Result<(), ProbeError> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_closed)) => Ok(()),
        Ok(Err(error)) => Err(ProbeError::Connect(error.kind())),
        Err(_) => Err(ProbeError::Timeout(limit)),
    }
}
