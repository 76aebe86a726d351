//! Which id goes where.

use super::*;

#[tokio::test]
async fn the_client_sees_a_sealed_id_and_the_server_its_own() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    assert!(!id.contains("up-1") && id.len() > 40, "{id}");
    let response = rig.send(rig.request(Method::POST, Some(&id), PING)).await;
    assert_eq!(session_of(&response.expect("an answer")), Some(id.clone()));
    assert_eq!(rig.try_send(Method::POST, &id, NOTE).await, Ok(200));
    drop(rig.stream(&id).await);
    assert_eq!(rig.delete(&id).await, Ok(200));
    let seen = rig.server.seen();
    assert_eq!((&seen[0].session, &seen[0].pinned), (&None, &None));
    let methods = [Method::POST, Method::POST, Method::GET, Method::DELETE];
    for (seen, method) in seen[1..].iter().zip(methods) {
        let expected = Seen {
            method,
            session: Some("up-1".to_owned()),
            pinned: Some("a:1".to_owned()),
        };
        assert_eq!(*seen, expected);
    }
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn what_is_not_our_id_reaches_no_server() {
    let rig = Rig::new(settings());
    let id = rig.by("me").initialize().await;
    let mut changed = id.clone();
    changed.replace_range(60..61, if id[60..].starts_with('A') { "B" } else { "A" });
    rig.server.seen();
    for wrong in ["up-1", "x", &changed, &"A".repeat(4000)] {
        assert_eq!(rig.by("me").ping(wrong).await, GONE, "{wrong}");
    }
    assert_eq!(rig.by("you").ping(&id).await, GONE);
    assert_eq!(rig.ping(&id).await, GONE);
    assert_eq!(rig.by("me").on("other").ping(&id).await, GONE);
    let mut twice = rig.by("me").request(Method::POST, None, PING);
    for _ in 0..2 {
        let id = id.parse().expect("a value");
        twice.headers_mut().append(SESSION_ID, id);
    }
    let error = rig.send(twice).await.expect_err("not our id");
    assert_eq!(Fault::of(&*error), Fault::SessionGone);
    assert_eq!(rig.server.seen(), []);
    assert_eq!(rig.by("me").ping(&id).await, Ok(200));
}

#[tokio::test]
async fn a_server_without_sessions_is_left_alone() {
    let rig = Rig::new(settings());
    rig.server.script().sessionless = true;
    for body in [INITIALIZE, PING] {
        let response = rig.send(rig.request(Method::POST, None, body)).await;
        assert_eq!(session_of(&response.expect("an answer")), None);
    }
    assert_eq!(rig.list().await, []);
}

#[tokio::test]
async fn what_is_not_legacy_mcp_passes_as_it_is() {
    let rig = Rig::new(settings());
    let modern = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    rig.server.script().known.insert("foreign".to_owned());
    for request in [rig.request(Method::POST, Some("foreign"), modern), {
        let mut plain = Request::new(Body::empty());
        let id = HeaderValue::from_static("foreign");
        plain.headers_mut().insert(SESSION_ID, id);
        Exchange::of(&mut plain);
        plain
    }] {
        let response = rig.send(request).await.expect("an answer");
        assert_eq!(session_of(&response).as_deref(), Some("foreign"));
        assert_eq!(rig.server.seen()[0].session.as_deref(), Some("foreign"));
    }
}

#[tokio::test]
async fn off_lets_ids_pass() {
    let mut rig = Rig::new(settings());
    rig.layer = SessionLayer::off();
    assert_eq!(rig.initialize().await, "up-1");
    assert_eq!(rig.ping("up-1").await, Ok(200));
}

#[tokio::test]
async fn an_id_opens_after_a_restart_and_after_its_key_was_changed() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    let rotated = rig.restarted(Keys::new(key(2), [key(1)]));
    assert_eq!(rotated.ping(&id).await, Ok(200));
    assert!(rotated.list().await[0].restored);
    let seen = rig.server.seen().pop().expect("a request");
    assert_eq!(seen.session.as_deref(), Some("up-1"));
    assert_eq!(seen.pinned.as_deref(), Some("a:1"));
    let new = rotated.initialize().await;
    let later = rig.restarted(Keys::new(key(2), []));
    assert_eq!(later.ping(&id).await, GONE);
    assert_eq!(later.ping(&new).await, Ok(200));
}

#[tokio::test]
async fn a_session_that_the_server_begins_later_is_sealed_too() {
    let rig = Rig::new(settings());
    let response = rig.send(rig.request(Method::POST, None, PING)).await;
    let id = session_of(&response.expect("an answer")).expect("an id");
    assert_eq!(rig.ping(&id).await, Ok(200));
    assert_eq!(rig.list().await.len(), 1);
}

/// What becomes of the id that a server gives.
async fn given(id: &[u8], status: u16) -> std::result::Result<Option<String>, Fault> {
    let rig = Rig::new(settings());
    let id = HeaderValue::from_bytes(id).expect("a value");
    let service = rig.layer.layer(service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response.headers_mut().insert(SESSION_ID, id.clone());
        std::future::ready(Ok::<_, BoxError>(response))
    }));
    let result = service
        .oneshot(rig.request(Method::POST, None, INITIALIZE))
        .await;
    let sessions = rig.list().await.len();
    match result {
        Ok(response) => {
            let id = session_of(&response);
            assert_eq!(sessions, usize::from(id.is_some()));
            Ok(id)
        }
        Err(error) => {
            assert_eq!(sessions, 0);
            Err(Fault::of(&*error))
        }
    }
}

#[tokio::test]
async fn an_id_that_cannot_be_one_is_not_passed_on() {
    assert!(matches!(given(b"fine", 200).await, Ok(Some(_))));
    assert_eq!(given(b"fine", 500).await, Ok(None));
    assert_eq!(given(&[b'x'; 1500], 200).await, Err(Fault::BadSessionId));
    assert_eq!(given(b"caf\xe9", 200).await, Err(Fault::BadSessionId));
    assert_eq!(given(b"", 200).await, Err(Fault::BadSessionId));
    assert_eq!(given(b"a b", 200).await, Err(Fault::BadSessionId));
}
