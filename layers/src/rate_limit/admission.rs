//! Whether a request is let through: all its limits are asked, and what some gave is given back where another refuses.

use std::{any::Any, cell::OnceCell, ops::ControlFlow, sync::Arc};

use http::{HeaderValue, Request};

use super::{
    bucket::{Denied, Standing},
    key::{KeyBuffer, Subject},
    limits::{Allowed, Limit, Pace},
    refusal::{self, RateLimited},
    store::{Later, Reply},
    streams::Place,
};
use crate::{
    Body,
    attempt::{InSession, Unasked},
    class::Class,
    exchange::Exchange,
    mcp::Verb,
};

/// What becomes of a request.
pub(super) enum Admission {
    /// It goes on.
    Passed(Grant),
    /// It does not.
    Refused(Box<RateLimited>),
    /// A store has to be asked first.
    Asking(Asking),
}

pub(super) type Asking =
    std::pin::Pin<Box<dyn Future<Output = Result<Grant, Box<RateLimited>>> + Send>>;

/// What a request was given.
#[derive(Debug, Default)]
pub(super) struct Grant {
    /// Of the limit that has least left.
    pub(super) field: Option<HeaderValue>,
    /// Held until the response is over.
    pub(super) places: Vec<Place>,
}

/// The calls of a request that count.
enum Load<'a> {
    Nothing,
    One(Subject<'a>),
    Batch(Vec<Subject<'a>>),
}

/// What one limit has to say of calls of one key.
struct Demand<'a> {
    limit: &'a Arc<Limit>,
    allowed: &'a Allowed,
    key: &'a [u8],
    calls: u32,
}

/// Calls that one limit is asked for.
struct Ask<'a> {
    limit: &'a Arc<Limit>,
    pace: &'a Pace,
    key: &'a [u8],
    calls: u32,
}

/// The same, for as long as a store is asked.
struct Kept {
    limit: Arc<Limit>,
    pace: Pace,
    key: Box<[u8]>,
    calls: u32,
}

/// What is asked for, of which the first so many were granted; those are given back when this is dropped.
struct Granted {
    asks: Vec<Kept>,
    taken: usize,
}

/// The limit that has least left so far.
#[derive(Default)]
struct Nearest(Option<(Arc<Limit>, Standing)>);

enum Stop {
    Denied(Box<RateLimited>),
    Later(Later),
}

/// Asks the limits about a request.
pub(super) fn admit<B: 'static>(limits: &[Arc<Limit>], request: &Request<B>) -> Admission {
    if limits.is_empty() {
        return Admission::Passed(Grant::default());
    }
    let load = Load::of(request);
    let places = match open(limits, &load, Class::of(request)) {
        Ok(places) => places,
        Err(limited) => return Admission::Refused(limited),
    };
    if request.extensions().get::<Unasked>().is_some() {
        let field = None;
        return Admission::Passed(Grant { field, places });
    }
    let (mut taken, mut nearest) = (0, Nearest::default());
    let stop = load.rates(limits, &mut |ask| match ask.take() {
        Reply::Now(Ok(standing)) => {
            taken += 1;
            nearest.see(ask.limit, standing);
            ControlFlow::Continue(())
        }
        Reply::Now(Err(denied)) => ControlFlow::Break(Stop::Denied(ask.refuse(denied))),
        Reply::Later(later) => ControlFlow::Break(Stop::Later(later)),
    });
    match stop {
        None => Admission::Passed(Grant {
            field: nearest.field(),
            places,
        }),
        Some(Stop::Denied(limited)) => {
            // Finding the keys again may mean to work expressions out again.
            if taken > 0 {
                load.give_back(limits, taken);
            }
            Admission::Refused(limited)
        }
        Some(Stop::Later(later)) => {
            let asks = load.keep(limits);
            let granted = Granted { asks, taken };
            Admission::Asking(Box::pin(wait(granted, nearest, later, places)))
        }
    }
}

/// Places for a standing stream under all limits that count them.
fn open(
    limits: &[Arc<Limit>],
    load: &Load<'_>,
    class: Class,
) -> Result<Vec<Place>, Box<RateLimited>> {
    let mut places = Vec::new();
    if class != Class::Stream {
        return Ok(places);
    }
    let refused = load.each(limits, &mut |demand| {
        let Some(most) = demand.allowed.streams else {
            return ControlFlow::Continue(());
        };
        match demand.limit.kept.streams.open(demand.key, most) {
            Some(place) => {
                places.push(place);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break((demand.limit.clone(), most)),
        }
    });
    match refused {
        None => Ok(places),
        Some((limit, most)) => {
            limit.kept.limited.increment(1);
            Err(Box::new(RateLimited::streams(&limit.name, most)))
        }
    }
}

/// Goes on where an answer has to be waited for.
async fn wait(
    mut granted: Granted,
    mut nearest: Nearest,
    first: Later,
    places: Vec<Place>,
) -> Result<Grant, Box<RateLimited>> {
    let mut reply = Reply::Later(first);
    while let Some(kept) = granted.asks.get(granted.taken) {
        let answer = match reply {
            Reply::Now(answer) => answer,
            Reply::Later(later) => later.await,
        };
        match answer {
            Ok(standing) => nearest.see(&kept.limit, standing),
            Err(denied) => return Err(kept.ask().refuse(denied)),
        }
        granted.taken += 1;
        let Some(next) = granted.asks.get(granted.taken) else {
            break;
        };
        reply = next.ask().take();
    }
    granted.asks.clear();
    Ok(Grant {
        field: nearest.field(),
        places,
    })
}

// === impl Load ===

impl<'a> Load<'a> {
    /// DELETE, notifications and the client's answers do not count: calls may be waiting for them.
    fn of<B: 'static>(request: &'a Request<B>) -> Self {
        let exchange = Exchange::get(request).map(|exchange| &**exchange);
        let session = request.extensions().get::<InSession>();
        let session = session.map(|session| session.serial);
        let body = (request.body() as &dyn Any).downcast_ref::<Body>();
        let body = body.and_then(Body::bytes);
        let subject = |message| Subject {
            session,
            exchange,
            http: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            body,
            parsed: OnceCell::new(),
            message,
        };
        let Some(call) = exchange.and_then(|exchange| exchange.call()) else {
            return Self::One(subject(None));
        };
        match (call.verb, call.messages()) {
            (Verb::Delete, _) => Self::Nothing,
            (Verb::Get | Verb::Other, _) => Self::One(subject(None)),
            (Verb::Post, [one]) if one.may_act() => Self::One(subject(Some(one))),
            (Verb::Post, [] | [_]) => Self::Nothing,
            (Verb::Post, many) => {
                let counted = many.iter().filter(|message| message.may_act());
                Self::Batch(counted.map(|message| subject(Some(message))).collect())
            }
        }
    }

    /// Shows what each limit has to say, until somebody has seen enough.
    fn each<T>(
        &self,
        limits: &[Arc<Limit>],
        visit: &mut dyn FnMut(Demand<'_>) -> ControlFlow<T>,
    ) -> Option<T> {
        let mut buffer = KeyBuffer::new();
        for limit in limits {
            let flow = match self {
                Self::Nothing => return None,
                Self::One(subject) => match limit.find(subject, &mut buffer) {
                    Some(allowed) => visit(Demand {
                        limit,
                        allowed,
                        key: buffer.as_bytes(),
                        calls: 1,
                    }),
                    None => ControlFlow::Continue(()),
                },
                Self::Batch(subjects) => batch(limit, subjects, &mut buffer, visit),
            };
            if let ControlFlow::Break(seen) = flow {
                return Some(seen);
            }
        }
        None
    }

    /// The same of those that limit the rate.
    fn rates<T>(
        &self,
        limits: &[Arc<Limit>],
        visit: &mut dyn FnMut(Ask<'_>) -> ControlFlow<T>,
    ) -> Option<T> {
        self.each(limits, &mut |demand| match &demand.allowed.pace {
            Some(pace) => visit(Ask {
                limit: demand.limit,
                pace,
                key: demand.key,
                calls: demand.calls,
            }),
            None => ControlFlow::Continue(()),
        })
    }

    /// Gives back the first so many that were granted.
    fn give_back(&self, limits: &[Arc<Limit>], mut taken: usize) {
        self.rates(limits, &mut |ask| {
            if taken == 0 {
                return ControlFlow::Break(());
            }
            taken -= 1;
            ask.give_back();
            ControlFlow::Continue(())
        });
    }

    fn keep(&self, limits: &[Arc<Limit>]) -> Vec<Kept> {
        let mut kept = Vec::new();
        self.rates::<()>(limits, &mut |ask| {
            kept.push(Kept {
                limit: ask.limit.clone(),
                pace: ask.pace.clone(),
                key: ask.key.into(),
                calls: ask.calls,
            });
            ControlFlow::Continue(())
        });
        kept
    }
}

/// What a limit has to say of a batch: once for each key, of all calls of that key.
fn batch<T>(
    limit: &Arc<Limit>,
    subjects: &[Subject<'_>],
    buffer: &mut KeyBuffer,
    visit: &mut dyn FnMut(Demand<'_>) -> ControlFlow<T>,
) -> ControlFlow<T> {
    let mut found = Vec::new();
    for subject in subjects {
        if let Some(allowed) = limit.find(subject, buffer) {
            found.push((Box::<[u8]>::from(buffer.as_bytes()), allowed));
        }
    }
    found.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    // The tier is in the key.
    for same in found.chunk_by(|(one, _), (other, _)| one == other) {
        let (key, allowed) = &same[0];
        visit(Demand {
            limit,
            allowed,
            key,
            calls: u32::try_from(same.len()).unwrap_or(u32::MAX),
        })?;
    }
    ControlFlow::Continue(())
}

// === impl Ask ===

impl Ask<'_> {
    fn take(&self) -> Reply {
        let store = &self.limit.kept.store;
        store.take(self.key, self.pace.quota, self.calls)
    }

    fn give_back(&self) {
        let store = &self.limit.kept.store;
        store.give_back(self.key, self.pace.quota, self.calls);
    }

    fn refuse(&self, denied: Denied) -> Box<RateLimited> {
        self.limit.kept.limited.increment(1);
        let limited = RateLimited::calls(self.limit, self.pace, self.calls, denied);
        Box::new(limited)
    }
}

// === impl Kept ===

impl Kept {
    fn ask(&self) -> Ask<'_> {
        Ask {
            limit: &self.limit,
            pace: &self.pace,
            key: &self.key,
            calls: self.calls,
        }
    }
}

// === impl Granted ===

impl Drop for Granted {
    fn drop(&mut self) {
        for kept in self.asks.iter().take(self.taken) {
            kept.ask().give_back();
        }
    }
}

// === impl Nearest ===

impl Nearest {
    fn see(&mut self, limit: &Arc<Limit>, standing: Standing) {
        let seen = self.0.as_ref();
        if seen.is_none_or(|(_, seen)| standing.remaining < seen.remaining) {
            self.0 = Some((limit.clone(), standing));
        }
    }

    fn field(&self) -> Option<HeaderValue> {
        let (limit, standing) = self.0.as_ref()?;
        refusal::standing(&limit.item, *standing)
    }
}
