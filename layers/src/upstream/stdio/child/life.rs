//! What a child is at, from what has happened to it. Pure: whoever holds the desk tells it, and says how many leases there are.
//!
//! A *lease* is a request without an answer, or a session. A child is, at each moment, exactly one of: starting, warm, idle, leased,
//! stopping, or over; none is lost between them.

/// The state of a child that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream::stdio) enum Stage {
    /// It has not answered its first request.
    Starting,
    /// It was started ahead of need, and nobody has used it yet.
    Warm,
    /// Nobody uses it.
    Idle,
    /// It has a session, or something to do.
    Leased,
    /// It is on its way out.
    Stopping,
}

/// The life of a child.
#[derive(Debug, Default)]
pub(super) struct Life {
    ahead: bool,
    greeted: bool,
    /// Requests of clients that it has been given.
    served: u64,
    /// Why it is to end once it has no lease.
    retired: Option<&'static str>,
    end: Option<&'static str>,
    over: bool,
}

impl Stage {
    /// All, in their order.
    pub(in crate::upstream::stdio) const ALL: [Self; 5] = [
        Self::Starting,
        Self::Warm,
        Self::Idle,
        Self::Leased,
        Self::Stopping,
    ];

    /// The word for metrics and reports.
    pub(in crate::upstream::stdio) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Warm => "warm",
            Self::Idle => "idle",
            Self::Leased => "leased",
            Self::Stopping => "stopping",
        }
    }
}

impl Life {
    /// One that was just started, perhaps ahead of need.
    pub(super) fn new(ahead: bool) -> Self {
        Self {
            ahead,
            ..Self::default()
        }
    }

    /// What it is at; nothing once it is over.
    pub(super) fn stage(&self, leases: usize) -> Option<Stage> {
        if self.over {
            return None;
        }
        Some(match (self.end, leases, self.greeted) {
            (Some(_), ..) => Stage::Stopping,
            (None, 0, _) if self.ahead => Stage::Warm,
            (None, 0, true) => Stage::Idle,
            (None, 1.., true) => Stage::Leased,
            (None, _, false) => Stage::Starting,
        })
    }

    /// Somebody uses it.
    pub(super) fn taken(&mut self) {
        self.ahead = false;
    }

    /// It has answered its first request.
    pub(super) fn greeted(&mut self) {
        self.greeted = true;
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// It was started ahead of need, and nobody has used it.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// It was given requests of a client. Returns how many that makes.
    pub(super) fn serve(&mut self, requests: usize) -> u64 {
        self.taken();
        self.served = self.served.saturating_add(requests as u64);
        self.served
    }

    /// How many requests of clients it has been given.
    pub(super) fn served(&self) -> u64 {
        self.served
    }

    /// It is to end once it has no lease; the first reason stands.
    pub(super) fn retire(&mut self, why: &'static str) {
        self.retired.get_or_insert(why);
    }

    /// Begins its end if it is retired and has no lease. Says whether it has.
    pub(super) fn settle(&mut self, leases: usize) -> bool {
        match self.retired {
            Some(why) if leases == 0 && self.end.is_none() => {
                self.end = Some(why);
                true
            }
            _ => false,
        }
    }

    /// Begins its end, unless that has begun. Returns the reason that stands.
    pub(super) fn stop(&mut self, why: &'static str) -> &'static str {
        self.end.get_or_insert(why)
    }

    /// Why it ends, if it does.
    pub(super) fn end(&self) -> Option<&'static str> {
        self.end
    }

    /// Its process and its group are gone.
    pub(super) fn over(&mut self) {
        self.stop("");
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Start { ahead: bool },
        Greet(usize),
        Lease(usize),
        Release(usize),
        Crash(usize),
        Stop(usize),
        Retire(usize),
        Buried(usize),
    }

    /// A child as the books have it, and as it is.
    #[derive(Debug, Default)]
    struct Both {
        life: Life,
        leases: usize,
        was_ahead: bool,
        was_greeted: bool,
        was_retired: bool,
        was_stopped: bool,
    }

    impl Both {
        /// What it must be at, told in other words than the books use.
        fn expected(&self) -> Stage {
            if self.was_stopped || (self.was_retired && self.leases == 0) {
                return Stage::Stopping;
            }
            match (self.leases > 0, self.was_ahead, self.was_greeted) {
                (false, true, _) => Stage::Warm,
                (_, _, false) => Stage::Starting,
                (true, _, true) => Stage::Leased,
                (false, false, true) => Stage::Idle,
            }
        }

        /// Nobody gets a lease of one that is on its way out.
        fn lease(&mut self) {
            if self.life.end().is_none() {
                self.leases += 1;
                self.was_ahead = false;
                self.life.serve(1);
            }
        }

        fn end(&mut self, why: &'static str) {
            self.was_stopped = true;
            self.life.stop(why);
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        let who = 0..6_usize;
        prop_oneof![
            any::<bool>().prop_map(|ahead| Event::Start { ahead }),
            who.clone().prop_map(Event::Greet),
            who.clone().prop_map(Event::Lease),
            who.clone().prop_map(Event::Lease),
            who.clone().prop_map(Event::Release),
            who.clone().prop_map(Event::Release),
            who.clone().prop_map(Event::Crash),
            who.clone().prop_map(Event::Stop),
            who.clone().prop_map(Event::Retire),
            who.prop_map(Event::Buried),
        ]
    }

    /// Tells the books of an event. Returns whether a child is over with it.
    fn apply(event: Event, children: &mut Vec<Both>) -> bool {
        const MOST: usize = 6;
        let (Event::Greet(at)
        | Event::Lease(at)
        | Event::Release(at)
        | Event::Crash(at)
        | Event::Stop(at)
        | Event::Retire(at)
        | Event::Buried(at)) = event
        else {
            if children.len() < MOST {
                let ahead = matches!(event, Event::Start { ahead: true });
                children.push(Both {
                    life: Life::new(ahead),
                    was_ahead: ahead,
                    ..Both::default()
                });
            }
            return false;
        };
        let Some(child) = children.get_mut(at) else {
            return false;
        };
        match event {
            Event::Greet(_) => {
                child.life.greeted();
                child.was_greeted = true;
            }
            Event::Lease(_) => child.lease(),
            Event::Release(_) => child.leases = child.leases.saturating_sub(1),
            // Its calls fail, its sessions are over.
            Event::Crash(_) => {
                child.leases = 0;
                child.end("exited");
            }
            Event::Stop(_) => child.end("idle"),
            Event::Retire(_) => {
                child.was_retired = true;
                child.life.retire("recycled");
            }
            Event::Buried(_) => {
                if child.life.end().is_none() {
                    return false;
                }
                child.life.over();
                assert_eq!(child.life.stage(child.leases), None);
                children.swap_remove(at);
                return true;
            }
            Event::Start { .. } => {}
        }
        false
    }

    proptest! {
        #[test]
        fn each_child_is_in_one_state_until_it_is_over_and_none_is_lost(
            events in prop::collection::vec(event(), 0..200),
        ) {
            let mut children: Vec<Both> = Vec::new();
            let (mut started, mut over) = (0, 0);
            for event in events {
                let before = children.len();
                over += usize::from(apply(event, &mut children));
                started += children.len().saturating_sub(before);
                let mut count = [0; Stage::ALL.len()];
                for child in &mut children {
                    let ended = child.life.end().is_some();
                    let due = child.life.settle(child.leases);
                    prop_assert!(!(due && ended), "it ends once");
                    let stage = child.life.stage(child.leases);
                    prop_assert_eq!(stage, Some(child.expected()), "{:?}", child);
                    // The end is for good, and never comes to one that is leased but by force.
                    prop_assert!(!ended || stage == Some(Stage::Stopping));
                    let at = Stage::ALL.iter().position(|s| Some(*s) == stage).expect("one of them");
                    count[at] += 1;
                }
                prop_assert_eq!(count.iter().sum::<usize>(), started - over);
            }
        }
    }
}
