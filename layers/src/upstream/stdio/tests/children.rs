//! The lives of children: what starts them, how many there may be, and what ends those that nobody needs.

use super::*;

#[tokio::test]
async fn a_session_has_a_child_of_its_own_and_delete_ends_it() {
    let rig = Rig::plain();
    let (one, other) = (rig.open().await, rig.open().await);
    assert_eq!(rig.upstream.report().pids().len(), 2);
    rig.reply(delete(&one)).await;
    rig.until("ended", |rig| rig.noted("ends").len() == 1).await;
    rig.reply(post(&other, tool(1, "echo", 0))).await;
    assert_eq!(rig.upstream.report().sessions, 1);
}

#[tokio::test]
async fn a_crash_fails_the_calls_at_once_and_ends_the_session() {
    let rig = Rig::plain();
    let session = rig.open().await;
    let stream = rig.send(get(&session)).await.expect("a stream");
    let held = rig.start(post(&session, tool(1, "hold", 0)));
    rig.pending(1).await;
    let error = rig.error(post(&session, tool(2, "crash", 0))).await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Exited(7),
                sent: true
            }
        ),
        "{error}"
    );
    let error = held.await.expect("no panic").expect_err("it has failed");
    assert!(matches!(
        stdio(&*error),
        StdioError::Gone {
            how: Gone::Exited(7),
            ..
        }
    ));
    assert!(read(stream).await.messages.is_empty());
    assert!(matches!(
        rig.error(post(&session, tool(1, "echo", 0))).await,
        StdioError::SessionGone
    ));
    let new = rig.open().await;
    rig.reply(post(&new, tool(1, "echo", 0))).await;
}

#[tokio::test]
async fn a_shared_start_goes_on_when_the_one_who_began_it_leaves() {
    for isolation in [Isolation::Shared, Isolation::PerSession] {
        let arms = r#"*'"method":"initialize"'*|*server/discover*) note x asked; await gate
            answer '{"protocolVersion":"2025-11-25","supportedVersions":["2026-07-28"],"capabilities":{},"serverInfo":{"name":"sh","version":"1"}}' ;;"#;
        let rig = Rig::new(arms, |s| s.isolation = isolation);
        let ask = || {
            if isolation == Isolation::Shared {
                initialize()
            } else {
                modern_tool(1, "echo", 0)
            }
        };
        let first = rig.start(ask());
        rig.until("asked", |rig| rig.noted("asked").len() == 1)
            .await;
        let second = rig.start(ask());
        tokio::task::yield_now().await;
        first.abort();
        let _gone = first.await;
        rig.gate("gate");
        second.await.expect("no panic").expect("a reply");
        assert_eq!(rig.noted("starts").len(), 1);
        // Even with nobody left who waits.
        let rig = Rig::new(arms, |s| s.isolation = isolation);
        let only = rig.start(ask());
        rig.until("asked", |rig| rig.noted("asked").len() == 1)
            .await;
        only.abort();
        let _gone = only.await;
        rig.gate("gate");
        rig.reply(ask()).await;
        assert_eq!(rig.noted("starts").len(), 1);
    }
}

#[tokio::test]
async fn many_who_come_at_once_start_one_child() {
    let rig = Rig::new("", |s| s.isolation = Isolation::Shared);
    let calls: Vec<_> = (0..10)
        .flat_map(|_| {
            [
                rig.start(initialize()),
                rig.start(modern_tool(1, "echo", 0)),
            ]
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("a reply");
    }
    assert_eq!(rig.noted("starts").len(), 2, "one of each era");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_and_left_alone_for_a_while() {
    let mut rig = Rig::plain();
    rig.upstream = StdioUpstream::new(StdioSettings::new("none", ["/no/such/program"]));
    let error = rig.error(initialize()).await;
    assert!(
        matches!(error, StdioError::Spawn { ref program, .. } if program == "program"),
        "{error}"
    );
    assert!(!error.to_string().contains("/no"));
    assert_eq!(rig.spawned("session"), 0, "none was started");
    assert!(!rig.upstream.is_usable());
    assert!(
        matches!(rig.error(initialize()).await, StdioError::Backoff { again } if again <= Duration::from_millis(200))
    );
    rig.until("usable", |rig| rig.upstream.is_usable()).await;
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Spawn { .. }
    ));
}

#[tokio::test]
async fn a_handshake_has_a_clock_and_a_child_that_misses_it_is_ended() {
    let rig = Rig::new(r#"*'"method":"initialize"'*) ;;"#, |s| {
        s.handshake = Duration::from_millis(100)
    });
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Handshake { .. }
    ));
    rig.until("ended", |rig| rig.noted("ends").len() == 1).await;
    assert!(!rig.upstream.is_usable());
}

#[tokio::test]
async fn a_child_that_refuses_initialize_is_ended_and_its_error_passes() {
    let rig = Rig::new(r#"*'"method":"initialize"'*) fail -32602 ;;"#, |_| {});
    let reply = rig.reply(initialize()).await;
    assert_eq!(reply.json()["error"]["code"], -32602);
    assert!(reply.headers.get("mcp-session-id").is_none());
    rig.until("ended", |rig| rig.noted("ends").len() == 1).await;
    assert!(rig.upstream.is_usable());
}

#[tokio::test]
async fn children_and_sessions_are_bounded_and_their_places_given_back() {
    let rig = Rig::new("", |s| s.max_children = many(1));
    let session = rig.open().await;
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Full {
            limit: 1,
            what: "server processes"
        }
    ));
    rig.reply(delete(&session)).await;
    // A child that is on its way out is waited for.
    rig.open().await;

    let rig = Rig::new("", |s| {
        s.max_sessions = many(1);
        s.isolation = Isolation::Shared;
    });
    let session = rig.open().await;
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Full {
            limit: 1,
            what: "sessions"
        }
    ));
    rig.reply(delete(&session)).await;
    rig.open().await;
}

#[tokio::test]
async fn a_legacy_server_is_found_out_with_a_child_that_is_thrown_away() {
    for arm in ["fail -32601", "exit 1", "fail -32602"] {
        let arms = format!("*server/discover*) {arm} ;;");
        let rig = Rig::new(&arms, |s| s.max_children = many(1));
        assert!(matches!(
            rig.error(modern_tool(1, "echo", 0)).await,
            StdioError::LegacyServer
        ));
        assert!(matches!(
            rig.error(modern_tool(1, "echo", 0)).await,
            StdioError::LegacyServer
        ));
        assert_eq!(rig.noted("starts").len(), 1, "the verdict is kept");
        let session = rig.open().await;
        rig.reply(post(&session, tool(1, "echo", 0))).await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_come_up_is_not_taken_for_a_legacy_one() {
    // Known to be modern, then broken.
    let arms = r#"*server/discover*) [ -e "$DIR/broken" ] && exit 1; answer '{"supportedVersions":["2026-07-28"]}' ;;"#;
    let rig = Rig::new(arms, |_| {});
    rig.reply(modern_tool(1, "bye", 0)).await;
    rig.until("gone", |rig| rig.upstream.report().pids().is_empty())
        .await;
    rig.gate("broken");
    let error = rig.error(modern_tool(1, "echo", 0)).await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Exited(1),
                sent: false
            }
        ),
        "{error:?}"
    );
    assert!(matches!(
        rig.error(modern_tool(1, "echo", 0)).await,
        StdioError::Backoff { .. }
    ));

    // Never seen to work: `initialize` fails as well, so there is no verdict.
    let arms = r#"*) [ -e "$DIR/broken" ] && exit 1; case $line in *server/discover*) answer '{"supportedVersions":["2026-07-28"]}' ;; *) answer '{}' ;; esac ;;"#;
    let rig = Rig::new(arms, |_| {});
    rig.gate("broken");
    assert!(matches!(
        rig.error(modern_tool(1, "echo", 0)).await,
        StdioError::LegacyServer
    ));
    assert!(matches!(
        rig.error(initialize()).await,
        StdioError::Gone { .. }
    ));
    std::fs::remove_file(rig.path("broken")).expect("removed");
    rig.until("usable", |rig| rig.upstream.is_usable()).await;
    rig.reply(modern(1, "tools/list", json!({}))).await;
}

#[tokio::test]
async fn idle_children_and_sessions_end_and_busy_ones_do_not() {
    let rig = Rig::new("", |s| s.idle = Duration::from_millis(300));
    let (idle, streaming, calling) = (rig.open().await, rig.open().await, rig.open().await);
    let stream = rig.send(get(&streaming)).await.expect("a stream");
    let call = rig.start(post(&calling, tool(1, "hold", 0)));
    rig.reply(modern_tool(1, "echo", 0)).await;
    rig.until("two end", |rig| rig.noted("ends").len() == 2)
        .await;
    assert!(matches!(
        rig.error(post(&idle, tool(1, "echo", 0))).await,
        StdioError::SessionGone
    ));
    tokio::time::sleep(Duration::from_millis(350)).await;
    // From the end of use they have the whole time again.
    drop(stream);
    call.abort();
    tokio::time::sleep(Duration::from_millis(120)).await;
    rig.reply(post(&streaming, tool(1, "echo", 0))).await;
    rig.reply(post(&calling, tool(1, "release", 0))).await;
    rig.until("all end", |rig| rig.noted("ends").len() == 4)
        .await;
    assert_eq!(rig.upstream.report().sessions, 0);
    assert_eq!(
        rig.metric("ziggurat_stdio_session_evictions_total", "reason=\"idle\""),
        Some(3.0)
    );
}

#[tokio::test]
async fn an_old_child_ends_when_it_has_nothing_to_do() {
    let rig = Rig::new("", |s| {
        s.idle = Duration::from_secs(1);
        s.lifetime = Some(Duration::from_millis(200));
    });
    let session = rig.open().await;
    let call = rig.start(post(&session, tool(1, "hold", 0)));
    rig.reply(modern_tool(1, "echo", 0)).await;
    rig.until("the modern child ends", |rig| rig.noted("ends").len() == 1)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.reply(post(&session, tool(2, "release", 0))).await;
    call.await.expect("no panic").expect("a reply");
    rig.until("the session ends", |rig| {
        rig.upstream.report().sessions == 0
    })
    .await;
    rig.reply(modern_tool(1, "echo", 0)).await;
}

#[tokio::test]
async fn the_environment_is_the_allow_list_and_what_is_set() {
    let arms = r#"*'"name":"env"'*) answer "{\"home\":\"${HOME:+yes}\",\"cargo\":\"${CARGO_MANIFEST_DIR:+yes}\",\"own\":\"$OWN\",\"cwd\":\"$(pwd)\"}" ;;"#;
    let rig = Rig::new(arms, |s| {
        s.env.push(("OWN".into(), "é 1".into()));
        s.cwd = Some("/".into());
    });
    let session = rig.open().await;
    let reply = rig.reply(post(&session, tool(1, "env", 0))).await;
    let home = if std::env::var_os("HOME").is_some() {
        "yes"
    } else {
        ""
    };
    assert_eq!(
        reply.json()["result"],
        json!({"home": home, "cargo": "", "own": "é 1", "cwd": "/"})
    );
}

#[tokio::test]
async fn a_client_whose_call_waited_for_a_greeting_that_failed_is_told_that_it_was_not_sent() {
    let long = format!("say {}", "x".repeat(3000));
    for arm in ["", "exit 3", "fail -32602", &long] {
        let arms = format!("*'\"method\":\"initialize\"'*) {arm} ;;");
        let rig = Rig::new(&arms, |s| {
            s.isolation = Isolation::Shared;
            s.handshake = Duration::from_millis(300);
            s.line_limit = 2000;
        });
        let error = rig.error(initialize()).await;
        assert_eq!(error.outcome(), Outcome::NotSent, "{arm}: {error}");
        assert_eq!(Row::of(&Fault::of(&error)).outcome, Outcome::NotSent);
        assert!(!rig.upstream.is_usable());
    }
}

#[tokio::test]
async fn a_session_that_has_ended_takes_no_room_from_a_new_one() {
    let rig = Rig::new("", |s| s.max_sessions = many(1));
    let session = rig.open().await;
    let crashed = rig.send(post(&session, tool(1, "crash", 0))).await;
    crashed.expect_err("it is gone");
    rig.open().await;
    assert_eq!(rig.upstream.report().sessions, 1);
}
