//! Connections that an upstream cuts after it has read a call, and before its answer begins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat,
    client::Answer,
    config,
    upstream::{Received, Upstream, Wire},
};

/// A server of both eras that keeps its events. It cuts the connection of each call when it has read it for the first time.
#[derive(Clone)]
struct Cutter {
    reset: bool,
    /// How often it has read each call.
    read: Arc<Mutex<HashMap<String, usize>>>,
}

const SESSION: &str = "mcp-session-id: one\r\ncontent-type: application/json\r\n";

impl Cutter {
    async fn answer(self, received: Received, wire: Wire) -> Option<Wire> {
        if received.method == "GET" {
            let wire = wire.sse().await;
            return wire.drip("id: 1\ndata:\n\n").await.stall().await;
        }
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        let (id, method) = (&body["id"], body["method"].as_str().unwrap_or_default());
        if id.is_null() {
            return wire.answer("202 Accepted", "", "").await;
        }
        let is_call = method.starts_with("tools/");
        let result = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "resultType": "complete", "tools": [], "content": []
        });
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        let first = {
            let mut read = self.read.lock().unwrap();
            let times = read.entry(id.to_string()).or_default();
            *times += 1;
            is_call && *times == 1
        };
        match (first, self.reset) {
            (true, true) => wire.reset(),
            (true, false) => wire.close(),
            (false, _) => wire.answer("200 OK", SESSION, &answer).await,
        }
    }
}

async fn outcome(answer: Answer) -> (Value, Value) {
    assert_eq!(answer.status, 200);
    let answer = answer.last().await;
    let data = &answer["error"]["data"];
    (data["kind"].clone(), data["outcome"].clone())
}

#[tokio::test]
async fn a_call_that_was_read_and_cut_before_its_answer_is_repeated_only_if_it_is_safe_in_both_eras()
 {
    for reset in [true, false] {
        let cutter = Cutter {
            reset,
            read: Arc::default(),
        };
        let script = cutter.clone();
        let upstream = Upstream::start(move |r, wire| script.clone().answer(r, wire)).await;
        let url = format!("url: \"{}\"", upstream.url("/mcp"));
        let quiet = "health: off, circuit: off, outlier: off,";
        let repeats = "retry: { backoff: { base: 1ms } },";
        let z = Ziggurat::yaml(&config("", repeats, quiet, &url)).await;
        let times = |id: &str| cutter.read.lock().unwrap()[&format!("\"{id}\"")];
        let answered = (json!(null), json!(null));
        let unknown = (json!("upstream_broken"), json!("unknown"));

        // The first goes over a connection that was used before.
        let session = z.target().session().await;
        let mut stream = session.stream().await;
        assert!(stream.event().await.is_some());
        let safe = session.ask("a", "tools/list", json!({})).await;
        assert_eq!((outcome(safe).await, times("a")), (answered.clone(), 2));
        let act = session.call("b", "write", json!({})).await;
        assert_eq!((outcome(act).await, times("b")), (unknown.clone(), 1));

        let safe = z.target().modern("c", "tools/list", json!({})).await;
        assert_eq!((outcome(safe).await, times("c")), (answered.clone(), 2));
        let act = z.target().modern_call("d", "write", json!({})).await;
        assert_eq!((outcome(act).await, times("d")), (unknown.clone(), 1));

        // The session goes on, and so does its stream.
        let ping = session.ask("e", "ping", json!({})).await;
        assert_eq!(outcome(ping).await, answered);
        let begun = upstream.received().into_iter();
        let begun = begun.filter(|r| r.body.contains("\"initialize\""));
        assert_eq!(begun.count(), 1);
        let streams = upstream.received().into_iter();
        assert_eq!(streams.filter(|r| r.method == "GET").count(), 1);
    }
}
