//! Modern calls: what is checked before a child sees them.

use std::sync::Arc;

use super::{Answer, Incoming, accepted, respond};
use crate::{
    mcp::{CallFacts, Kind, headers},
    upstream::stdio::{call::Call, child::Origin, error::StdioError, params},
};

impl Incoming {
    pub(super) async fn modern(self, facts: &CallFacts) -> Answer {
        let Some(message) = facts.request() else {
            let response = facts.messages().iter().any(|m| m.kind == Kind::Response);
            if response || facts.batch {
                let text = "a client of this revision sends single requests and notifications only";
                return Err(StdioError::Misplaced(text).into());
            }
            // A cancellation over HTTP names nobody: who sent it is not known. Nothing else is defined.
            return Ok(accepted());
        };
        headers::check(facts, &self.headers)?;
        // A child would take this for the beginning of a legacy session.
        if message.is("initialize") {
            return Err(StdioError::NoSuchMethod.into());
        }
        if message.version.is_none() {
            return Err(StdioError::MetaMissing(crate::mcp::META_VERSION).into());
        }
        if !message.client_said {
            return Err(StdioError::MetaMissing(crate::mcp::META_CAPABILITIES).into());
        }
        let mut extensions = self.extensions;
        // A child may end just when it is asked; nothing was sent then, and the next one is asked.
        for last in [false, true] {
            let modern = self.pool.modern(self.principal.as_ref()).await?;
            if let Some(version) = &message.version
                && !modern.versions.iter().any(|known| **known == **version)
            {
                return Err(StdioError::UnsupportedVersion {
                    requested: version.to_string(),
                    supported: modern.versions.clone(),
                }
                .into());
            }
            if let Some(tool) = message.tool() {
                let text = std::str::from_utf8(&self.body).unwrap_or_default();
                match params::check(&self.pool, &modern, tool, text, &self.headers).await {
                    Err(error) if !last && is_unsent(&*error) => continue,
                    checked => checked?,
                }
            }
            let call = Arc::new(Call::new(1, self.pool.settings().buffer));
            let (child, origin) = (&modern.child, Origin::default());
            match child.call(&self.body, &[message], call, &origin, &mut extensions) {
                Ok(lease) => {
                    return respond(lease, &self.headers, &self.pool, Vec::new(), facts).await;
                }
                Err(error) if !last && is_unsent(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StdioError::Closing.into())
    }
}

/// The child went away before it was sent the call.
fn is_unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref();
    matches!(error, Some(StdioError::Gone { sent: false, .. }))
}
