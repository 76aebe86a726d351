//! Limits by what an expression says.

use super::*;
use crate::expression::Expression;

fn by(expression: &str, per: &[KeyPart]) -> RateLimitSettings {
    RateLimitSettings {
        expression: Some(Expression::new(expression).expect("an expression")),
        ..limit("e", per, "1/h")
    }
}

fn both(limit: RateLimitSettings) -> (Rig, RateLimits) {
    let limits = RateLimits::new("r");
    (Rig::of(limits.layer(&[limit])), limits)
}

fn asks(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a","arguments":{arguments}}}}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn each_value_has_a_bucket() {
    let (rig, limits) = both(by("args.tenant", &[]));
    for (arguments, passes) in [
        (r#"{"tenant":"red"}"#, true),
        (r#"{"tenant":"blue"}"#, true),
        (r#"{"tenant":"red","more":1}"#, false),
    ] {
        assert_eq!(
            rig.passes(post(&asks(arguments))).await,
            passes,
            "{arguments}"
        );
    }
    let one = &limits.look(9)[0];
    assert_eq!(one.keys, 2);
    assert_eq!(one.nearest[0].key[0].0, "expression");
    // Of a batch each message is asked about.
    let batch = [asks(r#"{"tenant":"green"}"#), asks(r#"{"tenant":"red"}"#)];
    assert!(!rig.passes(post(&format!("[{}]", batch.join(",")))).await);
    assert!(
        rig.passes(post(&asks(r#"{"tenant":"green"}"#))).await,
        "it was given back"
    );
}

#[tokio::test(start_paused = true)]
async fn what_it_says_null_of_does_not_count() {
    let (rig, _) = both(by(
        "has(args.size) && args.size > 100 ? 'large' : null",
        &[],
    ));
    for (arguments, passes) in [
        (r#"{"size":1}"#, true),
        (r#"{}"#, true),
        (r#"{"size":101}"#, true),
        (r#"{"size":1}"#, true),
        (r#"{"size":102}"#, false),
    ] {
        assert_eq!(
            rig.passes(post(&asks(arguments))).await,
            passes,
            "{arguments}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_it_fails_the_client_stands_in_its_place() {
    let (rig, limits) = both(by("args.tenant", &[]));
    // Nothing there; no text; a key that stands twice, of which one reader takes the first and another the last.
    for arguments in ["{}", r#"{"tenant":[]}"#, r#"{"tenant":"a","tenant":"b"}"#] {
        let first = arguments == "{}";
        assert_eq!(
            rig.passes(post(&asks(arguments))).await,
            first,
            "{arguments}"
        );
    }
    assert!(rig.passes(post(&asks("{}")).of(7)).await, "a session");
    let other = post(&asks("{}")).from("10.0.0.2");
    assert!(rig.passes(other).await, "another client");
    let parts: Vec<_> = limits.look(9)[0]
        .nearest
        .iter()
        .map(|key| key.key[0].0)
        .collect();
    assert_eq!(parts.iter().filter(|part| **part == "client").count(), 2);
    assert_eq!(parts.iter().filter(|part| **part == "session").count(), 1);
}

/// Who adds to a message gets no bucket of his own.
#[tokio::test(start_paused = true)]
async fn messages_that_are_too_large_count_together() {
    let (rig, _) = both(by("args.tenant", &[]));
    let large = |tenant: &str| {
        let more = "x".repeat(Expression::BYTES);
        post(&asks(&format!(
            r#"{{"tenant":"{tenant}","more":"{more}"}}"#
        )))
    };
    assert!(rig.passes(large("red")).await);
    assert!(!rig.passes(large("blue").from("10.0.0.2")).await);
    assert!(!rig.passes(large("blue").of(7)).await);
    assert!(rig.passes(post(&asks(r#"{"tenant":"red"}"#))).await);
}

#[tokio::test(start_paused = true)]
async fn headers_and_facts_need_no_body_and_parts_go_together() {
    let (rig, _) = both(by("http_method + path", &[KeyPart::Client]));
    assert!(rig.passes(bare(Method::POST).plain()).await);
    assert!(!rig.passes(bare(Method::POST).plain()).await);
    assert!(rig.passes(bare(Method::PUT).plain()).await);
    assert!(rig.passes(bare(Method::PUT).plain().from("10.0.0.2")).await);
}

/// A value that looks like a token is not shown to operators, and a long one is hashed.
#[tokio::test(start_paused = true)]
async fn what_is_shown_of_a_value_is_no_secret() {
    let (rig, limits) = both(by("args.t", &[]));
    let token = format!("ghp_{}", "a1B2".repeat(9));
    rig.passes(post(&asks(&format!(r#"{{"t":"{token}"}}"#))))
        .await;
    rig.passes(post(&asks(&format!(r#"{{"t":"{}"}}"#, "x".repeat(500)))))
        .await;
    let shown = format!("{:?}", limits.look(9));
    assert!(
        !shown.contains("ghp_") && shown.contains("***") && shown.contains('#'),
        "{shown}"
    );
}

/// What stands in a header or an argument of such a name is not shown, whatever it looks like.
#[tokio::test(start_paused = true)]
async fn what_may_be_a_secret_by_its_name_is_hashed() {
    let (rig, limits) = both(by("args.apiKey", &[]));
    for (key, passes) in [("hush", true), ("hash", true), ("hush", false)] {
        let asks = asks(&format!(r#"{{"apiKey":"{key}"}}"#));
        assert_eq!(rig.passes(post(&asks)).await, passes, "{key}");
    }
    let shown = format!("{:?}", limits.look(9));
    assert!(!shown.contains("hush") && shown.contains('#'), "{shown}");
}
