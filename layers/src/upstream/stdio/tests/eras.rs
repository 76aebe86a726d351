//! What is known of the eras that a command speaks, and how that may change.

use super::*;

/// A modern server that answers the first request otherwise where there is a file `odd` with a code, and not at all where that is `mute`.
fn rig(change: impl FnOnce(&mut StdioSettings)) -> Rig {
    let odd = r#"*'"method":"server/discover"'*) if [ -e "$DIR/odd" ]; then code=$(cat "$DIR/odd"); [ "$code" = mute ] || fail "$code"; else answer '{"supportedVersions":["2026-07-28"]}'; fi ;;"#;
    Rig::new(odd, change)
}

/// A modern client finds the server so from now on.
async fn becomes(rig: &Rig, code: &str) -> StdioError {
    rig.modern_is_up().await;
    std::fs::write(rig.path("odd"), code).expect("written");
    rig.reply(modern_tool(1, "bye", 0)).await;
    rig.until("it has ended", |rig| {
        rig.upstream.report().pids().is_empty()
    })
    .await;
    rig.error(modern_tool(2, "echo", 0)).await
}

#[tokio::test]
async fn a_modern_server_that_is_unwell_for_once_is_modern_after_that() {
    let rig = rig(|_| {});
    let error = becomes(&rig, "-32603").await;
    assert!(!matches!(error, StdioError::LegacyServer), "{error}");
    std::fs::remove_file(rig.path("odd")).expect("removed");
    rig.until("it may start", |rig| rig.upstream.is_usable())
        .await;
    rig.reply(modern_tool(3, "echo", 0)).await.json();
}

#[tokio::test]
async fn a_server_that_does_not_know_the_modern_era_any_more_is_believed() {
    let rig = rig(|s| {
        s.isolation = Isolation::Shared;
        s.warm = 2;
    });
    rig.upstream.warm_up();
    rig.modern_is_up().await;
    rig.until("the legacy one is kept, and a spare", |rig| {
        rig.at("warm") == 2 && rig.noted("heard").len() == 1
    })
    .await;
    std::fs::write(rig.path("odd"), "-32601").expect("written");
    rig.reply(modern_tool(1, "bye", 0)).await;
    rig.until("that is known", |rig| rig.exited("refused") == 1)
        .await;
    let error = rig.error(modern_tool(2, "echo", 0)).await;
    assert!(matches!(error, StdioError::LegacyServer), "{error}");
    // Legacy clients, and what is ready for them, are as they were.
    rig.until("both wait", |rig| rig.at("warm") == 2).await;
    rig.open().await;
    assert_eq!(rig.exited("refused"), 1);
}

#[tokio::test]
async fn a_modern_server_that_does_not_answer_for_once_was_not_sent_the_call() {
    // It says nothing, an error, or what is no JSON.
    for odd in ["mute", "-32603", ""] {
        let rig = rig(|_| {});
        rig.modern_is_up().await;
        let mut settings = StdioSettings::clone(&rig.upstream.pool.settings());
        settings.handshake = Duration::from_millis(200);
        rig.upstream.set(settings);
        let error = becomes(&rig, odd).await;
        assert_eq!(error.outcome(), Outcome::NotSent, "{odd}: {error}");
    }
}

#[tokio::test]
async fn that_an_operator_stops_a_server_says_nothing_of_it() {
    let slow = r#"*server/discover*) [ -e "$DIR/slow" ] && await gate; answer '{"supportedVersions":["2026-07-28"]}' ;;"#;
    for modern_before in [false, true] {
        let rig = Rig::new(slow, |_| {});
        if modern_before {
            rig.reply(modern_tool(1, "bye", 0)).await;
            rig.until("it has ended", |rig| {
                rig.upstream.report().pids().is_empty()
            })
            .await;
        }
        rig.gate("slow");
        let asked = rig.start(modern_tool(2, "echo", 0));
        rig.until("it is asked", |rig| rig.upstream.report().pending == 1)
            .await;
        let pid = rig.upstream.report().pids()[0];
        assert!(rig.upstream.stop_child(pid));
        let error = asked.await.expect("no panic").expect_err("it was stopped");
        let error = stdio(&*error);
        let stopped = matches!(
            error,
            StdioError::Gone {
                how: Gone::Stopped,
                sent: false
            }
        );
        assert!(stopped, "{error}");
        assert!(rig.upstream.is_usable());
        rig.gate("gate");
        rig.modern_is_up().await;
    }
}
