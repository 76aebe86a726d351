//! Room for children: who waits for it, who makes it, and who may not take it.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_started_ahead_never_takes_the_room_that_a_client_waits_for() {
    let rig = Rig::new("", |s| {
        s.warm = 1;
        s.max_children = many(1);
    });
    rig.upstream.warm_up();
    let mut session = rig.open().await;
    for _ in 0..30 {
        let (_ended, next) = tokio::join!(rig.reply(delete(&session)), rig.open());
        session = next;
    }
}

#[tokio::test]
async fn for_each_who_waits_one_that_nobody_uses_has_to_go() {
    let rig = Rig::new("", |s| {
        s.isolation = Isolation::PerPrincipal;
        s.max_children = many(6);
    });
    for old in 0..6 {
        rig.reply(by(&format!("old {old}"), modern_tool(1, "echo", 0)))
            .await;
    }
    assert_eq!(rig.at("idle"), 6);
    let new: Vec<_> = (0..5)
        .map(|new| rig.start(by(&format!("new {new}"), initialize())))
        .collect();
    for begun in new {
        begun.await.expect("no panic").expect("a session");
    }
    assert_eq!((rig.exited("room"), rig.at("idle")), (5, 1));
}

/// A server that is slow to end, when asked to.
fn slow_to_end() -> String {
    server("").replace("note $$ ends", "await gate; note $$ ends")
}

#[tokio::test]
async fn whoever_waits_for_room_is_told_that_it_closes_and_nothing_is_started_after() {
    let rig = Rig::script(&slow_to_end(), |s| s.max_children = many(1));
    let session = rig.open().await;
    rig.reply(delete(&session)).await;
    let waiting = rig.start(initialize());
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    rig.upstream.close().await;
    let refused = waiting.await.expect("no panic").expect_err("it is closed");
    assert!(matches!(stdio(&*refused), StdioError::Closing), "{refused}");
    assert_eq!(rig.spawned("session"), 1);
}

#[tokio::test]
async fn what_is_closed_is_not_warmed_up() {
    let rig = Rig::new("", |s| s.warm = 1);
    rig.upstream.close().await;
    rig.upstream.warm_up();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.spawned("warm"), 0);
}

#[tokio::test]
async fn one_that_was_greeted_for_a_client_is_not_unused_before_the_client_has_it() {
    let rig = Rig::plain();
    let body = initialize().into_body().collect().await.expect("a body");
    let body = body.to_bytes();
    let text = std::str::from_utf8(&body).expect("text");
    let facts = crate::mcp::envelope::read_message(text, 0).expect("a message");
    let pool = &rig.upstream.pool;
    let extensions = http::Extensions::new();
    let first = pool.initialize(&body, &facts, &extensions);
    let (child, _answer) = first.await.expect("it comes up");
    assert_eq!((child.unused(), rig.at("starting")), (None, 1));
    let place = pool.begin(&child, None, true).expect("a session");
    assert_eq!((rig.at("starting"), rig.at("leased")), (0, 1));
    pool.end(&place, None);
}

#[tokio::test]
async fn a_start_that_is_under_way_keeps_nothing_that_nobody_has_any_more() {
    let mut rig = Rig::new(r#"*'"method":"initialize"'*) await gate ;;"#, |s| {
        s.isolation = Isolation::Shared;
    });
    let begun = rig.start(initialize());
    rig.until("it is greeted", |rig| rig.at("starting") == 1)
        .await;
    begun.abort();
    assert!(begun.await.is_err_and(|e| e.is_cancelled()));
    rig.upstream = StdioUpstream::new(StdioSettings::new("other", ["false"]));
    rig.until("it has ended", |rig| rig.exited("drain") == 1)
        .await;
}

#[tokio::test]
async fn what_was_greeted_ahead_makes_room_for_whoever_needs_it() {
    let arm =
        r#"*server/discover*) note x asked; answer '{"supportedVersions":["2026-07-28"]}' ;;"#;
    let rig = Rig::new(arm, |s| {
        s.isolation = Isolation::Shared;
        s.warm = 1;
        s.max_children = many(1);
    });
    rig.upstream.warm_up();
    rig.until("it is greeted", |rig| {
        rig.at("warm") == 1 && rig.noted("heard").len() == 1
    })
    .await;
    rig.modern_is_up().await;
    assert_eq!(rig.exited("room"), 1);
    rig.open().await;

    let rig = Rig::new(arm, |s| {
        s.warm = 1;
        s.max_children = many(1);
    });
    rig.modern_is_up().await;
    rig.reply(modern_tool(1, "bye", 0)).await;
    rig.until("another is greeted", |rig| {
        rig.at("warm") == 1 && rig.noted("asked").len() == 2
    })
    .await;
    rig.open().await;
    assert_eq!(rig.exited("room"), 1);
}

#[tokio::test]
async fn one_that_is_being_greeted_ahead_is_waited_for_and_makes_room_then() {
    let rig = Rig::new(
        r#"*'"method":"initialize"'*) await gate; answer '{}' ;;"#,
        |s| {
            s.isolation = Isolation::Shared;
            s.warm = 1;
            s.max_children = many(1);
            s.stop.stdin = PATIENCE;
        },
    );
    rig.upstream.warm_up();
    rig.until("it is greeted", |rig| rig.at("starting") == 1)
        .await;
    let modern = rig.start(modern_tool(1, "echo", 0));
    tokio::task::yield_now().await;
    rig.gate("gate");
    modern.await.expect("no panic").expect("an answer").json();
}

#[tokio::test]
async fn who_waits_for_room_hears_of_other_settings() {
    let rig = Rig::script(&slow_to_end(), |s| {
        s.max_children = many(1);
        s.stop.stdin = PATIENCE;
    });
    let session = rig.open().await;
    rig.reply(delete(&session)).await;
    let waiting = rig.start(initialize());
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let mut settings = StdioSettings::clone(&rig.upstream.pool.settings());
    settings.max_children = many(2);
    rig.upstream.set(settings);
    waiting.await.expect("no panic").expect("a session");
    assert_eq!(rig.at("stopping"), 1, "nothing has gone");
    rig.gate("gate");
}
