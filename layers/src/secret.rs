//! What looks like a secret, so that it is not shown: a guess by names, and by the beginnings of well-known tokens.

/// Whether a name is one that secrets have.
pub fn suggests_secret(name: &str) -> bool {
    const PARTS: &[&str] = &[
        "token",
        "secret",
        "passw",
        "passphrase",
        "credential",
        "authorization",
        "cookie",
        "apikey",
        "signature",
    ];
    const WORDS: &[&str] = &[
        "key", "keys", "auth", "pat", "pwd", "pass", "dsn", "jwt", "sig", "bearer", "session",
    ];
    let lower = name.to_ascii_lowercase();
    if PARTS.iter().any(|part| lower.contains(part)) {
        return true;
    }
    let mut words = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .flat_map(humps)
        .flat_map(ends);
    words.any(|word| WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

/// The words of a name that sets them off by capital letters, such as `privateKey`.
fn humps(mut name: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let letters = name.as_bytes().windows(2);
        let mut ends =
            letters.map(|two| !two[0].is_ascii_uppercase() && two[1].is_ascii_uppercase());
        let end = ends.position(|end| end).map_or(name.len(), |at| at + 1);
        let (word, rest) = name.split_at(end);
        name = rest;
        (!word.is_empty()).then_some(word)
    })
}

/// What a word may be read as: itself, and where it begins with an abbreviation, as in `SSHKey`, that and the rest. A number at its end counts for nothing.
fn ends(word: &str) -> impl Iterator<Item = &str> {
    let word = word.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let capitals = word.bytes().take_while(u8::is_ascii_uppercase).count();
    let small = word
        .as_bytes()
        .get(capitals)
        .is_some_and(u8::is_ascii_lowercase);
    let last = capitals.saturating_sub(1);
    let (head, tail) = word.split_at(if small { last } else { 0 });
    [word, head, tail].into_iter()
}

/// Whether a text looks like a token, or like a URL with a password.
pub fn looks_like_secret(value: &str) -> bool {
    const BEGINNINGS: &[&str] = &[
        "Bearer ",
        "bearer ",
        "Basic ",
        "basic ",
        "sk-",
        "sk_",
        "pk_",
        "rk_",
        "ghp_",
        "gho_",
        "ghs_",
        "github_pat_",
        "glpat-",
        "xox",
        "eyJ",
        "AKIA",
        "ya29.",
        "AIza",
        "hf_",
        "npm_",
        "-----BEGIN",
    ];
    let with_password = value.split_once("://").is_some_and(|(_, rest)| {
        rest.split('/')
            .next()
            .is_some_and(|authority| authority.contains('@') && authority.contains(':'))
    });
    with_password
        || BEGINNINGS
            .iter()
            .any(|beginning| value.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_looks_are_told_from_others() {
        for name in [
            "authorization",
            "X-Api-Key",
            "db_password",
            "GITHUB_TOKEN",
            "privateKey",
            "accessKey",
            "sessionId",
            "my2Auth",
            "KEY",
            "KEYs",
            "SSHKey",
            "AWSKey",
            "myHMACKey",
            "DBPass",
            "JWTValue",
            "sshKey1",
            "key2",
            "SSHKey22",
            "db_pass1",
        ] {
            assert!(suggests_secret(name), "{name}");
        }
        for name in [
            "keyboard",
            "name",
            "path",
            "author",
            "aMonkey",
            "isAuthor",
            "é",
            "",
            "MONKey1x",
            "Keyed",
            "SSHMonkey",
            "12",
            "A",
            "SSHost",
        ] {
            assert!(!suggests_secret(name), "{name}");
        }
        for value in ["Bearer x", "ghp_abc", "https://me:word@example.com/"] {
            assert!(looks_like_secret(value), "{value}");
        }
        for value in ["bear", "https://example.com/a:b@c", ""] {
            assert!(!looks_like_secret(value), "{value}");
        }
    }
}
