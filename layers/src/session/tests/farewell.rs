//! What upstreams are told of sessions that ended here.

use super::*;

const IDLE: u64 = 30 * 60;
const TOLD: Method = Method::DELETE;

fn route() -> Arc<RouteInfo> {
    Arc::new(RouteInfo {
        name: "tools".into(),
        prefix: "/".into(),
        errors: ErrorStyle::Envelope,
    })
}

/// Says what is to be said; how it went, each.
async fn say(rig: &Rig) -> Vec<FarewellOutcome> {
    rig.store.sweep();
    let mut outcomes = Vec::new();
    for farewell in rig.store.farewells(usize::MAX).await {
        let server = rig.server.clone();
        let service =
            service_fn(move |request: Request<Body>| std::future::ready(server.answer(&request)));
        outcomes.push(farewell.say(service, route()).await);
    }
    outcomes
}

/// The sessions that the server was told to end.
fn told(rig: &Rig) -> Vec<String> {
    let seen = rig.server.seen().into_iter();
    let ends = seen.filter(|seen| seen.method == TOLD);
    ends.map(|seen| seen.session.expect("a session")).collect()
}

#[tokio::test(start_paused = true)]
async fn the_upstream_of_a_session_that_expired_is_told_once_at_its_endpoint() {
    let rig = Rig::new(settings());
    rig.initialize().await;
    wait(IDLE).await;
    rig.server.seen();
    assert_eq!(say(&rig).await, [FarewellOutcome::Ended]);
    let seen = rig.server.seen().pop().expect("a request");
    let there = (Some("up-1".to_owned()), Some("a:1".to_owned()));
    assert_eq!((seen.session, seen.pinned), there);
    assert!(rig.server.script().known.is_empty());
    assert_eq!(say(&rig).await, []);
}

#[tokio::test(start_paused = true)]
async fn the_upstream_of_a_session_that_made_room_grew_old_or_was_ended_is_told() {
    let made_room = Rig::new(SessionSettings {
        max: NonZeroUsize::MIN,
        ..settings()
    });
    made_room.initialize().await;
    wait(IDLE / 2).await;
    made_room.initialize().await;
    say(&made_room).await;
    assert_eq!(told(&made_room), ["up-1"]);

    let old = Rig::new(SessionSettings {
        lifetime: Some(Duration::from_secs(60)),
        ..settings()
    });
    old.initialize().await;
    wait(60).await;
    say(&old).await;
    assert_eq!(told(&old), ["up-1"]);

    let ended = Rig::new(settings());
    ended.initialize().await;
    ended
        .store
        .end(&ended.list().await[0].key, Ending::Operator);
    say(&ended).await;
    assert_eq!(told(&ended), ["up-1"]);
}

#[tokio::test(start_paused = true)]
async fn where_others_may_serve_a_session_that_it_was_quiet_here_is_told_nobody() {
    let rig = Rig::new(SessionSettings {
        shared: true,
        lifetime: Some(Duration::from_secs(2 * IDLE)),
        ..settings()
    });
    let id = rig.initialize().await;
    wait(IDLE).await;
    assert_eq!(say(&rig).await, []);
    let rig = rig.restarted(rig.keys.clone());
    assert_eq!(rig.ping(&id).await, Ok(200));
    wait(IDLE - 1).await;
    assert_eq!(rig.ping(&id).await, Ok(200));
    wait(IDLE - 1).await;
    assert_eq!(rig.ping(&id).await, Ok(200));
    wait(2).await;
    assert_eq!(
        say(&rig).await,
        [FarewellOutcome::Ended],
        "nobody may use it any more"
    );
}

#[tokio::test(start_paused = true)]
async fn who_knows_it_already_is_told_nothing() {
    let rig = Rig::new(settings());
    let (deleted, lost) = (rig.initialize().await, rig.initialize().await);
    rig.delete(&deleted).await.expect("an answer");
    rig.server.script().known.clear();
    assert_eq!(rig.ping(&lost).await, Ok(404));
    rig.server.script().down = true;
    rig.try_initialize().await.expect_err("nobody is there");
    wait(IDLE).await;
    assert_eq!(say(&rig).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_hand_is_not_cut_by_it_and_a_delete_in_hand_makes_it_needless() {
    let rig = Rig::new(SessionSettings {
        lifetime: Some(Duration::from_secs(60)),
        ..settings()
    });
    let (called, deleted) = (rig.initialize().await, rig.initialize().await);
    rig.server.script().slow = true;
    let call = rig
        .send(rig.request(Method::POST, Some(&called), PING))
        .await
        .expect("an answer that does not end");
    let server = rig.server.clone();
    let service = rig.layer.layer(service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(90)).await;
            server.answer(&request)
        }
    }));
    let delete = rig.request(Method::DELETE, Some(&deleted), "");
    let mut delete = tokio_test::task::spawn(service.oneshot(delete));
    tokio_test::assert_pending!(delete.poll());
    wait(60).await;
    assert_eq!(say(&rig).await, []);
    assert_eq!(rig.list().await, []);
    delete.await.expect("an answer");
    drop(call);
    rig.server.seen();
    assert_eq!(say(&rig).await, [FarewellOutcome::Ended]);
    assert_eq!(told(&rig), ["up-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_healed_ends_where_it_lives_now() {
    let rig = Rig::new(SessionSettings::default());
    let id = rig.initialize().await;
    rig.server.script().known.clear();
    assert_eq!(rig.ping(&id).await, Ok(200));
    wait(IDLE).await;
    rig.server.seen();
    say(&rig).await;
    assert_eq!(told(&rig), ["up-2"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_to_it_changes_nothing_and_silence_has_an_end() {
    let rig = Rig::new(settings());
    for (status, outcome) in [
        (405, FarewellOutcome::Refused),
        (404, FarewellOutcome::Gone),
        (401, FarewellOutcome::Refused),
    ] {
        rig.initialize().await;
        wait(IDLE).await;
        rig.server.script().statuses = vec![status];
        assert_eq!(say(&rig).await, [outcome]);
        assert_eq!(say(&rig).await, []);
    }
    rig.initialize().await;
    wait(IDLE).await;
    rig.server.script().down = true;
    assert_eq!(say(&rig).await, [FarewellOutcome::Failed]);

    rig.server.script().down = false;
    rig.initialize().await;
    wait(IDLE).await;
    rig.store.sweep();
    let farewell = rig.store.farewells(1).await.pop().expect("one");
    let silent = service_fn(|_: Request<Body>| {
        std::future::pending::<std::result::Result<Response<Body>, BoxError>>()
    });
    let said = farewell.say(silent, route());
    assert_eq!(said.await, FarewellOutcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_to_be_told_than_there_may_be_sessions() {
    let rig = Rig::new(SessionSettings {
        max: NonZeroUsize::MIN.saturating_add(2),
        ..settings()
    });
    for _ in 0..3 {
        for _ in 0..3 {
            rig.initialize().await;
        }
        wait(IDLE).await;
        rig.store.sweep();
    }
    say(&rig).await;
    let mut told = told(&rig);
    told.sort_unstable();
    assert_eq!(told, ["up-7", "up-8", "up-9"], "the newest are kept");
}

#[tokio::test(start_paused = true)]
async fn it_says_the_path_and_the_revision_of_its_client_and_no_query() {
    let rig = Rig::new(settings());
    let mut begin = rig.request(Method::POST, None, INITIALIZE);
    *begin.uri_mut() = "/tools/mcp?key=secret".parse().expect("a uri");
    let id = session_of(&rig.send(begin).await.expect("a session")).expect("an id");
    let mut ping = rig.request(Method::POST, Some(&id), PING);
    let mut headers = ping.headers().clone();
    headers.insert(
        "mcp-protocol-version",
        HeaderValue::from_static("2025-06-18"),
    );
    let body = Bytes::from_static(PING.as_bytes());
    let facts = CallFacts::read(&Method::POST, &headers, &body).expect("a call");
    let exchange = Arc::new(Exchange::new("x"));
    let old = Exchange::get(&ping).expect("an exchange");
    exchange.set_route(old.route().expect("a route").clone());
    exchange.set_call(facts);
    ping.extensions_mut().insert(exchange);
    drop(rig.send(ping).await.expect("an answer"));
    wait(IDLE).await;
    rig.store.sweep();
    let farewell = rig.store.farewells(1).await.pop().expect("one");
    assert_eq!(&*farewell.path, "/tools/mcp");
    assert_eq!(farewell.version.as_deref(), Some("2025-06-18"));
}
