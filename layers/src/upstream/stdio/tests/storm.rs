//! Everything at once, on several threads, in a process of its own; afterwards nothing is left.

use std::process::{Command, Stdio};

use super::*;

const STORM: &str = "ZIGGURAT_TEST_STORM";

fn children() -> usize {
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.expect("a task").path().join("children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks");
    tasks.map(|t| of(t).split_whitespace().count()).sum()
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("files").count()
}

/// A client that does what `dice` says.
async fn client(upstream: StdioUpstream, mut dice: fastrand::Rng) {
    let who = dice.u8(0..3).to_string();
    let mut session = None::<String>;
    for round in 0..40 {
        let ask = |request| upstream.clone().oneshot(by(&who, request));
        let Some(id) = &session else {
            let opened = ask(initialize()).await.ok();
            let id = opened.and_then(|r| r.headers().get("mcp-session-id").cloned());
            session = id.map(|id| id.to_str().expect("text").to_owned());
            continue;
        };
        let patience = Duration::from_millis(dice.u64(0..20));
        let request = match dice.u8(0..14) {
            0..4 => post(id, with_token(tool(round, "steps", 0), round)),
            4 => post(id, tool(round, "hold", 0)),
            5 => post(id, tool(round, "release", 0)),
            6 => get(id),
            7 => post(id, tool(round, "change", 0)),
            8 => modern_tool(round, "hold", 0),
            9 => modern_tool(round, "log", 0),
            10 => listen(round),
            11 => post(id, tool(round, "bye", 0)),
            12 => {
                let gone = delete(id);
                session = None;
                gone
            }
            _ if dice.u8(0..8) == 0 => modern_tool(round, "crash", 0),
            _ => post(id, tool(round, "echo", round)),
        };
        let answer = async { Some(ask(request).await.ok()?.into_body().collect().await) };
        let _left_or_answered = tokio::time::timeout(patience, answer).await;
        if dice.u8(0..8) == 0 {
            session = None;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "run by the test below"]
async fn storm() {
    let Ok(seed) = std::env::var(STORM) else {
        return;
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    ::metrics::set_global_recorder(recorder).expect("the only one");
    let dir = tempfile::tempdir().expect("a folder");
    let settings = |isolation, warm| {
        let script = include_str!("server.sh");
        let mut settings = StdioSettings::new("sh", ["/bin/sh", "-c", script]);
        settings.env = vec![("DIR".into(), dir.path().into())];
        settings.isolation = isolation;
        settings.max_children = 8.try_into().expect("not zero");
        settings.idle = Duration::from_millis(200);
        settings.buffer = 4000;
        settings.warm = warm;
        settings.snapshot = warm == 0;
        settings.recycle = std::num::NonZeroU64::new(20);
        settings
    };
    // The first child brings the reaper, and the runtime its own files.
    let first = StdioUpstream::new(settings(Isolation::Shared, 0));
    let _begun = first.clone().oneshot(initialize()).await;
    first.close().await;
    let before = (files(), children());
    for (isolation, warm) in [
        (Isolation::PerSession, 0),
        (Isolation::PerSession, 2),
        (Isolation::Shared, 2),
        (Isolation::PerPrincipal, 1),
    ] {
        let upstream = StdioUpstream::new(settings(isolation, warm));
        upstream.warm_up();
        let seed: u64 = seed.parse().expect("a number");
        let clients = (0..12).map(|n| client(upstream.clone(), fastrand::Rng::with_seed(seed + n)));
        let clients: Vec<_> = clients.map(tokio::spawn).collect();
        for client in clients {
            let done = tokio::time::timeout(PATIENCE, client).await;
            done.expect("no hang").expect("no panic");
        }
        let closed = tokio::time::timeout(PATIENCE, upstream.close()).await;
        closed.expect("no hang");
        let report = upstream.report();
        assert_eq!((report.pending, report.sessions), (0, 0));
        assert!(report.states.iter().all(|(_, count)| *count == 0));
    }
    let text = metrics.render();
    let gauge = |l: &&str| gauges::GAUGES.iter().any(|name| l.starts_with(name));
    let up: Vec<_> = text.lines().filter(gauge).collect();
    assert!(
        up.len() >= 7 && up.iter().all(|l| l.ends_with(" 0")),
        "{up:?}"
    );
    assert_eq!((files(), children()), before);
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    while tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_a_storm_no_process_task_file_or_gauge_is_left() {
    for seed in [1, 2] {
        let storm = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "upstream::stdio::tests::storm::storm",
                "--ignored",
            ])
            .env(STORM, seed.to_string())
            .stdin(Stdio::null())
            .output()
            .expect("started");
        let told = String::from_utf8_lossy(&storm.stdout);
        assert!(storm.status.success(), "seed {seed}: {told}");
    }
}
