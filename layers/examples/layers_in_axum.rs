//! Three layers added to an axum application that exists already: the guard against foreign pages, a deadline, and a cap on calls.
//!
//! `cargo run -p ziggurat-layers --example layers_in_axum`. Layers fail with typed errors, and rescue, outermost, turns them
//! into answers; so the application's own error type stays what axum wants.

use std::{num::NonZeroUsize, time::Duration};

use axum::{Router, routing::get};
use tower::ServiceBuilder;
use ziggurat_layers::{
    deadline::{DeadlineLayer, DeadlineSettings},
    exchange::ExchangeLayer,
    guard::{GuardLayer, GuardSettings},
    limit::{LimitLayer, LimitSettings},
    rescue::RescueLayer,
};

fn app(limit: Duration) -> Router {
    let existing = Router::new()
        .route("/", get(async || "hello"))
        .route("/slow", get(std::future::pending::<()>));
    let tower = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(RescueLayer::new())
        .layer(LimitLayer::new(LimitSettings {
            calls: NonZeroUsize::new(100),
            streams: None,
        }))
        .layer(GuardLayer::new(GuardSettings::loopback()))
        .layer(DeadlineLayer::new(Some(DeadlineSettings {
            limit,
            cap: limit,
        })));
    existing.layer(tower)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app(Duration::from_secs(30))).await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    async fn status(path: &str, host: &str) -> StatusCode {
        let request = Request::get(path).header("host", host).body(Body::empty());
        let app = app(Duration::from_secs(30));
        let response = app.oneshot(request.expect("a request")).await;
        response.expect("a response").status()
    }

    #[tokio::test(start_paused = true)]
    async fn the_layers_stand_before_the_application() {
        assert_eq!(status("/", "localhost").await, StatusCode::OK);
        assert_eq!(status("/", "evil.example").await, StatusCode::FORBIDDEN);
        assert_eq!(
            status("/slow", "localhost").await,
            StatusCode::GATEWAY_TIMEOUT
        );
    }
}
