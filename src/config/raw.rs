//! What a file may say: one section for each level, with every default.
//!
//! The comments here are the descriptions in the JSON Schema, so they speak to whoever writes a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::HeaderName;
use schemars::Schema;
use serde_json::json;
use ziggurat_layers::{
    balance::HashKey,
    circuit::Window,
    http_sse::Serve,
    rate_limit::{Network, Rate},
    replay::Scope,
    session::Heal,
    upstream::sse::Transport,
};

use super::endpoint::RawEndpoint;
use super::mistake::Mistakes;
use super::node::Node;
use super::read::{At, Dict, Keys, OneOrMany, OrOff, Property, Read, ShortOr, object, section};
use super::rules::RawIntercept;
use super::value::{
    AdminToken, Amount, Clock, Count, ErrorStatus, HeaderText, HostName, Label, NamePattern, Part,
    Pause, Prefix, Rank, RoutePath, SealKey, SettableHeader, Size, Statuses, Switch, Url,
    VariableName, Word,
};
use super::{Choice, Errors, Isolation, Per, ProbeKind, Protocol};

section! {
    /// A ziggurat config: where to listen, what clients may ask for, and the servers that answer.
    RawConfig {
        /// Where clients connect: an address, or an address and the files for TLS. An address that other machines can reach is refused unless `insecure_bind` is true.
        listen: At<ShortOr<SocketAddr, RawListen>> = "127.0.0.1:8080",
        /// Where `/livez`, `/readyz`, `/metrics` and the admin API are served: an address, or an address and who may use that API.
        admin: At<ShortOr<SocketAddr, RawAdmin>> = "127.0.0.1:9901",
        /// Whether `listen` may be an address that other machines can reach, although ziggurat authenticates nobody.
        insecure_bind: Switch = false,
        /// What applies to every request.
        server: RawServer = json!({}),
        /// Which requests go where; the first that matches wins.
        routes: At<Vec<At<RawRoute>>>,
        /// The servers, each under a name.
        upstreams: Dict<Label, RawUpstream>,
    }
}

section! {
    /// A listener with TLS.
    RawListen {
        /// The address and port.
        address: SocketAddr = "127.0.0.1:8080",
        /// The certificate and the key, as PEM files; without them the listener speaks plain HTTP.
        tls: Option<RawTls>,
    }
}

section! {
    /// The admin listener.
    RawAdmin {
        /// The address and port.
        address: SocketAddr = "127.0.0.1:9901",
        /// Whether a token is asked for under `/admin/v1/`. `off` lets everybody in who reaches the listener, which must then be on the loopback.
        auth: Switch = true,
        /// The tokens that are good there, each under the name by which the audit knows whoever has it. Without any, one is made at the start if only this machine can reach the listener; else `/admin/v1/` is closed.
        tokens: Option<Dict<Label, AdminToken>>,
        /// Names that `Host` may carry under `/admin/v1/`, without ports, beside loopback names and IP addresses.
        hosts: Vec<HostName> = Vec::<&str>::new(),
    }
}

section! {
    /// The files of a TLS listener.
    RawTls {
        /// The PEM file of the certificate chain.
        certificate: At<PathBuf>,
        /// The PEM file of the private key.
        key: At<PathBuf>,
    }
}

section! {
    /// What applies to every request.
    RawServer {
        /// The largest request body.
        body_limit: OrOff<Size> = "4MiB",
        /// How many calls may be in flight; more are refused at once.
        concurrency: OrOff<Count> = 4096,
        /// How many standing streams may be open.
        streams: OrOff<Count> = 10000,
        /// The names that `Host` may carry, without ports. `off` lets every name through, which opens the way to DNS rebinding.
        hosts: At<OrOff<Vec<HostName>>> = ["localhost", "127.0.0.1", "[::1]"],
        /// The names that `Origin` may carry, without schemes and ports; CORS is answered for them. `off` lets every page in a browser call.
        origins: OrOff<Vec<HostName>> = ["localhost", "127.0.0.1", "[::1]"],
        /// How long a client may take to send the head of a request.
        header_timeout: Clock = "10s",
        /// After how much silence an event stream to a client gets a comment, so that nobody on the way gives it up. `off` also leaves the headers of event streams alone.
        heartbeat: OrOff<Clock> = "15s",
        /// How long a connection may take no byte of what there is to send, because its client does not read, before it is cut.
        write_stall: OrOff<Clock> = "60s",
        /// Whether each operation is logged, on one line.
        access_log: Switch = true,
        /// The keys that seal session ids, each 32 bytes as base64 or hexadecimal digits; the first one seals, all open. Without any, each process makes its own, and no session outlives it.
        session_keys: Vec<At<SealKey>> = Vec::<&str>::new(),
        /// How many bytes of event streams are kept in all for clients that come back (see `replay` of a route); the oldest go first.
        replay_memory: Size = "64MiB",
        /// How a shutdown goes.
        drain: RawDrain = json!({}),
    }
}

section! {
    /// How a shutdown goes.
    RawDrain {
        /// How long requests are still taken while `/readyz` already says no, so that a load balancer can look away.
        delay: Pause = "0s",
        /// How long calls in flight may take to finish after that.
        limit: Pause = "30s",
    }
}

section! {
    /// A rule for requests, and what happens to those that it matches.
    RawRoute {
        /// The name in logs and metrics; left out, it is the path, with the host before it where there is one.
        name: Option<At<Label>>,
        /// Which requests.
        r#match: At<RawMatch>,
        /// `mcp`, or `http` for a plain HTTP or SSE service.
        protocol: Protocol = "mcp",
        /// The name of the upstream that answers.
        upstream: At<Label>,
        /// Headers of the client that are let through although they are secrets, such as `authorization`.
        forward: Vec<HeaderName> = Vec::<&str>::new(),
        /// Whether clients of the transport HTTP+SSE (2024-11-05), which open one event stream with a GET, are served: `auto` where the upstream has no stream for such a GET, `always`, or `off`.
        http_sse: Serve = "auto",
        /// How long the sessions of legacy clients live, and how many there may be. `off` lets the upstream's own session ids through.
        session: OrOff<RawSession> = json!({}),
        /// How many calls are let through in how much time, and how many standing streams: a limit, or a list of them, all of which a call must pass.
        rate_limit: OrOff<OneOrMany<At<RawRateLimit>>> = "off",
        /// Which event streams of legacy sessions ziggurat keeps, so that clients whose connection broke can come back to them (`Last-Event-ID`): `auto` those of commands, which cannot keep them themselves, `always` also those of HTTP servers that give their events no ids; or a map with the details. Servers with ids of their own are asked themselves.
        replay: At<OrOff<ShortOr<Scope, RawReplay>>> = "auto",
        /// Rules that change, refuse, answer or hold messages, `rules` in a list or in a file. Without any there are none.
        intercept: OrOff<RawIntercept> = "off",
        /// How long a call may go without its final answer and without a progress notification: a duration, or `limit` and `cap`.
        deadline: At<OrOff<ShortOr<Clock, RawDeadline>>> = "5m",
        /// How many calls may be in flight on the route; more are refused at once.
        concurrency: OrOff<Count> = "off",
        /// How often, and when, a call that failed is tried again; only where that cannot do its work twice.
        retry: OrOff<RawRetry> = json!({}),
        /// How failures of the proxy are told to MCP clients: `envelope` sends a JSON-RPC error in HTTP 200, `status` sends it with the HTTP status that belongs to it.
        errors: Errors = "envelope",
    }
}

section! {
    /// Which requests a route takes.
    RawMatch {
        /// The path; everything below it matches too.
        path: RoutePath,
        /// The host that the request must name, without a port.
        host: Option<HostName>,
        /// Headers that the request must carry, with their values.
        headers: Option<Dict<HeaderName, HeaderText>>,
    }
}

section! {
    /// How long a call may take.
    RawDeadline {
        /// The time without the final answer and without a progress notification; each notification starts it anew.
        limit: Clock = "5m",
        /// The time in all, however much progress there is. Left out, it is 1h, or `limit` if that is longer.
        cap: Option<At<Clock>>,
    }
}

section! {
    /// A server.
    RawUpstream {
        /// The clocks of one attempt.
        timeouts: RawTimeouts = json!({}),
        /// How many calls may be in flight on an endpoint.
        concurrency: OrOff<Count> = 1024,
        /// How calls are spread over the endpoints: `p2c`, `least_request`, `round_robin`, `random`, `hash`, or a map with the details.
        balance: ShortOr<Choice, RawBalance> = "p2c",
        /// When an endpoint that keeps failing is left alone.
        circuit: OrOff<RawCircuit> = json!({}),
        /// The same for each tool by itself, on all endpoints together.
        tool_circuit: OrOff<RawCircuit> = "off",
        /// How endpoints are probed. Left out, they are if there are several of them.
        health: Option<OrOff<RawHealth>>,
        /// When an endpoint that does worse than the others is left alone.
        outlier: OrOff<RawOutlier> = json!({}),
        /// How event streams of an HTTP endpoint that break are gone on with, by `Last-Event-ID`. Those of a command end with its process.
        resume: OrOff<RawResume> = json!({}),
        /// Whether `readOnlyHint` and `idempotentHint` of the server's tools are believed when a failed call might be tried again.
        trust_annotations: Switch = false,
        /// Whether the server keeps nothing of a session, so that a lost one can be begun anew whatever was called in it.
        stateless: Switch = false,
        /// Where the server is: its replicas, each a `url` or a `command`.
        endpoints: At<Vec<RawEndpoint>>,
    }
}

section! {
    /// The sessions of legacy clients.
    RawSession {
        /// How long a session may be quiet; an open stream over which nothing passes is quiet, too.
        idle: Clock = "30m",
        /// How old a session may become.
        lifetime: OrOff<Clock> = "off",
        /// How many there may be; then the one that has been quiet for longest makes room.
        max: Count = 10000,
        /// The statuses by which the upstream says that it does not know a session.
        lost: Vec<ErrorStatus> = [404],
        /// Which sessions that an HTTP upstream has lost are begun anew there: `safe` those whose calls were all safe to repeat, `always`, or `never`. Those of a command end with its process.
        heal: Heal = "safe",
    }
}

section! {
    /// A limit of calls and streams, for each key by itself. Requests count, and GETs that open a stream; DELETE, notifications and answers of clients do not.
    RawRateLimit {
        /// The name in errors and metrics; left out, it is made of `per`.
        name: Option<At<Label>>,
        /// What calls are told apart by: `session` (for calls without one, the client), `client` (its address), `method`, `tool`, a list of these, or `route` for nothing at all.
        per: At<OneOrMany<Per>> = "route",
        /// Which calls it is for; left out, all.
        r#match: At<RawSelector> = json!({}),
        /// How many calls are let through in a second (`50/s`), a minute (`100/m`) or an hour (`10/h`).
        rate: OrOff<Rate> = "off",
        /// How many of them may come at once. Left out, as many as `rate` says.
        burst: Option<At<Count>>,
        /// How many standing streams may be open.
        streams: OrOff<Count> = "off",
        /// What some calls are allowed instead; the first that matches counts. What a tier leaves out is as in the limit.
        tiers: At<Vec<At<RawTier>>> = Vec::<&str>::new(),
        /// For how many keys calls are counted one by one; those of keys beyond that are counted together.
        keys: Count = 100000,
        /// How many of the first bits of an IPv6 address make a client.
        ipv6_prefix: Prefix = 64,
    }
}

section! {
    /// Which calls: those that match each of the lists.
    RawSelector {
        /// Calls of these tools; `*` stands for any text.
        tools: Vec<NamePattern> = Vec::<&str>::new(),
        /// Calls with these methods, such as `tools/*`; on `protocol: http`, those of HTTP.
        methods: Vec<NamePattern> = Vec::<&str>::new(),
        /// Calls from these addresses and networks, such as `10.0.0.0/8`.
        clients: Vec<Network> = Vec::<&str>::new(),
    }
}

section! {
    /// What some calls are allowed.
    RawTier {
        /// Which calls.
        r#match: At<RawSelector>,
        /// How many calls are let through; `off` lets all of them through.
        rate: Option<OrOff<Rate>>,
        /// How many of them may come at once.
        burst: Option<At<Count>>,
        /// How many standing streams may be open.
        streams: Option<OrOff<Count>>,
    }
}

section! {
    /// The event streams that ziggurat keeps.
    RawReplay {
        /// Which: `auto` those of commands, `always` also those of HTTP servers that give their events no ids.
        streams: Scope = "auto",
        /// The most events of one stream.
        events: Count = 256,
        /// The most bytes of one stream.
        bytes: Size = "1MiB",
        /// How long an event is kept, and how long a call is read on whose client went away.
        age: Clock = "5m",
    }
}

section! {
    /// How a call that failed is tried again.
    RawRetry {
        /// The most attempts, the first one included.
        attempts: Count = 3,
        /// How many of the calls of the last ten seconds may be repeated.
        budget: Part = "20%",
        /// How many may be repeated in each second, however few calls there are.
        least: Amount = 1,
        /// The pause before an attempt.
        backoff: RawBackoff = json!({}),
        /// The longest `Retry-After` of an upstream that is waited for.
        retry_after: Pause = "10s",
        /// The largest request body that is kept for another attempt.
        body_cap: Size = "64KiB",
        /// Tools whose calls may be repeated although they may have been executed; `*` stands for any text.
        safe_tools: Vec<Word> = Vec::<&str>::new(),
        /// The statuses after which a call is repeated, if that is safe.
        statuses: Vec<ErrorStatus> = [502, 503, 504],
    }
}

section! {
    /// The pause before an attempt: a random part of a time that doubles.
    RawBackoff {
        /// The time of the first pause.
        base: Pause = "50ms",
        /// The longest time.
        max: Clock = "1s",
    }
}

section! {
    /// How calls are spread over the endpoints.
    RawBalance {
        /// How an endpoint is chosen.
        policy: Choice = "p2c",
        /// What `hash` goes by: `session`, `header:NAME`, or a JSON pointer into the arguments of a tool.
        key: Option<At<HashKey>>,
        /// The part of the calls that `p2c` places at random, so that an endpoint with a bad estimate can come back.
        forced: Part = "1%",
        /// How long a new or healed endpoint takes until it has its full share.
        slow_start: Pause = "30s",
        /// If fewer than this part of the endpoints are healthy, the others are used too.
        panic: Part = "50%",
        /// How many calls may wait while every endpoint is busy; `off` lets none wait.
        queue: OrOff<Count> = 1024,
        /// How long a call waits.
        queue_time: Clock = "1s",
    }
}

section! {
    /// A circuit breaker.
    RawCircuit {
        /// It opens when this part of the calls fail.
        failure_rate: OrOff<Part> = "50%",
        /// A call is slow that takes longer to the head of its response. Left out, none is.
        slow_call: Option<Clock>,
        /// It opens when this part of the calls are slow.
        slow_rate: Part = "50%",
        /// What the two rates look back at: a duration, or a number of calls such as `100 calls`.
        window: Window = "30s",
        /// With fewer calls in the window the rates say nothing.
        min_calls: Count = 10,
        /// It opens after so many failures in a row.
        consecutive: OrOff<Count> = 5,
        /// How long it stays open the first time; each time after that, twice as long.
        open: Clock = "10s",
        /// The longest that it stays open.
        open_max: Clock = "5m",
        /// How many calls try it at once when that time is over.
        probes: Count = 1,
        /// How many of those must succeed in a row.
        successes: Count = 2,
        /// Whether a JSON-RPC error is a failure.
        rpc_errors: Switch = false,
        /// Whether a tool result with `isError` is a failure.
        tool_errors: Switch = false,
    }
}

section! {
    /// How endpoints are probed. Probes alone never shut the only endpoint that there is (see `panic` of `balance`). A command that has sessions is probed in one of the prober's own, which counts towards `max`.
    RawHealth {
        /// What is asked: `mcp` wants the answer of an MCP server, `tcp` a connection, `http` the response to a GET. Left out, it is `mcp`, or `tcp` if only `protocol: http` routes lead here.
        probe: Option<At<ProbeKind>>,
        /// What `probe: http` asks for, and what it expects.
        http: Option<At<RawHttpProbe>>,
        /// The pause between two probes.
        interval: Clock = "5s",
        /// By how much of the interval a pause may be longer or shorter.
        jitter: Part = "20%",
        /// How long a probe may take.
        timeout: Clock = "2s",
        /// After how many failures in a row an endpoint is out.
        fall: Count = 3,
        /// After how many successes in a row it is back.
        rise: Count = 2,
        /// Whether a command is started just to be probed.
        wake: Switch = false,
    }
}

section! {
    /// A probe over plain HTTP.
    RawHttpProbe {
        /// The path, below that of the endpoint's URL.
        path: RoutePath = "/",
        /// The statuses that are good.
        status: Statuses = "200-399",
        /// A text that the body must have.
        contains: Option<Word>,
    }
}

section! {
    /// When an endpoint that does worse than the others is left alone.
    RawOutlier {
        /// After so many gateway errors in a row: no connection, no answer, or a status of 502, 503 or 504.
        consecutive: OrOff<Count> = 5,
        /// When its rate of failures lies so many standard deviations above the mean of all.
        deviations: OrOff<Amount> = 1.9,
        /// With fewer calls in an interval an endpoint is not compared.
        min_calls: Count = 20,
        /// With fewer endpoints to compare nothing is.
        min_endpoints: Count = 5,
        /// A lower rate of failures is good enough, however good the others are.
        floor: Part = "5%",
        /// How long calls are counted before they are compared.
        interval: Clock = "10s",
        /// How long it is left alone the first time; each time after that, this much longer.
        base: Clock = "30s",
        /// The longest that it is left alone.
        max: Clock = "5m",
        /// The most endpoints that are left alone at once; one always may be, where there are others.
        max_ejected: Part = "10%",
    }
}

section! {
    /// How event streams that break are gone on with.
    RawResume {
        /// The most tries of a call in a row, without an event between them.
        tries: Count = 10,
        /// How long a call may be without its stream.
        limit: Clock = "30s",
        /// How long a stream that stands may be away before it is given up.
        standing: Clock = "5m",
        /// The longest pause before the first try; it doubles with each, and is a random part of that. What the server asks for with `retry:` comes on top.
        first: Pause = "200ms",
        /// The longest pause.
        max: Clock = "30s",
    }
}

section! {
    /// The clocks of one attempt. None of them runs on a standing stream.
    RawTimeouts {
        /// How long a connection may take to be made, TLS included.
        connect: Clock = "2s",
        /// How long the head of the response may take. Left out, it is 60s if only `protocol: http` routes lead here; else the deadline of the route rules.
        head: Option<OrOff<Clock>>,
        /// How long a response body may be silent. Left out, it is 5m if only `protocol: http` routes lead here; else the deadline of the route rules.
        idle: Option<OrOff<Clock>>,
    }
}

section! {
    /// A server that is reached over HTTP.
    RawHttp {
        /// The URL, with its path.
        url: Url,
        /// Its share of the calls, against the other endpoints.
        weight: At<Count> = 1,
        /// Endpoints of a higher number are used only while none of a lower number can be.
        priority: Rank = 0,
        /// Which transport of MCP it speaks: `streamable`, `sse` for HTTP+SSE (2024-11-05), or `auto`, which finds out.
        transport: Transport = "auto",
        /// Headers that every request to it carries.
        headers: Option<Dict<SettableHeader, HeaderText>>,
        /// Whether a plain `http` URL is spoken to in HTTP/2 from the first byte.
        http2: At<Switch> = false,
        /// What TLS needs beyond the roots of the system.
        tls: Option<At<RawClientTls>>,
        /// How long an unused connection is kept; it should be below what the server does.
        pool_idle: Clock = "4s",
        /// How often an idle TCP connection is probed.
        keepalive: Clock = "30s",
    }
}

section! {
    /// TLS towards an upstream.
    RawClientTls {
        /// A PEM file with the roots to trust instead of those of the system.
        ca: Option<At<PathBuf>>,
        /// The PEM file of the certificate to present.
        certificate: Option<At<PathBuf>>,
        /// The PEM file of that certificate's private key.
        key: Option<At<PathBuf>>,
    }
}

section! {
    /// A command that speaks MCP over its stdin and stdout.
    RawStdio {
        /// The program and its arguments, as a list; no shell is involved.
        command: At<Vec<Word>>,
        /// Its share of the calls, against the other endpoints.
        weight: At<Count> = 1,
        /// Endpoints of a higher number are used only while none of a lower number can be.
        priority: Rank = 0,
        /// Environment variables for it, beside the few that are always let through.
        env: Option<Dict<VariableName, Word>>,
        /// The folder that it runs in, seen from the folder of this file.
        cwd: Option<At<PathBuf>>,
        /// Who shares a process: `per_session` starts one for each session, `shared` has one for everybody, `per_principal` one for all that an authenticated client does (and one for each session of a client that is not).
        isolation: At<Isolation> = "per_session",
        /// How long a process, or a session of a shared one, may go unused before it ends.
        idle: Clock = "10m",
        /// How old a process, or a session with it, may grow. A session that is older ends once it has neither a call nor a stream; a process that is older takes nobody new once another has taken its place, and ends with the last session and call that it has.
        lifetime: OrOff<Clock> = "off",
        /// After how many calls a process that several clients share is replaced; another is there before it goes.
        recycle: OrOff<Count> = "off",
        /// How many processes may run.
        max: Count = 32,
        /// How many processes are kept ready before anybody asks for one. They count in `max`.
        warm: At<OrOff<Count>> = "off",
        /// How many processes may be starting at a time that nobody waits for: those that are kept ready, and those that take the place of another.
        starting: Count = 2,
        /// How many sessions of legacy clients its processes may have in all, whether or not they share one.
        sessions: Count = 10000,
        /// How long it may take from its start to its answer to the first message; the first start of a package runner downloads.
        handshake: Clock = "60s",
        /// Whether a client is told at once what the same command has answered to the same `initialize` before, while its own process is still starting. If that one then answers otherwise, the session ends and the client begins anew.
        snapshot: At<Switch> = false,
        /// The longest line that it may write.
        line_limit: Size = "16MiB",
        /// How long a waiting call may be silent before its answer turns into an event stream, so that nothing in between gives up.
        silence: Clock = "15s",
        /// How a process is ended.
        stop: RawStop = json!({}),
    }
}

section! {
    /// How a process is ended: its stdin is closed, then SIGTERM, then SIGKILL to its group.
    RawStop {
        /// How long it may take to exit once its stdin is closed.
        stdin: Pause = "2s",
        /// How long it may take to exit after SIGTERM.
        term: Pause = "3s",
    }
}
