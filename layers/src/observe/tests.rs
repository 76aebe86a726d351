use http_body_util::{BodyExt, StreamBody};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, mcp::CallFacts, mcp::peek::Answer};

/// The frames that come out of `pieces`, and what the exchange knows then.
async fn pass(
    kind: &'static str,
    pieces: Vec<&'static str>,
    fail: bool,
) -> (Vec<String>, bool, Arc<Exchange>) {
    let service = ObserveLayer::new("u").layer(service_fn(move |_: Request<Body>| {
        let pieces: Vec<Result<http_body::Frame<Bytes>, BoxError>> = pieces
            .iter()
            .map(|p| Ok(http_body::Frame::data(Bytes::from_static(p.as_bytes()))))
            .chain(fail.then(|| Err("cut".into())))
            .collect();
        let body = Body::new(StreamBody::new(futures_util::stream::iter(pieces)));
        let response = Response::builder().header("content-type", kind).body(body);
        async { response.map_err(BoxError::from) }
    }));
    let mut request = Request::new(Body::empty());
    let exchange = Exchange::of(&mut request);
    let call = Bytes::from_static(br#"{"id":1,"method":"tools/call"}"#);
    exchange
        .set_call(CallFacts::read(&http::Method::POST, request.headers(), &call).expect("a call"));
    let mut body = service.oneshot(request).await.expect("a head").into_body();
    let (mut out, mut failed) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => out
                .push(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")),
            Err(_) => {
                failed = true;
                break;
            }
        }
    }
    (out, failed, exchange)
}

#[tokio::test]
async fn events_are_released_whole_and_read_once() {
    let pieces = vec![
        "data: {\"method\":\"notifications/pro",
        "gress\"}\n\ndata: {\"id\":1,",
        "\"result\":{\"isError\":true}}\n",
        "\n",
    ];
    let whole = pieces.concat();
    let (out, failed, exchange) = pass("text/event-stream; charset=utf-8", pieces, false).await;
    assert!(!failed);
    assert_eq!(out.concat(), whole);
    assert_eq!(
        out[..2].concat(),
        "data: {\"method\":\"notifications/progress\"}\n\n"
    );
    assert!(exchange.last_progress().is_some());
    assert_eq!(exchange.response().answer(), Some(Answer::ToolError));
    assert_eq!(exchange.response().events(), 2);
    assert!(exchange.is_answered());
}

#[tokio::test]
async fn a_cut_leaves_no_half_event() {
    let (out, failed, exchange) =
        pass("text/event-stream", vec!["data: a\n\nda", "ta: b"], true).await;
    assert!(failed);
    assert_eq!(out, ["data: a\n\n"]);
    assert!(exchange.response().at_boundary() && !exchange.is_answered());
}

#[tokio::test]
async fn a_json_answer_is_read_as_it_passes() {
    let (out, _, exchange) = pass(
        "application/json",
        vec!["{\"id\":1,\"err", "or\":{\"code\":-32601}}"],
        false,
    )
    .await;
    assert_eq!(out.len(), 2);
    assert_eq!(exchange.response().answer(), Some(Answer::Error(-32601)));
}

#[tokio::test]
async fn a_question_to_the_client_is_known_until_its_stream_is_gone() {
    let stream = [
        "data: {\"id\":9,\"method\":\"elicitation/create\"}\n\n",
        "data: {\"id\":1,\"result\":{}}\n\n",
    ];
    let (_, _, exchange) = pass("text/event-stream", stream[..1].to_vec(), false).await;
    // The body is gone by now, and its questions with it.
    assert!(!exchange.wait().open);
}
