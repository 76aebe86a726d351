//! What a prober is told.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

use http::{Method, uri::PathAndQuery};

use crate::share::Share;

/// How an endpoint is probed.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthSettings {
    /// What is asked. Default: [`Probe::Mcp`].
    pub probe: Probe,
    /// The pause between the end of a probe and the next. Default: 5 s.
    pub interval: Duration,
    /// Each pause is longer or shorter than `interval` by a random part of up to this share of it. Default: 20 %.
    pub jitter: Share,
    /// How long one request of a probe may take, to the end of its answer. Default: 2 s.
    pub timeout: Duration,
    /// The same for a request that may have to start a process: the first `server/discover`, and `initialize`. Default: 2 s;
    /// [`HealthSettings::stdio`] has 60 s.
    pub handshake: Duration,
    /// The gate is shut after so many failures in a row. Default: 3.
    pub fall: NonZeroU32,
    /// The gate is opened again after so many successes in a row. Default: 2.
    pub rise: NonZeroU32,
    /// An endpoint that sleeps (see [`Prober::idle`](super::Prober::idle)) is probed all the same, which wakes it. Default: no.
    pub wake: bool,
}

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A plain HTTP request.
    Http(HttpProbe),
    /// A connection that is closed at once: to this address, `host:port`. For endpoints of plain HTTP that have no path to ask for; it
    /// proves that somebody listens, and nothing else.
    Tcp {
        /// Where to.
        address: Box<str>,
    },
    /// What an MCP client asks first: `server/discover`, or `ping` where the server speaks the legacy era.
    Mcp,
}

/// A plain HTTP request, and what is expected of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Default: GET.
    pub method: Method,
    /// Path and query, put into the endpoint's URL as a client's would be: below the URL's own path, if that has one. Default: `/`.
    pub path: PathAndQuery,
    /// The statuses that are good. Default: 200 to 399. One is not judged by its body, unless `contains` is given.
    pub expect: RangeInclusive<u16>,
    /// The body has this text, in its first 1 MiB.
    pub contains: Option<Box<str>>,
}

// === impl HealthSettings ===

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            probe: Probe::Mcp,
            interval: Duration::from_secs(5),
            jitter: Share::percent(20),
            timeout: Duration::from_secs(2),
            handshake: Duration::from_secs(2),
            fall: NonZeroU32::MIN.saturating_add(2),
            rise: NonZeroU32::MIN.saturating_add(1),
            wake: false,
        }
    }
}

impl HealthSettings {
    /// For a command: like the default, with the time that a command may need to start.
    pub fn stdio() -> Self {
        Self {
            handshake: Duration::from_secs(60),
            ..Self::default()
        }
    }

    /// The pause before the next probe, with a random number from 0 to 1.
    pub(super) fn pause(&self, random: f64) -> Duration {
        let spread = self.jitter.get() * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        self.interval.mul_f64(1.0 + spread)
    }
}

// === impl HttpProbe ===

impl HttpProbe {
    /// A GET of this path.
    pub fn get(path: PathAndQuery) -> Self {
        Self {
            method: Method::GET,
            path,
            expect: 200..=399,
            contains: None,
        }
    }
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self::get(PathAndQuery::from_static("/"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_stays_within_its_jitter(millis in 0u64..100_000, percent in 0u8..=100, random in 0.0..=1.0) {
            let settings = HealthSettings {
                interval: Duration::from_millis(millis),
                jitter: Share::percent(percent),
                ..HealthSettings::default()
            };
            let pause = settings.pause(random).as_secs_f64();
            let (interval, share) = (settings.interval.as_secs_f64(), f64::from(percent) / 100.0);
            prop_assert!(pause >= interval * (1.0 - share) - 1e-6);
            prop_assert!(pause <= interval * (1.0 + share) + 1e-6);
        }
    }
}
