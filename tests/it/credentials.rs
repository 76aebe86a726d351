//! Secrets: who gets them, and who never sees them.

use serde_json::json;

use crate::harness::{
    Start, Ziggurat,
    client::Target,
    config,
    mcp::initialize,
    upstream::{Received, Upstream, Wire},
};

async fn upstream(status: &'static str) -> Upstream {
    Upstream::start(async move |_: Received, wire: Wire| {
        let body = json!({"jsonrpc": "2.0", "id": "init", "result": {}}).to_string();
        let kind = "content-type: application/json\r\n";
        wire.answer(status, kind, &body).await
    })
    .await
}

const SECRETS: [(&str, &str); 3] = [
    ("authorization", "Bearer canary-token"),
    ("cookie", "session=canary-cookie"),
    ("proxy-authorization", "Basic canary-proxy"),
];

async fn post(target: &Target) -> u16 {
    let body = initialize("2025-11-25").to_string();
    target.post("/mcp", &SECRETS, body).await.status.as_u16()
}

#[tokio::test]
async fn what_a_client_carries_for_the_proxy_does_not_reach_the_upstream() {
    let upstream = upstream("200 OK").await;
    let z = Ziggurat::yaml(&crate::harness::http(&upstream.url("/mcp"))).await;
    assert_eq!(post(&z.target()).await, 200);
    let received = &upstream.received()[0];
    for (name, _) in SECRETS {
        assert_eq!(received.header(name), "", "{name}");
    }
    assert!(!format!("{received:?}").contains("canary"));
    assert!(!z.log().contains("canary"));
}

#[tokio::test]
async fn what_the_route_forwards_does_reach_it_and_nothing_else() {
    let upstream = upstream("200 OK").await;
    let endpoint = format!("url: \"{}\"", upstream.url("/mcp"));
    let z = Ziggurat::yaml(&config("", "forward: [authorization]", "", &endpoint)).await;
    post(&z.target()).await;
    let received = &upstream.received()[0];
    assert_eq!(received.header("authorization"), "Bearer canary-token");
    assert_eq!(received.header("cookie"), "");
    assert!(!z.log().contains("canary"));
}

#[tokio::test]
async fn the_upstreams_own_headers_are_sent_and_stand_above_the_clients() {
    let upstream = upstream("200 OK").await;
    let endpoint = format!(
        "url: \"{}\", headers: {{ authorization: \"Bearer ${{OWN}}\", x-region: eu }}",
        upstream.url("/mcp")
    );
    let z = Start::yaml(&config("", "forward: [authorization]", "", &endpoint))
        .env("OWN", "canary-own")
        .arg("--log")
        .arg("debug")
        .up()
        .await;
    post(&z.target()).await;
    let received = &upstream.received()[0];
    let sent: Vec<_> = received
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        .collect();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].1, "Bearer canary-own");
    assert_eq!(received.header("x-region"), "eu");
    assert!(!z.log().contains("canary"), "not even in a debug log");
    // Nor where an operator reads the config.
    let token = z.admin_token();
    let bearer = format!("Bearer {token}");
    let shown = z
        .admin()
        .request("GET", "/admin/v1/config", &[("authorization", &bearer)], "")
        .await
        .text()
        .await;
    assert!(shown.contains("authorization"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn a_401_that_the_proxy_caused_says_in_the_log_what_to_set() {
    let upstream = upstream("401 Unauthorized").await;
    let z = Ziggurat::yaml(&crate::harness::http(&upstream.url("/mcp"))).await;
    assert_eq!(post(&z.target()).await, 401, "the answer passes as it is");
    crate::harness::until("the log says so", async || z.log().contains("forward")).await;
    assert!(!z.log().contains("canary"));
}

#[tokio::test]
async fn no_error_shows_a_header_an_argument_a_secret_or_a_path() {
    let z = Start::yaml(&config(
        "",
        "deadline: 100ms",
        "",
        "command: [sh, -c, \"exec sleep 60\", \"--token=${TOKEN}\"], env: { TOKEN: \"${TOKEN}\" }, stop: { stdin: 0s, term: 0s }",
    ))
    .env("TOKEN", "canary-env")
    .up()
    .await;
    let mut all = String::new();
    for _ in 0..3 {
        let mut body = initialize("2025-11-25");
        body["params"]["clientInfo"]["name"] = json!("canary-argument");
        let answer = z.target().post("/mcp", &SECRETS, body.to_string()).await;
        all += &answer.text().await;
    }
    all += &z.target().get("/nowhere?canary-query").await.text().await;
    let here = z.dir().to_str().unwrap();
    for secret in ["canary", here] {
        assert!(!all.contains(secret), "{secret} in {all}");
        assert!(!z.log().contains(secret), "{secret} in the log");
    }
}
