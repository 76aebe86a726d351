//! What a file says becomes settings.

use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};

use http::{HeaderName, StatusCode};
use ziggurat_layers::balance::HashKey;
use ziggurat_layers::circuit::Window;
use ziggurat_layers::health::HealthSettings;
use ziggurat_layers::http_sse::Serve;
use ziggurat_layers::rate_limit::Allowance;
use ziggurat_layers::session::Heal;
use ziggurat_layers::share::Share;

use super::*;

#[test]
fn what_is_left_out_gets_a_default() {
    let config = good(FIXTURES[3].1);
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9901");
    assert!(!config.insecure_bind);
    assert_eq!(config.server.body_limit, Some(4 * 1024 * 1024));
    assert_eq!(
        config.server.concurrency.map(|count| count.get()),
        Some(4096)
    );
    assert_eq!(config.server.streams.map(|count| count.get()), Some(10_000));
    let local: Vec<_> = ["localhost", "127.0.0.1", "[::1]"]
        .map(str::to_owned)
        .into();
    assert_eq!(config.server.hosts, Some(local.clone()));
    assert_eq!(config.server.origins, Some(local));
    assert_eq!(config.server.header_timeout, Duration::from_secs(10));
    assert_eq!(config.server.heartbeat, Some(Duration::from_secs(15)));
    assert_eq!(config.server.write_stall, Some(Duration::from_secs(60)));
    assert!(config.server.access_log);
    assert_eq!(
        config.server.drain,
        Drain {
            delay: Duration::ZERO,
            limit: Duration::from_secs(30)
        }
    );
    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), route.path.as_str()), ("/mcp", "/mcp"));
    assert_eq!(
        (route.protocol, route.errors),
        (Protocol::Mcp, Errors::Envelope)
    );
    let (limit, cap) = (Duration::from_secs(300), Duration::from_secs(3600));
    assert_eq!(route.deadline, Some(Deadline { limit, cap }));
    assert_eq!(route.http_sse, Serve::Auto);
    assert!(route.forward.is_empty());
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.concurrency.map(|count| count.get()), Some(1024));
    // What the file's schema shows as defaults is what the layers have for their own.
    let session = SessionSettings {
        // As long as nobody is told apart.
        max_per_principal: SessionSettings::default().max,
        ..SessionSettings::default()
    };
    assert_eq!(route.session, Some(session));
    assert!(config.server.session_keys.is_empty());
    assert!(!config.upstreams[0].stateless);
    assert_eq!(route.concurrency, None);
    assert!(route.rate_limit.is_empty());
    assert_eq!(route.retry, Some(RetrySettings::default()));
    assert_eq!(upstream.balance, BalanceSettings::default());
    assert_eq!(upstream.circuit, Some(CircuitSettings::default()));
    assert_eq!(upstream.tool_circuit, None);
    assert_eq!(upstream.outlier, Some(OutlierSettings::default()));
    assert_eq!(upstream.resume, Some(ResumeSettings::default()));
    // One endpoint is not probed, several are.
    assert_eq!(upstream.health, None);
    let several = with_endpoint("url: http://a.example")
        .replace("      - ", "      - url: http://b.example\n      - ");
    let health = good(&several).upstreams[0].health.clone().expect("on");
    let layers = HealthSettings::default();
    assert_eq!(health.probe, ProbeKind::Mcp);
    assert_eq!(
        (health.interval, health.jitter, health.timeout),
        (layers.interval, layers.jitter, layers.timeout)
    );
    assert_eq!(
        (health.fall, health.rise, health.wake),
        (layers.fall, layers.rise, layers.wake)
    );
    assert!(!upstream.trust_annotations);
    let replica = &upstream.endpoints[0];
    assert_eq!(replica.name, "127.0.0.1:3001");
    assert_eq!((replica.weight, replica.priority), (1, 0));
    assert_eq!(
        upstream.timeouts,
        Timeouts {
            connect: Duration::from_secs(2),
            head: None,
            idle: None
        }
    );
    assert_eq!(http(&config).url, "http://127.0.0.1:3001/mcp");
    assert_eq!(http(&config).pool_idle, Duration::from_secs(4));
    assert_eq!(http(&config).keepalive, Duration::from_secs(30));
}

#[test]
fn a_command_gets_its_defaults() {
    let config = good(FIXTURES[5].1);
    let endpoint = stdio(&config, 0);
    assert_eq!(
        endpoint.command,
        [
            "npx",
            "-y",
            "@modelcontextprotocol/server-everything",
            "stdio"
        ]
    );
    assert_eq!(endpoint.isolation, Isolation::PerSession);
    assert_eq!((endpoint.max.get(), endpoint.sessions.get()), (32, 10_000));
    assert_eq!(endpoint.idle, Duration::from_secs(600));
    assert_eq!((endpoint.lifetime, endpoint.recycle), (None, None));
    assert_eq!((endpoint.warm, endpoint.starting.get()), (None, 2));
    assert!(!endpoint.snapshot);
    assert_eq!(endpoint.handshake, Duration::from_secs(60));
    assert_eq!(endpoint.line_limit, 16 * 1024 * 1024);
    assert_eq!(endpoint.silence, Duration::from_secs(15));
    assert_eq!(
        endpoint.stop,
        Stop {
            stdin: Duration::from_secs(2),
            term: Duration::from_secs(3)
        }
    );
}

#[test]
fn every_setting_reaches_the_config() {
    let config = good(FIXTURES[1].1);
    let plain = good(FIXTURES[3].1);
    assert_ne!(config.listen, plain.listen);
    assert_ne!(config.admin, plain.admin);
    assert!(config.insecure_bind);
    assert_eq!(config.server.body_limit, Some(1024 * 1024));
    assert_eq!(
        config.server.hosts,
        Some(
            ["localhost", "mcp.example.com", "[::1]"]
                .map(str::to_owned)
                .into()
        )
    );
    assert!(!config.server.access_log);
    assert_eq!(
        config.server.drain,
        Drain {
            delay: Duration::from_secs(1),
            limit: Duration::from_secs(90)
        }
    );
    let route = &config.routes[0];
    assert_eq!(route.name, "tools");
    assert_eq!(route.host.as_deref(), Some("mcp.example.com"));
    assert_eq!(route.headers[1].1, "Bearer s3cr3t-tenant");
    assert_eq!(
        route.forward,
        [http::header::AUTHORIZATION, http::header::COOKIE]
    );
    let (limit, cap) = (Duration::from_secs(90), Duration::from_secs(1800));
    assert_eq!(route.http_sse, Serve::Always);
    assert_eq!(route.deadline, Some(Deadline { limit, cap }));
    assert_eq!(route.errors, Errors::Status);
    assert_eq!(
        config.upstreams[0].timeouts.idle,
        Some(Duration::from_secs(90))
    );
    assert_eq!(http(&config).headers[0].1, "Bearer s3cr3t-tools");
    assert!(http(&config).headers[0].1.is_sensitive());
    let files = stdio(&config, 1);
    assert_eq!(files.command[3..], ["/srv", "--token=s3cr3t-files"]);
    assert_eq!(files.isolation, Isolation::Shared);
    assert_eq!(files.lifetime, Some(Duration::from_secs(24 * 3600)));
    let ready = (files.recycle, files.warm, Some(files.starting));
    assert_eq!(
        ready,
        (
            NonZeroUsize::new(500),
            NonZeroUsize::new(3),
            NonZeroUsize::new(1)
        )
    );
    assert_eq!(
        files.stop,
        Stop {
            stdin: Duration::ZERO,
            term: Duration::from_secs(10)
        }
    );
    let Endpoint::Http(plain) = &config.upstreams[2].endpoints[0].endpoint else {
        panic!()
    };
    assert!(plain.http2);
}

#[test]
fn the_settings_of_resilience_reach_the_config() {
    let config = good(FIXTURES[1].1);
    assert_eq!(config.routes[0].concurrency.map(NonZeroUsize::get), Some(7));
    let session = config.routes[0].session.as_ref().expect("on");
    assert_eq!(session.idle, Duration::from_secs(300));
    assert_eq!(session.lifetime, Some(Duration::from_secs(3600)));
    assert_eq!((session.max.get(), session.heal), (5, Heal::Always));
    assert_eq!(
        session.lost,
        [400, 404].map(|s| StatusCode::from_u16(s).unwrap())
    );
    assert_eq!(config.server.session_keys.len(), 2);
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert!(config.upstreams[0].stateless);
    let retry = config.routes[0].retry.as_ref().expect("on");
    assert_eq!((retry.attempts.get(), retry.body_cap), (2, 1024));
    assert_eq!((retry.budget.share, retry.budget.floor), (0.1, 0.5));
    assert_eq!(retry.backoff.base, Duration::from_millis(10));
    assert_eq!(retry.safe_tools, ["get_*".into()]);
    assert_eq!(
        retry.statuses,
        [429, 503].map(|s| StatusCode::from_u16(s).unwrap())
    );
    let upstream = &config.upstreams[0];
    assert!(upstream.trust_annotations);
    let key = HashKey::Header(HeaderName::from_static("x-user"));
    assert_eq!(upstream.balance.policy, Policy::Hash(key));
    assert_eq!(upstream.balance.queue, 10);
    let circuit = upstream.circuit.as_ref().expect("on");
    assert_eq!(circuit.window, Window::Calls(NonZeroU16::new(100).unwrap()));
    assert_eq!(circuit.failure_rate, Some(Share::percent(25)));
    assert_eq!(circuit.slow.expect("on").call, Duration::from_secs(2));
    assert!(
        upstream
            .tool_circuit
            .as_ref()
            .expect("on")
            .judge
            .tool_errors
    );
    let health = upstream.health.as_ref().expect("on");
    assert_eq!((health.probe, health.wake), (ProbeKind::Http, true));
    assert_eq!(
        (health.http.path.as_str(), health.http.expect.clone()),
        ("/healthz", 200..=204)
    );
    assert_eq!(health.http.contains.as_deref(), Some("ready"));
    let resume = upstream.resume.as_ref().expect("on");
    assert_eq!(
        (resume.tries.get(), resume.limit, resume.standing),
        (4, Duration::from_secs(20), Duration::from_secs(120))
    );
    assert_eq!(
        (resume.backoff.base, resume.backoff.max),
        (Duration::from_millis(100), Duration::from_secs(5))
    );
    assert_eq!(config.server.heartbeat, Some(Duration::from_secs(20)));
    assert_eq!(config.server.write_stall, Some(Duration::from_secs(45)));
    let outlier = upstream.outlier.as_ref().expect("on");
    assert_eq!(
        (outlier.base, outlier.max_ejected),
        (Duration::from_secs(10), Share::percent(34))
    );
    let replicas = upstream.endpoints.iter();
    let replicas: Vec<_> = replicas.map(|r| (&*r.name, r.weight, r.priority)).collect();
    assert_eq!(
        replicas,
        [
            ("tools.example.com", 1, 0),
            ("tools.example.com/other", 3, 1),
            ("tools.example.com#2", 1, 0)
        ]
    );
}

#[test]
fn a_layer_that_is_off_is_none() {
    let config = good(FIXTURES[4].1);
    let server = &config.server;
    assert_eq!(
        (server.body_limit, server.concurrency, server.streams),
        (None, None, None)
    );
    assert_eq!(
        (&server.hosts, &server.origins, server.access_log),
        (&None, &None, false)
    );
    assert_eq!((server.heartbeat, server.write_stall), (None, None));
    assert_eq!(config.routes[0].deadline, None);
    assert_eq!(config.routes[0].http_sse, Serve::Off);
    assert_eq!(config.upstreams[0].concurrency, None);
    assert_eq!(config.upstreams[0].resume, None);
}

#[test]
fn a_deadline_that_is_longer_than_the_default_cap_is_its_own_cap() {
    let config = good(&with_route("match: { path: /mcp }\ndeadline: 2h"));
    let two_hours = Duration::from_secs(7200);
    assert_eq!(
        config.routes[0].deadline,
        Some(Deadline {
            limit: two_hours,
            cap: two_hours
        })
    );
    let config = good(&with_route(
        "match: { path: /mcp }\ndeadline: { limit: 2h }",
    ));
    assert_eq!(
        config.routes[0].deadline,
        Some(Deadline {
            limit: two_hours,
            cap: two_hours
        })
    );
}

#[test]
fn an_upstream_of_plain_http_routes_gets_clocks_of_its_own() {
    let config = good(&with_route("match: { path: /api }\nprotocol: http"));
    let timeouts = config.upstreams[0].timeouts;
    assert_eq!(timeouts.head, Some(Duration::from_secs(60)));
    assert_eq!(timeouts.idle, Some(Duration::from_secs(300)));
}

#[test]
fn aliases_and_merge_keys_are_followed() {
    let config = good(FIXTURES[0].1);
    assert_eq!(config.routes[1].path, "/two");
    assert_eq!(
        config.routes[1].deadline.map(|deadline| deadline.limit),
        Some(Duration::from_secs(30))
    );
    assert_eq!(config.upstreams[1].timeouts.connect, Duration::from_secs(1));
    assert_eq!(
        config.upstreams[1].timeouts.head,
        Some(Duration::from_secs(3))
    );
}

#[test]
fn json_is_taken_too() {
    let config = good(FIXTURES[2].1);
    assert_eq!(config.routes[0].deadline, None);
    assert_eq!(stdio(&config, 0).max.get(), 2);
}

#[test]
fn a_value_is_the_text_that_stands_in_the_file() {
    let config = good(&with_endpoint(
        "command: [run, 010, true, 1.50, \"\"]\nenv: { A: 0x1F, B: 1_000, C: yes, D: \"\", E: é }",
    ));
    let endpoint = stdio(&config, 0);
    assert_eq!(endpoint.command, ["run", "010", "true", "1.50", ""]);
    let values: Vec<&str> = endpoint
        .env
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, ["0x1F", "1_000", "yes", "", "é"]);
}

#[test]
fn variables_are_replaced_in_values_and_dollar_signs_are_left_alone() {
    let env = |value: &str| {
        let config = good(&with_endpoint(&format!(
            "command: [run]\nenv: {{ A: \"{value}\" }}"
        )));
        stdio(&config, 0).env[0].1.clone()
    };
    assert_eq!(env("${FILES_TOKEN}"), "s3cr3t-files");
    assert_eq!(
        env("a${FILES_TOKEN}b${TOOLS_TOKEN}"),
        "as3cr3t-filesbs3cr3t-tools"
    );
    assert_eq!(env("${MISSING:-fallback}"), "fallback");
    assert_eq!(env("${EMPTY:-fallback}"), "fallback");
    assert_eq!(env("${EMPTY}"), "");
    assert_eq!(env("${MISSING:-}"), "");
    assert_eq!(env("pa$$word $HOME"), "pa$$word $HOME");
    assert_eq!(env("$${LITERAL}"), "${LITERAL}");
}

#[test]
fn a_variable_may_be_any_kind_of_value() {
    let config = good(&with_top(
        "listen: \"127.0.0.1:${PORT:-9000}\"\nserver: { concurrency: \"${N:-7}\", body_limit: \"${L:-off}\" }",
    ));
    assert_eq!(config.listen.address.port(), 9000);
    assert_eq!(config.server.concurrency.map(|count| count.get()), Some(7));
    assert_eq!(config.server.body_limit, None);
}

#[test]
fn names_and_paths_are_brought_to_one_form() {
    let config = good(&with_top("server: { hosts: [MCP.Example.com, \"::1\"] }"));
    assert_eq!(
        config.server.hosts,
        Some(["mcp.example.com", "[::1]"].map(str::to_owned).into())
    );
    let config = good(&with_route("match: { path: /mcp/, host: A.example }"));
    assert_eq!(config.routes[0].path, "/mcp");
    assert_eq!(config.routes[0].name, "a.example/mcp");
}

#[test]
fn the_command_line_comes_before_the_file() {
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        admin: Some("127.0.0.1:1".parse().unwrap()),
        insecure_bind: false,
    };
    // The address of the file is refused, but it is not the one that is used.
    let (config, _) = read_with(&with_top("listen: 0.0.0.0:80"), &overrides).unwrap();
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:1");
}

#[test]
fn other_machines_may_connect_only_if_the_operator_says_so() {
    let open: SocketAddr = "0.0.0.0:80".parse().unwrap();
    let overrides = |insecure_bind| Overrides {
        listen: Some(open),
        admin: None,
        insecure_bind,
    };
    let refused = read_with(&with_top(""), &overrides(false))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("0.0.0.0:80 can be reached from other machines"),
        "{refused}"
    );
    let (config, _) = read_with(&with_top(""), &overrides(true)).unwrap();
    assert!(config.insecure_bind);
    let config = good(&with_top(
        "listen: 0.0.0.0:80\ninsecure_bind: true\nadmin: 0.0.0.0:9901",
    ));
    assert_eq!(config.listen.address, open);
    good(&with_top("admin: 0.0.0.0:9901"));
    good(&with_top("admin: { auth: off }"));
    good(&with_top("listen: \"[::ffff:127.0.0.1]:80\""));
}

#[test]
fn a_file_is_found_from_the_folder_of_the_config() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::write(folder.path().join(name), "pem").unwrap();
    }
    let file = folder.path().join("z.yaml");
    let tls = "listen: { address: 127.0.0.1:8443, tls: { certificate: cert.pem, key: key.pem } }";
    let mut text = with_top(tls);
    text.push_str("        tls: { ca: cert.pem, certificate: cert.pem, key: key.pem }\n");
    std::fs::write(&file, text.replace("http://", "https://")).unwrap();
    let (config, warnings) = Config::load(&file).unwrap();
    assert_eq!(warnings, []);
    let expected = TlsFiles {
        certificate: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
    };
    assert_eq!(config.listen.tls, Some(expected));
    assert_eq!(http(&config).tls.ca, Some(folder.path().join("cert.pem")));
    // What is printed names the same files from anywhere.
    let (again, _) = Config::parse(&config.to_yaml(), "again").unwrap();
    assert_eq!(again, config);
}

#[test]
fn the_demo_is_this_program_behind_the_default_tower() {
    let config = Config::demo(Path::new("/bin/sh")).unwrap();
    assert_eq!(config.routes[0].path, "/mcp");
    assert_eq!(stdio(&config, 0).command, ["/bin/sh", "demo"]);
    assert_eq!(good(&config.to_yaml()), config);
}

#[test]
fn a_url_or_a_command_needs_no_file() {
    let (config, _) =
        Config::quick(Quick::Urls(vec!["http://127.0.0.1:3001/mcp".to_owned()])).unwrap();
    assert_eq!(config.routes[0].path, "/mcp");
    assert_eq!(http(&config).url.path(), "/mcp");
    let command: Vec<String> = ["sh", "-c", "echo ${HOME}"].map(str::to_owned).into();
    let (config, _) = Config::quick(Quick::Command(command.clone())).unwrap();
    assert_eq!(
        stdio(&config, 0).command,
        command,
        "a shell has looked at it already"
    );
    assert_eq!(good(&config.to_yaml()), config);
}

#[test]
fn settings_in_a_log_show_no_secret() {
    let shown = format!("{:?}", good(FIXTURES[1].1));
    assert!(!shown.contains("s3cr3t-t"), "{shown}");
    let endpoint = with_endpoint("command: [run, --token, abc]\nenv: { X: abc }");
    assert!(!format!("{:?}", stdio(&good(&endpoint), 0)).contains("abc"));
}

#[test]
fn marks_and_line_ends_of_other_systems_are_no_trouble() {
    let text = with_top("server: { concurrency: 12 } # é").replace('\n', "\r\n");
    let config = good(&format!("\u{feff}{text}"));
    assert_eq!(config.server.concurrency.map(|count| count.get()), Some(12));
}

#[test]
fn rate_limits_are_one_or_many_and_a_tier_says_what_it_changes() {
    let limits = |text: &str| {
        let text = with_route(&format!("match: {{ path: /mcp }}\nrate_limit: {text}"));
        good(&text).routes[0].rate_limit.clone()
    };
    let one = limits("{ rate: 50/s }");
    // What the file's schema shows as defaults is what the layer has for its own.
    let expected = RateLimitSettings {
        allowance: Allowance {
            rate: "50/s".parse().ok(),
            burst: NonZeroU32::new(50),
            streams: None,
        },
        ..RateLimitSettings::default()
    };
    assert_eq!(one, std::slice::from_ref(&expected));
    assert_eq!(limits("[{ rate: 50/s }]"), [expected]);
    let many = limits(
        "\n  - { per: [tool, session], rate: 5/m, streams: 2, tiers: [{ match: { tools: [a*] }, burst: 9 }, { match: { clients: [10.0.0.1] }, rate: off, streams: off }] }\n  - { per: client, rate: 5/h }\n  - { per: client, rate: 9/h }",
    );
    let names: Vec<_> = many.iter().map(|limit| limit.name.as_str()).collect();
    assert_eq!(names, ["tool+session", "client", "client#3"]);
    assert_eq!(many[0].per, [KeyPart::Tool, KeyPart::Session]);
    let tiers: Vec<_> = many[0].tiers.iter().map(|tier| tier.allowance).collect();
    let first = Allowance {
        burst: NonZeroU32::new(9),
        ..many[0].allowance
    };
    assert_eq!(tiers, [first, Allowance::default()]);
    assert_eq!(tiers[0].streams.map(|streams| streams.get()), Some(2));
}

#[test]
fn what_an_entry_of_a_tool_leaves_out_is_as_for_the_others() {
    let config = good(FIXTURES[1].1);
    let rules = &config.upstreams[0].tools;
    let names: Vec<&str> = rules.iter().map(|rule| rule.tool.as_ref()).collect();
    assert_eq!(names, ["report_*", "export", "get_*"]);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let deadline = |limit, cap| {
        let (limit, cap) = (minutes(limit), minutes(cap));
        Some(Some(Deadline { limit, cap }))
    };
    assert_eq!(rules[0].deadline, deadline(30, 180));
    assert_eq!(rules[1].deadline, deadline(120, 120), "the cap follows");
    assert_eq!(rules[2].deadline, None);
    let clocks = |head, idle| Some(TimeoutSettings { head, idle });
    assert_eq!(rules[0].timeouts, clocks(None, Some(minutes(20))));
    assert_eq!(rules[1].timeouts, None);
    let idle = Some(Duration::from_secs(90));
    assert_eq!(
        rules[2].timeouts,
        clocks(Some(Duration::from_secs(1)), idle)
    );
    assert_eq!(rules[0].concurrency, Some(NonZeroUsize::new(4)));
    assert_eq!(rules[2].concurrency, None);
    let circuit = rules[0].circuit.clone().flatten().unwrap();
    assert_eq!(circuit.consecutive, NonZeroU32::new(2));
    assert!(!circuit.judge.tool_errors, "in place of `tool_circuit`");
    assert_eq!((&rules[1].circuit, &rules[2].circuit), (&None, &Some(None)));
    let off = &good(FIXTURES[4].1).upstreams[0].tools[0];
    assert_eq!((off.deadline, off.concurrency), (Some(None), Some(None)));
}
