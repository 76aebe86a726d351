//! What looks like a secret, so that it is not printed.
//!
//! A guess by names and by the beginnings of well-known tokens, made only for values that a file spells out: what comes from the environment is
//! never printed at all.

use ziggurat_layers::secret::{looks_like_secret, suggests_secret};

/// Stands in the place of a secret that the file spells out.
pub(super) const MASK: &str = "***";

/// Whether a value under this name is likely a secret.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    suggests_secret(name) || looks_like_secret(value)
}

/// The arguments of a command, secrets masked: `--api-key VALUE`, `--token=VALUE`, and values that look like tokens.
pub(super) fn mask_arguments(arguments: &[String]) -> Vec<String> {
    let mut after_secret_option = false;
    let mask = |argument: &String| {
        let is_option = argument.starts_with('-');
        let masked = match argument.split_once('=') {
            Some((name, value)) if is_secret(name, value) => format!("{name}={MASK}"),
            _ if after_secret_option && !is_option || looks_like_secret(argument) => {
                MASK.to_owned()
            }
            _ => argument.clone(),
        };
        after_secret_option = is_option && !argument.contains('=') && suggests_secret(argument);
        masked
    };
    arguments.iter().map(mask).collect()
}

/// A text with variables, as it stands in the file, the defaults of likely secrets masked: `${TOKEN:-***}`.
pub(super) fn mask_defaults(section: &str, key: &str, template: &str) -> String {
    let named = suggests_secret(key) || section.ends_with("tokens");
    let mut shown = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        shown += before;
        let end = reference.find('}').unwrap_or(reference.len());
        let (reference, after) = reference.split_at(end);
        match reference.split_once(":-") {
            Some((name, default)) if !default.is_empty() && (named || is_secret(name, default)) => {
                shown += name;
                shown += ":-";
                shown += MASK;
            }
            _ => shown += reference,
        }
        rest = after;
    }
    shown + rest
}

/// A URL with the secrets of its query masked.
pub(super) fn mask_url(url: &http::Uri) -> String {
    let text = url.to_string();
    let Some((start, query)) = text.split_once('?') else {
        return text;
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
    fn the_default_of_a_variable_is_masked_where_it_is_likely_a_secret() {
        for (section, key, template, shown) in [
            ("env", "API_TOKEN", "${A:-x}", "${A:-***}"),
            (
                "env",
                "GREETING",
                "${API_TOKEN:-x} and ${B:-y}",
                "${API_TOKEN:-***} and ${B:-y}",
            ),
            ("env", "GREETING", "${A:-sk-123}", "${A:-***}"),
            ("admin.tokens", "ann", "${A:-x}", "${A:-***}"),
            (
                "headers",
                "authorization",
                "Bearer ${A:-x}!",
                "Bearer ${A:-***}!",
            ),
            ("env", "API_TOKEN", "${A} ${B:-}", "${A} ${B:-}"),
            ("env", "LOG_LEVEL", "${A:-info}", "${A:-info}"),
        ] {
            assert_eq!(mask_defaults(section, key, template), shown, "{key}");
        }
    }
}
