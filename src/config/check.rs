//! From the sections of a file to the checked config: what one value alone cannot show to be wrong.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::interpolate::Environment;
use super::mistake::Mistakes;
use super::nearest::nearest;
use super::node::{Node, Place};
use super::raw::{RawAdmin, RawConfig, RawListen, RawServer, RawTimeouts, RawUpstream};
use super::read::{At, Dict, OrOff, Read, ShortOr, listed};
use super::value::{Clock, Count, HostName, Label};
use super::{
    Admin, Config, Drain, Listen, Origins, Overrides, Protocol, Route, SecretText, Server,
    Timeouts, TlsFiles, Upstream,
};

pub(super) use self::route::default_name;

mod endpoint;
mod rate;
mod resilience;
mod route;
mod rules;
mod tools;

/// What a file is checked against.
pub(super) struct Context<'a> {
    /// The folder that relative paths start from; without it they stay as they are.
    pub(super) folder: Option<&'a Path>,
    /// Where variables are looked up.
    pub(super) environment: Environment<'a>,
    /// The command was named on the command line: one that is not there is a mistake, and no mere warning.
    pub(super) named: bool,
    /// What the command line says instead.
    pub(super) overrides: &'a Overrides,
}

/// Reads the tree of a file, or of what stands in for one.
pub(super) fn check(node: &Node, context: &Context<'_>, mistakes: &mut Mistakes) -> Option<Config> {
    let raw = RawConfig::read(node, mistakes)?;
    let listen_place = raw.listen.place.clone();
    let listen = listen(raw.listen.value, context, mistakes);
    let admin = admin(raw.admin, context, mistakes);
    let insecure_bind = raw.insecure_bind.0 || context.overrides.insecure_bind;
    let server = server(raw.server, mistakes);
    check_addresses(
        listen.address,
        admin.address,
        insecure_bind,
        &server,
        &listen_place,
        mistakes,
    );

    if raw.routes.value.is_empty() && !mistakes.has_below(&raw.routes.place) {
        let message = "there is no route, so no request could be answered";
        mistakes.error(
            &raw.routes.place,
            message,
            "add one: `- match: { path: /mcp }` with an `upstream`",
        );
    }
    let complete = !mistakes.has_below(&raw.routes.place);
    let names: Vec<_> = raw
        .routes
        .value
        .iter()
        .map(|route| route.value.upstream.clone())
        .collect();
    let routes = route::check(raw.routes.value, &raw.upstreams, context, mistakes);
    check_names(&names, complete, &raw.upstreams, mistakes);
    let upstreams = raw.upstreams.entries.into_iter();
    let upstreams = upstreams
        .filter_map(|(name, raw)| upstream(name, raw, &routes, context, mistakes))
        .collect();
    Some(Config {
        listen,
        admin,
        insecure_bind,
        server,
        routes,
        upstreams,
        origins: origins(node, context.overrides),
    })
}

/// Where the values come from; what the command line says is not shown as the file has it.
fn origins(node: &Node, overrides: &Overrides) -> Origins {
    let mut origins = Origins::of(node);
    let given = [
        ("listen", overrides.listen.is_some()),
        ("admin", overrides.admin.is_some()),
        ("insecure_bind", overrides.insecure_bind),
    ];
    for (path, _) in given.into_iter().filter(|(_, given)| *given) {
        origins.give(path);
    }
    origins
}

impl Context<'_> {
    /// The path as it is opened.
    fn resolve(&self, path: PathBuf) -> PathBuf {
        match self.folder {
            Some(folder) => folder.join(path),
            None => path,
        }
    }

    /// The path of a file that must be readable.
    fn readable(&self, path: At<PathBuf>, mistakes: &mut Mistakes) -> PathBuf {
        let resolved = self.resolve(path.value);
        let problem = match File::open(&resolved).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_dir() => Some("it is a folder".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let message = format!("the file cannot be read: {problem}");
            mistakes.error(
                &path.place,
                message,
                "correct the path, or let ziggurat's user read the file",
            );
        }
        resolved
    }
}

impl<T> OrOff<T> {
    fn on(self) -> Option<T> {
        self.map(|value| value)
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Option<U> {
        match self {
            Self::On(value) => Some(change(value)),
            Self::Off => None,
        }
    }
}

fn listen(
    raw: ShortOr<SocketAddr, RawListen>,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Listen {
    let (address, tls) = match raw {
        ShortOr::Short(address) => (address, None),
        ShortOr::Long(raw) => (raw.address, raw.tls),
    };
    let tls = tls.map(|tls| TlsFiles {
        certificate: context.readable(tls.certificate, mistakes),
        key: context.readable(tls.key, mistakes),
    });
    Listen {
        address: context.overrides.listen.unwrap_or(address),
        tls,
    }
}

fn admin(
    raw: At<ShortOr<SocketAddr, RawAdmin>>,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Admin {
    let (address, auth, tokens, hosts) = match raw.value {
        ShortOr::Short(address) => (address, true, Vec::new(), Vec::new()),
        ShortOr::Long(raw) => {
            let tokens = raw.tokens.map(|tokens| tokens.entries).unwrap_or_default();
            (raw.address, raw.auth.0, tokens, raw.hosts)
        }
    };
    let address = context.overrides.admin.unwrap_or(address);
    if !auth && !address.ip().to_canonical().is_loopback() {
        mistakes.error(
            &raw.place,
            format!("{address} can be reached from other machines, and `auth` is off: anybody could stop your servers"),
            "set `tokens`, or listen on the loopback",
        );
    }
    if !auth && !tokens.is_empty() {
        let message = "`auth` is off, so the `tokens` would not be asked for";
        mistakes.error(&raw.place, message, "leave one of the two out");
    }
    Admin {
        address,
        auth,
        tokens: tokens
            .into_iter()
            .map(|(name, token)| (name.value.0, SecretText(token.0)))
            .collect(),
        hosts: hosts.into_iter().map(|host| host.0).collect(),
    }
}

fn server(raw: RawServer, mistakes: &mut Mistakes) -> Server {
    if let OrOff::On(hosts) = &raw.hosts.value
        && hosts.is_empty()
    {
        let message = "no name is let through, so every request would be refused";
        mistakes.error(&raw.hosts.place, message, "name the hosts that clients use");
    }
    let names = |names: Vec<HostName>| names.into_iter().map(|name| name.0).collect();
    Server {
        body_limit: raw.body_limit.map(|size| size.0),
        concurrency: raw.concurrency.map(|count| count.0),
        streams: raw.streams.map(|count| count.0),
        hosts: raw.hosts.value.map(names),
        origins: raw.origins.map(names),
        header_timeout: raw.header_timeout.0,
        heartbeat: raw.heartbeat.map(|clock| clock.0),
        write_stall: raw.write_stall.map(|clock| clock.0),
        access_log: raw.access_log.0,
        session_keys: raw
            .session_keys
            .into_iter()
            .map(|key| SecretText(key.value.0))
            .collect(),
        replay_memory: raw.replay_memory.0,
        drain: Drain {
            delay: raw.drain.delay.0,
            limit: raw.drain.limit.0,
        },
    }
}

/// Nobody is authenticated, so only this machine may connect unless the operator says otherwise.
fn check_addresses(
    listen: SocketAddr,
    admin: SocketAddr,
    insecure_bind: bool,
    server: &Server,
    place: &Place,
    mistakes: &mut Mistakes,
) {
    if listen == admin && listen.port() != 0 {
        mistakes.error(
            place,
            format!("`listen` and `admin` are both {listen}"),
            "give them different ports",
        );
    }
    if listen.ip().to_canonical().is_loopback() {
        return;
    }
    if !insecure_bind {
        let message = format!(
            "{listen} can be reached from other machines, and ziggurat authenticates nobody"
        );
        let cure = format!(
            "listen on 127.0.0.1:{}, or, where the network keeps strangers out, allow it with `insecure_bind: true` or --insecure-bind",
            listen.port()
        );
        return mistakes.error(place, message, cure);
    }
    let local = |name: &String| name == "localhost" || name == "127.0.0.1" || name == "[::1]";
    if server
        .hosts
        .as_ref()
        .is_some_and(|hosts| hosts.iter().all(local))
    {
        let message = "requests from other machines will be refused, since `server.hosts` has only the names of this one";
        mistakes.warning(
            place,
            message,
            "set `server.hosts` to the names that clients use",
        );
    }
}

/// Routes and upstreams must fit together; whether an upstream is unused shows only if all routes could be read.
fn check_names(
    named: &[At<Label>],
    complete: bool,
    upstreams: &Dict<Label, RawUpstream>,
    mistakes: &mut Mistakes,
) {
    for name in named {
        let known = &upstreams.keys;
        if known.contains(&name.value.0) {
            continue;
        }
        let cure = match nearest(&name.value.0, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`? the upstreams are {}", listed(known)),
            None if known.is_empty() => "add it under `upstreams`".to_owned(),
            None => format!("the upstreams are {}", listed(known)),
        };
        mistakes.error(&name.place, "there is no such upstream", cure);
    }
    for (name, _) in &upstreams.entries {
        if complete && !named.iter().any(|route| route.value == name.value) {
            let message = "no route leads to this upstream";
            mistakes.warning(&name.place, message, "add a route, or remove the upstream");
        }
    }
}

fn upstream(
    name: At<Label>,
    raw: RawUpstream,
    routes: &[Route],
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Option<Upstream> {
    let name = name.value.0;
    let mut leading = routes
        .iter()
        .filter(|route| route.upstream == name)
        .peekable();
    let plain = leading.peek().is_some() && leading.all(|route| route.protocol == Protocol::Http);
    let all = &raw.endpoints.value;
    let stdio = all.iter().any(endpoint::is_command);
    // What a name resolves to may be several.
    let several = all.len() > 1 || all.iter().any(endpoint::is_name);
    if plain && stdio {
        let message =
            "this upstream is a command, which speaks MCP, but its routes are `protocol: http`";
        mistakes.error(
            &raw.endpoints.place,
            message,
            "remove `protocol: http` from the routes",
        );
    }
    let kind = resilience::Kind {
        plain,
        stdio,
        several,
    };
    let timeouts = timeouts(raw.timeouts, plain);
    Some(Upstream {
        tools: tools::check(raw.tools, timeouts, plain, mistakes),
        health: resilience::health(raw.health, kind, mistakes),
        outlier: raw.outlier.map(resilience::outlier),
        resume: raw.resume.map(resilience::resume),
        timeouts,
        concurrency: raw.concurrency.map(|Count(count)| count),
        balance: resilience::balance(raw.balance, mistakes),
        circuit: raw.circuit.map(resilience::circuit),
        tool_circuit: raw.tool_circuit.map(resilience::circuit),
        trust_annotations: raw.trust_annotations.0,
        stateless: raw.stateless.0,
        endpoints: endpoint::check(raw.endpoints, context, mistakes)?,
        name,
    })
}

/// On MCP the deadline of the route rules; plain HTTP has only these clocks that look at silence.
fn timeouts(raw: RawTimeouts, plain: bool) -> Timeouts {
    let choose = |given: Option<OrOff<Clock>>, default: Duration| match given {
        Some(given) => given.map(|clock| clock.0),
        None => plain.then_some(default),
    };
    Timeouts {
        connect: raw.connect.0,
        head: choose(raw.head, Duration::from_secs(60)),
        idle: choose(raw.idle, Duration::from_secs(5 * 60)),
    }
}
