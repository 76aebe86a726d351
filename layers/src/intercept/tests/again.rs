//! Several layers in one tower, and what is sent again.

use super::*;

/// Wants requests with a tool of this name, and writes them down.
#[derive(Debug)]
struct Only(&'static str, Seen);

impl Interceptor for Only {
    fn name(&self) -> &'static str {
        "only"
    }

    fn wants(&self, asked: &Asked<'_>) -> Interest {
        let mut messages = asked.messages().iter();
        Interest {
            request: messages.any(|message| message.tool() == Some(self.0)),
            ..Interest::default()
        }
    }

    fn request<'a>(
        &'a self,
        _: &'a Context,
        _: &'a mut HeaderMap,
        message: Option<&'a mut Message>,
    ) -> Hook<'a> {
        let text = message.map(|m| String::from_utf8_lossy(m.bytes()).into_owned());
        self.1.lock().expect("not poisoned").extend(text);
        Hook::now(Decision::Continue)
    }
}

/// Has another tool called.
fn renames() -> Arc<dyn Interceptor> {
    Arc::new(Script {
        interest: REQUEST,
        act: Box::new(|message, _| edits(message, set("/params/name", "\"shell\""))),
        seen: Seen::default(),
    })
}

#[tokio::test]
async fn who_looks_for_a_name_is_asked_about_a_call_that_was_given_it() {
    let seen = Seen::default();
    let links: Vec<Arc<dyn Interceptor>> = vec![
        Arc::new(Only("shell", seen.clone())),
        renames(),
        Arc::new(Only("shell", seen.clone())),
        Arc::new(Only("other", seen.clone())),
    ];
    let layer = InterceptLayer::new(InterceptSettings::default(), links);
    send(&layer, call(CALL, &[]), JSON, vec![ANSWER]).await;
    let renamed = CALL.replace("echo", "shell");
    assert_eq!(*seen.lock().expect("not poisoned"), [renamed]);
}

#[tokio::test]
async fn who_did_not_want_a_call_is_not_shown_what_others_made_of_it() {
    let seen = Seen::default();
    let only = Arc::new(Only("shell", seen.clone()));
    let outer = InterceptLayer::new(InterceptSettings::default(), vec![only]);
    let inner = InterceptLayer::new(InterceptSettings::default(), vec![renames()]);
    let exchange = Arc::new(Exchange::new("again"));
    let given = Given::default();
    let service = outer.layer(inner.layer(server(JSON, vec![ANSWER], &given)));
    for _ in 0..2 {
        let called = service.clone().oneshot(again(&exchange, CALL)).await;
        called.expect("an answer");
    }
    assert!(seen.lock().expect("not poisoned").is_empty());
    let given = given.lock().expect("not poisoned");
    let renamed = CALL.replace("echo", "shell");
    assert!(given.iter().all(|(_, body, _)| body == &renamed));
}

/// A call that belongs to this exchange, which may have been sent before.
fn again(exchange: &Arc<Exchange>, text: &str) -> Request<Body> {
    let mut request = call(text, &[]);
    exchange.set_call(Exchange::of(&mut request).asked().expect("facts").clone());
    request.extensions_mut().insert(exchange.clone());
    request
}

/// A layer that has a call say so that it passed here.
fn marks(key: &'static str) -> (InterceptLayer, Seen) {
    script(Interest::ALL, move |message, headers| {
        headers.insert(key, HeaderValue::from_static("yes"));
        match message.filter(|message| message.direction() == Direction::Request) {
            Some(message) => edits(Some(message), set(&format!("/params/arguments/{key}"), "1")),
            None => Decision::Continue,
        }
    })
}

#[tokio::test]
async fn each_layer_of_a_tower_sees_a_call_as_it_came_to_it() {
    let ((outer, first), (inner, second)) = (marks("x-outer"), marks("x-inner"));
    let text = format!("[{CALL}, {}]", CALL.replace("seven", "eight"));
    let answers = "[{\"id\":\"seven\",\"result\":{}},{\"id\":\"eight\",\"result\":{}}]";
    let exchange = Arc::new(Exchange::new("again"));
    let given = Given::default();
    let service = outer.layer(inner.layer(server(JSON, vec![answers], &given)));
    for _ in 0..2 {
        let called = service.clone().oneshot(again(&exchange, &text)).await;
        let response = called.expect("an answer");
        response.into_body().collect().await.expect("a body");
    }
    let marked = |key: &str| CALL.replace("\"t\":\"x\"", &format!("\"t\":\"x\",\"{key}\":1"));
    let requests = |seen: &Seen| {
        let seen = seen.lock().expect("not poisoned");
        let requests = seen.iter().filter(|s| s.starts_with("request"));
        requests.cloned().collect::<Vec<_>>()
    };
    assert_eq!(requests(&first)[0], format!("request {CALL}"));
    assert_eq!(
        requests(&second)[0],
        format!("request {}", marked("x-outer"))
    );
    assert_eq!(
        (requests(&first).len(), requests(&second).len()),
        (2, 2),
        "once for each message"
    );
    let given = given.lock().expect("not poisoned");
    assert_eq!(given[0].1, given[1].1);
    for (headers, body, facts) in given.iter() {
        assert!(headers["x-outer"] == "yes" && headers["x-inner"] == "yes");
        let both: Value = serde_json::from_slice(body).expect("JSON");
        let arguments = &both[1]["params"]["arguments"];
        assert_eq!(
            (&arguments["x-outer"], &arguments["x-inner"]),
            (&json!(1), &json!(1))
        );
        // The places of the facts are those of this body.
        let last = facts
            .as_ref()
            .expect("facts")
            .messages()
            .last()
            .expect("a message");
        let (id, span) = last.id.clone().expect("an id");
        assert_eq!(&body[span], id.as_json().as_bytes());
    }
}

#[tokio::test]
async fn a_plain_request_that_is_sent_again_is_changed_alike() {
    for interest in [REQUEST, Interest::ALL] {
        let (layer, seen) = script(interest, |message, headers| {
            headers.insert("x-seen", HeaderValue::from_static("yes"));
            if let Some(message) = message {
                message.replace("other".to_owned()).expect("it fits");
            }
            Decision::Continue
        });
        let exchange = Arc::new(Exchange::new("again"));
        let given = Given::default();
        let service = layer.layer(server("text/plain", vec![], &given));
        for _ in 0..2 {
            let mut request = Request::new(Body::full("asked"));
            request.extensions_mut().insert(exchange.clone());
            service.clone().oneshot(request).await.expect("an answer");
        }
        let seen = seen.lock().expect("not poisoned");
        let shown = seen.iter().filter(|s| s.starts_with("request")).count();
        assert_eq!(shown, 1, "{seen:?}");
        let body = if interest == REQUEST {
            "asked"
        } else {
            "other"
        };
        let given = given.lock().expect("not poisoned");
        assert!(
            given
                .iter()
                .all(|(headers, text, _)| headers["x-seen"] == "yes" && text == body)
        );
    }
}

#[tokio::test]
async fn a_call_that_is_sent_again_is_not_shown_again_and_is_changed_alike() {
    let (layer, seen) = script(REQUEST, |message, headers| {
        headers.insert("x-seen", HeaderValue::from_static("yes"));
        edits(message, set("/params/arguments/t", "\"new\""))
    });
    let exchange = Arc::new(Exchange::new("again"));
    let given = Given::default();
    let service = layer.layer(server(JSON, vec![ANSWER], &given));
    for _ in 0..2 {
        let called = service.clone().oneshot(again(&exchange, CALL)).await;
        called.expect("an answer");
    }
    assert_eq!(seen.lock().expect("not poisoned").len(), 1);
    let given = given.lock().expect("not poisoned");
    assert_eq!(given[0].1, given[1].1);
    assert!(given.iter().all(|(headers, body, _)| {
        headers["x-seen"] == "yes" && body == &CALL.replace("\"x\"", "\"new\"")
    }));
}
