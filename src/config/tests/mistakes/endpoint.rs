//! What is wrong with endpoints.

use super::*;

#[test]
fn no_more_processes_are_ready_than_may_run() {
    says(
        &with_endpoint("command: [a]\nmax: 2\nwarm: 3"),
        &["endpoints[0].warm", "lower `warm`, or raise `max`"],
    );
    good(&with_endpoint("command: [a]\nmax: 2\nwarm: 2"));
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
fn a_program_with_its_arguments_in_one_word_is_noticed() {
    assert!(warnings(&with_endpoint("command: [npx -y thing]")).contains("has spaces in it"));
}

#[test]
fn processes_for_principals_that_nobody_knows_are_noticed() {
    let principals = with_endpoint("command: [a]\nisolation: per_principal");
    assert!(warnings(&principals).contains("authenticates nobody"));
}

#[test]
fn a_snapshot_of_what_is_shared_is_noticed() {
    let known = with_endpoint("command: [a]\nisolation: shared\nsnapshot: on");
    assert!(warnings(&known).contains("endpoints[0].snapshot: with `isolation: shared`"));
}

#[test]
fn only_a_name_is_looked_up_and_not_too_often() {
    for (endpoint, said) in [
        (
            "url: http://10.0.0.1/mcp\neach_address: 10s",
            "an address, and not a name",
        ),
        (
            "url: \"http://[::1]:80/mcp\"\neach_address: 10s",
            "an address, and not a name",
        ),
        (
            "url: http://a.example/mcp\neach_address: 10ms",
            "once a second at most",
        ),
        (
            "url: http://a.example/mcp\neach_address: 0s",
            "each_address",
        ),
    ] {
        says(
            &with_endpoint(endpoint),
            &["endpoints[0].each_address", said],
        );
    }
    let found = good(&with_endpoint(
        "url: http://a.example/mcp\neach_address: 10s",
    ));
    assert!(found.upstreams[0].health.is_some(), "there may be several");
}
