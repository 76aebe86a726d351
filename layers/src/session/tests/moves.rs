//! Sessions whose endpoint is gone, or cannot be reached.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{heal::healing, *};
use crate::{
    attempt::Tried,
    gate::{GateShut, Reason},
};

#[tokio::test(start_paused = true)]
async fn a_session_whose_endpoint_was_taken_out_moves_to_another() {
    let rig = healing(Heal::Safe);
    let id = rig.initialize().await;
    let service = |taken: &'static str| {
        let server = rig.server.clone();
        rig.layer.layer(service_fn(move |request: Request<Body>| {
            let pinned = request.extensions().get::<Pinned>().map(|p| p.0.clone());
            std::future::ready(if pinned.as_deref() == Some(taken) {
                Err(PinnedGone.into())
            } else {
                let result = server.answer(&request);
                let exchange = Exchange::get(&request).expect("an exchange");
                exchange.attempt(Arc::new(EndpointInfo {
                    upstream: "tools".into(),
                    endpoint: "b:2".into(),
                }));
                result
            })
        }))
    };
    let ping = rig.request(Method::POST, Some(&id), PING);
    let response = service("a:1").oneshot(ping).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(&*rig.list().await[0].endpoint, "b:2");
    let ping = rig.request(Method::POST, Some(&id), PING);
    service("a:1").oneshot(ping).await.expect("an answer");
    let last = rig.server.seen().pop().expect("a request");
    assert_eq!(last.pinned.as_deref(), Some("b:2"));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_endpoint_is_out_of_reach_moves_if_it_may_and_waits_if_not() {
    for (said, elsewhere, moves) in [
        (&[NOTE, PING][..], true, true),
        (&[NOTE, PING], false, false),
        (&[NOTE, CALL], true, false),
    ] {
        let rig = healing(Heal::Safe);
        let id = rig.lose(said).await;
        let server = rig.server.clone();
        let service = rig.layer.layer(service_fn(move |request: Request<Body>| {
            let exchange = Exchange::get(&request).expect("an exchange");
            let pinned = request.extensions().get::<Pinned>();
            let result = if pinned.is_some_and(|pinned| &*pinned.0 == "a:1") {
                exchange.set_elsewhere(elsewhere);
                Err(BoxError::from(GateShut {
                    reason: Reason::Health,
                    retry_after: None,
                }))
            } else {
                let tried = request.extensions().get::<Tried>();
                let away = tried.is_some_and(|tried| *tried.0 == ["a:1".into()]);
                assert_eq!(
                    away,
                    pinned.is_none(),
                    "only the first message looks for a place"
                );
                let result = server.answer(&request);
                exchange.attempt(Arc::new(EndpointInfo {
                    upstream: "tools".into(),
                    endpoint: "b:2".into(),
                }));
                result
            };
            std::future::ready(result)
        }));
        for call in [PING, CALL] {
            let request = rig.request(Method::POST, Some(&id), call);
            match service.clone().oneshot(request).await {
                Ok(response) => assert!(moves && response.status() == 200, "{said:?}"),
                Err(error) => assert!(!moves && error.is::<GateShut>(), "{said:?}: {error}"),
            }
        }
        // A server that only cannot be reached now may still have the session that was left there.
        let left: Vec<_> = rig.store.farewells(usize::MAX).await;
        let left: Vec<_> = left
            .iter()
            .map(|f| (&*f.home.endpoint, &*f.home.upstream_id))
            .collect();
        assert_eq!(left, if moves { vec![("a:1", "up-1")] } else { vec![] });
        let home = if moves { "b:2" } else { "a:1" };
        assert_eq!(&*rig.list().await[0].endpoint, home);
        let messages = if moves {
            &[INITIALIZE, NOTE, PING, CALL][..]
        } else {
            &[]
        };
        assert_eq!(rig.bodies(), messages);
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_failed_is_not_tried_again_at_once_nor_for_what_goes_with_a_call() {
    let rig = healing(Heal::Safe);
    let id = rig.lose(&[NOTE]).await;
    let handshakes = Arc::new(AtomicUsize::new(0));
    let counted = handshakes.clone();
    let service = rig.layer.layer(service_fn(move |request: Request<Body>| {
        let exchange = Exchange::get(&request).expect("an exchange");
        let result: std::result::Result<Response<Body>, BoxError> =
            if request.extensions().get::<Pinned>().is_some() {
                exchange.set_elsewhere(true);
                let (reason, retry_after) = (Reason::Health, None);
                Err(GateShut {
                    reason,
                    retry_after,
                }
                .into())
            } else {
                // The other one begins no session.
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(Body::full("{}")))
            };
        std::future::ready(result)
    }));
    let ask = async |body: &'static str| {
        let request = rig.request(Method::POST, Some(&id), body);
        let error = service
            .clone()
            .oneshot(request)
            .await
            .expect_err("out of reach");
        assert!(error.is::<GateShut>(), "{error}");
        handshakes.load(Ordering::Relaxed)
    };
    assert_eq!(ask(NOTE).await, 0, "a notification moves nothing");
    assert_eq!(ask(PING).await, 1);
    assert_eq!(ask(PING).await, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ask(PING).await, 2);
    assert_eq!(rig.list().await.len(), 1, "it waits");
}
