//! What looks like a secret, so that it is not printed.
//!
//! A guess by names and by the beginnings of well-known tokens, made only for what a file spells out, be it a whole value or the text around a variable: what
//! comes from the environment is never printed at all.

mod template;

use ziggurat_layers::secret::{looks_like_secret, suggests_secret};

pub(super) use self::template::{mask_template, mask_url_template};

/// Stands in the place of a secret that the file spells out.
pub(super) const MASK: &str = "***";

/// Whether a value under this name is likely a secret.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    suggests_secret(name) || looks_like_secret(value)
}

/// The arguments of a command, secrets masked: `--api-key VALUE`, `--token=VALUE`, `X-Api-Key: VALUE`, values that look like tokens, and a text of several words,
/// such as a line for a shell or a piece of JSON, as a whole if one of them is a secret.
pub(super) fn mask_arguments(arguments: &[String]) -> Vec<String> {
    let mut after_secret_option = false;
    let mask = |argument: &String| {
        let is_its_value = after_secret_option && !argument.starts_with('-');
        after_secret_option = opens_secret(argument);
        if is_its_value {
            MASK.to_owned()
        } else {
            mask_argument(argument)
        }
    };
    arguments.iter().map(mask).collect()
}

/// Whether an argument is an option whose value, the next argument, is likely a secret.
pub(super) fn opens_secret(argument: &str) -> bool {
    argument.starts_with('-') && !argument.contains('=') && suggests_secret(argument)
}

fn mask_argument(argument: &str) -> String {
    let is_name = |name: &str| {
        !name.contains("://") && name.chars().all(is_of_word) && !looks_like_secret(name)
    };
    let mut shown = String::new();
    let mut rest = argument;
    loop {
        if let Some((name, value)) = header(rest)
            && is_secret(name, value.trim_start())
            && !value.trim().is_empty()
        {
            let space = if value.starts_with(' ') { " " } else { "" };
            return format!("{shown}{name}:{space}{MASK}");
        }
        match rest.split_once('=') {
            Some((name, value)) if is_name(name) => {
                shown += name;
                shown.push('=');
                if is_secret(name, value) {
                    return shown + MASK;
                }
                rest = value;
            }
            _ if looks_like_secret(rest) || has_secret(rest) => return shown + MASK,
            _ => return shown + rest,
        }
    }
}

/// The two halves of what may be a header: `Name: value`.
fn header(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_');
    is_name.then_some((name, value))
}

/// Whether a letter does not end a word of a shell, of JSON, or of a query.
fn is_of_word(letter: char) -> bool {
    !letter.is_whitespace() && !"\"'`,;|&?{}()[]".contains(letter)
}

/// Whether one of the words of a text of several is a secret, by itself or by the word before it.
fn has_secret(text: &str) -> bool {
    if text.chars().all(is_of_word) {
        return false;
    }
    let words = text.split(|letter| !is_of_word(letter));
    let words: Vec<String> = words
        .filter(|word| !word.is_empty() && *word != ":")
        .map(str::to_owned)
        .collect();
    let names_secret = |word: &str| {
        let named = word.strip_suffix([':', '=']);
        named.is_some_and(suggests_secret) || ["bearer", "basic"].contains(&word)
    };
    let json = text.contains("\":") || text.contains("\" :");
    let mut named = words.iter().zip(words.iter().skip(1));
    named.any(|(name, _)| {
        names_secret(&name.to_ascii_lowercase()) || (json && suggests_secret(name))
    })
        // None of these has several words, so this ends.
        || mask_arguments(&words) != words
}

/// A URL with the secrets of its query masked.
pub(super) fn mask_url(url: &http::Uri) -> String {
    mask_query(&url.to_string())
}

fn mask_query(text: &str) -> String {
    let Some((start, query)) = text.split_once('?') else {
        return text.to_owned();
    };
    let mask = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if is_secret(name, value) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(mask).collect();
    format!("{start}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_masked_where_it_is_likely_a_secret() {
        for (arguments, shown) in [
            (&["--api-key", "x", "y"][..], &["--api-key", "***", "y"][..]),
            (&["--token=x", "--level=y"], &["--token=***", "--level=y"]),
            (
                &["--header", "Authorization: Bearer x"],
                &["--header", "Authorization: ***"],
            ),
            (
                &["-H", "X-Api-Key:x", "Accept: y"],
                &["-H", "X-Api-Key:***", "Accept: y"],
            ),
            (&["--header=Cookie: a=x"], &["--header=Cookie: ***"]),
            (&["Authorization: Basic eA=="], &["Authorization: ***"]),
            (&["--url=http://a/?token=x"], &["--url=***"]),
            (&["--db=postgres://u:x@h/d"], &["--db=***"]),
            (
                &["sh", "-c", "API_TOKEN=x exec run"],
                &["sh", "-c", "API_TOKEN=***"],
            ),
            (&["sh", "-c", "cd /; API_TOKEN=x run"], &["sh", "-c", "***"]),
            (&["curl -H 'X-Api-Key: x' http://a"], &["***"]),
            (&["curl --api-key x"], &["***"]),
            (&[r#"{"headers":{"authorization":"x"}}"#], &["***"]),
            (&[r#"{"api_key": "x"}"#], &["***"]),
        ] {
            let owned: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
            assert_eq!(mask_arguments(&owned), shown, "{arguments:?}");
        }
        for plain in [
            "run",
            "--verbose",
            "--header",
            "Accept: text/plain",
            "http://127.0.0.1:3001/mcp?page=2",
            "/srv/a b/c",
            "C:/files",
            "--filter=a:b=c",
            r#"{"level":"debug"}"#,
            "cd /srv; exec run --port=80",
            "@scope/package@1.2.3",
            "=",
            "a=b=c==",
            ":",
            "",
        ] {
            assert_eq!(mask_arguments(&[plain.to_owned()]), [plain]);
        }
    }
}
