//! What a command has answered to `initialize`, for clients that say the same.
//!
//! Pure. An answer belongs to the `params` it was given to (but for `_meta`), since a server may answer each client otherwise. The
//! newest few are kept.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::Value;

use crate::upstream::stdio::message;

/// The answers that are kept.
#[derive(Debug, Default)]
pub(in crate::upstream::stdio) struct Snapshots {
    kept: VecDeque<(Key, Bytes)>,
}

/// What a client says in its `initialize`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::upstream::stdio) struct Key(Value);

/// The most answers.
const MOST: usize = 16;
/// The longest request, and the longest answer.
const LONGEST: usize = 256 * 1024;

impl Key {
    /// What this request says, if it is one that is worth to be kept.
    pub(in crate::upstream::stdio) fn of(request: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Request {
            params: Value,
        }
        if request.len() > LONGEST {
            return None;
        }
        let mut params = serde_json::from_slice::<Request>(request).ok()?.params;
        params.as_object_mut()?.remove("_meta");
        Some(Self(params))
    }
}

impl Snapshots {
    /// The answer that this was given last: the whole message.
    pub(in crate::upstream::stdio) fn get(&self, key: &Key) -> Option<Bytes> {
        let mut kept = self.kept.iter();
        kept.find(|(k, _)| k == key)
            .map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer.
    pub(in crate::upstream::stdio) fn put(&mut self, key: Key, answer: Bytes) {
        self.forget(&key);
        if answer.len() <= LONGEST {
            self.kept.push_front((key, answer));
            self.kept.truncate(MOST);
        }
    }

    /// Forgets an answer.
    pub(in crate::upstream::stdio) fn forget(&mut self, key: &Key) {
        self.kept.retain(|(k, _)| k != key);
    }
}

/// Whether two answers to `initialize` agree on the revision and on what the server can do. The rest (its name, its instructions) binds
/// nobody.
pub(in crate::upstream::stdio) fn agree(one: &[u8], other: &[u8]) -> bool {
    let binding = |answer: &[u8]| {
        let result = message::result(std::str::from_utf8(answer).ok()?)?;
        let mut result: Value = serde_json::from_str(result).ok()?;
        Some((
            result["protocolVersion"].take(),
            result["capabilities"].take(),
        ))
    };
    matches!((binding(one), binding(other)), (Some(one), Some(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(params: &str) -> Key {
        let request =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
        Key::of(request.as_bytes()).expect("a key")
    }

    #[test]
    fn an_answer_is_for_those_who_say_the_same() {
        let mut snapshots = Snapshots::default();
        snapshots.put(key(r#"{"a":1,"b":2,"_meta":{"x":1}}"#), "first".into());
        assert_eq!(
            snapshots.get(&key(r#"{"b":2,"a":1}"#)),
            Some("first".into())
        );
        assert_eq!(snapshots.get(&key(r#"{"a":1,"b":3}"#)), None);
        snapshots.put(key(r#"{"a":1,"b":2}"#), "second".into());
        assert_eq!(
            snapshots.get(&key(r#"{"a":1,"b":2}"#)),
            Some("second".into())
        );
        snapshots.forget(&key(r#"{"a":1,"b":2}"#));
        assert_eq!(snapshots.get(&key(r#"{"a":1,"b":2}"#)), None);
        assert_eq!(Key::of(br#"{"id":1,"method":"initialize"}"#), None);
    }

    #[test]
    fn the_newest_few_are_kept_and_none_that_is_long() {
        let mut snapshots = Snapshots::default();
        for n in 0..=MOST {
            snapshots.put(key(&format!(r#"{{"n":{n}}}"#)), "x".into());
        }
        assert_eq!(snapshots.get(&key(r#"{"n":0}"#)), None);
        assert!(snapshots.get(&key(r#"{"n":1}"#)).is_some());
        snapshots.put(key("{}"), vec![b'x'; LONGEST + 1].into());
        assert_eq!(snapshots.get(&key("{}")), None);
        let long = format!(r#"{{"params":{{"x":"{}"}}}}"#, "x".repeat(LONGEST));
        assert_eq!(Key::of(long.as_bytes()), None);
    }

    #[test]
    fn revision_and_capabilities_must_agree_and_nothing_else() {
        let answer = |version: &str, capabilities: &str, name: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":7,"result":{{"protocolVersion":"{version}","capabilities":{capabilities},"serverInfo":{{"name":"{name}"}}}}}}"#
            )
        };
        let agree = |one: &str, other: &str| agree(one.as_bytes(), other.as_bytes());
        let first = answer("2025-11-25", r#"{"tools":{},"logging":{}}"#, "a");
        assert!(agree(
            &first,
            &answer("2025-11-25", r#"{"logging":{},"tools":{}}"#, "b")
        ));
        assert!(!agree(
            &first,
            &answer("2025-06-18", r#"{"tools":{},"logging":{}}"#, "a")
        ));
        assert!(!agree(
            &first,
            &answer("2025-11-25", r#"{"tools":{}}"#, "a")
        ));
        assert!(!agree(
            &first,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":1}}"#
        ));
        assert!(!agree(&first, ""));
    }
}
