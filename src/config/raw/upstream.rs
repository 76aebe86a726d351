//! What a file may say of an upstream and its endpoints.

use std::path::PathBuf;

use schemars::Schema;
use serde_json::json;
use ziggurat_layers::{balance::HashKey, circuit::Window, upstream::sse::Transport};

use crate::config::endpoint::RawEndpoint;
use crate::config::mistake::Mistakes;
use crate::config::node::Node;
use crate::config::raw::RawDeadline;
use crate::config::read::{At, Dict, Keys, OrOff, Property, Read, ShortOr, object, section};
use crate::config::value::{
    Amount, Clock, Count, HeaderText, NamePattern, Part, Pause, Rank, RoutePath, SettableHeader,
    Size, Statuses, Switch, Url, VariableName, Word,
};
use crate::config::{Choice, Isolation, ProbeKind};

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
        /// The same for each tool by itself, on all endpoints together. A tool has its breaker once a call of it had a result, or no answer at all; errors before that may only say that there is no such tool.
        tool_circuit: OrOff<RawCircuit> = "off",
        /// What is different for some tools. Of the entries that fit a tool the first counts, and what it leaves out is as for all others.
        tools: At<Vec<At<RawTool>>> = Vec::<&str>::new(),
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
        /// How long it stays open the first time, and up to a fifth longer; each time after that, twice as long.
        open: Clock = "10s",
        /// The longest that it stays open, that fifth left out.
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
    /// What is different for some tools.
    RawTool {
        /// The name of the tools; `*` stands for any text.
        tool: At<NamePattern>,
        /// How long a call may take, in place of the `deadline` of its route: a duration, or `limit` and `cap`. `off` is without end, but for what a command goes on with after its client left: for that it is an hour.
        deadline: Option<OrOff<ShortOr<Clock, RawDeadline>>>,
        /// The clocks of one attempt.
        timeouts: Option<RawToolTimeouts>,
        /// How many of their calls together may be in flight on an endpoint, within its own `concurrency`; more are refused at once. Left out, or `off`, it is not bounded, also not by an entry below.
        concurrency: Option<OrOff<Count>>,
        /// When such a tool is left alone, in place of `tool_circuit`.
        circuit: Option<OrOff<RawCircuit>>,
    }
}

section! {
    /// The clocks of one attempt to call some tools.
    RawToolTimeouts {
        /// How long the head of the response may take.
        head: Option<OrOff<Clock>>,
        /// How long a response body may be silent.
        idle: Option<OrOff<Clock>>,
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
        /// How long each request of a probe may take.
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
        /// The longest pause, and the most that is waited for of what the server asks for.
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
        /// How often the host name of the URL is looked up, so that each of its addresses is an endpoint of its own, with this weight and priority: for replicas behind one name. `off` makes one endpoint of the name, which connects to any of them.
        each_address: OrOff<At<Clock>> = "off",
        /// Which transport of MCP it speaks: `streamable`, `sse` for HTTP+SSE (2024-11-05), or `auto`, which finds out.
        transport: Transport = "auto",
        /// Headers that every request to it carries.
        headers: Option<Dict<SettableHeader, HeaderText>>,
        /// Whether a plain `http` URL is spoken to in HTTP/2 from the first byte.
        http2: At<Switch> = false,
        /// What TLS needs beyond the roots of the system. A reload reads its files again.
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
