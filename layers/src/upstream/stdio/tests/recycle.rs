//! Children that have served their time.

use super::*;

fn rig(calls: u64, change: impl FnOnce(&mut StdioSettings)) -> Rig {
    Rig::new("", |s| {
        s.isolation = Isolation::Shared;
        s.recycle = std::num::NonZeroU64::new(calls);
        change(s);
    })
}

#[tokio::test]
async fn another_takes_the_place_of_a_shared_child_and_the_old_one_ends_with_its_sessions() {
    let rig = rig(2, |_| {});
    let old = rig.open().await;
    let stream = rig.send(get(&old)).await.expect("a stream");
    rig.reply(post(&old, tool(1, "echo", 0))).await;
    assert_eq!(rig.noted("starts").len(), 1);
    rig.reply(post(&old, tool(2, "echo", 0))).await;
    rig.until("another is greeted", |rig| rig.noted("heard").len() == 2)
        .await;
    rig.until("it is there", |rig| rig.at("idle") == 1).await;
    // The old session stays with its child; a new one begins with the new one.
    rig.reply(post(&old, tool(3, "echo", 0))).await;
    let new = rig.open().await;
    assert_eq!((rig.at("leased"), rig.noted("starts").len()), (2, 2));
    rig.reply(delete(&old)).await;
    rig.until("the old one has ended", |rig| rig.exited("recycled") == 1)
        .await;
    assert!(read(stream).await.error.is_none());
    rig.reply(post(&new, tool(1, "echo", 0))).await;
}

#[tokio::test]
async fn modern_calls_move_on_and_none_fails() {
    let rig = rig(3, |_| {});
    let held = rig.start(modern_tool("held", "hold", 0));
    rig.pending(1).await;
    let mut calls = 0;
    while rig.noted("starts").len() < 4 {
        calls += 1;
        rig.reply(modern_tool(calls, "echo", 0)).await.json();
    }
    // The first child has one call that it still holds; nobody else can release it.
    rig.pending(1).await;
    rig.until("the second has ended", |rig| rig.exited("recycled") >= 1)
        .await;
    held.abort();
    rig.until("the first has ended", |rig| rig.exited("recycled") >= 2)
        .await;
}

#[tokio::test]
async fn with_no_room_for_another_it_ends_when_it_has_nothing_to_do() {
    let rig = rig(1, |s| s.max_children = std::num::NonZeroUsize::MIN);
    for _ in 0..3 {
        rig.reply(modern_tool(1, "echo", 0)).await.json();
    }
    rig.until("it has ended", |rig| rig.exited("recycled") >= 1)
        .await;
    rig.reply(modern_tool(1, "echo", 0)).await.json();
    assert!(rig.noted("starts").len() >= 2);
}

#[tokio::test]
async fn a_shared_child_that_is_too_old_is_followed_by_another() {
    let rig = rig(1000, |s| s.lifetime = Some(Duration::from_millis(200)));
    let old = rig.open().await;
    let stream = rig.send(get(&old)).await.expect("a stream");
    rig.reply(post(&old, tool(1, "echo", 0))).await;
    rig.upstream.set({
        let mut settings = (*rig.upstream.pool.settings()).clone();
        settings.idle = Duration::from_millis(160);
        settings
    });
    rig.until("another is greeted", |rig| rig.noted("heard").len() >= 2)
        .await;
    rig.reply(post(&old, tool(2, "echo", 0))).await;
    rig.reply(delete(&old)).await;
    drop(stream);
    rig.until("the old one has ended", |rig| rig.exited("lifetime") >= 1)
        .await;
}

#[tokio::test]
async fn one_that_is_to_end_for_want_of_room_is_followed_once_there_is_some() {
    let rig = rig(2, |s| s.max_children = 2.try_into().expect("not zero"));
    let held = rig.start(modern_tool(1, "hold", 0));
    rig.pending(1).await;
    let other = rig.upstream.report().pids()[0];
    let old = rig.open().await;
    for call in 0..3 {
        rig.reply(post(&old, tool(call, "echo", 0))).await;
    }
    assert_eq!((rig.at("leased"), rig.noted("heard").len()), (2, 1));
    assert!(rig.upstream.stop_child(other));
    rig.until("another is greeted", |rig| rig.noted("heard").len() == 2)
        .await;
    rig.reply(post(&old, tool(4, "echo", 0))).await;
    held.await.expect("no panic").expect_err("it was stopped");
    let new = rig.open().await;
    rig.reply(delete(&old)).await;
    rig.until("the old one has ended", |rig| rig.exited("recycled") == 1)
        .await;
    rig.reply(post(&new, tool(1, "echo", 0))).await;
}
