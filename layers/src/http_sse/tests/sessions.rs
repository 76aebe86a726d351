//! The session of a channel, and its GET stream.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_sessions_stream_comes_over_the_channel_and_counts_once() {
    let (send, messages) = mpsc::channel(64);
    let server = standing(400, [Standing::Open(messages)]);
    let rig = rig(HttpSseSettings::default(), server);
    let mut client = rig.open().await;
    client.greet().await;
    send.try_send(json!({"jsonrpc": "2.0", "id": 9, "method": "roots/list"}).to_string())
        .expect("open");
    assert_eq!(client.message().await["method"], "roots/list");
    let answer = json!({"jsonrpc": "2.0", "id": 9, "result": {"roots": []}});
    assert_eq!(client.post(answer.clone()).await, 202);
    assert_eq!(rig.server.seen().last().expect("seen").body, answer);
    // Two may be open: this one, with the stream inside, leaves room for one more.
    let _second = rig.open().await;
    let third = rig.send(get(&[])).await.expect_err("over the cap");
    assert!(crate::error::find::<Shed>(&*third).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_sessions_stream_is_opened_again_whatever_becomes_of_it() {
    let (send, messages) = mpsc::channel(64);
    let mut standing: VecDeque<_> = (0..10).map(|_| Standing::Breaks).collect();
    standing.extend((0..10).map(|_| Standing::Quiet(Duration::from_secs(60))));
    standing.extend((0..20).map(|_| Standing::Status(503)));
    standing.extend([429, 400].map(Standing::Status));
    standing.push_back(Standing::Open(messages));
    let rig = rig(HttpSseSettings::default(), self::standing(405, standing));
    let mut client = rig.open().await;
    client.greet().await;
    for _ in 0..10 {
        assert_eq!(client.message().await["method"], "tick");
    }
    send.try_send(json!({"jsonrpc": "2.0", "id": 9, "method": "roots/list"}).to_string())
        .expect("open");
    assert_eq!(client.message().await["method"], "roots/list");
    let seen = rig.server.seen().into_iter();
    let gets: Vec<_> = seen
        .filter(|s| s.method == Method::GET && !s.session.is_empty())
        .map(|s| s.last_event)
        .collect();
    // A server that will not go on from there is asked for a stream from now on.
    assert_eq!(gets[40..], ["7", "7", ""]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_opened_again_no_sooner_than_its_server_asks_for() {
    let standing = [Standing::Asks(60_000), Standing::Quiet(Duration::ZERO)];
    let rig = rig(HttpSseSettings::default(), self::standing(405, standing));
    let mut client = rig.open().await;
    client.greet().await;
    sleep(Duration::from_secs(59)).await;
    assert_eq!(rig.gets(), 1);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(rig.gets(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_session_that_was_replaced_is_nothing_to_the_next() {
    let rig = rig(HttpSseSettings::default(), lonely(405));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "lost later")).await, 202);
    client.greet().await;
    assert_eq!(client.message().await["error"]["code"], 404);
    assert_eq!(client.post(request(2, "ping")).await, 202);
    assert_eq!(client.message().await["id"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_replaced_is_ended_with_its_stream() {
    let (first, messages) = mpsc::channel(64);
    let (second, others) = mpsc::channel(64);
    let server = standing(405, [messages, others].map(Standing::Open));
    let rig = rig(HttpSseSettings::default(), server);
    let mut client = rig.open().await;
    client.greet().await;
    sleep(Duration::from_secs(1)).await;
    client.greet().await;
    sleep(Duration::from_secs(1)).await;
    assert!(first.is_closed() && !second.is_closed());
    drop(client);
    rig.channels.close().await;
    let ended = |s: &Seen| s.method == Method::DELETE;
    let seen = rig.server.seen().into_iter().filter(ended);
    assert_eq!(seen.map(|s| s.session).collect::<Vec<_>>(), ["s1", "s2"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_comes_too_late_is_ended() {
    let (channels, told) = (Channels::default(), Arc::new(Mutex::new(Vec::new())));
    let opened = channels.open(&Exchange::new("x"), &HttpSseSettings::default());
    let (token, channel) = opened.expect("a channel");
    let notes = told.clone();
    channel.on_close(Leave {
        channels: channels.clone(),
        token,
        farewell: Box::new(move |session| {
            notes.lock().expect("not poisoned").push(session.id);
            Box::pin(std::future::ready(()))
        }),
    });
    let id = HeaderValue::from_static;
    let session = |name| self::channel::Session {
        id: Some(id(name)),
        version: None,
    };
    channel.begin_session(session("s1"));
    // The same again is no other, and an answer without one begins none.
    channel.begin_session(session("s1"));
    channel.begin_session(Default::default());
    assert!(told.lock().expect("not poisoned").is_empty());
    channel.close();
    channel.begin_session(session("s2"));
    let told = told.lock().expect("not poisoned");
    assert_eq!(*told, ["s1", "s2"].map(|name| Some(id(name))));
}

#[tokio::test(start_paused = true)]
async fn a_channel_takes_its_session_and_its_calls_with_it() {
    let rig = rig(HttpSseSettings::default(), lonely(404));
    let mut client = rig.open().await;
    client.greet().await;
    assert_eq!(client.post(request(1, "hang")).await, 202);
    assert_eq!(rig.channels.len(), 1);
    let gone = client.endpoint.clone();
    drop(client);
    assert!(rig.channels.is_empty());
    rig.channels.close().await;
    let last = rig.server.seen().pop().expect("seen");
    assert_eq!((last.method, &*last.session), (Method::DELETE, "s1"));
    let refused = rig
        .send(post(&gone, &request(2, "ping")))
        .await
        .expect_err("gone");
    assert_eq!(crate::error::find(&*refused), Some(&NoChannel));
}
