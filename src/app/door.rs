//! Who is let in at the admin listener, and what people are told of that.

use std::net::SocketAddr;

use super::AppError;
use crate::{
    admin::{Access, AdminSettings, AdminToken, TokenFile, random_token},
    config,
};

/// How the admin listener is reached.
pub(super) struct Door {
    pub(super) settings: AdminSettings,
    /// A token that was made for this process.
    made: Option<String>,
    /// Where that was left; the file goes with this.
    file: Option<TokenFile>,
}

// === impl Door ===

impl Door {
    /// The door of the listener at this address. Where the config has no token, one is made if only this machine can come; else the door stays shut.
    pub(super) fn new(config: &config::Admin, address: SocketAddr) -> Result<Self, AppError> {
        let mut tokens: Vec<AdminToken> = config
            .tokens
            .iter()
            .map(|(name, token)| AdminToken {
                name: name.clone(),
                token: token.0.clone(),
            })
            .collect();
        let local = address.ip().to_canonical().is_loopback();
        let mut this = Self {
            settings: AdminSettings {
                hosts: config.hosts.clone(),
                ..AdminSettings::default()
            },
            made: None,
            file: None,
        };
        if !config.auth {
            this.settings.access = Access::Open;
            return Ok(this);
        }
        if tokens.is_empty() && local {
            let token = random_token()?;
            this.file = TokenFile::leave(address, &token)
                .inspect_err(|error| tracing::warn!(%error, "the admin token was not left in a file, so `ziggurat admin` must be told it"))
                .ok();
            this.made = Some(token.clone());
            let name = "start".to_owned();
            tokens.push(AdminToken { name, token });
        }
        this.settings.access = Access::Tokens(tokens);
        Ok(this)
    }

    /// What people are told of it.
    pub(super) fn banner(&self, admin: SocketAddr) -> String {
        match (&self.made, &self.settings.access) {
            (Some(token), _) => {
                // Where the file is, is nobody's business who reads the log.
                let found = if self.file.is_some() {
                    format!("\n  ziggurat admin --admin {admin} upstreams   # finds that token by itself")
                } else {
                    String::new()
                };
                format!(
                    "Admin API: curl -H 'authorization: Bearer {token}' http://{admin}/admin/v1/upstreams{found}"
                )
            }
            (None, Access::Open) => {
                format!("Admin API: http://{admin}/admin/v1/upstreams (no token is asked for)")
            }
            (None, Access::Tokens(tokens)) if tokens.is_empty() => {
                "Admin API: closed, since other machines can reach it and the config has no `admin.tokens`".to_owned()
            }
            (None, Access::Tokens(_)) => {
                format!("Admin API: http://{admin}/admin/v1/upstreams, with a token of the config")
            }
        }
    }
}
