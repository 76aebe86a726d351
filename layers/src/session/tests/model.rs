//! Any life of sessions, against a small model.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MAX: usize = 4;
const IDLE: u64 = 1000;

#[derive(Debug, Clone)]
enum Step {
    Initialize,
    Call(prop::sample::Index),
    Delete(prop::sample::Index),
    /// The server forgets a session.
    Lose(prop::sample::Index),
    Wait(u64),
    Sweep,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Initialize),
        6 => any::<prop::sample::Index>().prop_map(Step::Call),
        2 => any::<prop::sample::Index>().prop_map(Step::Delete),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        3 => (1..IDLE / 2).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ]
}

/// What must be so.
#[derive(Default)]
struct Model {
    now: u64,
    /// Each session's sealed id, and whether the server knows it.
    all: Vec<(String, bool)>,
    /// Who is alive, and since when quiet; the one that is quiet for longest first.
    live: Vec<(usize, u64)>,
    /// The last that ended.
    ended: VecDeque<usize>,
}

impl Model {
    fn end(&mut self, session: usize) {
        self.live.retain(|(s, _)| *s != session);
        self.ended.push_back(session);
        if self.ended.len() > MAX {
            self.ended.pop_front();
        }
    }

    fn sweep(&mut self) {
        while let Some((session, since)) = self.live.first()
            && self.now - since >= IDLE
        {
            self.end(*session);
        }
    }

    /// Whether there is a place for another one.
    fn room(&mut self) -> bool {
        self.sweep();
        if self.live.len() < MAX {
            return true;
        }
        let (longest, since) = self.live[0];
        let spare = self.now - since >= IDLE / 10;
        if spare {
            self.end(longest);
        }
        spare
    }

    /// What a request of a session comes to, before the server is asked.
    fn enter(&mut self, session: usize) -> std::result::Result<(), Fault> {
        self.sweep();
        let alive = self.live.iter().any(|(s, _)| *s == session);
        if !alive && self.ended.contains(&session) {
            return Err(Fault::SessionGone);
        }
        if !alive && !self.room() {
            let text = format!("over the limit of {MAX} sessions on this route");
            let left = IDLE / 10 - (self.now - self.live[0].1);
            let wait = Duration::from_secs(left.clamp(1, 60));
            return Err(Fault::SessionsFull(text, wait));
        }
        self.live.retain(|(s, _)| *s != session);
        self.live.push((session, self.now));
        Ok(())
    }
}

async fn play(steps: Vec<Step>) {
    let mut rig = Rig::new(SessionSettings {
        idle: Duration::from_secs(IDLE),
        max: NonZeroUsize::new(MAX).expect("some"),
        ..settings()
    });
    let mut model = Model::default();
    for step in steps {
        // No two things at the same time, so that who was first is never in doubt.
        model.now += 1;
        wait(1).await;
        rig.server.seen();
        let one = |index: prop::sample::Index, all: &[(String, bool)]| {
            (!all.is_empty()).then(|| index.index(all.len()))
        };
        match step {
            Step::Initialize => {
                let room = model.room();
                let result = rig.try_initialize().await;
                assert_eq!(rig.server.seen().len(), usize::from(room));
                assert_eq!(result.is_ok(), room);
                if let Ok(id) = result {
                    model.live.push((model.all.len(), model.now));
                    model.all.push((id, true));
                }
            }
            Step::Call(index) => {
                let Some(session) = one(index, &model.all) else {
                    continue;
                };
                let entered = model.enter(session);
                let (id, known) = model.all[session].clone();
                let expected = entered.map(|()| if known { 200 } else { 404 });
                assert_eq!(rig.ping(&id).await, expected);
                assert_eq!(rig.server.seen().len(), usize::from(expected.is_ok()));
                if expected == Ok(404) {
                    model.end(session);
                }
            }
            Step::Delete(index) => {
                let Some(session) = one(index, &model.all) else {
                    continue;
                };
                let entered = model.enter(session);
                let (id, known) = model.all[session].clone();
                let expected = entered.map(|()| if known { 200 } else { 404 });
                assert_eq!(rig.delete(&id).await, expected);
                if expected.is_ok() {
                    model.all[session].1 = false;
                    model.end(session);
                }
            }
            Step::Lose(index) => {
                if let Some(session) = one(index, &model.all) {
                    let name = format!("up-{}", session + 1);
                    rig.server.script().known.remove(&name);
                    model.all[session].1 = false;
                }
            }
            Step::Wait(seconds) => {
                model.now += seconds;
                wait(seconds).await;
            }
            Step::Sweep => {
                model.sweep();
                rig.store.sweep();
                assert_eq!(rig.list().await.len(), model.live.len());
            }
            Step::Restart => {
                rig = rig.restarted(rig.keys.clone());
                model.live.clear();
                model.ended.clear();
            }
        }
        assert!(rig.list().await.len() <= MAX);
        assert!(rig.list().await.iter().all(|s| s.in_hand == 0));
    }
}

proptest! {
    #[test]
    fn sessions_live_as_the_model_says(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(play(steps));
    }
}
