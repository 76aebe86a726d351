//! Which request gets which fault.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use http::{Method, Request, StatusCode};

use super::body::Spoil;
use crate::{exchange::Exchange, pattern::Pattern, share::Share};

/// The seed and the rules.
#[derive(Debug, Clone, Default)]
pub struct ChaosSettings {
    /// Where chance begins.
    pub seed: u64,
    /// The rules, in their order.
    pub rules: Vec<ChaosRule>,
}

/// Injects one kind of fault into a share of the requests that match.
#[derive(Debug, Clone)]
pub struct ChaosRule {
    /// Which requests it is for.
    pub matches: ChaosMatch,
    /// The share of them that it hits.
    pub share: Share,
    /// What is done to these.
    pub injection: Injection,
}

/// What a request must be: all that is set. Nothing set matches every request.
#[derive(Debug, Clone, Default)]
pub struct ChaosMatch {
    /// The route's name.
    pub route: Option<Pattern>,
    /// The HTTP method.
    pub http_method: Option<Method>,
    /// The beginning of the path.
    pub path: Option<Box<str>>,
    /// The MCP method of some message in it; `tools/*` is every method of tools.
    pub method: Option<Pattern>,
    /// The tool's or prompt's name, or the resource's URI, of that message.
    pub name: Option<Pattern>,
}

/// A fault to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// The call's future is first polled this much later: some time between the two.
    Delay {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// The call fails.
    Abort(Abort),
    /// The response body breaks off here. One that is shorter does not.
    Cut(Point),
    /// The response body comes this many bytes at a time, with this pause between.
    Drip {
        /// The bytes of a piece.
        bytes: NonZeroUsize,
        /// The pause.
        every: Duration,
    },
    /// About one in so many bytes of the response body is replaced by another.
    Garbage {
        /// How many.
        one_in: NonZeroU32,
    },
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// With an empty response of this status; nothing is sent.
    Status(StatusCode),
    /// As if there were no connection to be had; nothing is sent.
    Refused,
    /// The request is sent, and its answer lost.
    Lost,
}

/// Where a body breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// After this many server-sent events; comments are none.
    Events(u32),
    /// After this many bytes.
    Bytes(u64),
}

/// What is to be done with one request.
#[derive(Debug)]
pub(super) enum Hit {
    Delay(Duration),
    Abort(Abort),
    Spoil(Spoil),
}

// === impl ChaosRule ===

impl ChaosRule {
    /// A rule for this share of all requests.
    pub fn new(injection: Injection, share: Share) -> Self {
        Self {
            matches: ChaosMatch::default(),
            share,
            injection,
        }
    }

    /// The same for requests that match.
    #[must_use]
    pub fn of(self, matches: ChaosMatch) -> Self {
        Self { matches, ..self }
    }
}

/// The first rule that matches and hits.
pub(super) fn decide<B>(
    rules: &[ChaosRule],
    request: &Request<B>,
    random: &mut fastrand::Rng,
) -> Option<Hit> {
    rules.iter().find_map(|rule| {
        // Drawn for each rule, so that whether one matches does not change the luck of the next.
        let (luck, mut random) = (random.f64(), random.fork());
        (luck < rule.share.get() && rule.matches.fits(request))
            .then(|| rule.injection.draw(&mut random))
    })
}

// === impl ChaosMatch ===

impl ChaosMatch {
    fn fits<B>(&self, request: &Request<B>) -> bool {
        let exchange = Exchange::get(request);
        let route = exchange.and_then(|e| e.route());
        let fits = |pattern: &Option<Pattern>, text: Option<&str>| {
            pattern
                .as_ref()
                .is_none_or(|p| text.is_some_and(|t| p.fits(t)))
        };
        fits(&self.route, route.map(|r| &*r.name))
            && self
                .http_method
                .as_ref()
                .is_none_or(|m| m == request.method())
            && self
                .path
                .as_ref()
                .is_none_or(|p| request.uri().path().starts_with(&**p))
            && ((self.method.is_none() && self.name.is_none())
                || exchange.and_then(|e| e.call()).is_some_and(|call| {
                    call.messages().iter().any(|message| {
                        fits(&self.method, message.method.as_ref().map(|m| m.as_str()))
                            && fits(&self.name, message.name.as_deref())
                    })
                }))
    }
}

// === impl Injection ===

impl Injection {
    fn draw(self, random: &mut fastrand::Rng) -> Hit {
        match self {
            Self::Delay { min, max } => {
                let spread = max.saturating_sub(min);
                Hit::Delay(min + spread.mul_f64(random.f64()))
            }
            Self::Abort(how) => Hit::Abort(how),
            Self::Cut(at) => Hit::Spoil(Spoil::cut(at)),
            Self::Drip { bytes, every } => Hit::Spoil(Spoil::drip(bytes, every)),
            Self::Garbage { one_in } => Hit::Spoil(Spoil::garbage(one_in, random.clone())),
        }
    }
}
