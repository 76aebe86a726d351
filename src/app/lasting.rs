//! What of a config lasts as long as the process: the listeners are made with it once.

use crate::config::Config;

/// The keys of such settings in which a config differs from the one that the process was started with.
pub(super) fn lasting(first: &Config, new: &Config) -> Vec<&'static str> {
    let (old, now) = (&first.server, &new.server);
    let all = [
        ("listen", first.listen != new.listen),
        ("admin", first.admin != new.admin),
        (
            "server.header_timeout",
            old.header_timeout != now.header_timeout,
        ),
        ("server.write_stall", old.write_stall != now.write_stall),
        ("server.drain.delay", old.drain.delay != now.drain.delay),
    ];
    let changed = all.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key).collect()
}
