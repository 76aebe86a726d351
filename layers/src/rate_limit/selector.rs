//! Which calls a limit, or a tier of it, is for.

use std::{fmt, net::IpAddr, str::FromStr};

use super::key::{Subject, network};
use crate::pattern::Pattern;

/// Which calls: those that are of each list, where an empty list takes all. In names `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Calls of these tools.
    pub tools: Vec<Pattern>,
    /// Calls with these JSON-RPC methods, or HTTP methods where there is none.
    pub methods: Vec<Pattern>,
    /// Calls of these principals. Who has none is none of them.
    pub principals: Vec<Pattern>,
    /// Calls of clients with addresses in these networks.
    pub clients: Vec<Network>,
}

/// Addresses that have their first bits in common: `10.0.0.0/8`, `2001:db8::/32`, or one address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address, or an address and a number of bits, such as 10.0.0.0/8")]
pub struct BadNetwork;

// === impl Selector ===

impl Selector {
    /// It takes every call.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn takes(&self, subject: &Subject<'_>) -> bool {
        let named = |patterns: &[Pattern], name: Option<&str>| {
            patterns.is_empty() || name.is_some_and(|name| patterns.iter().any(|p| p.fits(name)))
        };
        named(&self.tools, subject.tool())
            && named(&self.methods, Some(subject.method()))
            && named(&self.principals, subject.principal())
            && (self.clients.is_empty()
                || subject
                    .address()
                    .is_some_and(|address| self.clients.iter().any(|n| n.holds(address))))
    }
}

// === impl Network ===

impl Network {
    /// Whether the address, which is no mapped one, is in it.
    fn holds(&self, address: IpAddr) -> bool {
        let of = |address: IpAddr| match address {
            // As the last bits of one of the other family.
            IpAddr::V4(address) => (network(address.to_ipv6_mapped(), 96 + self.bits), true),
            IpAddr::V6(address) => (network(address, self.bits), false),
        };
        address.is_ipv4() == self.address.is_ipv4() && of(address) == of(self.address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most),
            None => Some(most),
        };
        let bits = bits.ok_or(BadNetwork)?;
        // A mapped address would match nobody.
        if address.to_canonical() != address {
            return Err(BadNetwork);
        }
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_like_it() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "1.2.3.4", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
        ] {
            let parsed: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(parsed.holds(address), expected, "{network} {address}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "a",
            "10.0.0.0/",
            "::ffff:10.0.0.1",
            "1.2.3.4/-1",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(BadNetwork), "{bad}");
        }
    }
}
