//! Endpoints: a URL that can be called, or a command that can be started.

use std::env::split_paths;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::Context;
use crate::config::endpoint::RawEndpoint;
use crate::config::mistake::Mistakes;
use crate::config::node::Place;
use crate::config::raw::{RawClientTls, RawHttp, RawStdio};
use crate::config::read::{At, OrOff};
use crate::config::secret::MASK;
use crate::config::value::{Clock, Count, HeaderText, Word};
use crate::config::{ClientTls, Endpoint, HttpEndpoint, Isolation, Replica, StdioEndpoint, Stop};

pub(super) fn is_command(raw: &RawEndpoint) -> bool {
    matches!(raw, RawEndpoint::Stdio(_))
}

/// It stands for each address of its name.
pub(super) fn is_name(raw: &RawEndpoint) -> bool {
    match raw {
        RawEndpoint::Http(raw) => matches!(raw.each_address, OrOff::On(_)),
        RawEndpoint::Stdio(_) => false,
    }
}

pub(super) fn check(
    raw: At<Vec<RawEndpoint>>,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Option<Vec<Replica>> {
    let At {
        value: endpoints,
        place,
    } = raw;
    if endpoints.is_empty() {
        if !mistakes.has_below(&place) {
            let cure =
                "write `- url: http://127.0.0.1:3001/mcp` or `- command: [npx, -y, PACKAGE]`";
            mistakes.error(&place, "there is no endpoint that could be used", cure);
        }
        return None;
    }
    let mut replicas: Vec<Replica> = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let (weight, priority, endpoint) = match endpoint {
            RawEndpoint::Http(raw) => (
                weight(&raw.weight, mistakes),
                raw.priority.0,
                Endpoint::Http(http(raw, &place, context, mistakes)),
            ),
            RawEndpoint::Stdio(raw) => (
                weight(&raw.weight, mistakes),
                raw.priority.0,
                Endpoint::Stdio(stdio(raw, &place, context, mistakes)),
            ),
        };
        let name = name(&endpoint, &replicas);
        replicas.push(Replica {
            name,
            weight,
            priority,
            endpoint,
        });
    }
    Some(replicas)
}

fn weight(raw: &At<Count>, mistakes: &mut Mistakes) -> u32 {
    match u32::try_from(raw.value.0.get()) {
        Ok(weight) if weight <= 1000 => weight,
        _ => {
            let message = "weights go from 1 to 1000";
            mistakes.error(&raw.place, message, "only their ratio matters");
            1
        }
    }
}

/// The address, with the path unless that is a usual one, or the program without its own path; a number follows where another replica has that.
/// It depends on no neighbour but those of the same URL, since sessions are sealed with it.
fn name(endpoint: &Endpoint, others: &[Replica]) -> String {
    let is_free = |name: &String| !name.is_empty() && others.iter().all(|o| o.name != *name);
    let short = match endpoint {
        Endpoint::Http(http) => http.url.authority().map(|authority| {
            let path = match http.url.path() {
                "/" | "/mcp" => "",
                path => path,
            };
            format!("{authority}{path}")
        }),
        Endpoint::Stdio(stdio) => stdio.command.first().and_then(|program| {
            let name = Path::new(program).file_name()?;
            Some(name.to_string_lossy().into_owned())
        }),
    };
    let short = short.unwrap_or_default();
    std::iter::once(short.clone())
        .chain((2..).map(|number| format!("{short}#{number}")))
        .find(is_free)
        .unwrap_or_default()
}

fn http(
    raw: RawHttp,
    place: &Place,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> HttpEndpoint {
    let url = raw.url.0;
    let secure = url.scheme_str() == Some("https");
    if let Some(tls) = &raw.tls
        && !secure
    {
        mistakes.error(
            &tls.place,
            "`tls` is set, but the URL is plain `http`",
            "begin the URL with `https://`, or remove `tls`",
        );
    }
    if raw.http2.value.0 && secure {
        let message = "over `https`, HTTP/2 is used whenever the server offers it";
        mistakes.error(
            &raw.http2.place,
            message,
            "remove `http2`, which is for plain `http` URLs",
        );
    }
    let headers = raw
        .headers
        .map(|headers| headers.into_pairs(|HeaderText(value)| value))
        .unwrap_or_default();
    let headers: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| (name.0, value))
        .collect();
    warn_of_masks(
        headers.iter().filter_map(|(_, value)| value.to_str().ok()),
        place,
        mistakes,
    );
    warn_of_masks([url.query().unwrap_or_default()], place, mistakes);
    HttpEndpoint {
        each_address: each_address(&url, raw.each_address, mistakes),
        address: None,
        url,
        transport: raw.transport,
        headers,
        http2: raw.http2.value.0,
        tls: raw
            .tls
            .map(|tls| client_tls(tls, context, mistakes))
            .unwrap_or_default(),
        pool_idle: raw.pool_idle.0,
        keepalive: raw.keepalive.0,
    }
}

fn each_address(
    url: &http::Uri,
    raw: OrOff<At<Clock>>,
    mistakes: &mut Mistakes,
) -> Option<Duration> {
    const LEAST: Duration = Duration::from_secs(1);
    let At {
        value: Clock(every),
        place,
    } = raw.on()?;
    if every < LEAST {
        let message = "a name is looked up once a second at most";
        mistakes.error(
            &place,
            message,
            "write `10s`, or another time of a second or more",
        );
    }
    let host = url.host().unwrap_or_default();
    // An IPv6 address stands in brackets.
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        let message = "the URL has an address, and not a name that could be looked up";
        mistakes.error(
            &place,
            message,
            "remove `each_address`, or write the name into the URL",
        );
    }
    Some(every)
}

fn client_tls(raw: At<RawClientTls>, context: &Context<'_>, mistakes: &mut Mistakes) -> ClientTls {
    let At { value: raw, place } = raw;
    if raw.certificate.is_some() != raw.key.is_some() {
        let message = "`certificate` and `key` belong together, and one of them is missing";
        mistakes.error(&place, message, "give both, or neither");
    }
    let mut readable = |path: Option<_>| path.map(|path| context.readable(path, mistakes));
    ClientTls {
        ca: readable(raw.ca),
        certificate: readable(raw.certificate),
        key: readable(raw.key),
    }
}

fn stdio(
    raw: RawStdio,
    place: &Place,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> StdioEndpoint {
    check_sharing(&raw, mistakes);
    let At {
        value: command,
        place: command_place,
    } = raw.command;
    let command: Vec<String> = command.into_iter().map(|Word(word)| word).collect();
    check_program(&command, &command_place, context, mistakes);
    let env = raw
        .env
        .map(|env| env.into_pairs(|Word(value)| value))
        .unwrap_or_default();
    let env: Vec<_> = env
        .into_iter()
        .map(|(name, value)| (name.0, value))
        .collect();
    warn_of_masks(
        env.iter()
            .map(|(_, value)| value.as_str())
            .chain(command.iter().map(String::as_str)),
        place,
        mistakes,
    );
    StdioEndpoint {
        command,
        env,
        cwd: raw.cwd.map(|cwd| {
            let folder = context.resolve(cwd.value);
            if !folder.is_dir() {
                mistakes.error(
                    &cwd.place,
                    "there is no such folder",
                    "correct the path, or make the folder",
                );
            }
            folder
        }),
        isolation: raw.isolation.value,
        idle: raw.idle.0,
        lifetime: raw.lifetime.map(|clock| clock.0),
        recycle: raw.recycle.map(|calls| calls.0),
        max: raw.max.0,
        warm: raw.warm.value.map(|count| count.0),
        starting: raw.starting.0,
        sessions: raw.sessions.0,
        handshake: raw.handshake.0,
        snapshot: raw.snapshot.value.0,
        line_limit: raw.line_limit.0,
        silence: raw.silence.0,
        stop: Stop {
            stdin: raw.stop.stdin.0,
            term: raw.stop.term.0,
        },
    }
}

/// What is set of the pool and cannot be, or does nothing.
fn check_sharing(raw: &RawStdio, mistakes: &mut Mistakes) {
    let warm = raw.warm.value.clone().map(|count| count.0);
    if warm.is_some_and(|warm| warm > raw.max.0) {
        let message = "more processes are to be ready than `max` lets run";
        mistakes.error(&raw.warm.place, message, "lower `warm`, or raise `max`");
    }
    if raw.snapshot.value.0 && raw.isolation.value == Isolation::Shared {
        let message = "with `isolation: shared` nobody waits for a process of their own, so `snapshot` does nothing";
        mistakes.warning(&raw.snapshot.place, message, "remove `snapshot`");
    }
    if raw.isolation.value == Isolation::PerPrincipal {
        let message =
            "this version of ziggurat authenticates nobody, so each session gets a process";
        let cure = "write `per_session`, which says so";
        mistakes.warning(&raw.isolation.place, message, cure);
    }
}

/// A program that cannot be found is a warning: it may be installed before it is needed.
fn check_program(
    command: &[String],
    place: &Place,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        mistakes.error(
            place,
            "the command is empty",
            "write the program and its arguments: `[npx, -y, PACKAGE]`",
        );
        return;
    };
    if program.contains(char::is_whitespace) && command.len() == 1 && !Path::new(program).exists() {
        let message = "the name of the program has spaces in it; no shell splits it into words";
        mistakes.warning(
            place,
            message,
            "write each word as an item of the list: `[npx, -y, PACKAGE]`",
        );
        return;
    }
    // A path is found from the folder that the command runs in, and without PATH there is nothing to search.
    let Some(path) = (context.environment)("PATH").filter(|_| !program.contains('/')) else {
        return;
    };
    if !split_paths(&path).any(|folder| folder.join(program).is_file()) {
        let message = format!("the program `{program}` is not installed: no folder of PATH has it");
        let cure = "install it, or write its full path";
        if context.named {
            mistakes.error(place, message, cure);
        } else {
            mistakes.warning(place, message, cure);
        }
    }
}

/// `explain` prints a mask in place of a secret that the file spells out.
fn warn_of_masks<'a>(
    values: impl IntoIterator<Item = &'a str>,
    place: &Place,
    mistakes: &mut Mistakes,
) {
    if values.into_iter().any(|value| value.contains(MASK)) {
        let message = format!("there is a `{MASK}`, which `explain` prints in place of a secret");
        mistakes.warning(
            place,
            message,
            "write `${NAME}`, and put the secret into that environment variable",
        );
    }
}
