//! Children that are started ahead of need.

use super::*;

/// The server, which first runs these commands.
fn begins_with(first: &str, arms: &str) -> String {
    server(arms).replace("note $$ starts", &format!("note $$ starts\n{first}"))
}

#[tokio::test]
async fn whoever_comes_first_gets_a_process_that_runs_already() {
    let rig = Rig::new("", |s| s.warm = 2);
    rig.upstream.warm_up();
    rig.until("two wait", |rig| rig.at("warm") == 2).await;
    let waiting = rig.upstream.report().pids();
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "echo", 0))).await;
    assert_eq!(rig.spawned("session"), 0);
    // Another takes its place, and a modern client gets one as well: a spare is of no era.
    rig.until("two wait again", |rig| rig.at("warm") == 2).await;
    rig.reply(modern_tool(1, "echo", 0)).await;
    assert_eq!(rig.spawned("modern"), 0);
    rig.until("two wait again", |rig| rig.at("warm") == 2).await;
    assert_eq!((rig.spawned("warm"), rig.at("leased")), (4, 1));
    let children = rig.upstream.report().pids();
    assert!(waiting.iter().all(|pid| children.contains(pid)));
    // Nobody's idleness ends those that wait.
    assert_eq!(rig.exited("idle"), 0);
    rig.upstream.close().await;
    assert_eq!(rig.noted("starts").len(), 4);
    let states = rig.upstream.report().states;
    assert!(states.iter().all(|(_, count)| *count == 0), "{states:?}");
}

#[tokio::test]
async fn what_waits_counts_and_keeps_nobody_out() {
    let rig = Rig::new("", |s| {
        s.warm = 3;
        s.starting = many(3);
        s.max_children = many(3);
    });
    rig.upstream.warm_up();
    rig.until("three wait", |rig| rig.at("warm") == 3).await;
    let first = rig.open().await;
    rig.open().await;
    rig.open().await;
    assert_eq!((rig.at("warm"), rig.at("leased")), (0, 3));
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Full { limit: 3, .. }
    ));
    assert_eq!(rig.noted("starts").len(), 3);
    rig.reply(delete(&first)).await;
    rig.until("one waits", |rig| rig.at("warm") == 1).await;
    rig.until("the fourth", |rig| rig.noted("starts").len() == 4)
        .await;
}

#[tokio::test]
async fn one_that_dies_while_it_waits_is_replaced_after_a_pause_that_concerns_nobody_else() {
    let broken = begins_with(r#"[ -e "$DIR/broken" ] && exit 1"#, "");
    let rig = Rig::script(&broken, |s| s.warm = 1);
    rig.gate("broken");
    rig.upstream.warm_up();
    rig.until("it is tried again", |rig| rig.noted("starts").len() >= 2)
        .await;
    assert!(rig.upstream.is_usable());
    std::fs::remove_file(rig.path("broken")).expect("removed");
    rig.open().await;
    rig.until("one waits", |rig| rig.at("warm") == 1).await;
    let pid = rig.upstream.report().pids();
    let pids = pid
        .iter()
        .filter_map(|pid| rustix::process::Pid::from_raw(*pid));
    let starts = rig.noted("starts").len();
    for pid in pids {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    }
    rig.until("another waits", |rig| {
        rig.noted("starts").len() > starts && rig.at("warm") == 1
    })
    .await;
}

#[tokio::test]
async fn one_that_dies_of_being_greeted_costs_its_client_nothing() {
    // Those that were there before the gate opened do not bear a request.
    let first = r#"old=yes; [ -e "$DIR/later" ] && old=no"#;
    let arms = "*) [ $old = yes ] && exit 1; case $line in *server/discover*) answer '{\"supportedVersions\":[\"2026-07-28\"]}' ;; *) answer '{\"protocolVersion\":\"2025-11-25\"}' ;; esac ;;";
    for newer in [false, true] {
        let rig = Rig::script(&begins_with(first, arms), |s| s.warm = 1);
        rig.upstream.warm_up();
        rig.until("one waits", |rig| rig.noted("starts").len() == 1)
            .await;
        rig.gate("later");
        if newer {
            let call = modern(1, "ping", json!({}));
            assert!(rig.reply(call).await.error.is_none());
        } else {
            rig.open().await;
        }
        assert!(rig.noted("starts").len() >= 2);
        assert!(rig.upstream.is_usable());
    }
}

#[tokio::test]
async fn a_shared_child_is_greeted_ahead_and_stays_although_nobody_is_there() {
    let rig = Rig::new("", |s| {
        s.isolation = Isolation::Shared;
        s.warm = 1;
        s.idle = Duration::from_millis(100);
    });
    rig.upstream.warm_up();
    rig.until("it is greeted", |rig| {
        rig.at("warm") == 1 && rig.noted("heard").len() == 1
    })
    .await;
    assert_eq!(rig.spawned("shared"), 1);
    rig.open().await;
    rig.until("the session is over", |rig| {
        rig.upstream.report().sessions == 0
    })
    .await;
    rig.until("it is idle", |rig| rig.at("idle") == 1).await;
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "bye", 0))).await;
    // One that went away is replaced before anybody asks.
    rig.until("another is greeted", |rig| {
        rig.at("warm") == 1 && rig.noted("heard").len() == 2
    })
    .await;
    assert_eq!(rig.noted("starts").len(), 2);
}

#[tokio::test]
async fn a_server_that_does_not_take_a_handshake_is_not_greeted_ahead_again() {
    let rig = Rig::new(
        r#"*'"method":"initialize"'*) note x asked; fail -32601 ;;"#,
        |s| {
            s.isolation = Isolation::Shared;
            s.warm = 2;
        },
    );
    rig.upstream.warm_up();
    rig.until("it is asked", |rig| rig.noted("asked").len() == 1)
        .await;
    assert!(rig.upstream.is_usable());
    rig.reply(modern_tool(1, "bye", 0)).await;
    // Now that it is known to be modern, that child is there ahead.
    rig.until("one is there", |rig| rig.noted("starts").len() >= 3)
        .await;
    rig.until("and waits", |rig| rig.at("warm") >= 2).await;
    let starts = rig.noted("starts").len();
    rig.reply(modern_tool(1, "echo", 0)).await;
    assert_eq!(rig.noted("starts").len(), starts);
    assert_eq!(rig.noted("asked").len(), 1);
}

#[tokio::test]
async fn settings_change_beneath_children_and_sessions_that_live() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let child = rig.upstream.report().pids();
    let command = || StdioSettings::new("other", ["false"]);
    let mut settings = command();
    settings.warm = 2;
    settings.max_sessions = std::num::NonZeroUsize::MIN;
    rig.upstream.set(settings);
    rig.until("two wait", |rig| rig.at("warm") == 2).await;
    rig.reply(post(&session, tool(1, "echo", 0))).await;
    assert!(rig.upstream.report().pids().contains(&child[0]));
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Full {
            limit: 1,
            what: "sessions"
        }
    ));
    rig.upstream.set(command());
    rig.until("none waits", |rig| rig.at("warm") == 0).await;
    rig.reply(post(&session, tool(1, "echo", 0))).await;
    let mut few = command();
    few.max_children = std::num::NonZeroUsize::MIN;
    rig.upstream.set(few);
    assert!(matches!(
        rig.error(modern_tool(1, "echo", 0)).await,
        StdioError::Full { limit: 1, .. }
    ));
}

#[tokio::test]
async fn one_that_waits_ends_with_its_lifetime_and_another_comes() {
    let rig = Rig::new("", |s| {
        s.warm = 1;
        s.lifetime = Some(Duration::from_millis(200));
        s.idle = Duration::from_millis(400);
    });
    rig.upstream.warm_up();
    rig.until("the third waits", |rig| rig.noted("starts").len() == 3)
        .await;
    assert!(rig.exited("lifetime") >= 1);
    assert!(rig.upstream.is_usable());
}

#[tokio::test]
async fn one_that_is_kept_and_dies_of_its_greeting_comes_again_after_pauses() {
    let dies = r#"*notifications/initialized*) exit 1 ;;"#;
    let rig = Rig::new(dies, |s| {
        s.isolation = Isolation::Shared;
        s.warm = 1;
    });
    let began = tokio::time::Instant::now();
    rig.upstream.warm_up();
    rig.until("the fourth", |rig| rig.noted("starts").len() >= 4)
        .await;
    // After 100, 200 and 400 ms, if the dice fall low.
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(rig.upstream.is_usable());
}
