//! Who keeps the children: what is idle or too old ends, what is worn is replaced, and what is to be ready ahead of need is started.
//!
//! One task for each pool. It looks around by the clock, and whenever a child ends, is taken from the stock, or has served its time.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Place, Pool,
    ahead::Coming,
    common::{Bench, Many, Slot},
    start::Need,
};
use crate::upstream::stdio::{
    child::{Child, Stage},
    error::StdioError,
    settings::{Isolation, StdioSettings},
};

impl Pool {
    /// Looks after the children, for as long as the upstream is there.
    pub(in crate::upstream::stdio) fn keep_from_now_on(self: &Arc<Self>) {
        let mut state = self.state();
        if self.closing.is_cancelled() || std::mem::replace(&mut state.kept, true) {
            return;
        }
        drop(state);
        let (pool, closing) = (Arc::downgrade(self), self.closing.clone());
        let (meters, wake) = (self.common.meters.clone(), self.common.wake.clone());
        self.common.tasks.spawn(async move {
            let mut swept = Instant::now();
            while let Some(pool) = pool.upgrade().filter(|_| !closing.is_cancelled()) {
                let again = pool.keep(&mut swept);
                drop(pool);
                tokio::select! {
                    biased;
                    () = closing.cancelled() => break,
                    () = wake.notified() => {}
                    () = tokio::time::sleep_until(again) => {}
                }
            }
            meters.memory.set(0.0);
        });
    }

    /// Looks around once. Returns when to do so again, if nothing calls before.
    fn keep(self: &Arc<Self>, swept: &mut Instant) -> Instant {
        let settings = self.settings();
        let every = (settings.idle / 8).clamp(Duration::from_millis(20), Duration::from_secs(15));
        let now = Instant::now();
        if now >= *swept + every {
            *swept = now;
            self.sweep(&settings);
        }
        let renewed = self.renew(&settings);
        let stocked = self.stock(&settings);
        let again = renewed.into_iter().chain(stocked);
        again.fold(*swept + every, Instant::min)
    }

    fn sweep(&self, settings: &StdioSettings) {
        let StdioSettings { idle, lifetime, .. } = *settings;
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
        let kept = self.kept(settings);
        for child in &children {
            child.sweep();
            let Some(unused) = child.unused() else {
                continue;
            };
            if kept.iter().any(|kept| Arc::ptr_eq(kept, child)) {
                continue;
            }
            if unused >= idle {
                child.stop_unused("idle");
            } else if let Some(why) = child.is_tired(settings) {
                child.stop_unused(why);
            }
        }
        self.state().benches.retain(|_, bench| bench.is_used());
        let memory: u64 = children.iter().filter_map(|c| c.memory()).sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.meters().memory.set(memory as f64);
    }

    /// Whether the child that all legacy sessions share, and that of all modern calls, are kept ready ahead of need.
    fn keeps(&self, settings: &StdioSettings) -> (bool, bool) {
        if settings.warm == 0 || settings.isolation == Isolation::PerPrincipal {
            return (false, false);
        }
        let state = self.state();
        let refused = state.ahead.no_legacy_until;
        let legacy = refused.is_none_or(|until| until <= Instant::now());
        (
            legacy && settings.isolation == Isolation::Shared,
            state.modern,
        )
    }

    /// The children that do not end for being idle.
    fn kept(&self, settings: &StdioSettings) -> Vec<Arc<Child>> {
        let (legacy, modern) = self.keeps(settings);
        let Some(bench) = self.state().benches.get(&None).cloned() else {
            return Vec::new();
        };
        let legacy = bench.legacy.open().filter(|_| legacy);
        let modern = bench.modern.open().filter(|_| modern);
        let legacy = legacy.map(|shared| shared.child.clone());
        let modern = modern.map(|modern| modern.child.clone());
        legacy.into_iter().chain(modern).collect()
    }

    /// Starts the children that many use where they are to be ready ahead of need, and those that take the place of another. Returns when to
    /// look again if one has to wait for its turn.
    fn renew(self: &Arc<Self>, settings: &StdioSettings) -> Option<Instant> {
        const TURN: Duration = Duration::from_secs(1);
        let (legacy, modern) = self.keeps(settings);
        if legacy || modern {
            // Where it is missing it is made; there is always room for everybody's.
            let _bench = self.bench(None);
        }
        let mut waits = false;
        let benches: Vec<Arc<Bench>> = self.state().benches.values().cloned().collect();
        for bench in benches {
            let everybodys = bench.who.is_none();
            let (pool, of) = (self.clone(), bench.clone());
            let start = move |need| async move { pool.start_shared(&of, need).await.map(drop) };
            waits |= self.renew_one(&bench.legacy, settings, legacy && everybodys, start);
            let (pool, of) = (self.clone(), bench.clone());
            let start = move |need| async move { pool.start_modern(&of, need).await.map(drop) };
            waits |= self.renew_one(&bench.modern, settings, modern && everybodys, start);
        }
        waits.then(|| Instant::now() + TURN)
    }

    /// Looks after one of them. True if it has to wait for its turn.
    fn renew_one<T: Many, F>(
        self: &Arc<Self>,
        slot: &Slot<T>,
        settings: &StdioSettings,
        kept: bool,
        start: impl FnOnce(Need) -> F,
    ) -> bool
    where
        F: Future<Output = Result<(), StdioError>> + Send + 'static,
    {
        let need = if kept { Need::Ahead } else { Need::Successor };
        let Some(child) = slot.open().map(|many| many.child().clone()) else {
            if kept {
                // It comes again after a pause if it died of itself.
                if let Some(ended) = slot.take_ended() {
                    self.state().ahead.lost(ended.child());
                }
                // Its end is told.
                if slot.is_taken() {
                    return false;
                }
            }
            let wanted = kept && self.has_room(settings);
            if wanted && self.may_start_ahead(settings) {
                self.start_behind(slot, None, start(need));
                return false;
            }
            return wanted;
        };
        if !kept && child.stage() == Some(Stage::Warm) {
            child.stop_unused("surplus");
            return false;
        }
        let Some(why) = child.is_tired(settings) else {
            return false;
        };
        // With nobody there nobody has to wait for another; with no room for another there is none.
        let alone = !kept && child.unused().is_some();
        if alone || !self.has_room(settings) {
            child.retire(why);
            return false;
        }
        let turn = self.may_start_ahead(settings);
        if turn {
            self.start_behind(slot, Some((child, why)), start(need));
        }
        !turn
    }

    /// Whether what nobody waits for may be started.
    fn has_room(&self, settings: &StdioSettings) -> bool {
        let spare = || self.seats.is_calm() && self.state().ahead.has_spare();
        self.seats.has_room(settings.max_children.get()) || spare()
    }

    fn may_start_ahead(&self, settings: &StdioSettings) -> bool {
        let paused = self.pause(Instant::now()).is_some();
        !paused && self.state().ahead.starting() < settings.starting.get()
    }

    /// Starts a child that many use, and then retires the one whose place it takes. Nothing if one is being started.
    fn start_behind<T>(
        self: &Arc<Self>,
        slot: &Slot<T>,
        old: Option<(Arc<Child>, &'static str)>,
        start: impl Future<Output = Result<(), StdioError>> + Send + 'static,
    ) {
        let Ok(turn) = slot.starting.clone().try_lock_owned() else {
            return;
        };
        let (pool, coming) = (self.clone(), Coming::new(self));
        self.common.tasks.spawn(async move {
            let _turn = turn;
            let _coming = coming;
            match (start.await, old) {
                (Ok(()) | Err(StdioError::Full { .. }), Some((child, why))) => child.retire(why),
                (Ok(()) | Err(StdioError::Full { .. }), None) => {}
                // Stopped by somebody, say.
                (Err(error), _) if error.is_ours() => {}
                (Err(error), _) => pool.failed_ahead(&error),
            }
        });
    }
}
