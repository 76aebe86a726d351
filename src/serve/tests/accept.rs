//! A listener whose process has no file descriptors left, in a process of its own.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tower::service_fn;

use super::*;

/// Set in the process that runs out of descriptors.
const CHILD: &str = "ZIGGURAT_TEST_WITHOUT_DESCRIPTORS";

#[test]
fn running_out_of_descriptors_is_survived() {
    if env::var_os(CHILD).is_some() {
        return child();
    }
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "serve::tests::accept::running_out_of_descriptors_is_survived",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let port = lines
        .find_map(|line| Some(line.split_once("port=")?.1.parse::<u16>().unwrap()))
        .unwrap();

    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert!(lines.any(|line| line.contains("cannot accept connections")));

    let mut orders = child.stdin.take().unwrap();
    writeln!(orders, "give them back").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
    drop(orders);
    assert!(child.wait().unwrap().success());
}

/// Serves with all descriptors taken, until a line comes on stdin; ends with stdin.
fn child() {
    let log = tracing_subscriber::fmt()
        .with_writer(stdout)
        .with_ansi(false)
        .finish();
    tracing::subscriber::set_global_default(log).unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let running = Running::start(
            service_fn(async |_| Ok(whole("ok"))),
            ServeSettings::default(),
        )
        .await;
        let maximum = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit {
            current: Some(64),
            maximum,
        };
        setrlimit(Resource::Nofile, low).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(!taken.is_empty());
        println!("port={}", running.addr.port());

        let line = || {
            let mut line = String::new();
            stdin().read_line(&mut line).unwrap();
        };
        tokio::task::spawn_blocking(line).await.unwrap();
        drop(taken);
        tokio::task::spawn_blocking(line).await.unwrap();
        running.drain.start();
        assert_eq!(running.task.await.unwrap(), Served::default());
        let errors = metrics.render();
        let errors = errors
            .lines()
            .find_map(|line| line.strip_prefix("ziggurat_accept_errors_total{listener=\"data\"} "));
        assert!(errors.unwrap().parse::<u64>().unwrap() > 0);
    });
}
