//! Caps for the calls of some tools.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Request;

use super::{Cap, Permit, ToolBusy};
use crate::{by_tool::ByTool, exchange::Exchange, pattern::Pattern};

/// The caps of tools, which may be set anew.
#[derive(Debug, Default)]
pub(super) struct ToolCaps {
    /// There are some: without that there is nothing to look at.
    any: AtomicBool,
    caps: RwLock<ByTool<Option<Arc<Cap>>>>,
}

impl ToolCaps {
    pub(super) fn is_off(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, caps: impl IntoIterator<Item = (Pattern, Option<NonZeroUsize>)>) {
        let state = self.caps.write();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let cap = |(pattern, limit): (Pattern, Option<NonZeroUsize>)| {
            let mut before = state.rules().filter(|(before, _)| *before == pattern);
            let cap = limit.map(|_| {
                let same = before.find_map(|(_, cap)| cap.clone());
                same.unwrap_or_else(Cap::new)
            });
            if let Some(cap) = &cap {
                cap.set(limit);
            }
            (pattern, cap)
        };
        let caps: Vec<_> = caps.into_iter().map(cap).collect();
        // Under the lock, so that the last change has the last word.
        let any = caps.iter().any(|(_, cap)| cap.is_some());
        self.any.store(any, Ordering::Relaxed);
        *state = ByTool::new(None, caps);
    }

    /// Takes a place for each call of a tool that has a cap. Those of a request that is refused go with it.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Result<Permit, ToolBusy> {
        let Some(exchange) = Exchange::get(request).cloned() else {
            return Ok(Permit(None));
        };
        let messages = exchange.call().map(|call| call.messages());
        let mut permit = Permit(None);
        let caps = self.caps.read();
        let caps = caps.unwrap_or_else(PoisonError::into_inner);
        // How many places are wanted under each cap.
        let mut wanted: Vec<(&Pattern, &Arc<Cap>, usize)> = Vec::new();
        for message in messages.unwrap_or_default() {
            let rule = message.tool().and_then(|tool| caps.rule(tool));
            let Some((tools, Some(cap))) = rule else {
                continue;
            };
            match wanted
                .iter_mut()
                .find(|(_, known, _)| Arc::ptr_eq(known, cap))
            {
                Some((_, _, calls)) => *calls += 1,
                None => wanted.push((tools, cap, 1)),
            }
        }
        // Those that are never found go first: nobody is to say that such a batch may come again.
        wanted.sort_by_key(|(_, cap, calls)| *calls <= cap.limit());
        for (tools, cap, calls) in wanted {
            let place = cap.take(calls).map_err(|limit| ToolBusy {
                tools: tools.clone(),
                limit,
                calls,
            })?;
            permit = Permit::hold(place, request);
        }
        Ok(permit)
    }
}
