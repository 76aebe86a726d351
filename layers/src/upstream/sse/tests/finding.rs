//! Which transport an endpoint is found to speak.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_old_server_is_found_out_once_and_remembered() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |_| {});
    let first = begin(&upstream).await;
    let second = begin(&upstream).await;
    assert_ne!(first, second);
    assert_eq!(
        (upstream.sessions(), server.gets.load(Ordering::SeqCst)),
        (2, 2)
    );
    let asked = |seen: &[(Method, String, Value)]| {
        let plain = seen
            .iter()
            .filter(|(m, uri, _)| m == Method::POST && !uri.contains("messages"));
        plain.count()
    };
    assert_eq!(asked(&server.seen()), 1, "the second time it is known");
    tokio::time::sleep(Duration::from_secs(301)).await;
    begin(&upstream).await;
    assert_eq!(asked(&server.seen()), 2, "what is old is looked at again");
    assert!(
        post(&upstream, Some(&first), &message(1, "ping"))
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_streamable_server_gets_everything_as_it_is() {
    let server = server(Kind::Streamable);
    let upstream = upstream(&server, |_| {});
    // What comes first is a GET: it is looked into for a moment. That nothing comes says nothing.
    for wait in [2, 2] {
        let begun = Instant::now();
        let get = request(Method::GET, None, &Value::Null);
        let response = upstream.clone().oneshot(get).await.expect("a stream");
        assert_eq!(response.status(), 200);
        assert_eq!(begun.elapsed(), Duration::from_secs(wait));
    }
    let answer = post(&upstream, None, &message(0, "initialize")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    assert_eq!(upstream.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_neither_kind_has_its_own_word() {
    let server = server(Kind::Nothing);
    let upstream = upstream(&server, |_| {});
    let answer = post(&upstream, None, &message(0, "initialize")).await;
    assert_eq!(answer.expect("an answer").status(), 405);
    assert_eq!(server.seen().len(), 2, "both were tried");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_an_old_server_is_no_stream_for_everybody() {
    let server = server(Kind::Old);
    let upstream = upstream(&server, |_| {});
    let get = request(Method::GET, None, &Value::Null);
    let refused = upstream.clone().oneshot(get).await;
    assert_eq!(refusal(refused), SseError::SessionRequired);
    begin(&upstream).await;
    let posts = server.seen();
    assert!(
        posts
            .iter()
            .all(|(m, uri, _)| m == Method::GET || uri == "/messages?s=1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_says_nothing_or_breaks_shows_no_transport() {
    for kind in [Kind::Slow, Kind::Broken] {
        let server = server(kind);
        let upstream = upstream(&server, |_| {});
        let get = request(Method::GET, None, &Value::Null);
        let looked = upstream.clone().oneshot(get).await;
        assert_eq!(looked.is_ok(), kind == Kind::Slow, "what broke is told");
        begin(&upstream).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_upgraded_is_found_out_again() {
    let old = server(Kind::Old);
    let upstream = upstream(&old, |_| {});
    begin(&upstream).await;
    old.now(Kind::Streamable405);
    let refused = post(&upstream, None, &message(0, "initialize")).await;
    let status = StatusCode::METHOD_NOT_ALLOWED;
    assert_eq!(refusal(refused), SseError::NoStream { status });
    let answer = post(&upstream, None, &message(0, "initialize")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
}
