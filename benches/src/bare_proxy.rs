//! The measure of all HTTP ratios: a hyper server and hyper-util's pooling client, and nothing else.
//! Bodies stream; the only thing that changes is the address.

use std::net::SocketAddr;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::{BoxError, serve};

type Pool = Client<HttpConnector, Incoming>;
type Body = Either<Incoming, Empty<Bytes>>;

pub(crate) async fn run(listen: SocketAddr, upstream: Uri) -> Result<(), BoxError> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool: Pool = Client::builder(TokioExecutor::new()).build(connector);
    let authority = upstream
        .authority()
        .ok_or("the upstream needs an address: http://127.0.0.1:3001")?
        .clone();
    serve::serve(listen, move |request| {
        forward(pool.clone(), authority.clone(), request)
    })
    .await
}

async fn forward(pool: Pool, authority: Authority, request: Request<Incoming>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query = Some(match head.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    });
    head.uri = Uri::from_parts(uri).expect("scheme, authority and path are all there");
    match pool.request(Request::from_parts(head, body)).await {
        Ok(response) => response.map(Either::Left),
        Err(_unreachable) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}
