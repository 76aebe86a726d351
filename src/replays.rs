//! The streams that clients may come back to, which outlive a reload.

use std::time::Duration;

use ziggurat_layers::replay::{ReplayLayer, ReplayStore};

use crate::config::{Config, Route};

/// What the replay layers of all routes share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replays {
    store: ReplayStore,
}

/// How often what is over is let go.
const SWEEP: Duration = Duration::from_secs(1);

impl Replays {
    /// The layer of a route. What is kept already stays under the settings that it was kept under.
    pub(crate) fn layer(&self, route: &Route) -> ReplayLayer {
        match &route.replay {
            Some(settings) => ReplayLayer::new(settings.clone(), self.store.clone()),
            None => ReplayLayer::off(),
        }
    }

    /// Lets go of what is over, for ever.
    pub(crate) async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.store.sweep();
        }
    }

    /// From now on all together keep no more than this config says.
    pub(crate) fn set(&self, config: &Config) {
        let limit = config.server.replay_memory;
        self.store
            .set_limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
}
