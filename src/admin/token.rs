//! The admin token: making one that cannot be guessed, and comparing without telling how much was right.

use std::fmt::Write;
use std::hint::black_box;

use rustls::crypto::aws_lc_rs;

/// The system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system has no random numbers for an admin token")]
pub struct TokenError;

/// A fresh token of 128 random bits, for an admin listener that nobody gave one.
pub fn random_token() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| TokenError)?;
    let mut token = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(token, "{byte:02x}").expect("writing to a string does not fail");
    }
    Ok(token)
}

/// Whether both are the same. Takes as long for a wrong first byte as for a wrong last one.
pub(super) fn same(sent: &[u8], token: &[u8]) -> bool {
    // An empty token is a mistake, and must not open the door.
    if token.is_empty() {
        return false;
    }
    let mut difference = u8::from(sent.len() != token.len());
    for (at, byte) in sent.iter().enumerate() {
        difference = black_box(difference | (byte ^ token[at % token.len()]));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn tokens_are_long_and_differ() {
        let (one, two) = (random_token().unwrap(), random_token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }

    #[test]
    fn only_the_same_token_is_the_same() {
        assert!(same(b"secret", b"secret"));
        for wrong in [
            &b""[..],
            b"s",
            b"secreT",
            b"Secret",
            b"secretsecret",
            b"secrets",
        ] {
            assert!(!same(wrong, b"secret"));
        }
        assert!(!same(b"", b""));
    }
}
