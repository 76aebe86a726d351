//! How many sessions there may be.

use super::*;

fn at_most(max: usize, own: usize) -> SessionSettings {
    SessionSettings {
        max: NonZeroUsize::new(max).expect("some"),
        max_per_principal: NonZeroUsize::new(own).expect("some"),
        ..settings()
    }
}

#[tokio::test(start_paused = true)]
async fn one_session_too_many_is_refused_before_anything_is_sent() {
    let rig = Rig::new(at_most(2, 2));
    let (first, second) = (rig.initialize().await, rig.initialize().await);
    rig.server.seen();
    let full = SessionsFull {
        limit: 2,
        own: false,
        retry_after: Duration::from_secs(60),
    };
    assert_eq!(rig.full().await, full);
    assert_eq!(rig.server.seen(), []);
    assert_eq!(rig.delete(&second).await, Ok(200));
    rig.initialize().await;
    assert_eq!(rig.ping(&first).await, Ok(200));
    let text = "over the limit of 2 sessions on this route".to_owned();
    assert_eq!(
        Fault::of(&full),
        Fault::SessionsFull(text, Duration::from_secs(60))
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_executed_keeps_its_answer_though_its_session_has_no_place() {
    let rig = Rig::new(at_most(1, 1));
    let id = rig.initialize().await;
    let answer = rig.send(rig.request(Method::POST, None, PING)).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status().as_u16(), session_of(&answer)), (200, None));
    assert_eq!(rig.ping(&id).await, Ok(200));
    assert_eq!(rig.list().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_the_one_that_is_quiet_for_longest_makes_room() {
    let rig = Rig::new(at_most(2, 2));
    let first = rig.initialize().await;
    wait(1).await;
    let second = rig.initialize().await;
    wait(1).await;
    assert_eq!(rig.ping(&first).await, Ok(200));
    wait(150).await;
    assert_eq!(rig.full().await.retry_after, Duration::from_secs(29));
    wait(29).await;
    let third = rig.initialize().await;
    assert_eq!(rig.ping(&second).await, GONE);
    assert_eq!(rig.ping(&first).await, Ok(200));
    assert_eq!(rig.ping(&third).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_call_in_hand_makes_no_room() {
    let rig = Rig::new(at_most(1, 1));
    let id = rig.initialize().await;
    rig.server.script().slow = true;
    let call = rig.send(rig.request(Method::POST, Some(&id), PING)).await;
    wait(3600).await;
    assert_eq!(rig.full().await.retry_after, Duration::from_secs(1));
    drop(call);
    wait(180).await;
    rig.initialize().await;
}

#[tokio::test(start_paused = true)]
async fn a_principal_has_a_cap_of_its_own() {
    let rig = Rig::new(at_most(10, 2));
    let (me, you) = (rig.by("me"), rig.by("you"));
    let first = me.initialize().await;
    wait(1).await;
    me.initialize().await;
    assert!(me.full().await.own);
    let other = you.initialize().await;
    wait(180).await;
    me.initialize().await;
    assert_eq!(me.ping(&first).await, GONE);
    assert_eq!(you.ping(&other).await, Ok(200));
    for _ in 0..5 {
        rig.initialize().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_route_has_caps_of_its_own() {
    let rig = Rig::new(at_most(1, 1));
    rig.initialize().await;
    rig.on("other").initialize().await;
    assert_eq!(rig.list().await.len(), 2);
    rig.full().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_from_before_a_restart_count_too() {
    let rig = Rig::new(at_most(2, 2));
    let (first, second) = (rig.initialize().await, rig.initialize().await);
    let rig = rig.restarted(rig.keys.clone());
    rig.initialize().await;
    assert_eq!(rig.ping(&first).await, Ok(200));
    assert!(matches!(
        rig.ping(&second).await,
        Err(Fault::SessionsFull(..))
    ));
    rig.full().await;
}

#[test]
fn the_gauge_and_the_counter_move() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let rig = Rig::new(settings());
            let id = rig.initialize().await;
            rig.initialize().await;
            rig.server.script().down = true;
            rig.try_initialize().await.expect_err("no endpoint");
            rig.server.script().down = false;
            let gauge = r#"ziggurat_sessions{route="tools",era="legacy"}"#;
            assert!(handle.render().contains(&format!("{gauge} 2")));
            assert_eq!(rig.delete(&id).await, Ok(200));
            assert!(handle.render().contains(&format!("{gauge} 1")));
            wait(3600).await;
            rig.store.sweep();
            let text = handle.render();
            assert!(text.contains(&format!("{gauge} 0")));
            let counter = r#"ziggurat_session_evictions_total{route="tools",reason="idle"} 1"#;
            assert!(text.contains(counter), "{text}");
        });
    });
}
