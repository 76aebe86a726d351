//! What a newcomer does wrong: one clear sentence, a cure, and an exit code that a script can read.

use std::process::Output;

use crate::harness::{BIN, Start, Ziggurat, stdio};

/// Starts it with what is wrong; gives the exit code and what it says.
async fn says(start: Start) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = start.ends().await;
    let said = String::from_utf8(stderr).unwrap();
    assert!(stdout.is_empty(), "stdout is for the addresses: {stdout:?}");
    assert!(!said.contains("panicked"), "{said}");
    (status.code().unwrap(), said)
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let start = Start::args(&["run", flag, &address, other, "127.0.0.1:0"]);
        let (code, said) = says(start.arg("http://127.0.0.1:9/mcp")).await;
        assert_eq!(code, 1);
        assert!(said.contains(&address), "{said}");
        assert!(
            said.contains("--listen") && said.contains("port 0"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_command_that_is_not_there() {
    let ports = [
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--",
    ];
    let start = Start::args(&ports).arg("no-such-program-here").arg("stdio");
    let (code, said) = says(start).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no-such-program-here"), "{said}");
    assert!(
        said.contains("not found") || said.contains("PATH"),
        "{said}"
    );
}

#[tokio::test]
async fn a_url_without_a_scheme() {
    for url in [
        "127.0.0.1:3001/mcp",
        "localhost:3001/mcp",
        "example.com/mcp",
    ] {
        let (code, said) = says(Start::args(&["run", url])).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("http://{url}")), "{said}");
    }
}

#[tokio::test]
async fn a_typo_in_the_file() {
    let yaml = stdio("").replace("match:", "mach:");
    for command in [&["run", "-c", "z.yaml"][..], &["check", "z.yaml"]] {
        let start = Start::args(command).file("z.yaml", &yaml);
        let (code, said) = match command[0] {
            "check" => {
                let output = start.ends().await;
                let all = [output.stdout, output.stderr].concat();
                (
                    output.status.code().unwrap(),
                    String::from_utf8(all).unwrap(),
                )
            }
            _ => says(start).await,
        };
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("z.yaml:2:"), "{said}");
        assert!(said.contains("did you mean `match`?"), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_yaml() {
    let start = Start::args(&["run", "-c", "z.yaml"]).file("z.yaml", "routes: [\n- {");
    let (code, said) = says(start).await;
    assert_eq!(code, 1);
    assert!(said.contains("z.yaml:"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_not_there() {
    let (code, said) = says(Start::args(&["run", "-c", "nowhere.yaml"])).await;
    assert_eq!(code, 1);
    assert!(said.contains("nowhere.yaml"), "{said}");
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error() {
    for wrong in [
        &["--lisen", "127.0.0.1:0"][..],
        &["rum"],
        &["run", "--listen", "nowhere"],
    ] {
        let (code, said) = says(Start::args(wrong)).await;
        assert_eq!(code, 2, "{wrong:?}: {said}");
        assert!(said.contains("--help"), "{said}");
    }
}

#[tokio::test]
async fn an_open_door_needs_a_word() {
    let open = [
        "run",
        "--listen",
        "0.0.0.0:0",
        "--admin",
        "127.0.0.1:0",
        "http://127.0.0.1:9/mcp",
    ];
    let (code, said) = says(Start::args(&open)).await;
    assert_eq!(code, 1);
    assert!(said.contains("insecure"), "{said}");
    Start::args(&open).arg("--insecure-bind").up().await;
}

#[tokio::test]
async fn a_variable_that_is_not_set() {
    let yaml = stdio("env: { TOKEN: \"${NOT_SET_ANYWHERE}\" }");
    let start = Start::args(&["run", "-c", "z.yaml"]).file("z.yaml", &yaml);
    let (code, said) = says(start).await;
    assert_eq!(code, 1);
    assert!(
        said.contains("NOT_SET_ANYWHERE") && said.contains("z.yaml:"),
        "{said}"
    );
}

#[tokio::test]
async fn what_explain_prints_can_be_run() {
    let printed = Start::args(&["explain", "z.yaml"])
        .file("z.yaml", &stdio("isolation: shared"))
        .ends()
        .await;
    assert!(printed.status.success());
    let yaml = String::from_utf8(printed.stdout).unwrap();
    assert!(yaml.contains(BIN));
    let start = Start::args(&[
        "run",
        "-c",
        "z.yaml",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let z: Ziggurat = start.file("z.yaml", &yaml).up().await;
    z.target().session().await;
}
