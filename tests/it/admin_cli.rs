//! `ziggurat admin` against a running ziggurat.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{BIN, Start, Ziggurat, config, demo, process, until, within};

/// Runs `ziggurat admin` for this ziggurat, as its user.
async fn admin(z: &Ziggurat, words: &[&str]) -> Output {
    run(z, words, &[]).await
}

async fn run(z: &Ziggurat, words: &[&str], env: &[(&str, &str)]) -> Output {
    run_at(z, z.admin, words, env).await
}

async fn run_at(z: &Ziggurat, address: SocketAddr, words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BIN);
    command
        .args(["admin", "--admin", &address.to_string()])
        .args(words)
        .env_remove("ZIGGURAT_ADMIN_TOKEN")
        .env("XDG_RUNTIME_DIR", z.dir())
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output();
    within("ziggurat admin ends", output).await.unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What it says as JSON.
async fn json_of(z: &Ziggurat, words: &[&str]) -> Value {
    let output = admin(z, &[words, &["--json"]].concat()).await;
    assert!(output.status.success(), "{words:?}: {}", err(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn people_get_tables_and_programs_json() {
    let z = Ziggurat::yaml(&config("", "", "", &demo("isolation: shared"))).await;
    let session = z.target().session().await;
    until("it has left its token", async || {
        admin(&z, &["build"]).await.status.success()
    })
    .await;
    let upstreams = out(&admin(&z, &["upstreams"]).await);
    let [titles, line] = upstreams.lines().collect::<Vec<_>>()[..] else {
        panic!("{upstreams}");
    };
    assert!(
        titles.starts_with("UPSTREAM  KILLED  ENDPOINT"),
        "{upstreams}"
    );
    assert!(
        line.starts_with("tools     false   ziggurat"),
        "{upstreams}"
    );
    assert_eq!(json_of(&z, &["upstreams"]).await[0]["name"], "tools");
    assert!(out(&admin(&z, &["config"]).await).contains("routes:\n"));
    let sessions = out(&admin(&z, &["sessions"]).await);
    assert_eq!(sessions.lines().count(), 2, "{sessions}");
    for read in ["streams", "children", "overrides", "log", "openapi"] {
        let output = admin(&z, &[read]).await;
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{read}"
        );
    }

    let killed = admin(&z, &["kill-tool", "tools", "echo", "--reason", "it leaks"]).await;
    assert_eq!(out(&killed), "after   true\nbefore  false\n");
    let refused = session
        .call(1, "echo", json!({"text": "x"}))
        .await
        .last()
        .await;
    assert_eq!(refused["error"]["data"]["kind"], "switched_off");
    let overrides = out(&admin(&z, &["overrides"]).await);
    assert!(
        overrides.contains("killed_tool") && overrides.contains("it leaks"),
        "{overrides}"
    );
    assert!(
        admin(&z, &["revive-tool", "tools", "echo"])
            .await
            .status
            .success()
    );
    let answer = session
        .call(2, "echo", json!({"text": "x"}))
        .await
        .last()
        .await;
    assert!(answer["result"].is_object(), "{answer}");
    let pid = json_of(&z, &["children"]).await[0]["pid"].to_string();
    assert!(admin(&z, &["restart-child", &pid]).await.status.success());
}

#[tokio::test]
async fn what_went_wrong_is_told_and_has_an_exit_code_of_its_own() {
    let z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
    until("it has left its token", async || {
        admin(&z, &["build"]).await.status.success()
    })
    .await;
    let code = |output: &Output| output.status.code().unwrap();
    let refused = admin(&z, &["kill-upstream", "none"]).await;
    assert_eq!(
        (code(&refused), &*err(&refused)),
        (1, "ziggurat admin: there is no upstream `none`\n")
    );
    assert_eq!(code(&admin(&z, &["kill-upstream"]).await), 2);
    assert_eq!(code(&admin(&z, &["no-such-command"]).await), 2);
    let wrong = run(&z, &["build"], &[("ZIGGURAT_ADMIN_TOKEN", "wrong")]).await;
    assert_eq!(code(&wrong), 4, "{}", err(&wrong));
    assert!(err(&wrong).contains("needs its token"), "{}", err(&wrong));
    let none = run(&z, &["build"], &[("XDG_RUNTIME_DIR", "/nonexistent")]).await;
    assert_eq!(code(&none), 4);
    assert!(err(&none).contains("--token-file"), "{}", err(&none));
    let elsewhere = run_at(&z, z.listen, &["build"], &[]).await;
    assert_eq!(code(&elsewhere), 1);
    assert!(err(&elsewhere).contains("no route"), "{}", err(&elsewhere));
    assert!(out(&refused).is_empty() && out(&wrong).is_empty());
}

#[tokio::test]
async fn where_the_folder_of_the_user_is_missing_the_token_is_with_the_temporary_files() {
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("XDG_RUNTIME_DIR", "/nonexistent"),
        ("TMPDIR", folder.path().to_str().unwrap()),
    ];
    let start = Start::yaml(&config("", "", "", &demo("")));
    let start = env.iter().fold(start, |start, (k, v)| start.env(k, v));
    let z = start.up().await;
    until("it has left its token", async || {
        run(&z, &["build"], &env).await.status.success()
    })
    .await;
}

#[tokio::test]
async fn the_token_is_in_a_file_of_its_user_alone_until_the_end() {
    use std::os::unix::fs::MetadataExt;

    let mut z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
    let folder = z.dir().join("ziggurat");
    let file = folder.join(format!(
        "admin-{}.token",
        z.admin.to_string().replace(':', "_")
    ));
    until("it has left its token", async || file.exists()).await;
    let mode = |path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    until("it tells its token", async || z.log().contains("Bearer ")).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), z.admin_token());
    // It is told once, and never again.
    assert_eq!(z.log().matches(&z.admin_token()).count(), 1);
    assert!(admin(&z, &["drain"]).await.status.success());
    assert_eq!(z.ended().await.code(), Some(0));
    assert!(!file.exists());
}

#[tokio::test]
async fn tokens_of_the_config_have_names_and_are_asked_for() {
    let yaml = format!(
        "admin: {{ address: \"127.0.0.1:0\", tokens: {{ ann: \"${{ANN}}\", bob: \"${{BOB}}\" }}, hosts: [ops.example.com] }}\n{}",
        config("", "", "", &demo(""))
    );
    let (ann, bob) = ("the-token-of-ann-1", "the-token-of-bob-2");
    let z = Start::whole(&yaml)
        .env("ANN", ann)
        .env("BOB", bob)
        .file("token", &format!("{bob}\n"))
        .up()
        .await;
    z.logs(&["with a token of the config"]).await;
    let killed = run(
        &z,
        &["kill-upstream", "tools"],
        &[("ZIGGURAT_ADMIN_TOKEN", ann)],
    )
    .await;
    assert!(killed.status.success(), "{}", err(&killed));
    z.logs(&["audit", "kill-upstream", "by=\"ann\""]).await;
    let file = z.dir().join("token");
    let words = [
        "--token-file",
        file.to_str().unwrap(),
        "revive-upstream",
        "tools",
    ];
    assert!(admin(&z, &words).await.status.success());
    z.logs(&["audit", "revive-upstream", "by=\"bob\""]).await;
    assert_eq!(admin(&z, &["build"]).await.status.code(), Some(4));
    let bearer = format!("Bearer {ann}");
    for (host, expected) in [("ops.example.com", 200), ("example.com", 403)] {
        let headers = [("authorization", bearer.as_str()), ("host", host)];
        let answer = z
            .admin()
            .request("GET", "/admin/v1/build", &headers, "")
            .await;
        assert_eq!(answer.status, expected);
    }
    assert!(!z.log().contains(ann) && !z.log().contains(bob));
}

#[tokio::test]
async fn an_open_admin_api_asks_for_nothing_and_a_killed_one_is_not_there() {
    let yaml = format!(
        "admin: {{ address: \"127.0.0.1:0\", auth: off }}\n{}",
        config("", "", "", &demo(""))
    );
    let z = Start::whole(&yaml).up().await;
    z.logs(&["no token is asked for"]).await;
    let killed = admin(&z, &["kill-upstream", "tools"]).await;
    assert!(killed.status.success(), "{}", err(&killed));
    z.logs(&["audit", "kill-upstream", "by=\"anybody\""]).await;
    process::signal(z.pid(), "KILL");
    until("it is gone", async || {
        admin(&z, &["build"]).await.status.code() == Some(3)
    })
    .await;
}
