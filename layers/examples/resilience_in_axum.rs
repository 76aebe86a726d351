//! A handler that depends on something unreliable, with what keeps it usable: a cap on calls, retries, a circuit breaker, a timeout. Nothing
//! here is about MCP.
//!
//! `cargo run -p ziggurat-layers --example resilience_in_axum`, then:
//! - `curl -i http://127.0.0.1:8080/price`, several times: every third answer of the shop is a 503, and none of them is seen;
//! - `curl -i http://127.0.0.1:8080/slow`: three attempts, then a 504;
//! - `curl -i -X POST http://127.0.0.1:8080/close`, then the price again: after five failures the breaker refuses for ten seconds, and the
//!   shop is not asked.
//!
//! Order matters, the top is met first. The cap counts a call once, however often it is tried; each attempt has a timeout of its own; and
//! the breaker stands outside that, so that it sees it as a failure. A POST is not repeated: it may have had an effect.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use tower::ServiceBuilder;
use ziggurat_layers::{
    circuit::{CircuitLayer, CircuitSettings},
    exchange::ExchangeLayer,
    limit::{LimitLayer, LimitSettings},
    rescue::RescueLayer,
    retry::{RetryLayer, RetrySettings},
    timeout::{TimeoutLayer, TimeoutSettings},
};

/// What the handlers depend on.
#[derive(Debug, Default)]
struct Shop {
    asked: AtomicU32,
    closed: AtomicBool,
}

async fn price(State(shop): State<Arc<Shop>>) -> Result<&'static str, StatusCode> {
    let asked = shop.asked.fetch_add(1, Ordering::Relaxed);
    if shop.closed.load(Ordering::Relaxed) || asked % 3 == 2 {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok("4.20")
}

async fn close(State(shop): State<Arc<Shop>>) {
    shop.closed.store(true, Ordering::Relaxed);
}

fn app(shop: Arc<Shop>, patience: Duration) -> Router {
    let tower = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(RescueLayer::new())
        .layer(LimitLayer::new(LimitSettings {
            calls: NonZeroUsize::new(100),
            streams: None,
        }))
        .layer(RetryLayer::new("shop", RetrySettings::default()))
        .layer(CircuitLayer::new(CircuitSettings::default()))
        .layer(TimeoutLayer::new(TimeoutSettings {
            head: Some(patience),
            idle: None,
        }));
    Router::new()
        .route("/price", get(price))
        .route("/slow", get(std::future::pending::<()>))
        .layer(tower)
        // What needs no help stands outside.
        .route("/close", post(close))
        .with_state(shop)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app(Arc::default(), Duration::from_secs(2))).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn ask(to: SocketAddr, what: &str) -> String {
        let mut stream = TcpStream::connect(to).await.expect("a connection");
        let request = format!("{what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn what_fails_is_repeated_and_what_keeps_failing_is_left_alone() {
        let shop = Arc::<Shop>::default();
        let asked = || shop.asked.load(Ordering::Relaxed);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = listener.local_addr().expect("an address");
        let app = app(shop.clone(), Duration::from_millis(100));
        let server = tokio::spawn(axum::serve(listener, app).into_future());

        for _ in 0..6 {
            let answer = ask(to, "GET /price").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert!(asked() > 6, "some were repeated");

        let slow = ask(to, "GET /slow").await;
        assert!(slow.starts_with("HTTP/1.1 504"), "{slow}");

        let closed = ask(to, "POST /close").await;
        assert!(closed.starts_with("HTTP/1.1 200"), "{closed}");
        for _ in 0..5 {
            let answer = ask(to, "GET /price").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        }
        let before = asked();
        let refused = ask(to, "GET /price").await;
        assert!(refused.contains("\"kind\":\"circuit_open\""), "{refused}");
        assert_eq!(asked(), before, "the shop is left alone");
        server.abort();
    }
}
