//! The running proxy: it stacks the tower, serves it, swaps it, and takes it down.

mod control;
mod door;
mod lasting;
mod reload;

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt};
use ziggurat_layers::{
    Body,
    drain::DrainSignals,
    exchange::{Client, Exchange, RouteInfo},
    metrics::{Tools, counter, gauge},
    session::Farewell,
};

use self::{door::Door, lasting::Lasting};
use crate::{
    admin::Admin,
    assemble::{Probing, assemble, probe},
    cli::Run,
    config::{Config, Listen, Source},
    discovery::{self, Discovery},
    erase::erase,
    kept::Kept,
    live::{Live, LiveHandle},
    serve::{self, Drain, Peer, ServeSettings, Tls, load_tls},
    settings::{self, SettingsError},
    stack::{Terrace, Tower},
    standing::Standing,
    telemetry::{LogControl, MetricsHandle},
    upstreams::Upstreams,
};

/// Why the proxy does not start, or does not take a new config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The config has mistakes.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigErrors),
    /// A layer does not take a setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The certificate of the listener.
    #[error(transparent)]
    Tls(#[from] serve::TlsError),
    /// An address that cannot be had.
    #[error("cannot listen on {address}: {problem}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why, and what to do.
        problem: String,
    },
    /// The addresses could not be printed, or no token made.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No random numbers for the keys of session ids.
    #[error(transparent)]
    SessionKey(#[from] ziggurat_layers::session::NoRandomness),
    /// No random numbers for the admin token.
    #[error(transparent)]
    Token(#[from] crate::admin::TokenError),
    /// Something that is to go on for ever did not.
    #[error("a part of the proxy failed: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

/// The running proxy.
#[derive(Debug)]
struct App {
    run: Run,
    tools: Tools,
    kept: Kept,
    drain: DrainSignals,
    live: LiveHandle<Tower>,
    discovery: Discovery,
    current: Mutex<Current>,
    retiring: TaskTracker,
    metrics: MetricsHandle,
    log: LogControl,
    started: Instant,
    /// What stays in force whatever is read later.
    lasting: Lasting,
    /// Of the listener for clients.
    tls: Option<Tls>,
    /// It is to stop, or does so already.
    stop: CancellationToken,
    /// Nobody waits for the end of the drain any more.
    hurry: CancellationToken,
}

#[derive(Debug)]
struct Current {
    /// As it was written.
    written: Config,
    /// With an endpoint for each address of a name.
    config: Config,
    upstreams: Upstreams,
    standing: Standing,
    probers: Vec<Probing>,
}

/// The names of the metrics that the program itself moves.
pub mod names {
    /// Reloads of the config, by result.
    pub const RELOADS: &str = "ziggurat_config_reloads_total";
    /// 0 from a reload that was refused to the next that is not.
    pub const RELOAD_OK: &str = "ziggurat_config_last_reload_ok";
    /// 1 while draining.
    pub const DRAINING: &str = "ziggurat_draining";
}

/// Tells the recorder what the program's own metrics are, and gives them their first value.
fn describe() {
    ziggurat_layers::metrics::names::describe();
    discovery::describe();
    metrics::describe_counter!(names::RELOADS, "Reloads of the config: ok or refused.");
    metrics::describe_gauge!(names::DRAINING, "1 while the proxy is shutting down.");
    metrics::describe_gauge!(
        names::RELOAD_OK,
        "Whether the newest config is in force: 0 if the newest reload was refused, else 1."
    );
    gauge(names::DRAINING, &[]).set(0.0);
    gauge(names::RELOAD_OK, &[]).set(1.0);
    // A counter that is first seen at 1 has not risen, as Prometheus sees it.
    for result in ["ok", "refused"] {
        counter(names::RELOADS, &[("result", result)]).absolute(0);
    }
}

/// Serves until it is told to stop, or a part of it fails; then drains.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    run: Run,
    metrics: MetricsHandle,
    log: LogControl,
    connections: usize,
) -> Result<(), AppError> {
    describe();
    let (written, warnings) = run.config()?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // First, so that a port that is taken is told at once.
    let data = bind(written.listen.address).await?;
    let admin = bind(written.admin.address).await?;
    let discovery = Discovery::new();
    discovery.begin(&written).await;
    let config = discovery.expand(&written);
    let tls = certificate(&config.listen)?.map(Tls::new);
    let tools = Tools::default();
    let drain = DrainSignals::default();
    let upstreams = Upstreams::new(&config, &Upstreams::default(), &tools)?;
    let kept = Kept::new()?;
    let standing = Standing::default();
    let tower = assemble(&config, &upstreams, &kept, &standing, &drain, &tools)?;
    let (live, handle) = Live::new(tower);
    let app = Arc::new(App {
        run,
        tools,
        kept,
        drain,
        live: handle,
        current: Mutex::new(Current {
            probers: probe(&config, &upstreams, &mut Vec::new()),
            written,
            config: config.clone(),
            upstreams,
            standing,
        }),
        discovery,
        retiring: TaskTracker::new(),
        metrics,
        log,
        started: Instant::now(),
        lasting: Lasting::of(&config),
        tls: tls.clone(),
        stop: CancellationToken::new(),
        hurry: CancellationToken::new(),
    });
    let addresses = (data.local_addr()?, admin.local_addr()?);
    app.current().upstreams.warm_up();
    let door = Door::new(&config.admin, addresses.1)?;
    let admin_service = Admin::new(door.settings.clone(), app.clone());
    let settings = app.lasting.settings(connections);
    let admin_settings = ServeSettings {
        name: "admin",
        max_connections: 256,
        ..ServeSettings::default()
    };
    let (data_drain, admin_drain) = (Drain::new(), Drain::new());
    let secure = tls.is_some();
    let mut tasks = JoinSet::new();
    let data_task = serve::run(data, tls, front(live), settings, data_drain.watch());
    let data_task = tokio::spawn(data_task);
    let admin_task = tokio::spawn(serve::run(
        admin,
        None,
        admin_service,
        admin_settings,
        admin_drain.watch(),
    ));
    tasks.spawn(signals(app.clone()));
    tasks.spawn(app.clone().discover());
    tasks.spawn(app.kept.sessions.clone().sweep());
    let lives_at = app.clone();
    let lives_at = move |farewell: &Farewell| lives_at.lives_at(farewell);
    tasks.spawn(app.kept.sessions.clone().say_farewell(lives_at));
    tasks.spawn(app.kept.replays.clone().sweep());
    announce(&app, addresses, secure, &door)?;

    // Until it is to stop, none of the tasks ends.
    let failed = tokio::select! {
        () = app.stop.cancelled() => None,
        ended = tasks.join_next() => ended.and_then(Result::err),
    };
    if let Some(error) = &failed {
        tracing::error!(%error, "a part of the proxy failed, so it stops");
    }
    app.shut_down(&data_drain, data_task).await;
    // While the port is still ours: another process that has it next leaves its own token there.
    drop(door);
    if admin_drain
        .finish(Duration::from_secs(1), admin_task)
        .await
        .is_err()
    {
        tracing::error!("the admin listener failed");
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// What the listener shows to clients that ask for TLS.
fn certificate(listen: &Listen) -> Result<Option<Arc<rustls::ServerConfig>>, serve::TlsError> {
    let files = listen.tls.as_ref();
    files
        .map(|files| load_tls(&files.certificate, &files.key))
        .transpose()
}

/// Stops on SIGTERM and SIGINT, in a hurry on the second of them; reloads on SIGHUP.
///
/// They are listened for from this call on, and not only when the task runs: once it is said that ziggurat serves, none may end it at once.
fn signals(app: Arc<App>) -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{SignalKind, signal};
    let mut heard = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ]
    .map(|kind| signal(kind).ok());
    async move {
        let [terminate, interrupt, hangup] = &mut heard;
        let mut told = false;
        loop {
            tokio::select! {
                () = next(terminate) => {}
                () = next(interrupt) => {}
                () = next(hangup), if !app.stop.is_cancelled() => {
                    app.reload();
                    continue;
                }
            }
            // An order of the admin API does not count: whoever gives it may stop the process as usual then.
            if told {
                app.hurry.cancel();
            }
            told = true;
            app.stop.cancel();
        }
    }
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The tower as the listener calls it: the peer's address goes into the exchange.
fn front(
    live: Live<Tower>,
) -> impl Service<
    Request<Incoming>,
    Response = http::Response<Body>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync {
    // The newest peer: each connection has a clone of this service, and so sees just one.
    let mut known: Option<(Peer, Client)> = None;
    erase(live).map_request(move |mut request: Request<Incoming>| {
        if let Some(peer) = request.extensions_mut().remove::<Peer>() {
            let (_, client) = match &mut known {
                Some(known) if known.0 == peer => known,
                known => known.insert((peer, Client::new(peer.addr.ip(), peer.tls))),
            };
            Exchange::of(&mut request).set_client(client.clone());
        }
        request.map(Body::new)
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|error| {
        use std::io::ErrorKind;
        let cure = match error.kind() {
            ErrorKind::AddrInUse => "another program has that port; choose one with --listen (or --admin), port 0 takes any free one",
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
            ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => return AppError::Bind { address, problem: error.to_string() },
        };
        AppError::Bind { address, problem: cure.to_owned() }
    })
}

/// Says where it listens: one line of JSON on stdout, and a few words for people on stderr.
fn announce(
    app: &App,
    (listen, admin): (SocketAddr, SocketAddr),
    secure: bool,
    door: &Door,
) -> Result<(), AppError> {
    let line = format!(r#"{{"listen":"{listen}","admin":"{admin}"}}"#);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    drop(stdout);
    let current = app.current();
    let scheme = if secure { "https" } else { "http" };
    let mut text = String::new();
    for route in &current.config.routes {
        text += &format!(
            "  {scheme}://{listen}{}  ->  {}\n",
            route.path, route.upstream
        );
    }
    let first = current
        .config
        .routes
        .first()
        .map_or("/", |route| route.path.as_str());
    let hint = if matches!(app.run.source, Source::Demo(_)) {
        "This is the built-in demo server behind the default tower. Put your own in its place:\n  ziggurat run -- npx -y @modelcontextprotocol/server-everything stdio\n  ziggurat run http://127.0.0.1:3001/mcp\n"
    } else {
        ""
    };
    let try_it = format!(
        "  curl -sN {scheme}://{listen}{first} -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \\\n    -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{{}},\"clientInfo\":{{\"name\":\"curl\",\"version\":\"1\"}}}}}}'"
    );
    drop(current);
    let door = door.banner(admin);
    let mut stderr = std::io::stderr().lock();
    writeln!(
        stderr,
        "ziggurat is up. {hint}Routes:\n{text}Try:\n{try_it}\nMetrics: http://{admin}/metrics   Health: http://{admin}/readyz\n{door}"
    )?;
    Ok(())
}

impl App {
    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint of a session that ended, if there still is one, and its route.
    fn lives_at(&self, farewell: &Farewell) -> Option<(Terrace, Arc<RouteInfo>)> {
        let current = self.current();
        let mut routes = current.config.routes.iter();
        let route = routes.find(|route| *route.name == *farewell.key.route)?;
        let pool = current.upstreams.get(&route.upstream)?;
        let member = pool.set.get(&farewell.home.endpoint)?;
        Some((member.service, settings::route_info(route)))
    }

    /// Drains: readiness goes first, streams are told to come back, calls finish or fail clearly, children end.
    async fn shut_down(&self, drain: &Drain, data: tokio::task::JoinHandle<serve::Served>) {
        // Readiness says so from here on.
        self.stop.cancel();
        gauge(names::DRAINING, &[]).set(1.0);
        let delay = self.lasting.drain_delay;
        let (limit, upstreams, probers) = {
            let mut current = self.current();
            let probers = std::mem::take(&mut current.probers);
            let limit = current.config.server.drain.limit;
            (limit, current.upstreams.clone(), probers)
        };
        tracing::info!(?delay, ?limit, "draining");
        let (mut waiting, mut watch) = (drain.watch(), drain.watch());
        let (signals, paused) = (self.drain.clone(), self.kept.paused.clone());
        let ends = async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = waiting.closing() => {}
            }
            signals.draining.cancel();
            // Nobody will decide about them any more.
            paused.close();
            watch.closing().await;
            signals.closing.cancel();
            std::future::pending::<()>().await;
        };
        let served = tokio::select! {
            served = drain.finish(delay.saturating_add(limit), data) => served,
            () = ends => return,
            () = self.hurried(drain) => return,
        };
        self.retiring.close();
        let mut closing = JoinSet::new();
        for prober in probers {
            closing.spawn(prober.close());
        }
        // Their sessions, and those of old clients, end while there is somebody to end them with.
        closing.spawn({
            let channels = self.kept.channels.clone();
            async move { channels.close().await }
        });
        while closing.join_next().await.is_some() {}
        for service in upstreams.all() {
            let service = service.clone();
            closing.spawn(async move { service.retire(Duration::ZERO).await });
        }
        closing.join_all().await;
        tokio::select! {
            () = self.retiring.wait() => {}
            () = self.hurry.cancelled() => {}
        }
        match served {
            Ok(served) => tracing::info!(finished = served.finished, cut = served.cut, "drained"),
            Err(error) => tracing::error!(%error, "the listener failed"),
        }
    }

    /// Ends what is open once nobody waits for it any more; never returns.
    async fn hurried(&self, drain: &Drain) {
        self.hurry.cancelled().await;
        tracing::warn!("told to stop again: what is still open ends now");
        drain.close();
        std::future::pending().await
    }
}
