//! Environment variables in values: `${NAME}`, and `${NAME:-default}` where the variable may be unset or empty.
//!
//! `$${` stands for a literal `${`; every other dollar sign is itself, since passwords have them. Keys are never touched.

use super::mistake::Mistakes;
use super::node::{Place, Text};

/// Where variables are looked up.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables in a value, and keeps what stood there, which is all that may ever be shown of it.
pub(super) fn interpolate(
    source: String,
    place: &Place,
    environment: Environment<'_>,
    mistakes: &mut Mistakes,
) -> Text {
    let mut value = String::with_capacity(source.len());
    let mut replaced = false;
    let mut rest = source.as_str();
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            value.push_str(before);
            value.push_str("${");
            rest = &reference[2..];
            continue;
        }
        value.push_str(before);
        let Some(end) = reference.find('}') else {
            let message = "`${` has no closing `}`";
            mistakes.error(
                place,
                message,
                "write `${NAME}`, or `$${` for the two characters themselves",
            );
            return Text {
                value: source,
                template: None,
                plain: false,
            };
        };
        replaced = true;
        match look_up(&reference[2..end], environment) {
            Ok(found) => value.push_str(&found),
            Err((message, cure)) => mistakes.error(place, message, cure),
        }
        rest = &reference[end + 1..];
    }
    value.push_str(rest);
    Text {
        value,
        template: replaced.then_some(source),
        plain: false,
    }
}

/// Text that [`interpolate`] turns into the given value again.
pub(super) fn escape(value: &str) -> String {
    value.replace("${", "$${")
}

/// Whether a word can be the name of a variable.
pub(super) fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && word
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn look_up(reference: &str, environment: Environment<'_>) -> Result<String, (String, String)> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_name(name) || default.is_some_and(|default| default.contains("${")) {
        return Err((
            format!("`${{{reference}}}` is not a reference to an environment variable"),
            "write `${NAME}` or `${NAME:-default}`, or `$${` for the two characters themselves"
                .to_owned(),
        ));
    }
    let found = environment(name);
    match (found, default) {
        (Some(found), None) => Ok(found),
        (Some(found), Some(_)) if !found.is_empty() => Ok(found),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the environment variable {name} is not set"),
            format!("set {name}, or write `${{{name}:-default}}`"),
        )),
    }
}
