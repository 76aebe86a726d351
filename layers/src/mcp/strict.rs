//! Reads JSON so that no other reader can find something else in it: no key of an object stands twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads a text as a whole. Nesting is bounded by the parser (128 levels).
///
/// # Errors
/// Says what is wrong; no part of the text is in it.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        if error.is_data() {
            format!(
                "an object has a key twice (line {}, column {})",
                error.line(),
                error.column()
            )
        } else {
            format!(
                "it is not JSON (line {}, column {})",
                error.line(),
                error.column()
            )
        }
    })
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = access.next_element_seed(Self)? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Self)?;
            if all.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_however_it_is_spelt() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":[{"a":1,"b":{},"\u0061":2}]}"#] {
            assert!(
                parse(text).expect_err("refused").contains("twice"),
                "{text}"
            );
        }
        for text in ["", "{", "[1] 2", "nul", &"[".repeat(100_000)] {
            assert!(parse(text).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn what_it_reads_is_what_others_read(text in "[\\[\\]{}\",:0-9a-c\\\\ .-]{0,40}") {
            if let Ok(value) = parse(&text) {
                proptest::prop_assert_eq!(Some(value), serde_json::from_str(&text).ok());
            }
        }
    }
}
