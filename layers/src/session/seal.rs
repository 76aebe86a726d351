//! Session ids that the client sees: sealed, so that nobody can read, change or guess them, and any process with the key can open them.
//!
//! An id is base64url text without padding: at most [`MAX_LEN`] characters, all of them visible ASCII, as the header wants it (MCP 2025-11-25,
//! transports, "Session Management"). Its bytes:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | version of this layout: 1 |
//! | 4 | id of the key: the beginning of its SHA-256 |
//! | 12 | nonce, random |
//! | rest | sealed: 16 bytes serial, 8 bytes time of minting (seconds since 1970), 2 bytes length of the endpoint's name, that name, the upstream's id; then 16 bytes tag |
//!
//! Numbers are big-endian. The cipher is AES-256-GCM-SIV (RFC 8452), which forgives the nonce that comes twice when random ones are drawn
//! for years under one key. Version, key id, route and principal are authenticated with it, so an id opens nowhere but on its route and for whoever
//! it was made for.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, rand,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};

/// The keys of sealed session ids: the first one seals, each of them opens. Clones share them.
///
/// To change the key, put a new one in front, and take the old one out when the sessions that it sealed have ended.
#[derive(Debug, Clone)]
pub struct Keys(Arc<[Key]>);

/// A key of 32 bytes.
pub struct Key {
    id: [u8; KEY_ID],
    cipher: RandomizedNonceKey,
}

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session key is 32 bytes, written as 64 hexadecimal digits or in base64")]
pub struct BadKey;

/// The system has no random bytes to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// What tells a session from all others: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; SERIAL]);

/// What a sealed id says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The session's key in the store.
    pub serial: Serial,
    /// When the session began, in seconds since 1970.
    pub minted: u64,
    /// The endpoint that the session began at; empty if that has no name.
    pub endpoint: Arc<str>,
    /// The id that the endpoint gave it.
    pub upstream_id: Arc<str>,
}

/// Where an id is good.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The route's name.
    pub route: &'a str,
    /// Who the client is, where that is known.
    pub principal: Option<&'a str>,
}

/// The longest id, in characters. What is longer is not looked at.
pub const MAX_LEN: usize = 2048;

const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const SERIAL: usize = 16;
const KEY: usize = 32;
const HEAD: usize = 1 + KEY_ID + NONCE_LEN;

// === impl Key ===

impl Key {
    /// The key in this text: 64 hexadecimal digits, or base64 of either alphabet, with or without padding. White space around it is
    /// left out.
    ///
    /// # Errors
    /// When that is not 32 bytes.
    pub fn from_text(text: &str) -> Result<Self, BadKey> {
        let text = text.trim_ascii();
        let bytes = from_hex(text)
            .or_else(|| {
                [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
                    .iter()
                    .find_map(|engine| engine.decode(text).ok())
            })
            .ok_or(BadKey)?;
        Self::new(&bytes.try_into().map_err(|_| BadKey)?)
    }

    /// A key for this process alone.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; KEY];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Self::new(&bytes).map_err(|_| NoRandomness)
    }

    fn new(bytes: &[u8; KEY]) -> Result<Self, BadKey> {
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&digest::digest(&digest::SHA256, bytes).as_ref()[..KEY_ID]);
        Ok(Self {
            id,
            cipher: RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes).map_err(|_| BadKey)?,
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * KEY || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..KEY)
        .map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

// === impl Keys ===

impl Keys {
    /// Seals with the first key, and opens with all.
    pub fn new(first: Key, older: impl IntoIterator<Item = Key>) -> Self {
        Self(std::iter::once(first).chain(older).collect())
    }

    /// One key for this process alone: its sessions cannot be routed by another, nor after a restart.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self::new(Key::random()?, []))
    }

    /// The id for this ticket, good where `bound` says; none if it would be too long.
    pub fn seal(&self, ticket: &Ticket, bound: Bound<'_>) -> Option<String> {
        let key = self.0.first()?;
        let length = u16::try_from(ticket.endpoint.len()).ok()?;
        let mut sealed = Vec::with_capacity(MAX_LEN / 4);
        sealed.extend_from_slice(&ticket.serial.0);
        sealed.extend_from_slice(&ticket.minted.to_be_bytes());
        sealed.extend_from_slice(&length.to_be_bytes());
        sealed.extend_from_slice(ticket.endpoint.as_bytes());
        sealed.extend_from_slice(ticket.upstream_id.as_bytes());
        if (HEAD + sealed.len() + MAX_TAG_LEN) * 4 > MAX_LEN * 3 {
            return None;
        }
        let aad = Aad::from(authenticated(key.id, bound));
        let nonce = key.cipher.seal_in_place_append_tag(aad, &mut sealed).ok()?;
        let mut id = Vec::with_capacity(HEAD + sealed.len());
        id.push(VERSION);
        id.extend_from_slice(&key.id);
        id.extend_from_slice(nonce.as_ref());
        id.extend_from_slice(&sealed);
        Some(URL_SAFE_NO_PAD.encode(id))
    }

    /// What an id says; nothing if it was not made by one of these keys, for this route and principal.
    pub fn open(&self, id: &str, bound: Bound<'_>) -> Option<Ticket> {
        if id.len() > MAX_LEN {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (head, sealed) = bytes.split_at_mut_checked(HEAD)?;
        let (&mut version, head) = head.split_first_mut()?;
        let (key_id, nonce) = head.split_at(KEY_ID);
        if version != VERSION {
            return None;
        }
        // Two keys may share an id, if never by chance.
        for key in self.0.iter().filter(|key| key.id == *key_id) {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let aad = Aad::from(authenticated(key.id, bound));
            let mut sealed = sealed.to_vec();
            if let Ok(plain) = key.cipher.open_in_place(nonce, aad, &mut sealed) {
                return Ticket::read(plain);
            }
        }
        None
    }
}

/// What is authenticated with an id, though it does not stand in it; no two bounds give the same bytes.
fn authenticated(key_id: [u8; KEY_ID], bound: Bound<'_>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&key_id);
    bytes.extend_from_slice(&(bound.route.len() as u64).to_be_bytes());
    bytes.extend_from_slice(bound.route.as_bytes());
    bytes.push(u8::from(bound.principal.is_some()));
    bytes.extend_from_slice(bound.principal.unwrap_or_default().as_bytes());
    bytes
}

// === impl Ticket ===

impl Ticket {
    fn read(plain: &[u8]) -> Option<Self> {
        let (serial, rest) = plain.split_first_chunk()?;
        let (minted, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (endpoint, upstream_id) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        Some(Self {
            serial: Serial(*serial),
            minted: u64::from_be_bytes(*minted),
            endpoint: str::from_utf8(endpoint).ok()?.into(),
            upstream_id: str::from_utf8(upstream_id).ok()?.into(),
        })
    }
}

// === impl Serial ===

impl Serial {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; SERIAL];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }

    /// As a number.
    pub fn as_number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

/// The first 4 of its 16 bytes: enough to tell sessions apart. It is no secret: nobody can make an id of it.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(&[byte; KEY]).expect("32 bytes")
    }

    fn keys() -> Keys {
        Keys::new(key(1), [])
    }

    fn ticket(endpoint: &str, upstream_id: &str) -> Ticket {
        Ticket {
            serial: Serial::random().expect("random bytes"),
            minted: 1_790_000_000,
            endpoint: endpoint.into(),
            upstream_id: upstream_id.into(),
        }
    }

    fn on(route: &str) -> Bound<'_> {
        Bound {
            route,
            principal: None,
        }
    }

    #[test]
    fn a_key_is_read_from_hex_and_from_base64() {
        let bytes: Vec<u8> = (200..232).collect();
        let hex: String = bytes.iter().map(|b| format!("{b:02X}")).collect();
        let id = Keys::new(Key::from_text(&hex).expect("a key"), [])
            .seal(&ticket("a", "b"), on("r"))
            .expect("short");
        for text in [
            hex.to_lowercase(),
            format!(" {}\n", STANDARD.encode(&bytes)),
            STANDARD_NO_PAD.encode(&bytes),
            URL_SAFE.encode(&bytes),
            URL_SAFE_NO_PAD.encode(&bytes),
        ] {
            let keys = Keys::new(Key::from_text(&text).expect("a key"), []);
            assert!(keys.open(&id, on("r")).is_some(), "{text}");
        }
        for text in ["", "secret", &hex[2..], &STANDARD.encode(&bytes[1..])] {
            assert_eq!(Key::from_text(text).err(), Some(BadKey), "{text}");
        }
    }

    #[test]
    fn nothing_of_a_key_or_a_session_shows_in_a_log() {
        let text = format!("{:?} {:?}", keys(), Serial([7; SERIAL]));
        assert_eq!(text, "Keys([Key { .. }]) 07070707");
    }

    #[test]
    fn an_id_that_would_be_too_long_is_not_made_and_one_that_is_too_long_not_opened() {
        let room = MAX_LEN / 4 * 3 - HEAD - SERIAL - 10 - MAX_TAG_LEN;
        let fits = ticket("", &"x".repeat(room));
        let id = keys().seal(&fits, on("r")).expect("it fits");
        assert_eq!(id.len(), MAX_LEN);
        assert_eq!(keys().open(&id, on("r")), Some(fits));
        assert_eq!(
            keys().seal(&ticket("", &"x".repeat(room + 1)), on("r")),
            None
        );
        assert_eq!(keys().open(&(id + "A"), on("r")), None);
        assert_eq!(
            keys().seal(&ticket(&"x".repeat(1 << 16), ""), on("r")),
            None
        );
    }

    #[test]
    fn what_is_no_id_opens_nothing() {
        for id in ["", "A", "*", "AQ", &"A".repeat(64), &"A".repeat(MAX_LEN)] {
            assert_eq!(keys().open(id, on("r")), None);
        }
    }

    proptest! {
        #[test]
        fn an_id_opens_as_what_was_sealed(endpoint in "\\PC{0,40}", id in "[!-~]{0,200}", route in "\\PC{0,20}", who in proptest::option::of("\\PC{0,20}")) {
            let bound = Bound { route: &route, principal: who.as_deref() };
            let ticket = ticket(&endpoint, &id);
            let sealed = keys().seal(&ticket, bound).expect("short");
            prop_assert!(sealed.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(keys().open(&sealed, bound), Some(ticket.clone()));
            prop_assert_ne!(keys().seal(&ticket, bound), Some(sealed));
        }

        #[test]
        fn any_bit_that_is_changed_spoils_an_id(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let sealed = keys().seal(&ticket("a", "b"), on("r")).expect("short");
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).expect("base64");
            bytes[at.index(sealed.len() * 3 / 4)] ^= 1 << bit;
            prop_assert_eq!(keys().open(&URL_SAFE_NO_PAD.encode(bytes), on("r")), None);
            let mut text = sealed.clone().into_bytes();
            text[at.index(sealed.len())] ^= 1 << bit;
            let other = String::from_utf8(text).ok().and_then(|text| keys().open(&text, on("r")));
            prop_assert_eq!(other, None);
        }

        #[test]
        fn a_part_of_an_id_opens_nothing(to in any::<prop::sample::Index>()) {
            let sealed = keys().seal(&ticket("a", "b"), on("r")).expect("short");
            prop_assert_eq!(keys().open(&sealed[..to.index(sealed.len())], on("r")), None);
        }

        #[test]
        fn an_id_is_good_nowhere_else(route in "[ab]{0,3}", who in proptest::option::of("[ab]{0,3}"), other in "[ab]{0,3}", whose in proptest::option::of("[ab]{0,3}")) {
            let bound = Bound { route: &route, principal: who.as_deref() };
            let elsewhere = Bound { route: &other, principal: whose.as_deref() };
            let sealed = keys().seal(&ticket("a", "b"), bound).expect("short");
            let same = (&route, &who) == (&other, &whose);
            prop_assert_eq!(keys().open(&sealed, elsewhere).is_some(), same);
        }

        #[test]
        fn old_keys_open_and_the_first_one_seals(older in proptest::collection::vec(2..9_u8, 0..4)) {
            let old = keys().seal(&ticket("a", "b"), on("r")).expect("short");
            let rotated = Keys::new(key(9), older.into_iter().chain([1]).map(key));
            prop_assert!(rotated.open(&old, on("r")).is_some());
            let new = rotated.seal(&ticket("a", "b"), on("r")).expect("short");
            prop_assert!(Keys::new(key(9), []).open(&new, on("r")).is_some());
            prop_assert!(keys().open(&new, on("r")).is_none());
        }
    }
}
