use super::*;
use crate::{mcp::peek::Answer, waits::Waits};

#[test]
fn a_sane_request_id_is_kept_and_another_is_replaced() {
    let mut request = Request::new(());
    request
        .headers_mut()
        .insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
    assert_eq!(Exchange::of(&mut request).id(), "abc-1");
    for bad in ["", "a b", &"x".repeat(129)] {
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert(REQUEST_ID, HeaderValue::from_str(bad).expect("a value"));
        let exchange = Exchange::of(&mut request);
        assert_eq!(exchange.id().len(), 32);
        assert_eq!(request.headers()[REQUEST_ID], exchange.id());
        assert!(Arc::ptr_eq(&exchange, &Exchange::of(&mut request)));
    }
}

#[test]
fn another_attempt_takes_back_a_clock_but_no_order() {
    for (why, left) in [
        (GiveUp::Timeout, None),
        (GiveUp::Operator, Some(GiveUp::Operator)),
        (GiveUp::Drain, Some(GiveUp::Drain)),
        (GiveUp::Proxy, Some(GiveUp::Proxy)),
    ] {
        let exchange = Exchange::new("x");
        exchange.give_up(why);
        exchange.go_on();
        assert_eq!(exchange.gave_up(), left);
    }
}

#[test]
fn nothing_of_an_attempt_is_left_after_a_reset() {
    let exchange = Exchange::new("x");
    exchange.saw_event();
    exchange.saw_progress();
    exchange.response().saw_answer(Answer::Result);
    exchange.response().set_unfinished();
    exchange.response().set_ended_unanswered();
    exchange.response().saw_event_id("7".into());
    exchange.response().saw_retry(Duration::from_secs(1));
    exchange.response().go_on();
    exchange.response().observe(&Waits::default());
    exchange.response().reset();
    assert!(exchange.last_event().is_none() && exchange.last_progress().is_none());
    assert!(!exchange.is_answered() && exchange.response().answer().is_none());
    let response = exchange.response();
    assert_eq!(response.events(), 0);
    assert!(response.at_boundary(), "still observed");
    assert!(!response.is_unfinished() && !response.ended_unanswered());
    assert_eq!((response.event_id(), response.retry()), (None, None));
    assert!(!response.goes_on() && !response.is_repeated("7"));
}
