//! Attacks on the admin listener, and secrets that must come out nowhere.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{
    Start, Ziggurat,
    client::read_all,
    config, demo, process, until,
    upstream::{Received, Upstream, Wire},
};

const TOKEN: &str = "canary-admin-token-0001";

/// One whose admin API has a token of the config.
async fn with_token() -> Ziggurat {
    let yaml = format!(
        "admin: {{ address: \"127.0.0.1:0\", tokens: {{ ann: \"${{TOKEN}}\" }} }}\n{}",
        config("", "", "", &demo(""))
    );
    Start::whole(&yaml).env("TOKEN", TOKEN).up().await
}

fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

#[tokio::test]
async fn an_attack_on_the_listener_gets_nothing() {
    let z = with_token().await;
    let session = z.target().session().await;
    let child = z.servers();
    let refused = "ziggurat_admin_refused_total";
    assert_eq!(z.metrics().await.sum(refused, &["reason=\"token\""]), 0.0);
    let good = bearer();
    let json_body = ("content-type", "application/json");
    let kill = r#"{"upstream":"tools"}"#;
    let admin = z.admin();
    for (what, headers, expected) in [
        ("no token", vec![json_body], 401),
        (
            "a wrong token",
            vec![
                json_body,
                ("authorization", "Bearer canary-admin-token-0002"),
            ],
            401,
        ),
        (
            "an empty token",
            vec![json_body, ("authorization", "Bearer ")],
            401,
        ),
        (
            "another scheme",
            vec![json_body, ("authorization", "Basic Y2FuYXJ5")],
            401,
        ),
        (
            "a token in the wrong place",
            vec![json_body, ("cookie", TOKEN), ("x-token", TOKEN)],
            401,
        ),
        (
            "two tokens",
            vec![
                json_body,
                ("authorization", &good),
                ("authorization", &good),
            ],
            401,
        ),
        (
            "another host",
            vec![
                json_body,
                ("authorization", &good),
                ("host", "evil.example"),
            ],
            403,
        ),
        (
            "a page of another site",
            vec![
                json_body,
                ("authorization", &good),
                ("origin", "https://evil.example"),
            ],
            403,
        ),
        (
            "a page of nowhere",
            vec![json_body, ("authorization", &good), ("origin", "null")],
            403,
        ),
        (
            "a form",
            vec![
                ("content-type", "application/x-www-form-urlencoded"),
                ("authorization", &good),
            ],
            415,
        ),
    ] {
        for name in ["kill-upstream", "drain", "restart-child", "none"] {
            let path = format!("/admin/v1/{name}");
            let answer = admin.request("POST", &path, &headers, kill).await;
            let expected = if name == "none" && expected == 415 {
                404
            } else {
                expected
            };
            assert_eq!(answer.status, expected, "{what}, {name}");
        }
    }
    let granted = [json_body, ("authorization", good.as_str())];
    for path in [
        "//admin/v1/drain",
        "/admin//v1/drain",
        "/admin/v1/drain/",
        "/admin/v1//drain",
        "/admin/v1/./drain",
        "/admin/v1/x/../drain",
        "/admin/v1/%64rain",
        "/admin/v1/%2e%2e/v1/drain",
        "/livez/../admin/v1/drain",
        "/livez%2f..%2fadmin/v1/drain",
        "/admin/v1/drain;x",
        "/admin/v1/drain%00",
        "/ADMIN/V1/drain",
    ] {
        let answer = admin.request("POST", path, &granted, "{}").await;
        assert_eq!(answer.status, 404, "{path}");
    }
    for method in [
        "GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW",
    ] {
        let answer = admin.request(method, "/admin/v1/drain", &granted, "").await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), "POST");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    for (name, body) in [
        (
            "kill-upstream",
            r#"{"upstream":"tools","command":["touch","owned"]}"#,
        ),
        (
            "set-weight",
            r#"{"upstream":"tools","endpoint":"ziggurat","weight":2,"url":"http://evil"}"#,
        ),
        ("restart-child", r#"{"pid":1,"command":["sh"]}"#),
        ("restart-child", r#"{"pid":"1"}"#),
        ("set-log", r#"{"level":"debug","module":"a=trace,audit"}"#),
    ] {
        let path = format!("/admin/v1/{name}");
        let answer = admin.request("POST", &path, &granted, body).await;
        assert_eq!(answer.status, 400, "{name} {body}");
    }
    for name in [
        "add-upstream",
        "set-command",
        "upstreams/tools",
        "exec",
        "config",
    ] {
        let path = format!("/admin/v1/{name}");
        let answer = admin
            .request("POST", &path, &granted, r#"{"command":["sh"]}"#)
            .await;
        assert!(matches!(answer.status.as_u16(), 404 | 405), "{name}");
    }
    let answer = admin
        .request("POST", "/admin/v1/restart-child", &granted, r#"{"pid":1}"#)
        .await;
    assert_eq!(answer.status, 404, "only children of its own are stopped");
    let metrics = z.metrics().await;
    for (reason, times) in [("host", 4.0), ("origin", 8.0), ("token", 24.0)] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(metrics.sum(refused, &[&label]), times, "{reason}");
    }
    z.logs(&[
        "audit: access refused",
        "reason=\"token\"",
        "peer=127.0.0.1:",
    ])
    .await;
    // Nothing of all this was done, and all of it left no trace in the proxy.
    assert_eq!(session.ask(1, "ping", json!({})).await.status, 200);
    assert_eq!(z.servers(), child);
    assert!(!z.log().contains("done"), "{}", z.log());
}

#[tokio::test]
async fn what_is_large_or_slow_holds_nothing() {
    let z = with_token().await;
    let head = format!(
        "POST /admin/v1/drain HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\ncontent-type: application/json\r\n",
        bearer()
    );
    let large = "x".repeat(1 << 20);
    let said = format!("{head}content-length: {}\r\n\r\n{large}", large.len());
    let answer = z.admin().raw(&said).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n100000\r\n{large}\r\n0\r\n\r\n");
    let answer = z.admin().raw(&chunked).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    // A body of nobody's is not waited for, however long it is said to be.
    let unknown = "POST /admin/v1/drain HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\nconnection: close\r\n\r\n";
    let answer = z.admin().raw(unknown).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    // One that is let in has five seconds.
    let mut slow = z.admin().connect().await;
    let body = format!("{head}content-length: 2\r\n\r\n{{");
    slow.write_all(body.as_bytes()).await.unwrap();
    // Others are answered meanwhile.
    assert_eq!(z.admin().get("/livez").await.status, 200);
    let answer = read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(process::is_alive(z.pid()));
}

/// Every secret that is planted begins with this.
const CANARY: &str = "canary-";

/// A config with a secret wherever one can be, and the environment that it refers to.
fn full_of_secrets(url: &str) -> Start {
    let yaml = format!(
        "admin: {{ address: \"127.0.0.1:0\", tokens: {{ ann: \"${{TOKEN}}\", bob: canary-written-token }} }}\n\
         routes:\n\
         - {{ match: {{ path: /mcp }}, upstream: tools }}\n\
         - {{ match: {{ path: /any }}, upstream: any, forward: [authorization] }}\n\
         - {{ match: {{ path: /tenant, headers: {{ x-api-key: canary-match }} }}, protocol: http, upstream: any }}\n\
         - {{ match: {{ path: /gone }}, protocol: http, upstream: gone }}\n\
         - {{ match: {{ path: /args }}, upstream: args }}\n\
         upstreams:\n\
         \x20 args: {{ endpoints: [{{ command: [never-run, --header, \"Authorization: Bearer canary-argument\", -H, \"X-Api-Key:canary-glued\", \"--token=${{NONE:-canary-argument-default}}\", --api-key, \"${{NONE:-canary-option-default}}\", \"API_TOKEN=canary-beside exec run ${{SECRET:-/srv}}\", \"--header=Authorization: Bearer canary-scheme ${{SECRET:-eu}}\"] }}] }}\n\
         \x20 tools: {{ endpoints: [{{ {}, env: {{ API_TOKEN: canary-env, OTHER_TOKEN: \"${{SECRET:-canary-default}}\", THIRD: \"${{FROM}}\", DATABASE_URL: \"postgres://u:canary-user@${{SECRET:-db}}/x\", LAST_TOKEN: \"canary-last-${{SECRET:-x}}\" }} }}] }}\n\
         \x20 any:\n    health: {{ interval: 100ms, probe: http, http: {{ path: /healthz }} }}\n\
         \x20   endpoints:\n\
         \x20   - {{ url: \"{url}?token=canary-query\", headers: {{ authorization: \"Bearer ${{UPSTREAM}}\", x-api-key: canary-header }} }}\n\
         \x20 gone: {{ endpoints: [{{ url: \"http://127.0.0.1:1/?api_key=canary-gone&token=canary-part-${{SECRET:-x}}\", headers: {{ cookie: canary-cookie, authorization: \"Bearer canary-bearer-${{SECRET:-x}}\" }} }}] }}\n",
        demo("").trim_end_matches(", "),
    );
    Start::whole(&yaml)
        .env("TOKEN", TOKEN)
        .env("UPSTREAM", "canary-upstream")
        .env("FROM", "canary-from")
        .arg("--log")
        .arg("info,ziggurat=debug,ziggurat_layers=debug")
}

#[tokio::test]
async fn no_secret_comes_out_of_the_admin_api_or_the_log() {
    let upstream = Upstream::start(async |received: Received, wire: Wire| {
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        let headers = "set-cookie: canary-set-cookie\r\nwww-authenticate: canary-challenge\r\n";
        match received.path.as_str() {
            path if path.contains("healthz") => {
                wire.answer("500 Oops", headers, "canary-health-body").await
            }
            _ if body["method"] == "tools/call" => {
                wire.answer("401 Unauthorized", headers, "canary-body").await
            }
            _ if body["id"].is_null() => wire.answer("202 Accepted", headers, "").await,
            _ => {
                let result = json!({"jsonrpc": "2.0", "id": body["id"], "result": {"protocolVersion": "2025-11-25"}});
                let headers = "content-type: application/json\r\nmcp-session-id: canary-session\r\n";
                wire.answer("200 OK", headers, &result.to_string()).await
            }
        }
    })
    .await;
    let z = full_of_secrets(&upstream.url("/x")).up().await;

    // Secrets of clients, sent wherever a client can send one.
    let secret = [
        ("authorization", "Bearer canary-client"),
        ("cookie", "canary-client-cookie"),
        ("x-api-key", "canary-match"),
        ("proxy-authorization", "canary-proxy"),
    ];
    for path in [
        "/mcp",
        "/any",
        "/tenant?token=canary-client-query",
        "/gone",
        "/none",
    ] {
        let call = json!({"jsonrpc": "2.0", "id": "canary-id", "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "canary-argument"}}});
        z.target()
            .post(path, &secret, call.to_string())
            .await
            .text()
            .await;
        z.target()
            .post(path, &secret, "{\"canary-broken\":")
            .await
            .text()
            .await;
    }
    for path in ["/mcp", "/any"] {
        let session = z.target().session_at(path, "2025-11-25").await;
        session
            .call("canary-id", "echo", json!({"text": "canary-argument"}))
            .await
            .text()
            .await;
        session
            .call(1, "fail", json!({"text": "canary-argument"}))
            .await
            .text()
            .await;
    }
    let foreign = [("mcp-session-id", "canary-foreign-session")];
    z.target()
        .request("DELETE", "/mcp", &foreign, "")
        .await
        .text()
        .await;
    until("a probe has failed", async || {
        let answer = z
            .admin()
            .request(
                "GET",
                "/admin/v1/upstreams",
                &[("authorization", &bearer())],
                "",
            )
            .await
            .json()
            .await;
        answer.to_string().contains("500")
    })
    .await;

    // Every answer, also those of orders and of mistakes; and the metrics.
    let document = z
        .admin()
        .request(
            "GET",
            "/admin/v1/openapi.json",
            &[("authorization", &bearer())],
            "",
        )
        .await
        .json()
        .await;
    let mut said = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        if path.ends_with("/drain") {
            continue;
        }
        let method = if methods["get"].is_object() {
            "GET"
        } else {
            "POST"
        };
        for token in [bearer(), "Bearer canary-wrong-token".to_owned()] {
            let headers = [
                ("authorization", token.as_str()),
                ("content-type", "application/json"),
                ("cookie", "canary-admin-cookie"),
            ];
            let body = r#"{"upstream":"any","endpoint":"ADDRESS","tool":"x","level":"default","state":"auto"}"#;
            for body in [
                body,
                r#"{"upstream":"any","endpoint":"ADDRESS"}"#,
                r#"{"upstream":"any"}"#,
            ] {
                let body = body.replace("ADDRESS", &upstream.address.to_string());
                let answer = z.admin().request(method, path, &headers, body).await;
                said.push(format!(
                    "{path}: {:?} {}",
                    answer.headers.clone(),
                    answer.text().await
                ));
            }
        }
    }
    assert!(said.len() > 60 && said.iter().any(|answer| answer.contains("routes:")));
    said.push(z.log());
    for text in &said {
        if let Some(at) = text.find(CANARY) {
            let around = text.get(at.saturating_sub(80)..(at + 60).min(text.len()));
            panic!("{around:?} of {text:.60}");
        }
    }
}
