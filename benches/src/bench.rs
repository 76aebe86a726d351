//! `ziggurat-bench`: what a call through ziggurat costs, and what a failing server costs its callers, beside bare hyper, nginx and HAProxy.
//!
//! One program plays every part, so that all of ours run on the same runtime and allocator:
//!
//! | part | what it is |
//! | --- | --- |
//! | [`echo_http`], [`echo_stdio`] | the server behind the proxies; [`echo`] is what it answers |
//! | [`bare_proxy`], [`bare_bridge`] | proxies without any feature: what all ratios refer to |
//! | [`load`] | the closed-loop load generator |
//! | [`compare`] | starts each [`contender`], drives it with the load, and reports |
//! | [`replica`] | one of several servers, which fails when told to |
//! | [`ordeal`] | lets a replica fail behind each proxy, and reports what that cost the callers |
//! | [`cutter`] | a server whose event streams are cut at random |
//! | [`cuts`] | reports what the clients of that server notice |
//! | [`rates`] | measures what the arithmetic of a rate limit costs |
//! | [`scrape`] | measures what reading the metrics costs |
//! | [`overload`] | asks for more than the server can do, and reports what was done and how the rest was refused |
//!
//! [`client`] is the caller of the last two. [`rpc`] holds the messages that client and server exchange, [`serve`] the listener, and [`usage`] reads
//! what a process has used.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use http::Uri;
use tokio::signal::unix::{SignalKind, signal};

mod bare_bridge;
mod bare_proxy;
mod client;
mod compare;
mod contender;
mod cuts;
mod cutter;
mod echo;
mod echo_http;
mod echo_stdio;
mod load;
mod ordeal;
mod overload;
mod rates;
mod replica;
mod rpc;
mod scrape;
mod serve;
mod usage;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(
    version,
    about = "Compare ziggurat with other proxies, on one machine and in one run"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every proxy under the same load, in turn, and print a table
    Compare(compare::Options),
    /// Let one of three replicas fail under load, behind each proxy, and print what that cost
    Ordeal(ordeal::Options),
    /// Ask ziggurat for more than the server can do, and print what came of it
    Overload(overload::Options),
    /// Cut the event streams of the server behind ziggurat at random, and print what its clients noticed
    Cuts(cuts::Options),
    /// Measure what the arithmetic of a rate limit costs, at 1, 10,000 and 100,000 keys
    Rates(rates::Options),
    /// Measure what reading ziggurat's metrics costs, with few series and with many
    Scrape(scrape::Options),
    /// Put load on one URL and print what came of it
    Load(load::Options),
    /// An MCP server over HTTP that answers at once
    EchoHttp(Listen),
    /// The same server, taking its time, writing down what it executes, and failing when told to
    Replica(replica::Options),
    /// A server of 2025-11-25 with an event store, whose streams are cut at random
    Cutter(cutter::Options),
    /// The same server over stdio
    EchoStdio,
    /// A reverse proxy without features
    BareProxy {
        #[command(flatten)]
        listen: Listen,
        /// Where requests go, such as http://127.0.0.1:3001
        upstream: Uri,
    },
    /// A bridge from HTTP to one stdio child, without features
    BareBridge {
        #[command(flatten)]
        listen: Listen,
        /// The stdio server and its arguments, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Listen {
    /// Where to listen; port 0 takes a free one, and the first line on stdout says which
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ziggurat-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Compare(options) => compare::run(options).await,
            Command::Ordeal(options) => ordeal::run(options).await,
            Command::Overload(options) => overload::run(options).await,
            Command::Cuts(options) => cuts::run(options).await,
            // Busy on threads of its own.
            Command::Rates(options) => rates::run(&options),
            Command::Scrape(options) => scrape::run(options).await,
            Command::Replica(options) => replica::run(options).await,
            Command::Cutter(options) => cutter::run(options).await,
            Command::Load(options) => load::run(options).await,
            Command::EchoHttp(at) => echo_http::run(at.listen).await,
            // Blocks this thread, which has nothing else to do.
            Command::EchoStdio => Ok(echo_stdio::run()?),
            Command::BareProxy { listen, upstream } => {
                bare_proxy::run(listen.listen, upstream).await
            }
            Command::BareBridge { listen, command } => {
                bare_bridge::run(listen.listen, command).await
            }
        }
    })
}

/// Drops the work, and with it kills whatever it has running, when this program is to stop.
async fn unless_stopped<T>(work: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
        _ = hang_up.recv() => Err("the terminal is gone".into()),
    }
}
