//! The operator's actions: each has the effect that it says, can be taken back, outlives a reload, and is on record.

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat, config, demo, endpoints,
    mcp::{LEGACY, Session, call, request, text},
    process, until,
    upstream::{Received, Upstream, Wire},
};

async fn named(name: &'static str) -> Upstream {
    Upstream::start(async move |_: Received, wire: Wire| wire.answer("200 OK", "", name).await)
        .await
}

/// Plain HTTP over these, in turn.
fn in_turn(urls: &[String], more: &str) -> String {
    config(
        "",
        "protocol: http, retry: off,",
        &format!(
            "health: off, outlier: off, balance: {{ policy: round_robin, slow_start: 0s }}, {more}"
        ),
        &endpoints(urls),
    )
}

/// Who answers, for so many requests in a row.
async fn answers(z: &Ziggurat, times: usize) -> String {
    let mut all = String::new();
    for _ in 0..times {
        all += &z.target().get("/mcp").await.text().await;
    }
    all
}

fn endpoint(upstream: &Upstream) -> Value {
    json!({ "upstream": "tools", "endpoint": upstream.address.to_string() })
}

/// An order about an endpoint.
fn about(upstream: &Upstream, more: Value) -> Value {
    let mut order = endpoint(upstream);
    for (name, value) in more.as_object().unwrap() {
        order[name] = value.clone();
    }
    order
}

/// The kind of the proxy's error.
fn kind(answer: &Value) -> &Value {
    assert_eq!(answer["error"]["data"]["source"], "proxy", "{answer}");
    assert_eq!(answer["error"]["data"]["outcome"], "not_sent", "{answer}");
    &answer["error"]["data"]["kind"]
}

#[tokio::test]
async fn a_drained_endpoint_gets_no_calls_until_it_is_taken_back() {
    let (a, b) = (named("a").await, named("b").await);
    let urls = [a.url("/"), b.url("/")];
    let z = Ziggurat::yaml(&in_turn(&urls, "")).await;
    assert_eq!(answers(&z, 4).await.replace("ab", "").replace("ba", ""), "");

    let order = about(&a, json!({ "reason": "the disk is full" }));
    let change = z.act("drain-endpoint", &order).await;
    assert_eq!(change, json!({ "before": false, "after": true }));
    assert_eq!(answers(&z, 6).await, "bbbbbb");
    let shown = &z.report("upstreams").await[0]["endpoints"][0];
    assert_eq!(
        (&shown["state"], &shown["drained"]),
        (&json!("operator"), &json!(true))
    );
    let line = z.logs(&["audit", "drain-endpoint"]).await;
    for part in [
        "INFO",
        "the disk is full",
        "before=false",
        "after=true",
        "by=\"start\"",
        "peer=127.0.0.1:",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }

    // It stands above the config, also for another server of that name.
    z.reload(&in_turn(&urls, "timeouts: { connect: 3s },"), "ok")
        .await;
    assert_eq!(answers(&z, 6).await, "bbbbbb");
    let standing = &z.report("overrides").await[0];
    assert_eq!(standing["kind"], "drained");
    assert_eq!(standing["in_force"], true);
    assert_eq!(standing["reason"], "the disk is full");
    assert_eq!(standing["by"], "start");

    z.act("undrain-endpoint", &endpoint(&a)).await;
    let back = answers(&z, 6).await;
    assert_eq!(back.matches('a').count(), 3, "{back}");
    assert_eq!(z.report("overrides").await, json!([]));
}

#[tokio::test]
async fn what_stands_for_an_upstream_that_is_gone_waits_for_it() {
    let (a, b) = (named("a").await, named("b").await);
    let urls = [a.url("/"), b.url("/")];
    let z = Ziggurat::yaml(&in_turn(&urls, "")).await;
    z.act("drain-endpoint", &endpoint(&a)).await;
    z.act("kill-tool", &json!({ "upstream": "tools", "tool": "x" }))
        .await;
    let other = in_turn(&urls, "").replace("tools", "other");
    z.reload(&other, "ok").await;
    until("both take calls under another name", async || {
        answers(&z, 2).await.contains('a')
    })
    .await;
    let standing = z.report("overrides").await;
    assert_eq!(standing[0]["in_force"], false, "{standing}");
    z.logs(&["WARN", "what the operator set has no effect"])
        .await;
    z.reload(&in_turn(&urls, ""), "ok").await;
    assert_eq!(answers(&z, 4).await, "bbbb");
    // It can be taken back at any time, and then it is unknown.
    z.reload(&other, "ok").await;
    z.act("undrain-endpoint", &endpoint(&a)).await;
    let unknown = z.order("undrain-endpoint", &endpoint(&a)).await;
    assert_eq!(unknown.status, 404);
    z.logs(&["audit", "refused", "there is no upstream `tools`"])
        .await;
    z.reload(&in_turn(&urls, ""), "ok").await;
    until("both take calls", async || {
        answers(&z, 2).await.contains('a')
    })
    .await;
}

#[tokio::test]
async fn a_weight_moves_the_share_and_goes_back_to_that_of_the_config() {
    let (a, b) = (named("a").await, named("b").await);
    let urls = [a.url("/"), b.url("/")];
    let z = Ziggurat::yaml(&in_turn(&urls, "")).await;
    let change = z
        .act("set-weight", &about(&a, json!({ "weight": 9 })))
        .await;
    assert_eq!(change, json!({ "before": "config", "after": 9 }));
    assert_eq!(answers(&z, 20).await.matches('a').count(), 18);
    z.reload(&in_turn(&urls, "concurrency: 99,"), "ok").await;
    assert_eq!(answers(&z, 20).await.matches('a').count(), 18);
    z.act("set-weight", &endpoint(&a)).await;
    assert_eq!(answers(&z, 20).await.matches('a').count(), 10);
    let unknown = json!({ "upstream": "tools", "endpoint": "x", "weight": 2 });
    assert_eq!(z.order("set-weight", &unknown).await.status, 404);
}

#[tokio::test]
async fn a_forced_breaker_refuses_until_it_judges_for_itself_again() {
    let a = named("a").await;
    let z = Ziggurat::yaml(&in_turn(&[a.url("/")], "")).await;
    let force = async |state: &str| {
        z.act("force-circuit", &about(&a, json!({ "state": state })))
            .await
    };
    assert_eq!(
        force("open").await,
        json!({ "before": "auto", "after": "open" })
    );
    assert_eq!(z.target().get("/mcp").await.status, 503);
    let circuit = &z.report("upstreams").await[0]["endpoints"][0]["circuit"];
    assert_eq!(
        (&circuit["state"], &circuit["forced"]),
        (&json!("open"), &json!("open"))
    );
    z.reload(&in_turn(&[a.url("/")], "concurrency: 9,"), "ok")
        .await;
    assert_eq!(z.target().get("/mcp").await.status, 503);
    assert_eq!(force("closed").await["before"], "open");
    assert_eq!(answers(&z, 1).await, "a");
    assert_eq!(
        force("auto").await,
        json!({ "before": "closed", "after": "auto" })
    );
    assert_eq!(answers(&z, 1).await, "a");
    // One that the config has off cannot be forced.
    z.reload(&in_turn(&[a.url("/")], "circuit: off,"), "ok")
        .await;
    let refused = z
        .order("force-circuit", &about(&a, json!({ "state": "open" })))
        .await;
    assert_eq!(refused.status, 409);
    assert_eq!(answers(&z, 1).await, "a");
}

#[tokio::test]
async fn the_breaker_of_a_tool_is_forced_alone() {
    let z = Ziggurat::yaml(&config("", "", "tool_circuit: {},", &demo(""))).await;
    let session = z.target().session().await;
    let force = |state: &str| json!({ "upstream": "tools", "tool": "echo", "state": state });
    z.act("force-tool-circuit", &force("open")).await;
    let refused = session
        .call(1, "echo", json!({"text": "x"}))
        .await
        .last()
        .await;
    assert_eq!(kind(&refused), "circuit_open");
    let other = session
        .call(2, "progress", json!({"steps": 1, "interval_ms": 1}))
        .await;
    assert_eq!(text(&other.last().await), "1 steps done");
    z.act("force-tool-circuit", &force("auto")).await;
    let answer = session
        .call(3, "echo", json!({"text": "x"}))
        .await
        .last()
        .await;
    assert_eq!(text(&answer), "x");
}

/// Calls the tool in this session, and in the modern era: the kinds of both errors, or nothing where it answers.
async fn called(z: &Ziggurat, session: &Session, tool: &str) -> [Value; 2] {
    let arguments = json!({"text": "x", "steps": 1, "interval_ms": 1});
    let legacy = session.call(1, tool, arguments.clone()).await.last().await;
    let modern = z
        .target()
        .modern_call(2, tool, arguments)
        .await
        .last()
        .await;
    [legacy, modern].map(|answer| {
        if answer["result"].is_object() {
            Value::Null
        } else {
            kind(&answer).clone()
        }
    })
}

#[tokio::test]
async fn a_killed_tool_is_refused_while_others_work_in_both_eras_and_in_batches() {
    let z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
    let session = z.target().session_at("/mcp", "2025-03-26").await;
    let modern = z.target().session().await;
    let tool = json!({ "upstream": "tools", "tool": "ec*", "reason": "it leaks" });
    let off = || [json!("switched_off"), json!("switched_off")];
    let on = || [Value::Null, Value::Null];
    assert_eq!(called(&z, &modern, "echo").await, on());
    z.act("kill-tool", &tool).await;
    assert_eq!(called(&z, &modern, "echo").await, off());
    assert_eq!(called(&z, &modern, "progress").await, on());
    let batch = json!([
        request(&json!(1), "ping", &json!({})),
        request(&json!(2), "tools/call", &call("echo", json!({"text": "x"}))),
    ]);
    let answers = session.post(&batch).await.messages().await;
    assert!(!answers.is_empty());
    for answer in answers
        .iter()
        .flat_map(|a| a.as_array().cloned().unwrap_or(vec![a.clone()]))
    {
        assert_eq!(kind(&answer), "switched_off");
    }
    assert_eq!(
        z.report("upstreams").await[0]["killed_tools"],
        json!(["ec*"])
    );
    z.reload(&config("", "deadline: 1m,", "", &demo("")), "ok")
        .await;
    assert_eq!(called(&z, &modern, "echo").await, off());
    // As it was killed, so it is revived: a name that it fits is another matter.
    z.act(
        "revive-tool",
        &json!({ "upstream": "tools", "tool": "echo" }),
    )
    .await;
    assert_eq!(called(&z, &modern, "echo").await, off());
    z.act(
        "revive-tool",
        &json!({ "upstream": "tools", "tool": "ec*" }),
    )
    .await;
    assert_eq!(called(&z, &modern, "echo").await, on());
}

#[tokio::test]
async fn a_killed_upstream_takes_no_calls_and_others_do() {
    let plain = named("plain").await;
    let yaml = format!(
        "routes:\n- {{ match: {{ path: /mcp }}, upstream: tools }}\n\
         - {{ match: {{ path: / }}, protocol: http, upstream: plain }}\n\
         upstreams:\n  tools: {{ endpoints: [{{ {} }}] }}\n  plain: {{ endpoints: [{{ url: \"{}\" }}] }}\n",
        demo(""),
        plain.url("")
    );
    let z = Ziggurat::yaml(&yaml).await;
    let session = z.target().session().await;
    let mut running = session
        .call_with_token("r", 1, "progress", json!({"steps": 5, "interval_ms": 50}))
        .await;
    running.next().await;
    let tools = json!({ "upstream": "tools" });
    z.act("kill-upstream", &tools).await;
    assert_eq!(
        called(&z, &session, "echo").await,
        [json!("switched_off"), json!("switched_off")]
    );
    assert_eq!(session.stream().await.status, 503);
    // What calls may be waiting for passes, and what was under way goes on.
    session
        .tell(
            "notifications/progress",
            json!({"progressToken": 9, "progress": 1}),
        )
        .await;
    assert_eq!(text(&running.last().await), "5 steps done");
    assert_eq!(z.target().get("/").await.text().await, "plain");
    assert_eq!(z.admin().get("/readyz").await.status, 200);
    z.act("kill-upstream", &json!({ "upstream": "plain" }))
        .await;
    assert_eq!(z.target().get("/").await.status, 503);
    assert_eq!(z.admin().get("/readyz").await.status, 503);
    for upstream in ["tools", "plain"] {
        z.act("revive-upstream", &json!({ "upstream": upstream }))
            .await;
    }
    assert_eq!(z.admin().get("/readyz").await.status, 200);
    assert_eq!(
        called(&z, &session, "echo").await,
        [Value::Null, Value::Null]
    );
    assert_eq!(z.target().get("/").await.text().await, "plain");
}

#[tokio::test]
async fn an_ended_session_gives_404_and_its_streams_end() {
    let z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
    let (one, other) = (z.target().session().await, z.target().session().await);
    let mut stream = one.stream().await;
    let sessions = z.report("sessions").await;
    let ids: Vec<&str> = sessions["clients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    assert!(
        !one.id.contains(ids[0]),
        "what is shown is no part of what a client has"
    );
    assert_eq!(
        z.order("end-session", &json!({ "id": "00" })).await.status,
        404
    );
    let elsewhere = json!({ "id": ids[0], "route": "elsewhere" });
    assert_eq!(z.order("end-session", &elsewhere).await.status, 404);
    let ended = z.act("end-session", &json!({ "id": ids[0] })).await;
    assert_eq!(ended["before"]["route"], "/mcp");
    // What began it may still be unread.
    while let Some(event) = stream.event().await {
        assert_eq!(event.data, "");
    }
    assert_eq!(one.ask(1, "ping", json!({})).await.status, 404);
    assert_eq!(other.ask(1, "ping", json!({})).await.status, 200);
    assert_eq!(
        z.report("sessions").await["clients"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let metrics = z.metrics().await;
    assert_eq!(
        metrics.sum("ziggurat_session_evictions_total", &["operator"]),
        1.0
    );
}

#[tokio::test]
async fn a_restarted_child_is_followed_by_another() {
    let z = Ziggurat::yaml(&config("", "", "", &demo("isolation: shared"))).await;
    let session = z.target().session().await;
    let children = z.report("children").await;
    let pid = children[0]["pid"].as_i64().unwrap();
    assert_eq!(children[0]["upstream"], "tools");
    assert!(children[0]["memory_bytes"].as_u64().unwrap() > 100_000);
    assert_eq!(children[0]["state"], "leased");
    assert_eq!(children[0]["sessions"], 1);
    assert_eq!(children[0]["pending"], 0);
    assert!(children[0]["age_ms"].is_u64());
    assert_eq!(z.servers(), [i32::try_from(pid).unwrap()]);
    z.act("restart-child", &json!({ "pid": pid })).await;
    until("it is gone", async || {
        !process::is_alive(pid.try_into().unwrap())
    })
    .await;
    assert_eq!(session.ask(1, "ping", json!({})).await.status, 404);
    let again = z.target().session().await;
    assert_eq!(again.ask(1, "ping", json!({})).await.status, 200);
    assert_ne!(z.report("children").await[0]["pid"], pid);
    // No process but its own children is ever stopped.
    let foreign = json!({ "pid": std::process::id() });
    assert_eq!(z.order("restart-child", &foreign).await.status, 404);
    assert_eq!(
        z.order("restart-child", &json!({ "pid": z.pid() }))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn the_log_level_changes_what_is_logged_and_goes_back() {
    let z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
    let module = "ziggurat_layers::session::memory::table";
    let end = async || {
        z.target().session().await;
        let id = z.report("sessions").await["clients"][0]["id"].clone();
        z.act("end-session", &json!({ "id": id })).await;
        id.as_str().unwrap().to_owned()
    };
    let silent = end().await;
    let set = json!({ "level": "debug", "module": module });
    let change = z.act("set-log", &set).await;
    assert_eq!(
        change,
        json!({ "before": "info", "after": format!("info,{module}=debug") })
    );
    let told = end().await;
    z.logs(&["DEBUG", "a session ended", &told]).await;
    z.act("set-log", &json!({ "level": "default" })).await;
    assert_eq!(
        z.report("log").await,
        json!({ "filter": "info", "default": "info" })
    );
    assert!(
        !z.log()
            .lines()
            .any(|line| line.contains("DEBUG") && line.contains(&silent))
    );
    // Nothing is logged at `off`, but for what the operator does.
    z.act("set-log", &json!({ "level": "off" })).await;
    z.target().session().await;
    z.act("set-log", &json!({ "level": "default" })).await;
    let last = z.logs(&["audit", r#"before="off""#]).await;
    let log = z.log();
    let (_, after) = log.split_once(r#"after="off""#).unwrap();
    let (between, _) = after.split_once(&last).unwrap();
    assert_eq!(between.lines().skip(1).collect::<Vec<_>>(), [""; 0]);
    z.target().session().await;
    until("calls are logged again", async || {
        let log = z.log();
        let (_, after) = log.split_once(&last).unwrap();
        after.contains("ziggurat::access")
    })
    .await;
}

#[tokio::test]
async fn a_drain_of_the_whole_finishes_calls_and_exits_with_0() {
    let mut z = Ziggurat::yaml(&config("drain: { limit: 20s }", "", "", &demo(""))).await;
    let session = z.target().session().await;
    let mut running = session
        .call_with_token("r", 1, "progress", json!({"steps": 5, "interval_ms": 100}))
        .await;
    running.next().await;
    let change = z.act("drain", &json!({ "reason": "move" })).await;
    assert_eq!(change, json!({ "before": false, "after": true }));
    assert_eq!(text(&running.last().await), "5 steps done");
    assert_eq!(z.ended().await.code(), Some(0));
    z.logs(&["audit", "drain", "move"]).await;
}

#[tokio::test]
async fn the_reads_tell_what_there_is_and_where_settings_come_from() {
    let yaml = config("body_limit: \"${LIMIT}\"", "deadline: 2m,", "", &demo(""));
    let admin = "admin: { address: \"${ADMIN}\", hosts: [z.example] }";
    let z = crate::harness::Start::whole(&format!("{admin}\n{yaml}"))
        .env("LIMIT", "1MiB")
        .env("ADMIN", "127.0.0.1:1")
        .arg("--admin=127.0.0.1:0")
        .up()
        .await;
    let session = z.target().session_at("/mcp", LEGACY).await;
    let stream = session.stream().await;
    assert_eq!(z.report("streams").await[0]["open"], 1);
    drop(stream);
    let config = z.report("config").await;
    let text = |key: &str| config[key].as_str().unwrap();
    assert!(text("source").ends_with("ziggurat.yaml"), "{config}");
    assert!(
        text("yaml").contains("body_limit: \"${LIMIT}\""),
        "{config}"
    );
    let origins = &config["origins"];
    assert!(text("yaml").contains("address: 127.0.0.1:0"), "{config}");
    assert_eq!(origins["server.body_limit"], "environment");
    assert_eq!(origins["routes[0].deadline"], "file");
    assert_eq!(origins["server.concurrency"], Value::Null, "a default");
    assert_eq!(origins["admin.address"], "command line");
    assert_eq!(origins["admin.hosts[0]"], "file");
    let build = z.report("build").await;
    assert_eq!(build["pid"], z.pid());
    assert_eq!(build["version"], env!("CARGO_PKG_VERSION"));
}
