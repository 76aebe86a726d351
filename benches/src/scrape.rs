//! What it costs ziggurat to be asked for `/metrics`, with few series and with many.
//!
//! Series come with routes: each has an upstream of its own, and gets one call, so that all its metrics are there.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::BoxError;
use crate::contender::{Programs, Proxy, free_port};
use crate::load::{Caller, Era, Target, open};
use crate::usage;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The ziggurat program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    ziggurat: Option<PathBuf>,
    /// The most routes, each with an upstream of its own
    #[arg(long, default_value_t = 50)]
    routes: u32,
    /// How often the metrics are read with each number of routes
    #[arg(long, default_value_t = 100)]
    scrapes: u32,
}

/// What one reading takes.
struct Cost {
    series: usize,
    bytes: usize,
    /// The median.
    time: Duration,
    cpu: Duration,
}

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    println!("| routes | series | KiB | ms | ms of CPU |\n| --- | --- | --- | --- | --- |");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    for routes in BTreeSet::from([1, options.routes]) {
        let Cost {
            series,
            bytes,
            time,
            cpu,
        } = crate::unless_stopped(measure(&options, routes)).await?;
        let (kib, time, cpu) = (bytes / 1024, ms(time), ms(cpu));
        println!("| {routes} | {series} | {kib} | {time:.2} | {cpu:.2} |");
    }
    Ok(())
}

async fn measure(options: &Options, routes: u32) -> Result<Cost, BoxError> {
    let programs = Programs::find(options.ziggurat.clone())?;
    let server = programs.echo_http().await?;
    let admin = free_port()?;
    let words = [("ADMIN", admin.to_string())];
    let file = config(routes, server.address)?;
    let proxy = programs.configured(Proxy::Ziggurat, &file, &words).await?;
    for route in 0..routes {
        let target = Target {
            address: proxy.address,
            path: path(route).parse::<Uri>()?,
            pid: None,
        };
        let mut caller = Caller::connect(target, Era::Modern, route).await?;
        caller.echo_small().await?;
    }
    let cost = scrape(options.scrapes, admin, proxy.pid()).await?;
    proxy.stop().await;
    server.stop().await;
    Ok(cost)
}

async fn scrape(times: u32, admin: SocketAddr, pid: Option<u32>) -> Result<Cost, BoxError> {
    let pids: Vec<u32> = pid.into_iter().collect();
    let mut connection = open(admin).await?;
    let text = read(&mut connection, admin).await?;
    let samples = text.split(|byte| *byte == b'\n');
    let series = samples.filter(|line| line.first().is_some_and(|first| *first != b'#'));
    let series = series.count();
    let before = usage::cpu(&pids);
    let mut all = Vec::new();
    for _ in 0..times {
        let begin = Instant::now();
        read(&mut connection, admin).await?;
        all.push(begin.elapsed());
    }
    all.sort_unstable();
    Ok(Cost {
        series,
        bytes: text.len(),
        time: all.get(all.len() / 2).copied().unwrap_or_default(),
        cpu: (usage::cpu(&pids) - before) / times.max(1),
    })
}

async fn read(
    connection: &mut SendRequest<Full<Bytes>>,
    admin: SocketAddr,
) -> Result<Bytes, BoxError> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static("/metrics");
    let host = HeaderValue::try_from(admin.to_string())?;
    request.headers_mut().insert(header::HOST, host);
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body().collect().await?.to_bytes()),
        status => Err(format!("/metrics answers {status}").into()),
    }
}

/// The words `LISTEN` and `ADMIN` are filled in later.
fn config(routes: u32, server: SocketAddr) -> Result<String, BoxError> {
    let mut text = "listen: LISTEN\nadmin: ADMIN\nroutes:\n".to_owned();
    for route in 0..routes {
        let path = path(route);
        writeln!(
            text,
            "  - {{ match: {{ path: {path} }}, upstream: u{route} }}"
        )?;
    }
    text.push_str("upstreams:\n");
    for route in 0..routes {
        writeln!(
            text,
            "  u{route}: {{ endpoints: [{{ url: \"http://{server}/mcp\" }}] }}"
        )?;
    }
    Ok(text)
}

fn path(route: u32) -> String {
    format!("/{route}/mcp")
}
