//! Endpoints that are found by their name.

use serde_json::json;

use crate::harness::{
    Ziggurat, config,
    process::Server,
    until,
    upstream::{Received, Upstream, Wire},
};

/// The names of the endpoints that there are.
async fn endpoints(z: &Ziggurat) -> Vec<String> {
    let report = z.report("upstreams").await;
    let all = report[0]["endpoints"].as_array().unwrap().iter();
    all.map(|endpoint| endpoint["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn echo(_: Received, wire: Wire) -> Option<Wire> {
    wire.answer("200 OK", "", "found").await
}

#[tokio::test]
async fn each_address_of_a_name_is_an_endpoint() {
    let server = Server::demo().await;
    let port = server.address.port();
    let found = format!("url: \"http://localhost:{port}/mcp\", each_address: 1s");
    let z = Ziggurat::yaml(&config("", "", "", &found)).await;

    let names = endpoints(&z).await;
    let ours = format!("localhost:{port}@127.0.0.1");
    assert!(names.contains(&ours), "{names:?}");
    let session = z.target().session().await;
    session
        .call(1, "echo", json!({"text": "hi"}))
        .await
        .last()
        .await;
    let asked = async || {
        let labels = ["host=\"localhost\"", "result=\"ok\""];
        z.metrics().await.sum("ziggurat_dns_lookups_total", &labels)
    };
    let before = asked().await;
    until("the name is asked for again", async || {
        asked().await > before
    })
    .await;
    assert_eq!(
        z.metrics()
            .await
            .sum("ziggurat_dns_addresses", &["host=\"localhost\""]),
        names.len() as f64
    );

    // What the operator sets is of that endpoint, and the config is shown as it was written.
    let drained = json!({ "upstream": "tools", "endpoint": ours });
    z.act("drain-endpoint", &drained).await;
    let report = z.report("upstreams").await;
    assert!(report.to_string().contains("operator"), "{report}");
    let yaml = z.report("config").await["yaml"].to_string();
    assert!(
        yaml.contains("each_address: 1s") && !yaml.contains("127.0.0.1@"),
        "{yaml}"
    );
}

#[tokio::test]
async fn a_name_becomes_its_addresses_by_a_reload_and_is_one_again_by_another() {
    let upstream = Upstream::start(echo).await;
    let port = upstream.address.port();
    let plain = |more: &str| {
        config(
            "",
            "protocol: http,",
            "",
            &format!("url: \"http://localhost:{port}\"{more}"),
        )
    };
    let z = Ziggurat::yaml(&plain("")).await;
    let name = format!("localhost:{port}");
    assert_eq!(endpoints(&z).await, std::slice::from_ref(&name));

    z.reload(&plain(", each_address: 10s"), "ok").await;
    let found = format!("{name}@127.0.0.1");
    until("its addresses are found", async || {
        endpoints(&z).await.contains(&found)
    })
    .await;
    assert_eq!(z.target().get("/mcp").await.text().await, "found");
    let received = upstream.received();
    assert_eq!(
        received.last().unwrap().header("host"),
        name,
        "the URL's name, not the address"
    );

    z.reload(&plain(""), "ok").await;
    assert_eq!(endpoints(&z).await, [name]);
    assert_eq!(z.metrics().await.sum("ziggurat_dns_addresses", &[]), 0.0);
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_endpoint_that_says_so() {
    let found = "url: \"http://nowhere.invalid:1/mcp\", each_address: 1s";
    let z = Ziggurat::yaml(&config(
        "",
        "protocol: http, retry: off,",
        "health: off,",
        found,
    ))
    .await;
    assert_eq!(endpoints(&z).await, ["nowhere.invalid:1"]);
    let answer = z.target().get("/mcp").await;
    assert_eq!(answer.status, 502);
    z.logs(&["a name cannot be looked up", "nowhere.invalid"])
        .await;
    until("it is counted", async || {
        let labels = ["host=\"nowhere.invalid\"", "result=\"failed\""];
        z.metrics().await.sum("ziggurat_dns_lookups_total", &labels) > 0.0
    })
    .await;
}
