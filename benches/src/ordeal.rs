//! What a failing replica costs the callers: three replicas, one proxy over them, and one of them fails under load.
//!
//! | fault | what happens to the replica | how it is healed |
//! | --- | --- | --- |
//! | killed | `SIGKILL` | started again on the same address |
//! | frozen | `SIGSTOP`: it takes connections, and says nothing | `SIGCONT` |
//! | 503 | it answers 503 to everything | told to stop that |
//! | cut | it executes, and cuts the connection in the middle of the answer | told to stop that |
//!
//! A trial is one fault behind one proxy, with processes of its own: [`trial`] runs it, [`findings`] says what came of it, [`table`] prints it. What was
//! executed is read from the replicas' [`journal`], never from what a proxy or a client says.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::BoxError;
use crate::contender::{Programs, Proxy, Transport};

mod fault;
mod findings;
pub(crate) mod journal;
mod table;
mod trial;

use fault::Fault;
use findings::Findings;
pub(crate) use table::listed;
use trial::Phases;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The ziggurat program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    ziggurat: Option<PathBuf>,
    /// Connections, each with one call at a time
    #[arg(long, default_value_t = 24)]
    callers: u32,
    /// A first look, in a good minute: short phases
    #[arg(long)]
    quick: bool,
    /// Which proxies take part
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Proxy::Nginx, Proxy::Haproxy, Proxy::Ziggurat])]
    proxies: Vec<Proxy>,
    /// What befalls the replica
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Fault::value_variants().to_vec())]
    faults: Vec<Fault>,
}

/// What came of each trial, fault by fault.
pub(crate) struct Report {
    callers: u32,
    phases: Phases,
    trials: Vec<(Fault, Proxy, Findings)>,
}

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let report = crate::unless_stopped(all_trials(&options)).await?;
    println!("{report}");
    let ours = report
        .trials
        .iter()
        .filter(|(_, proxy, _)| *proxy == Proxy::Ziggurat);
    match ours.map(|(_, _, findings)| findings.breaches()).sum() {
        0_usize => Ok(()),
        breaches => Err(format!(
            "ziggurat said what is not true, or executed twice, in {breaches} calls; the tables say where"
        )
        .into()),
    }
}

async fn all_trials(options: &Options) -> Result<Report, BoxError> {
    let programs = Programs::find(options.ziggurat.clone())?;
    let mut report = Report {
        callers: options.callers,
        phases: match options.quick {
            true => Phases::of(0.5, 2.5, 2.5),
            false => Phases::of(2.0, 6.0, 5.0),
        },
        trials: Vec::new(),
    };
    let mut proxies = options.proxies.clone();
    proxies.retain(|proxy| {
        let why = match settings(*proxy) {
            Some(_) => programs.missing(*proxy),
            None => Some("it cannot choose between replicas"),
        };
        if let Some(why) = why {
            eprintln!("{} is left out: {why}", proxy.label(Transport::Http));
        }
        why.is_none()
    });
    for fault in &options.faults {
        for proxy in &proxies {
            eprintln!("{fault}, behind {}", proxy.label(Transport::Http));
            let trial = trial::run(&programs, *proxy, *fault, options.callers, report.phases);
            report.trials.push((*fault, *proxy, trial.await?));
        }
    }
    Ok(report)
}

/// The configuration of a proxy, and what stands in it that matters here.
fn settings(proxy: Proxy) -> Option<(&'static str, &'static str)> {
    match proxy {
        Proxy::Direct | Proxy::Bare => None,
        Proxy::Nginx => Some((
            include_str!("ordeal/nginx.conf"),
            "`max_fails` 1 and `fail_timeout` 10 s, its defaults; `proxy_next_upstream` error timeout, its default, \
             which never repeats a POST that was sent; `proxy_read_timeout` 1 s; connections kept",
        )),
        Proxy::Haproxy => Some((
            include_str!("ordeal/haproxy.cfg"),
            "`balance roundrobin`; `option redispatch`, `retries 3`, which repeat only a connection that was not made; \
             `timeout connect` and `timeout server` 1 s; `option httpchk GET /health` with `check inter 1s`, and its defaults fall 3, rise 2",
        )),
        Proxy::Ziggurat => Some((
            include_str!("ordeal/ziggurat.yaml"),
            "`timeouts: { connect: 1s, head: 1s }`; `circuit: { consecutive: 5, open: 1s, open_max: 4s }`; \
             `balance: { policy: p2c, slow_start: 1s }`; all else at its default: 3 attempts, retries up to 20 % of the calls, \
             an MCP probe of each replica every 5 s",
        )),
    }
}

impl Phases {
    fn of(before: f64, fault: f64, after: f64) -> Self {
        Self {
            before: Duration::from_secs_f64(before),
            fault: Duration::from_secs_f64(fault),
            after: Duration::from_secs_f64(after),
        }
    }
}
