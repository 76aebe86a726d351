//! What is wrong is said once, with its place and its cure.

use super::*;

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
fn no_more_processes_are_ready_than_may_run() {
    says(
        &with_endpoint("command: [a]\nmax: 2\nwarm: 3"),
        &["endpoints[0].warm", "lower `warm`, or raise `max`"],
    );
    good(&with_endpoint("command: [a]\nmax: 2\nwarm: 2"));
}

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
fn what_works_but_is_likely_not_meant_is_a_warning() {
    let route = "  - match: { path: PATH }\n    upstream: tools\n";
    let two = |first: &str, second: &str| {
        let routes = [first, second]
            .map(|path| route.replace("PATH", path))
            .concat();
        format!(
            "routes:\n{routes}upstreams:\n  tools:\n    endpoints: [{{ url: \"http://a.example\" }}]\n"
        )
    };
    assert!(
        warnings(&two("/mcp", "/mcp"))
            .starts_with("z.yaml:4:12: warning: routes[1].match: no request gets here")
    );
    assert!(warnings(&two("/", "/mcp")).contains("no request gets here"));
    let waits = |rule: &str| {
        let lines = format!(
            "match: {{ path: /mcp }}\ndeadline: 1m\nintercept: {{ rules: [{{ name: a, {rule} }}] }}"
        );
        warnings(&with_route(&lines))
    };
    for rule in ["pause: { limit: 1m }", "delay: 2m"] {
        for direction in ["response", "server"] {
            let rule = format!("when: {{ direction: {direction} }}, {rule}");
            assert!(waits(&rule).contains("runs out of time"), "{rule}");
        }
        assert_eq!(waits(rule), "", "a request waits outside its deadline");
    }
    assert_eq!(waits("when: { direction: response }, delay: 50s"), "");
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
    assert!(warnings(&two("/mcp", "/mcp/a")).contains("no request gets here"));
    assert_eq!(warnings(&two("/mcp/a", "/mcp")), "");
    assert_eq!(warnings(&two("/mcp", "/mcpx")), "");

    let unused = format!(
        "{}  other:\n    endpoints: [{{ url: \"http://a.example\" }}]\n",
        two("/a", "/b")
    );
    assert!(warnings(&unused).contains("upstreams.other: no route leads to this upstream"));
    let open = with_top("listen: 0.0.0.0:80\ninsecure_bind: true");
    assert!(warnings(&open).contains("`server.hosts` has only the names of this one"));
    assert!(warnings(&with_endpoint("command: [npx -y thing]")).contains("has spaces in it"));
    let principals = with_endpoint("command: [a]\nisolation: per_principal");
    assert!(warnings(&principals).contains("authenticates nobody"));
    let rule = |rule: &str| {
        let lines =
            format!("match: {{ path: /mcp }}\nintercept: {{ rules: [{{ name: a, {rule} }}] }}");
        warnings(&with_route(&lines))
    };
    for (never, at) in [
        ("when: { principal: [ann] }, block: no", "when.principal: "),
        (
            "when: { expression: \"'x' == principal\" }, block: no",
            "when.expression: ",
        ),
        ("mock: { text: \"for {{ principal }}\" }", "mock: "),
    ] {
        let said = rule(never);
        assert!(said.contains("authenticates nobody"), "{never}: {said}");
        assert!(said.contains(at), "{never}: {said}");
    }
    for fine in [
        "when: { expression: \"args.principal == 'principal'\" }, block: principal",
        "mock: { text: \"{{name}} principal\" }",
    ] {
        assert_eq!(rule(fine), "", "{fine}");
    }
    let known = with_endpoint("command: [a]\nisolation: shared\nsnapshot: on");
    assert!(warnings(&known).contains("endpoints[0].snapshot: with `isolation: shared`"));
}

#[test]
fn a_program_that_is_not_installed_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("present"), "").unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let environment = move |name: &str| (name == "PATH").then(|| path.clone());
    let warned = |program: &str| {
        let overrides = Overrides::default();
        let context = Context {
            named: false,
            folder: None,
            environment: &environment,
            overrides: &overrides,
        };
        let (_, warnings) = parse(
            &with_endpoint(&format!("command: [{program}]")),
            "z.yaml",
            &context,
        )
        .unwrap();
        !warnings.is_empty()
    };
    assert!(warned("absent"));
    assert!(!warned("present"));
    assert!(
        !warned("./absent"),
        "a path is seen from the folder that the command runs in"
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
fn headers_and_variables_of_an_endpoint_are_checked() {
    let headers =
        |line: &str| with_endpoint(&format!("url: http://a.example\nheaders: {{ {line} }}"));
    says(
        &headers("\"a b\": x"),
        &["endpoints[0].headers.a b: `a b` is not a name for a header"],
    );
    says(
        &headers("content-length: 5"),
        &["is a header that the proxy writes itself"],
    );
    says(&headers("x-a: 1, X-A: 2"), &["`X-A` is given twice"]);
    let said = bad(&headers("x-key: \"s3cr3t\\n\""));
    assert!(
        said.contains("such as a line break") && !said.contains("s3cr3t"),
        "{said}"
    );
    says(
        &with_endpoint("command: [a]\nenv: { A-B: x }"),
        &["is not a name for an environment variable"],
    );
    says(
        &with_endpoint("command: [a]\nenv: { A: [x] }"),
        &["a single value belongs here, but this is a list"],
    );
}

#[test]
fn an_endpoint_is_a_url_or_a_command() {
    says(
        &with_endpoint("command: [a]\nurl: http://a.example"),
        &["either a `url` or a `command`"],
    );
    says(
        &with_endpoint("idle: 5m"),
        &["needs a `url` or a `command`"],
    );
    says(&with_endpoint("command: []"), &["the command is empty"]);
    says(&with_endpoint("command: [\"\"]"), &["the command is empty"]);
    says(
        &with_endpoint("command: npx thing"),
        &["a list belongs here", "`[a, b]`"],
    );
    says(
        &with_endpoint("command: [a]")
            .replace("upstream: tools", "upstream: tools\n    protocol: http"),
        &["which speaks MCP"],
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
fn two_routes_cannot_have_one_name() {
    let text = FIXTURES[0].1.replace(
        "match: { path: /one }",
        "match: { path: /one }\n    name: same",
    );
    says(&text, &["routes[1].name: an earlier route has this name"]);
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
fn a_command_that_was_taken_for_a_url_is_told_where_it_belongs() {
    let said = |word: &str| {
        Config::quick(Quick::Urls(vec![word.to_owned()]))
            .unwrap_err()
            .to_string()
    };
    assert!(said("npx").contains("`ziggurat run -- npx` if it is a command"));
    let expected = "command line: error: the value is a URL without a scheme\n    help: write `http://localhost:3001/mcp`";
    assert_eq!(said("localhost:3001/mcp"), expected);
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
