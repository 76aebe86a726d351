//! The clock of a pool: what is idle or too old ends.

use std::{sync::Arc, time::Duration};

use super::{Place, Pool};
use crate::upstream::stdio::settings::StdioSettings;

impl Pool {
    /// Ends what is idle or too old, for as long as the upstream is there.
    pub(super) fn sweep_from_now_on(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state().sweeping, true) {
            return;
        }
        let every =
            (self.settings.idle / 8).clamp(Duration::from_millis(20), Duration::from_secs(15));
        let (pool, closing) = (Arc::downgrade(self), self.closing.clone());
        let meters = self.meters.clone();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = closing.cancelled() => break,
                    () = tokio::time::sleep(every) => {}
                }
                match pool.upgrade() {
                    Some(pool) => pool.sweep(),
                    None => break,
                }
            }
            meters.memory.set(0.0);
        });
    }

    fn sweep(&self) {
        let StdioSettings { idle, lifetime, .. } = *self.settings;
        let too_old = |age: Duration| lifetime.is_some_and(|most| age >= most);
        let places: Vec<Place> = self.state().sessions.values().cloned().collect();
        for place in places {
            let unused = place.session.idle();
            if place.session.is_ended() || !place.child.is_open() {
                self.end(&place, Some("exit"));
            } else if unused >= idle {
                self.end(&place, Some("idle"));
            } else if too_old(place.session.created.elapsed()) && !unused.is_zero() {
                self.end(&place, Some("lifetime"));
            }
        }
        let children = self.children();
        for child in &children {
            child.sweep();
            child.stop_unused(idle, lifetime);
        }
        let open = children.iter().filter(|c| c.is_open());
        let memory: u64 = open.filter_map(|c| resident(c.pid())).sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.meters.memory.set(memory as f64);
    }
}

/// The resident memory of a process in bytes, where the system has /proc.
fn resident(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
