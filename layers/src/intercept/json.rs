//! JSON text, read strictly and changed where it stands: what an edit does not touch keeps its bytes.

pub(super) mod edit;
pub(super) mod pointer;

use std::ops::Range;

pub(super) use crate::mcp::strict::parse;

/// A member of an object, or an element of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    /// The key with its quotes, in an object.
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Range<usize>,
}

impl Child {
    /// Where it begins: at its key, if it has one.
    pub(super) fn start(&self) -> usize {
        self.key.as_ref().map_or(self.value.start, |key| key.start)
    }
}

/// What a value is, as far as looking into it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    Array,
    Scalar,
}

/// The value of a text that [`parse`] has read.
pub(super) fn root(text: &str) -> Range<usize> {
    let start = skip(text.as_bytes(), 0);
    start..end_of(text.as_bytes(), start)
}

pub(super) fn shape(text: &str, value: &Range<usize>) -> Shape {
    match text.as_bytes().get(value.start) {
        Some(b'{') => Shape::Object,
        Some(b'[') => Shape::Array,
        Some(_) | None => Shape::Scalar,
    }
}

/// The members or elements of a value; none of a scalar.
pub(super) fn children(text: &str, value: &Range<usize>) -> Vec<Child> {
    let bytes = text.as_bytes();
    let keyed = match shape(text, value) {
        Shape::Object => true,
        Shape::Array => false,
        Shape::Scalar => return Vec::new(),
    };
    let mut all = Vec::new();
    let mut at = skip(bytes, value.start + 1);
    while at < value.end && !matches!(bytes[at], b'}' | b']') {
        let key = keyed.then(|| {
            let key = at..end_of(bytes, at);
            // Past the colon.
            at = skip(bytes, skip(bytes, key.end) + 1);
            key
        });
        let value = at..end_of(bytes, at);
        at = skip(bytes, value.end);
        if bytes.get(at) == Some(&b',') {
            at = skip(bytes, at + 1);
        }
        all.push(Child { key, value });
    }
    all
}

/// The child of this key; keys are compared decoded.
pub(super) fn member(text: &str, children: &[Child], key: &str) -> Option<usize> {
    children.iter().position(|child| {
        let Some(raw) = child.key.clone().and_then(|span| text.get(span)) else {
            return false;
        };
        let plain = raw.get(1..raw.len() - 1).unwrap_or_default();
        if plain.contains('\\') {
            return serde_json::from_str::<String>(raw).is_ok_and(|k| k == key);
        }
        plain == key
    })
}

fn skip(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Where the value ends that begins at `at`. The text is known to be JSON.
fn end_of(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at) {
        Some(b'"') => text_end(bytes, at),
        Some(b'{' | b'[') => {
            let mut depth = 0_usize;
            let mut at = at;
            while let Some(byte) = bytes.get(at) {
                match byte {
                    b'"' => {
                        at = text_end(bytes, at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return at + 1;
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
            bytes.len()
        }
        Some(_) | None => {
            let rest = bytes.get(at..).unwrap_or_default();
            let over = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            at + rest.iter().position(over).unwrap_or(rest.len())
        }
    }
}

/// Where the string ends that begins at `at`.
fn text_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_where_they_stand() {
        let text = r#" { "a" : [1, {"x":"]}"}, -2.50e3 ] , "b\"" : null,"c":"\\" } "#;
        let all = children(text, &root(text));
        let shown: Vec<_> = all.iter().map(|c| &text[c.value.clone()]).collect();
        assert_eq!(shown, [r#"[1, {"x":"]}"}, -2.50e3 ]"#, "null", r#""\\""#]);
        let inner: Vec<_> = children(text, &all[0].value)
            .iter()
            .map(|c| &text[c.value.clone()])
            .collect();
        assert_eq!(inner, ["1", r#"{"x":"]}"}"#, "-2.50e3"]);
        assert_eq!(member(text, &all, "b\""), Some(1));
        assert_eq!(member(text, &all, "d"), None);
        for empty in ["{}", "[ ]", "5", "\"x\""] {
            assert!(children(empty, &root(empty)).is_empty(), "{empty}");
        }
    }
}
