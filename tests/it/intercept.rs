//! Rules: what they refuse, answer, change and hold, in both eras, over stdio and HTTP.

use serde_json::{Value, json};

use crate::harness::{
    Start, Ziggurat, config, demo,
    mcp::text,
    until,
    upstream::{Received, Upstream, Wire},
};

const RULES: &str = "intercept: { rules: [\
    { name: no-fail, when: { tool: [\"fail*\"] }, block: \"failing is not allowed here\" }, \
    { name: canned, when: { tool: [tick] }, mock: { text: \"canned {{name}} {{/params/arguments/list}}\" } }, \
    { name: renew, when: { tool: [echo], expression: \"args.text == 'old'\" }, modify: { set: { /params/arguments/text: new } } }, \
    { name: words, when: { direction: server, method: [notifications/progress] }, modify: { set: { /params/message: masked } } }, \
    { name: sign, when: { direction: response, tool: [echo] }, modify: { patch: [{ op: add, path: /result/_meta, value: { signed: 1.5 } }] } }] }";

/// The answers to a call in a legacy session, and in the modern era.
async fn both(z: &Ziggurat, tool: &str, arguments: Value) -> [Value; 2] {
    let session = z.target().session().await;
    let legacy = session.call(1, tool, arguments.clone()).await.last().await;
    let modern = z
        .target()
        .modern_call(1, tool, arguments)
        .await
        .last()
        .await;
    [legacy, modern]
}

async fn hits(z: &Ziggurat, rule: &str, action: &str) -> f64 {
    let labels = [format!("rule=\"{rule}\""), format!("action=\"{action}\"")];
    let labels = labels.each_ref().map(String::as_str);
    z.metrics()
        .await
        .sum("ziggurat_intercept_hits_total", &labels)
}

#[tokio::test]
async fn a_call_is_refused_answered_or_changed_by_rules() {
    let z = Ziggurat::yaml(&config("", RULES, "", &demo(""))).await;
    for answer in both(&z, "fail", json!({})).await {
        assert_eq!(answer["id"], 1, "{answer}");
        assert_eq!(answer["error"]["code"], 403, "{answer}");
        assert_eq!(answer["error"]["message"], "failing is not allowed here");
        assert_eq!(answer["error"]["data"]["kind"], "blocked");
        assert_eq!(answer["error"]["data"]["outcome"], "rejected");
    }
    let [legacy, modern] = both(&z, "tick", json!({"list": "tools"})).await;
    assert_eq!(
        (text(&legacy), text(&modern)),
        ("canned tick tools", "canned tick tools")
    );
    assert_eq!(modern["result"]["resultType"], "complete");
    assert!(legacy["result"].get("resultType").is_none());
    for (said, heard) in [("old", "new"), ("other", "other")] {
        for answer in both(&z, "echo", json!({"text": said})).await {
            assert_eq!(text(&answer), heard, "{answer}");
            assert_eq!(answer["result"]["_meta"]["signed"], 1.5, "{answer}");
        }
    }
    for (rule, action, times) in [
        ("no-fail", "block", 2.0),
        ("canned", "mock", 2.0),
        ("renew", "modify", 2.0),
        ("sign", "modify", 4.0),
    ] {
        assert_eq!(hits(&z, rule, action).await, times, "{rule}");
    }
}

#[tokio::test]
async fn a_message_on_a_stream_is_changed_before_the_answer_is_there() {
    let z = Ziggurat::yaml(&config("", RULES, "", &demo(""))).await;
    let session = z.target().session().await;
    let arguments = json!({"steps": 3, "interval_ms": 20});
    let answer = session.call_with_token(1, "t", "progress", arguments).await;
    let all = answer.messages().await;
    let (last, notes) = all.split_last().unwrap();
    assert_eq!(text(last), "3 steps done");
    assert!(!notes.is_empty());
    for note in notes {
        assert_eq!(note["params"]["message"], "masked", "{note}");
        assert_eq!(note["params"]["progressToken"], "t", "{note}");
    }
}

/// Answers with what it was asked, as an event that has an id.
async fn events(received: Received, wire: Wire) -> Option<Wire> {
    let asked: Value = serde_json::from_str(&received.body).unwrap_or_default();
    let result = json!({"content": [{"type": "text", "text": asked["params"]["arguments"]["text"]}], "resultType": "complete"});
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
    let body =
        format!(": first\n\nid: 41\nretry: 7\ndata:\n\nid: 42\nevent: message\ndata: {answer}\n\n");
    wire.answer("200 OK", "content-type: text/event-stream\r\n", &body)
        .await
}

#[tokio::test]
async fn over_http_headers_follow_and_events_keep_their_ids() {
    let upstream = Upstream::start(events).await;
    let rules = "session: off, intercept: { rules: [\
        { name: rename, when: { tool: [echo] }, modify: { set: { /params/name: \"écho\", /params/arguments/text: new }, headers: { set: { x-rule: rename } } } }, \
        { name: sign, when: { direction: response }, modify: { set: { /result/signed: true } } }, \
        { name: no-answer, when: { direction: response, tool: [secret] }, block: \"not for you\" }] }";
    let z = Ziggurat::yaml(&config(
        "",
        rules,
        "",
        &format!("url: \"{}\"", upstream.url("/mcp")),
    ))
    .await;
    let mut answer = z
        .target()
        .modern_call(1, "echo", json!({"text": "old", "n": 1}))
        .await;
    let mut ids = Vec::new();
    let mut last = Value::Null;
    while let Some(event) = answer.event().await {
        ids.extend(event.id.clone());
        if event.data.starts_with('{') {
            last = serde_json::from_str(&event.data).unwrap();
        }
    }
    assert_eq!(ids, ["41", "42"]);
    assert_eq!(
        (text(&last), &last["result"]["signed"]),
        ("new", &json!(true))
    );
    let received = upstream.received().pop().unwrap();
    assert_eq!(received.header("mcp-name"), "=?base64?w6ljaG8=?=");
    assert_eq!(received.header("x-rule"), "rename");
    assert_eq!(
        received.header("content-length"),
        received.body.len().to_string()
    );
    let body: Value = serde_json::from_str(&received.body).unwrap();
    assert_eq!(
        (&body["params"]["name"], &body["params"]["arguments"]["n"]),
        (&json!("écho"), &json!(1))
    );
    // An answer that is refused is an error in its place.
    let refused = z
        .target()
        .modern_call(2, "secret", json!({"text": "hush"}))
        .await
        .text()
        .await;
    assert!(
        refused.contains("id: 42") && refused.contains("not for you"),
        "{refused}"
    );
    assert!(!refused.contains("hush"), "{refused}");
}

#[tokio::test]
async fn what_contradicts_itself_passes_no_rule() {
    let z = Ziggurat::yaml(&config("", RULES, "", &demo(""))).await;
    let session = z.target().session().await;
    let call = |name: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"fail",{name}"arguments":{{}}}}}}"#
        )
    };
    let head = |more: &[(&'static str, &'static str)]| {
        let mut all = vec![
            ("mcp-session-id", session.id.as_str()),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        all.extend_from_slice(more);
        all.iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect::<Vec<_>>()
    };
    for (headers, body) in [
        (head(&[("mcp-name", "echo")]), call("")),
        (head(&[("mcp-name", "=?base64?ZWNobw==?=")]), call("")),
        (head(&[("mcp-method", "ping")]), call("")),
        (head(&[]), call(r#""name":"echo","#)),
        (head(&[]), call(r#""n\u0061me":"echo","#)),
        (head(&[]), call(r#""arguments":{"text":"x"},"#)),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let answer = z.target().post("/mcp", &headers, body.clone()).await;
        assert_eq!(answer.status, 400, "{headers:?} {body}");
    }
    assert_eq!(hits(&z, "no-fail", "block").await, 0.0);
}

#[tokio::test]
async fn a_dry_run_only_counts() {
    let rules = RULES.replace("intercept: {", "intercept: { dry_run: true,");
    let z = Ziggurat::yaml(&config("", &rules, "", &demo(""))).await;
    for answer in both(&z, "echo", json!({"text": "old"})).await {
        assert_eq!(text(&answer), "old");
        assert!(answer["result"]["_meta"].get("signed").is_none());
    }
    assert_eq!(hits(&z, "renew", "dry_run").await, 2.0);
    assert_eq!(hits(&z, "renew", "modify").await, 0.0);
}

#[tokio::test]
async fn a_call_that_waits_goes_on_or_is_refused_when_its_time_is_over() {
    let rules = "intercept: { rules: [\
        { name: resumed, when: { tool: [echo] }, pause: { limit: 500ms, then: resume } }, \
        { name: blocked, when: { tool: [add] }, pause: { limit: 100ms } }, \
        { name: delayed, when: { tool: [echo] }, delay: 10ms }] }";
    let z = Ziggurat::yaml(&config("", rules, "", &demo(""))).await;
    let session = z.target().session().await;
    let waits = session.clone();
    let waits = tokio::spawn(async move {
        waits
            .call(1, "echo", json!({"text": "x"}))
            .await
            .last()
            .await
    });
    until("it waits", async || {
        z.metrics().await.sum("ziggurat_intercept_paused", &[]) > 0.0
    })
    .await;
    assert_eq!(text(&waits.await.unwrap()), "x");
    let refused = session
        .call(2, "add", json!({"a": 1, "b": 2}))
        .await
        .last()
        .await;
    assert_eq!(refused["error"]["data"]["kind"], "blocked", "{refused}");
    assert_eq!(z.metrics().await.sum("ziggurat_intercept_paused", &[]), 0.0);
    assert_eq!(hits(&z, "delayed", "delay").await, 1.0);
}

#[tokio::test]
async fn an_operator_decides_about_calls_that_wait() {
    let rules =
        "intercept: { rules: [{ name: held, pause: { limit: 1h }, when: { tool: [echo] } }] }";
    let z = Ziggurat::yaml(&config("", rules, "", &demo(""))).await;
    let session = z.target().session().await;
    let waiting = async |id: u32| {
        let session = session.clone();
        let call = tokio::spawn(async move {
            let arguments = json!({"text": "old", "token": "sk-hush"});
            session.call(id, "echo", arguments).await.last().await
        });
        let mut held = Value::Null;
        until("it waits", async || {
            held = z.report("paused").await[0].clone();
            held.is_object()
        })
        .await;
        assert_eq!(
            (&held["rule"], &held["name"]),
            (&"held".into(), &"echo".into())
        );
        assert!(!held.to_string().contains("sk-hush"), "{held}");
        (call, held["id"].clone())
    };

    let (call, id) = waiting(1).await;
    z.act("decide", &json!({"id": id, "decision": "resume"}))
        .await;
    assert_eq!(text(&call.await.unwrap()), "old");

    let (call, id) = waiting(2).await;
    let unfit = json!({"id": id, "decision": "resume", "message": "{}"});
    let refused = z.order("decide", &unfit).await;
    assert_eq!(refused.status, 409, "it waits on");
    let other = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"new"}}}"#;
    let order = json!({"id": id, "decision": "resume", "message": other});
    z.act("decide", &order).await;
    assert_eq!(text(&call.await.unwrap()), "new");
    assert!(!z.log().contains(other), "no message in the audit");

    let (call, id) = waiting(3).await;
    let order = json!({"id": id, "decision": "block", "reason": "not today"});
    z.act("decide", &order).await;
    let refused = call.await.unwrap();
    assert_eq!(refused["error"]["data"]["kind"], "blocked", "{refused}");
    assert_eq!(refused["error"]["message"], "not today");
    assert_eq!(
        z.order("decide", &order).await.status,
        404,
        "it waits no more"
    );
}

const FILE: &str = "rules:\n- name: no-echo\n  when: { tool: [echo] }\n  block: \"no echo\"\n";

#[tokio::test]
async fn a_file_of_rules_is_read_again_and_a_bad_one_is_refused_with_its_place() {
    let yaml = config("", "intercept: { rules: rules.yaml }", "", &demo(""));
    let z = Start::yaml(&yaml).file("rules.yaml", FILE).up().await;
    let session = z.target().session().await;
    let echo = async |id: u32| {
        session
            .call(id, "echo", json!({"text": "x"}))
            .await
            .last()
            .await
    };
    assert_eq!(echo(1).await["error"]["message"], "no echo");
    let put = |text: &str| std::fs::write(z.dir().join("rules.yaml"), text).unwrap();
    put(&FILE.replace("block:", "blok:"));
    z.reload(&yaml, "refused").await;
    let log = z.log();
    assert!(
        log.contains("rules.yaml:4:3: error: rules[0].blok"),
        "{log}"
    );
    assert!(log.contains("did you mean `block`?"), "{log}");
    assert_eq!(
        echo(2).await["error"]["message"],
        "no echo",
        "the old rules stay"
    );
    put(&FILE.replace("tool: [echo]", "tool: [other]"));
    z.reload(&yaml, "ok").await;
    assert_eq!(text(&echo(3).await), "x");
}

#[tokio::test]
async fn a_wrong_rule_keeps_ziggurat_from_starting() {
    let yaml = config("", "intercept: { rules: rules.yaml }", "", &demo(""));
    let start = Start::args(&["check", "z.yaml"]).file("z.yaml", &yaml);
    let bad = FILE.replace("{ tool: [echo] }", "{ expression: \"arg.x == 1\" }");
    let output = start.file("rules.yaml", &bad).ends().await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("rules.yaml:3:") && said.contains("rules[0].when.expression"),
        "{said}"
    );
    assert!(said.contains("uses `arg`, which is not there"), "{said}");
}

#[tokio::test]
async fn on_plain_http_rules_go_by_method_path_and_headers() {
    let upstream = Upstream::start(async |received: Received, wire: Wire| {
        let seen = format!("x-seen: {}\r\nserver: hidden\r\n", received.header("x-in"));
        wire.answer("200 OK", &seen, "plain").await
    })
    .await;
    let yaml = format!(
        "routes:\n- match: {{ path: / }}\n  protocol: http\n  upstream: plain\n  intercept:\n    rules:\n\
         {r}name: no-delete\n{i}when: {{ method: [DELETE] }}\n{i}block: \"nothing is deleted here\"\n\
         {r}name: in\n{i}when: {{ path: [\"/a*\"], header: {{ x-team: red }} }}\n{i}modify: {{ headers: {{ set: {{ x-in: red }} }} }}\n\
         {r}name: out\n{i}when: {{ direction: response }}\n{i}modify: {{ headers: {{ remove: [server] }} }}\n\
         {r}name: teapot\n{i}when: {{ path: [/tea] }}\n{i}mock: {{ http: {{ status: 418, headers: {{ x-pot: small }}, body: short }} }}\n\
         upstreams: {{ plain: {{ endpoints: [{{ url: \"{}\" }}] }} }}\n",
        upstream.url(""),
        r = "    - ",
        i = "      "
    );
    let z = Ziggurat::yaml(&yaml).await;
    let red = z
        .target()
        .request("GET", "/a/b", &[("x-team", "red")], "")
        .await;
    assert_eq!((red.header("x-seen"), red.header("server")), ("red", ""));
    assert_eq!(red.text().await, "plain");
    assert_eq!(z.target().get("/a/b").await.header("x-seen"), "");
    let pot = z.target().get("/tea").await;
    assert_eq!((pot.status.as_u16(), pot.header("x-pot")), (418, "small"));
    assert_eq!(pot.text().await, "short");
    let refused = z.target().request("DELETE", "/a", &[], "").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().await.contains("nothing is deleted here"));
}
