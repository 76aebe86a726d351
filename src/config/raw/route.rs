//! What a file may say of a route.

use http::HeaderName;
use schemars::Schema;
use serde_json::json;
use ziggurat_layers::{
    expression::Expression,
    http_sse::Serve,
    rate_limit::{Network, Rate},
    replay::Scope,
    session::Heal,
};

use crate::config::mistake::Mistakes;
use crate::config::node::Node;
use crate::config::read::{
    At, Dict, Keys, OneOrMany, OrOff, Property, Read, ShortOr, object, section,
};
use crate::config::rules::RawIntercept;
use crate::config::value::{
    Amount, Clock, Count, ErrorStatus, HeaderText, HostName, Label, NamePattern, Part, Pause,
    Prefix, RoutePath, Size, Word,
};
use crate::config::{Errors, Per, Protocol};

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
        /// A CEL expression over the request, whose value tells calls apart, too: `has(args.tenant) ? args.tenant : null`, or `headers["x-tenant"]`. Calls of which it says `null` do not count; where it fails, the session or the client stands in its place.
        expression: Option<At<Expression>>,
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
        /// How many may be repeated beside those for each of the ten seconds, however few calls there are.
        least: Amount = 1,
        /// The pause before an attempt.
        backoff: RawBackoff = json!({}),
        /// The longest `Retry-After` of an upstream that is waited for.
        retry_after: Pause = "10s",
        /// The largest request body that is kept for another attempt.
        body_cap: Size = "64KiB",
        /// Tools whose calls may be repeated although they may have been executed; `*` stands for any text.
        safe_tools: Vec<Word> = Vec::<&str>::new(),
        /// The statuses after which a call is repeated, if that is safe. A 503 with `Retry-After` says that nothing was done: after that any call is, whatever is listed here.
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
