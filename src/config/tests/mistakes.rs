//! What is wrong is said once, with its place and its cure.

use super::*;

mod endpoint;
mod rate;
mod resilience;
mod route;
mod rules;
mod tools;

/// What is said about a text, and what it must contain.
#[track_caller]
fn says(text: &str, expected: &[&str]) {
    let said = bad(text);
    for expected in expected {
        assert!(said.contains(expected), "{expected:?} in:\n{said}");
    }
}

#[test]
fn a_mistake_names_its_place_and_its_cure() {
    let text = with_top("server:\n  body_limt: 4MiB");
    assert_eq!(
        bad(&text),
        "z.yaml:2:3: error: server.body_limt: there is no such key\n    help: did you mean `body_limit`?"
    );
}

#[test]
fn all_mistakes_are_found_at_once_in_the_order_of_the_file() {
    let text = "\
listen: localhost:8080
server:
  concurrency: 0
  header_timeout: 0s
  body_limit: big
routes:
  - match: { path: mcp }
    upstream: tools
  - match: { path: /b }
    upstream: tolls
    tape: { attempts: 3 }
upstreams:
  tools:
    endpoints: [{ url: 127.0.0.1:3001/mcp }]
";
    let said = bad(text);
    let errors: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("z.yaml"))
        .collect();
    let starts = [
        "z.yaml:1:9: error: listen: `localhost:8080` is not an address",
        "z.yaml:3:16: error: server.concurrency: `0` would let nothing through",
        "z.yaml:4:19: error: server.header_timeout: `0s` is no time at all",
        "z.yaml:5:15: error: server.body_limit: `big` is not a size",
        "z.yaml:7:20: error: routes[0].match.path: `mcp` does not begin with `/`",
        "z.yaml:10:15: error: routes[1].upstream: there is no such upstream",
        "z.yaml:11:5: error: routes[1].tape: there is no such key",
    ];
    for start in starts {
        assert!(
            errors.iter().any(|error| error.starts_with(start)),
            "{start} in:\n{said}"
        );
    }
    assert!(
        said.contains(
            "error: upstreams.tools.endpoints[0].url: the value is a URL without a scheme"
        ),
        "{said}"
    );
    let lines: Vec<u32> = errors
        .iter()
        .map(|error| error.split(':').nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(lines.is_sorted(), "{said}");
    assert!(said.contains("write `127.0.0.1:8080`"), "{said}");
}

#[test]
fn text_that_is_not_yaml_is_one_mistake_with_its_place() {
    says("a: [1\nb: 2\n", &["z.yaml:2:", "this is not valid YAML"]);
    says(
        "routes: []\nroutes: []\n",
        &["z.yaml:2:1: error", "duplicate"],
    );
    says(
        "- a\n",
        &["a map of settings belongs here, but this is a list"],
    );
    says(
        "a: { b: ${C} }\n",
        &["this is not valid YAML", "write `\"${NAME}\"` with quotes"],
    );
    says("", &["`routes` is missing"]);
    says("a: 1\n---\nb: 2\n", &["z.yaml:"]);
}

#[test]
fn a_key_of_another_version_is_named_as_such() {
    says(
        &with_route("match: { path: /mcp }\ntape: { record: a.tape }"),
        &[
            "routes[0].tape",
            "this version of ziggurat does not have `tape`",
        ],
    );
    says(
        &with_endpoint("url: http://a.example\nisolation: shared"),
        &["endpoints[0].isolation: there is no such key"],
    );
    says(
        &with_endpoint("command: [a]\nisolation: per_sesion"),
        &["did you mean `per_session`?"],
    );
}

#[test]
fn other_machines_are_kept_out_unless_allowed() {
    says(
        &with_top("listen: 0.0.0.0:8080"),
        &[
            "z.yaml:1:9: error: listen: 0.0.0.0:8080 can be reached",
            "insecure_bind: true",
        ],
    );
    says(
        &with_top("listen: \"[::]:8080\""),
        &["can be reached from other machines"],
    );
    says(
        &with_top("listen: 127.0.0.1:9901"),
        &["`listen` and `admin` are both 127.0.0.1:9901"],
    );
}

#[test]
fn an_admin_api_is_not_open_to_others_and_its_tokens_are_not_short() {
    says(
        &with_top("admin: { address: \"0.0.0.0:9901\", auth: off }"),
        &[
            "0.0.0.0:9901 can be reached from other machines",
            "`tokens`",
        ],
    );
    says(
        &with_top("admin: { auth: off, tokens: { ops: 0123456789abcdef } }"),
        &["the `tokens` would not be asked for"],
    );
    says(
        &with_top("admin: { tokens: { ops: short } }"),
        &["admin.tokens.ops: ", "16 to 256", "openssl rand"],
    );
}

#[test]
fn addresses_urls_and_names_say_what_would_be_right() {
    says(&with_top("listen: 8080"), &["`127.0.0.1:8080`"]);
    says(&with_top("listen: :8080"), &["`127.0.0.1:8080`"]);
    says(
        &with_endpoint("url: localhost:3001/mcp"),
        &["write `http://localhost:3001/mcp`"],
    );
    says(
        &with_endpoint("url: ftp://a.example"),
        &["begin it with `http://` or `https://`"],
    );
    says(
        &with_endpoint("url: http://u:p@a.example"),
        &["give the credentials as a header"],
    );
    says(
        &with_endpoint("url: \"http://a.example/#x\""),
        &["a URL with a fragment"],
    );
    says(&with_endpoint("url: \"http://\""), &["is not a URL"]);
    says(
        &with_top("server: { hosts: [\"https://a.example:8443/x\"] }"),
        &["write the name alone", "`a.example`"],
    );
    says(
        &with_top("server: { origins: [\"*.example\"] }"),
        &["is not a host name"],
    );
    says(
        &with_route("match: { path: \"/mcp/*\" }"),
        &["a path takes everything below it"],
    );
    says(
        &with_route("match: { path: /mcp }\nforward: [\"a b\"]"),
        &["`a b` is not a name for a header"],
    );
    says(
        &with_route("match: { path: /mcp }\nprotocol: htp"),
        &["did you mean `http`?"],
    );
    says(
        &with_route("match: { path: /mcp }\nname: \"a b\""),
        &["is not a name"],
    );
}

#[test]
fn durations_without_a_unit_or_a_meaning_are_refused() {
    let deadline = |value: &str| with_route(&format!("match: {{ path: /mcp }}\ndeadline: {value}"));
    says(&deadline("30"), &["`30` has no unit", "write `30s`"]);
    says(&deadline("soon"), &["`soon` is not a duration", "`30s`"]);
    says(&deadline("-5s"), &["`-5s` is negative"]);
    says(&deadline("0s"), &["`0s` is no time at all"]);
    says(&deadline("90000h"), &["longer than a year"]);
    says(
        &deadline("{ limit: 5m, cap: 1m }"),
        &["routes[0].deadline.cap: the cap is shorter than the limit"],
    );
    says(&deadline("{ limt: 5m }"), &["did you mean `limit`?"]);
}

#[test]
fn files_that_cannot_be_read_are_found_before_they_are_needed() {
    let tls = with_top("listen: { tls: { certificate: /nonexistent/c.pem, key: / } }");
    says(
        &tls,
        &[
            "listen.tls.certificate: the file cannot be read",
            "listen.tls.key: the file cannot be read: it is a folder",
        ],
    );
    says(
        &with_top("listen: { tls: { certificate: /x } }"),
        &["`key` is missing"],
    );
    says(
        &with_endpoint("url: https://a.example\ntls: { key: / }"),
        &["`certificate` and `key` belong together"],
    );
    says(
        &with_endpoint("url: http://a.example\ntls: {}"),
        &["the URL is plain `http`"],
    );
    says(
        &with_endpoint("url: https://a.example\nhttp2: true"),
        &["over `https`, HTTP/2 is used whenever"],
    );
    says(
        &with_endpoint("command: [a]\ncwd: /nonexistent"),
        &["there is no such folder"],
    );
    let said = Config::load(Path::new("/nonexistent/z.yaml"))
        .unwrap_err()
        .to_string();
    assert!(
        said.starts_with("/nonexistent/z.yaml: error: the file cannot be read"),
        "{said}"
    );
}

#[test]
fn a_variable_that_is_missing_or_misspelt_is_named() {
    let env = |value: &str| with_endpoint(&format!("command: [a]\nenv: {{ A: \"{value}\" }}"));
    says(
        &env("${MISSING}"),
        &[
            "env.A: the environment variable MISSING is not set",
            "`${MISSING:-default}`",
        ],
    );
    says(
        &env("${not a name}"),
        &["is not a reference to an environment variable"],
    );
    says(
        &env("${A:-${B}}"),
        &["is not a reference to an environment variable"],
    );
    says(&env("${OPEN"), &["`${` has no closing `}`"]);
}

#[test]
fn a_value_from_the_environment_is_never_repeated() {
    for text in [
        with_top("listen: ${BAD}"),
        with_top(
            "server: { hosts: [\"${BAD}\"], header_timeout: \"${BAD}\", concurrency: \"${BAD}\", body_limit: \"${BAD}\" }",
        ),
        with_route("match: { path: \"${BAD}\" }\nprotocol: ${BAD}\nforward: [\"${BAD}\"]"),
        with_endpoint("url: ${BAD}"),
        with_route("match: { path: /mcp }").replace("upstream: tools", "upstream: ${TOOLS_TOKEN}"),
    ] {
        let said = bad(&text);
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}

#[test]
fn a_mistake_behind_an_anchor_is_reported_once() {
    let text = FIXTURES[0].1.replace("connect: 1s", "connect: soon");
    assert_eq!(bad(&text).matches("is not a duration").count(), 1);
}

#[test]
fn a_guard_that_lets_nobody_in_is_a_mistake() {
    says(
        &with_top("server: { hosts: [] }"),
        &["server.hosts: no name is let through"],
    );
    good(&with_top("server: { origins: [] }"));
}

#[test]
fn a_mistake_in_an_item_is_not_followed_by_one_about_an_empty_list() {
    let said = bad(&with_endpoint("url: nowhere"));
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    let said = bad(&with_route("match: { path: mcp }"));
    assert_eq!(said.matches("z.yaml").count(), 1, "{said}");
    says(
        &with_endpoint("").replace("      - ", "      []"),
        &["there is no endpoint that could be used"],
    );
}

#[test]
fn an_open_listener_that_knows_only_its_own_name_is_noticed() {
    let open = with_top("listen: 0.0.0.0:80\ninsecure_bind: true");
    assert!(warnings(&open).contains("`server.hosts` has only the names of this one"));
}
