//! The command line from words to settings, and the commands that only print.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap_complete::Shell;

use super::*;

fn read(line: &str) -> Result<Command, clap::Error> {
    let words = std::iter::once("ziggurat").chain(line.split_whitespace());
    Command::read(words, false, Some("/bin/ziggurat".into()))
}

fn run(line: &str) -> Run {
    match read(line) {
        Ok(Command::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

fn refused(line: &str) -> ErrorKind {
    read(line).unwrap_err().kind()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_definition_is_sound() {
    Line::command().debug_assert();
}

#[test]
fn without_a_word_the_file_of_the_folder_runs_and_else_the_demo() {
    assert_eq!(run("").source, Source::Demo("/bin/ziggurat".into()));
    assert_eq!(run("run").source, Source::Demo("/bin/ziggurat".into()));
    let Ok(Command::Run(run)) = Command::read(["ziggurat"], true, None) else {
        panic!()
    };
    assert_eq!(run.source, Source::File("ziggurat.yaml".into()));
    assert_eq!(run.overrides, Overrides::default());
}

#[test]
fn options_work_with_and_without_the_word_run() {
    for verb in ["", "run "] {
        let run = run(&format!(
            "{verb}-c z.yaml --listen 127.0.0.1:0 --admin [::1]:0 --insecure-bind --log debug --log-format json"
        ));
        assert_eq!(run.source, Source::File("z.yaml".into()));
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let overrides = Overrides {
            listen: address("127.0.0.1:0"),
            admin: address("[::1]:0"),
            insecure_bind: true,
        };
        assert_eq!(run.overrides, overrides);
        assert_eq!(
            run.log,
            Log {
                filter: "debug".to_owned(),
                format: LogFormat::Json
            }
        );
    }
}

#[test]
fn a_url_or_a_command_can_be_run() {
    assert_eq!(
        run("run http://a.example/mcp").source,
        Source::Quick(Quick::Urls(words("http://a.example/mcp")))
    );
    let run = run("run --listen 127.0.0.1:0 -- npx -y thing --listen x -- y");
    assert_eq!(
        run.source,
        Source::Quick(Quick::Command(words("npx -y thing --listen x -- y")))
    );
    assert_eq!(run.overrides.listen, "127.0.0.1:0".parse().ok());
}

#[test]
fn several_urls_are_the_endpoints_of_one_upstream() {
    let (config, _) = run("run http://a.example http://b.example")
        .config()
        .expect("a config");
    let names: Vec<_> = config.upstreams[0]
        .endpoints
        .iter()
        .map(|e| &*e.name)
        .collect();
    assert_eq!(names, ["a.example", "b.example"]);
}

#[test]
fn only_one_thing_can_be_run() {
    assert_eq!(
        refused("run -c z.yaml http://a.example"),
        ErrorKind::ArgumentConflict
    );
    assert_eq!(
        refused("run http://a.example -- npx"),
        ErrorKind::ArgumentConflict
    );
    assert_eq!(refused("run -c z.yaml -- npx"), ErrorKind::ArgumentConflict);
}

#[test]
fn an_option_is_never_taken_in_silence_where_it_does_nothing() {
    assert!(read("--listen 127.0.0.1:0 check z.yaml").is_err());
    assert_eq!(
        refused("check --listen 127.0.0.1:0"),
        ErrorKind::UnknownArgument
    );
    assert_eq!(
        refused("demo --admin 127.0.0.1:0"),
        ErrorKind::UnknownArgument
    );
    assert_eq!(refused("serve"), ErrorKind::InvalidSubcommand);
    assert_eq!(refused("--listen nowhere"), ErrorKind::ValueValidation);
    assert_eq!(refused("--log ziggurat=loud"), ErrorKind::ValueValidation);
}

#[test]
fn the_other_commands_are_read() {
    assert_eq!(
        read("check").unwrap(),
        Command::Check {
            file: "ziggurat.yaml".into()
        }
    );
    assert_eq!(
        read("check z.yaml").unwrap(),
        Command::Check {
            file: "z.yaml".into()
        }
    );
    assert_eq!(
        read("explain z.yaml").unwrap(),
        Command::Explain {
            source: Source::File("z.yaml".into())
        }
    );
    assert_eq!(
        read("explain").unwrap(),
        Command::Explain {
            source: Source::Demo("/bin/ziggurat".into())
        }
    );
    assert_eq!(read("schema").unwrap(), Command::Schema);
    assert_eq!(
        read("import mcp.json").unwrap(),
        Command::Import {
            file: "mcp.json".into()
        }
    );
    assert_eq!(
        read("completions bash").unwrap(),
        Command::Completions { shell: Shell::Bash }
    );
    let log = Log {
        filter: "info".to_owned(),
        format: LogFormat::Text,
    };
    assert_eq!(
        read("demo").unwrap(),
        Command::Demo(Demo {
            http: None,
            log: log.clone()
        })
    );
    let http = "127.0.0.1:0".parse().ok();
    assert_eq!(
        read("demo --http 127.0.0.1:0").unwrap(),
        Command::Demo(Demo { http, log })
    );
}

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures", name]
        .iter()
        .collect()
}

fn written(action: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<u8>) -> (u8, String) {
    let mut out = Vec::new();
    let code = action(&mut out).unwrap();
    (code, String::from_utf8(out).unwrap())
}

#[test]
fn check_says_ok_or_every_mistake() {
    let (code, said) = written(|out| offline::check(&fixture("minimal.yaml"), out));
    assert_eq!(code, 0);
    assert!(
        said.ends_with("minimal.yaml: ok, 1 route, 1 upstream\n"),
        "{said}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "routes: []\nupstream: {}\n").unwrap();
    let (code, said) = written(|out| offline::check(file.path(), out));
    assert_eq!(code, 1);
    assert!(
        said.contains("did you mean `upstreams`?") && said.ends_with("mistakes\n"),
        "{said}"
    );
}

#[test]
fn explain_prints_yaml_that_can_be_explained_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let explain = |path: &Path| {
        let mut errors = Vec::new();
        let result =
            written(|out| offline::explain(&Source::File(path.to_owned()), out, &mut errors));
        assert_eq!(errors, b"");
        result
    };
    let (code, first) = explain(&fixture("minimal.yaml"));
    std::fs::write(file.path(), &first).unwrap();
    assert_eq!((code, explain(file.path())), (0, (0, first)));
}

#[test]
fn a_refusal_goes_to_the_error_output() {
    let mut errors = Vec::new();
    let (code, said) = written(|out| offline::import(Path::new("/nonexistent"), out, &mut errors));
    assert_eq!((code, said.as_str()), (1, ""));
    assert!(
        String::from_utf8(errors)
            .unwrap()
            .starts_with("/nonexistent: error:")
    );
}

#[test]
fn import_writes_a_config() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        r#"{ "mcpServers": { "a": { "url": "http://a.example/mcp" } } }"#,
    )
    .unwrap();
    let (code, said) = written(|out| offline::import(file.path(), out, &mut Vec::new()));
    assert_eq!(code, 0);
    assert!(Config::parse(&said, "imported").is_ok(), "{said}");
}

#[test]
fn the_schema_is_json_and_completions_are_made_for_every_shell() {
    let (_, schema) = written(offline::schema);
    assert!(
        serde_json::from_str::<serde_json::Value>(&schema)
            .unwrap()
            .is_object()
    );
    for shell in [
        Shell::Bash,
        Shell::Zsh,
        Shell::Fish,
        Shell::PowerShell,
        Shell::Elvish,
    ] {
        let (code, script) = written(|out| offline::completions(shell, out));
        assert!(code == 0 && script.contains("ziggurat"));
    }
}
