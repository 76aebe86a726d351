use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Body,
    error::{Outcome, find},
    fault::{Blame, Fault},
    mcp::CallFacts,
    pattern::Pattern,
    rescue::Row,
    share::Share,
};

const STREAM: &str = ": hello\n\ndata: 1\n\ndata: 2\r\n\r\nid: x\ndata: 3\n\n";

async fn below(_: Request<Body>) -> Result<Response<Body>, BoxError> {
    // In pieces of three bytes, so that cuts fall anywhere.
    let frames = STREAM
        .as_bytes()
        .chunks(3)
        .map(|piece| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(piece))));
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    Ok(Response::new(Body::new(body)))
}

fn layer(rules: Vec<ChaosRule>) -> ChaosLayer {
    ChaosLayer::new(ChaosSettings { seed: 7, rules })
}

fn always(injection: Injection) -> ChaosLayer {
    layer(vec![ChaosRule::new(injection, Share::ALL)])
}

/// The body that comes through, and the error that ends it.
async fn read(layer: &ChaosLayer) -> (Vec<u8>, Option<Injected>) {
    let service = layer.layer(service_fn(below));
    let response = service.oneshot(Request::new(Body::empty())).await;
    let mut body = response.expect("a response").into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => read.extend_from_slice(frame.data_ref().expect("data")),
            Err(error) => {
                assert!(body.frame().await.is_none());
                return (read, find(&*error).copied());
            }
        }
    }
    (read, None)
}

async fn status(layer: &ChaosLayer, request: Request<Body>) -> Result<StatusCode, BoxError> {
    let service = layer.layer(service_fn(below));
    Ok(service.oneshot(request).await?.status())
}

#[tokio::test]
async fn an_abort_looks_as_the_upstreams_failure_and_says_what_was_sent() {
    let answered = always(Injection::Abort(Abort::Status(StatusCode::BAD_GATEWAY)));
    let seen = status(&answered, Request::new(Body::empty())).await;
    assert_eq!(seen.expect("a response"), StatusCode::BAD_GATEWAY);
    for (how, outcome) in [
        (Abort::Refused, Outcome::NotSent),
        (Abort::Lost, Outcome::Unknown),
    ] {
        let layer = always(Injection::Abort(how));
        let error = status(&layer, Request::new(Body::empty())).await;
        let row = Row::of(&Fault::of(&*error.expect_err("aborted")));
        assert_eq!((row.kind, row.outcome), ("injected", outcome));
        assert_eq!(row.blame, Blame::Upstream);
    }
}

#[tokio::test]
async fn a_body_is_cut_after_events_or_bytes() {
    let two = STREAM.find("id: x").expect("the third");
    // The last line end of an event with CRLF may stay behind.
    for (at, ends) in [
        (Point::Events(0), 0..=0),
        (Point::Events(2), two - 1..=two),
        (Point::Bytes(0), 0..=0),
        (Point::Bytes(10), 10..=10),
        (
            Point::Bytes(STREAM.len() as u64),
            STREAM.len()..=STREAM.len(),
        ),
    ] {
        let (read, error) = read(&always(Injection::Cut(at))).await;
        assert_eq!(error, Some(Injected { sent: true }), "{at:?}");
        assert!(ends.contains(&read.len()), "{at:?}: {}", read.len());
        assert!(STREAM.as_bytes().starts_with(&read));
    }
    for at in [Point::Events(4), Point::Bytes(STREAM.len() as u64 + 1)] {
        let (read, error) = read(&always(Injection::Cut(at))).await;
        assert_eq!((&*read, error), (STREAM.as_bytes(), None), "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_drips() {
    let before = Instant::now();
    let drip = always(Injection::Drip {
        bytes: 2.try_into().expect("not zero"),
        every: Duration::from_secs(1),
    });
    let (read, error) = read(&drip).await;
    assert_eq!((&*read, error), (STREAM.as_bytes(), None));
    // Each piece of three comes in two.
    let pieces = 2 * STREAM.len() as u64 / 3;
    let took = before.elapsed().as_secs();
    assert!(took >= pieces - 2 && took <= pieces, "{took} of {pieces}");
}

#[tokio::test]
async fn garbage_keeps_the_length_and_changes_some_bytes() {
    for one_in in [1_u32, 5] {
        let layer = always(Injection::Garbage {
            one_in: one_in.try_into().expect("not zero"),
        });
        let (read, error) = read(&layer).await;
        assert_eq!((read.len(), error), (STREAM.len(), None));
        let wrong = read.iter().zip(STREAM.as_bytes()).filter(|(a, b)| a != b);
        let wrong = wrong.count();
        let expected = STREAM.len() / one_in as usize;
        assert!(wrong >= expected / 2 && wrong <= expected * 2, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_lies_between_its_ends() {
    let layer = always(Injection::Delay {
        min: Duration::from_secs(1),
        max: Duration::from_secs(3),
    });
    let mut seen = Vec::new();
    for _ in 0..20 {
        let before = Instant::now();
        let response = status(&layer, Request::new(Body::empty())).await;
        assert_eq!(response.expect("a response"), StatusCode::OK);
        let took = before.elapsed();
        assert!(took >= Duration::from_secs(1) && took <= Duration::from_millis(3001));
        seen.push(took);
    }
    seen.dedup();
    assert!(seen.len() > 10);
}

/// Which of `n` requests are aborted.
async fn aborted(layer: &ChaosLayer, n: usize) -> Vec<bool> {
    let mut aborted = Vec::new();
    for _ in 0..n {
        aborted.push(status(layer, Request::new(Body::empty())).await.is_err());
    }
    aborted
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults_for_a_share_of_requests() {
    let share = Share::new(0.3).expect("a share");
    let rule = ChaosRule::new(Injection::Abort(Abort::Refused), share);
    let first = aborted(&layer(vec![rule.clone()]), 1000).await;
    assert_eq!(first, aborted(&layer(vec![rule.clone()]), 1000).await);
    let hits = first.iter().filter(|hit| **hit).count();
    assert!((250..=350).contains(&hits), "{hits}");
    let other = ChaosLayer::new(ChaosSettings {
        seed: 8,
        rules: vec![rule],
    });
    assert_ne!(first, aborted(&other, 1000).await);
}

fn call(tool: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let text = format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    let facts = CallFacts::read(&Method::POST, request.headers(), &text.into_bytes().into());
    Exchange::of(&mut request).set_call(facts.expect("a call"));
    request
}

#[tokio::test]
async fn the_first_rule_that_matches_and_hits_is_applied() {
    let rule = |status: u16, share, matches| {
        let status = StatusCode::from_u16(status).expect("a status");
        ChaosRule::new(Injection::Abort(Abort::Status(status)), share).of(matches)
    };
    let never = rule(500, Share::NONE, ChaosMatch::default());
    let tool = ChaosMatch {
        method: Some(Pattern::new("tools/*")),
        name: Some(Pattern::new("re*d")),
        ..ChaosMatch::default()
    };
    let path = ChaosMatch {
        path: Some("/a".into()),
        http_method: Some(Method::GET),
        ..ChaosMatch::default()
    };
    let route = ChaosMatch {
        route: Some(Pattern::new("*")),
        ..ChaosMatch::default()
    };
    let layer = layer(vec![
        never,
        rule(501, Share::ALL, tool),
        rule(502, Share::ALL, path),
        rule(503, Share::ALL, route),
    ]);
    let mut at_path = Request::new(Body::empty());
    *at_path.uri_mut() = "/a/b".parse().expect("a path");
    for (request, expected) in [
        (call("read"), 501),
        (call("write"), 200),
        (at_path, 502),
        (Request::new(Body::empty()), 200),
    ] {
        let seen = status(&layer, request).await.expect("a response");
        assert_eq!(seen, expected);
    }
}
