//! A prober over real children.

use tower::util::BoxCloneSyncService;

use super::*;
use crate::{
    gate::{Gate, Reason},
    health::{HealthHandle, HealthSettings, HealthState, Prober},
};

type Core = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

impl Rig {
    /// What a prober asks.
    fn core(&self) -> Core {
        let upstream = self.upstream.clone();
        Core::new(tower::service_fn(move |request: Request<Body>| {
            let response = upstream.clone().oneshot(request);
            async move { Ok::<_, BoxError>(response.await?.map(Body::new)) }
        }))
    }

    async fn becomes(&self, handle: &HealthHandle, state: HealthState) {
        self.until(state.as_str(), |_| {
            handle.look().is_some_and(|report| report.state == state)
        })
        .await;
    }
}

fn quick() -> HealthSettings {
    HealthSettings {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(300),
        ..HealthSettings::stdio()
    }
}

fn signal(rig: &Rig, signal: rustix::process::Signal) {
    for pid in rig.upstream.report().pids() {
        let pid = rustix::process::Pid::from_raw(pid).expect("a process");
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// A server of the legacy era only.
const LEGACY: &str = r#"*'"method":"server/discover"'*) fail -32601 ;;
*'"method":"ping"'*) note ping pings; answer '{}' ;;"#;

#[tokio::test]
async fn a_child_that_freezes_is_found_out_in_either_era() {
    for arms in ["", LEGACY] {
        let rig = Rig::new(arms, |_| {});
        let (handle, gate) = (HealthHandle::new("sh", "e1"), Gate::new());
        let task = Prober::new(&handle, gate.clone(), quick(), rig.core()).spawn();
        rig.becomes(&handle, HealthState::Healthy).await;
        signal(&rig, rustix::process::Signal::STOP);
        rig.becomes(&handle, HealthState::Unhealthy).await;
        assert!(gate.is_shut_by(Reason::Health));
        signal(&rig, rustix::process::Signal::CONT);
        rig.becomes(&handle, HealthState::Healthy).await;
        // What it did not answer in time was cancelled, and is not waited for.
        rig.pending(0).await;
        assert_eq!(handle.sessions() == 1, !arms.is_empty());
        task.close().await;
        assert_eq!(rig.upstream.report().sessions, 0);
    }
}

#[tokio::test]
async fn a_legacy_child_is_pinged_in_one_session() {
    let rig = Rig::new(LEGACY, |_| {});
    let (handle, gate) = (HealthHandle::new("sh", "e1"), Gate::new());
    let task = Prober::new(&handle, gate, quick(), rig.core()).spawn();
    rig.until("pings", |rig| rig.noted("pings").len() > 5).await;
    // One to find out the era, one for the session.
    assert_eq!(rig.noted("starts").len(), 2);
    assert_eq!(rig.upstream.report().sessions, 1);
    // It is ended with the task.
    drop(task);
    rig.until("its end", |rig| rig.upstream.report().sessions == 0)
        .await;
}

#[tokio::test]
async fn a_child_that_sleeps_is_not_woken() {
    let rig = Rig::plain();
    let (handle, gate) = (HealthHandle::new("sh", "e1"), Gate::new());
    let upstream = rig.upstream.clone();
    let prober = Prober::new(&handle, gate, quick(), rig.core());
    let task = prober
        .idle(move || upstream.report().pids().is_empty())
        .spawn();
    rig.until("asleep", |_| handle.look().is_some_and(|r| r.asleep))
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(rig.noted("starts").is_empty());
    rig.modern_is_up().await;
    rig.becomes(&handle, HealthState::Healthy).await;
    assert_eq!(rig.noted("starts").len(), 1);
    task.close().await;
}
