//! The members of an upstream, which change while it is used.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::{Endpoint, EndpointView};

/// One endpoint and the service that reaches it.
#[derive(Debug, Clone)]
pub struct Member<S> {
    /// What is known of it.
    pub endpoint: Endpoint,
    /// Its service: the whole endpoint terrace, [`LoadLayer`](super::LoadLayer) outermost.
    pub service: S,
}

/// The endpoints of one upstream. Clones are the same set. A member that was taken out lives on in the calls that it is working on, and
/// nowhere else: its idle connections go with it.
#[derive(Debug)]
pub struct EndpointSet<S> {
    shared: Arc<Shared<S>>,
}

/// The members at one moment.
pub(super) type Members<S> = Guard<Arc<Vec<Member<S>>>>;

#[derive(Debug)]
struct Shared<S> {
    upstream: Arc<str>,
    members: ArcSwap<Vec<Member<S>>>,
    /// Held by who changes the members.
    writing: Mutex<()>,
    changes: watch::Sender<()>,
}

impl<S> Clone for EndpointSet<S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<S: Clone> EndpointSet<S> {
    /// A set without members.
    pub fn new(upstream: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                upstream: upstream.into(),
                members: ArcSwap::default(),
                writing: Mutex::new(()),
                changes: watch::Sender::new(()),
            }),
        }
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &Arc<str> {
        &self.shared.upstream
    }

    /// The member of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<Member<S>> {
        let members = self.load();
        members
            .iter()
            .find(|m| **m.endpoint.name() == *name)
            .cloned()
    }

    /// The endpoint of this name with these values: the member's if there is one, with all that is known of it, else a new one. Its
    /// service is to be built around it, then put in with [`EndpointSet::insert`] or [`EndpointSet::replace_all`].
    pub fn keep(&self, name: &str, weight: u32, priority: u32) -> Endpoint {
        match self.get(name) {
            Some(Member { endpoint, .. }) => {
                endpoint.set_weight(weight);
                endpoint.set_priority(priority);
                endpoint
            }
            None => Endpoint::new(self.upstream(), name, weight, priority),
        }
    }

    /// Puts a member in, in the place of one of the same name. A new one starts slowly, unless it is the first; to begin with several, use
    /// [`EndpointSet::replace_all`].
    pub fn insert(&self, member: Member<S>) {
        self.change(|members| {
            let name = member.endpoint.name();
            match members.iter_mut().find(|m| m.endpoint.name() == name) {
                Some(old) => *old = member,
                None => members.push(member),
            }
        });
    }

    /// Takes the member of this name out. Its calls go on.
    pub fn remove(&self, name: &str) -> Option<Member<S>> {
        let mut removed = None;
        self.change(|members| {
            let at = members.iter().position(|m| **m.endpoint.name() == *name);
            removed = at.map(|at| members.remove(at));
        });
        removed
    }

    /// Puts these in the place of all others. Of several of one name the last one counts. What is known of those that stay is kept if they
    /// come with the endpoint that [`EndpointSet::keep`] gave. New ones start slowly, unless the set was empty.
    pub fn replace_all(&self, new: impl IntoIterator<Item = Member<S>>) {
        self.change(|members| {
            members.clear();
            for member in new {
                members.retain(|m| m.endpoint.name() != member.endpoint.name());
                members.push(member);
            }
        });
    }

    /// How the members stand, for the operator.
    pub fn view(&self) -> Vec<EndpointView> {
        self.load().iter().map(|m| m.endpoint.view()).collect()
    }

    /// Sets the metrics of all members to what is so now. Of the loads nobody else tells, so this is to be called before metrics are read.
    pub fn publish(&self) {
        let now = tokio::time::Instant::now();
        for member in self.load().iter() {
            member.endpoint.publish(now);
        }
    }

    pub(super) fn load(&self) -> Members<S> {
        self.shared.members.load()
    }

    /// Told when members come or go.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Member<S>>)) {
        let shared = &self.shared;
        let _writing = shared
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = shared.members.load_full();
        let mut new = old.to_vec();
        change(&mut new);
        let stays = |e: &Endpoint, among: &[Member<S>]| among.iter().any(|m| m.endpoint.is(e));
        // Who leaves goes first: who comes may have the same name, and so the same gauges.
        for member in old.iter() {
            if !stays(&member.endpoint, &new) {
                member.endpoint.held_now();
            }
        }
        for member in &new {
            if !old.is_empty() && !stays(&member.endpoint, &old) {
                member.endpoint.open_now();
                member.endpoint.observe();
            }
        }
        shared.members.store(Arc::new(new));
        shared.changes.send_replace(());
    }
}
