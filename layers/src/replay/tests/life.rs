//! How long what goes on.

use super::*;

/// A call of which the client has one event, and that it has left.
async fn left(rig: &Rig) -> (String, Source) {
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    drop(first);
    (id, source)
}

#[tokio::test(start_paused = true)]
async fn a_call_is_read_on_until_nobody_can_want_it_any_more() {
    let rig = Rig::new();
    let (_, source) = left(&rig).await;
    tokio::time::sleep(rig.settings.age - MOMENT).await;
    assert!(!source.is_closed());
    tokio::time::sleep(MOMENT * 2).await;
    assert!(source.is_closed());
    rig.store.sweep();
    assert_eq!(rig.store.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_its_session_a_stream_ends() {
    for deleted in [false, true] {
        let rig = Rig::new();
        let (id, source) = left(&rig).await;
        if deleted {
            rig.send(Method::DELETE, "2025-06-18", None).await;
        } else {
            rig.session.ended.cancel();
            tokio::time::sleep(MOMENT).await;
        }
        assert!(source.is_closed(), "{deleted}");
        assert_eq!(rig.store.bytes(), 0);
        let mut again = rig.get(Some(&id)).await;
        let (_, data) = again.next().await.expect("an error");
        assert!(data.contains("events_lost"), "{data}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_in_hand_goes_on_though_its_session_ends() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    rig.send(Method::DELETE, "2025-06-18", None).await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    first.event("1").await;
    assert_eq!(rig.store.bytes(), 0);
    drop(first);
    assert!(source.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_is_not_read_on() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    let again = rig.get(Some(&id)).await;
    again.exchange.give_up(GiveUp::Drain);
    drop(again);
    assert!(source.is_closed());
    assert_eq!(first.exchange.gave_up(), Some(GiveUp::Drain));
}

#[tokio::test(start_paused = true)]
async fn who_was_superseded_gives_no_call_up() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    let second = rig.get(Some(&id)).await;
    let mut third = rig.get(Some(&id)).await;
    second.exchange.give_up(GiveUp::Timeout);
    drop(second);
    assert_eq!(first.exchange.gave_up(), None);
    source.try_send(Ok("data: 2\n\n")).expect("read");
    third.event("2").await;
}

#[tokio::test(start_paused = true)]
async fn the_store_ends_what_it_reads_on() {
    let rig = Rig::new();
    let (_, source) = left(&rig).await;
    drop(rig);
    tokio::time::sleep(MOMENT).await;
    assert!(source.is_closed());
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_is_in_use_for_as_long_as_its_call_goes_on() {
    let mut rig = Rig::new();
    let busy: Arc<dyn Any + Send + Sync> = Arc::new(());
    rig.session.busy = Some(Arc::downgrade(&busy));
    let (_, source) = left(&rig).await;
    assert_eq!(Arc::strong_count(&busy), 2);
    rig.release();
    drop(source);
    tokio::time::sleep(MOMENT).await;
    assert_eq!(Arc::strong_count(&busy), 1);
}

#[tokio::test(start_paused = true)]
async fn the_gauges_are_back_when_all_is_over() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new();
    let (_, source) = left(&rig).await;
    tokio::task::yield_now().await;
    assert!(
        metrics
            .render()
            .contains("ziggurat_replay_detached_streams 1")
    );
    rig.release();
    drop(source);
    tokio::time::sleep(rig.settings.age).await;
    rig.store.sweep();
    let text = metrics.render();
    for gauge in [
        "ziggurat_replay_detached_streams 0",
        "ziggurat_replay_buffer_bytes 0",
    ] {
        assert!(text.contains(gauge), "{text}");
    }
}
