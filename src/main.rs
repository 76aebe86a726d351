//! The `ziggurat` command.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use ziggurat::{
    app,
    cli::{self, Command, Demo, Log, Run, offline},
    demo, serve,
    telemetry::{self, LogSettings, MetricsSettings},
};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let done = match Command::parse() {
        Command::Run(run) => return serve(run),
        Command::Demo(demo) => return be_demo(&demo),
        Command::Admin(admin) => administer(&admin, &mut out, &mut err),
        Command::Check { file } => offline::check(&file, &mut out),
        Command::Explain { source } => offline::explain(&source, &mut out, &mut err),
        Command::Schema => offline::schema(&mut out),
        Command::Import { file } => offline::import(&file, &mut out, &mut err),
        Command::Completions { shell } => offline::completions(shell, &mut out),
    };
    match done {
        Ok(code) => code.into(),
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// `ziggurat run`.
fn serve(run: Run) -> ExitCode {
    let log = match telemetry::start_log(&log_settings(&run.log)) {
        Ok(guard) => guard,
        Err(error) => return complain(&error),
    };
    let connections = serve::connection_bound(serve::raise_fd_limit());
    let done = runtime().and_then(|runtime| {
        let result = runtime.block_on(async {
            let metrics = telemetry::install(MetricsSettings {
                fast: vec!["ziggurat_overhead_seconds".to_owned()],
                log_drops: Some(log.drops()),
                build: Vec::new(),
            })
            .map_err(io::Error::other)?;
            app::run(run, metrics, log.control(), connections)
                .await
                .map_err(io::Error::other)
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    });
    drop(log);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// `ziggurat demo`.
fn be_demo(demo: &Demo) -> ExitCode {
    let log = match telemetry::start_log(&log_settings(&demo.log)) {
        Ok(guard) => guard,
        Err(error) => return complain(&error),
    };
    let done = runtime().and_then(|runtime| {
        let result = runtime.block_on(async {
            let Some(address) = demo.http else {
                return demo::stdio().await;
            };
            let listener = tokio::net::TcpListener::bind(address).await?;
            println!(r#"{{"listen":"{}"}}"#, listener.local_addr()?);
            eprintln!(
                "demo MCP server on http://{}{}",
                listener.local_addr()?,
                demo::PATH
            );
            demo::http(listener, async {
                let _stop = tokio::signal::ctrl_c().await;
            })
            .await
        });
        // A read of stdin that nobody can cancel must not keep the process.
        runtime.shutdown_background();
        result
    });
    drop(log);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// `ziggurat admin`.
fn administer(
    admin: &cli::admin::Admin,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(admin.ask(out, err))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

fn log_settings(log: &Log) -> LogSettings {
    LogSettings {
        filter: log.filter.clone(),
        format: match log.format {
            cli::LogFormat::Text => telemetry::LogFormat::Text,
            cli::LogFormat::Json => telemetry::LogFormat::Json,
        },
    }
}

/// One clear sentence, and exit code 1.
fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    let _unread = writeln!(io::stderr(), "ziggurat: {error}");
    ExitCode::FAILURE
}
