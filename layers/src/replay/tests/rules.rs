//! What a client that comes back gets.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_goes_on_without_its_client_and_its_answer_waits() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source
        .try_send(Ok(":\n\ndata: 1\n\ndata: 2\n\n"))
        .expect("read");
    let id = first.event("1").await;
    drop(first);
    source
        .try_send(Ok("data: 3\n\n"))
        .expect("somebody reads on");
    rig.release();
    source.try_send(Ok("data: answer\n\n")).expect("read");
    drop(source);
    tokio::time::sleep(MOMENT).await;
    let mut again = rig.get(Some(&id)).await;
    for data in ["2", "3", "answer"] {
        again.event(data).await;
    }
    assert_eq!(again.next().await, None);
    assert!(again.exchange.response().resumes_call());
    assert_eq!(rig.asked(), 0, "from memory");
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_takes_the_place_of_who_reads() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    let mut second = rig.get(Some(&id)).await;
    let mut third = rig.get(Some(&id)).await;
    source.try_send(Ok("data: 2\n\n")).expect("read");
    assert_eq!(first.next().await, None);
    assert_eq!(second.next().await, None);
    drop((first, second));
    let two = third.event("2").await;
    assert!(id.ends_with("-1-InEi") && two.ends_with("-2-InEi"), "{two}");
    third.nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_the_newest_legacy_revision_has_an_id_from_the_beginning() {
    let rig = Rig::new();
    let mut first = rig.send(Method::POST, "2025-11-25", None).await;
    let id = first.event("").await;
    let source = rig.source();
    drop(first);
    source
        .try_send(Ok("data: 1\n\n"))
        .expect("somebody reads on");
    tokio::time::sleep(MOMENT).await;
    rig.get(Some(&id)).await.event("1").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_without_an_id_cannot_come_back_so_nobody_reads_on() {
    let rig = Rig::new();
    let (first, source) = rig.call().await;
    drop(first);
    assert!(source.is_closed());
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_a_stream_of_another_session() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\ndata: 2\n\n")).expect("read");
    let id = first.event("1").await;
    let foreign = session(2);
    let mut other = rig
        .send_in(&foreign, Method::GET, "2025-06-18", Some(&id))
        .await;
    other.nothing().await;
    assert_eq!(rig.asked(), 2, "the upstream was asked");
    assert_eq!(
        rig.opened.lock().expect("whole")[1].1,
        None,
        "but not for an id that it never gave"
    );
    // Also if the session is named in the id.
    let forged = id.replace("zc-00000001", "zc-00000002");
    let mut other = rig
        .send_in(&foreign, Method::GET, "2025-06-18", Some(&forged))
        .await;
    let (_, error) = other.next().await.expect("an error");
    assert!(error.contains("events_lost"), "{error}");
    first.event("2").await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_which_all_was_read_has_nothing_more() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: answer\n\n")).expect("read");
    rig.release();
    drop(source);
    let id = first.event("answer").await;
    assert_eq!(first.next().await, None);
    drop(first);
    let mut again = rig.get(Some(&id)).await;
    assert_eq!((again.status, again.next().await), (204, None));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_knows_is_an_error_for_the_request_in_the_id() {
    let rig = Rig::new();
    let mut again = rig.get(Some("zc-00000001-00000007-3-InEi")).await;
    let (id, data) = again.next().await.expect("an event");
    assert!(id.is_none() && again.next().await.is_none());
    let error: serde_json::Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(error["id"], "q");
    assert_eq!(error["error"]["data"]["outcome"], "unknown");
    let mut batch = rig.get(Some("zc-00000001-00000007-3")).await;
    assert_eq!((batch.status, batch.next().await), (204, None));
}

/// The client that came back is told that its call failed, by an event with an id, and nothing more.
async fn told_of_failure(again: &mut Reading) {
    let (error_id, data) = again.next().await.expect("an event");
    assert!(
        error_id.is_some() && data.contains(r#""id":"q","error""#),
        "{data}"
    );
    assert_eq!(again.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_a_client_is_an_event_for_the_one_that_comes_back() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    drop(first);
    source.try_send(Err("broken")).expect("somebody reads on");
    tokio::time::sleep(MOMENT).await;
    let mut again = rig.get(Some(&id)).await;
    told_of_failure(&mut again).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_without_the_answer_is_an_event_for_who_comes_back() {
    for attached in [false, true] {
        let rig = Rig::always();
        let (mut first, source) = rig.call().await;
        source.try_send(Ok("data: 1\n\n")).expect("read");
        let id = first.event("1").await;
        let exchange = first.exchange.clone();
        drop(first);
        let mut again = if attached {
            let mut again = rig.get(Some(&id)).await;
            again.nothing().await;
            Some(again)
        } else {
            None
        };
        exchange.response().set_ended_unanswered();
        rig.release();
        drop(source);
        tokio::time::sleep(MOMENT).await;
        let mut again = match again.take() {
            Some(again) => again,
            None => rig.get(Some(&id)).await,
        };
        told_of_failure(&mut again).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_without_the_answer_is_told_the_client_that_asked_by_rescue_alone() {
    let rig = Rig::always();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    first.exchange.response().set_ended_unanswered();
    rig.release();
    drop(source);
    assert_eq!(first.next().await, None);
    drop(first);
    told_of_failure(&mut rig.get(Some(&id)).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_upstream_is_a_failure_like_any_other() {
    for attached in [false, true] {
        let rig = Rig::new();
        let (mut first, source) = rig.call().await;
        source.try_send(Ok("data: 1\n\n")).expect("read");
        let id = first.event("1").await;
        source.try_send(Err(PANIC)).expect("read");
        if attached {
            let (_, failed) = first.next().await.expect("an error");
            assert_eq!(failed, "failed: a layer panicked");
        }
        drop(first);
        tokio::time::sleep(MOMENT).await;
        assert!(source.is_closed(), "{attached}");
        told_of_failure(&mut rig.get(Some(&id)).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_comes_as_an_error_to_the_client_that_asked() {
    let rig = Rig::new();
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    source.try_send(Err("broken")).expect("read");
    let id = first.event("1").await;
    let (_, failed) = first.next().await.expect("an error");
    assert_eq!(failed, "failed: broken");
    assert_eq!(first.next().await, None);
    drop(first);
    told_of_failure(&mut rig.get(Some(&id)).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_standing_stream_goes_on_with_a_new_one_of_the_upstream() {
    let rig = Rig::new();
    let mut first = rig.get(None).await;
    let source = rig.source();
    source.try_send(Ok("data: 1\n\ndata: 2\n\n")).expect("read");
    let id = first.event("1").await;
    drop(first);
    tokio::time::sleep(rig.settings.grace + MOMENT).await;
    assert!(source.is_closed(), "what comes waits at its source");
    let mut again = rig.get(Some(&id)).await;
    assert_eq!(rig.asked(), 2);
    assert_eq!(
        rig.opened.lock().expect("whole")[1].1,
        None,
        "our id stays here"
    );
    again.event("2").await;
    rig.source().try_send(Ok("data: 3\n\n")).expect("read");
    let three = again.event("3").await;
    assert!(three.ends_with("-3"), "{three}");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_an_id_gets_what_no_client_has_read() {
    let rig = Rig::new();
    let mut first = rig.get(None).await;
    rig.source()
        .try_send(Ok("data: 1\n\ndata: 2\n\n"))
        .expect("read");
    first.event("1").await;
    drop(first);
    let mut again = rig.get(None).await;
    again.event("2").await;
    again.nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_standing_stream_is_read_on_for_a_while() {
    for rig in [Rig::always(), Rig::new()] {
        read_on_for_a_while(rig).await;
    }
}

async fn read_on_for_a_while(rig: Rig) {
    let mut first = rig.get(None).await;
    let source = rig.source();
    source.try_send(Ok("data: 1\n\n")).expect("read");
    let id = first.event("1").await;
    drop(first);
    source
        .try_send(Ok("data: 2\n\n"))
        .expect("somebody reads on");
    tokio::time::sleep(MOMENT).await;
    let mut again = rig.get(Some(&id)).await;
    again.event("2").await;
    assert_eq!(rig.asked(), 1);
    drop(again);
    tokio::time::sleep(rig.settings.grace + MOMENT).await;
    assert!(source.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_standing_stream_that_nobody_knows_is_a_new_one() {
    let rig = Rig::new();
    let mut again = rig.get(Some("zg-00000001-00000007-3")).await;
    rig.source().try_send(Ok("data: 1\n\n")).expect("read");
    assert!(again.event("1").await.ends_with("-1"));
    assert_eq!(rig.opened.lock().expect("whole")[0].1, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_ids_of_the_server_passes_as_it_is() {
    let rig = Rig::always();
    let mut first = rig.send(Method::POST, "2025-11-25", None).await;
    let source = rig.source();
    source
        .try_send(Ok(":\n\nid: a\ndata:\n\ndata: x\n\n"))
        .expect("read");
    assert_eq!(first.event("").await, "a");
    assert_eq!(first.next().await, Some((None, "x".to_owned())));
    drop(first);
    assert!(source.is_closed(), "the server keeps it");
    rig.get(Some("a")).await;
    let asked = rig.opened.lock().expect("whole")[1].1.clone();
    assert_eq!(asked.as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_server_is_left_alone_unless_all_are_wanted() {
    let mut rig = Rig::always();
    rig.settings.scope = Scope::Auto;
    let (mut first, source) = rig.call().await;
    source.try_send(Ok("data: 1\n\n")).expect("read");
    assert_eq!(first.next().await, Some((None, "1".to_owned())));
    drop(first);
    assert!(source.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_id_means_nothing_here_gets_what_no_client_has_read() {
    // Of another session, a call's of that one, and of a stream that is not known any more.
    for id in [
        "zg-00000002-00000007-3",
        "zc-00000002-00000007-3-InEi",
        "zg-00000001-00000007-3",
    ] {
        let rig = Rig::new();
        rig.get(Some(id)).await.nothing().await;
        rig.source()
            .try_send(Ok("data: 1\n\n"))
            .expect("somebody reads on");
        tokio::time::sleep(MOMENT).await;
        let mut again = rig.get(Some(id)).await;
        again.event("1").await;
        assert_eq!(rig.asked(), 1, "{id}");
    }
}
