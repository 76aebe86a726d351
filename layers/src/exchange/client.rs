//! Where a request came from.

use std::net::IpAddr;

use http::HeaderValue;

/// Where a request came from. Made once for a connection: its clones cost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    address: IpAddr,
    text: HeaderValue,
    secure: bool,
}

// === impl Client ===

impl Client {
    /// The peer of this address, which came over TLS or not.
    pub fn new(address: IpAddr, secure: bool) -> Self {
        Self {
            address,
            text: HeaderValue::try_from(address.to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            secure,
        }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The address as a header has it.
    pub fn text(&self) -> &HeaderValue {
        &self.text
    }

    /// It came over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}
