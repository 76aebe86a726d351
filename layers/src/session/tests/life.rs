//! How sessions end, other than by time.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_delete_that_the_server_took_ends_the_session() {
    for (status, ends) in [
        (200, true),
        (204, true),
        (404, true),
        (405, true),
        (500, false),
        (429, false),
    ] {
        let rig = Rig::new(settings());
        let id = rig.initialize().await;
        rig.server.script().statuses = vec![status];
        assert_eq!(rig.delete(&id).await, Ok(status));
        let expected = if ends { GONE } else { Ok(200) };
        assert_eq!(rig.ping(&id).await, expected, "{status}");
        assert_eq!(rig.list().await.len(), usize::from(!ends));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_server_lost_ends() {
    let mut rig = Rig::new(settings());
    let id = rig.initialize().await;
    rig.server.script().known.clear();
    assert_eq!(rig.ping(&id).await, Ok(404), "in the server's own words");
    rig.server.seen();
    assert_eq!(rig.ping(&id).await, GONE);
    assert_eq!(rig.server.seen(), []);

    rig.settings.lost.push(StatusCode::BAD_REQUEST);
    let rig = rig.restarted(rig.keys.clone());
    let id = rig.initialize().await;
    rig.server.script().statuses = vec![400];
    assert_eq!(rig.ping(&id).await, GONE, "as the specification wants it");
    assert_eq!(rig.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_404_to_a_first_get_says_nothing_of_the_session() {
    for heal in [Heal::Safe, Heal::Never] {
        let rig = Rig::new(SessionSettings { heal, ..settings() });
        let id = rig.initialize().await;
        rig.server.script().statuses = vec![404];
        assert_eq!(rig.try_send(Method::GET, &id, "").await, Ok(404));
        assert_eq!(rig.ping(&id).await, Ok(200));
        assert_eq!(rig.server.script().begun, 1, "nothing was healed");
    }
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    drop(rig.stream(&id).await);
    rig.server.script().statuses = vec![404];
    assert_eq!(rig.try_send(Method::GET, &id, "").await, Ok(404));
    assert_eq!(rig.ping(&id).await, GONE);
}

#[tokio::test(start_paused = true)]
async fn other_failures_do_not_end_a_session() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    rig.server.script().statuses = vec![500, 503, 400, 405];
    for status in [405, 400, 503, 500, 200] {
        assert_eq!(rig.ping(&id).await, Ok(status));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_endpoint() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    rig.server.script().gone = true;
    let error = rig.send(rig.request(Method::POST, Some(&id), PING)).await;
    let error = error.expect_err("its endpoint is gone");
    assert_eq!(Fault::of(&*error), Fault::SessionGone);
    let gone: &SessionGone = error.downcast_ref().expect("that the session is gone");
    assert!(gone.source.as_ref().is_some_and(|e| e.is::<PinnedGone>()));
    assert_eq!(rig.list().await, []);
    rig.server.script().gone = false;
    assert_eq!(rig.ping(&id).await, GONE);
}

#[cfg(feature = "stdio")]
#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_child() {
    use crate::upstream::stdio::StdioError;

    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    let service = rig.layer.layer(service_fn(async |_: Request<Body>| {
        Err::<Response<Body>, BoxError>(StdioError::SessionGone.into())
    }));
    let result = service
        .oneshot(rig.request(Method::POST, Some(&id), PING))
        .await;
    assert!(result.expect_err("the child is gone").is::<StdioError>());
    assert_eq!(rig.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_initialize_that_fails_or_is_dropped_gives_its_place_back() {
    let one = NonZeroUsize::MIN;
    let rig = Rig::new(SessionSettings {
        max: one,
        ..settings()
    });
    rig.server.script().down = true;
    rig.try_initialize().await.expect_err("no endpoint");
    let service = rig.layer.layer(service_fn(|_: Request<Body>| {
        std::future::pending::<std::result::Result<Response<Body>, BoxError>>()
    }));
    let mut waits =
        tokio_test::task::spawn(service.oneshot(rig.request(Method::POST, None, INITIALIZE)));
    tokio_test::assert_pending!(waits.poll());
    rig.server.script().down = false;
    rig.full().await;
    drop(waits);
    rig.initialize().await;
}

#[tokio::test(start_paused = true)]
async fn the_list_shows_no_id() {
    let rig = Rig::new(settings());
    rig.initialize().await;
    wait(60).await;
    let list = rig.list().await;
    assert_eq!(list.len(), 1);
    assert_eq!((&*list[0].key.route, &*list[0].endpoint), ("tools", "a:1"));
    assert_eq!(list[0].age, Duration::from_secs(60));
    assert_eq!(list[0].idle, Duration::from_secs(60));
    assert_eq!(list[0].key.serial.to_string().len(), 8);
    assert!(!format!("{list:?}").contains("up-1"));
    assert_eq!(rig.store.list(0).await, []);
}
