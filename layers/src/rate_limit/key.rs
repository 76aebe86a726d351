//! What a limit is kept by: the parts of a key, and the bytes that they make.

use std::{
    cell::OnceCell,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::{
    exchange::Exchange,
    expression::{About, Expression, Sees, Unclear},
    mcp::{self, MessageFacts, strict},
    metrics::OTHER,
    secret::looks_like_secret,
};

/// A part of the key by which a limit tells calls apart: each different key has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyPart {
    /// The session, if the session layer has opened its id; else the principal; else the client. So what has no session yet (`initialize`),
    /// or never has one (modern calls), cannot get around the limit.
    Session,
    /// The client's address. All clients behind one proxy have one.
    Client,
    /// The principal, where somebody found out who the client is; else the client.
    Principal,
    /// The JSON-RPC method, or the HTTP method where there is none; those that no specification defines are one.
    Method,
    /// The tool. Only calls of tools count then.
    Tool,
}

/// One call that counts.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    /// The session that it belongs to, where a session layer has proven that it does.
    pub(super) session: Option<u128>,
    pub(super) exchange: Option<&'a Exchange>,
    pub(super) http: &'a Method,
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The body, where it is in memory.
    pub(super) body: Option<&'a Bytes>,
    /// The message; none on plain HTTP, and of requests without a body.
    pub(super) message: Option<&'a MessageFacts>,
    /// The message, once an expression has looked into it.
    pub(super) parsed: OnceCell<Result<Value, String>>,
}

/// A key while it is put together. Costs no allocation.
#[derive(Debug)]
pub(super) struct KeyBuffer {
    bytes: [u8; MOST],
    len: usize,
}

/// Longer texts stand in a key as their hash.
const LONGEST: usize = 128;

/// Each part once, what an expression says, and the number of the tier, each with its tag and its length.
const MOST: usize = 7 * (2 + LONGEST);

/// Keyed anew in each process, so that nobody can look for two texts of one hash.
static HASHES: LazyLock<[RandomState; 2]> =
    LazyLock::new(|| [RandomState::new(), RandomState::new()]);

// === impl KeyPart ===

impl KeyPart {
    /// All parts, in the order in which a key has them.
    pub const ALL: [Self; 5] = [
        Self::Session,
        Self::Client,
        Self::Principal,
        Self::Method,
        Self::Tool,
    ];

    /// The word for settings, logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Client => "client",
            Self::Principal => "principal",
            Self::Method => "method",
            Self::Tool => "tool",
        }
    }
}

// === impl Subject ===

impl<'a> Subject<'a> {
    /// The method as it was sent.
    pub(super) fn method(&self) -> &'a str {
        match self.message {
            Some(message) => message.method.as_ref().map_or("", |m| m.as_str()),
            None => self.http.as_str(),
        }
    }

    fn known_method(&self) -> &'a str {
        let http = || {
            let known = [
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::DELETE,
                Method::OPTIONS,
                Method::PATCH,
            ];
            known.contains(self.http).then(|| self.http.as_str())
        };
        let known = match self.message {
            Some(message) => message.method.as_ref().and_then(|m| m.known()),
            None => http(),
        };
        known.unwrap_or(OTHER)
    }

    pub(super) fn tool(&self) -> Option<&'a str> {
        self.message.and_then(|message| message.tool())
    }

    /// What an expression says of it. A key that stands twice in the message could be read in two ways, and is none.
    pub(super) fn value(&self, of: &Expression) -> Result<Option<String>, Unclear> {
        let body = if of.uses(Sees::Body) {
            let parsed = self.parsed.get_or_init(|| self.parse()).as_ref();
            parsed.map_err(|problem| Unclear::Fails(problem.clone()))?
        } else {
            &Value::Null
        };
        of.key(&About {
            exchange: self.exchange,
            http_method: self.http,
            path: self.path,
            headers: self.headers,
            direction: "request",
            // Not `method()`, which on plain HTTP is that of HTTP.
            method: self.message.and_then(|message| {
                let method = message.method.as_ref();
                method.map(mcp::Method::as_str)
            }),
            name: self.message.and_then(|message| message.name.as_deref()),
            body,
        })
    }

    fn parse(&self) -> Result<Value, String> {
        let Some((message, body)) = self.message.zip(self.body) else {
            return Ok(Value::Null);
        };
        let text = body.get(message.span.clone()).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
        strict::parse(text)
    }

    pub(super) fn principal(&self) -> Option<&'a str> {
        self.exchange?.principal().map(|principal| &**principal)
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        let address = self.exchange?.client()?.address();
        Some(address.to_canonical())
    }
}

// === impl KeyBuffer ===

impl KeyBuffer {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; MOST],
            len: 0,
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a part of this call. An IPv6 address counts as its first bits.
    pub(super) fn push(&mut self, part: KeyPart, subject: &Subject<'_>, ipv6_prefix: u8) {
        match part {
            KeyPart::Session => match subject.session {
                Some(session) => self.put(b's', &session.to_be_bytes()),
                None => self.push(KeyPart::Principal, subject, ipv6_prefix),
            },
            KeyPart::Principal => match subject.principal() {
                Some(principal) => self.put_text(b'p', principal),
                None => self.push(KeyPart::Client, subject, ipv6_prefix),
            },
            KeyPart::Client => match subject.address() {
                Some(IpAddr::V4(address)) => self.put(b'c', &address.octets()),
                Some(IpAddr::V6(address)) => {
                    self.put(b'c', &network(address, ipv6_prefix).octets());
                }
                None => self.put(b'c', &[]),
            },
            KeyPart::Method => self.put_text(b'm', subject.known_method()),
            KeyPart::Tool => self.put_text(b't', subject.tool().unwrap_or_default()),
        }
    }

    /// Adds what an expression said; as its hash, where it may be a secret.
    pub(super) fn push_value(&mut self, value: &str, secret: bool) {
        if secret {
            self.put_hash(b'e', value);
        } else {
            self.put_text(b'e', value);
        }
    }

    /// What an expression cannot look into is one.
    pub(super) fn push_too_large(&mut self) {
        self.put(b'l', &[]);
    }

    /// Adds the number of a tier, so that each has buckets of its own.
    pub(super) fn push_tier(&mut self, tier: u8) {
        self.put(b'i', &[tier]);
    }

    fn put_text(&mut self, tag: u8, text: &str) {
        if text.len() <= LONGEST {
            return self.put(tag, text.as_bytes());
        }
        self.put_hash(tag, text);
    }

    fn put_hash(&mut self, tag: u8, text: &str) {
        let [one, other] = [0, 1].map(|at: usize| u128::from(HASHES[at].hash_one(text)));
        self.put(tag.to_ascii_uppercase(), &(one << 64 | other).to_be_bytes());
    }

    /// There is room for each part once.
    fn put(&mut self, tag: u8, value: &[u8]) {
        let end = self.len + 2 + value.len();
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place[0] = tag;
            place[1] = u8::try_from(value.len()).unwrap_or(u8::MAX);
            place[2..].copy_from_slice(value);
            self.len = end;
        }
    }
}

/// The first bits of an address.
pub(super) fn network(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX
        .checked_shl(128 - u32::from(bits.min(128)))
        .unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

/// What a key says, for people: a session as its first bytes alone, which no client can make use of.
pub(super) fn show(mut key: &[u8]) -> Vec<(&'static str, String)> {
    let mut shown = Vec::new();
    while let [tag, len, rest @ ..] = key {
        let (value, next) = rest.split_at(usize::from(*len).min(rest.len()));
        key = next;
        shown.push(match tag {
            b's' => ("session", hex(&value[..value.len().min(4)])),
            b'c' => ("client", address(value)),
            b'p' => ("principal", String::from_utf8_lossy(value).into_owned()),
            b'm' => ("method", String::from_utf8_lossy(value).into_owned()),
            b't' => ("tool", String::from_utf8_lossy(value).into_owned()),
            b'e' => ("expression", shown_value(&String::from_utf8_lossy(value))),
            b'l' => ("expression", "too large".to_owned()),
            b'E' => ("expression", format!("#{}", hex(value))),
            b'P' => ("principal", format!("#{}", hex(value))),
            b'T' => ("tool", format!("#{}", hex(value))),
            b'i' => ("tier", value.first().copied().unwrap_or(0).to_string()),
            _ => continue,
        });
    }
    shown
}

/// It may come from anywhere in a message.
fn shown_value(value: &str) -> String {
    if looks_like_secret(value) {
        return "***".to_owned();
    }
    value.to_owned()
}

fn address(bytes: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(octets).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(octets) => Ipv6Addr::from(octets).to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::{exchange::Client, mcp::CallFacts};

    /// The key of the only message of an exchange.
    fn key(exchange: &Exchange, parts: &[KeyPart]) -> Vec<u8> {
        key_in(None, exchange, parts)
    }

    fn key_in(session: Option<u128>, exchange: &Exchange, parts: &[KeyPart]) -> Vec<u8> {
        let subject = Subject {
            session,
            exchange: Some(exchange),
            http: &Method::POST,
            path: "/",
            headers: &HeaderMap::new(),
            body: None,
            parsed: OnceCell::new(),
            message: exchange.call().and_then(|call| call.messages().first()),
        };
        let mut buffer = KeyBuffer::new();
        for part in parts {
            buffer.push(*part, &subject, 64);
        }
        buffer.as_bytes().to_vec()
    }

    fn from(address: &str) -> Exchange {
        let exchange = Exchange::new("x");
        exchange.set_client(Client::new(address.parse().expect("an address"), false));
        exchange
    }

    fn call(body: &str) -> Exchange {
        let exchange = from("10.0.0.1");
        let body = Bytes::from(body.to_owned());
        let facts = CallFacts::read(&Method::POST, &HeaderMap::new(), &body);
        exchange.set_call(facts.expect("a call"));
        exchange
    }

    fn call_of(tool: &str) -> Exchange {
        call(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#
        ))
    }

    #[test]
    fn without_a_session_the_principal_counts_and_without_that_the_client() {
        let exchange = from("10.0.0.1");
        let client = key(&exchange, &[KeyPart::Client]);
        assert_eq!(show(&client), [("client", "10.0.0.1".to_owned())]);
        assert_eq!(key(&exchange, &[KeyPart::Principal]), client);
        assert_eq!(key(&exchange, &[KeyPart::Session]), client);
        exchange.set_principal(Arc::from("10.0.0.1"));
        let principal = key(&exchange, &[KeyPart::Session]);
        assert_eq!(show(&principal), [("principal", "10.0.0.1".to_owned())]);
        assert_ne!(principal, client);
        let number = Some(0x1234_5678_9abc_def0_0000_0000_0000_0001);
        let session = key_in(number, &exchange, &[KeyPart::Session]);
        assert_eq!(show(&session), [("session", "12345678".to_owned())]);
        let unknown = key(&Exchange::new("x"), &[KeyPart::Session]);
        assert_eq!(show(&unknown), [("client", "unknown".to_owned())]);
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_one_is_what_it_maps() {
        let of = |address| key(&from(address), &[KeyPart::Client]);
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        let address = "2001:db8::1".parse().expect("an address");
        assert_eq!(network(address, 128), address);
        assert_eq!(network(address, 0), Ipv6Addr::UNSPECIFIED);
    }

    #[test]
    fn no_two_keys_are_one_however_their_texts_are_made() {
        let parts = [KeyPart::Method, KeyPart::Tool];
        assert_ne!(key(&call_of("a"), &parts), key(&call_of("am"), &parts));
        let long = "x".repeat(4000);
        let (one, other) = (call_of(&long), call_of(&format!("{long}y")));
        assert_eq!(key(&one, &parts), key(&call_of(&long), &parts));
        assert_ne!(key(&one, &parts), key(&other, &parts));
        assert!(key(&one, &KeyPart::ALL).len() < MOST);
        let exact = "x".repeat(LONGEST);
        assert_eq!(
            show(&key(&call_of(&exact), &[KeyPart::Tool])),
            [("tool", exact)]
        );
    }

    #[test]
    fn methods_that_a_client_makes_up_are_one() {
        let of = |method: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
            key(&call(&body), &[KeyPart::Method])
        };
        assert_eq!(of("made/up"), of("made/otherwise"));
        assert_ne!(of("made/up"), of("tools/list"));
        assert_eq!(
            show(&of("tools/list")),
            [("method", "tools/list".to_owned())]
        );
        let plain = key(&Exchange::new("x"), &[KeyPart::Method]);
        assert_eq!(show(&plain), [("method", "POST".to_owned())]);
    }
}
