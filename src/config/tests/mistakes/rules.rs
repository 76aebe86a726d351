//! What is wrong with rules.

use super::*;

/// What is warned of in a route with this rule.
fn warned(rule: &str) -> String {
    let lines = format!(
        "match: {{ path: /mcp }}\ndeadline: 1m\nintercept: {{ rules: [{{ name: a, {rule} }}] }}"
    );
    warnings(&with_route(&lines))
}

#[test]
fn a_rule_that_is_wrong_says_what_would_be_right() {
    for (rule, said) in [
        (
            "name: a",
            "write one of `continue: true`, `modify`, `block`",
        ),
        ("name: a, block: x, delay: 1s", "and this one does 2"),
        ("name: a, blok: x", "did you mean `block`?"),
        ("block: x", "`name` is missing"),
        (
            "name: a, when: { direction: up }, block: x",
            "write `request`, `response`, `server`",
        ),
        (
            "name: a, when: { expression: \"args.\" }, block: x",
            "is no expression",
        ),
        (
            "name: a, when: { expression: \"a.b.all(x, true)\" }, block: x",
            "uses `a`, which is not there",
        ),
        (
            "name: a, when: { tool: [\"\"] }, block: x",
            "is not a pattern",
        ),
        ("name: a, modify: {}", "changes nothing"),
        (
            "name: a, modify: { set: { params/x: 1 } }",
            "does not begin with `/`",
        ),
        (
            "name: a, modify: { set: { /id: 1 } }",
            "begin it with `/params`",
        ),
        (
            "name: a, when: { direction: response }, modify: { remove: [/params/x] }",
            "begin it with `/result` or `/error`",
        ),
        (
            "name: a, modify: { patch: [{ op: add, path: /params/x }] }",
            "the operation needs `value`",
        ),
        (
            "name: a, modify: { patch: [{ op: move, from: /id, path: /params/x }] }",
            "must stay as it is",
        ),
        (
            "name: a, modify: { headers: { set: { mcp-name: x } } }",
            "follows it by itself",
        ),
        (
            "name: a, when: { direction: response }, modify: { headers: { remove: [x] } }",
            "change headers of requests only",
        ),
        (
            "name: a, mock: { text: \"{{nam}}\" }",
            "has a place for `nam`",
        ),
        (
            "name: a, mock: { text: x, result: {} }",
            "a mock is one answer",
        ),
        (
            "name: a, mock: { http: {} }",
            "write `result`, `text` or `error`",
        ),
        (
            "name: a, when: { direction: server }, mock: { text: x }",
            "only a request can be answered",
        ),
        ("name: a, delay: 2h", "write at most 1h"),
        ("name: a, pause: { limit: 25h }", "write at most 24h"),
        (
            "name: a, block: x }, { name: a, block: y",
            "an earlier rule has this name",
        ),
    ] {
        let lines = format!("match: {{ path: /mcp }}\nintercept: {{ rules: [{{ {rule} }}] }}");
        says(&with_route(&lines), &[said, "routes[0].intercept.rules["]);
    }
    for (rule, said) in [
        (
            "when: { direction: server }, block: x",
            "plain HTTP has no messages of a server",
        ),
        ("when: { tool: [x] }, block: x", "plain HTTP has no tools"),
        (
            "modify: { set: { /params/x: 1 } }",
            "rules change headers only",
        ),
        ("mock: { text: x }", "write `http`"),
    ] {
        let lines = format!(
            "match: {{ path: / }}\nprotocol: http\nintercept: {{ rules: [{{ name: a, {rule} }}] }}"
        );
        says(&with_route(&lines), &[said]);
    }
    says(
        &with_route("match: { path: /mcp }\nintercept: { rules: no-such-file.yaml }"),
        &["routes[0].intercept.rules: the file cannot be read"],
    );
}

#[test]
fn a_rule_that_waits_longer_than_the_deadline_is_noticed() {
    for rule in ["pause: { limit: 1m }", "delay: 2m"] {
        for direction in ["response", "server"] {
            let rule = format!("when: {{ direction: {direction} }}, {rule}");
            assert!(warned(&rule).contains("runs out of time"), "{rule}");
        }
        assert_eq!(warned(rule), "", "a request waits outside its deadline");
    }
    assert_eq!(warned("when: { direction: response }, delay: 50s"), "");
    let delayed = with_route(
        "match: { path: /mcp }\ndeadline: 1m\nintercept: { rules: [{ name: a, when: { direction: response }, delay: 2m }] }",
    );
    for (own, fits) in [
        ("deadline: 30s", false),
        ("deadline: 2m", false),
        ("deadline: 3m", true),
        ("deadline: { limit: 3m }", true),
        ("deadline: off", true),
        ("concurrency: 4", false),
    ] {
        let tools = format!("    tools: [{{ tool: slow, {own} }}]\n    endpoints:");
        let said = warnings(&delayed.replace("    endpoints:", &tools));
        assert_eq!(said.is_empty(), fits, "{own}: {said}");
    }
}

#[test]
fn a_rule_about_principals_that_nobody_knows_is_noticed() {
    for (never, at) in [
        ("when: { principal: [ann] }, block: no", "when.principal: "),
        (
            "when: { expression: \"'x' == principal\" }, block: no",
            "when.expression: ",
        ),
        (
            // A quote within quotes ends none.
            r#"when: { expression: '"\"" != "" && principal == "a"' }, block: no"#,
            "when.expression: ",
        ),
        ("mock: { text: \"for {{ principal }}\" }", "mock: "),
    ] {
        let said = warned(never);
        assert!(said.contains("authenticates nobody"), "{never}: {said}");
        assert!(said.contains(at), "{never}: {said}");
    }
    for fine in [
        "when: { expression: \"args.principal == 'principal'\" }, block: principal",
        "when: { expression: \"args.l.exists(principal, principal == 'a')\" }, block: no",
        "mock: { text: \"{{name}} principal\" }",
    ] {
        assert_eq!(warned(fine), "", "{fine}");
    }
}
