//! Secrets in a message that an operator is shown: masked on its way there, and put back in what comes of it.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    intercept::json::{self, Shape},
    secret::{looks_like_secret, suggests_secret},
};

/// A mask stands where it hid nothing, or where it cannot be told what it hid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left;

/// Stands in the place of a secret.
const MASK: &str = "***";

/// The same as it stands in a text.
const WRITTEN: &str = "\"***\"";

/// The longest message that an operator is shown.
const SHOWN: usize = 64 * 1024;

/// A message as it may be shown.
pub(super) fn masked(message: &Bytes) -> Value {
    let Some((_, mut value)) = shown(message) else {
        return Value::from(format!("{} bytes that are not shown", message.len()));
    };
    mask(&mut value);
    value
}

/// What came of a message that was shown, with its secrets where their masks stand.
///
/// # Errors
/// When a mask stands somewhere else: nobody downstream should have it for a secret.
pub(super) fn unmasked(message: &Bytes, new: String) -> Result<String, Left> {
    // What is not JSON is refused by others, or, on plain HTTP, nobody's business.
    if !new.contains(WRITTEN) || json::parse(&new).is_err() {
        return Ok(new);
    }
    let Some((old, _)) = shown(message) else {
        return Ok(new);
    };
    let mut back = Back {
        old,
        new: &new,
        secrets: Vec::new(),
    };
    back.look(json::root(&new), None, Some(json::root(old)))?;
    let mut out = String::with_capacity(new.len());
    let mut at = 0;
    for (place, secret) in back.secrets {
        out.push_str(&new[at..place.start]);
        out.push_str(&old[secret]);
        at = place.end;
    }
    out.push_str(&new[at..]);
    Ok(out)
}

/// The text and the value of a message that may be shown.
fn shown(message: &Bytes) -> Option<(&str, Value)> {
    let short = Some(message).filter(|message| message.len() <= SHOWN)?;
    let text = std::str::from_utf8(short).ok()?;
    Some((text, json::parse(text).ok()?))
}

/// Nesting is bounded, since the value was read with a bound.
fn mask(value: &mut Value) {
    if is_secret(None, value) {
        *value = Value::from(MASK);
    }
    match value {
        Value::Array(all) => all.iter_mut().for_each(mask),
        Value::Object(all) => {
            for (key, value) in all {
                if is_secret(Some(key), value) {
                    *value = Value::from(MASK);
                } else {
                    mask(value);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a value is masked: for what it is, or for the key that it stands under.
fn is_secret(key: Option<&str>, value: &Value) -> bool {
    // A token of progress is none; whatever else is under such a key may be, or hold one.
    let progress = key == Some("progressToken") && (value.is_string() || value.is_number());
    (!progress && key.is_some_and(suggests_secret)) || value.as_str().is_some_and(looks_like_secret)
}

/// Finds what stands behind the masks of a text.
struct Back<'a> {
    old: &'a str,
    new: &'a str,
    /// The places of masks, in order, and those of what they hide.
    secrets: Vec<(Range<usize>, Range<usize>)>,
}

impl Back<'_> {
    /// Looks at a value of the new text, under this key, and at what stood there. Both were read with a bound to their nesting.
    fn look(
        &mut self,
        new: Range<usize>,
        key: Option<&str>,
        old: Option<Range<usize>>,
    ) -> Result<(), Left> {
        if &self.new[new.clone()] == WRITTEN {
            let old = old.ok_or(Left)?;
            let value = json::parse(&self.old[old.clone()]).map_err(|_| Left)?;
            if is_secret(key, &value) {
                self.secrets.push((new, old));
            } else if value != MASK {
                return Err(Left);
            }
            return Ok(());
        }
        let all = json::children(self.new, &new);
        let before = Before::of(self.old, old, (json::shape(self.new, &new), all.len()));
        for (at, child) in all.into_iter().enumerate() {
            let key = child.key.map(|key| decoded(&self.new[key]));
            let old = match &key {
                Some(key) => before.members.get(key).cloned(),
                None => before
                    .elements
                    .get(at)
                    .cloned()
                    .filter(|old| self.is_as_shown(&child.value, old)),
            };
            self.look(child.value, key.as_deref(), old)?;
        }
        Ok(())
    }

    /// An element of a list is known by what else is in it: it may stand where another one stood.
    fn is_as_shown(&self, new: &Range<usize>, old: &Range<usize>) -> bool {
        let new = json::parse(&self.new[new.clone()]);
        let old = json::parse(&self.old[old.clone()]).map(|mut old| {
            mask(&mut old);
            old
        });
        new.is_ok() && new == old
    }
}

/// What stood within a value before.
#[derive(Default)]
struct Before {
    members: HashMap<String, Range<usize>>,
    /// Empty also where it cannot be told which of them is which.
    elements: Vec<Range<usize>>,
}

impl Before {
    fn of(text: &str, value: Option<Range<usize>>, now: (Shape, usize)) -> Self {
        let Some(value) = value.filter(|value| json::shape(text, value) == now.0) else {
            return Self::default();
        };
        let mut before = Self::default();
        let all = json::children(text, &value);
        if now.0 == Shape::Array && all.len() != now.1 {
            return before;
        }
        for child in all {
            match child.key {
                Some(key) => drop(before.members.insert(decoded(&text[key]), child.value)),
                None => before.elements.push(child.value),
            }
        }
        before
    }
}

/// A key without its quotes and escapes.
fn decoded(key: &str) -> String {
    serde_json::from_str(key).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_the_key_of_a_secret_is_masked_whatever_it_is() {
        for secret in [
            r#"{"passwords":["hush"]}"#,
            r#"{"credentials":{"value":"hush","n":[{"x":"hush"}]}}"#,
            r#"{"privateKey":"hush","accessKey":"hush","sessionId":"hush","a":{"sshKeys":["hush"]}}"#,
            r#"{"progressToken":["hush"],"_meta":{"progressToken":{"x":"hush"}}}"#,
            r#"{"pin_token":4711,"apiKey":4711}"#,
        ] {
            // As they come, and in a message that is shown anew.
            for text in [secret.to_owned(), format!(r#"{{"params":[{secret}]}}"#)] {
                let shown = masked(&Bytes::from(text)).to_string();
                let leaks = shown.contains("hush") || shown.contains("4711");
                assert!(!leaks && shown.contains(MASK), "{shown}");
            }
        }
        let kept = r#"{"_meta":{"progressToken":7},"monkey":"a","name":"b","progressToken":"p"}"#;
        assert_eq!(masked(&Bytes::from(kept)).to_string(), kept);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(SHOWN));
        let shown = masked(&Bytes::from(long)).to_string();
        assert!(shown.contains("65544 bytes"), "{shown}");
    }

    #[test]
    fn what_is_shown_and_sent_back_is_what_it_was() {
        for text in [
            r#"{"apiKey":4711.50,"a":["ghp_x","b",{"k\u0065y":{"x":[1]}}],"c":"***","token":"***"}"#,
            r#""sk-hush""#,
            r#"{"x":{"passwords":null},"progressToken":"Bearer x"}"#,
        ] {
            let message = Bytes::from(text);
            let back = unmasked(&message, masked(&message).to_string()).expect("it is clear");
            let (back, text) = (json::parse(&back), json::parse(text));
            assert_eq!(back, text);
        }
        // Only what was hidden is written into it, and in the words that it came in.
        let message = Bytes::from(r#"{"apiKey": 4711.50, "a": 1}"#);
        let new = r#"{ "a" : 2.0, "apiKey" : "***" }"#.to_owned();
        assert_eq!(
            unmasked(&message, new).as_deref(),
            Ok(r#"{ "a" : 2.0, "apiKey" : 4711.50 }"#)
        );
    }

    #[test]
    fn a_mask_that_hid_nothing_is_refused() {
        let message = Bytes::from(r#"{"apiKey":"hush","list":["sk-a","sk-b"],"a":"b"}"#);
        for new in [
            r#"{"a":"***"}"#,
            r#"{"b":"***"}"#,
            r#"{"apiKey":{"x":"***"}}"#,
            r#"{"apiKey":["***"]}"#,
            // Which of the two is it?
            r#"{"list":["***"]}"#,
            r#"{"list":{"a":"***","b":"***"}}"#,
            r#"["***","***","***"]"#,
            r#""***""#,
        ] {
            assert_eq!(unmasked(&message, new.to_owned()), Err(Left), "{new}");
        }
        // Each would get the secret of the other.
        let message = Bytes::from(r#"[{"url":"a","token":"A"},{"url":"b","token":"B"}]"#);
        for new in [
            r#"[{"url":"b","token":"***"},{"url":"a","token":"***"}]"#,
            r#"[{"url":"c","token":"***"},{"url":"b","token":"***"}]"#,
        ] {
            assert_eq!(unmasked(&message, new.to_owned()), Err(Left), "{new}");
        }
        let new = r#"[{"url":"c","token":"C"},{"url":"b","token":"***"}]"#;
        let back = r#"[{"url":"c","token":"C"},{"url":"b","token":"B"}]"#;
        assert_eq!(unmasked(&message, new.to_owned()).as_deref(), Ok(back));
        let message = Bytes::from(r#"{"apiKey":"hush","list":["sk-a","sk-b"],"a":"b"}"#);
        for (new, expected) in [
            (r#"{"list":["***","x"]}"#, r#"{"list":["sk-a","x"]}"#),
            (r#"{"apiKey":"a ***"}"#, r#"{"apiKey":"a ***"}"#),
            ("no JSON \"***\"", "no JSON \"***\""),
        ] {
            assert_eq!(unmasked(&message, new.to_owned()).as_deref(), Ok(expected));
        }
        // Nothing of it was shown.
        let hidden = Bytes::from("plain");
        let new = WRITTEN.to_owned();
        assert_eq!(unmasked(&hidden, new.clone()), Ok(new));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_back_ends_in_a_word(old in "[\\[\\]{}:,\"*a1 ]{0,12}|(\\{\"key\":|\\[|\"\\*\\*\\*\"|\"sk-a\"|,|\\]|\\}){0,8}", new in "(\\{\"key\":|\\[|\"\\*\\*\\*\"|\"sk-a\"|,|\\]|\\}|1){0,8}") {
            if let Ok(back) = unmasked(&Bytes::from(old), new.clone()) {
                proptest::prop_assert_eq!(json::parse(&back).is_ok(), json::parse(&new).is_ok());
            }
        }
    }
}
