//! After traffic every gauge is back where it was.

use super::*;

/// What every gauge of a stdio upstream begins with.
pub(super) const GAUGES: [&str; 5] = [
    "ziggurat_stdio_processes{",
    "ziggurat_stdio_pending_requests{",
    "ziggurat_stdio_write_queue_bytes{",
    "ziggurat_stdio_resident_memory_bytes{",
    "ziggurat_stdio_sessions{",
];

/// The gauges that are not at zero.
fn gauges(rig: &Rig) -> Vec<String> {
    let text = rig.metrics.render();
    let gauge = |l: &&str| GAUGES.iter().any(|name| l.starts_with(name));
    let up = text.lines().filter(gauge).filter(|l| !l.ends_with(" 0"));
    up.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_gauge_is_at_zero_after_every_kind_of_end() {
    let rig = Rig::new("", |s| s.idle = Duration::from_millis(400));
    let sessions = [
        rig.open().await,
        rig.open().await,
        rig.open().await,
        rig.open().await,
    ];
    let stream = rig.send(get(&sessions[0])).await.expect("a stream");
    let calls: Vec<_> = sessions
        .iter()
        .map(|s| rig.start(post(s, tool(1, "hold", 0))))
        .collect();
    let listening = rig.send(listen(1)).await.expect("a stream");
    rig.pending(5).await;
    let state = |rig: &Rig, state: &str| {
        rig.metric("ziggurat_stdio_processes", &format!("state=\"{state}\""))
    };
    assert_eq!(
        (
            state(&rig, "starting"),
            state(&rig, "leased"),
            state(&rig, "stopping")
        ),
        (Some(0.0), Some(5.0), Some(0.0))
    );
    assert_eq!(rig.metric("ziggurat_stdio_pending_requests", ""), Some(5.0));
    assert_eq!(rig.metric("ziggurat_stdio_sessions", ""), Some(4.0));
    rig.until("memory", |rig| {
        rig.metric("ziggurat_stdio_resident_memory_bytes", "") > Some(0.0)
    })
    .await;
    rig.reply(delete(&sessions[0])).await;
    let _crashed = rig.send(post(&sessions[1], tool(2, "crash", 0))).await;
    calls[2].abort();
    drop((stream, listening));
    rig.upstream.close().await;
    for call in calls {
        let _ended = call.await;
    }
    assert_eq!(gauges(&rig), Vec::<String>::new());
    let count = |name: &str, reason: &str| rig.metric(name, &format!("reason=\"{reason}\""));
    assert_eq!(count("ziggurat_stdio_spawns_total", "session"), Some(4.0));
    assert_eq!(count("ziggurat_stdio_spawns_total", "modern"), Some(1.0));
    assert_eq!(count("ziggurat_stdio_exits_total", "delete"), Some(1.0));
    assert_eq!(count("ziggurat_stdio_exits_total", "exited"), Some(1.0));
    assert_eq!(count("ziggurat_stdio_exits_total", "drain"), Some(3.0));
    assert_eq!(
        count("ziggurat_stdio_session_evictions_total", "drain"),
        Some(2.0)
    );
    assert_eq!(
        count("ziggurat_stdio_session_evictions_total", "exit"),
        Some(1.0)
    );
}

#[tokio::test]
async fn a_child_that_has_not_answered_yet_is_starting() {
    let rig = Rig::new(
        r#"*'"method":"initialize"'*) note x asked; await gate; answer '{}' ;;"#,
        |_| {},
    );
    let call = rig.start(initialize());
    rig.until("asked", |rig| rig.noted("asked").len() == 1)
        .await;
    let state = |rig: &Rig, state: &str| {
        rig.metric("ziggurat_stdio_processes", &format!("state=\"{state}\""))
    };
    assert_eq!(
        (state(&rig, "starting"), state(&rig, "leased")),
        (Some(1.0), Some(0.0))
    );
    rig.gate("gate");
    call.await.expect("no panic").expect("a reply");
    assert_eq!(
        (state(&rig, "starting"), state(&rig, "leased")),
        (Some(0.0), Some(1.0))
    );
}
