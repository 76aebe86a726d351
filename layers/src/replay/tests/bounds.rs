//! What is not kept.

use super::*;

/// A call that its client left after the first event; then more came than is kept.
async fn overrun(rig: &Rig, method: Method) -> Reading {
    let mut first = rig.send(method, "2025-06-18", None).await;
    let source = rig.source();
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    drop(first);
    for said in ["data: 2\n\n", "data: 3\n\n", "data: 4\n\n"] {
        source.try_send(Ok(said)).expect("somebody reads on");
    }
    tokio::time::sleep(MOMENT).await;
    rig.get(Some(&id)).await
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_missed_too_much_ends_with_an_error() {
    let mut rig = Rig::always();
    rig.settings.events = NonZeroUsize::new(2).expect("not zero");
    let mut again = overrun(&rig, Method::POST).await;
    let (_, data) = again.next().await.expect("an error");
    assert!(
        data.contains(r#""id":"q""#) && data.contains("events_lost"),
        "{data}"
    );
    assert_eq!(again.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_standing_stream_goes_on_with_a_gap() {
    let mut rig = Rig::always();
    rig.settings.events = NonZeroUsize::new(2).expect("not zero");
    let mut again = overrun(&rig, Method::GET).await;
    again.event("3").await;
    again.event("4").await;
    again.nothing().await;
}

#[tokio::test(start_paused = true)]
async fn all_streams_together_hold_no_more_than_the_limit_and_the_oldest_gives_way() {
    let rig = Rig::new();
    let (mut old, first) = rig.call().await;
    let (mut new, second) = rig.call().await;
    first.try_send(Ok("data: 1\n\ndata: 2\n\n")).expect("read");
    second.try_send(Ok("data: 1\n\ndata: 2\n\n")).expect("read");
    let ids = [old.event("1").await, new.event("1").await];
    let held = rig.store.bytes();
    rig.store.set_limit(held / 2);
    assert_eq!(rig.store.bytes(), held / 2);
    // Who reads does not notice.
    old.event("2").await;
    drop((old, new));
    let mut again = rig.get(Some(&ids[0])).await;
    assert!(
        again
            .next()
            .await
            .expect("an error")
            .1
            .contains("events_lost")
    );
    rig.get(Some(&ids[1])).await.event("2").await;
    rig.store.set_limit(0);
    second.try_send(Ok("data: 3\n\n")).expect("read");
    tokio::time::sleep(MOMENT).await;
    assert_eq!(rig.store.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_store_waits_for_no_upstream() {
    let mut rig = Rig::new();
    rig.sweeps = true;
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    first.event("1").await;
    source.try_send(Ok(SWEEP)).expect("read");
    source.try_send(Ok("data: 2\n\n")).expect("read");
    let id = first.event("2").await;
    drop(first);
    let mut again = rig.get(Some(&id)).await;
    again.nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_has_a_bound_of_streams() {
    let rig = Rig::new();
    let mut readings = Vec::new();
    for _ in 0..store::STREAMS + 1 {
        let (mut reading, source) = rig.call().await;
        source.try_send(Ok("data: 1\n\n")).expect("read");
        readings.push((reading.event("1").await, reading));
    }
    let first = readings.remove(0).0;
    let mut again = rig.get(Some(&first)).await;
    assert!(
        again
            .next()
            .await
            .expect("an error")
            .1
            .contains("events_lost")
    );
    let second = readings.remove(0).0;
    rig.get(Some(&second)).await.nothing().await;
}

#[tokio::test(start_paused = true)]
async fn half_of_a_long_event_is_no_event_for_who_comes_next() {
    static LONG: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| format!("data: {}", "x".repeat(2 << 20)));
    let rig = Rig::always();
    let mut first = rig.get(None).await;
    let source = rig.source();
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    source.try_send(Ok(&LONG)).expect("read");
    first.nothing().await;
    drop(first);
    let mut again = rig.get(Some(&id)).await;
    source.try_send(Ok("xx\n\ndata: 3\n\n")).expect("read");
    again.event("3").await;
    // Whoever gets one knows it: nobody may speak in between.
    let facts = |reading: &Reading| reading.exchange.response().at_boundary();
    assert!(facts(&again));
    source.try_send(Ok(&LONG)).expect("read");
    again.nothing().await;
    assert!(!facts(&again));
    source.try_send(Ok("xx\n\n")).expect("read");
    again.event(&format!("{}xx", &LONG["data: ".len()..])).await;
    assert!(facts(&again));
}
