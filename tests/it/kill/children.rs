//! Children that are killed, whatever they are doing.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::load::{self, Load, ended, family, nobody_is_left, open};
use crate::harness::{Ziggurat, mcp::Session, process, until};

/// How often children are killed.
const KILLS: usize = 3;

/// How a child is stopped.
const HASTY: &str = "stop: { stdin: 50ms, term: 50ms }";

/// A server that stops in the middle of what it is told to: of a line, or of the handshake while there is a file `deaf`.
const HALTING: &str = r#"
sleep 600 </dev/null >/dev/null 2>&1 &
echo $! >>family
echo $$ >>family
while IFS= read -r line; do
  id=${line#*'"id":'}; id=${id%%[,\}]*}
  case $line in
    *'"name":"half"'*) printf '{"jsonrpc":"2.0","id":%s,"resu' "$id"; echo $$ >>halted; sleep 600 ;;
    *'"method":"initialize"'*)
      if [ -e deaf ]; then echo $$ >>halted; sleep 600; fi
      printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}\n' "$id" ;;
    *'"method":"server/discover"'*)
      printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id" ;;
    *'"id":'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}\n' "$id" ;;
  esac
done
"#;

/// The processes that say that they have halted.
fn halted(z: &Ziggurat) -> Vec<i32> {
    let text = std::fs::read_to_string(z.dir().join("halted")).unwrap_or_default();
    text.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Ends a ziggurat in good order; nobody is left of at least so many.
async fn ends(mut z: Ziggurat, least: usize) {
    let family = family(&z);
    let all = std::fs::read_to_string(&family).unwrap();
    process::signal(z.pid(), "TERM");
    assert!(z.ended().await.success());
    nobody_is_left(&all, least).await;
}

/// Kills all children again and again; so many are kept ready, also once nobody asks for anything any more.
async fn under_load(isolation: &str, warm: u8, kept: usize) {
    let settings = format!("isolation: {isolation}, warm: {warm}, max: 64, idle: 1500ms, {HASTY}");
    let z = load::demo(&settings).up().await;
    z.target().session().await.delete().await;
    let modern = z.target().modern_call(1, "echo", json!({"text": ""})).await;
    assert_eq!(ended(modern).await, Some(true));
    until("only those are left that are kept", async || {
        let metrics = z.metrics().await;
        let ready = ["warm", "idle"]
            .map(|state| metrics.sum("ziggurat_stdio_processes", &[&format!("state=\"{state}\"")]));
        ready.iter().sum::<f64>() == kept as f64 && z.servers().len() == kept
    })
    .await;
    let before = z.baseline().await;
    let mut load = Load::start(&z);
    for _ in 0..KILLS {
        load.is_on(&z).await;
        let servers = z.servers();
        assert!(!servers.is_empty());
        for pid in servers {
            process::signal(pid, "KILL");
        }
        load.goes_on().await;
    }
    load.end().await;
    z.assert_back_to(&before).await;
    ends(z, 2 * KILLS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_sessions_that_are_killed_under_load_leave_nobody_hanging_and_nothing_behind() {
    under_load("per_session", 2, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_children_that_are_killed_under_load_leave_nobody_hanging_and_nothing_behind() {
    under_load("shared", 1, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_principals_that_are_killed_under_load_leave_nobody_hanging_and_nothing_behind()
{
    under_load("per_principal", 1, 1).await;
}

/// The calls of these sessions end, as do their streams, and they themselves.
async fn all_end(sessions: &[Session], calls: impl Future<Output = Vec<Value>>) {
    for error in calls.await {
        assert_eq!(error["error"]["data"]["kind"], "server_gone", "{error}");
        assert_eq!(error["error"]["data"]["outcome"], "unknown", "{error}");
    }
    for session in sessions {
        assert_eq!(session.ask(2, "ping", json!({})).await.status, 404);
    }
}

#[tokio::test]
async fn a_child_that_is_killed_in_the_middle_of_a_line_fails_its_calls_and_is_followed_by_another()
{
    for isolation in ["per_session", "shared", "per_principal"] {
        let settings = format!("isolation: {isolation}, warm: 1, {HASTY}");
        let z = load::over(HALTING, &settings).up().await;
        let sessions = join_all((0..4).map(async |_| z.target().session().await)).await;
        let streams = join_all(sessions.iter().map(Session::stream)).await;
        let calls = sessions.iter().map(async |session| {
            let call = session.call(1, "half", json!({})).await;
            call.last().await
        });
        let killer = async {
            let children = if isolation == "shared" { 1 } else { 4 };
            until("they have halted", async || halted(&z).len() == children).await;
            for pid in halted(&z) {
                process::signal(pid, "KILL");
            }
        };
        let calls = async { tokio::join!(join_all(calls), killer).0 };
        all_end(&sessions, calls).await;
        for mut stream in streams {
            while stream.event().await.is_some() {}
        }
        let next = z.target().session().await;
        let answer = next.call(1, "whole", json!({})).await;
        assert_eq!(ended(answer).await, Some(true), "{isolation}");
        ends(z, 4).await;
    }
}

#[tokio::test]
async fn a_child_that_is_killed_during_its_handshake_fails_who_waits_and_the_next_is_greeted() {
    for isolation in ["per_session", "shared", "per_principal"] {
        let settings = format!("isolation: {isolation}, {HASTY}");
        let start = load::over(HALTING, &settings).file("deaf", "");
        let z = start.up().await;
        let target = z.target();
        let opened = join_all((0..4).map(|_| open(&target)));
        let mut killed = 0;
        let killer = async {
            loop {
                // Who waits may be given another child, which is then killed, too.
                until("one waits to be answered", async || {
                    halted(&z).len() > killed
                })
                .await;
                for pid in halted(&z).into_iter().skip(killed) {
                    process::signal(pid, "KILL");
                    killed += 1;
                }
            }
        };
        let opened = tokio::select! {
            opened = opened => opened,
            () = killer => unreachable!("it goes on for ever"),
        };
        for error in opened {
            let error = error.unwrap_err();
            let kind = error["error"]["data"]["kind"].as_str().unwrap();
            assert!(["server_gone", "start_delayed"].contains(&kind), "{error}");
        }
        std::fs::remove_file(z.dir().join("deaf")).unwrap();
        until("the next is greeted", async || open(&target).await.is_ok()).await;
        let metrics = z.metrics().await;
        let children = metrics.sum("ziggurat_stdio_processes", &[]);
        assert_eq!(children, 1.0, "{isolation}");
        ends(z, 4).await;
    }
}
