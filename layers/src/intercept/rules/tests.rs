use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    Body, BoxError,
    exchange::Exchange,
    intercept::{InterceptLayer, InterceptSettings},
    mcp::CallFacts,
    rescue::RescueLayer,
};

fn rule(when: When, action: Action) -> Rule {
    Rule {
        name: "rule".into(),
        when,
        action,
        on_error: OnError::Block,
    }
}

fn layer(rules: Vec<Rule>, dry_run: bool) -> InterceptLayer {
    let set = RuleSet { rules, dry_run };
    InterceptLayer::new(InterceptSettings::default(), set.interceptors("/mcp"))
}

fn tools(direction: Direction, tool: &str) -> When {
    When {
        tools: vec![tool.into()],
        ..When::new(direction)
    }
}

fn call(tool: &str, arguments: &Value) -> Request<Body> {
    let text = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
    let text = text.to_string();
    let mut request = Request::post("/mcp")
        .header("x-team", "red")
        .body(Body::full(text.clone()))
        .expect("a request");
    let facts = CallFacts::read(&Method::POST, &HeaderMap::new(), &text.into()).expect("a call");
    let exchange = Exchange::of(&mut request);
    exchange.set_call(facts);
    exchange.set_principal("alice".into());
    request
}

/// Sends a request to a server that answers with what it was asked.
async fn send(layer: &InterceptLayer, request: Request<Body>) -> Value {
    let echo = service_fn(async |request: Request<Body>| {
        let body = request.into_body().collect().await?.to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"asked": asked["params"]["arguments"]}});
        Ok::<_, BoxError>(
            Response::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::full(answer.to_string()))?,
        )
    });
    let service = RescueLayer::new().layer(layer.layer(echo));
    let response = service.oneshot(request).await.expect("rescued");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    serde_json::from_slice(&body).unwrap_or_default()
}

fn is_blocked(answer: &Value) -> bool {
    answer["error"]["data"]["kind"] == "blocked"
}

#[tokio::test]
async fn all_that_a_rule_names_must_fit() {
    let request = Direction::Request;
    let named = |name: &str, pattern: &str| vec![(name.parse().expect("a name"), pattern.into())];
    for (when, fits) in [
        (When::new(request), true),
        (tools(request, "ec*"), true),
        (tools(request, "ech"), false),
        (
            When {
                prompts: vec!["echo".into()],
                ..When::new(request)
            },
            false,
        ),
        (
            When {
                prompts: vec!["x".into()],
                ..tools(request, "echo")
            },
            true,
        ),
        (
            When {
                methods: vec!["ping".into(), "tools/*".into()],
                ..When::new(request)
            },
            true,
        ),
        (
            When {
                methods: vec!["ping".into()],
                ..When::new(request)
            },
            false,
        ),
        (
            When {
                paths: vec!["/m*".into()],
                ..When::new(request)
            },
            true,
        ),
        (
            When {
                paths: vec!["/x*".into()],
                ..When::new(request)
            },
            false,
        ),
        (
            When {
                headers: named("x-team", "r*"),
                ..When::new(request)
            },
            true,
        ),
        (
            When {
                headers: named("x-none", "*"),
                ..When::new(request)
            },
            false,
        ),
        (
            When {
                principals: vec!["al*".into()],
                ..When::new(request)
            },
            true,
        ),
        (
            When {
                principals: vec!["bob".into()],
                ..When::new(request)
            },
            false,
        ),
        (tools(Direction::Response, "echo"), true),
        (tools(Direction::Response, "other"), false),
        (When::new(Direction::Server), false),
    ] {
        let layer = layer(vec![rule(when.clone(), Action::Block("no".into()))], false);
        let answer = send(&layer, call("echo", &json!({}))).await;
        assert_eq!(is_blocked(&answer), fits, "{when:?} {answer}");
    }
}

#[tokio::test]
async fn who_the_client_is_and_what_it_sent_decide_before_anything_is_looked_at() {
    let named = |name: &str| vec![(name.parse().expect("a name"), "*".into())];
    let when = || When::new(Direction::Request);
    for (when, passes) in [
        (
            When {
                headers: named("x-none"),
                ..when()
            },
            true,
        ),
        (
            When {
                principals: vec!["bob".into()],
                ..when()
            },
            true,
        ),
        (
            When {
                headers: named("x-team"),
                principals: vec!["alice".into()],
                ..when()
            },
            false,
        ),
    ] {
        // Whoever looks refuses a header that says something else than the message.
        let mut request = call("echo", &json!({}));
        let other = "other".parse().expect("a value");
        request.headers_mut().insert("mcp-name", other);
        let layer = layer(vec![rule(when.clone(), Action::Continue)], false);
        let answer = send(&layer, request).await;
        assert_eq!(answer["result"].is_object(), passes, "{when:?} {answer}");
    }
}

#[tokio::test]
async fn a_rule_changes_answers_or_lets_pass() {
    let set = Edit::Set(
        "/params/arguments/dir".parse().expect("a pointer"),
        "\"/tmp\"".into(),
    );
    let change = Change {
        edits: vec![set],
        ..Change::default()
    };
    let both = layer(
        vec![
            rule(tools(Direction::Request, "read"), Action::Continue),
            rule(tools(Direction::Request, "read"), Action::Modify(change)),
        ],
        false,
    );
    let answer = send(&both, call("read", &json!({"dir": "/etc", "n": 1}))).await;
    assert_eq!(answer["result"]["asked"], json!({"dir": "/tmp", "n": 1}));
    let result = Template::new(json!({"text": "you said {{/params/arguments/t}}", "id": "{{id}}"}))
        .expect("a template");
    let mock = layer(
        vec![rule(
            tools(Direction::Request, "echo"),
            Action::Mock(Respond::Result(result)),
        )],
        false,
    );
    let answer = send(&mock, call("echo", &json!({"t": "hi"}))).await;
    assert_eq!(answer["result"], json!({"text": "you said hi", "id": 1}));
    assert_eq!(
        send(&mock, call("other", &json!({}))).await["result"]["asked"],
        json!({})
    );
}

#[tokio::test]
async fn a_rule_that_fails_goes_by_its_setting_and_a_dry_run_changes_nothing() {
    let unfit = Edit::Set(
        "/params/arguments/a/b".parse().expect("a pointer"),
        "1".into(),
    );
    let change = || {
        Action::Modify(Change {
            edits: vec![unfit.clone()],
            ..Change::default()
        })
    };
    for (on_error, dry_run, passes) in [
        (OnError::Block, false, false),
        (OnError::Skip, false, true),
        (OnError::Block, true, true),
    ] {
        let one = Rule {
            on_error,
            ..rule(When::new(Direction::Request), change())
        };
        let answer = send(&layer(vec![one], dry_run), call("echo", &json!({}))).await;
        assert_eq!(
            answer.get("result").is_some(),
            passes,
            "{on_error:?} {dry_run} {answer}"
        );
    }
    let dry = layer(
        vec![rule(
            When::new(Direction::Request),
            Action::Block("no".into()),
        )],
        true,
    );
    assert!(!is_blocked(&send(&dry, call("echo", &json!({}))).await));
}

#[tokio::test]
async fn on_plain_http_a_rule_sees_the_heads() {
    let headers = |direction, name: &str| {
        let change = Change {
            set_headers: vec![(
                name.parse().expect("a name"),
                "set".parse().expect("a value"),
            )],
            remove_headers: vec![header::SERVER],
            ..Change::default()
        };
        rule(
            When {
                methods: vec!["GET".into()],
                ..When::new(direction)
            },
            Action::Modify(change),
        )
    };
    let both = layer(
        vec![
            headers(Direction::Request, "x-in"),
            headers(Direction::Response, "x-out"),
        ],
        false,
    );
    let inner = service_fn(async |request: Request<Body>| {
        let seen = request.headers().get("x-in").cloned();
        let mut response = Response::new(Body::empty());
        response
            .headers_mut()
            .insert(header::SERVER, "hidden".parse()?);
        response
            .headers_mut()
            .extend(seen.map(|value| (header::VIA, value)));
        Ok::<_, BoxError>(response)
    });
    for (method, changed) in [(Method::GET, true), (Method::PUT, false)] {
        let request = Request::builder()
            .method(method)
            .body(Body::empty())
            .expect("a request");
        let response = both.layer(inner).oneshot(request).await.expect("an answer");
        for (name, set) in [("x-out", changed), ("via", changed), ("server", !changed)] {
            assert_eq!(response.headers().contains_key(name), set, "{name}");
        }
    }
}

#[cfg(feature = "cel")]
#[tokio::test]
async fn an_expression_decides_and_cannot_be_got_around_by_making_it_fail() {
    let when = When {
        expression: Some(Expression::new("args.path.startsWith('/etc')").expect("an expression")),
        ..tools(Direction::Request, "read")
    };
    let one = layer(vec![rule(when.clone(), Action::Block("no".into()))], false);
    assert!(is_blocked(
        &send(&one, call("read", &json!({"path": "/etc/passwd"}))).await
    ));
    assert!(!is_blocked(
        &send(&one, call("read", &json!({"path": "/tmp"}))).await
    ));
    let failed = send(&one, call("read", &json!({"path": ["/etc"]}))).await;
    assert_eq!(
        failed["kind"]
            .as_str()
            .or(failed["error"]["data"]["kind"].as_str()),
        Some("unreadable"),
        "{failed}"
    );
    let skips = Rule {
        on_error: OnError::Skip,
        ..rule(when, Action::Block("no".into()))
    };
    assert!(send(&layer(vec![skips], false), call("read", &json!({}))).await["result"].is_object());
}

/// What is left of a message of the server on a GET, for a client that comes back or that only listens.
async fn resumed(when: When, on_error: OnError, comes_back: bool, text: &'static str) -> String {
    let inner = service_fn(move |_: Request<Body>| async move {
        let response = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
        Ok::<_, BoxError>(response.body(Body::full(text))?)
    });
    let mut request = Request::get("/mcp").body(Body::empty()).expect("a request");
    if comes_back {
        let last = "4".parse().expect("a value");
        request.headers_mut().insert("last-event-id", last);
    }
    let facts = CallFacts::read(&Method::GET, request.headers(), &bytes::Bytes::new());
    Exchange::of(&mut request).set_call(facts.expect("facts"));
    let one = Rule {
        on_error,
        ..rule(when, Action::Block("no".into()))
    };
    let layer = layer(vec![one], false).layer(inner);
    let response = layer.oneshot(request).await.expect("a head");
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

const TOLD: &str = "id: 5\ndata: {\"method\":\"notifications/message\"}\n\n";

#[tokio::test]
async fn an_answer_on_a_resumed_stream_gets_around_no_rule() {
    const ANSWER: &str = "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
    for (when, on_error, passes) in [
        (tools(Direction::Response, "secret"), OnError::Block, false),
        (tools(Direction::Response, "secret"), OnError::Skip, true),
        (When::new(Direction::Response), OnError::Skip, false),
        (tools(Direction::Server, "secret"), OnError::Block, true),
    ] {
        for comes_back in [false, true] {
            let body = resumed(when.clone(), on_error, comes_back, ANSWER).await;
            assert_eq!(body == ANSWER, passes, "{when:?} {comes_back} {body}");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_on_a_resumed_stream_gets_around_no_rule() {
    use OnError::{Block, Skip};
    let named = || tools(Direction::Server, "secret");
    for (when, on_error, comes_back, left) in [
        (named(), Block, true, "id: 5\n\n"),
        (named(), Skip, true, TOLD),
        // On a standing stream it belongs to no call.
        (named(), Block, false, TOLD),
        (When::new(Direction::Server), Block, false, "id: 5\n\n"),
    ] {
        let body = resumed(when.clone(), on_error, comes_back, TOLD).await;
        assert_eq!(body, left, "{when:?} {on_error:?} {comes_back}");
    }
}

#[cfg(feature = "cel")]
#[tokio::test]
async fn an_expression_about_a_request_that_is_not_known_fails() {
    const ANSWER: &str = "id: 5\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
    let when = |direction, text: &str| When {
        expression: Some(Expression::new(text).expect("an expression")),
        ..When::new(direction)
    };
    for (direction, expression, text, passes) in [
        (Direction::Response, "name == 'secrets'", ANSWER, false),
        (Direction::Response, "method == 'tools/list'", ANSWER, false),
        (Direction::Response, "has(result.none)", ANSWER, true),
        (Direction::Server, "name == 'secrets'", TOLD, false),
        (Direction::Server, "method == 'ping'", TOLD, true),
    ] {
        let body = resumed(when(direction, expression), OnError::Block, true, text).await;
        assert_eq!(body == text, passes, "{direction:?} {expression} {body}");
    }
}
