//! The sessions of one route: who is there, who goes first. The time is an argument.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use ::metrics::{Counter, Gauge};
use foldhash::fast::RandomState;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::super::{
    farewell::{Farewell, FarewellOutcome},
    seal::Serial,
    store::{
        Asked, Ending, History, Home, Limits, Live, NotLive, Note, SessionInfo, SessionKey,
        SessionsFull, Visit,
    },
};
use crate::{
    mcp::{Era, ShortText},
    metrics::{self, UpWhile, names},
};

/// The sessions of one route.
#[derive(Debug)]
pub(super) struct Table {
    /// As the newest request had them.
    limits: Option<Limits>,
    entries: HashMap<Serial, Entry, RandomState>,
    /// Those that have no call in hand, by when they were last active.
    quiet: BTreeSet<(Instant, Serial)>,
    /// All of them, by when they began.
    ages: BTreeSet<(Instant, Serial)>,
    principals: HashMap<Arc<str>, HashSet<Serial>>,
    ended: Ended,
    /// Those that ended here, and still have so many calls in hand.
    leaving: HashMap<Serial, (Farewell, u32), RandomState>,
    /// Those whose upstreams are to be told.
    left: VecDeque<Farewell>,
    route: Arc<str>,
    gauge: Gauge,
    evictions: [(Ending, Counter); Ending::EVICTIONS.len()],
    forgotten: Counter,
}

#[derive(Debug)]
struct Entry {
    /// None as long as only its place is held.
    home: Option<(Home, UpWhile)>,
    /// How it was asked for.
    path: Box<str>,
    version: Option<ShortText>,
    principal: Option<Arc<str>>,
    began: Instant,
    active: Instant,
    in_hand: u32,
    restored: bool,
    healed: u32,
    history: History,
    ended: CancellationToken,
    turn: Arc<Mutex<Option<Instant>>>,
}

/// The sessions that ended last.
#[derive(Debug, Default)]
struct Ended {
    known: HashSet<Serial, RandomState>,
    order: VecDeque<Serial>,
}

/// How many expired sessions end with each call.
const WITH_EACH: usize = 8;

/// The bounds of what a client that is refused is told to wait.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

// === impl Table ===

impl Table {
    pub(super) fn new(route: &Arc<str>) -> Self {
        let labels = [("route", &**route), ("era", Era::Legacy.as_str())];
        let evictions = Ending::EVICTIONS.map(|why| {
            let reason = why.reason().unwrap_or_default();
            let labels = [("route", &**route), ("reason", reason)];
            (why, metrics::counter(names::SESSION_EVICTIONS, &labels))
        });
        Self {
            limits: None,
            entries: HashMap::default(),
            quiet: BTreeSet::new(),
            ages: BTreeSet::new(),
            principals: HashMap::new(),
            ended: Ended::default(),
            leaving: HashMap::default(),
            left: VecDeque::new(),
            route: route.clone(),
            gauge: metrics::gauge(names::SESSIONS, &labels),
            evictions,
            forgotten: FarewellOutcome::Forgotten.counter(route),
        }
    }

    pub(super) fn reserve(
        &mut self,
        serial: Serial,
        principal: Option<Arc<str>>,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), SessionsFull> {
        self.limits = Some(*limits);
        self.sweep(now, WITH_EACH);
        self.make_room(principal.as_deref(), limits, now)?;
        // Its place is in use as long as nobody says otherwise.
        self.insert(serial, principal, now, now).in_hand = 1;
        self.quiet.remove(&(now, serial));
        Ok(())
    }

    pub(super) fn begin(
        &mut self,
        serial: Serial,
        home: Home,
        asked: &Asked,
        history: History,
        now: Instant,
    ) {
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.home = Some((home, UpWhile::new(&self.gauge)));
            entry.path = path(asked);
            entry.history = history;
            self.leave(serial, now);
        }
    }

    pub(super) fn enter(
        &mut self,
        serial: Serial,
        visit: Visit<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Live, NotLive> {
        self.limits = Some(*limits);
        self.sweep(now, WITH_EACH);
        // The sweep may not have come to this one.
        if let Some(why) = self.entries.get(&serial).and_then(|e| e.over(limits, now)) {
            self.end(serial, why);
        }
        if !self.entries.contains_key(&serial) {
            self.restore(serial, &visit, limits, now)?;
        }
        self.touch(serial, now);
        let entry = self.entries.get_mut(&serial).ok_or(NotLive::Ended)?;
        if visit.asked.version.is_some() && visit.asked.version != entry.version {
            entry.version = visit.asked.version.clone();
        }
        if visit.in_hand {
            self.quiet.remove(&(entry.active, serial));
            entry.in_hand += 1;
        }
        entry.live().ok_or(NotLive::Ended)
    }

    /// Enters a session by what its sealed id says.
    fn restore(
        &mut self,
        serial: Serial,
        visit: &Visit<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), NotLive> {
        let too_old = limits.lifetime.is_some_and(|limit| visit.age >= limit);
        let over = self.ended.known.contains(&serial) || self.leaving.contains_key(&serial);
        if too_old || over {
            return Err(NotLive::Ended);
        }
        let principal = visit.principal.clone();
        self.make_room(principal.as_deref(), limits, now)
            .map_err(NotLive::Full)?;
        let up = UpWhile::new(&self.gauge);
        let began = now.checked_sub(visit.age).unwrap_or(now);
        let entry = self.insert(serial, principal, began, now);
        entry.home = Some((visit.home.clone(), up));
        entry.path = path(visit.asked);
        entry.restored = true;
        Ok(())
    }

    fn insert(
        &mut self,
        serial: Serial,
        principal: Option<Arc<str>>,
        began: Instant,
        now: Instant,
    ) -> &mut Entry {
        if let Some(principal) = &principal {
            let own = self.principals.entry(principal.clone()).or_default();
            own.insert(serial);
        }
        self.quiet.insert((now, serial));
        self.ages.insert((began, serial));
        self.entries.entry(serial).or_insert(Entry {
            home: None,
            path: Box::default(),
            version: None,
            principal,
            began,
            active: now,
            in_hand: 0,
            restored: false,
            healed: 0,
            history: History::default(),
            ended: CancellationToken::new(),
            turn: Arc::default(),
        })
    }

    /// Sees to it that one more session has a place.
    fn make_room(
        &mut self,
        principal: Option<&str>,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), SessionsFull> {
        if let Some(own) = principal.and_then(|p| self.principals.get(p))
            && own.len() >= limits.max_per_principal
        {
            let quiet = own.iter().filter_map(|serial| {
                let entry = self.entries.get(serial)?;
                (entry.in_hand == 0).then_some((entry.active, *serial))
            });
            self.evict(quiet.min(), limits, now)
                .map_err(|retry_after| SessionsFull {
                    limit: limits.max_per_principal,
                    own: true,
                    retry_after,
                })?;
        }
        if self.entries.len() >= limits.max {
            self.evict(self.quiet.first().copied(), limits, now)
                .map_err(|retry_after| SessionsFull {
                    limit: limits.max,
                    own: false,
                    retry_after,
                })?;
        }
        Ok(())
    }

    /// Ends the session that has been quiet for longest, if that is long enough; else says when it will be.
    fn evict(
        &mut self,
        longest: Option<(Instant, Serial)>,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Duration> {
        let Some((active, serial)) = longest else {
            return Err(WAIT.0);
        };
        let left = limits.spare().saturating_sub(age(active, now));
        if !left.is_zero() {
            return Err(left.clamp(WAIT.0, WAIT.1));
        }
        self.end(serial, Ending::Evicted);
        Ok(())
    }

    pub(super) fn touch(&mut self, serial: Serial, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&serial) {
            if self.quiet.remove(&(entry.active, serial)) {
                self.quiet.insert((now, serial));
            }
            entry.active = now;
        }
    }

    pub(super) fn leave(&mut self, serial: Serial, now: Instant) {
        self.last_calls(serial);
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.in_hand = entry.in_hand.saturating_sub(1);
            if entry.in_hand == 0 {
                self.quiet.remove(&(entry.active, serial));
                self.quiet.insert((now, serial));
            }
            entry.active = now;
        }
    }

    pub(super) fn note(&mut self, serial: Serial, note: Note) {
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.history.note(note);
        }
    }

    pub(super) fn recall(&self, serial: Serial) -> Option<(Live, History)> {
        let entry = self.entries.get(&serial)?;
        Some((entry.live()?, entry.history.clone()))
    }

    /// Moves a session, unless it was moved before.
    pub(super) fn settle(
        &mut self,
        serial: Serial,
        old: &Home,
        new: Home,
        still_there: bool,
    ) -> Option<Live> {
        let entry = self.entries.get_mut(&serial)?;
        let (home, _) = entry.home.as_mut()?;
        let moved = home == old;
        if moved {
            *home = new;
            entry.healed += 1;
            // Streams of the old home end, so that their clients open them at the new one.
            mem::take(&mut entry.ended).cancel();
        }
        let live = entry.live();
        if moved && still_there {
            let farewell = entry.farewell(serial, &self.route, old.clone());
            self.part(farewell);
        }
        live
    }

    pub(super) fn end(&mut self, serial: Serial, why: Ending) {
        let Some(mut entry) = self.entries.remove(&serial) else {
            // Its upstream knows.
            self.leaving.remove(&serial);
            return;
        };
        self.quiet.remove(&(entry.active, serial));
        self.ages.remove(&(entry.began, serial));
        if let Some(principal) = &entry.principal
            && let Some(own) = self.principals.get_mut(principal)
        {
            own.remove(&serial);
            if own.is_empty() {
                self.principals.remove(principal);
            }
        }
        if why == Ending::Unused {
            return;
        }
        self.ended.add(serial, self.max());
        let shared = self.limits.is_some_and(|limits| limits.shared);
        if why.is_to_be_told(shared)
            && let Some((home, _)) = entry.home.take()
        {
            // Not before its last call is over: that would end it, too.
            let farewell = entry.farewell(serial, &self.route, home);
            if entry.in_hand > 0 {
                self.leaving.insert(serial, (farewell, entry.in_hand));
            } else {
                self.part(farewell);
            }
        }
        if let Some(reason) = why.reason() {
            entry.ended.cancel();
            if let Some((_, counter)) = self.evictions.iter().find(|(one, _)| *one == why) {
                counter.increment(1);
            }
            tracing::debug!(route = %self.route, session = %serial, reason, "a session ended");
        }
    }

    fn max(&self) -> usize {
        self.limits.map_or(0, |limits| limits.max)
    }

    /// A call of a session that has ended may be its last.
    fn last_calls(&mut self, serial: Serial) {
        let Some((_, in_hand)) = self.leaving.get_mut(&serial) else {
            return;
        };
        *in_hand -= 1;
        if *in_hand == 0
            && let Some((farewell, _)) = self.leaving.remove(&serial)
        {
            self.part(farewell);
        }
    }

    /// An upstream is to be told.
    fn part(&mut self, farewell: Farewell) {
        self.left.push_back(farewell);
        while self.left.len() > self.max() {
            self.left.pop_front();
            self.forgotten.increment(1);
        }
    }

    /// Whose upstream is to be told next.
    pub(super) fn farewell(&mut self) -> Option<Farewell> {
        self.left.pop_front()
    }

    /// Ends what expired, at most so many; says how many.
    pub(super) fn sweep(&mut self, now: Instant, most: usize) -> usize {
        let Some(limits) = self.limits else { return 0 };
        for done in 0..most {
            let quiet = self.quiet.first().filter(|q| age(q.0, now) >= limits.idle);
            let old = self
                .ages
                .first()
                .filter(|a| limits.lifetime.is_some_and(|l| age(a.0, now) >= l));
            let (serial, why) = match (quiet, old) {
                (Some((_, serial)), _) => (*serial, Ending::Idle),
                (None, Some((_, serial))) => (*serial, Ending::Lifetime),
                (None, None) => return done,
            };
            self.end(serial, why);
        }
        most
    }

    pub(super) fn list(&self, route: &Arc<str>, now: Instant) -> impl Iterator<Item = SessionInfo> {
        self.ages.iter().filter_map(move |(began, serial)| {
            let entry = self.entries.get(serial)?;
            let (home, _) = entry.home.as_ref()?;
            Some(SessionInfo {
                key: SessionKey {
                    route: route.clone(),
                    serial: *serial,
                },
                era: Era::Legacy,
                endpoint: home.endpoint.clone(),
                age: age(*began, now),
                idle: if entry.in_hand > 0 {
                    Duration::ZERO
                } else {
                    age(entry.active, now)
                },
                in_hand: entry.in_hand,
                restored: entry.restored,
                healed: entry.healed,
            })
        })
    }
}

/// Without what may be secret in a query, and without the buffer that it came in.
fn path(asked: &Asked) -> Box<str> {
    asked.uri.path().into()
}

fn age(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

// === impl Entry ===

impl Entry {
    fn live(&self) -> Option<Live> {
        let (home, _) = self.home.as_ref()?;
        Some(Live {
            home: home.clone(),
            ended: self.ended.clone(),
            streamed: self.history.streamed,
            turn: self.turn.clone(),
        })
    }

    /// What is to be said at this home of the session.
    fn farewell(&self, serial: Serial, route: &Arc<str>, home: Home) -> Farewell {
        Farewell {
            key: SessionKey {
                route: route.clone(),
                serial,
            },
            home,
            principal: self.principal.clone(),
            path: self.path.clone(),
            version: self.version.clone(),
        }
    }

    /// Why the session is over, if its time is up.
    fn over(&self, limits: &Limits, now: Instant) -> Option<Ending> {
        if limits.lifetime.is_some_and(|l| age(self.began, now) >= l) {
            Some(Ending::Lifetime)
        } else if self.in_hand == 0 && age(self.active, now) >= limits.idle {
            Some(Ending::Idle)
        } else {
            None
        }
    }
}

// === impl Ended ===

impl Ended {
    /// Remembers a session, and forgets the oldest ones beyond `most`.
    fn add(&mut self, serial: Serial, most: usize) {
        if self.known.insert(serial) {
            self.order.push_back(serial);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}
