//! What is wrong with routes, and between routes and upstreams.

use super::*;

/// A config with two routes of these paths.
fn two(first: &str, second: &str) -> String {
    let route = "  - match: { path: PATH }\n    upstream: tools\n";
    let routes = [first, second]
        .map(|path| route.replace("PATH", path))
        .concat();
    format!(
        "routes:\n{routes}upstreams:\n  tools:\n    endpoints: [{{ url: \"http://a.example\" }}]\n"
    )
}

#[test]
fn an_upstream_that_does_not_exist_lists_those_that_do() {
    let text = with_route("match: { path: /mcp }").replace("upstream: tools", "upstream: xyz");
    says(
        &text,
        &[
            "routes[0].upstream: there is no such upstream",
            "the upstreams are `tools`",
        ],
    );
    // One that is there, but wrong itself, is not also missing.
    let said = bad(&with_endpoint("url: nowhere"));
    assert!(!said.contains("no such upstream"), "{said}");
}

#[test]
fn two_routes_cannot_have_one_name() {
    let text = FIXTURES[0].1.replace(
        "match: { path: /one }",
        "match: { path: /one }\n    name: same",
    );
    says(&text, &["routes[1].name: an earlier route has this name"]);
}

#[test]
fn a_route_that_no_request_gets_to_is_noticed() {
    assert!(
        warnings(&two("/mcp", "/mcp"))
            .starts_with("z.yaml:4:12: warning: routes[1].match: no request gets here")
    );
    assert!(warnings(&two("/", "/mcp")).contains("no request gets here"));
    assert!(warnings(&two("/mcp", "/mcp/a")).contains("no request gets here"));
    assert_eq!(warnings(&two("/mcp/a", "/mcp")), "");
    assert_eq!(warnings(&two("/mcp", "/mcpx")), "");
}

#[test]
fn an_upstream_that_no_route_leads_to_is_noticed() {
    let unused = format!(
        "{}  other:\n    endpoints: [{{ url: \"http://a.example\" }}]\n",
        two("/a", "/b")
    );
    assert!(warnings(&unused).contains("upstreams.other: no route leads to this upstream"));
}
