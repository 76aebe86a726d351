//! The sessions of legacy clients, which outlive a reload: their store, and the keys of their ids.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::json;
use ziggurat_layers::{
    exchange::RouteInfo,
    session::{
        Ending, Farewell, Key, Keys, MemoryStore, NoRandomness, SessionInfo, SessionLayer,
        SessionSettings, SessionStore,
    },
};

use crate::{
    admin::{Change, Refusal, SessionView, millis},
    config::{Config, Route, Upstream},
    settings::SettingsError,
    stack::Terrace,
};

/// What the session layers of all routes share.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    store: Arc<MemoryStore>,
    /// Used while the config has none.
    own_keys: Keys,
}

/// How often what expired is looked for, where no calls come.
const SWEEP: Duration = Duration::from_secs(1);

/// How many upstreams are told at a time that a session ended.
const FAREWELLS: usize = 32;

/// The most sessions that the admin API shows.
const SHOWN: usize = 1000;

impl Sessions {
    /// No sessions yet, and a key of this process.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            store: Arc::new(MemoryStore::new()),
            own_keys: Keys::random()?,
        })
    }

    /// The keys that a config wants.
    ///
    /// # Errors
    /// When one is none; a config that was checked has no such.
    pub(crate) fn keys(&self, config: &Config) -> Result<Keys, SettingsError> {
        let texts = config.server.session_keys.iter();
        let keys: Result<Vec<Key>, _> = texts.map(|key| Key::from_text(&key.0)).collect();
        let mut keys = keys
            .map_err(|e| SettingsError::new("server.session_keys", &e))?
            .into_iter();
        Ok(match keys.next() {
            Some(first) => Keys::new(first, keys),
            None => self.own_keys.clone(),
        })
    }

    /// The layer of a route.
    pub(crate) fn layer(
        &self,
        config: &Config,
        route: &Route,
        upstream: &Upstream,
        keys: &Keys,
    ) -> SessionLayer {
        let Some(settings) = route.session.clone() else {
            return SessionLayer::off();
        };
        let settings = SessionSettings {
            stateless: upstream.stateless,
            // Keys of the config may be those of other processes, too.
            shared: !config.server.session_keys.is_empty(),
            ..settings
        };
        SessionLayer::new(settings, keys.clone(), self.store.clone())
    }

    /// Ends what expires, for ever.
    pub(crate) async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.store.sweep();
        }
    }

    /// Tells upstreams, for ever, of sessions that ended here: those whose endpoint and route `find` finds. A few at a time; as soon as one is told
    /// the next has its place.
    pub(crate) async fn say_farewell(
        self,
        find: impl Fn(&Farewell) -> Option<(Terrace, Arc<RouteInfo>)>,
    ) {
        let say = |farewell: Farewell| {
            let found = find(&farewell);
            async move {
                match found {
                    Some((endpoint, route)) => drop(farewell.say(endpoint, route).await),
                    None => farewell.forgotten(),
                }
            }
        };
        let mut saying = FuturesUnordered::new();
        loop {
            let farewells = self.store.farewells(FAREWELLS - saying.len()).await;
            saying.extend(farewells.into_iter().map(say));
            let told = saying.next();
            // Without any, or with some that take their time, others are looked for now and then.
            if !matches!(tokio::time::timeout(SWEEP, told).await, Ok(Some(()))) && saying.is_empty()
            {
                tokio::time::sleep(SWEEP).await;
            }
        }
    }

    /// What there is, for the admin API.
    pub(crate) fn report(&self) -> Vec<SessionView> {
        let sessions = self.list(SHOWN).into_iter();
        sessions
            .map(|session| SessionView {
                id: session.key.serial.to_string(),
                route: session.key.route.to_string(),
                era: session.era.as_str().to_owned(),
                endpoint: session.endpoint.to_string(),
                age_ms: millis(session.age),
                idle_ms: millis(session.idle),
                calls: session.in_hand,
                restored: session.restored,
                healed: session.healed,
            })
            .collect()
    }

    /// Ends a session for the operator, who knows the beginning of its number only.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub(crate) fn end(&self, id: &str, route: Option<&str>) -> Result<Change, Refusal> {
        let mut found = self.list(usize::MAX);
        found.retain(|session| {
            session.key.serial.to_string() == id
                && route.is_none_or(|route| *session.key.route == *route)
        });
        match &found[..] {
            [] => Err(Refusal::Unknown(format!("there is no session `{id}`"))),
            [session] => {
                self.store.end(&session.key, Ending::Operator);
                let before = json!({
                    "id": id,
                    "route": &*session.key.route,
                    "endpoint": &*session.endpoint,
                    "calls": session.in_hand,
                });
                let after = json!(null);
                Ok(Change { before, after })
            }
            more => Err(Refusal::Conflict(format!(
                "{} sessions begin with `{id}`; name the route, or end them at their upstreams",
                more.len()
            ))),
        }
    }

    fn list(&self, most: usize) -> Vec<SessionInfo> {
        // The store is in memory, so its answer is there at once.
        self.store.list(most).now_or_never().unwrap_or_default()
    }
}
