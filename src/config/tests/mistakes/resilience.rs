//! What is wrong with retries, breakers, probes and their like.

use super::*;

#[test]
fn a_setting_of_resilience_that_is_wrong_says_what_would_be_right() {
    for (lines, said) in [
        ("balance: p3c", "did you mean `p2c`?"),
        (
            "balance: { policy: p2c, key: session }",
            "set `policy: hash`, or remove `key`",
        ),
        (
            "balance: { policy: hash, key: user }",
            "write `session`, `header:NAME`, or a JSON pointer",
        ),
        (
            "circuit: { failure_rate: 120% }",
            "is not between 0% and 100%",
        ),
        (
            "circuit: { window: 30 }",
            "or a number of calls such as `100 calls`",
        ),
        ("circuit: { window: 99999 calls }", "up to 65535"),
        ("health: { probe: ping }", "write `mcp`, `tcp`, `http`"),
        (
            "health: { http: { path: /x } }",
            "set `probe: http`, or remove `http`",
        ),
        (
            "health: { probe: http, http: { status: 99 } }",
            "write `200`, or `200-399`",
        ),
        ("outlier: { max_ejected: 2 }", "is not between 0% and 100%"),
        ("trust_annotations: maybe", "write `true` or `false`"),
    ] {
        let text = with_endpoint("url: http://a.example")
            .replace("    endpoints:", &format!("    {lines}\n    endpoints:"));
        says(&text, &[said]);
    }
    for (lines, said) in [
        (
            "session: { heal: maybe }",
            "write `safe`, `always`, `never`",
        ),
        ("session: { idle: 0s }", "is no time at all"),
        ("retry: { attempts: 0 }", "write a number from 1 up"),
        (
            "retry: { statuses: [200] }",
            "write a number from 400 to 599",
        ),
        ("retry: { budget: lots }", "such as `20%`"),
        ("retry: { least: -1 }", "is out of range"),
        ("replay: sometimes", "`auto`"),
        ("replay: { events: 0 }", "write a number from 1 up"),
        ("session: off\nreplay: always", "this route has none"),
        (
            "protocol: http\nreplay: { streams: always }",
            "this route has none",
        ),
    ] {
        says(
            &with_route(&format!("match: {{ path: /mcp }}\n{lines}")),
            &[said],
        );
    }
    let said = bad(&with_top("server: { session_keys: [hush] }"));
    assert!(
        said.contains("server.session_keys[0]: the value is not 32 bytes"),
        "{said}"
    );
    assert!(!said.contains("hush"), "{said}");
    let tcp = with_endpoint("command: [run]").replace(
        "    endpoints:",
        "    health: { probe: tcp }\n    endpoints:",
    );
    says(&tcp, &["which only `mcp` can probe"]);
    says(
        &with_endpoint("url: http://a.example\nweight: 1001"),
        &["weights go from 1 to 1000"],
    );
}
