//! Settings become text again, and the schema describes both.

use serde_json::Value;

use super::*;

#[test]
fn what_is_explained_means_the_same_when_it_is_read() {
    for (name, text) in FIXTURES {
        let config = good(text);
        let explained = config.to_yaml();
        let again = good(&explained);
        assert_eq!(again, config, "{name}:\n{explained}");
        assert_eq!(again.to_yaml(), explained, "{name}");
    }
}

#[test]
fn rules_mean_the_same_when_they_are_read_again() {
    let text = with_route(
        r#"match: { path: /mcp }
intercept:
  dry_run: true
  rules:
    - name: all
      when: { method: ["tools/*"], tool: [a, "b*"], header: { x-team: red }, principal: [alice], path: ["/m*"], expression: "has(args.x) && args.x == '${L:-1}'" }
      modify:
        set: { /params/arguments/a~1b: [1, "1", 1.50, true, "true", null, { x: "$${}" }], /params/x: "${L:-env}" }
        remove: [/params/arguments/y]
        patch: [{ op: test, path: /params/z, value: 5 }, { op: move, from: /params/z, path: /params/q }]
        headers: { set: { x-new: "${L:-one}" }, remove: [x-old] }
    - { name: no, block: "not ${L:-here}", on_error: skip }
    - { name: canned, mock: { text: "{{name}}" } }
    - { name: wrong, mock: { error: { code: -32000, message: no, data: { a: "${L:-b}" } } } }
    - { name: slow, when: { direction: server }, delay: 2s }
    - { name: held, pause: { limit: 1m, then: resume } }
    - { name: counted, continue: true }"#,
    );
    let config = good(&text);
    let explained = config.to_yaml();
    assert_eq!(good(&explained), config, "{explained}");
    assert_eq!(good(&explained).to_yaml(), explained);
    assert!(
        explained.contains("${L:-env}") && explained.contains("${L:-b}"),
        "{explained}"
    );
    let plain = with_route(
        "match: { path: / }\nprotocol: http\nintercept: { rules: [{ name: pot, mock: { http: { status: 418, headers: { x-token: hush }, body: a } } }] }",
    );
    let explained = good(&plain).to_yaml();
    assert!(
        explained.contains("status: 418") && !explained.contains("hush"),
        "{explained}"
    );
}

/// The smallest config, as it is explained.
const EVERY_DEFAULT: &str = r#"listen: 127.0.0.1:8080
admin: 127.0.0.1:9901
insecure_bind: false
server:
  body_limit: 4MiB
  concurrency: 4096
  streams: 10000
  hosts: [localhost, "127.0.0.1", "[::1]"]
  origins: [localhost, "127.0.0.1", "[::1]"]
  header_timeout: 10s
  heartbeat: 15s
  write_stall: 1m
  access_log: true
  session_keys: []
  replay_memory: 64MiB
  drain:
    delay: 0s
    limit: 30s
routes:
  - name: /mcp
    match:
      path: /mcp
    protocol: mcp
    upstream: tools
    forward: []
    intercept: off
    deadline:
      limit: 5m
      cap: 1h
    http_sse: auto
    session:
      idle: 30m
      lifetime: off
      max: 10000
      lost: [404]
      heal: safe
    rate_limit: off
    replay:
      streams: auto
      events: 256
      bytes: 1MiB
      age: 5m
    concurrency: off
    retry:
      attempts: 3
      budget: 20%
      least: 1
      backoff:
        base: 50ms
        max: 1s
      retry_after: 10s
      body_cap: 64KiB
      safe_tools: []
      statuses: [502, 503, 504]
    errors: envelope
upstreams:
  tools:
    timeouts:
      connect: 2s
      head: off
      idle: off
    concurrency: 1024
    balance:
      policy: p2c
      forced: 1%
      slow_start: 30s
      panic: 50%
      queue: 1024
      queue_time: 1s
    circuit:
      failure_rate: 50%
      window: 30s
      min_calls: 10
      consecutive: 5
      open: 10s
      open_max: 5m
      probes: 1
      successes: 2
      rpc_errors: false
      tool_errors: false
    tool_circuit: off
    tools: []
    health: off
    outlier:
      consecutive: 5
      deviations: 1.9
      min_calls: 20
      min_endpoints: 5
      floor: 5%
      interval: 10s
      base: 30s
      max: 5m
      max_ejected: 10%
    resume:
      tries: 10
      limit: 30s
      standing: 5m
      first: 200ms
      max: 30s
    trust_annotations: false
    stateless: false
    endpoints:
      - url: "http://127.0.0.1:3001/mcp"
        each_address: off
        transport: auto
        headers: {}
        http2: false
        pool_idle: 4s
        keepalive: 30s
        weight: 1
        priority: 0
"#;

#[test]
fn every_default_is_filled_in() {
    assert_eq!(good(FIXTURES[3].1).to_yaml(), EVERY_DEFAULT);
}

#[test]
fn what_came_from_the_environment_is_printed_as_it_was_written() {
    let explained = good(FIXTURES[1].1).to_yaml();
    assert!(!explained.contains("s3cr3t"), "{explained}");
    for written in [
        "Authorization: \"Bearer ${TENANT_TOKEN}\"",
        "authorization: \"Bearer ${TOOLS_TOKEN}\"",
        "\"${FILES_ROOT:-/srv}\", \"--token=${FILES_TOKEN}\"",
        "GREETING: \"costs $5, or $${five}\"",
    ] {
        assert!(explained.contains(written), "{written} in\n{explained}");
    }
}

#[test]
fn a_variable_is_kept_wherever_it_stands() {
    for text in [
        with_top("listen: \"${L:-127.0.0.1:1}\""),
        with_top("listen: { address: \"${L:-127.0.0.1:1}\" }"),
        with_top(
            "server: { hosts: [\"${L:-a.example}\"], concurrency: \"${L:-5}\", origins: \"${L:-off}\" }",
        ),
        with_route(
            "match: { path: \"${L:-/mcp}\", host: \"${L:-a.example}\" }\ndeadline: \"${L:-7m}\"",
        ),
        with_route(
            "match: { path: /mcp }\ndeadline: { limit: \"${L:-7m}\" }\nforward: [\"${L:-cookie}\"]",
        ),
        with_route("match: { path: /mcp }\nretry: { statuses: [\"${L:-503}\", 502], budget: \"${L:-7%}\" }"),
        with_endpoint("url: \"${L:-http://a.example}\"\nweight: \"${L:-3}\"")
            .replace("    endpoints", "    balance: \"${L:-random}\"\n    circuit: { window: \"${L:-5 calls}\" }\n    endpoints"),
        with_endpoint("url: \"${L:-http://a.example}\""),
        with_endpoint("command: [run]\nlifetime: ${L:-off}\nidle: ${L:-7m}"),
    ] {
        let config = good(&text);
        let explained = config.to_yaml();
        assert_eq!(
            explained.matches("${L:-").count(),
            text.matches("${L:-").count(),
            "{text}\n{explained}"
        );
        assert_eq!(good(&explained), config, "{explained}");
    }
}

#[test]
fn a_secret_that_the_file_spells_out_is_masked_and_the_mask_is_noticed() {
    let text = with_endpoint(
        "url: http://a.example/mcp?api_key=s3cr3t&page=2\nheaders: { authorization: Basic s3cr3t, x-api-key: s3cr3t, accept-language: en }",
    );
    let explained = good(&text).to_yaml();
    assert!(!explained.contains("s3cr3t"), "{explained}");
    assert!(explained.contains("api_key=***&page=2"), "{explained}");
    assert!(explained.contains("accept-language: en"), "{explained}");
    assert!(warnings(&explained).contains("`explain` prints in place of a secret"));

    let text = with_endpoint(
        "command: [run, --api-key, s3cr3t, --verbose, --password=s3cr3t, ghp_s3cr3t, x]\nenv: { MY_TOKEN: s3cr3t, DB: \"postgres://u:s3cr3t@h/d\", LOG: info }",
    );
    let explained = good(&text).to_yaml();
    assert!(!explained.contains("s3cr3t"), "{explained}");
    assert!(explained.contains("LOG: info"), "{explained}");
    assert!(warnings(&explained).contains("`explain` prints in place of a secret"));
}

#[test]
fn the_default_of_a_secret_is_masked_wherever_it_stands() {
    let endpoint = with_endpoint(
        "command: [run, --token, \"${T:-s3cr3t}\", \"--api-key=${T:-s3cr3t}\", -H, \"X-Api-Key: ${T:-s3cr3t}\", --level, \"${L:-info}\"]",
    );
    let url =
        with_endpoint("url: \"http://a.example/?key=${T:-s3cr3t}&token=s3cr3t&page=${P:-1}\"");
    let whole = with_endpoint("url: \"${U:-http://a.example/?page=2&token=s3cr3t}\"");
    let rules = with_route(
        r#"match: { path: /mcp }
intercept:
  rules:
  - name: a
    modify:
      set: { /params/arguments/token: "${T:-s3cr3t}", /params/keys/0: s3cr3t, /params/a: { api_key: "${T:-s3cr3t}" } }
      patch:
      - { op: add, path: /params/arguments/password, value: s3cr3t }
      - { op: replace, path: /params/arguments/secrets/-, value: "${T:-s3cr3t}" }
      - { op: test, path: /params/arguments/page, value: shown }"#,
    );
    for (text, masks, shown) in [
        (endpoint, 3, "${L:-info}"),
        (url, 2, "page=${P:-1}"),
        (whole, 1, "${U:-http://a.example/?page=2&token=***}"),
        (rules, 5, "value: shown"),
    ] {
        let explained = good(&text).to_yaml();
        assert!(!explained.contains("s3cr3t"), "{explained}");
        assert_eq!(explained.matches("***").count(), masks, "{explained}");
        assert!(explained.contains(shown), "{explained}");
    }
}

#[test]
fn a_secret_beside_a_variable_is_masked_and_the_variable_stays() {
    let command = with_endpoint(
        "command: [sh, -c, \"API_TOKEN=s3cr3t exec run ${DIR:-/srv}\", \"--header=Authorization: Bearer s3cr3t ${DIR:-eu}\"]\nenv: { DATABASE_URL: \"postgres://u:s3cr3t@${DIR:-db}/x\", API_TOKEN: \"s3cr3t-${DIR:-x}\", DB: \"postgres://u:${DIR:-x}@h/d\" }",
    );
    let endpoint = with_endpoint(
        "url: \"http://a.example/?token=s3cr3t-${DIR:-x}&page=2\"\nheaders: { authorization: \"Bearer s3cr3t-${DIR:-x}\" }",
    );
    let rules = with_route(
        r#"match: { path: /mcp }
intercept:
  rules:
  - { name: a, modify: { set: { /params/token: "s3cr3t-${DIR:-x}" }, headers: { set: { x-api-key: "s3cr3t-${DIR:-x}" } } } }"#,
    );
    for (text, variables, shown) in [
        (command, 5, "API_TOKEN=***${DIR"),
        (endpoint, 2, "?token=***${DIR:-***}&page=2"),
        (rules, 2, "***${DIR"),
    ] {
        let explained = good(&text).to_yaml();
        assert!(!explained.contains("s3cr3t"), "{explained}");
        assert_eq!(explained.matches("${DIR").count(), variables, "{explained}");
        assert!(explained.contains(shown), "{explained}");
    }
}

#[test]
fn what_the_command_line_says_is_shown_in_place_of_the_file() {
    let overrides = Overrides {
        listen: Some("127.0.0.1:7".parse().unwrap()),
        admin: Some("127.0.0.1:8".parse().unwrap()),
        insecure_bind: true,
    };
    let top = "listen: \"${L:-127.0.0.1:1}\"\nadmin: { address: \"${L:-127.0.0.1:2}\", hosts: [a.example] }\ninsecure_bind: \"${L:-false}\"";
    let (config, _) = read_with(&with_top(top), &overrides).unwrap();
    let explained = config.to_yaml();
    for shown in [
        "listen: 127.0.0.1:7",
        "address: 127.0.0.1:8",
        "insecure_bind: true",
    ] {
        assert!(explained.contains(shown), "{explained}");
    }
    let origins: Vec<_> = config.origins.all().collect();
    for given in ["listen", "admin.address", "insecure_bind"] {
        let of: Vec<_> = origins.iter().filter(|(path, _)| *path == given).collect();
        assert_eq!(of, [&(given, "command line")]);
    }
    assert!(origins.contains(&("admin.hosts[0]", "file")));
}

#[test]
fn a_path_or_a_switch_of_a_secret_name_is_no_secret() {
    let text = with_route("match: { path: /mcp }\nsession: \"${L:-off}\"");
    assert!(good(&text).to_yaml().contains("session: \"${L:-off}\""));
}

#[test]
fn any_text_survives_being_printed() {
    for value in [
        "a: b",
        "# no",
        "- x",
        "it's \"so\"",
        "back\\slash",
        "tab\tline\nend ",
        "é\u{85}\u{2028}\u{feff}😀",
        "null",
        "~",
        "off",
        "${x",
        "*a",
        "1e3",
        " lead",
    ] {
        let text = with_endpoint("command: [run]\nenv: { A: VALUE }");
        let text = text.replace(
            "VALUE",
            &serde_json::to_string(&value.replace("${", "$${")).unwrap(),
        );
        let config = good(&text);
        assert_eq!(stdio(&config, 0).env[0].1, value);
        assert_eq!(good(&config.to_yaml()), config, "{value:?}");
    }
}

#[test]
fn durations_and_sizes_are_printed_exactly() {
    let text = with_top(
        "server: { header_timeout: 1h30m, body_limit: 1025, drain: { delay: 1.5s, limit: 1ms } }",
    );
    let explained = good(&text).to_yaml();
    for written in [
        "header_timeout: 90m",
        "body_limit: 1025B",
        "delay: 1500ms",
        "limit: 1ms",
    ] {
        assert!(explained.contains(written), "{written} in\n{explained}");
    }
}

#[test]
fn the_schema_describes_every_key_and_shows_the_defaults() {
    let schema = Config::schema();
    every_property(&schema, &mut |name, property| {
        let described = property["description"]
            .as_str()
            .is_some_and(|text| text.len() > 10);
        assert!(described, "{name}: {property}");
    });
    assert_eq!(
        schema["properties"]["server"]["properties"]["body_limit"]["default"],
        "4MiB"
    );
    assert_eq!(schema["properties"]["insecure_bind"]["default"], false);
    assert_eq!(
        schema["required"],
        serde_json::json!(["routes", "upstreams"])
    );
    assert_eq!(schema["additionalProperties"], false);
}

fn every_property(schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            visit(name, property);
        }
    }
    match schema {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| *key != "default")
            .for_each(|(_, value)| every_property(value, visit)),
        Value::Array(items) => items.iter().for_each(|item| every_property(item, visit)),
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_key_of_the_fixtures() {
    let schema = Config::schema();
    for (name, text) in FIXTURES {
        for text in [(*text).to_owned(), good(text).to_yaml()] {
            let value: Value = serde_saphyr::from_str(&text).unwrap();
            assert!(fits(&value, &schema), "{name}");
        }
    }
    let value: Value = serde_saphyr::from_str(&with_top("sever: {}")).unwrap();
    assert!(!fits(&value, &schema));
}

/// As much of JSON Schema as our schema uses, types of single values aside.
fn fits(value: &Value, schema: &Value) -> bool {
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().any(|choice| fits(value, choice));
    }
    if let Some(constant) = schema.get("const") {
        return value == constant;
    }
    match value {
        Value::Object(entries) if schema["type"] == "object" => {
            let required = schema["required"].as_array().into_iter().flatten();
            let complete = required
                .into_iter()
                .all(|key| entries.contains_key(key.as_str().unwrap()));
            complete
                && entries
                    .iter()
                    .all(|(key, value)| match schema["properties"].get(key) {
                        Some(property) => fits(value, property),
                        None => {
                            schema["additionalProperties"].is_object()
                                && fits(value, &schema["additionalProperties"])
                        }
                    })
        }
        Value::Array(items) => {
            schema["type"] == "array" && items.iter().all(|item| fits(item, &schema["items"]))
        }
        Value::Object(_) => false,
        _ => schema["type"] != "object" && schema["type"] != "array",
    }
}

#[test]
fn a_name_that_was_made_up_is_printed_and_taken_back() {
    let routes = ["/mcp", "/mcp", "/a~b!$&'()+,;=:@"].map(|path| {
        format!("  - match: {{ path: \"{path}\", host: \"::1\", headers: {{ x: y }} }}\n    upstream: tools\n")
    });
    let upstream = "upstreams:\n  tools:\n    endpoints: [{ url: \"http://a.example\" }]\n";
    let config = good(&format!("routes:\n{}{upstream}", routes.concat()));
    let names: Vec<&str> = config
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(names, ["[::1]/mcp", "[::1]/mcp#2", "[::1]/a~b!$&'()+,;=:@"]);
    assert_eq!(good(&config.to_yaml()), config);
}

#[test]
fn a_name_does_not_give_away_a_path_that_came_from_the_environment() {
    let text = with_route("match: { path: \"/${TOOLS_TOKEN}\" }");
    let config = good(&text);
    assert!(!config.to_yaml().contains("s3cr3t"));
    assert_eq!(good(&config.to_yaml()), config);
}

#[test]
fn a_rate_limit_from_the_environment_is_printed_as_it_was_written() {
    let rate = |text: &str| {
        let (text, limit) = (with_route("match: { path: /mcp }"), text);
        let text = text.replace(
            "upstream: tools\n",
            &format!("upstream: tools\n    rate_limit: {limit}\n"),
        );
        let explained = good(&text).to_yaml();
        assert_eq!(good(&explained).to_yaml(), explained);
        explained
    };
    for text in [
        "{ rate: \"${RATE:-5/s}\", per: \"${PER:-client}\" }",
        "[{ rate: \"${RATE:-5/s}\", per: [\"${PER:-client}\"] }]",
    ] {
        let explained = rate(text);
        assert!(explained.contains("rate: \"${RATE:-5/s}\""), "{explained}");
        assert!(explained.contains("\"${PER:-client}\""), "{explained}");
    }
}
