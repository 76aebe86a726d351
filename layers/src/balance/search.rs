//! The way of one call to a member that is ready for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use fastrand::Rng;
use http::Request;
use tokio::time::Instant;
use tower::Service;

use super::{
    Endpoint, Member, PinnedGone, Shared,
    queue::{Queue, Wait},
    survey::{Survey, Wish, survey},
};
use crate::{
    Body,
    attempt::{Pinned, Tried},
    class::Class,
    error::BoxError,
    exchange::Exchange,
    gate::{GateShut, Look, Reason},
};

/// A call that has no member yet.
pub(super) struct Search<S> {
    shared: Arc<Shared<S>>,
    request: Option<Request<Body>>,
    /// It passes the caps on calls.
    free: bool,
    /// What it is placed by.
    key: Option<u64>,
    /// Members that were not ready when they were asked; they are to wake the call.
    parked: Vec<Member<S>>,
    wait: Option<Box<Wait>>,
}

/// What a look around gave.
enum Found<S> {
    /// A service that is ready.
    Ready(S),
    /// Some may be ready later.
    Busy,
    /// None will be, for all that is known.
    Refused(BoxError),
}

type Change = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<S> Search<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, request: Request<Body>) -> Self {
        Self {
            free: Class::of(&request) != Class::Call,
            key: shared.picker.key().and_then(|key| key.of(&request)),
            shared,
            request: Some(request),
            parked: Vec::new(),
            wait: None,
        }
    }

    fn pinned(&self) -> Option<&Arc<str>> {
        let Pinned(name) = self.request.as_ref()?.extensions().get()?;
        Some(name)
    }

    fn tried(&self) -> &[Arc<str>] {
        let tried = self.request.as_ref().and_then(|r| r.extensions().get());
        tried.map_or(&[], |Tried(names)| names)
    }
}

impl<S> Search<S>
where
    S: Service<Request<Body>> + Clone,
    S::Error: Into<BoxError>,
{
    /// Ready with a service that is ready, and the request for it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(S, Request<Body>), BoxError>> {
        if self.wait.is_none() && self.others_wait() {
            // It does not pass them.
            self.line_up()?;
        }
        loop {
            if let Some(wait) = &mut self.wait {
                if wait.poll_turn(cx).is_pending() {
                    return wait.poll_clock(cx).map(|late| Err(late.into()));
                }
                self.watch();
            }
            match self.look_around(cx) {
                Found::Refused(error) => return Poll::Ready(Err(error)),
                Found::Ready(service) => {
                    self.parked.clear();
                    let request = self.request.take().expect("polled after its end");
                    return Poll::Ready(Ok((service, request)));
                }
                Found::Busy => {}
            }
            let Some(wait) = &mut self.wait else {
                self.line_up()?;
                continue;
            };
            if wait.poll_change(cx).is_pending() {
                return wait.poll_clock(cx).map(|late| Err(late.into()));
            }
        }
    }

    /// Gives the place in the queue back.
    pub(super) fn leave(&mut self) {
        self.wait = None;
    }

    fn others_wait(&self) -> bool {
        if self.free {
            return false;
        }
        match self.pinned() {
            None => !self.shared.queue.is_empty(),
            Some(_) => self.queue().is_some_and(|queue| !queue.is_empty()),
        }
    }

    /// The queue that it belongs in: its endpoint's, if it is pinned to one.
    fn queue(&self) -> Option<Arc<Queue>> {
        let Some(name) = self.pinned() else {
            return Some(self.shared.queue.clone());
        };
        let members = self.shared.set.load();
        let member = members.iter().find(|m| m.endpoint.name() == name)?;
        Some(member.endpoint.queue().clone())
    }

    fn line_up(&mut self) -> Result<(), BoxError> {
        let bounds = &self.shared.bounds;
        self.wait = Some(Box::new(match self.queue() {
            Some(queue) if !self.free => queue.join(bounds)?,
            Some(_) | None => Wait::beside(bounds),
        }));
        Ok(())
    }

    /// Watches every endpoint that may come to be chosen, and the set.
    fn watch(&mut self) {
        let (set, pinned) = (&self.shared.set, self.pinned().cloned());
        let Some(wait) = &mut self.wait else { return };
        wait.watch(|| {
            let mut changed = set.changes();
            let set_changed: Change = Box::pin(async move {
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            });
            let members = set.load();
            let watched = members
                .iter()
                .map(|member| &member.endpoint)
                .filter(|endpoint| pinned.as_ref().is_none_or(|name| name == endpoint.name()));
            let mut changes: Vec<Change> = vec![set_changed];
            changes.extend(watched.map(|endpoint| Box::pin(endpoint.gate().changed()) as Change));
            changes
        });
    }

    fn look_around(&mut self, cx: &mut Context<'_>) -> Found<S> {
        let shared = self.shared.clone();
        let members = shared.set.load();
        if self.pinned().is_some() {
            return self.look_at_pinned(&members, cx);
        }
        if let [only] = &members[..]
            && self.parked.is_empty()
            && self.passes(only.endpoint.observe())
        {
            // The usual case, without a choice.
            self.tell_of_others(&[], &only.endpoint);
            return match self.ask(only, cx) {
                Poll::Ready(Ok(service)) => Found::Ready(service),
                Poll::Ready(Err(error)) => Found::Refused(error),
                Poll::Pending => Found::Busy,
            };
        }
        if let Some(found) = self.ask_parked(&members, cx) {
            self.tell_of_others(&members, &found.endpoint);
            return Found::Ready(found.service);
        }
        let (mut rng, now) = (Rng::new(), Instant::now());
        let mut broken: Vec<Endpoint> = Vec::new();
        let mut error = None;
        loop {
            let parked = |e: &Endpoint| self.parked.iter().any(|m| m.endpoint.is(e));
            let wish = Wish {
                tried: self.tried(),
                free: self.free,
                key: self.key,
            };
            let seen = survey(
                members.iter().map(|m| &m.endpoint),
                |e| parked(e) || broken.iter().any(|b| b.is(e)),
                wish,
                &shared.settings,
                now,
                &mut rng,
            );
            let candidates = match seen {
                Survey::Some(candidates) => candidates,
                Survey::Busy | Survey::Held(_) if !self.parked.is_empty() => return Found::Busy,
                Survey::Busy => return error.map_or(Found::Busy, Found::Refused),
                Survey::Held(none) => return Found::Refused(error.unwrap_or(none.into())),
            };
            let list = candidates.as_slice();
            let chosen = &list[shared.picker.pick(list, self.key, now, &mut rng)];
            match self.ask(&members[chosen.at], cx) {
                Poll::Ready(Ok(service)) => {
                    self.tell_of_others(&members, chosen.endpoint);
                    return Found::Ready(service);
                }
                Poll::Ready(Err(failed)) => {
                    error = Some(failed);
                    broken.push(chosen.endpoint.clone());
                }
                // It is parked now; the next one, then.
                Poll::Pending => {}
            }
        }
    }

    fn look_at_pinned(&mut self, members: &[Member<S>], cx: &mut Context<'_>) -> Found<S> {
        let pinned = self.pinned();
        let Some(member) = members.iter().find(|m| pinned == Some(m.endpoint.name())) else {
            return Found::Refused(PinnedGone.into());
        };
        self.tell_of_others(members, &member.endpoint);
        let look = member.endpoint.observe();
        let gate = member.endpoint.gate();
        // A session can go nowhere else, so what only probes or the comparison with others say does not keep it out; and nothing keeps out
        // what calls that were let in before may be waiting for.
        if let Look::Held { until, .. } = look
            && !self.free
            && let Some(reason) = [Reason::Operator, Reason::Circuit]
                .into_iter()
                .find(|reason| gate.is_shut_by(*reason))
        {
            // Where probes fail as calls do, the endpoint is out of reach.
            let dead = reason == Reason::Circuit && gate.is_shut_by(Reason::Health);
            let shut = GateShut {
                reason: if dead { Reason::Health } else { reason },
                retry_after: until.map(remaining),
            };
            return Found::Refused(shut.into());
        }
        if !self.free && gate.is_shut_by(Reason::Busy) {
            return Found::Busy;
        }
        if let Some(found) = self.ask_parked(members, cx) {
            return Found::Ready(found.service);
        }
        if !self.parked.is_empty() {
            return Found::Busy;
        }
        match self.ask(member, cx) {
            Poll::Ready(Ok(service)) => Found::Ready(service),
            Poll::Ready(Err(error)) => Found::Refused(error),
            Poll::Pending => Found::Busy,
        }
    }

    /// Tells the exchange whether there is another place for this call than the endpoint that was chosen, should that refuse it.
    fn tell_of_others(&self, members: &[Member<S>], chosen: &Endpoint) {
        let Some(exchange) = self.request.as_ref().and_then(Exchange::get) else {
            return;
        };
        exchange.set_elsewhere(members.iter().map(|member| &member.endpoint).any(|other| {
            !other.is(chosen)
                && !self.tried().contains(other.name())
                && other.observe() == Look::Open
        }));
    }

    fn passes(&self, look: Look) -> bool {
        look == Look::Open || (look == Look::Busy && self.free)
    }

    /// Asks a member whether it is ready; parks it if it is not.
    fn ask(&mut self, member: &Member<S>, cx: &mut Context<'_>) -> Poll<Result<S, BoxError>> {
        let mut service = member.service.clone();
        let ready = service.poll_ready(cx).map_err(Into::into);
        if ready.is_pending() {
            self.parked.push(Member {
                endpoint: member.endpoint.clone(),
                service,
            });
            return Poll::Pending;
        }
        ready.map_ok(|()| service)
    }

    /// Asks those again that were not ready, and lets go of those that are no members any more, or may not be chosen now.
    fn ask_parked(&mut self, members: &[Member<S>], cx: &mut Context<'_>) -> Option<Member<S>> {
        let mut found = None;
        for mut parked in std::mem::take(&mut self.parked) {
            let stays = members.iter().any(|m| m.endpoint.is(&parked.endpoint))
                && self.passes(parked.endpoint.observe());
            if !stays {
                continue;
            }
            match parked.service.poll_ready(cx) {
                Poll::Ready(Ok(())) => found = Some(parked),
                // Whoever asks it anew hears of that.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => self.parked.push(parked),
            }
        }
        found
    }
}

fn remaining(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
