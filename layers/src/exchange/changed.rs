//! A call that was changed on its way.

use std::sync::OnceLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::mcp::CallFacts;

/// What interceptors made of a call: so that it is changed in the same way when it is sent again.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Its facts as it goes on, if they are other ones; the places in them are those of `body`.
    pub(crate) call: Option<CallFacts>,
    /// Its body as it goes on, if it is another one.
    pub(crate) body: Option<Bytes>,
    /// The headers that were changed, with all their values.
    pub(crate) headers: Vec<(HeaderName, Vec<HeaderValue>)>,
}

/// What the layers of interceptors made of a call, in the order in which it came to them: each has judged only for itself.
#[derive(Debug, Default)]
pub(super) struct Judgements(OnceLock<Box<Judgement>>);

#[derive(Debug)]
struct Judgement {
    /// Whose it is.
    by: usize,
    /// `None` if nothing was changed.
    changed: Option<Changed>,
    next: Judgements,
}

impl Judgements {
    fn first(&self) -> Option<&Judgement> {
        self.0.get().map(|judgement| &**judgement)
    }

    fn all(&self) -> impl Iterator<Item = &Judgement> {
        std::iter::successors(self.first(), |judgement| judgement.next.first())
    }

    /// What this one has said.
    pub(super) fn of(&self, by: usize) -> Option<Option<&Changed>> {
        let mut all = self.all();
        let own = all.find(|judgement| judgement.by == by)?;
        Some(own.changed.as_ref())
    }

    /// Files what this one says; its first word counts.
    pub(super) fn file(&self, by: usize, changed: Option<Changed>) {
        let mut judgement = Box::new(Judgement {
            by,
            changed,
            next: Self::default(),
        });
        let mut place = &self.0;
        loop {
            match place.get() {
                Some(other) if other.by == by => return,
                Some(other) => place = &other.next.0,
                None => match place.set(judgement) {
                    Ok(()) => return,
                    Err(back) => judgement = back,
                },
            }
        }
    }

    /// The facts of the call behind all of them; `None` if they are still its client's.
    pub(super) fn call(&self) -> Option<&CallFacts> {
        self.all()
            .filter_map(|judgement| judgement.changed.as_ref()?.call.as_ref())
            .last()
    }
}

impl Changed {
    /// The headers that are other ones after than before.
    pub(crate) fn headers(
        before: &HeaderMap,
        after: &HeaderMap,
    ) -> Vec<(HeaderName, Vec<HeaderValue>)> {
        let names = before
            .keys()
            .chain(after.keys().filter(|name| !before.contains_key(*name)));
        names
            .filter(|name| !before.get_all(*name).iter().eq(after.get_all(*name)))
            .map(|name| (name.clone(), after.get_all(name).iter().cloned().collect()))
            .collect()
    }

    /// Changes the headers of the call that is sent again.
    pub(crate) fn lead(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.headers {
            headers.remove(name);
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
}
