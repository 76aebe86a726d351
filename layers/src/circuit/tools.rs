//! Breakers for the tools of an upstream, made as tools are met.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use super::{
    CircuitReport, CircuitSettings, Forced, Scope,
    handle::{Switch, Ticket},
};
use crate::{
    by_tool::ByTool,
    metrics::{self, OTHER},
    verdict::Verdict,
};

/// The breakers of an upstream's tools, shared by its endpoints. Clones are the same breakers; they are off until they are given
/// settings.
///
/// A tool gets its breaker when a call of it had a result, or failed without an answer; a client cannot make up tools,
/// since a server answers a call of a tool that it lacks with an error. Some tools may have settings of their own, or none ([`ByTool`]). Past [`ToolCircuits::MAX`] tools, and for names of more than
/// 128 bytes, there is only the breaker of the endpoint.
#[derive(Debug, Clone)]
pub struct ToolCircuits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Box<str>,
    labels: metrics::Tools,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None` is off.
    settings: ByTool<Option<Arc<CircuitSettings>>>,
    tools: HashMap<Box<str>, Arc<Switch>>,
}

const LONGEST_NAME: usize = 128;

impl ToolCircuits {
    /// The most tools that have a breaker.
    pub const MAX: usize = 1000;

    /// No breakers yet, for the tools of this upstream; those that may be labels of metrics are told by `labels`.
    pub fn new(upstream: &str, labels: &metrics::Tools) -> Self {
        Self {
            shared: Arc::new(Shared {
                upstream: upstream.into(),
                labels: labels.clone(),
                inner: RwLock::default(),
            }),
        }
    }

    /// Gives them settings, all or by tool: the breakers that there are keep their state. `None` turns them off, and forgets them.
    pub fn set(&self, settings: impl Into<ByTool<Option<CircuitSettings>>>) {
        let settings = settings.into().map(|own| own.clone().map(Arc::new));
        let mut inner = self.write();
        inner.tools.retain(|tool, switch| {
            let own = settings.of(Some(tool));
            // One that goes is off from now on: what calls in flight still tell it is no word of one that comes after it.
            switch.set(own.clone());
            own.is_some()
        });
        inner.settings = settings;
    }

    /// How they stand, by tool.
    pub fn look(&self) -> Vec<(Box<str>, CircuitReport)> {
        let tools: Vec<_> = self
            .read()
            .tools
            .iter()
            .map(|(tool, switch)| (tool.clone(), switch.clone()))
            .collect();
        let report = |(tool, switch): (Box<str>, Arc<Switch>)| Some((tool, switch.look()?));
        tools.into_iter().filter_map(report).collect()
    }

    /// Forces a state on a tool's breaker, which is made if need be, or takes that back. Whether there was a breaker to force: none
    /// while it is off, nor past the cap.
    pub fn force(&self, tool: &str, forced: Option<Forced>) -> bool {
        let switch = match forced {
            Some(_) => self.get_or_make(tool),
            None => self.get(tool),
        };
        switch.is_some_and(|switch| switch.force(forced))
    }

    /// Admits a call of this tool; without a ticket where it has no breaker.
    pub(super) fn admit(&self, tool: &str) -> Result<Option<Ticket>, Option<Duration>> {
        self.get(tool).map_or(Ok(None), |switch| switch.admit())
    }

    /// A call of this tool is over; `ticket` is what it was admitted with. `proven` says that it had a result.
    pub(super) fn end(
        &self,
        tool: &str,
        ticket: Option<Ticket>,
        ended: (Verdict, Option<Duration>),
        proven: bool,
    ) {
        let (verdict, took) = ended;
        let ticket = match ticket {
            Some(ticket) => Some(ticket),
            // The first call that tells something of it counts too.
            None => self
                .get_or_make(tool)
                .and_then(|switch| switch.admit().ok().flatten()),
        };
        if let Some(ticket) = ticket {
            if proven && ticket.unproven {
                let label = self.shared.labels.label(tool, true);
                ticket.switch.prove();
                self.measure(&ticket.switch, label);
            }
            ticket.end(verdict, took);
        }
    }

    fn measure(&self, switch: &Switch, label: &str) {
        let name = format!("{}/{label}", self.shared.upstream);
        switch.measure(&name, label != OTHER);
    }

    fn get(&self, tool: &str) -> Option<Arc<Switch>> {
        self.read().tools.get(tool).cloned()
    }

    fn get_or_make(&self, tool: &str) -> Option<Arc<Switch>> {
        if tool.len() > LONGEST_NAME {
            return None;
        }
        {
            let inner = self.read();
            inner.settings.of(Some(tool)).as_ref()?;
            if let Some(switch) = inner.tools.get(tool) {
                return Some(switch.clone());
            }
        }
        let mut inner = self.write();
        let settings = inner.settings.of(Some(tool)).clone()?;
        if let Some(switch) = inner.tools.get(tool) {
            return Some(switch.clone());
        }
        if inner.tools.len() >= Self::MAX {
            inner.tools.retain(|_, switch| {
                let kept = switch.is_kept();
                if !kept {
                    switch.set(None);
                }
                kept
            });
        }
        if inner.tools.len() >= Self::MAX {
            return None;
        }
        let name = format!("{}/{tool}", self.shared.upstream);
        let switch = Arc::new(Switch::new(Scope::Tool, &name));
        switch.set(Some(settings));
        self.measure(&switch, OTHER);
        inner.tools.insert(tool.into(), switch.clone());
        Some(switch)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.shared
            .inner
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.shared
            .inner
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
