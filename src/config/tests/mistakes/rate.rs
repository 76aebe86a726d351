//! What is wrong with rate limits.

use super::*;

#[test]
fn a_rate_limit_that_is_wrong_says_what_would_be_right() {
    for (limit, said) in [
        ("{ per: client }", "rate_limit: this limits nothing"),
        (
            "[{ rate: 5/s }, { per: tool }]",
            "rate_limit[1]: this limits nothing",
        ),
        ("{ rate: 0/s }", "`0/s` would let nothing through"),
        ("{ rate: 50 }", "write a rate such as `50/s`"),
        ("{ rate: 50/d }", "`50/d` is not a rate"),
        ("{ rate: 5/s, burst: 0 }", "write a number from 1 up"),
        (
            "{ rate: 5/s, burst: 1000001 }",
            "rate_limit.burst: the burst is too large",
        ),
        (
            "{ streams: 5, burst: 1 }",
            "there is no rate for this burst",
        ),
        (
            "{ rate: 5/s, per: user }",
            "is not one of `route`, `session`",
        ),
        ("{ rate: 5/s, per: sesion }", "did you mean `session`?"),
        (
            "{ rate: 5/s, expression: \"args.\" }",
            "rate_limit.expression: ",
        ),
        (
            "{ rate: 5/s, expression: result.isError }",
            "calls are counted before they have a `result`",
        ),
        (
            "{ rate: 5/s, per: [tool, principal] }",
            "per[1]: `principal` is not in this version",
        ),
        (
            "{ rate: 5/s, match: { tools: [get_?] } }",
            "only `*` stands for other text",
        ),
        ("{ rate: 5/s, match: { tools: [\"\"] } }", "is not a name"),
        (
            "{ rate: 5/s, match: { clients: [10.0.0.0/33] } }",
            "is not an address or a network",
        ),
        ("{ rate: 5/s, match: { tool: a } }", "did you mean `tools`?"),
        (
            "{ rate: 5/s, ipv6_prefix: 0 }",
            "write a number from 1 to 128",
        ),
        (
            "{ rate: 5/s, tiers: [{ rate: 1/s }] }",
            "tiers[0]: `match` is missing",
        ),
        (
            "{ rate: 5/s, tiers: [{ match: {}, rate: off, burst: 2 }] }",
            "tiers[0].burst: there is no rate",
        ),
        (
            "[{ rate: 5/s, name: a }, { rate: 5/s, name: a }]",
            "rate_limit[1].name: an earlier limit of the route has this name",
        ),
    ] {
        let text = with_route(&format!("match: {{ path: /mcp }}\nrate_limit: {limit}"));
        says(&text, &[said]);
    }
    for (limit, said) in [
        ("{ rate: 5/s, per: session }", "has no sessions"),
        ("{ rate: 5/s, per: [client, tool] }", "has no tools"),
        (
            "{ rate: 5/s, match: { tools: [a] } }",
            "rate_limit.match: a route with `protocol: http` has no tools",
        ),
        (
            "{ rate: 5/s, tiers: [{ match: { tools: [a] } }] }",
            "tiers[0].match: a route",
        ),
    ] {
        let route = "match: { path: /mcp }\nprotocol: http\nrate_limit:";
        says(&with_route(&format!("{route} {limit}")), &[said]);
    }
    let route = "match: { path: /mcp }\nsession: off\nrate_limit: { per: session, rate: 5/s }";
    let warned = warnings(&with_route(route));
    assert!(
        warned.contains("calls are told apart by their clients"),
        "{warned}"
    );
}

#[test]
fn an_expression_of_a_limit_has_what_it_looks_at() {
    let limit = |protocol: &str, expression: &str| {
        with_route(&format!(
            "match: {{ path: /mcp }}\nprotocol: {protocol}\nrate_limit: {{ rate: 5/s, expression: \"{expression}\" }}"
        ))
    };
    says(
        &limit("http", "args.tenant"),
        &["rate_limit.expression: a route with `protocol: http` reads no bodies"],
    );
    let found = good(&limit("http", "headers['x-tenant']"));
    assert_eq!(found.routes[0].rate_limit[0].name, "expression");
    assert!(warnings(&limit("mcp", "principal")).contains("`principal` is empty"));
    assert_eq!(warnings(&limit("mcp", "args.tenant")), "");
}
