//! What outlives a reload, beside the upstreams.

use ziggurat_layers::{http_sse::Channels, intercept::Paused, session::NoRandomness};

use crate::{caps::Caps, config::Config, rates::Rates, replays::Replays, sessions::Sessions};

/// What the towers of a process share, one after another.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) sessions: Sessions,
    /// Of old clients.
    pub(crate) channels: Channels,
    pub(crate) caps: Caps,
    pub(crate) rates: Rates,
    pub(crate) replays: Replays,
    /// The exchanges that wait for an operator.
    pub(crate) paused: Paused,
}

impl Kept {
    /// What a process begins with: nothing.
    ///
    /// # Errors
    /// When the system has no random bytes for a key.
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            sessions: Sessions::new()?,
            channels: Channels::default(),
            caps: Caps::default(),
            rates: Rates::default(),
            replays: Replays::default(),
            paused: Paused::default(),
        })
    }

    /// From now on the bounds are those of this config.
    pub(crate) fn set(&self, config: &Config) {
        self.caps.set(config);
        self.rates.set(config);
        self.replays.set(config);
    }
}
