//! When the proxy is killed hard. The proxy is this test program, started again.

use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "ZIGGURAT_TEST_PROXY";

/// A proxy with three children that have children, none of which ends by itself; then it waits to be killed.
#[tokio::test]
#[ignore = "run by the tests below"]
async fn proxy() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let arms = r#"*'"name":"stay"'*) trap '' TERM HUP; sh -c 'trap "" TERM HUP; echo $$ >>"$1/pids"; while :; do sleep 1000; done' x "$DIR" & note $$ pids; answer '{}'; while :; do sleep 1000; done ;;"#;
    let rig = Rig::new(arms, |s| s.env = vec![("DIR".into(), folder.clone())]);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(rig.open().await);
    }
    let reaper = crate::upstream::stdio::reaper::pid().expect("it runs");
    std::fs::write(
        std::path::Path::new(&folder).join("reaper"),
        reaper.to_string(),
    )
    .expect("written");
    for (at, session) in sessions.iter().enumerate() {
        // One that ends in order is forgotten.
        if at == 0 {
            rig.reply(delete(session)).await;
        } else {
            rig.reply(post(session, tool(1, "stay", 0))).await;
        }
        if std::path::Path::new(&folder).join("again").exists() {
            // A reaper that died is replaced, and told of all.
            let _killed = Command::new("kill")
                .args(["-KILL", &reaper.to_string()])
                .status();
        }
    }
    if std::path::Path::new(&folder).join("again").exists() {
        let last = rig.open().await;
        rig.reply(post(&last, tool(1, "stay", 0))).await;
    }
    std::fs::write(std::path::Path::new(&folder).join("ready"), "").expect("written");
    std::future::pending::<()>().await;
}

/// The open files of a process, by number.
fn files(pid: &str, which: impl Fn(&str) -> bool) -> Vec<String> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its files");
    infos
        .filter_map(|info| {
            let info = info.ok()?;
            let text = std::fs::read_to_string(info.path()).ok()?;
            which(&text).then(|| info.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

fn is_close_on_exec(info: &str) -> bool {
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
    let flags = flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0o2_000_000 != 0)
}

async fn killed_hard(again: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name);
    if again {
        std::fs::write(file("again"), "").expect("written");
    }
    let mut proxy = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "upstream::stdio::tests::reaper::proxy",
            "--ignored",
        ])
        .env(FOLDER, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let end = std::time::Instant::now() + PATIENCE;
    while !file("ready").exists() {
        assert!(
            std::time::Instant::now() < end && proxy.try_wait().expect("a status").is_none(),
            "it does not come up"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
    while read("pids").lines().count() < if again { 6 } else { 4 } {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pids: Vec<String> = read("pids").lines().map(str::to_owned).collect();
    assert!(pids.iter().all(lives));
    if !again {
        // The reaper holds nothing of the proxy's but its pipe, and no child holds that.
        let inherited = files(&proxy.id().to_string(), |info| !is_close_on_exec(info));
        for fd in files(&read("reaper"), |_| true) {
            assert!(
                ["0", "1", "2"].contains(&&*fd) || inherited.contains(&fd),
                "the reaper holds file {fd}"
            );
        }
        let pipe = |pid: &str, fd: &str| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
        let held = pipe(&read("reaper"), "0");
        for pid in &pids {
            for fd in files(pid, |_| true) {
                assert_ne!(pipe(pid, &fd), held, "{pid} holds the reaper's pipe");
            }
        }
    }
    proxy.kill().expect("killed");
    proxy.wait().expect("gone");
    while pids.iter().any(lives) {
        assert!(std::time::Instant::now() < end, "somebody is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if !again {
        while lives(read("reaper")) {
            assert!(std::time::Instant::now() < end, "the reaper is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn nobody_outlives_a_proxy_that_is_killed_hard() {
    killed_hard(false).await;
}

#[tokio::test]
async fn a_reaper_that_died_is_replaced() {
    killed_hard(true).await;
}
