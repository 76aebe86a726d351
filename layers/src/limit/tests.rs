use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Body,
    by_tool::tests::calls,
    error::{Outcome, find},
    fault::{Blame, Fault},
    gate::Look,
    rescue::Row,
};

#[tokio::test]
async fn the_gate_shows_whether_a_place_is_left() {
    let gate = Gate::new();
    let service = LimitLayer::new(LimitSettings {
        calls: NonZeroUsize::new(2),
        streams: NonZeroUsize::new(1),
    })
    .gate(gate.clone())
    .layer(service_fn(async |_: Request<Body>| {
        Ok::<_, BoxError>(Response::new(Body::full("x")))
    }));
    let call = || service.clone().oneshot(Request::new(Body::empty()));
    let first = call().await.expect("a place");
    assert_eq!(gate.look(), Look::Open);
    let second = call().await.expect("a place");
    assert_eq!(gate.look(), Look::Busy);
    let changed = gate.changed();
    drop(first);
    changed.await;
    assert_eq!(gate.look(), Look::Open);
    drop(second);
    assert_eq!(gate.look(), Look::Open);
    let stream = Request::get("/")
        .header("accept", "text/event-stream")
        .body(Body::empty())
        .expect("valid");
    let _stream = service.clone().oneshot(stream).await.expect("a place");
    assert_eq!(gate.look(), Look::Open);
}

#[tokio::test]
async fn caps_are_set_anew_while_calls_are_in_flight() {
    let gate = Gate::new();
    let calls = |calls| LimitSettings {
        calls: NonZeroUsize::new(calls),
        streams: None,
    };
    let layer = LimitLayer::new(calls(1)).gate(gate.clone());
    let first = layer.admit(&mut Request::new(())).expect("a place");
    assert_eq!(gate.look(), Look::Busy);
    layer.set(calls(2));
    assert_eq!(gate.look(), Look::Open);
    let second = layer.admit(&mut Request::new(())).expect("a place");
    layer.set(calls(1));
    assert!(layer.admit(&mut Request::new(())).is_err());
    drop(first);
    assert_eq!(gate.look(), Look::Busy, "the other one is still there");
    layer.set(LimitSettings::default());
    assert_eq!(gate.look(), Look::Open);
    drop(second);
    layer.set(calls(1));
    assert!(layer.admit(&mut Request::new(())).is_ok(), "none was lost");
}

#[test]
fn without_mcp_a_delete_is_a_call_like_others() {
    let layer = LimitLayer::new(LimitSettings {
        calls: NonZeroUsize::new(1),
        streams: None,
    });
    let _held = layer.admit(&mut Request::new(())).expect("a place");
    let mut delete = Request::delete("/x").body(()).expect("valid");
    assert!(layer.admit(&mut delete).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_is_right_after_many_at_once() {
    let gate = Gate::new();
    let layer = LimitLayer::new(LimitSettings {
        calls: NonZeroUsize::new(1),
        streams: None,
    })
    .gate(gate.clone());
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let layer = layer.clone();
            tokio::spawn(async move {
                for _ in 0..5_000 {
                    drop(layer.admit(&mut Request::new(())));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(gate.look(), Look::Open);
    let _permit = layer.admit(&mut Request::new(())).expect("a place");
    assert_eq!(gate.look(), Look::Busy);
}

fn most(calls: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(calls)
}

/// Why it was not let in.
fn refusal<E: std::error::Error + Clone + 'static>(admitted: Result<Permit, BoxError>) -> E {
    let error = admitted.expect_err("full");
    find::<E>(&*error).expect("of this kind").clone()
}

#[test]
fn the_calls_of_some_tools_have_a_cap_of_their_own_within_that_of_all() {
    let gate = Gate::new();
    let layer = LimitLayer::new(LimitSettings {
        calls: most(3),
        streams: None,
    })
    .gate(gate.clone());
    layer.set_tools([
        ("slow_but_light".into(), None),
        ("slow_*".into(), most(1)),
        ("*".into(), most(9)),
    ]);
    let call = |tool: &str| layer.admit(&mut calls(&[tool]));
    let report = call("slow_report").expect("a place");
    let busy: ToolBusy = refusal(call("slow_export"));
    let tools = "slow_*".into();
    let (limit, calls) = (1, 1);
    assert_eq!(
        busy,
        ToolBusy {
            tools,
            limit,
            calls
        },
        "they share one place"
    );
    assert_eq!(
        busy.message(),
        "over the limit of 1 calls of these tools in flight"
    );
    let logged = busy.to_string();
    assert!(logged.ends_with("(the tools are slow_*)"), "{logged}");
    let _light = call("slow_but_light").expect("a place");
    assert_eq!(gate.look(), Look::Open, "other calls have room");
    let _search = call("search").expect("a place");
    assert_eq!(gate.look(), Look::Busy);
    assert_eq!(refusal::<Shed>(call("search")).limit, 3);
    drop(report);
    assert_eq!(gate.look(), Look::Open);
    let export = call("slow_export").expect("a place");
    drop(export);
    // Who is refused by the cap of all keeps no place under that of its tool.
    let _other = call("search").expect("a place");
    assert_eq!(refusal::<Shed>(call("slow_report")).limit, 3);
    layer.set(LimitSettings::default());
    assert!(call("slow_report").is_ok());
}

#[test]
fn each_call_of_a_batch_takes_a_place_under_the_cap_of_its_tool() {
    let layer = LimitLayer::default();
    layer.set_tools([("slow_*".into(), most(2))]);
    let batch = |tools: &[&str]| layer.admit(&mut calls(tools));
    let one = batch(&["slow_a", "search", "search"]).expect("a place");
    assert!(batch(&["slow_a", "slow_b"]).is_err(), "one is left");
    let two = batch(&["slow_b"]).expect("who was refused took none");
    assert!(batch(&["slow_c"]).is_err());
    assert!(batch(&["search", "search"]).is_ok());
    drop((one, two));
    assert!(batch(&["slow_a", "slow_b"]).is_ok());
}

#[test]
fn a_batch_that_finds_no_place_however_often_it_comes_is_told_so() {
    let layer = LimitLayer::default();
    layer.set_tools([("slow_*".into(), most(2)), ("*".into(), most(9))]);
    let refused = |tools: &[&str]| {
        let busy: ToolBusy = refusal(layer.admit(&mut calls(tools)));
        (busy.calls, Row::of(&Fault::of(&busy)), busy.message())
    };
    let second = std::time::Duration::from_secs(1);
    let _one = layer.admit(&mut calls(&["slow_a"])).expect("a place");
    let (calls, row, _) = refused(&["search", "slow_a", "slow_b"]);
    assert_eq!((calls, row.retry_after), (2, Some(second)));
    assert_eq!((row.outcome, row.blame), (Outcome::NotSent, Blame::Proxy));
    let (calls, row, message) = refused(&["slow_a", "search", "slow_b", "slow_a"]);
    assert_eq!((calls, row.retry_after), (3, None));
    assert_eq!((row.outcome, row.blame), (Outcome::NotSent, Blame::Proxy));
    assert_eq!(
        message,
        "3 calls in one batch are of tools of which 2 calls may be in flight"
    );
}

#[test]
fn no_cap_that_is_full_hides_that_there_is_never_room_under_another() {
    let layer = LimitLayer::default();
    layer.set_tools([("slow_*".into(), most(2)), ("*".into(), most(1))]);
    let busy = |tools: &[&str]| refusal::<ToolBusy>(layer.admit(&mut calls(tools)));
    let _search = layer.admit(&mut calls(&["search"])).expect("a place");
    assert!(!busy(&["search", "slow_a", "slow_b"]).is_never_let_in());
    let many = busy(&["search", "slow_a", "slow_b", "slow_c"]);
    assert_eq!((many.calls, many.limit), (3, 2));
    assert!(many.is_never_let_in());
    let room = layer.admit(&mut calls(&["slow_a", "slow_b"]));
    assert!(room.is_ok(), "who was refused took none");
}

#[test]
fn what_a_layer_above_and_a_tool_let_in_goes_with_the_request() {
    let (server, endpoint) = (LimitLayer::default(), LimitLayer::default());
    server.set(LimitSettings {
        calls: most(1),
        streams: None,
    });
    endpoint.set_tools([("slow".into(), most(1))]);
    let mut request = calls(&["slow"]);
    drop((server.admit(&mut request), endpoint.admit(&mut request)));
    let held: Permit = request.extensions_mut().remove().expect("a permit");
    let full = |layer: &LimitLayer| layer.admit(&mut calls(&["slow"])).is_err();
    assert!(full(&server) && full(&endpoint));
    drop(held);
    assert!(!full(&server) && !full(&endpoint));
}

#[test]
fn the_caps_of_tools_are_set_anew_while_calls_are_in_flight() {
    let layer = LimitLayer::default();
    let call = |tool: &str| layer.admit(&mut calls(&[tool]));
    layer.set_tools([("slow_*".into(), most(1))]);
    let first = call("slow_a").expect("a place");
    layer.set_tools([("quick".into(), most(1)), ("slow_*".into(), most(2))]);
    let second = call("slow_b").expect("another place");
    layer.set_tools([("slow_*".into(), most(2))]);
    assert!(call("slow_c").is_err(), "both count under the next");
    layer.set_tools([]);
    assert!(layer.caps.tools.is_off() && call("slow_c").is_ok());
    drop((first, second));
    layer.set_tools([("slow_*".into(), most(1))]);
    assert!(call("slow_c").is_ok());
}
