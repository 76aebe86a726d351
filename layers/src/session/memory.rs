//! Sessions in the memory of this process.

mod table;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use self::table::Table;
use super::{
    farewell::Farewell,
    store::{
        Answer, Asked, Ending, History, Home, Limits, Live, NotLive, Note, SessionInfo, SessionKey,
        SessionStore, SessionsFull, Visit,
    },
};

/// A store in the memory of this process: a table for each route, each behind a lock of its own.
///
/// It knows the sessions that ended here, as many as there may be sessions, so that none of them comes back; a sealed id that it never saw is entered
/// anew. Expiry goes by when a session was last active, so its work is a little with each call, whatever the number of sessions.
#[derive(Debug, Default)]
pub struct MemoryStore {
    routes: RwLock<HashMap<Arc<str>, Arc<Mutex<Table>>, RandomState>>,
}

/// How many expired sessions end with a lock held.
const BATCH: usize = 256;

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does something in a route's table. There are as many tables as routes that had sessions.
    fn at<T>(&self, route: &Arc<str>, act: impl FnOnce(&mut Table) -> T) -> T {
        let table = self.table(route);
        act(&mut lock(&table))
    }

    fn table(&self, route: &Arc<str>) -> Arc<Mutex<Table>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = routes.get(route) {
            return table.clone();
        }
        drop(routes);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let table = routes.entry(route.clone());
        table
            .or_insert_with(|| Arc::new(Mutex::new(Table::new(route))))
            .clone()
    }

    fn tables(&self) -> Vec<(Arc<str>, Arc<Mutex<Table>>)> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(r, t)| (r.clone(), t.clone())).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now<'a, T: Send + 'a>(answer: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl SessionStore for MemoryStore {
    fn reserve<'a>(
        &'a self,
        key: &'a SessionKey,
        principal: Option<Arc<str>>,
        limits: &'a Limits,
    ) -> Answer<'a, Result<(), SessionsFull>> {
        now(self.at(&key.route, |table| {
            table.reserve(key.serial, principal, limits, Instant::now())
        }))
    }

    fn begin<'a>(
        &'a self,
        key: &'a SessionKey,
        home: Home,
        asked: Asked,
        initialize: Option<Bytes>,
    ) -> Answer<'a, ()> {
        let history = History::new(initialize);
        self.at(&key.route, |table| {
            table.begin(key.serial, home, &asked, history, Instant::now());
        });
        now(())
    }

    fn enter<'a>(
        &'a self,
        key: &'a SessionKey,
        visit: Visit<'a>,
        limits: &'a Limits,
    ) -> Answer<'a, Result<Live, NotLive>> {
        now(self.at(&key.route, |table| {
            table.enter(key.serial, visit, limits, Instant::now())
        }))
    }

    fn touch(&self, key: &SessionKey) {
        self.at(&key.route, |table| table.touch(key.serial, Instant::now()));
    }

    fn leave(&self, key: &SessionKey) {
        self.at(&key.route, |table| table.leave(key.serial, Instant::now()));
    }

    fn note(&self, key: &SessionKey, note: Note) {
        self.at(&key.route, |table| table.note(key.serial, note));
    }

    fn recall<'a>(&'a self, key: &'a SessionKey) -> Answer<'a, Option<(Live, History)>> {
        now(self.at(&key.route, |table| table.recall(key.serial)))
    }

    fn settle<'a>(
        &'a self,
        key: &'a SessionKey,
        old: &'a Home,
        new: Home,
        still_there: bool,
    ) -> Answer<'a, Option<Live>> {
        now(self.at(&key.route, |table| {
            table.settle(key.serial, old, new, still_there)
        }))
    }

    fn end(&self, key: &SessionKey, why: Ending) {
        self.at(&key.route, |table| table.end(key.serial, why));
    }

    fn sweep(&self) {
        for (_, table) in self.tables() {
            while lock(&table).sweep(Instant::now(), BATCH) == BATCH {}
        }
    }

    fn farewells(&self, most: usize) -> Answer<'_, Vec<Farewell>> {
        // From each table in turn, so that a route with many leaves the others their part.
        let (mut all, mut tables) = (Vec::new(), self.tables());
        while all.len() < most && !tables.is_empty() {
            tables.retain(|(_, table)| {
                let next = (all.len() < most).then(|| lock(table).farewell()).flatten();
                let more = next.is_some();
                all.extend(next);
                more
            });
        }
        now(all)
    }

    fn list(&self, most: usize) -> Answer<'_, Vec<SessionInfo>> {
        let mut all = Vec::new();
        for (route, table) in self.tables() {
            let left = most - all.len();
            all.extend(lock(&table).list(&route, Instant::now()).take(left));
        }
        now(all)
    }
}
