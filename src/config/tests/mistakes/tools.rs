//! What is wrong with the entries of tools.

use super::*;

/// A config with these entries of tools.
fn with_tools(entries: &str) -> String {
    let upstream = format!("    tools:\n{entries}\n    endpoints");
    with_endpoint("url: http://a.example").replace("    endpoints", &upstream)
}

#[test]
fn an_entry_of_a_tool_that_is_wrong_says_what_would_be_right() {
    for (entry, said) in [
        ("{ tool: a }", "tools[0]: this changes nothing"),
        ("{ tool: a, timeouts: {} }", "add `deadline: 30m`"),
        ("{ deadline: 1m }", "tools[0]: `tool` is missing"),
        (
            "{ tool: 'a b', deadline: 1m }",
            "tools[0].tool: `a b` is not a name",
        ),
        (
            "{ tool: 'a?', deadline: 1m }",
            "only `*` stands for other text",
        ),
        (
            "{ tool: a, deadline: 0s }",
            "tools[0].deadline: `0s` is no time at all",
        ),
        (
            "{ tool: a, deadline: { limit: 2m, cap: 1m } }",
            "tools[0].deadline.cap: the cap is shorter than the limit",
        ),
        (
            "{ tool: a, concurrency: 0 }",
            "tools[0].concurrency: `0` would let nothing",
        ),
        (
            "{ tool: a, timeouts: { connect: 1s } }",
            "timeouts.connect: there is no such key",
        ),
        (
            "{ tool: a, tool_circuit: off }",
            "tool_circuit: there is no such key",
        ),
        (
            "{ tool: a, deadline: 1m }\n    - { tool: a, concurrency: 1 }",
            "tools[1].tool: an earlier entry is for the same tools",
        ),
    ] {
        says(&with_tools(&format!("    - {entry}")), &[said]);
    }
    let plain = with_tools("    - { tool: a, deadline: 1m }").replace(
        "    upstream: tools",
        "    protocol: http\n    upstream: tools",
    );
    says(
        &plain,
        &["tools.tools: the routes of this upstream are `protocol: http`"],
    );
}

#[test]
fn an_entry_that_no_call_gets_to_is_noticed() {
    for (first, second, unreachable) in [
        ("*", "a", true),
        ("get_*", "get_a*b", true),
        ("*_a", "*_b_a", true),
        ("get_a*", "get_*", false),
        ("a", "b", false),
        ("*a", "a*", false),
    ] {
        let entries =
            [first, second].map(|tool| format!("    - {{ tool: \"{tool}\", deadline: 1m }}"));
        let said = warnings(&with_tools(&entries.join("\n")));
        let expected = format!("no call gets here: the entry `{first}` above takes them all");
        assert_eq!(
            said.contains(&expected),
            unreachable,
            "{first} {second}: {said}"
        );
        assert_eq!(said.contains("tools[1].tool"), unreachable, "{said}");
    }
}
