//! A child for each principal, and nothing between them.

use super::*;

fn rig(change: impl FnOnce(&mut StdioSettings)) -> Rig {
    Rig::new("", |s| {
        s.isolation = Isolation::PerPrincipal;
        change(s);
    })
}

async fn open(rig: &Rig, principal: &str) -> String {
    let reply = rig.reply(by(principal, initialize())).await;
    let id = reply.headers.get("mcp-session-id").expect("a session");
    id.to_str().expect("text").to_owned()
}

#[tokio::test]
async fn the_sessions_of_a_principal_share_a_child_that_nobody_else_has() {
    let rig = rig(|_| {});
    let (one, two) = (open(&rig, "ann").await, open(&rig, "ann").await);
    assert_eq!(rig.noted("starts").len(), 1);
    let other = open(&rig, "bob").await;
    assert_eq!(rig.noted("starts").len(), 2);
    let theirs = rig.send(by("bob", get(&other))).await.expect("a stream");
    let hers = rig.send(by("ann", get(&two))).await.expect("a stream");
    rig.reply(by("ann", post(&one, tool(1, "change", 0)))).await;
    rig.reply(by("ann", delete(&two))).await;
    rig.reply(by("bob", delete(&other))).await;
    assert_eq!(
        read(hers).await.methods(),
        ["notifications/tools/list_changed"]
    );
    assert_eq!(read(theirs).await.messages.len(), 0);
    assert_eq!(rig.spawned("principal"), 2);
}

#[tokio::test]
async fn a_session_is_its_principals_alone() {
    for isolation in [
        Isolation::PerPrincipal,
        Isolation::PerSession,
        Isolation::Shared,
    ] {
        let rig = Rig::new("", |s| s.isolation = isolation);
        let session = open(&rig, "ann").await;
        let echo = || post(&session, tool(1, "echo", 0));
        for request in [echo(), get(&session), delete(&session)] {
            let error = rig.error(by("bob", request)).await;
            assert!(matches!(error, StdioError::SessionGone), "{error}");
        }
        assert!(matches!(rig.error(echo()).await, StdioError::SessionGone));
        rig.reply(by("ann", echo())).await;
    }
}

#[tokio::test]
async fn modern_calls_of_a_principal_have_a_child_that_nobody_else_has() {
    let rig = rig(|_| {});
    rig.reply(by("ann", modern_tool(1, "echo", 0))).await;
    rig.reply(by("ann", modern_tool(2, "echo", 0))).await;
    assert_eq!(rig.noted("starts").len(), 1);
    let held = rig.start(by("ann", modern_tool(3, "hold", 0)));
    rig.pending(1).await;
    // Were it the same child, it would be released.
    rig.reply(by("bob", modern_tool(3, "release", 0))).await;
    assert_eq!(rig.noted("starts").len(), 2);
    rig.reply(modern_tool(3, "release", 0)).await;
    assert_eq!(rig.noted("starts").len(), 3, "those without a principal");
    assert_eq!(rig.upstream.report().pending, 1);
    rig.reply(by("ann", modern_tool(4, "release", 0))).await;
    held.await.expect("no panic").expect("a reply");
}

#[tokio::test]
async fn who_has_no_principal_has_a_child_for_each_session() {
    let rig = rig(|_| {});
    rig.open().await;
    rig.open().await;
    assert_eq!((rig.noted("starts").len(), rig.spawned("session")), (2, 2));
}

#[tokio::test]
async fn a_principals_children_end_when_nobody_uses_them() {
    let rig = rig(|s| s.idle = Duration::from_millis(100));
    open(&rig, "ann").await;
    rig.reply(by("bob", modern_tool(1, "echo", 0))).await;
    rig.until("none is left", |rig| {
        rig.upstream.report().pids().is_empty()
    })
    .await;
    rig.until("for that reason", |rig| rig.exited("idle") == 2)
        .await;
    // And start again.
    open(&rig, "ann").await;
}

#[tokio::test]
async fn an_unused_child_makes_room_for_another_principals() {
    let rig = rig(|s| s.max_children = 2.try_into().expect("not zero"));
    let ann = open(&rig, "ann").await;
    open(&rig, "bob").await;
    let refused = rig.error(by("cat", initialize())).await;
    assert!(
        matches!(refused, StdioError::Full { limit: 2, .. }),
        "{refused}"
    );
    rig.reply(by("ann", delete(&ann))).await;
    open(&rig, "cat").await;
    assert_eq!(rig.exited("room"), 1);
    let refused = rig.error(by("ann", initialize())).await;
    assert!(
        matches!(refused, StdioError::Full { limit: 2, .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_child_that_is_killed_takes_its_principals_sessions_along_and_nobody_elses() {
    let rig = rig(|_| {});
    let (one, two) = (open(&rig, "ann").await, open(&rig, "ann").await);
    let killed = rig.upstream.report().pids();
    let other = open(&rig, "bob").await;
    let held = |who: &str, session: &str| {
        let hold = by(who, post(session, tool(1, "hold", 0)));
        rig.start(hold)
    };
    let (hers, theirs) = (held("ann", &one), held("bob", &other));
    rig.pending(2).await;
    for pid in killed {
        let pid = rustix::process::Pid::from_raw(pid).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is there");
    }
    let error = hers.await.expect("no panic").expect_err("it has failed");
    assert!(
        matches!(
            stdio(&*error),
            StdioError::Gone {
                how: Gone::Killed(9),
                sent: true
            }
        ),
        "{error}"
    );
    for session in [&one, &two] {
        let gone = rig
            .error(by("ann", post(session, tool(2, "echo", 0))))
            .await;
        assert!(matches!(gone, StdioError::SessionGone), "{gone}");
    }
    rig.reply(by("bob", post(&other, tool(2, "release", 0))))
        .await;
    theirs.await.expect("no panic").expect("an answer");
    let next = open(&rig, "ann").await;
    rig.reply(by("ann", post(&next, tool(3, "echo", 0)))).await;
    assert_eq!(rig.spawned("principal"), 3);
}
