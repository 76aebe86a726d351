//! A bare hyper server that spreads its calls over several backends, goes around those that fail, and repeats what is safe to repeat.
//!
//! Start two backends, say `python3 -m http.server 3001` and `python3 -m http.server 3002`, then
//! `cargo run -p ziggurat-layers --example balance_in_hyper -- http://127.0.0.1:3001 http://127.0.0.1:3002`, and
//! `curl -i http://127.0.0.1:8080/`, many times. Stop one of the two: nobody who asks sees it.
//!
//! Each backend has a load meter and a circuit breaker. Both tell the balancer how the backend stands: the meter by the endpoint's load, the
//! breaker by its gate, which the balancer reads itself. (`GateLayer` would tell the same by readiness, to balancers that know
//! of nothing else.) Retry stands above the balancer, so that another attempt goes to another backend.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body as HttpBody;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Service, ServiceBuilder};
use ziggurat_layers::{
    BoxError,
    balance::{Balance, BalanceSettings, EndpointSet, LoadLayer, Member},
    circuit::{CircuitHandle, CircuitLayer, CircuitSettings},
    exchange::ExchangeLayer,
    rescue::RescueLayer,
    retry::{RetryLayer, RetrySettings},
    timeout::{TimeoutLayer, TimeoutSettings},
    upstream::http::{HttpUpstream, HttpUpstreamError, HttpUpstreamSettings},
};

const NAME: &str = "backends";

/// One service over all backends.
fn balanced(
    backends: impl IntoIterator<Item = Uri>,
) -> Result<
    impl Service<
        Request<Incoming>,
        Response = Response<impl HttpBody<Data = Bytes, Error = BoxError> + Send + 'static>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static,
    HttpUpstreamError,
> {
    let set = EndpointSet::new(NAME);
    let mut members = Vec::new();
    for url in backends {
        let endpoint = set.keep(&url.to_string(), 1, 0);
        let breaker = CircuitHandle::new(NAME, endpoint.name());
        let circuit = CircuitLayer::with(&breaker, Some(CircuitSettings::default()));
        let service = ServiceBuilder::new()
            .layer(LoadLayer::new(endpoint.clone()))
            .layer(circuit.gate(endpoint.gate().clone()))
            .layer(TimeoutLayer::new(TimeoutSettings {
                head: Some(Duration::from_secs(10)),
                idle: Some(Duration::from_secs(60)),
            }))
            .service(HttpUpstream::new(HttpUpstreamSettings::new(NAME, url))?);
        members.push(Member { endpoint, service });
    }
    // All at once: what comes later starts slowly.
    set.replace_all(members);
    Ok(ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(RescueLayer::new())
        .layer(RetryLayer::new(NAME, RetrySettings::default()))
        .service(Balance::new(BalanceSettings::default(), set)))
}

/// Serves HTTP/1.1. Dropped, it takes its connections with it.
async fn serve<S, B>(listener: TcpListener, service: S) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        connections.spawn(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades(),
        );
        while connections.try_join_next().is_some() {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let backends: Vec<Uri> = std::env::args()
        .skip(1)
        .map(|url| url.parse())
        .collect::<Result<_, _>>()?;
    if backends.is_empty() {
        return Err("usage: balance_in_hyper URL …".into());
    }
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    serve(listener, balanced(backends)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::SocketAddr};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use tower::service_fn;
    use ziggurat_layers::Body;

    use super::*;

    /// Asks once; gives what the backend says, which is its name.
    async fn ask(to: SocketAddr, method: &str) -> String {
        let mut stream = TcpStream::connect(to).await.expect("a connection");
        let request = format!(
            "{method} /some HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        body.to_owned()
    }

    #[tokio::test]
    async fn a_backend_that_dies_is_not_missed() {
        let mut backends = Vec::new();
        for name in ["one", "two"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let at = listener.local_addr().expect("an address");
            let answers = service_fn(move |_: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Body::full(name)))
            });
            backends.push((at, tokio::spawn(serve(listener, answers))));
        }
        let urls = backends.iter().map(|(at, _)| format!("http://{at}"));
        let service = balanced(urls.map(|url| url.parse().expect("a URL")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = listener.local_addr().expect("an address");
        let server = tokio::spawn(serve(listener, service.expect("a service")));

        let mut seen = HashSet::new();
        for _ in 0..40 {
            seen.insert(ask(to, "GET").await);
        }
        assert_eq!(seen.len(), 2, "both are used");

        let (_, dies) = backends.remove(0);
        dies.abort();
        assert!(dies.await.is_err(), "it is gone with its connections");
        for method in ["GET", "POST", "GET"].iter().cycle().take(30) {
            assert_eq!(ask(to, method).await, "two");
        }
        server.abort();
        backends.iter().for_each(|(_, backend)| backend.abort());
    }
}
