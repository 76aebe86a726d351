//! How sessions end by time.

use super::*;

const IDLE: u64 = 30 * 60;

#[tokio::test(start_paused = true)]
async fn a_quiet_session_ends_and_a_busy_one_does_not() {
    let rig = Rig::new(settings());
    let (quiet, busy) = (rig.initialize().await, rig.initialize().await);
    for _ in 0..3 {
        wait(IDLE / 3).await;
        assert_eq!(rig.try_send(Method::POST, &busy, NOTE).await, Ok(200));
    }
    rig.server.seen();
    assert_eq!(rig.ping(&quiet).await, GONE);
    assert_eq!(rig.server.seen(), []);
    wait(IDLE - 1).await;
    assert_eq!(rig.ping(&busy).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_hand_holds_expiry_off() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    rig.server.script().slow = true;
    let call = rig.send(rig.request(Method::POST, Some(&id), PING)).await;
    let call = call.expect("an answer that does not end");
    wait(3 * IDLE).await;
    rig.store.sweep();
    assert_eq!(rig.list().await[0].in_hand, 1);
    assert_eq!(rig.list().await[0].idle, Duration::ZERO);
    drop(call);
    wait(IDLE - 1).await;
    rig.store.sweep();
    assert_eq!(rig.list().await[0].in_hand, 0);
    wait(1).await;
    rig.store.sweep();
    assert_eq!(rig.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_does_not_hold_expiry_off_and_ends_with_its_session() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    let mut stream = tokio_test::task::spawn(rig.stream(&id).await);
    tokio_test::assert_pending!(stream.enter(|cx, body| body.poll_frame(cx)));
    wait(IDLE).await;
    assert!(!stream.is_woken(), "nobody looked yet");
    rig.store.sweep();
    assert!(stream.is_woken());
    let end = stream.enter(|cx, body| body.poll_frame(cx));
    assert!(matches!(end, Poll::Ready(None)));
    assert!(stream.is_end_stream());
    assert_eq!(rig.ping(&id).await, GONE);
}

#[tokio::test(start_paused = true)]
async fn messages_on_a_stream_keep_its_session_if_somebody_reads_them() {
    for read in [true, false] {
        let rig = Rig::new(settings());
        let id = rig.initialize().await;
        let mut stream = rig.stream(&id).await;
        for _ in 0..3 {
            let sender = rig.server.script().streams[0].clone();
            sender.send("data: 1\n\n").await.expect("open");
            wait(IDLE / 2).await;
            if read {
                let frame = stream.frame().await.expect("an event").expect("no error");
                assert_eq!(&frame.into_data().expect("data")[..], b"data: 1\n\n");
            }
        }
        rig.store.sweep();
        assert_eq!(rig.list().await.len(), usize::from(read));
    }
}

#[tokio::test(start_paused = true)]
async fn where_messages_are_seen_a_comment_is_no_activity() {
    let rig = Rig::new(settings());
    let id = rig.initialize().await;
    let request = rig.request(Method::GET, Some(&id), "");
    let exchange = Exchange::get(&request).expect("an exchange").clone();
    exchange.response().observe(&crate::waits::Waits::default());
    let mut stream = rig.send(request).await.expect("a stream").into_body();
    let sender = rig.server.script().streams[0].clone();
    for (message, alive) in [(true, 1), (false, 0)] {
        for _ in 0..3 {
            wait(IDLE / 2).await;
            sender.send(": ping\n\n").await.expect("open");
            if message {
                exchange.saw_event();
            }
            stream.frame().await.expect("an event").expect("no error");
        }
        rig.store.sweep();
        assert_eq!(rig.list().await.len(), alive);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_outlive_its_lifetime() {
    let rig = Rig::new(SessionSettings {
        lifetime: Some(Duration::from_secs(3600)),
        ..settings()
    });
    let id = rig.initialize().await;
    let mut stream = tokio_test::task::spawn(rig.stream(&id).await);
    tokio_test::assert_pending!(stream.enter(|cx, body| body.poll_frame(cx)));
    for _ in 0..3 {
        wait(1000).await;
        assert_eq!(rig.ping(&id).await, Ok(200));
    }
    wait(600).await;
    assert_eq!(rig.ping(&id).await, GONE);
    assert!(stream.is_woken());
}

#[tokio::test(start_paused = true)]
async fn sessions_that_ended_do_not_come_back() {
    let rig = Rig::new(settings());
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(rig.initialize().await);
    }
    wait(IDLE).await;
    rig.store.sweep();
    for id in ids {
        assert_eq!(rig.ping(&id).await, GONE);
    }
    assert_eq!(rig.list().await, []);
}
