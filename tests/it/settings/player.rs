//! A server that does what each call says, and a client that makes such calls one after another.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Scenario, scenario};
use crate::harness::{
    Ziggurat,
    client::Answer,
    mcp::Session,
    until,
    upstream::{Received, Upstream, Wire},
};

/// A server that does what each call says; others are answered with its name.
pub(super) async fn player(name: &'static str) -> Upstream {
    Upstream::start(move |received, wire| play(received, wire, name)).await
}

/// The answer to a call.
pub(super) fn result(received: &Received, result: &Value) -> String {
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    json!({ "jsonrpc": "2.0", "id": body["id"], "result": result }).to_string()
}

async fn play(received: Received, wire: Wire, name: &str) -> Option<Wire> {
    let call: Value = serde_json::from_str(&received.body).unwrap_or_default();
    let step = call["params"]["arguments"]["do"].as_str().unwrap_or("ok");
    let (what, number) = split(step);
    let fine = result(&received, &json!({ "content": [], "name": name }));
    match what {
        "status" => wire.answer(&format!("{number} Status"), "", "").await,
        "late" => {
            sleep(Duration::from_millis(number)).await;
            wire.json(&fine).await
        }
        "rpc" => {
            let error = json!({ "code": -32000, "message": "no" });
            let answer = json!({ "jsonrpc": "2.0", "id": call["id"], "error": error });
            wire.json(&answer.to_string()).await
        }
        "tool" => {
            let failed = json!({ "content": [], "isError": true });
            wire.json(&result(&received, &failed)).await
        }
        "quiet" => {
            let wire = wire.sse().await.event(&progress(0)).await;
            sleep(Duration::from_millis(number)).await;
            wire.event(&fine).await.end().await
        }
        "progress" => {
            let mut wire = wire.sse().await;
            for step in 0..number / 100 {
                wire = wire.event(&progress(step)).await;
                sleep(Duration::from_millis(100)).await;
            }
            wire.event(&fine).await.end().await
        }
        "stall" => wire.stall().await,
        _ => wire.json(&fine).await,
    }
}

fn progress(step: u64) -> String {
    let params = json!({ "progressToken": "p", "progress": step });
    json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }).to_string()
}

/// A step, and the number at its end: a status, or milliseconds.
fn split(step: &str) -> (&str, u64) {
    let what = step.trim_end_matches(|c: char| c.is_ascii_digit());
    (what, step[what.len()..].parse().unwrap_or_default())
}

/// Calls the tool so that the server does this.
pub(super) async fn call(caller: &Session, step: &str) -> Answer {
    let arguments = json!({ "do": step });
    caller.call_with_token(step, "p", "t", arguments).await
}

/// How a call ended: `ok`, `tool_error`, `rpc_error`, a status without an answer, or the kind of the error.
pub(super) async fn end_of(answer: Answer) -> String {
    let status = answer.status;
    let last = if answer.is_stream() {
        answer.last().await
    } else {
        serde_json::from_slice(&answer.bytes().await).unwrap_or_default()
    };
    if last["result"]["isError"] == true {
        return "tool_error".to_owned();
    }
    if last["result"].is_object() {
        return "ok".to_owned();
    }
    if last["error"].is_object() {
        let kind = last["error"]["data"]["kind"].as_str();
        return kind.unwrap_or("rpc_error").to_owned();
    }
    status.as_str().to_owned()
}

/// Plays the steps, one after another: what a call says, `wait` for a time, `hang` for a call that stays in hand, or `again:` for a call that is
/// made until it is let through. Tells how the calls ended.
pub(super) fn plays(steps: &'static str) -> Scenario {
    scenario(move |given| async move {
        let server = player("a").await;
        let z = given.over(&[&server]).await;
        ends(&z, &server, steps).await.join(" ")
    })
}

/// The same, and tells it in letters: what failed, was let through or was refused by a breaker.
pub(super) fn letters(steps: &'static str) -> Scenario {
    scenario(move |given| async move {
        let server = player("a").await;
        let z = given.over(&[&server]).await;
        let ends = ends(&z, &server, steps).await;
        ends.iter().map(|end| letter(end)).collect()
    })
}

fn letter(end: &str) -> &str {
    match end {
        "ok" => "o",
        "500" => "f",
        "rpc_error" => "e",
        "tool_error" => "t",
        "no_endpoint" | "circuit_open" => "r",
        other => other,
    }
}

async fn ends(z: &Ziggurat, server: &Upstream, steps: &str) -> Vec<String> {
    let caller = z.target().stateless("/mcp");
    let mut ends = Vec::new();
    let mut held = Vec::new();
    for step in steps.split(' ') {
        if let ("wait", millis) = split(step) {
            sleep(Duration::from_millis(millis)).await;
        } else if step == "hang" {
            held.push(hang(&caller, &[server]).await);
        } else if let Some(step) = step.strip_prefix("again:") {
            ends.push(until_let_through(&caller, step).await);
        } else {
            ends.push(end_of(call(&caller, step).await).await);
        }
    }
    ends
}

async fn until_let_through(caller: &Session, step: &str) -> String {
    let mut end = String::new();
    until("it is let through", async || {
        end = end_of(call(caller, step).await).await;
        letter(&end) != "r"
    })
    .await;
    end
}

/// A call that stays in hand until it is dropped.
pub(super) struct Hanging(tokio::task::JoinHandle<()>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Has a call hang at one of these servers.
pub(super) async fn hang(caller: &Session, servers: &[&Upstream]) -> Hanging {
    let stalled = || servers.iter().map(|server| stalled(server)).sum::<usize>();
    let before = stalled();
    let caller = caller.clone();
    let hanging = Hanging(tokio::spawn(async move {
        drop(call(&caller, "stall").await);
    }));
    until("a call hangs", async || stalled() > before).await;
    hanging
}

/// How many calls hang there.
fn stalled(server: &Upstream) -> usize {
    let all = server.received();
    all.iter().filter(|r| r.body.contains("\"stall\"")).count()
}
