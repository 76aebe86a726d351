//! JSON pointers (RFC 6901).

use std::{fmt, ops::Range, str::FromStr};

use super::{Shape, children, member, root, shape};

/// A place in a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    text: Box<str>,
    tokens: Box<[Box<str>]>,
}

/// A text is no pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPointer {
    /// It has something in it, and does not begin with `/`.
    #[error("does not begin with `/`")]
    Start,
    /// A `~` is not followed by `0` or `1`.
    #[error("has a `~` that is neither `~0` nor `~1`")]
    Tilde,
    /// It is longer, or deeper, than any message.
    #[error("is too long")]
    TooLong,
}

impl Pointer {
    /// The most levels.
    pub const DEEPEST: usize = 64;
    /// The most bytes.
    pub const LONGEST: usize = 1024;

    /// The keys and indices on the way.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tokens.iter().map(|token| &**token)
    }

    /// The first key on the way; none of the whole value.
    pub fn first(&self) -> Option<&str> {
        self.tokens.first().map(|token| &**token)
    }

    /// Whether what `other` points to lies within what this points to.
    pub(super) fn holds(&self, other: &Self) -> bool {
        other.tokens.len() > self.tokens.len() && other.tokens.starts_with(&self.tokens)
    }

    /// The place of the container that the last token is looked up in, and that token.
    pub(super) fn split<'a>(&'a self, text: &str) -> Option<(Range<usize>, &'a str)> {
        let (last, way) = self.tokens.split_last()?;
        let mut at = root(text);
        for token in way {
            at = step(text, &at, token)?;
        }
        Some((at, last))
    }

    /// Where the value stands in a text that was read strictly.
    pub(super) fn find(&self, text: &str) -> Option<Range<usize>> {
        let mut at = root(text);
        for token in &self.tokens {
            at = step(text, &at, token)?;
        }
        Some(at)
    }
}

fn step(text: &str, value: &Range<usize>, token: &str) -> Option<Range<usize>> {
    let all = children(text, value);
    let at = match shape(text, value) {
        Shape::Object => member(text, &all, token)?,
        Shape::Array => index(token)?,
        Shape::Scalar => return None,
    };
    all.get(at).map(|child| child.value.clone())
}

/// An index as the RFC writes it: no sign, no zero before it.
pub(super) fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && !token.is_empty());
    let digits = token.bytes().all(|b| b.is_ascii_digit());
    (plain && digits).then(|| token.parse().ok()).flatten()
}

impl FromStr for Pointer {
    type Err = BadPointer;

    fn from_str(text: &str) -> Result<Self, BadPointer> {
        if text.len() > Self::LONGEST {
            return Err(BadPointer::TooLong);
        }
        let mut parts = text.split('/');
        if parts.next() != Some("") {
            return Err(BadPointer::Start);
        }
        let tokens: Vec<Box<str>> = parts.map(decode).collect::<Result<_, _>>()?;
        if tokens.len() > Self::DEEPEST {
            return Err(BadPointer::TooLong);
        }
        Ok(Self {
            text: text.into(),
            tokens: tokens.into(),
        })
    }
}

fn decode(token: &str) -> Result<Box<str>, BadPointer> {
    let mut out = String::with_capacity(token.len());
    let mut letters = token.chars();
    while let Some(letter) = letters.next() {
        out.push(match letter {
            '~' => match letters.next() {
                Some('0') => '~',
                Some('1') => '/',
                Some(_) | None => return Err(BadPointer::Tilde),
            },
            letter => letter,
        });
    }
    Ok(out.into())
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The example of RFC 6901, section 5.
    const EXAMPLE: &str = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;

    #[test]
    fn the_examples_of_the_rfc_are_found() {
        for (pointer, value) in [
            ("", EXAMPLE),
            ("/foo", r#"["bar","baz"]"#),
            ("/foo/0", r#""bar""#),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            let parsed: Pointer = pointer.parse().expect("a pointer");
            let found = parsed.find(EXAMPLE).map(|span| &EXAMPLE[span]);
            assert_eq!(found, Some(value), "{pointer}");
        }
        for missing in ["/foo/2", "/foo/-", "/foo/00", "/foo/+1", "/x", "/foo/0/x"] {
            let parsed: Pointer = missing.parse().expect("a pointer");
            assert_eq!(parsed.find(EXAMPLE), None, "{missing}");
        }
    }

    #[test]
    fn what_is_no_pointer_is_told() {
        for (text, error) in [
            ("foo", BadPointer::Start),
            ("/~", BadPointer::Tilde),
            ("/~2", BadPointer::Tilde),
            (&"/x".repeat(65), BadPointer::TooLong),
            (&format!("/{}", "x".repeat(1024)), BadPointer::TooLong),
        ] {
            assert_eq!(text.parse::<Pointer>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_key_is_compared_by_what_it_says_and_not_by_how_it_is_written() {
        // The key `"`, which is written as `\"`.
        let text = r#"{"\"":1}"#;
        let find = |pointer: &str| {
            let pointer: Pointer = pointer.parse().expect("a pointer");
            pointer.find(text).map(|span| &text[span])
        };
        assert_eq!(find("/\""), Some("1"));
        assert_eq!(find("/\\\""), None);
    }

    proptest::proptest! {
        #[test]
        fn it_finds_what_others_find(text in "[\\[\\]{}\",:0-9a-c ]{0,40}", pointer in "(/[a-c0-2~]{0,2}){0,3}") {
            if let (Ok(value), Ok(parsed)) = (super::super::parse(&text), pointer.parse::<Pointer>()) {
                let found = parsed.find(&text).map(|span| serde_json::from_str::<Value>(&text[span]).expect("a value"));
                proptest::prop_assert_eq!(found.as_ref(), value.pointer(&pointer));
            }
        }
    }
}
