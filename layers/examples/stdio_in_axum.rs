//! An MCP server that is a command, as one route of an axum application.
//!
//! `cargo run -p ziggurat-layers --example stdio_in_axum -- COMMAND [ARG …]`, then point an MCP client at <http://127.0.0.1:8080/mcp>.
//! The guard is there because a browser on this machine can reach the port, too; rescue turns errors into answers.

use axum::{Router, routing::get};
use tower::ServiceBuilder;
use ziggurat_layers::{
    exchange::ExchangeLayer,
    guard::{GuardLayer, GuardSettings},
    rescue::RescueLayer,
    upstream::stdio::{StdioSettings, StdioUpstream},
};

fn app(upstream: StdioUpstream) -> Router {
    let mcp = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(RescueLayer::new())
        .layer(GuardLayer::new(GuardSettings::loopback()))
        .service(upstream);
    Router::new()
        .route("/", get(async || "an application of its own"))
        .route_service("/mcp", mcp)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    if command.is_empty() {
        return Err(std::io::Error::other(
            "usage: stdio_in_axum COMMAND [ARG …]",
        ));
    }
    let upstream = StdioUpstream::new(StdioSettings::new("tools", command));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    tokio::select! {
        served = axum::serve(listener, app(upstream.clone())) => served?,
        _ = tokio::signal::ctrl_c() => {}
    }
    // The server's processes, and theirs, are gone when this returns.
    upstream.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    const SERVER: &str = r#"while read -r line; do echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"}}'; done"#;

    #[tokio::test]
    async fn the_command_is_a_route_of_the_application() {
        let settings = StdioSettings::new("sh", ["/bin/sh", "-c", SERVER]);
        let upstream = StdioUpstream::new(settings);
        let app = app(upstream.clone());
        let page = Request::get("/").body(axum::body::Body::empty());
        let page = app.clone().oneshot(page.expect("a request")).await;
        assert_eq!(page.expect("a page").status(), StatusCode::OK);
        let initialize = Request::post("/mcp")
            .header("host", "localhost")
            .header("accept", "application/json, text/event-stream")
            .body(axum::body::Body::from(
                r#"{"jsonrpc":"2.0","id":"one","method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#,
            ));
        let answer = app.oneshot(initialize.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert!(answer.headers().contains_key("mcp-session-id"));
        let body = to_bytes(answer.into_body(), 1000).await.expect("a body");
        assert!(body.starts_with(br#"{"jsonrpc":"2.0","id":"one""#));
        upstream.close().await;
    }
}
