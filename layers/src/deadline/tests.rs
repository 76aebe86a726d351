use std::convert::Infallible;

use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, by_tool::tests::calls, error, waits::Waits};

const SETTINGS: DeadlineSettings = DeadlineSettings {
    limit: Duration::from_secs(10),
    cap: Duration::from_secs(60),
};

type Frames = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// A call whose response head comes at once, and whose body is sent by the test.
async fn streaming() -> (Frames, Arc<Exchange>, DeadlineBody<Body>) {
    let (sender, receiver) = mpsc::channel(4);
    let mut receiver = Some(receiver);
    let mut service =
        DeadlineLayer::new(Some(SETTINGS)).layer(service_fn(move |_: Request<Body>| {
            let receiver = receiver.take().expect("one call");
            let stream =
                futures_util::stream::unfold(receiver, async |mut r: mpsc::Receiver<_>| {
                    Some((r.recv().await?, r))
                });
            let body = Body::new(StreamBody::new(stream));
            async { Ok::<_, BoxError>(Response::new(body)) }
        }));
    let mut request = Request::new(Body::empty());
    let exchange = Exchange::of(&mut request);
    let body = service
        .ready()
        .await
        .expect("ready")
        .call(request)
        .await
        .expect("a head")
        .into_body();
    (sender, exchange, body)
}

fn exceeded(error: &BoxError) -> DeadlineExceeded {
    *error::find(&**error).expect("the deadline")
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_fails_at_the_limit_and_says_why() {
    let service = DeadlineLayer::new(Some(SETTINGS)).layer(service_fn(async |_: Request<Body>| {
        std::future::pending::<Result<Response<Body>, BoxError>>().await
    }));
    let mut request = Request::new(Body::empty());
    let exchange = Exchange::of(&mut request);
    let error = service
        .oneshot(request)
        .await
        .map(|_| ())
        .expect_err("too late");
    assert_eq!(
        exceeded(&error),
        DeadlineExceeded {
            limit: SETTINGS.limit,
            sent: false
        }
    );
    assert_eq!(exchange.started().elapsed(), SETTINGS.limit);
    assert_eq!(exchange.gave_up(), Some(GiveUp::Timeout));
}

#[tokio::test(start_paused = true)]
async fn progress_extends_the_limit_up_to_the_cap() {
    let (_sender, exchange, mut body) = streaming().await;
    let ticking = exchange.clone();
    let ticker = async move {
        loop {
            tokio::time::sleep(Duration::from_secs(7)).await;
            ticking.saw_progress();
        }
    };
    let frame = tokio::select! {
        frame = body.frame() => frame,
        () = ticker => None,
    };
    let error = frame.expect("a frame").expect_err("too late");
    assert_eq!(exceeded(&error).limit, SETTINGS.cap);
    assert_eq!(exchange.started().elapsed(), SETTINGS.cap);
}

#[tokio::test(start_paused = true)]
async fn no_clock_runs_while_the_client_is_asked() {
    let (_sender, exchange, mut body) = streaming().await;
    let waits = Waits::default();
    exchange.response().observe(&waits);
    let facts = crate::mcp::CallFacts::read(
        &http::Method::POST,
        &http::HeaderMap::new(),
        &Bytes::from_static(br#"{"id":1,"method":"tools/call"}"#),
    );
    exchange.set_call(facts.expect("a call"));
    let mut asked = waits.stream(exchange.id());
    asked.ask(crate::mcp::Id::from_number(9));
    let answer = async {
        tokio::time::sleep(Duration::from_secs(500)).await;
        waits.answered(exchange.id(), &crate::mcp::Id::from_number(9));
        std::future::pending::<()>().await;
    };
    let frame = tokio::select! {
        frame = body.frame() => frame,
        () = answer => None,
    };
    exceeded(&frame.expect("a frame").expect_err("too late"));
    let took = exchange.started().elapsed();
    assert!(
        took >= Duration::from_secs(510) && took <= Duration::from_secs(520),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_finished_answer_wins_at_the_deadline() {
    let (sender, exchange, mut body) = streaming().await;
    tokio::time::sleep_until(exchange.started() + SETTINGS.limit).await;
    sender
        .send(Ok(Frame::data(Bytes::from_static(b"x"))))
        .await
        .expect("sent");
    assert!(body.frame().await.expect("a frame").is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answered_call_and_an_idle_layer_have_no_deadline() {
    let (sender, exchange, mut body) = streaming().await;
    exchange
        .response()
        .saw_answer(crate::mcp::peek::Answer::Result);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    drop(sender);
    assert!(body.frame().await.is_none());
    let off = DeadlineLayer::new(None).layer(service_fn(async |_: Request<Body>| {
        tokio::time::sleep(Duration::from_secs(9999)).await;
        Ok::<_, BoxError>(Response::new(Body::empty()))
    }));
    assert!(off.oneshot(Request::new(Body::empty())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_plain_event_stream_has_no_deadline_once_it_has_begun() {
    let service = DeadlineLayer::new(Some(SETTINGS)).layer(service_fn(async |_: Request<Body>| {
        let late = futures_util::stream::once(async {
            tokio::time::sleep(SETTINGS.cap * 10).await;
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"data: x\n\n")))
        });
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, BoxError>(
            response
                .body(Body::new(StreamBody::new(late)))
                .expect("valid"),
        )
    }));
    let response = service.oneshot(Request::new(Body::empty())).await;
    let body = response.expect("a head").into_body().collect().await;
    assert!(body.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_tool_may_have_a_deadline_of_its_own_or_none() {
    let patient = DeadlineSettings {
        limit: Duration::from_secs(600),
        cap: Duration::from_secs(900),
    };
    let long = Duration::from_secs(9999);
    let rules = [
        ("slow_forever".into(), None),
        ("slow_*".into(), Some(patient)),
    ];
    let limits = ByTool::new(Some(SETTINGS), rules.clone());
    let off_but = ByTool::new(None, rules);
    for (settings, tools, limit) in [
        (&limits, &["slow_report"][..], Some(600)),
        (&limits, &["slow_forever"], None),
        (&limits, &["search"], Some(10)),
        (&limits, &["slow_report", "search"], Some(10)),
        (&off_but, &["slow_report"], Some(600)),
        (&off_but, &["search"], None),
    ] {
        let layer = DeadlineLayer::new(settings.clone());
        let service = layer.layer(service_fn(move |_: Request<Body>| async move {
            tokio::time::sleep(long).await;
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }));
        let mut request = calls(tools);
        let exchange = Exchange::of(&mut request);
        let began = tokio::time::Instant::now();
        let answer = service.oneshot(request).await.map(|_| ());
        let took = limit.map_or(long, Duration::from_secs);
        assert_eq!(began.elapsed(), took, "{tools:?}");
        assert_eq!(exchange.due(), limit.map(|_| began + took), "{tools:?}");
        assert_eq!(
            answer.err().map(|error| exceeded(&error).limit),
            limit.map(|_| took)
        );
    }
}
