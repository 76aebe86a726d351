//! The log and the metrics of a whole process, which is one of their own, since both are global.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::io::Read;
use std::process::{Command, Stdio};

use super::*;

/// Set in the process that logs.
const CHILD: &str = "ZIGGURAT_TEST_BLOCKED_STDERR";

#[test]
fn a_stderr_that_nobody_reads_does_not_stop_the_process() {
    if env::var_os(CHILD).is_some() {
        return child();
    }
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "telemetry::tests::a_stderr_that_nobody_reads_does_not_stop_the_process",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It ends although nothing was read from its stderr.
    assert!(child.wait().unwrap().success());
    let mut metrics = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut metrics)
        .unwrap();
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ziggurat_log_lines_dropped_total "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
    assert!(
        metrics.contains("ziggurat_connections{listener=\"data\"} 2"),
        "{metrics}"
    );
}

/// Logs more than a pipe and the buffer hold, and shows its metrics on stdout.
fn child() {
    let log = start_log(&LogSettings::default()).unwrap();
    assert!(matches!(
        start_log(&LogSettings::default()),
        Err(LogError::Twice)
    ));
    let padding = "x".repeat(1000);
    // A pipe takes 64 KiB, and the buffer 1 MiB.
    for _ in 0..4000 {
        tracing::info!(padding, "a line");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let settings = MetricsSettings {
        log_drops: Some(log.drops()),
        ..MetricsSettings::default()
    };
    let handle = install(settings).unwrap();
    assert!(matches!(
        install(MetricsSettings::default()),
        Err(InstallError::Twice)
    ));
    ::metrics::gauge!("ziggurat_connections", "listener" => "data").set(2.0);
    println!("{}", handle.render());
}
