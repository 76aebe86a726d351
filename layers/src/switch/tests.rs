use std::{
    future::ready,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, mcp::headers::PROTOCOL_VERSION};

const ECHO: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;
const DELETE: &str =
    r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"delete_all"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#;
const PROMPT: &str =
    r#"{"jsonrpc":"2.0","id":4,"method":"prompts/get","params":{"name":"delete_all"}}"#;
const NAMELESS: &str =
    r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"Name":"delete_all"}}"#;
const ESCAPED: &str =
    r#"{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"delete\u005fall"}}"#;
/// Without an id it is no request, and a server may execute it all the same.
const DISGUISED: &str = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"delete_all"}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// What becomes of a request with this body, or a GET without one: `None` where it reached the inner service.
async fn send(switches: &Switches, method: Method, body: &str) -> Option<Scope> {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    let inner = service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        ready(Ok::<_, BoxError>(Response::new(Body::empty())))
    });
    let mut request = Request::builder()
        .method(method.clone())
        .body(Body::empty())
        .unwrap();
    let body = Bytes::copy_from_slice(body.as_bytes());
    let facts = CallFacts::read(&method, request.headers(), &body).unwrap();
    Exchange::of(&mut request).set_call(facts);
    let result = SwitchLayer::new(switches).layer(inner).oneshot(request);
    match result.await {
        Ok(_) => {
            assert_eq!(reached.load(Ordering::Relaxed), 1);
            None
        }
        Err(error) => {
            assert_eq!(reached.load(Ordering::Relaxed), 0, "nothing was sent");
            let off = crate::error::find::<SwitchedOff>(&*error);
            Some(off.expect("it says why").what)
        }
    }
}

async fn post(switches: &Switches, body: &str) -> Option<Scope> {
    send(switches, Method::POST, body).await
}

fn without(tools: &[&str]) -> Switches {
    let switches = Switches::new();
    switches.set_tools(tools.iter().map(|tool| Pattern::new(*tool)).collect());
    switches
}

#[tokio::test]
async fn a_tool_that_is_off_is_refused_and_all_else_passes() {
    let switches = without(&["delete_*"]);
    for body in [DELETE, ESCAPED, NAMELESS, DISGUISED] {
        assert_eq!(post(&switches, body).await, Some(Scope::Tool), "{body}");
    }
    for body in [ECHO, LIST, PROMPT, NOTE] {
        assert_eq!(post(&switches, body).await, None, "{body}");
    }
    switches.set_tools(Vec::new());
    for body in [DELETE, ESCAPED, NAMELESS, DISGUISED] {
        assert_eq!(post(&switches, body).await, None, "{body}");
    }
}

#[tokio::test]
async fn a_batch_with_such_a_call_is_refused_whole() {
    let switches = without(&["delete_all"]);
    let batch = format!("[{ECHO},{NOTE},{DELETE}]");
    assert_eq!(post(&switches, &batch).await, Some(Scope::Tool));
    let batch = format!("[{ECHO},{LIST}]");
    assert_eq!(post(&switches, &batch).await, None);
}

#[tokio::test]
async fn a_modern_call_is_refused_as_a_legacy_one() {
    let switches = without(&["echo"]);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let facts = CallFacts::read(
        &Method::POST,
        &HeaderMap::from_iter([(PROTOCOL_VERSION, "2026-07-28".parse().unwrap())]),
        &Bytes::from_static(body.as_bytes()),
    );
    assert_eq!(facts.unwrap().era, crate::mcp::Era::Modern);
    assert_eq!(post(&switches, body).await, Some(Scope::Tool));
}

#[tokio::test]
async fn an_upstream_that_is_off_takes_nothing_but_what_calls_may_wait_for() {
    let switches = without(&["echo"]);
    switches.set_upstream(true);
    assert!(switches.is_off());
    for body in [ECHO, LIST, PROMPT] {
        assert_eq!(post(&switches, body).await, Some(Scope::Upstream), "{body}");
    }
    assert_eq!(
        send(&switches, Method::GET, "").await,
        Some(Scope::Upstream)
    );
    assert_eq!(post(&switches, NOTE).await, None);
    assert_eq!(send(&switches, Method::DELETE, "").await, None);
    switches.set_upstream(false);
    // What was off by itself still is.
    assert_eq!(post(&switches, ECHO).await, Some(Scope::Tool));
    assert_eq!(send(&switches, Method::GET, "").await, None);
}

#[tokio::test]
async fn plain_http_is_refused_with_its_upstream_and_has_no_tools() {
    let switches = without(&["*"]);
    let plain = || {
        let inner =
            service_fn(|_: Request<Body>| ready(Ok::<_, BoxError>(Response::new(Body::empty()))));
        SwitchLayer::new(&switches)
            .layer(inner)
            .oneshot(Request::new(Body::empty()))
    };
    assert!(plain().await.is_ok());
    switches.set_upstream(true);
    assert!(plain().await.is_err());
}
