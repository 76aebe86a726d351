//! From hyper's service to ours: each request gets its [`Peer`], and is counted until its response body has ended.
//!
//! Two kinds of request are refused here, since no layer can judge them any more: more than one `Host`, and a transfer
//! coding other than `chunked`. Both are ways to make two servers read one request differently. The rest of that family
//! hyper refuses itself or reads as RFC 9112 demands, and the tests hold it to that.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project::pin_project;
use ziggurat_layers::ready::{self, Called};

use super::Peer;
use super::floor::{Exchange, Floor};
use super::line::Line;
use super::stream::{self, PIECE};

/// The service of one connection.
pub(super) struct Exchanges<S> {
    /// Never contended: a connection's requests are read one after the other.
    pub(super) service: Mutex<S>,
    pub(super) peer: Peer,
    pub(super) line: Arc<Line>,
    pub(super) floor: Arc<Floor>,
}

/// One exchange, until its response head is there.
#[pin_project]
pub(super) struct ExchangeFuture<S: tower::Service<Request<Incoming>>> {
    #[pin]
    answer: Answer<S>,
    exchange: Option<Exchange>,
    connect: bool,
    multiplexed: bool,
}

/// A response body, which carries its exchange to the end.
#[pin_project]
pub(super) struct ExchangeBody<B> {
    #[pin]
    body: Option<B>,
    exchange: Option<Exchange>,
    /// On HTTP/2: what of the newest frame is to be handed out yet.
    rest: Option<Bytes>,
}

// Nearly every answer is the service's, so a box would cost more than it saves.
#[allow(clippy::large_enum_variant)]
#[pin_project(project = AnswerProjection)]
enum Answer<S: tower::Service<Request<Incoming>>> {
    Service(#[pin] Called<S, Request<Incoming>>),
    Refused(StatusCode),
}

// === impl Exchanges ===

impl<S, B> hyper::service::Service<Request<Incoming>> for Exchanges<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<ExchangeBody<B>>;
    type Error = Infallible;
    type Future = ExchangeFuture<S>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let multiplexed = request.version() == Version::HTTP_2;
        let exchange = Exchange::begin(self.line.clone(), self.floor.clone(), multiplexed);
        let connect = request.method() == Method::CONNECT;
        let answer = match refusal(&request) {
            Some(status) => Answer::Refused(status),
            None => {
                request.extensions_mut().insert(self.peer);
                let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
                Answer::Service(ready::call(&mut *service, request))
            }
        };
        ExchangeFuture {
            answer,
            exchange: Some(exchange),
            connect,
            multiplexed,
        }
    }
}

/// What no server may accept, and hyper does.
fn refusal<B>(request: &Request<B>) -> Option<StatusCode> {
    if request.version() > Version::HTTP_11 {
        return None;
    }
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some(StatusCode::BAD_REQUEST);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(coding), None)
            if coding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked") =>
        {
            None
        }
        (Some(_), _) => Some(StatusCode::NOT_IMPLEMENTED),
    }
}

// === impl ExchangeFuture ===

impl<S, B> Future for ExchangeFuture<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    type Output = Result<Response<ExchangeBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.answer.project() {
            AnswerProjection::Service(call) => {
                let Ok(response) = ready!(call.poll(cx));
                response.map(Some)
            }
            AnswerProjection::Refused(status) => refused(*status),
        };
        let mut exchange = this.exchange.take();
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (*this.connect && response.status().is_success());
        if upgraded
            && response.version() != Version::HTTP_2
            && let Some(exchange) = exchange.take()
        {
            exchange.upgrade();
        }
        // Whether there is one says also whether there may be any.
        let rest = this.multiplexed.then(Bytes::new);
        Poll::Ready(Ok(response.map(|body| ExchangeBody {
            body,
            exchange,
            rest,
        })))
    }
}

fn refused<B>(status: StatusCode) -> Response<Option<B>> {
    let mut response = Response::new(None);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

// === impl ExchangeBody ===

impl<B: Body<Data = Bytes>> Body for ExchangeBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(rest) = this.rest else {
            let frame = ready!(body.poll_frame(cx));
            if !matches!(frame, Some(Ok(_))) {
                *this.exchange = None;
            }
            return Poll::Ready(frame);
        };
        stream::asked();
        let frame = if rest.is_empty() {
            ready!(body.poll_frame(cx))
        } else {
            Some(Ok(Frame::data(mem::take(rest))))
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            end => {
                *this.exchange = None;
                return Poll::Ready(end);
            }
        };
        stream::handed();
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(mut data) => {
                *rest = data.split_off(data.len().min(PIECE));
                Frame::data(data)
            }
            Err(trailers) => trailers,
        })))
    }

    fn is_end_stream(&self) -> bool {
        let whole = self.rest.as_ref().is_none_or(Bytes::is_empty);
        whole && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(body) = &self.body else {
            return SizeHint::with_exact(0);
        };
        let mut hint = body.size_hint();
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len() as u64);
        if let Some(upper) = hint.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn requests_that_two_servers_could_read_differently_are_refused() {
        let of = |headers: &[_]| refusal(&request(headers)).map(|status| status.as_u16());
        assert_eq!(of(&[("host", "a")]), None);
        assert_eq!(
            of(&[("host", "a"), ("transfer-encoding", " Chunked")]),
            None
        );
        assert_eq!(of(&[]), Some(400));
        assert_eq!(of(&[("host", "a"), ("host", "a")]), Some(400));
        assert_eq!(
            of(&[("host", "a"), ("transfer-encoding", "gzip, chunked")]),
            Some(501)
        );
        assert_eq!(
            of(&[
                ("host", "a"),
                ("transfer-encoding", "identity"),
                ("transfer-encoding", "chunked")
            ]),
            Some(501)
        );
    }

    #[test]
    fn http2_has_neither_header() {
        let mut request = request(&[]);
        *request.version_mut() = Version::HTTP_2;
        assert_eq!(refusal(&request), None);
    }
}
