//! What a child is at, and whether it should go on.

use std::{cmp::Reverse, sync::atomic::Ordering, time::Duration};

use super::{Child, Stage, StdioSettings};

impl Child {
    /// What it is at; nothing once it is over.
    pub(in crate::upstream::stdio) fn stage(&self) -> Option<Stage> {
        self.desk().stage()
    }

    /// Whether it ends of itself or was asked to, if it ends.
    fn ends_by_itself(&self) -> Option<bool> {
        let why = self.desk().life.end()?;
        Some(matches!(why, "exited" | "closed" | "stuck"))
    }

    /// It has ended, or is about to.
    pub(in crate::upstream::stdio) fn has_ended(&self) -> bool {
        self.desk().life.end().is_some()
    }

    /// It has ended, or is about to, and nobody asked it to.
    pub(in crate::upstream::stdio) fn has_died(&self) -> bool {
        self.ends_by_itself() == Some(true)
    }

    /// It was asked to end.
    pub(in crate::upstream::stdio) fn was_stopped(&self) -> bool {
        self.ends_by_itself() == Some(false)
    }

    pub(in crate::upstream::stdio) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// It has answered its first request, and somebody has it, or it is kept for those who come.
    pub(in crate::upstream::stdio) fn ready(&self) {
        self.desk().life.greeted();
    }

    /// Why another should take its place, if one should.
    pub(in crate::upstream::stdio) fn is_tired(
        &self,
        settings: &StdioSettings,
    ) -> Option<&'static str> {
        let desk = self.desk();
        if desk.life.end().is_some() {
            return None;
        }
        let (age, served) = (self.age(), desk.life.served());
        if settings.lifetime.is_some_and(|most| age >= most) {
            Some("lifetime")
        } else if settings.recycle.is_some_and(|most| served >= most.get()) {
            Some("recycled")
        } else {
            None
        }
    }

    /// It ends as soon as it has neither sessions nor calls; the first reason stands.
    pub(in crate::upstream::stdio) fn retire(&self, why: &'static str) {
        self.desk().life.retire(why);
    }

    /// How long nobody has used it, if nobody does now. One that was started ahead of need waits for its first use.
    pub(in crate::upstream::stdio) fn unused(&self) -> Option<Duration> {
        (self.stage() == Some(Stage::Idle)).then(|| self.quiet())
    }

    /// In which order it ends to make room for another, if it may.
    pub(in crate::upstream::stdio) fn may_go(&self) -> Option<impl Ord + Copy + use<>> {
        let desk = self.desk();
        let waits = match desk.stage()? {
            Stage::Idle => false,
            Stage::Warm if desk.life.is_greeted() => true,
            Stage::Starting | Stage::Warm | Stage::Leased | Stage::Stopping => return None,
        };
        drop(desk);
        Some((waits, Reverse(self.quiet())))
    }

    /// It has a seat for as long as it is not made to go: it is neither on its way out, nor coming up for nobody.
    pub(in crate::upstream::stdio) fn is_settled(&self) -> bool {
        let desk = self.desk();
        match desk.stage() {
            Some(Stage::Starting | Stage::Warm) => desk.life.is_greeted() || !desk.life.is_ahead(),
            Some(Stage::Idle | Stage::Leased) => true,
            Some(Stage::Stopping) | None => false,
        }
    }

    /// How long it has not been used.
    fn quiet(&self) -> Duration {
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        self.age().saturating_sub(used)
    }

    /// Stops it if nobody uses it. False if somebody does.
    pub(in crate::upstream::stdio) fn stop_unused(&self, why: &'static str) -> bool {
        let mut desk = self.desk();
        if desk.leases() > 0 {
            return false;
        }
        desk.life.stop(why);
        drop(desk);
        self.stop.cancel();
        true
    }
}
