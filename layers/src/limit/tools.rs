//! Caps for the calls of some tools.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Request;

use super::{Cap, Permit, Shed};
use crate::{by_tool::ByTool, exchange::Exchange, pattern::Pattern};

/// The caps of tools, which may be set anew.
#[derive(Debug, Default)]
pub(super) struct ToolCaps {
    /// There are some: without that there is nothing to look at.
    any: AtomicBool,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    by_tool: ByTool<Option<Arc<Cap>>>,
    /// The caps by their patterns, for who comes after.
    known: Vec<(Pattern, Arc<Cap>)>,
}

impl ToolCaps {
    pub(super) fn is_off(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, caps: impl IntoIterator<Item = (Pattern, Option<NonZeroUsize>)>) {
        let state = self.state.write();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut state.known);
        let cap = |(pattern, limit): (Pattern, Option<NonZeroUsize>)| {
            let mut same = before.iter().filter(|(known, _)| *known == pattern);
            let cap = limit.map(|_| match same.next() {
                Some((_, cap)) => cap.clone(),
                None => Cap::new("calls of these tools in flight"),
            });
            if let Some(cap) = &cap {
                cap.set(limit);
            }
            (pattern, cap)
        };
        let caps: Vec<_> = caps.into_iter().map(cap).collect();
        state.known = caps
            .iter()
            .filter_map(|(pattern, cap)| Some((pattern.clone(), cap.clone()?)))
            .collect();
        // Under the lock, so that the last change has the last word.
        self.any.store(!state.known.is_empty(), Ordering::Relaxed);
        state.by_tool = ByTool::new(None, caps);
    }

    /// Takes a place for each call of a tool that has a cap. Those of a request that is refused go with it.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Result<Permit, Shed> {
        let Some(exchange) = Exchange::get(request).cloned() else {
            return Ok(Permit(None));
        };
        let messages = exchange.call().map(|call| call.messages());
        let mut permit = Permit(None);
        let state = self.state.read();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        for message in messages.unwrap_or_default() {
            let tool = message.tool();
            if let Some(cap) = tool.and_then(|tool| state.by_tool.of(Some(tool)).as_ref()) {
                permit = Permit::hold(cap.take()?, request);
            }
        }
        Ok(permit)
    }
}
