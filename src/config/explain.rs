//! The way back: a checked config as YAML that means the same, every default filled in.
//!
//! What refers to the environment is printed as it stands in the file, so the value is never seen and the text still runs. A secret that the file spells
//! out, also as the default of a variable, is printed as `***`: of that one alone the text does not mean the same, and `check` warns of it.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ziggurat_layers::replay::ReplaySettings;
use ziggurat_layers::session::SessionSettings;

use super::check::default_name;
use super::interpolate::escape;
use super::node::join;
use super::secret::{
    MASK, is_secret, mask_arguments, mask_template, mask_url, mask_url_template, opens_secret,
};
use super::value::Worded;
use super::yaml::Tree;
use super::{
    Admin, Config, Deadline, Endpoint, HttpEndpoint, Listen, Origins, Route, Server, StdioEndpoint,
    TlsFiles, ToolRule, Upstream,
};

impl Config {
    /// The config as YAML that `run` accepts, with every default filled in and without a secret in it.
    pub fn to_yaml(&self) -> String {
        let mut top = Section::new("", &self.origins);
        listen(&mut top, &self.listen);
        admin(&mut top, &self.admin);
        top.bare("insecure_bind", self.insecure_bind);
        top.section("server", |section| server(section, &self.server));
        let routes = self.routes.iter().enumerate().map(|(index, route)| {
            let mut section = Section::new(&format!("routes[{index}]"), &self.origins);
            self::route(&mut section, route);
            section.finish()
        });
        top.put("routes", Tree::List(routes.collect()));
        top.section("upstreams", |section| {
            for upstream in &self.upstreams {
                section.section(&upstream.name, |section| self::upstream(section, upstream));
            }
        });
        top.finish().document()
    }
}

mod rate;
mod resilience;
mod rules;

/// A map that is being filled, and its key path.
struct Section<'a> {
    path: String,
    origins: &'a Origins,
    entries: Vec<(String, Tree)>,
}

impl<'a> Section<'a> {
    fn new(path: &str, origins: &'a Origins) -> Self {
        Self {
            path: path.to_owned(),
            origins,
            entries: Vec::new(),
        }
    }

    fn finish(self) -> Tree {
        Tree::map(self.entries)
    }

    /// Adds a key; what came from the environment is written as it was.
    fn put(&mut self, key: &str, value: Tree) {
        self.put_named(key, "", value);
    }

    /// The same for a value with a name that tells whether it is a secret.
    fn put_named(&mut self, key: &str, name: &str, value: Tree) {
        let path = join(&self.path, key);
        let value = self.template(&path, name).unwrap_or(value);
        self.entries.push((key.to_owned(), value));
    }

    /// What stands in the file at this path, if it refers to the environment, without the secrets in it.
    fn template(&self, path: &str, name: &str) -> Option<Tree> {
        let template = self.origins.at(path)?;
        Some(Tree::text(mask_template(name, template)))
    }

    fn section(&mut self, key: &str, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::new(&join(&self.path, key), self.origins);
        fill(&mut inner);
        self.put(key, inner.finish());
    }

    fn bare(&mut self, key: &str, value: impl Display) {
        self.put(key, Tree::bare(value));
    }

    fn word(&mut self, key: &str, value: impl Worded) {
        self.bare(key, value.word());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.put(key, Tree::text(escape(value)));
    }

    fn bare_or_off(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.bare(key, value),
            None => self.bare(key, "off"),
        }
    }

    fn clock(&mut self, key: &str, value: Duration) {
        self.bare(key, duration(value));
    }

    fn path(&mut self, key: &str, value: &Path) {
        self.text(key, &value.to_string_lossy());
    }

    fn list<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        let values = values
            .iter()
            .map(|value| Tree::text(escape(value.as_ref())));
        self.items(key, values.collect());
    }

    /// A list; items that came from the environment are written as they were.
    fn items(&mut self, key: &str, values: Vec<Tree>) {
        self.named_items(key, values.into_iter().map(|value| ("", value)));
    }

    /// The same, where each item has a name that tells whether it is a secret.
    fn named_items<'v>(&mut self, key: &str, values: impl IntoIterator<Item = (&'v str, Tree)>) {
        let path = join(&self.path, key);
        let values = values.into_iter().enumerate();
        let items = values.map(|(index, (name, value))| {
            let template = self.template(&format!("{path}[{index}]"), name);
            template.unwrap_or(value)
        });
        let items = items.collect();
        self.put(key, Tree::List(items));
    }

    fn list_or_off<S: AsRef<str>>(&mut self, key: &str, values: Option<&[S]>) {
        match values {
            Some(values) => self.list(key, values),
            None => self.bare(key, "off"),
        }
    }

    /// A value that is a secret if its name or its looks say so.
    fn guarded(&mut self, key: &str, value: &str) {
        let shown = if is_secret(key, value) { MASK } else { value };
        self.put_named(key, key, Tree::text(escape(shown)));
    }

    fn headers(&mut self, headers: &[(HeaderName, HeaderValue)]) {
        self.section("headers", |section| {
            for (name, value) in headers {
                section.guarded(
                    &section.spelling(name),
                    &String::from_utf8_lossy(value.as_bytes()),
                );
            }
        });
    }

    /// A header's name as the file spells it, which is where its origin is kept.
    fn spelling(&self, name: &HeaderName) -> String {
        self.origins
            .spelling(&self.path, name.as_str())
            .unwrap_or_else(|| name.to_string())
    }
}

fn listen(section: &mut Section<'_>, listen: &Listen) {
    let short = listen.tls.is_none() && section.origins.at("listen.address").is_none();
    if short {
        return section.bare("listen", listen.address);
    }
    section.section("listen", |section| {
        section.bare("address", listen.address);
        if let Some(TlsFiles { certificate, key }) = &listen.tls {
            section.section("tls", |section| {
                section.path("certificate", certificate);
                section.path("key", key);
            });
        }
    });
}

fn admin(section: &mut Section<'_>, admin: &Admin) {
    let plain = admin.auth && admin.tokens.is_empty() && admin.hosts.is_empty();
    if plain && section.origins.at("admin.address").is_none() {
        return section.bare("admin", admin.address);
    }
    section.section("admin", |section| {
        section.bare("address", admin.address);
        section.bare("auth", admin.auth);
        if !admin.tokens.is_empty() {
            section.section("tokens", |section| {
                for (name, _) in &admin.tokens {
                    section.put_named(name, "token", Tree::text(MASK));
                }
            });
        }
        section.list("hosts", &admin.hosts);
    });
}

fn server(section: &mut Section<'_>, server: &Server) {
    section.bare_or_off("body_limit", server.body_limit.map(size));
    section.bare_or_off("concurrency", server.concurrency);
    section.bare_or_off("streams", server.streams);
    section.list_or_off("hosts", server.hosts.as_deref());
    section.list_or_off("origins", server.origins.as_deref());
    section.clock("header_timeout", server.header_timeout);
    section.bare_or_off("heartbeat", server.heartbeat.map(duration));
    section.bare_or_off("write_stall", server.write_stall.map(duration));
    section.bare("access_log", server.access_log);
    let keys = server.session_keys.iter();
    section.named_items("session_keys", keys.map(|_| ("key", Tree::text(MASK))));
    section.bare("replay_memory", size(server.replay_memory));
    section.section("drain", |section| {
        section.clock("delay", server.drain.delay);
        section.clock("limit", server.drain.limit);
    });
}

fn route(section: &mut Section<'_>, route: &Route) {
    if !is_derived(section, route) {
        section.text("name", &route.name);
    }
    section.section("match", |section| {
        section.text("path", &route.path);
        if let Some(host) = &route.host {
            section.text("host", host);
        }
        if !route.headers.is_empty() {
            section.headers(&route.headers);
        }
    });
    section.word("protocol", route.protocol);
    section.text("upstream", &route.upstream);
    section.list("forward", &route.forward);
    rules::intercept(section, route.intercept.as_ref());
    deadline(section, route.deadline);
    section.word("http_sse", route.http_sse);
    session(section, route.session.as_ref());
    rate::limits(section, &route.rate_limit);
    replay(section, route.replay.as_ref());
    section.bare_or_off("concurrency", route.concurrency);
    resilience::retry(section, route.retry.as_ref());
    section.word("errors", route.errors);
}

fn deadline(section: &mut Section<'_>, deadline: Option<Deadline>) {
    match deadline {
        None => section.bare("deadline", "off"),
        Some(Deadline { limit, cap }) => section.section("deadline", |section| {
            section.clock("limit", limit);
            section.clock("cap", cap);
        }),
    }
}

fn session(section: &mut Section<'_>, session: Option<&SessionSettings>) {
    let Some(session) = session else {
        return section.bare("session", "off");
    };
    section.section("session", |section| {
        section.clock("idle", session.idle);
        section.bare_or_off("lifetime", session.lifetime.map(duration));
        section.bare("max", session.max);
        let lost = session.lost.iter().map(StatusCode::as_u16);
        section.items("lost", lost.map(Tree::bare).collect());
        section.word("heal", session.heal);
    });
}

fn replay(section: &mut Section<'_>, replay: Option<&ReplaySettings>) {
    let Some(replay) = replay else {
        return section.bare("replay", "off");
    };
    section.section("replay", |section| {
        section.word("streams", replay.scope);
        section.bare("events", replay.events);
        section.bare("bytes", size(replay.bytes as u64));
        section.clock("age", replay.age);
    });
}

/// Whether the name repeats what came from the environment; it is left out then, and comes back by itself.
fn is_derived(section: &Section<'_>, route: &Route) -> bool {
    let from_environment = |key| section.origins.at(&join(&section.path, key)).is_some();
    let derived = default_name(route.host.as_deref(), &route.path);
    let rest = route.name.strip_prefix(&derived);
    (from_environment("match.path") || from_environment("match.host"))
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

fn upstream(section: &mut Section<'_>, upstream: &Upstream) {
    section.section("timeouts", |section| {
        section.clock("connect", upstream.timeouts.connect);
        clocks(section, upstream.timeouts.head, upstream.timeouts.idle);
    });
    section.bare_or_off("concurrency", upstream.concurrency);
    section.section("balance", |section| {
        resilience::balance(section, &upstream.balance);
    });
    resilience::circuit(section, "circuit", upstream.circuit.as_ref());
    resilience::circuit(section, "tool_circuit", upstream.tool_circuit.as_ref());
    tools(section, &upstream.tools);
    resilience::health(section, upstream.health.as_ref());
    resilience::outlier(section, upstream.outlier.as_ref());
    resilience::resume(section, upstream.resume.as_ref());
    section.bare("trust_annotations", upstream.trust_annotations);
    section.bare("stateless", upstream.stateless);
    let endpoints = upstream.endpoints.iter().enumerate();
    let endpoints = endpoints.map(|(index, replica)| {
        let path = join(&section.path, &format!("endpoints[{index}]"));
        let mut inner = Section::new(&path, section.origins);
        match &replica.endpoint {
            Endpoint::Http(endpoint) => http(&mut inner, endpoint),
            Endpoint::Stdio(endpoint) => stdio(&mut inner, endpoint),
        }
        inner.bare("weight", replica.weight);
        inner.bare("priority", replica.priority);
        inner.finish()
    });
    let endpoints = endpoints.collect();
    section.put("endpoints", Tree::List(endpoints));
}

fn tools(section: &mut Section<'_>, rules: &[ToolRule]) {
    let path = join(&section.path, "tools");
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        let mut section = Section::new(&format!("{path}[{index}]"), section.origins);
        section.text("tool", rule.tool.as_ref());
        if let Some(own) = rule.deadline {
            deadline(&mut section, own);
        }
        if let Some(own) = rule.timeouts {
            section.section("timeouts", |section| clocks(section, own.head, own.idle));
        }
        if let Some(own) = rule.concurrency {
            section.bare_or_off("concurrency", own);
        }
        if let Some(own) = &rule.circuit {
            resilience::circuit(&mut section, "circuit", own.as_ref());
        }
        section.finish()
    });
    let rules = rules.collect();
    section.put("tools", Tree::List(rules));
}

fn clocks(section: &mut Section<'_>, head: Option<Duration>, idle: Option<Duration>) {
    section.bare_or_off("head", head.map(duration));
    section.bare_or_off("idle", idle.map(duration));
}

fn http(section: &mut Section<'_>, endpoint: &HttpEndpoint) {
    url(section, &endpoint.url);
    section.bare_or_off("each_address", endpoint.each_address.map(duration));
    section.word("transport", endpoint.transport);
    section.headers(&endpoint.headers);
    section.bare("http2", endpoint.http2);
    if endpoint.tls.ca.is_some() || endpoint.tls.certificate.is_some() {
        section.section("tls", |section| {
            let files = [
                ("ca", &endpoint.tls.ca),
                ("certificate", &endpoint.tls.certificate),
                ("key", &endpoint.tls.key),
            ];
            for (key, file) in files {
                if let Some(file) = file {
                    section.path(key, file);
                }
            }
        });
    }
    section.clock("pool_idle", endpoint.pool_idle);
    section.clock("keepalive", endpoint.keepalive);
}

/// The query may have secrets, whether or not a part of the URL came from the environment.
fn url(section: &mut Section<'_>, url: &http::Uri) {
    let template = section.origins.at(&join(&section.path, "url"));
    let shown = match template {
        Some(template) => mask_url_template(template),
        None => escape(&mask_url(url)),
    };
    section.entries.push(("url".to_owned(), Tree::text(shown)));
}

/// A program and its arguments; the name of an argument is the option before it.
fn command(section: &mut Section<'_>, command: &[String]) {
    let options = std::iter::once("command").chain(command.iter().map(|option| {
        if opens_secret(option) {
            option
        } else {
            "command"
        }
    }));
    let masked = mask_arguments(command);
    let masked = masked.iter().map(|argument| Tree::text(escape(argument)));
    section.named_items("command", options.zip(masked));
}

fn stdio(section: &mut Section<'_>, endpoint: &StdioEndpoint) {
    command(section, &endpoint.command);
    section.section("env", |section| {
        for (name, value) in &endpoint.env {
            section.guarded(name, value);
        }
    });
    if let Some(cwd) = &endpoint.cwd {
        section.path("cwd", cwd);
    }
    section.word("isolation", endpoint.isolation);
    section.clock("idle", endpoint.idle);
    section.bare_or_off("lifetime", endpoint.lifetime.map(duration));
    section.bare_or_off("recycle", endpoint.recycle);
    section.bare("max", endpoint.max);
    section.bare_or_off("warm", endpoint.warm);
    section.bare("starting", endpoint.starting);
    section.bare("sessions", endpoint.sessions);
    section.clock("handshake", endpoint.handshake);
    section.bare("snapshot", endpoint.snapshot);
    section.bare("line_limit", size(endpoint.line_limit));
    section.clock("silence", endpoint.silence);
    section.section("stop", |section| {
        section.clock("stdin", endpoint.stop.stdin);
        section.clock("term", endpoint.stop.term);
    });
}

/// A duration in the largest unit that needs no fraction.
fn duration(value: Duration) -> String {
    const UNITS: &[(u128, &str)] = &[
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    let nanoseconds = value.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    match UNITS
        .iter()
        .find(|(unit, _)| nanoseconds.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{}{name}", nanoseconds / unit),
        None => format!("{nanoseconds}ns"),
    }
}

/// A size in the largest unit that needs no fraction.
fn size(bytes: u64) -> String {
    const UNITS: &[(u64, &str)] = &[(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}
