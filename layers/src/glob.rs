//! Patterns in which `*` stands for any text.

/// Whether `text` is what `pattern` says. Takes no longer than both lengths multiplied.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("get", "get", true),
            ("get", "gets", false),
            ("get*", "gets", true),
            ("get*", "get", true),
            ("*", "", true),
            ("*_read", "a_read", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*ab*ab", "ab", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_made_from_a_text_matches_it(parts in proptest::collection::vec("[a-c]{0,3}", 1..5), fill in "[a-c]{0,4}") {
            proptest::prop_assert!(matches(&parts.join("*"), &parts.join(&fill)));
        }
    }
}
