use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method};

use super::*;
use crate::exchange::Exchange;

const SETTINGS: PauseSettings = PauseSettings {
    limit: Duration::from_secs(60),
    then: AtLimit::Block,
};

const CALL: &str = r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"api_key":"hush","x":["ghp_hush",1],"token":5}}}"#;

fn snapshot() -> Snapshot {
    snapshot_of(CALL)
}

fn snapshot_of(text: &'static str) -> Snapshot {
    let exchange = Arc::new(Exchange::new("r-1"));
    let context = Context::new(exchange, None, Method::POST, "/mcp", HeaderMap::new());
    let message = Message::told(Bytes::from(text), 1000).expect("a message");
    Snapshot::of("rule", &context, Some(&message), Stage::Asking)
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_is_shown_without_its_secrets_and_goes_on_as_decided() {
    let paused = Paused::default();
    for resolution in [
        Resolution::Resume,
        Resolution::ResumeWith(CALL.replace("hush", "other")),
        Resolution::Block(Block {
            message: "no".to_owned(),
        }),
    ] {
        let mut waits = Box::pin(paused.wait(SETTINGS, snapshot()));
        assert!((&mut waits).now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(20)).await;
        let all = paused.list();
        let [one] = &all[..] else { panic!("{all:?}") };
        assert_eq!(
            (one.by.as_str(), one.method.as_str()),
            ("rule", "tools/call")
        );
        assert_eq!(one.left, Duration::from_secs(40));
        let message = paused.all().remove(0).1.expect("a message");
        assert!(!message.to_string().contains("hush"), "{message}");
        assert_eq!(message["params"]["arguments"]["x"][1], 1);
        for unfit in ["{}", &CALL.replace(":1,", ":2,"), &" ".repeat(1001)] {
            let refused = paused.decide(one.id, Resolution::ResumeWith(unfit.to_owned()));
            assert!(matches!(refused, Err(NotDecided::Unfit(_))), "{unfit}");
            assert_eq!(paused.list().len(), 1, "it still waits");
        }
        assert_eq!(paused.decide(one.id, resolution.clone()), Ok(()));
        assert_eq!(waits.await, Ok(resolution.clone()));
        assert_eq!(paused.decide(one.id, resolution), Err(NotDecided::Gone));
    }
    assert!(paused.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_allowed_nor_in_greater_number() {
    let paused = Paused::new(1);
    let first = tokio::spawn({
        let paused = paused.clone();
        async move { paused.wait(SETTINGS, snapshot()).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(
        paused.wait(SETTINGS, snapshot()).await,
        Err(PauseFull {
            most: 1,
            sent: false
        })
    );
    let late = first.await.expect("it ends").expect("it had a place");
    assert!(matches!(late, Resolution::Block(_)));
    let resume = PauseSettings {
        then: AtLimit::Resume,
        ..SETTINGS
    };
    assert_eq!(
        paused.wait(resume, snapshot()).await,
        Ok(Resolution::Resume)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_frees_its_place_and_a_shutdown_frees_all() {
    let paused = Paused::new(1);
    let mut waits = Box::pin(paused.wait(SETTINGS, snapshot()));
    assert!((&mut waits).now_or_never().is_none());
    drop(waits);
    assert!(paused.list().is_empty());
    let resume = PauseSettings {
        then: AtLimit::Resume,
        ..SETTINGS
    };
    let mut waits = Box::pin(paused.wait(resume, snapshot()));
    assert!((&mut waits).now_or_never().is_none());
    paused.close();
    assert_eq!(waits.now_or_never(), Some(Ok(Resolution::Resume)));
    assert_eq!(
        paused.wait(resume, snapshot()).now_or_never(),
        Some(Ok(Resolution::Resume))
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_sent_back_masked_goes_on_with_its_secrets() {
    let answer = r#"{"id":1,"result":{"apiKey":"hush","n":1}}"#;
    for (text, edit) in [
        (CALL, ("\"token\":5", "\"token\":6")),
        (answer, ("\"n\":1", "\"n\":2")),
    ] {
        let paused = Paused::default();
        let mut waits = Box::pin(paused.wait(SETTINGS, snapshot_of(text)));
        assert!((&mut waits).now_or_never().is_none());
        let [(one, Some(shown))] = &paused.all()[..] else {
            panic!("one waits with its message")
        };
        let edited = shown.to_string().replace("\"token\":\"***\"", edit.1);
        let edited = edited.replace(edit.0, edit.1);
        assert!(edited.contains("***"), "{edited}");
        // Elsewhere a mask is none.
        let wrong = edited.replace("\"id\":1", "\"id\":1,\"x\":\"***\"");
        let refused = paused.decide(one.id, Resolution::ResumeWith(wrong));
        assert_eq!(refused, Err(NotDecided::Masked));
        let decided = paused.decide(one.id, Resolution::ResumeWith(edited));
        assert_eq!(decided, Ok(()));
        let Ok(Resolution::ResumeWith(goes_on)) = waits.await else {
            panic!("it goes on with another message")
        };
        let expected: Value = serde_json::from_str(&text.replace(edit.0, edit.1)).expect("JSON");
        let goes_on: Value = serde_json::from_str(&goes_on).expect("JSON");
        assert_eq!(goes_on, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_in_the_last_moment_counts() {
    let paused = Paused::default();
    let mut waits = Box::pin(paused.wait(SETTINGS, snapshot()));
    assert!((&mut waits).now_or_never().is_none());
    // Another thread has taken the place, and has not told its decision yet.
    let taken = paused.shared.places().waiting.remove(&1).expect("it waits");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(taken.decide.send(Resolution::Resume), Ok(()));
    assert_eq!(waits.await, Ok(Resolution::Resume));
}

#[tokio::test(start_paused = true)]
async fn delays_are_bounded_and_end_with_the_process() {
    let paused = Paused::new(1);
    let hour = Duration::from_secs(3600);
    let mut waits: Vec<_> = (0..Paused::DELAYED)
        .map(|_| Box::pin(paused.delay(hour)))
        .collect();
    assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
    let refused = paused.delay(hour).now_or_never();
    assert!(matches!(refused, Some(Err(PauseFull { sent: false, .. }))));
    drop(waits.pop());
    let mut late = Box::pin(paused.delay(hour));
    assert!((&mut late).now_or_never().is_none());
    paused.close();
    assert_eq!(late.now_or_never(), Some(Ok(())));
    assert_eq!(waits.remove(0).now_or_never(), Some(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_limit_without_end_is_a_day() {
    let paused = Paused::new(1);
    let endless = PauseSettings {
        limit: Duration::MAX,
        ..SETTINGS
    };
    let mut waits = Box::pin(paused.wait(endless, snapshot()));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(paused.list()[0].left, PauseSettings::LONGEST);
    assert!(matches!(waits.await, Ok(Resolution::Block(_))));
}
