//! The sessions of legacy clients, which outlive a reload: their store, and the keys of their ids.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde_json::{Value, json};
use ziggurat_layers::session::{
    Key, Keys, MemoryStore, NoRandomness, SessionLayer, SessionSettings, SessionStore,
};

use crate::{
    admin::millis,
    config::{Config, Route, Upstream},
    settings::SettingsError,
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
    pub(crate) fn layer(&self, route: &Route, upstream: &Upstream, keys: &Keys) -> SessionLayer {
        let Some(settings) = route.session.clone() else {
            return SessionLayer::off();
        };
        let settings = SessionSettings {
            stateless: upstream.stateless,
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

    /// What there is, for the admin API.
    pub(crate) fn report(&self) -> Value {
        // The store is in memory, so its answer is there at once.
        let sessions = self.store.list(SHOWN).now_or_never().unwrap_or_default();
        sessions
            .into_iter()
            .map(|session| {
                json!({
                    "id": session.id,
                    "route": &*session.route,
                    "era": session.era.as_str(),
                    "endpoint": &*session.endpoint,
                    "age_ms": millis(session.age),
                    "idle_ms": millis(session.idle),
                    "calls": session.in_hand,
                    "restored": session.restored,
                    "healed": session.healed,
                })
            })
            .collect()
    }
}
