//! The engine in both eras, through an in-memory pair of pipes.

use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
};
use tokio::task::JoinHandle;

use super::*;
use crate::demo::engine::Transport;

/// A client, and the server at the other end.
struct Client {
    engine: Arc<Engine>,
    server: JoinHandle<io::Result<Ending>>,
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
}

impl Client {
    fn start() -> Self {
        let (here, there) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(here);
        let engine = Engine::new(Transport::Stdio);
        let served = Arc::clone(&engine);
        let server = tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(there);
            serve(&served, reader, writer).await
        });
        Self {
            engine,
            server,
            lines: BufReader::new(reader).lines(),
            writer,
        }
    }

    /// A client that has shaken hands.
    async fn legacy(version: &str, capabilities: Value) -> Self {
        let mut client = Self::start();
        let params =
            json!({"protocolVersion": version, "capabilities": capabilities, "clientInfo": {}});
        let answer = client.call(0, "initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], version);
        client.tell("notifications/initialized", json!({})).await;
        client
    }

    async fn send(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
        self.writer.write_all(b"\n").await.unwrap();
    }

    async fn ask(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        let id = id.into();
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(&request.to_string()).await;
    }

    async fn tell(&mut self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.send(&message.to_string()).await;
    }

    async fn line(&mut self) -> String {
        self.lines
            .next_line()
            .await
            .unwrap()
            .expect("the server is there")
    }

    async fn next(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    async fn call(&mut self, id: impl Into<Value>, method: &str, params: Value) -> Value {
        self.ask(id, method, params).await;
        self.next().await
    }

    async fn tool(&mut self, id: impl Into<Value>, name: &str, arguments: Value) -> Value {
        self.call(
            id,
            "tools/call",
            json!({"name": name, "arguments": arguments}),
        )
        .await
    }

    /// The server ends when its input does.
    async fn end(mut self) -> Ending {
        self.writer.shutdown().await.unwrap();
        self.server.await.unwrap().unwrap()
    }
}

/// Parameters of a modern request.
fn modern(mut params: Value, capabilities: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    params
}

fn modern_tool(name: &str, arguments: Value) -> Value {
    modern(json!({"name": name, "arguments": arguments}), json!({}))
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn the_handshake_settles_on_the_version_asked_for_or_on_the_newest() {
    for version in revision::LEGACY {
        let client = Client::legacy(version, json!({})).await;
        assert_eq!(client.engine.sessions(), 1);
        assert_eq!(client.end().await, Ending::Closed);
    }
    let mut client = Client::start();
    let answer = client
        .call(1, "initialize", json!({"protocolVersion": "1999-01-01"}))
        .await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(
        client
            .call(2, "initialize", json!({"protocolVersion": "2025-11-25"}))
            .await["error"]["code"],
        -32600
    );
}

#[tokio::test]
async fn an_answer_has_the_id_in_its_own_spelling_and_type() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    for id in [
        "7",
        "\"7\"",
        "-1",
        "\"\\u00e9 x\"",
        "12345678901234567890123",
    ] {
        client
            .send(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"ping","unknown":1}}"#
            ))
            .await;
        assert_eq!(
            client.line().await,
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
        );
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_is_served() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    for (line, code) in [
        ("nonsense", -32700),
        ("[1]", -32600),
        ("7", -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            -32600,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"none"}"#, -32601),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#,
            -32601,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"none"}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"demo://no"}}"#,
            -32002,
        ),
    ] {
        client.send(line).await;
        assert_eq!(client.next().await["error"]["code"], code, "{line}");
    }
    assert_eq!(
        text(&client.tool(9, "echo", json!({"text": "still here"})).await),
        "still here"
    );
}

#[tokio::test]
async fn nothing_but_ping_is_served_before_the_handshake() {
    let mut client = Client::start();
    assert_eq!(client.call(1, "ping", json!({})).await["result"], json!({}));
    assert_eq!(
        client.call(2, "tools/list", json!({})).await["error"]["code"],
        -32600
    );
}

#[tokio::test]
async fn the_tools_that_answer_at_once_answer() {
    let mut client = Client::legacy("2025-06-18", json!({})).await;
    let sum = client.tool(1, "add", json!({"a": 2, "b": 40})).await;
    assert_eq!(sum["result"]["structuredContent"], json!({"sum": 42}));
    let sum = client.tool(1, "add", json!({"a": 0.5, "b": 1})).await;
    assert_eq!(sum["result"]["structuredContent"], json!({"sum": 1.5}));
    assert_eq!(
        client.tool(2, "fail", json!({})).await["result"]["isError"],
        true
    );
    let error = client
        .tool(3, "error", json!({"code": -7, "message": "no"}))
        .await;
    assert_eq!(error["error"], json!({"code": -7, "message": "no"}));
    assert_eq!(
        text(&client.tool(4, "big", json!({"bytes": 2_000_000})).await).len(),
        2_000_000
    );
    assert!(text(&client.tool(5, "weather", json!({"city": "Ur"})).await).contains("Ur"));
    assert_eq!(
        client
            .tool(6, "env", json!({"name": "ZIGGURAT_IS_NOT_SET"}))
            .await["result"]["isError"],
        true
    );
    assert!(client.tool(7, "env", json!({"name": "PATH"})).await["result"]["structuredContent"]["value"].is_string());
    let who = client.tool(8, "whoami", json!({})).await["result"]["structuredContent"].take();
    assert_eq!(
        (&who["pid"], &who["era"]),
        (&json!(std::process::id()), &json!("legacy"))
    );
    assert_eq!(
        (&who["protocolVersion"], &who["sessions"]),
        (&json!("2025-06-18"), &json!(1))
    );
}

#[tokio::test]
async fn each_tool_in_the_list_is_a_tool_that_can_be_called() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    let list = client.call(1, "tools/list", json!({})).await["result"].take();
    assert!(
        list.get("resultType").is_none(),
        "a legacy result has no modern fields"
    );
    for tool in list["tools"].as_array().unwrap() {
        assert_eq!(tool["inputSchema"]["type"], "object");
        if tool["name"] == "crash" || tool["name"] == "hang_stdin" || tool["name"] == "spawn_child"
        {
            continue;
        }
        let name = tool["name"].as_str().unwrap();
        client
            .ask(
                2,
                "tools/call",
                json!({"name": name, "arguments": {"bytes": "not a number"}}),
            )
            .await;
        let answer = loop {
            let line = client.line().await;
            match serde_json::from_str::<Value>(&line) {
                Ok(answer) if answer["id"] == 2 => break answer,
                _ => {}
            }
        };
        assert!(!answer.to_string().contains("there is no tool"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn progress_comes_with_the_callers_token_and_before_the_result() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    for token in [json!(5), json!("five")] {
        let arguments = json!({"steps": 3, "interval_ms": 100});
        let params =
            json!({"name": "progress", "arguments": arguments, "_meta": {"progressToken": token}});
        client.ask(1, "tools/call", params).await;
        for step in 1..=3 {
            let note = client.next().await;
            assert_eq!(note["method"], "notifications/progress");
            assert_eq!(
                note["params"],
                json!({"progressToken": token, "progress": step, "total": 3})
            );
        }
        assert_eq!(text(&client.next().await), "3 steps done");
    }
    assert_eq!(
        text(&client.tool(2, "progress", json!({"steps": 2})).await),
        "2 steps done"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_says_nothing_more_and_the_others_go_on() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    client
        .ask(
            "é",
            "tools/call",
            json!({"name": "sleep", "arguments": {"ms": 500}}),
        )
        .await;
    client
        .ask(
            2,
            "tools/call",
            json!({"name": "sleep", "arguments": {"ms": 900}}),
        )
        .await;
    client
        .tell("notifications/cancelled", json!({"requestId": "é"}))
        .await;
    client
        .tell("notifications/cancelled", json!({"requestId": 77}))
        .await;
    assert_eq!(client.next().await["id"], 2);
}

#[tokio::test]
async fn log_messages_obey_the_level_of_the_session() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    let note = client
        .tool(1, "log", json!({"message": "hello", "level": "debug"}))
        .await;
    assert_eq!(
        note["params"],
        json!({"level": "debug", "logger": "demo", "data": "hello"})
    );
    client.next().await;
    client
        .call(2, "logging/setLevel", json!({"level": "error"}))
        .await;
    assert_eq!(
        client.tool(3, "log", json!({"message": "hello"})).await["id"],
        3
    );
    assert_eq!(
        client
            .call(4, "logging/setLevel", json!({"level": "loud"}))
            .await["error"]["code"],
        -32602
    );
}

#[tokio::test]
async fn a_flood_larger_than_all_buffers_arrives_whole_and_in_order() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    client
        .ask(
            1,
            "tools/call",
            json!({"name": "flood", "arguments": {"lines": 20_000}}),
        )
        .await;
    for line in 1..=20_000 {
        assert_eq!(
            client.next().await["params"]["data"],
            format!("line {line} of 20000")
        );
    }
    assert_eq!(client.next().await["id"], 1);
}

#[tokio::test]
async fn a_session_is_told_of_the_resources_that_it_subscribed_to() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    client.tool(1, "tick", json!({})).await;
    client
        .call(2, "resources/subscribe", json!({"uri": "demo://clock"}))
        .await;
    client.ask(3, "tools/call", json!({"name": "tick"})).await;
    let both = [client.next().await, client.next().await];
    let note = both
        .iter()
        .find(|message| message.get("method").is_some())
        .unwrap();
    assert_eq!(note["method"], "notifications/resources/updated");
    assert_eq!(note["params"], json!({"uri": "demo://clock"}));
    client
        .call(4, "resources/unsubscribe", json!({"uri": "demo://clock"}))
        .await;
    assert_eq!(client.tool(5, "tick", json!({})).await["id"], 5);
    let clock = client
        .call(6, "resources/read", json!({"uri": "demo://clock"}))
        .await;
    assert!(
        clock["result"]["contents"][0]["text"]
            .as_str()
            .unwrap()
            .contains("\"ticks\":3")
    );
    assert_eq!(
        client
            .call(7, "resources/subscribe", json!({"uri": "demo://no"}))
            .await["error"]["code"],
        -32002
    );
}

#[tokio::test]
async fn prompts_templates_and_completion_answer() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    let prompt = client
        .call(
            1,
            "prompts/get",
            json!({"name": "greet", "arguments": {"name": "Bo"}}),
        )
        .await;
    assert!(
        prompt["result"]["messages"][0]["content"]["text"]
            .as_str()
            .unwrap()
            .contains("Bo")
    );
    assert_eq!(
        client
            .call(2, "prompts/get", json!({"name": "greet"}))
            .await["error"]["code"],
        -32602
    );
    assert_eq!(
        client.call(3, "prompts/list", json!({})).await["result"]["prompts"][0]["name"],
        "greet"
    );
    let templates = client.call(4, "resources/templates/list", json!({})).await;
    assert_eq!(
        templates["result"]["resourceTemplates"][0]["uriTemplate"],
        "demo://numbers/{n}"
    );
    let nine = client
        .call(5, "resources/read", json!({"uri": "demo://numbers/3"}))
        .await;
    assert_eq!(nine["result"]["contents"][0]["text"], "9");
    let reference = json!({"type": "ref/prompt", "name": "greet"});
    let params = json!({"ref": reference, "argument": {"name": "name", "value": "A"}});
    let completion = client.call(6, "completion/complete", params).await;
    assert_eq!(
        completion["result"]["completion"]["values"],
        json!(["Ada", "Alan"])
    );
}

#[tokio::test]
async fn a_session_is_asked_in_the_middle_of_a_call() {
    let able = json!({"elicitation": {}, "sampling": {}, "roots": {}});
    let mut client = Client::legacy("2025-11-25", able).await;
    for (tool, method) in [
        ("ask", "elicitation/create"),
        ("sample", "sampling/createMessage"),
        ("roots", "roots/list"),
    ] {
        client.ask(1, "tools/call", json!({"name": tool})).await;
        let question = client.next().await;
        assert_eq!(question["method"], method);
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"said": tool}});
        client.send(&answer.to_string()).await;
        let result = client.next().await;
        assert_eq!(
            result["result"]["structuredContent"],
            json!({"answer": {"said": tool}})
        );
    }
    client.ask(2, "tools/call", json!({"name": "ask"})).await;
    let question = client.next().await;
    let refusal =
        json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "no"}});
    client.send(&refusal.to_string()).await;
    assert_eq!(client.next().await["result"]["isError"], true);
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_is_not_asked() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    assert_eq!(
        client.tool(1, "ask", json!({})).await["result"]["isError"],
        true
    );
    let mut client = Client::start();
    let answer = client
        .call(1, "tools/call", modern_tool("ask", json!({})))
        .await;
    assert_eq!(answer["error"]["code"], -32021);
    assert_eq!(
        answer["error"]["data"],
        json!({"requiredCapabilities": {"elicitation": {}}})
    );
}

#[tokio::test]
async fn batches_belong_to_one_revision() {
    let batch =
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]"#;
    let mut client = Client::legacy("2025-03-26", json!({})).await;
    client.send(batch).await;
    assert_eq!(
        (
            client.next().await["id"].take(),
            client.next().await["id"].take()
        ),
        (json!(1), json!(2))
    );
    let mut client = Client::legacy("2025-06-18", json!({})).await;
    client.send(batch).await;
    assert_eq!(client.next().await["error"]["code"], -32600);
}

#[tokio::test]
async fn the_first_request_settles_the_era() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    let answer = client
        .call(1, "tools/list", modern(json!({}), json!({})))
        .await;
    assert_eq!(answer["error"]["code"], -32600);

    let mut client = Client::start();
    let answer = client
        .call(1, "server/discover", modern(json!({}), json!({})))
        .await;
    assert_eq!(answer["result"]["supportedVersions"], json!([MODERN]));
    let answer = client
        .call(2, "initialize", json!({"protocolVersion": "2025-11-25"}))
        .await;
    assert_eq!(answer["error"]["code"], -32022);
    assert_eq!(
        answer["error"]["data"],
        json!({"supported": [MODERN], "requested": "2025-11-25"})
    );
    assert_eq!(
        client.call(3, "tools/list", json!({})).await["error"]["code"],
        -32602
    );
    assert_eq!(client.engine.sessions(), 0);
}

#[tokio::test]
async fn a_modern_request_of_another_version_is_refused_with_what_there_is() {
    let mut client = Client::start();
    let mut params = modern(json!({}), json!({}));
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    let answer = client.call(1, "tools/list", params).await;
    assert_eq!(answer["error"]["code"], -32022);
    assert_eq!(
        answer["error"]["data"],
        json!({"supported": [MODERN], "requested": "2099-01-01"})
    );
}

#[tokio::test]
async fn modern_results_say_what_they_are_and_how_long_they_last() {
    let mut client = Client::start();
    for (method, params, lasts) in [
        ("server/discover", json!({}), true),
        ("tools/list", json!({}), true),
        ("prompts/list", json!({}), true),
        ("resources/list", json!({}), true),
        ("resources/templates/list", json!({}), true),
        ("resources/read", json!({"uri": "demo://clock"}), true),
        (
            "prompts/get",
            json!({"name": "greet", "arguments": {"name": "Bo"}}),
            false,
        ),
        (
            "tools/call",
            json!({"name": "echo", "arguments": {"text": "x"}}),
            false,
        ),
        (
            "tools/call",
            json!({"name": "sleep", "arguments": {"ms": 0}}),
            false,
        ),
    ] {
        let result = client.call("m", method, modern(params, json!({}))).await["result"].take();
        assert_eq!(result["resultType"], "complete", "{method}");
        assert_eq!(
            result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "ziggurat-demo",
            "{method}"
        );
        assert_eq!(result["ttlMs"].is_u64(), lasts, "{method}");
        assert_eq!(result["cacheScope"] == "public", lasts, "{method}");
    }
    for gone in [
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
    ] {
        assert_eq!(
            client.call(1, gone, modern(json!({}), json!({}))).await["error"]["code"],
            -32601
        );
    }
    let params = modern(json!({"uri": "demo://no"}), json!({}));
    let answer = client.call(2, "resources/read", params).await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["uri"]),
        (&json!(-32602), &json!("demo://no"))
    );
}

#[tokio::test]
async fn a_modern_call_gets_log_messages_only_if_it_asks_for_them() {
    let mut client = Client::start();
    let mut params = modern_tool("log", json!({"message": "hello"}));
    assert_eq!(client.call(1, "tools/call", params.clone()).await["id"], 1);
    params["_meta"]["io.modelcontextprotocol/logLevel"] = json!("info");
    assert_eq!(
        client.call(2, "tools/call", params.clone()).await["method"],
        "notifications/message"
    );
    assert_eq!(client.next().await["id"], 2);
    params["_meta"]["io.modelcontextprotocol/logLevel"] = json!("warning");
    assert_eq!(client.call(3, "tools/call", params).await["id"], 3);
}

#[tokio::test]
async fn a_modern_call_that_needs_input_completes_on_the_second_round() {
    let able = json!({"elicitation": {}});
    let mut client = Client::start();
    let first = modern(
        json!({"name": "ask", "arguments": {"question": "Who?"}}),
        able.clone(),
    );
    let result = client.call(1, "tools/call", first.clone()).await["result"].take();
    assert_eq!(result["resultType"], "input_required");
    assert_eq!(
        result["inputRequests"]["answer"]["method"],
        "elicitation/create"
    );
    assert_eq!(
        result["inputRequests"]["answer"]["params"]["message"],
        "Who?"
    );

    let mut again = first.clone();
    again["requestState"] = result["requestState"].clone();
    let repeated = client.call(2, "tools/call", again.clone()).await["result"].take();
    assert_eq!(
        repeated, result,
        "no answer came along, so the question is put again"
    );

    again["inputResponses"] = json!({"answer": {"action": "accept"}, "other": 1});
    let done = client.call(3, "tools/call", again.clone()).await["result"].take();
    assert_eq!(done["resultType"], "complete");
    assert_eq!(
        done["structuredContent"],
        json!({"answer": {"action": "accept"}})
    );

    again["arguments"]["question"] = json!("What?");
    assert_eq!(
        client.call(4, "tools/call", again).await["error"]["code"],
        -32602
    );
}

#[tokio::test]
async fn a_listener_hears_what_it_asked_for_after_the_acknowledgement_and_until_it_cancels() {
    let mut client = Client::start();
    let wanted =
        json!({"toolsListChanged": true, "resourceSubscriptions": ["demo://clock", "demo://no"]});
    let listen = modern(json!({"notifications": wanted}), json!({}));
    let acknowledged = client.call("sub", "subscriptions/listen", listen).await;
    assert_eq!(
        acknowledged["method"],
        "notifications/subscriptions/acknowledged"
    );
    let tag = json!({"io.modelcontextprotocol/subscriptionId": "sub"});
    let honoured = json!({"toolsListChanged": true, "resourceSubscriptions": ["demo://clock"]});
    assert_eq!(
        acknowledged["params"],
        json!({"_meta": tag, "notifications": honoured})
    );

    for (arguments, method) in [
        (json!({}), "notifications/resources/updated"),
        (json!({"list": "tools"}), "notifications/tools/list_changed"),
    ] {
        client
            .ask(1, "tools/call", modern_tool("tick", arguments))
            .await;
        let both = [client.next().await, client.next().await];
        let note = both
            .iter()
            .find(|message| message.get("method").is_some())
            .unwrap();
        assert_eq!(
            (&note["method"], &note["params"]["_meta"]),
            (&json!(method), &tag)
        );
    }
    let quiet = client
        .call(
            2,
            "tools/call",
            modern_tool("tick", json!({"list": "prompts"})),
        )
        .await;
    assert_eq!(quiet["id"], 2);

    client
        .tell("notifications/cancelled", json!({"requestId": "sub"}))
        .await;
    client
        .call(3, "tools/call", modern_tool("tick", json!({})))
        .await;
    assert_eq!(
        client
            .call(4, "tools/call", modern_tool("echo", json!({"text": "x"})))
            .await["id"],
        4
    );
}

#[tokio::test]
async fn a_listener_gets_its_result_when_the_server_closes() {
    let mut client = Client::start();
    let listen = modern(json!({"notifications": {}}), json!({}));
    client.call(8, "subscriptions/listen", listen).await;
    client.engine.closing().cancel();
    let answer = client.next().await;
    assert_eq!(
        (&answer["id"], &answer["result"]["resultType"]),
        (&json!(8), &json!("complete"))
    );
    assert_eq!(
        answer["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        8
    );
}

#[tokio::test]
async fn garbage_is_a_line_of_its_own_before_the_result() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    client
        .ask(1, "tools/call", json!({"name": "garbage"}))
        .await;
    assert!(serde_json::from_str::<Value>(&client.line().await).is_err());
    assert_eq!(client.next().await["id"], 1);
}

#[tokio::test]
async fn a_crash_ends_serving_without_an_answer() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    client.ask(1, "tools/call", json!({"name": "crash"})).await;
    assert_eq!(client.server.await.unwrap().unwrap(), Ending::Crashed);
    assert!(client.lines.next_line().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_answers_first_and_ignores_even_the_end_of_its_input() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    assert_eq!(client.tool(1, "hang_stdin", json!({})).await["id"], 1);
    client.ask(2, "ping", json!({})).await;
    client.writer.shutdown().await.unwrap();
    let patience = std::time::Duration::from_secs(600);
    assert!(tokio::time::timeout(patience, client.server).await.is_err());
}

#[tokio::test]
async fn the_end_of_input_ends_the_server_with_its_running_calls() {
    let mut client = Client::legacy("2025-11-25", json!({})).await;
    client
        .ask(
            1,
            "tools/call",
            json!({"name": "sleep", "arguments": {"ms": 3_600_000}}),
        )
        .await;
    client.call(2, "ping", json!({})).await;
    let engine = Arc::clone(&client.engine);
    assert_eq!(client.end().await, Ending::Closed);
    assert_eq!(engine.sessions(), 0);
}

#[tokio::test]
async fn answers_that_are_ready_together_are_written_together() {
    let engine = Engine::new(Transport::Stdio);
    let ping = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n".repeat(100);
    let mut writes = Writes::default();
    serve(&engine, ping.as_bytes(), &mut writes).await.unwrap();
    assert_eq!(writes.0.len(), 1);
    assert_eq!(
        writes.0[0].iter().filter(|byte| **byte == b'\n').count(),
        100
    );
}

/// Remembers each write.
#[derive(Default)]
struct Writes(Vec<Vec<u8>>);

impl AsyncWrite for Writes {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.0.push(bytes.to_vec());
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
