//! What of a config lasts as long as the process: the listeners are made with it once.

use std::{net::SocketAddr, time::Duration};

use crate::{
    config::{Admin, Config},
    serve::ServeSettings,
};

/// The settings that take effect at the next start.
#[derive(Debug)]
pub(super) struct Lasting {
    listen: SocketAddr,
    /// Whether the listener speaks TLS; with which certificate may change.
    tls: bool,
    admin: Admin,
    header_timeout: Duration,
    write_stall: Option<Duration>,
    /// How long requests are still taken once it is to stop.
    pub(super) drain_delay: Duration,
}

impl Lasting {
    pub(super) fn of(config: &Config) -> Self {
        let server = &config.server;
        Self {
            listen: config.listen.address,
            tls: config.listen.tls.is_some(),
            admin: config.admin.clone(),
            header_timeout: server.header_timeout,
            write_stall: server.write_stall,
            drain_delay: server.drain.delay,
        }
    }

    /// How the listener for clients treats its connections.
    pub(super) fn settings(&self, connections: usize) -> ServeSettings {
        ServeSettings {
            name: "data",
            header_read_timeout: self.header_timeout,
            write_stall: self.write_stall,
            max_connections: connections,
            drain_delay: self.drain_delay,
            ..ServeSettings::default()
        }
    }

    /// The keys of what a config would have otherwise.
    pub(super) fn changed(&self, new: &Self) -> Vec<&'static str> {
        let all = [
            ("listen.address", self.listen != new.listen),
            ("listen.tls", self.tls != new.tls),
            ("admin", self.admin != new.admin),
            (
                "server.header_timeout",
                self.header_timeout != new.header_timeout,
            ),
            ("server.write_stall", self.write_stall != new.write_stall),
            ("server.drain.delay", self.drain_delay != new.drain_delay),
        ];
        let changed = all.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| key).collect()
    }
}
