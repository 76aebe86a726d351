//! The hash that places keys: the same in every process and every release, so that several proxies agree.
//!
//! FNV-1a over the bytes, then the finalizer of SplitMix64, since FNV alone mixes short keys badly. Whoever picks keys on purpose can aim at one
//! endpoint; the bound on its load holds against that.

use http::{HeaderName, Request};

use crate::{Body, exchange::Exchange, mcp::argument};

/// What a call is placed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The session of an MCP call.
    Session,
    /// The value of this request header.
    Header(HeaderName),
    /// What this JSON pointer finds in the arguments of a `tools/call`. Only here is a body parsed, and only if it is in memory, as
    /// [`inspect`](crate::inspect) leaves it.
    Pointer(Box<str>),
}

impl HashKey {
    /// The key of a request, hashed; `None` where it has none.
    pub(super) fn of(&self, request: &Request<Body>) -> Option<u64> {
        let call = Exchange::get(request).and_then(|e| e.call());
        match self {
            Self::Session => Some(of(call?.session.as_deref()?.as_bytes())),
            Self::Header(name) => Some(of(request.headers().get(name)?.as_bytes())),
            Self::Pointer(pointer) => {
                call?.request()?.tool()?;
                let text = argument::find(request.body().bytes()?, pointer)?;
                Some(of(text.as_bytes()))
            }
        }
    }
}

/// The hash of these bytes.
pub(super) fn of(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// A number between 0 and 1, both left out, for a key at an endpoint; `purpose` makes different ones.
pub(super) fn draw(key: u64, seed: u64, purpose: u64) -> f64 {
    let hash = mix(key ^ mix(seed.wrapping_add(purpose)));
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::*;
    use crate::mcp::CallFacts;

    #[test]
    fn the_key_is_found_where_it_is_said_to_be() {
        let body = r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":{"b":"x"},"n":[1,2]}}}"#;
        let mut request = Request::new(Body::full(body));
        request
            .headers_mut()
            .insert("x-tenant", "t1".parse().expect("a value"));
        request
            .headers_mut()
            .insert("mcp-session-id", "s1".parse().expect("a value"));
        let header = HashKey::Header(HeaderName::from_static("x-tenant"));
        assert_eq!(header.of(&request), Some(of(b"t1")));
        assert_eq!(HashKey::Session.of(&request), None);
        let facts = CallFacts::read(
            &Method::POST,
            &request.headers().clone(),
            &Bytes::from_static(body.as_bytes()),
        );
        Exchange::of(&mut request).set_call(facts.expect("a call"));
        assert_eq!(HashKey::Session.of(&request), Some(of(b"s1")));
        let pointer = |text: &str| HashKey::Pointer(text.into()).of(&request);
        assert_eq!(pointer("/a/b"), Some(of(b"\"x\"")));
        assert_eq!(pointer("/n/1"), Some(of(b"2")));
        assert_eq!(pointer("/c"), None);
    }

    #[test]
    fn the_hash_stays_what_it_is() {
        // The first number of SplitMix64 from 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(of(b"session"), 0x2fa1_5b15_b6f2_7f06);
    }
}
