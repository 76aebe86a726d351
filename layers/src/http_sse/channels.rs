//! The channels that are open, found by their tokens, and the farewells of those that were closed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{HttpSseSettings, channel::Channel};
use crate::{exchange::Exchange, notices::Notices, session::NoRandomness};

/// The channels of old clients. Clones share them; they may outlive the layers that use them.
#[derive(Clone, Default)]
pub struct Channels {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<HashMap<Box<str>, Arc<Channel>>>,
    /// Sessions that are being ended; aborted with the last clone.
    farewells: Notices,
}

/// Without the tokens.
impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

impl Channels {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.open_ones().len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.open_ones().is_empty()
    }

    /// Waits until the sessions of closed channels are ended, 5 s at most.
    pub async fn close(&self) {
        self.shared.farewells.close().await;
    }

    pub(super) fn open(
        &self,
        exchange: &Exchange,
        settings: &HttpSseSettings,
    ) -> Result<(Box<str>, Arc<Channel>), NoRandomness> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        let token: Box<str> = URL_SAFE_NO_PAD.encode(bytes).into();
        let channel = Arc::new(Channel::new(exchange, settings));
        self.open_ones().insert(token.clone(), channel.clone());
        Ok((token, channel))
    }

    /// The channel of a token, if it is good for this request.
    pub(super) fn find(&self, token: &str, exchange: &Exchange) -> Option<Arc<Channel>> {
        let channel = self.open_ones().get(token).cloned();
        channel.filter(|channel| channel.is_for(exchange) && !channel.is_ended())
    }

    pub(super) fn remove(&self, token: &str) {
        self.open_ones().remove(token);
    }

    /// Ends a session in its own time; beyond what may be told at a time it is left to its expiry.
    pub(super) fn say_farewell(&self, farewell: impl Future<Output = ()> + Send + 'static) {
        self.shared.farewells.tell(farewell);
    }

    fn open_ones(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Channel>>> {
        let open = &self.shared.open;
        open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
