//! What a prober says in each era, and when it says nothing.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_modern_server_is_asked_for_what_it_is() {
    let (script, handle, gate) = (Script::new(Mode::Modern), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    intervals(3).await;
    assert_eq!(script.asked(), ["server/discover -"; 3]);
    assert_eq!(handle.sessions(), 0);
    task.close().await;
    assert!(script.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_is_pinged_in_one_session_which_is_ended_at_the_end() {
    let (script, handle, gate) = (Script::new(Mode::Legacy), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    intervals(3).await;
    let greeting = [
        "server/discover -",
        "initialize -",
        "notifications/initialized s1",
        "ping s1",
    ];
    let asked = script.asked();
    assert_eq!(asked[..4], greeting);
    assert_eq!(asked[4..], ["ping s1"; 2]);
    assert_eq!(handle.sessions(), 1);
    // What a server replies to its end changes nothing.
    script.set(Mode::Status(405));
    task.close().await;
    assert_eq!(script.asked(), ["DELETE s1"]);
    assert_eq!(handle.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_also_ended_when_the_task_is_dropped() {
    let (script, handle, gate) = (Script::new(Mode::Legacy), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    intervals(1).await;
    script.asked();
    // A server that hangs holds the last request up no longer than a probe.
    script.set(Mode::Hangs);
    drop(task);
    intervals(1).await;
    assert_eq!(script.asked(), ["DELETE s1"]);
    assert_eq!(handle.sessions(), 0);
    let exchanges = script.inner.exchanges.lock().expect("not poisoned");
    let last = exchanges.last().expect("a request");
    assert_eq!(Arc::strong_count(last), 1, "nobody holds it any more");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_lost_is_made_anew_in_the_same_probe() {
    let (script, handle, gate) = (Script::new(Mode::Legacy), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    intervals(1).await;
    script.asked();
    // The server was restarted: it knows another session now.
    script.inner.sessions.fetch_add(1, Ordering::Relaxed);
    intervals(2).await;
    assert_eq!(
        script.asked(),
        [
            "ping s1",
            "initialize -",
            "notifications/initialized s3",
            "ping s3",
            "ping s3",
        ]
    );
    let now = report(&handle);
    assert_eq!((now.state, now.successes), (HealthState::Healthy, 3));
    task.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_hangs_is_given_up_for_another() {
    let (script, handle, gate) = (Script::new(Mode::Legacy), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    intervals(1).await;
    script.asked();
    script.set(Mode::Stuck);
    intervals(5).await;
    assert!(gate.is_shut_by(Reason::Health));
    intervals(3).await;
    let anew = [
        "ping s1",
        "ping s1",
        "ping s1",
        "DELETE s1",
        "initialize -",
        "notifications/initialized s2",
        "ping s2",
    ];
    assert_eq!(script.asked()[..7], anew);
    assert!(!gate.is_shut_by(Reason::Health));
    assert_eq!(handle.sessions(), 1);
    drop(task);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_do_without_session_ids() {
    let (script, handle, gate) = (Script::new(Mode::Stateless), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    intervals(2).await;
    assert_eq!(script.asked()[3..], ["ping -", "ping -"]);
    task.close().await;
    assert!(script.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_replaced_by_one_of_another_era_is_found_out() {
    let (script, handle, gate) = (Script::new(Mode::Modern), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    for (mode, last) in [
        (Mode::Modern, "server/discover -"),
        (Mode::Legacy, "ping s1"),
        (Mode::Modern, "server/discover -"),
    ] {
        script.set(mode);
        intervals(3).await;
        assert_eq!(script.asked().last().map(String::as_str), Some(last));
        let result = report(&handle).last.map(|l| l.result);
        assert_eq!(result, Some(ProbeResult::Success));
    }
    drop(task);
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_in_the_middle_is_given_up() {
    let (script, handle, gate) = (Script::new(Mode::Hangs), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings(Probe::Mcp)).spawn();
    while script.times().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(task);
    tokio::task::yield_now().await;
    let exchanges = script.inner.exchanges.lock().expect("not poisoned");
    assert_eq!(exchanges[0].gave_up(), Some(GiveUp::Operator));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_sleeps_is_left_alone_and_counts_as_healthy() {
    let (script, handle, gate) = (Script::new(Mode::Legacy), handle(), Gate::new());
    let sleeps = Arc::new(AtomicBool::new(true));
    let asked = sleeps.clone();
    let task = script
        .prober(&handle, &gate, settings(Probe::Mcp))
        .idle(move || asked.load(Ordering::Relaxed))
        .spawn();
    intervals(3).await;
    assert!(script.asked().is_empty());
    assert!(report(&handle).asleep);
    sleeps.store(false, Ordering::Relaxed);
    intervals(1).await;
    assert!(!report(&handle).asleep);
    assert_eq!(report(&handle).state, HealthState::Healthy);
    script.asked();
    // The session goes before the endpoint does, so that it can.
    sleeps.store(true, Ordering::Relaxed);
    intervals(2).await;
    assert_eq!(script.asked(), ["DELETE s1"]);
    assert_eq!(handle.sessions(), 0);
    // What was sick when it fell asleep is not held back any more.
    sleeps.store(false, Ordering::Relaxed);
    script.set(Mode::Fails);
    intervals(3).await;
    assert!(gate.is_shut_by(Reason::Health));
    sleeps.store(true, Ordering::Relaxed);
    intervals(1).await;
    assert!(!gate.is_shut_by(Reason::Health));
    assert_eq!(report(&handle).state, HealthState::Unknown);
    task.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_sleeps_is_woken_if_that_is_wanted() {
    let (script, handle, gate) = (Script::new(Mode::Modern), handle(), Gate::new());
    let wake = HealthSettings {
        wake: true,
        ..settings(Probe::Mcp)
    };
    let task = script.prober(&handle, &gate, wake).idle(|| true).spawn();
    intervals(2).await;
    assert_eq!(script.asked().len(), 2);
    drop(task);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_to_start_has_more_time() {
    let (script, handle, gate) = (Script::new(Mode::Hangs), handle(), Gate::new());
    let patient = HealthSettings {
        jitter: Share::NONE,
        ..HealthSettings::stdio()
    };
    let task = script.prober(&handle, &gate, patient).spawn();
    tokio::time::sleep(Duration::from_secs(70)).await;
    let last = report(&handle).last.expect("a probe");
    assert_eq!(last.took, Duration::from_secs(60));
    drop(task);
}
