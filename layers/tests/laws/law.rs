//! The laws, each a function: of a layer that breaks it, it says how.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{Service, ServiceExt};
use ziggurat_layers::{Body, BoxError, error::find};

use super::{
    leaf::{Act, Cause, Latch, LeafError},
    rig::{Answered, Kind, Rig, Verdict, WHILE, ensure},
    rows::PLACES,
};

/// What an error in an envelope says, of which no more is known.
const CODE: &str = "\"code\":500";
/// So long that whatever can go on has gone on.
const MOMENT: Duration = Duration::from_millis(500);

pub(crate) async fn a_service_is_called_only_when_it_is_ready(rig: &Rig) -> Verdict {
    let mut service = rig.service.clone();
    for _ in 0..3 {
        rig.succeeds(&mut service).await?;
    }
    ensure!(rig.leaf.calls() == 3, "{} calls for 3", rig.leaf.calls());
    // Asked more often than called.
    for _ in 0..3 {
        service.ready().await.map_err(|e| e.to_string())?;
    }
    rig.succeeds(&mut service).await
}

pub(crate) async fn a_layer_is_ready_when_its_service_is(rig: &Rig) -> Verdict {
    rig.leaf.readiness.shut();
    let mut service = rig.service.clone();
    let ready = timeout(MOMENT, service.ready()).await.is_ok();
    ensure!(
        ready == rig.row.always_ready,
        "ready before its service: {ready}"
    );
    rig.leaf.readiness.open();
    rig.succeeds(&mut service).await
}

pub(crate) async fn a_clone_works_on_its_own(rig: &Rig) -> Verdict {
    let mut original = rig.service.clone();
    original.ready().await.map_err(|e| e.to_string())?;
    // Of one that is ready: the clone is not, and takes nothing from it.
    let mut clone = original.clone();
    rig.succeeds(&mut clone).await?;
    let call = original.call(rig.kind.request());
    let mut clone = original.clone();
    let answered = timeout(WHILE, call).await;
    ensure!(
        matches!(answered, Ok(Ok(_))),
        "the original has lost its readiness"
    );
    rig.succeeds(&mut clone).await?;
    drop(original);
    rig.succeeds(&mut clone).await?;
    rig.succeeds(&mut clone.clone()).await
}

pub(crate) async fn calls_on_clones_go_on_beside_each_other(rig: &Rig) -> Verdict {
    rig.leaf.head.shut();
    let calls: Vec<_> = (0..PLACES)
        .map(|_| tokio::spawn(rig.call(rig.service.clone())))
        .collect();
    tokio::time::sleep(MOMENT).await;
    let begun = rig.leaf.calls();
    ensure!(begun == PLACES, "{begun} of {PLACES} calls have begun");
    rig.leaf.head.open();
    for call in calls {
        let answer = timeout(WHILE, call).await.map_err(|_late| "a call hangs")?;
        let answer = answer.map_err(|e| e.to_string())?;
        ensure!(answer.is_ok(), "a call fails");
    }
    Ok(())
}

/// A call that waits at this latch goes on when it opens, also when it has meanwhile moved to another task.
async fn goes_on(rig: &Rig, latch: &Latch) -> Verdict {
    latch.shut();
    let call = rig.call(rig.service.clone());
    let mut whole = Box::pin(async move { call.await?.into_body().collect().await });
    for _ in 0..3 {
        let polled = whole.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        ensure!(polled.is_pending(), "it does not wait");
    }
    let task = tokio::spawn(whole);
    tokio::time::sleep(MOMENT).await;
    ensure!(!task.is_finished(), "it does not wait");
    latch.open();
    let read = timeout(WHILE, task).await;
    let read = read.map_err(|_late| "a wake-up is lost".to_owned())?;
    let read = read
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?;
    ensure!(read.to_bytes() == rig.kind.bytes(), "a body differs");
    Ok(())
}

pub(crate) async fn no_wake_up_is_lost_while_a_service_is_not_ready(rig: &Rig) -> Verdict {
    goes_on(rig, &rig.leaf.readiness).await
}

pub(crate) async fn no_wake_up_is_lost_while_a_response_head_is_awaited(rig: &Rig) -> Verdict {
    goes_on(rig, &rig.leaf.head).await
}

pub(crate) async fn no_wake_up_is_lost_while_a_body_is_awaited(rig: &Rig) -> Verdict {
    goes_on(rig, &rig.leaf.body).await
}

/// A call that is dropped at some point, as often as there are places and once more, leaves nothing behind.
async fn gives_back(rig: &Rig, at: impl AsyncFn(Call) -> Verdict) -> Verdict {
    let mut service = rig.service.clone();
    for time in 0..=PLACES {
        let whole = async {
            service.ready().await.map_err(|e| e.to_string())?;
            at(Box::pin(service.call(rig.kind.request()))).await
        };
        let dropped = timeout(WHILE, whole).await;
        dropped.map_err(|_late| format!("call {time} hangs"))??;
        rig.is_idle()
            .map_err(|left| format!("call {time}: {left}"))?;
    }
    Ok(())
}

type Call = Pin<Box<dyn Future<Output = Answered> + Send>>;

async fn answered(call: Call) -> Result<Body, String> {
    let answer = call
        .await
        .map_err(|e| format!("a call is refused: {e:?}"))?;
    ensure!(
        answer.status() == StatusCode::CREATED,
        "{}",
        answer.status()
    );
    Ok(answer.into_body())
}

pub(crate) async fn a_call_that_was_never_polled_gives_all_back(rig: &Rig) -> Verdict {
    gives_back(rig, async |call| {
        drop(call);
        Ok(())
    })
    .await
}

pub(crate) async fn a_call_that_is_dropped_before_its_head_gives_all_back(rig: &Rig) -> Verdict {
    rig.leaf.head.shut();
    gives_back(rig, async |mut call| {
        let early = timeout(MOMENT, &mut call).await;
        ensure!(early.is_err(), "it does not wait for its head");
        ensure!(rig.leaf.in_flight() == 1, "it did not reach the leaf");
        Ok(())
    })
    .await
}

pub(crate) async fn a_caller_that_does_not_wait_for_readiness_gives_all_back(rig: &Rig) -> Verdict {
    rig.leaf.readiness.shut();
    for _ in 0..=PLACES {
        let call = rig.call(rig.service.clone());
        ensure!(timeout(MOMENT, call).await.is_err(), "it does not wait");
        rig.is_idle()?;
    }
    rig.leaf.readiness.open();
    rig.succeeds(&mut rig.service.clone()).await
}

pub(crate) async fn a_body_that_is_dropped_unread_gives_all_back(rig: &Rig) -> Verdict {
    gives_back(rig, async |call| answered(call).await.map(drop)).await
}

pub(crate) async fn a_body_that_is_dropped_in_the_middle_gives_all_back(rig: &Rig) -> Verdict {
    rig.leaf.body.shut();
    gives_back(rig, async |call| {
        let mut body = answered(call).await?;
        while let Ok(frame) = timeout(MOMENT, body.frame()).await {
            ensure!(matches!(frame, Some(Ok(_))), "it ends in the middle");
        }
        ensure!(rig.leaf.in_flight() == 1, "the leaf's body is gone already");
        Ok(())
    })
    .await
}

pub(crate) async fn a_call_ends_with_its_body_though_that_is_kept(rig: &Rig) -> Verdict {
    gives_back(rig, async |call| {
        let mut body = answered(call).await?;
        while let Some(frame) = body.frame().await {
            frame.map_err(|e| e.to_string())?;
        }
        rig.has_ended()
    })
    .await
}

async fn gives_back_after(rig: &Rig, act: Act) -> Verdict {
    rig.leaf.then([act]);
    let call = rig.call(rig.service.clone());
    if let Ok(answer) = timeout(WHILE, call).await.map_err(|e| e.to_string())? {
        let _whole_or_not = answer.into_body().collect().await;
    }
    rig.is_idle()
}

pub(crate) async fn a_failed_call_gives_all_back(rig: &Rig) -> Verdict {
    gives_back_after(rig, Act::Fail).await
}

pub(crate) async fn a_failed_body_gives_all_back(rig: &Rig) -> Verdict {
    gives_back_after(rig, Act::FailInBody).await
}

pub(crate) async fn a_response_passes_unchanged(rig: &Rig) -> Verdict {
    let answer = rig.call(rig.service.clone()).await;
    let answer = answer.map_err(|e| e.to_string())?;
    ensure!(
        answer.status() == StatusCode::CREATED,
        "{}",
        answer.status()
    );
    let headers = answer.headers();
    ensure!(
        headers["content-type"] == rig.kind.media(),
        "another media type"
    );
    ensure!(headers["x-leaf"] == "kept", "a header is lost");
    let read = answer.into_body().collect().await;
    let read = read.map_err(|e| e.to_string())?;
    ensure!(
        read.trailers() == rig.kind.trailers().as_ref(),
        "other trailers"
    );
    let bytes = read.to_bytes();
    ensure!(bytes == rig.kind.bytes(), "another body: {bytes:?}");
    Ok(())
}

pub(crate) async fn a_body_is_honest_about_its_length_and_its_end(rig: &Rig) -> Verdict {
    let answer = rig.call(rig.service.clone()).await;
    let mut body = answer.map_err(|e| e.to_string())?.into_body();
    let mut left = rig.kind.bytes().len() as u64;
    loop {
        let (hint, over) = (body.size_hint(), body.is_end_stream());
        let exact = hint.exact();
        ensure!(
            exact == Some(left) || (rig.kind.has_events() && exact.is_none()),
            "{left} bytes are left, and it says {hint:?}"
        );
        let Some(frame) = body.frame().await else {
            // What ends with a frame says so, or its length would be sent in chunks.
            ensure!(over || rig.kind.has_events(), "it hides its end");
            break;
        };
        ensure!(!over, "it says that it is over, and is not");
        let frame = frame.map_err(|e| e.to_string())?;
        left -= frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    ensure!(left == 0, "{left} bytes are missing");
    ensure!(body.is_end_stream(), "it does not say that it is over");
    Ok(())
}

pub(crate) async fn an_empty_body_is_over_at_once(rig: &Rig) -> Verdict {
    rig.leaf.then([Act::Empty]);
    let answer = rig.call(rig.service.clone()).await;
    let body = answer.map_err(|e| e.to_string())?.into_body();
    ensure!(body.is_end_stream(), "it is not over");
    let exact = body.size_hint().exact();
    ensure!(exact == Some(0) || rig.kind.has_events(), "{exact:?}");
    rig.has_ended()
}

pub(crate) async fn an_error_of_a_body_keeps_its_source(rig: &Rig) -> Verdict {
    rig.leaf.then([Act::FailInBody]);
    let answer = rig.call(rig.service.clone()).await;
    let mut body = answer.map_err(|e| e.to_string())?.into_body();
    let mut said = Vec::new();
    let error = loop {
        match timeout(WHILE, body.frame()).await {
            Ok(Some(Ok(frame))) => said.extend(frame.into_data().unwrap_or_default()),
            Ok(Some(Err(error))) => break error,
            // Its last event says so.
            Ok(None) if rig.row.answers && rig.kind == Kind::Events => {
                let said = String::from_utf8_lossy(&said);
                ensure!(said.contains(CODE), "as if nothing were wrong: {said}");
                return Ok(());
            }
            Ok(None) => return Err("it ends as if nothing were wrong".into()),
            Err(_late) => return Err("it hangs".into()),
        }
    };
    let cause = find::<Cause>(&*error).is_some() && find::<LeafError>(&*error).is_some();
    ensure!(cause, "the cause is lost: {error:?}");
    Ok(())
}

/// The leaf's own error came out; or, of a layer that answers, an answer that says no more than that.
async fn tells(rig: &Rig, answered: Answered) -> Verdict {
    match answered {
        Err(error) => {
            let cause = find::<Cause>(&*error).is_some() && find::<LeafError>(&*error).is_some();
            ensure!(cause, "the cause is lost: {error:?}");
            Ok(())
        }
        Ok(answer) if rig.row.answers => {
            let status = answer.status();
            let read = answer.into_body().collect().await;
            let text = read.map_err(|e| e.to_string())?.to_bytes();
            let text = String::from_utf8_lossy(&text);
            let told = if rig.kind.has_id() {
                status == StatusCode::OK && text.contains(CODE)
            } else {
                status == StatusCode::INTERNAL_SERVER_ERROR
            };
            ensure!(told, "{status} {text}");
            Ok(())
        }
        Ok(_) => Err("no error came out".into()),
    }
}

pub(crate) async fn an_error_keeps_its_source(rig: &Rig) -> Verdict {
    rig.leaf.then([Act::Fail]);
    let call = timeout(WHILE, rig.call(rig.service.clone()));
    tells(rig, call.await.map_err(|e| e.to_string())?).await
}

pub(crate) async fn an_error_of_readiness_keeps_its_source(rig: &Rig) -> Verdict {
    rig.leaf.fail_readiness();
    let call = timeout(WHILE, rig.call(rig.service.clone()));
    tells(rig, call.await.map_err(|e| e.to_string())?).await
}

async fn passes(rig: &Rig, acts: &[Act]) -> Verdict {
    rig.leaf.then(acts.iter().copied());
    let answered = timeout(WHILE, rig.call(rig.service.clone())).await;
    let well = matches!(answered, Ok(Ok(ref a)) if a.status() == StatusCode::CREATED);
    let expected = acts.len() == 1 || rig.row.repeats;
    ensure!(well == expected, "it is answered: {well}");
    let asked = rig.kind.request();
    let (body, trailers) = rig.kind.asked();
    let seen = rig.leaf.seen();
    let times = if rig.row.repeats { acts.len() } else { 1 };
    ensure!(seen.len() == times, "it came {} times", seen.len());
    for seen in seen {
        ensure!(seen.method == asked.method(), "{}", seen.method);
        ensure!(seen.uri == *asked.uri(), "{}", seen.uri);
        ensure!(
            seen.mark.as_ref() == asked.extensions().get(),
            "an extension is lost"
        );
        ensure!(seen.body == body, "another body: {:?}", seen.body);
        ensure!(seen.trailers == trailers, "other trailers");
        for name in asked.headers().keys() {
            let wanted = asked.headers().get_all(name).iter();
            let came = seen.headers.get_all(name).iter();
            if rig.passes(name) {
                ensure!(wanted.eq(came), "the header {name} differs");
            } else {
                ensure!(came.count() == 0, "the header {name} is passed on");
            }
        }
    }
    Ok(())
}

pub(crate) async fn a_request_passes_unchanged(rig: &Rig) -> Verdict {
    passes(rig, &[Act::Answer]).await
}

pub(crate) async fn a_repeated_request_is_the_same(rig: &Rig) -> Verdict {
    passes(rig, &[Act::Fail, Act::Answer]).await
}

async fn survives(rig: &Rig, act: Act) -> Verdict {
    rig.leaf.then([act, Act::Answer]);
    let mut service = rig.service.clone();
    let whole = async {
        let called = service.ready().await?.call(rig.kind.request()).await;
        let (head, body) = called?.into_parts();
        Ok((head.status, body.collect().await))
    };
    let caught = AssertUnwindSafe(timeout(WHILE, whole)).catch_unwind().await;
    match caught {
        Err(_panic) => ensure!(!rig.row.answers, "the panic passed"),
        Ok(Err(_late)) => return Err("it hangs".into()),
        Ok(Ok(Err::<_, BoxError>(error))) => return Err(error.to_string()),
        Ok(Ok(Ok((status, read)))) => {
            ensure!(rig.row.answers, "the panic is hidden");
            let failed = match read {
                Err(_) => true,
                Ok(whole) => {
                    status == StatusCode::INTERNAL_SERVER_ERROR
                        || String::from_utf8_lossy(&whole.to_bytes()).contains(CODE)
                }
            };
            ensure!(failed, "as if nothing had been");
        }
    }
    rig.is_idle()?;
    let mut clone = service.clone();
    rig.succeeds(&mut clone).await?;
    rig.succeeds(&mut service).await
}

pub(crate) async fn a_panic_in_a_call_poisons_nothing(rig: &Rig) -> Verdict {
    survives(rig, Act::PanicInCall).await
}

pub(crate) async fn a_panic_in_a_future_poisons_nothing(rig: &Rig) -> Verdict {
    survives(rig, Act::PanicInFuture).await
}

pub(crate) async fn a_panic_in_a_body_poisons_nothing(rig: &Rig) -> Verdict {
    survives(rig, Act::PanicInBody).await
}

pub(crate) async fn a_call_is_not_polled_before_it_is_asked(rig: &Rig) -> Verdict {
    let mut service = rig.service.clone();
    service.ready().await.map_err(|e| e.to_string())?;
    let call = service.call(rig.kind.request());
    tokio::time::sleep(MOMENT).await;
    ensure!(rig.leaf.seen().is_empty(), "it ran by itself");
    let polled = timeout(WHILE, call).map(|answered| matches!(answered, Ok(Ok(_))));
    ensure!(polled.await, "it fails when it is polled late");
    Ok(())
}
