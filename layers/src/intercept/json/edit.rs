//! Changes to a JSON text: a value that is set or removed, and JSON Patch (RFC 6902).

use std::ops::Range;

use serde_json::Value;

use super::{
    Shape, children, member,
    pointer::{Pointer, index},
    root, shape,
};

/// One change. Values are JSON texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Puts a value in the place of another, or after the last one where there is none; the object or array around it must be there.
    Set(Pointer, Box<str>),
    /// Takes a value out; where there is none, that is well.
    Remove(Pointer),
    /// A JSON Patch: all of it, or none.
    Patch(Vec<PatchOp>),
}

/// An operation of JSON Patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchOp {
    /// Puts a member into an object, or an element before another.
    Add(Pointer, Box<str>),
    /// Takes out what must be there.
    Remove(Pointer),
    /// Puts a value in the place of another.
    Replace(Pointer, Box<str>),
    /// Takes a value from the first place and adds it at the second.
    Move(Pointer, Pointer),
    /// Adds the value of the first place at the second.
    Copy(Pointer, Pointer),
    /// The value must be this one.
    Test(Pointer, Box<str>),
}

/// A change does not fit the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// There is nothing at the place, or no object or array around it.
    #[error("there is no place {0}")]
    NoPlace(String),
    /// The whole value cannot be taken out, nor a value be moved into itself.
    #[error("{0} cannot be taken from where it is")]
    NotMovable(String),
    /// A `test` found another value.
    #[error("the value at {0} is another one")]
    TestFailed(String),
    /// The text has become longer than allowed.
    #[error("the message would be longer than {0} bytes")]
    TooLong(usize),
}

/// How a value is put at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    /// In the place of another, or after the last.
    Set,
    /// Before another.
    Add,
    /// In the place of another.
    Replace,
}

type Result<T> = std::result::Result<T, EditError>;

/// The text with this change; `limit` is the most bytes that it may have, also on the way.
pub(in crate::intercept) fn apply(text: &str, edit: &Edit, limit: usize) -> Result<String> {
    let new = match edit {
        Edit::Set(at, value) => put(text, at, value, Put::Set)?,
        Edit::Remove(at) => match at.find(text) {
            Some(_) => remove(text, at)?,
            None => text.to_owned(),
        },
        Edit::Patch(ops) => {
            let mut new = text.to_owned();
            for op in ops {
                new = patch(&new, op)?;
                bounded(&new, limit)?;
            }
            new
        }
    };
    bounded(&new, limit)?;
    Ok(new)
}

fn bounded(text: &str, limit: usize) -> Result<()> {
    if text.len() > limit {
        return Err(EditError::TooLong(limit));
    }
    Ok(())
}

fn patch(text: &str, op: &PatchOp) -> Result<String> {
    let value = |from: &Pointer| {
        let span = from.find(text).ok_or_else(|| no_place(from))?;
        Ok(text[span].to_owned())
    };
    match op {
        PatchOp::Add(at, value) => put(text, at, value, Put::Add),
        PatchOp::Remove(at) => remove(text, at),
        PatchOp::Replace(at, value) => put(text, at, value, Put::Replace),
        PatchOp::Move(from, to) => {
            if from.holds(to) {
                return Err(EditError::NotMovable(from.to_string()));
            }
            let value = value(from)?;
            put(&remove(text, from)?, to, &value, Put::Add)
        }
        PatchOp::Copy(from, to) => put(text, to, &value(from)?, Put::Add),
        PatchOp::Test(at, expected) => {
            let read = |text: &str| serde_json::from_str::<Value>(text).ok();
            let same = match (read(&value(at)?), read(expected)) {
                (Some(found), Some(expected)) => same(&found, &expected),
                _ => false,
            };
            if same {
                return Ok(text.to_owned());
            }
            Err(EditError::TestFailed(at.to_string()))
        }
    }
}

fn no_place(at: &Pointer) -> EditError {
    EditError::NoPlace(at.to_string())
}

fn splice(text: &str, place: Range<usize>, new: &str) -> String {
    let mut out = String::with_capacity(text.len() + new.len());
    out.push_str(&text[..place.start]);
    out.push_str(new);
    out.push_str(&text[place.end..]);
    out
}

fn put(text: &str, at: &Pointer, value: &str, how: Put) -> Result<String> {
    let Some((holder, last)) = at.split(text) else {
        // The whole value.
        return match at.first() {
            None => Ok(splice(text, root(text), value)),
            Some(_) => Err(no_place(at)),
        };
    };
    let all = children(text, &holder);
    // The end of the last child, or the inside of the brackets.
    let end = all.last().map_or(holder.start + 1, |child| child.value.end);
    let comma = if all.is_empty() { "" } else { "," };
    match shape(text, &holder) {
        Shape::Object => match member(text, &all, last) {
            Some(found) => Ok(splice(text, all[found].value.clone(), value)),
            None if how == Put::Replace => Err(no_place(at)),
            None => {
                let key = Value::from(last);
                Ok(splice(text, end..end, &format!("{comma}{key}:{value}")))
            }
        },
        Shape::Array => {
            let place = match last {
                "-" => all.len(),
                token => index(token).ok_or_else(|| no_place(at))?,
            };
            match all.get(place) {
                Some(child) if how == Put::Add => {
                    let start = child.value.start;
                    Ok(splice(text, start..start, &format!("{value},")))
                }
                Some(child) => Ok(splice(text, child.value.clone(), value)),
                None if place == all.len() && how != Put::Replace => {
                    Ok(splice(text, end..end, &format!("{comma}{value}")))
                }
                None => Err(no_place(at)),
            }
        }
        Shape::Scalar => Err(no_place(at)),
    }
}

fn remove(text: &str, at: &Pointer) -> Result<String> {
    if at.first().is_none() {
        return Err(EditError::NotMovable("the whole message".to_owned()));
    }
    let (holder, last) = at.split(text).ok_or_else(|| no_place(at))?;
    let all = children(text, &holder);
    let found = match shape(text, &holder) {
        Shape::Object => member(text, &all, last),
        Shape::Array => index(last).filter(|place| *place < all.len()),
        Shape::Scalar => None,
    };
    let found = found.ok_or_else(|| no_place(at))?;
    let child = &all[found];
    // With the comma before it, or of the first one with the comma after it.
    let place = match (found.checked_sub(1), all.get(found + 1)) {
        (Some(before), _) => all[before].value.end..child.value.end,
        (None, Some(next)) => child.start()..next.start(),
        (None, None) => child.start()..child.value.end,
    };
    Ok(splice(text, place, ""))
}

/// Equal as RFC 6902 (4.6) has it: numbers by their value.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || (one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| same(a, b))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|o| same(value, o)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Pointer {
        text.parse().expect("a pointer")
    }

    fn set(text: &str, pointer: &str, value: &str) -> Result<String> {
        apply(text, &Edit::Set(at(pointer), value.into()), 1000)
    }

    #[test]
    fn a_value_is_set_and_the_rest_keeps_its_bytes() {
        let text = "{ \"b\" : 1.50e2 ,\"a\":[ 1 , 2 ], \"\\u0063\":{ } }";
        for (pointer, new) in [
            ("/b", "{ \"b\" : 9 ,\"a\":[ 1 , 2 ], \"\\u0063\":{ } }"),
            (
                "/a/1",
                "{ \"b\" : 1.50e2 ,\"a\":[ 1 , 9 ], \"\\u0063\":{ } }",
            ),
            (
                "/a/2",
                "{ \"b\" : 1.50e2 ,\"a\":[ 1 , 2,9 ], \"\\u0063\":{ } }",
            ),
            (
                "/a/-",
                "{ \"b\" : 1.50e2 ,\"a\":[ 1 , 2,9 ], \"\\u0063\":{ } }",
            ),
            (
                "/c/x\"",
                "{ \"b\" : 1.50e2 ,\"a\":[ 1 , 2 ], \"\\u0063\":{\"x\\\"\":9 } }",
            ),
            (
                "/d",
                "{ \"b\" : 1.50e2 ,\"a\":[ 1 , 2 ], \"\\u0063\":{ },\"d\":9 }",
            ),
            ("", "9"),
        ] {
            assert_eq!(set(text, pointer, "9").as_deref(), Ok(new), "{pointer}");
        }
        for none in ["/b/x", "/x/y", "/a/3", "/a/x", "/a/01"] {
            assert!(set(text, none, "9").is_err(), "{none}");
        }
        assert_eq!(
            apply("[1]", &Edit::Set(at("/0"), "123456".into()), 7),
            Err(EditError::TooLong(7))
        );
    }

    #[test]
    fn a_value_is_removed_with_one_comma() {
        let text = "{\"a\":1, \"b\":[1, 2 ,3],\"c\":{\"d\":0}}";
        for (pointer, new) in [
            ("/a", "{\"b\":[1, 2 ,3],\"c\":{\"d\":0}}"),
            ("/b/0", "{\"a\":1, \"b\":[2 ,3],\"c\":{\"d\":0}}"),
            ("/b/1", "{\"a\":1, \"b\":[1 ,3],\"c\":{\"d\":0}}"),
            ("/b/2", "{\"a\":1, \"b\":[1, 2],\"c\":{\"d\":0}}"),
            ("/c/d", "{\"a\":1, \"b\":[1, 2 ,3],\"c\":{}}"),
            ("/c", "{\"a\":1, \"b\":[1, 2 ,3]}"),
            ("/x", text),
        ] {
            let new_text = apply(text, &Edit::Remove(at(pointer)), 1000);
            assert_eq!(new_text.as_deref(), Ok(new), "{pointer}");
        }
        assert!(apply(text, &Edit::Remove(at("")), 1000).is_err());
    }

    /// The examples of RFC 6902, appendix A.
    #[test]
    fn the_examples_of_the_rfc_come_out() {
        use PatchOp as P;
        let v = |text: &str| Box::<str>::from(text);
        for (text, op, new) in [
            (
                r#"{"foo":"bar"}"#,
                P::Add(at("/baz"), v("\"qux\"")),
                Some(r#"{"foo":"bar","baz":"qux"}"#),
            ),
            (
                r#"{"foo":["bar","baz"]}"#,
                P::Add(at("/foo/1"), v("\"qux\"")),
                Some(r#"{"foo":["bar","qux","baz"]}"#),
            ),
            (
                r#"{"baz":"qux","foo":"bar"}"#,
                P::Remove(at("/baz")),
                Some(r#"{"foo":"bar"}"#),
            ),
            (
                r#"{"foo":["bar","qux","baz"]}"#,
                P::Remove(at("/foo/1")),
                Some(r#"{"foo":["bar","baz"]}"#),
            ),
            (
                r#"{"baz":"qux","foo":"bar"}"#,
                P::Replace(at("/baz"), v("\"boo\"")),
                Some(r#"{"baz":"boo","foo":"bar"}"#),
            ),
            (
                r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
                P::Move(at("/foo/waldo"), at("/qux/thud")),
                Some(r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#),
            ),
            (
                r#"{"foo":["all","grass","cows","eat"]}"#,
                P::Move(at("/foo/1"), at("/foo/3")),
                Some(r#"{"foo":["all","cows","eat","grass"]}"#),
            ),
            (r#"{"baz":"qux"}"#, P::Test(at("/baz"), v("\"bar\"")), None),
            (
                r#"{"foo":"bar"}"#,
                P::Add(at("/baz/bat"), v("\"qux\"")),
                None,
            ),
            (
                r#"{"/":9,"~1":10}"#,
                P::Test(at("/~01"), v("10")),
                Some(r#"{"/":9,"~1":10}"#),
            ),
            (r#"{"/":9,"~1":10}"#, P::Test(at("/~01"), v("\"10\"")), None),
            (
                r#"{"foo":["bar"]}"#,
                P::Add(at("/foo/-"), v("[\"abc\"]")),
                Some(r#"{"foo":["bar",["abc"]]}"#),
            ),
            (
                r#"{"a":1.0}"#,
                P::Test(at("/a"), v("1")),
                Some(r#"{"a":1.0}"#),
            ),
            (r#"{"a":{"b":1}}"#, P::Move(at("/a"), at("/a/c")), None),
            (
                r#"{"a":1}"#,
                P::Copy(at("/a"), at("/b")),
                Some(r#"{"a":1,"b":1}"#),
            ),
            (r#"{"a":1}"#, P::Replace(at("/b"), v("1")), None),
            (r#"{"a":1}"#, P::Remove(at("/b")), None),
        ] {
            let edit = Edit::Patch(vec![op.clone()]);
            assert_eq!(apply(text, &edit, 1000).ok().as_deref(), new, "{op:?}");
        }
    }

    #[test]
    fn a_patch_that_doubles_a_message_is_stopped() {
        let ops = (0..64)
            .map(|n| PatchOp::Copy(at("/a"), at(&format!("/a/{n}"))))
            .collect();
        let text = r#"{"a":{"x":"some text"}}"#;
        assert_eq!(
            apply(text, &Edit::Patch(ops), 10_000),
            Err(EditError::TooLong(10_000))
        );
    }

    fn json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\é]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn an_edit_leaves_json_with_that_value(value in json(), pretty: bool, pointer in "(/([a-c]|[0-2]|-)){0,3}", new in json(), ops in "[srpamc]{1,3}") {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("text");
            let place = at(&pointer);
            let raw: Box<str> = new.to_string().into();
            for op in ops.chars() {
                let edit = match op {
                    's' => Edit::Set(place.clone(), raw.clone()),
                    'r' => Edit::Remove(place.clone()),
                    'p' => Edit::Patch(vec![PatchOp::Replace(place.clone(), raw.clone())]),
                    'a' => Edit::Patch(vec![PatchOp::Add(place.clone(), raw.clone()), PatchOp::Remove(place.clone())]),
                    'm' => Edit::Patch(vec![PatchOp::Move(at("/a"), place.clone())]),
                    _ => Edit::Patch(vec![PatchOp::Copy(at("/0"), place.clone())]),
                };
                let Ok(edited) = apply(&text, &edit, 100_000) else { continue };
                let read = super::super::parse(&edited);
                proptest::prop_assert!(read.is_ok(), "{} {:?} {}", text, edit, edited);
                let read = read.unwrap_or_default();
                match op {
                    's' if !pointer.ends_with('-') => proptest::prop_assert_eq!(read.pointer(&pointer), Some(&new)),
                    // What was added and taken out again leaves the text as it was, unless it took the place of a member.
                    'a' if value.pointer(&pointer).is_none() => proptest::prop_assert_eq!(&edited, &text),
                    _ => {}
                }
            }
        }
    }
}
