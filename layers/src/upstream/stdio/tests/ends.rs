//! How children end: of themselves, because they do not play, or because they are asked to; and that nothing is left of them.

use super::*;

fn pid(text: &str) -> i32 {
    text.trim().parse().expect("a process id")
}

#[tokio::test]
async fn the_last_answer_of_a_child_that_exits_is_not_lost() {
    let rig = Rig::plain();
    for _ in 0..5 {
        let session = rig.open().await;
        let reply = rig.reply(post(&session, tool(1, "bye", 0))).await;
        assert_eq!(reply.json()["result"]["bye"], true);
        rig.until("gone", |rig| rig.upstream.report().pids().is_empty())
            .await;
        assert!(matches!(
            rig.error(post(&session, tool(1, "echo", 0))).await,
            StdioError::SessionGone
        ));
    }
    for _ in 0..3 {
        assert_eq!(
            rig.reply(modern_tool(1, "bye", 0)).await.json()["result"]["bye"],
            true
        );
        rig.until("gone", |rig| rig.upstream.report().pids().is_empty())
            .await;
    }
}

#[tokio::test]
async fn a_child_that_closes_stdout_fails_its_calls() {
    let rig = Rig::new(r#"*'"name":"mute"'*) exec >&-; await never ;;"#, |_| {});
    let session = rig.open().await;
    let error = rig.error(post(&session, tool(1, "mute", 0))).await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Closed,
                sent: true
            }
        ),
        "{error}"
    );
    rig.upstream.close().await;
}

#[tokio::test]
async fn a_child_that_closes_stdin_may_finish_what_it_has_read() {
    let arms = r#"*'"name":"deaf"'*) exec <&-; note x deaf; await gate; answer '{"heard":true}'; exit 3 ;;"#;
    let rig = Rig::new(arms, |_| {});
    let session = rig.open().await;
    let first = rig.start(post(&session, tool(1, "deaf", 0)));
    rig.until("deaf", |rig| rig.noted("deaf").len() == 1).await;
    let second = rig.start(post(&session, tool(2, "echo", 0)));
    rig.pending(2).await;
    rig.gate("gate");
    let reply = first.await.expect("no panic").expect("a reply");
    assert_eq!(reply.json()["result"]["heard"], true);
    let error = second.await.expect("no panic").expect_err("nobody read it");
    assert!(
        matches!(
            stdio(&*error),
            StdioError::Gone {
                how: Gone::Exited(3),
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_child_that_closes_stdin_and_stays_is_ended() {
    let rig = Rig::new(
        r#"*'"name":"deaf"'*) exec <&-; note x deaf; exec sleep 1000 ;;"#,
        |_| {},
    );
    let session = rig.open().await;
    let first = rig.start(post(&session, tool(1, "deaf", 0)));
    rig.until("deaf", |rig| rig.noted("deaf").len() == 1).await;
    let error = rig.error(post(&session, tool(2, "echo", 0))).await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Stuck,
                ..
            }
        ),
        "{error}"
    );
    assert!(first.await.expect("no panic").is_err());
}

#[tokio::test]
async fn a_child_that_does_not_read_fails_its_calls_after_a_while() {
    let arms = r#"*'"name":"sleepy"'*) exec sleep 1000 ;;"#;
    let rig = Rig::new(arms, |s| s.stuck = Duration::from_millis(100));
    let session = rig.open().await;
    let sleepy = rig.start(post(&session, tool(1, "sleepy", 0)));
    rig.pending(1).await;
    let error = rig
        .error(post(&session, tool(2, "echo", "x".repeat(1_000_000))))
        .await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Stuck,
                ..
            }
        ),
        "{error}"
    );
    assert!(sleepy.await.expect("no panic").is_err());
    rig.upstream.close().await;
    assert_eq!(
        rig.metric("ziggurat_stdio_write_queue_bytes", ""),
        Some(0.0)
    );
}

#[tokio::test]
async fn requests_that_nobody_reads_are_bounded() {
    let arms = r#"*'"name":"sleepy"'*) exec sleep 1000 ;;"#;
    let rig = Rig::new(arms, |s| s.buffer = 300_000);
    let session = rig.open().await;
    let mut calls = vec![rig.start(post(&session, tool(1, "sleepy", 0)))];
    rig.pending(1).await;
    for _ in 0..6 {
        calls.push(rig.start(post(&session, tool(1, "echo", "x".repeat(100_000)))));
        tokio::task::yield_now().await;
    }
    let refused = rig
        .error(post(&session, tool(1, "echo", "x".repeat(300_000))))
        .await;
    assert!(matches!(refused, StdioError::Busy { .. }), "{refused}");
    rig.upstream.close().await;
    for call in calls {
        assert!(call.await.expect("no panic").is_err());
    }
    assert_eq!(
        rig.metric("ziggurat_stdio_write_queue_bytes", ""),
        Some(0.0)
    );
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed_with_its_children() {
    let arms = r#"*'"name":"stubborn"'*) trap '' TERM; (trap '' TERM; while :; do sleep 1000; done) & note $! grandchild; answer '{}'; while :; do sleep 1000; done ;;"#;
    let rig = Rig::new(arms, |s| {
        s.stop = Stop {
            stdin: Duration::from_millis(50),
            term: Duration::from_millis(50),
        };
    });
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "stubborn", 0))).await;
    let child = rig.upstream.report().pids()[0];
    let grandchild = pid(&rig.noted("grandchild")[0]);
    assert!(lives(child) && lives(grandchild));
    let began = std::time::Instant::now();
    rig.upstream.close().await;
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert!(!lives(child));
    rig.until("the grandchild is gone", |_| !lives(grandchild))
        .await;
}

#[tokio::test]
async fn a_child_is_asked_before_it_is_killed() {
    let arms = r#"*'"name":"trap"'*) trap 'note x term; exit 0' TERM; answer '{}'; while :; do sleep 0.01; done ;;"#;
    let rig = Rig::new(arms, |s| s.stop.stdin = Duration::from_millis(20));
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "trap", 0))).await;
    rig.upstream.close().await;
    assert_eq!(rig.noted("term"), ["x"]);
}

#[tokio::test]
async fn stderr_is_read_until_the_end() {
    // More than a pipe holds, before and while it is stopped.
    let arms = r#"*'"name":"noisy"'*) head -c 300000 /dev/zero >&2; answer '{}'; cat >/dev/null; head -c 300000 /dev/zero >&2; note x clean; exit 0 ;;"#;
    let rig = Rig::new(arms, |s| s.stop.stdin = Duration::from_secs(10));
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "noisy", 0))).await;
    rig.upstream.close().await;
    assert_eq!(rig.noted("clean"), ["x"]);
}

#[tokio::test]
async fn grandchildren_of_a_child_that_exits_are_killed() {
    // It keeps stdout open, so the end of the child is not the end of its output.
    let arms = r#"*'"name":"leave"'*) sleep 1000 & note $! grandchild; answer '{}'; exit 0 ;;"#;
    let rig = Rig::new(arms, |_| {});
    let session = rig.open().await;
    rig.reply(post(&session, tool(1, "leave", 0))).await;
    let grandchild = pid(&rig.noted("grandchild")[0]);
    rig.until("the grandchild is gone", |_| !lives(grandchild))
        .await;
}

#[tokio::test]
async fn the_last_clone_ends_the_children() {
    let mut rig = Rig::plain();
    let session = rig.open().await;
    let call = rig.send(post(&session, with_token(tool(1, "hold", 0), 1)));
    let call = tokio::time::timeout(Duration::from_millis(50), call).await;
    assert!(call.is_err());
    let child = rig.upstream.report().pids()[0];
    rig.upstream = StdioUpstream::new(StdioSettings::new("none", ["true"]));
    rig.until("ended", |_| !lives(child)).await;
}

#[tokio::test]
async fn a_closed_upstream_refuses_and_close_may_come_at_any_time() {
    let rig = Rig::plain();
    rig.open().await;
    rig.upstream.close().await;
    assert!(matches!(rig.error(initialize()).await, StdioError::Closing));
    let states = rig.upstream.report().states;
    assert!(states.iter().all(|(_, count)| *count == 0), "{states:?}");
    assert_eq!(
        rig.upstream.report(),
        Report {
            children: vec![],
            states,
            sessions: 0,
            streams: 0,
            pending: 0,
            backoff: None,
            started: 1,
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_a_child_starts_leaves_none() {
    for round in 0..20 {
        let upstream = StdioUpstream::new(StdioSettings::new("cat", ["/bin/cat"]));
        let start = {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.oneshot(initialize()).await })
        };
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(PATIENCE, upstream.close())
            .await
            .expect("closed");
        assert!(start.await.expect("no panic").is_err());
    }
}
