//! Every metric of the layers: name, kind, help text and labels in one table.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The labels.
    pub labels: &'static [&'static str],
    /// What it counts, in one line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// All metrics of this crate.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $constant, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics! {
    SERVER_OPERATION = Histogram "mcp_server_operation_duration_seconds" ["route", "mcp_method", "tool", "error_type", "era"]
        "Time from a client's JSON-RPC request to the end of its answer.";
    CLIENT_OPERATION = Histogram "mcp_client_operation_duration_seconds" ["upstream", "mcp_method", "tool", "error_type", "transport"]
        "Time that an upstream took for a JSON-RPC request, to the end of its answer.";
    SERVER_REQUEST = Histogram "http_server_request_duration_seconds" ["route", "http_request_method", "http_response_status_code"]
        "Time from a client's HTTP request to the end of its response, on routes without MCP and where no operation was read.";
    CLIENT_REQUEST = Histogram "http_client_request_duration_seconds" ["upstream", "http_request_method", "http_response_status_code"]
        "Time that an upstream took for an HTTP request without MCP, to the end of its response.";
    OVERHEAD = Histogram "ziggurat_overhead_seconds" ["route"]
        "Time of an exchange that was not spent waiting for an upstream.";
    TIME_TO_FIRST_EVENT = Histogram "ziggurat_time_to_first_event_seconds" ["upstream"]
        "Time until the first event of an event stream that an upstream opened.";
    SSE_STREAMS = Gauge "ziggurat_sse_streams" ["direction"]
        "Event streams that are open: to clients (downstream) and from upstreams (upstream).";
    SSE_EVENTS = Counter "ziggurat_sse_events_total" ["upstream"]
        "Events that passed from an upstream.";
    RESUMES = Counter "ziggurat_resumes_total" ["upstream", "outcome"]
        "Event streams of an upstream that broke: they went on where they broke (resumed), began anew (reopened), went on where the server had ended them for a while (polled), or did not, because the upstream cannot (refused) or does not for too long (gave_up).";
    INFLIGHT = Gauge "ziggurat_inflight" ["upstream"]
        "Calls that an upstream is working on, standing streams left out.";
    ENDPOINT_READY = Gauge "ziggurat_endpoint_ready" ["upstream", "endpoint"]
        "Whether an endpoint takes calls: 1 if nothing holds it back, 0 if something does, -1 once it was taken out of the config.";
    ENDPOINT_LOAD = Gauge "ziggurat_endpoint_load" ["upstream", "endpoint"]
        "What a call costs at an endpoint, as the balancer sees it: seconds to the response head, times calls in hand, times a penalty for failures.";
    POOL_WAITERS = Gauge "ziggurat_pool_waiters" ["upstream"]
        "Calls that wait because every endpoint is busy.";
    POOL_WAIT = Histogram "ziggurat_pool_wait_seconds" ["upstream"]
        "Time that calls waited because every endpoint was busy.";
    REJECTIONS = Counter "ziggurat_layer_rejections_total" ["layer", "reason"]
        "Calls that a layer ended: which layer, and why.";
    RATE_LIMITED = Counter "ziggurat_rate_limited_total" ["route", "scope"]
        "Requests that were refused because they were over a rate limit; the scope is the limit's name.";
    RATE_LIMIT_KEYS = Gauge "ziggurat_rate_limit_keys" ["route", "scope"]
        "Keys of a rate limit (sessions, clients, tools, …) whose buckets are not full.";
    RATE_LIMIT_CROWDED = Counter "ziggurat_rate_limit_crowded_total" ["route", "scope"]
        "Calls that were counted in a bucket for all newcomers, because a rate limit had as many keys as it may have.";
    RETRIES = Counter "ziggurat_retries_total" ["upstream", "reason", "outcome"]
        "Further attempts at calls that failed: why (not_sent, timeout, broken, status, retry_after), and how they ended (success, failure, dropped) or why they were not made (no_budget, no_body, no_time).";
    RETRY_BUDGET = Gauge "ziggurat_retry_budget_ratio" ["upstream"]
        "What is left of an upstream's retry budget, from 0 (nothing) to 1, as of its newest calls.";
    RETRY_REFUSED_UNSAFE = Counter "ziggurat_retry_refused_unsafe_total" ["upstream"]
        "Calls that failed and were not repeated because they may have had an effect.";
    TIMEOUTS = Counter "ziggurat_timeouts_total" ["phase"]
        "Clocks that ran out: connect, head, idle, deadline, upload, handshake.";
    CANCELLATIONS = Counter "ziggurat_cancellations_total" ["origin"]
        "Calls that ended before their answer, by who ended them: client, timeout, operator, drain, proxy (what came could not be passed on).";
    ORIGIN_REJECTED = Counter "ziggurat_origin_rejected_total" []
        "Requests that were refused for their Host or Origin.";
    LABEL_OVERFLOW = Counter "ziggurat_label_overflow_total" []
        "Names that did not become a label because there are too many.";
    BREAKER_STATE = Gauge "ziggurat_breaker_state" ["scope", "name"]
        "Circuit breakers: 0 closed, 1 half-open, 2 open; of an endpoint or of a tool.";
    BREAKER_TRANSITIONS = Counter "ziggurat_breaker_transitions_total" ["scope", "name", "to"]
        "Times that a circuit breaker came to a state: closed, half_open, open.";
    HEALTH_PROBE = Histogram "ziggurat_health_probe_duration_seconds" ["upstream", "result"]
        "Time that health probes of an upstream's endpoints took, by what they said: success, failure, timeout, neutral.";
    OUTLIER_EJECTIONS = Counter "ziggurat_outlier_ejections_total" ["upstream", "endpoint"]
        "Times that an endpoint was left alone for a while because it failed in a row, or did worse than the others.";
    SESSIONS = Gauge "ziggurat_sessions" ["route", "era"]
        "Sessions of clients that a route keeps.";
    SESSION_EVICTIONS = Counter "ziggurat_session_evictions_total" ["route", "reason"]
        "Sessions of clients that ended other than by DELETE: idle, lifetime, cap, lost, endpoint_gone, operator.";
    SESSION_FAREWELLS = Counter "ziggurat_session_farewells_total" ["route", "outcome"]
        "Sessions of clients that ended here, by what their upstreams said to that: ended, gone (it did not have it any more), refused, failed (it could not be asked), or forgotten (too many were to be told, or its endpoint is gone).";
    REPLAY_BUFFER = Gauge "ziggurat_replay_buffer_bytes" []
        "Bytes of events that are kept for clients that may come back for them.";
    REPLAY_DETACHED = Gauge "ziggurat_replay_detached_streams" []
        "Streams that are read on although their clients went away.";
    REPLAYS = Counter "ziggurat_replays_total" ["outcome"]
        "Clients that came back to a stream that the proxy keeps: they got all that they had missed (replayed), all but what is not kept any more (gap), the error of a call whose answer is not kept (lost), or there was nothing more to come (complete).";
    REINITIALIZE = Counter "ziggurat_reinitialize_total" ["upstream", "outcome"]
        "Sessions of clients that an upstream had lost, or that moved since their endpoint could not be reached: healed, not healed because their calls were not safe to repeat (unsafe) or because nothing is known of them (unknown), or tried in vain (failed).";
    INTERCEPT_HITS = Counter "ziggurat_intercept_hits_total" ["route", "rule", "action"]
        "Messages that a rule of a route matched, by what came of it: continue, modify, block, mock, delay, pause; dry_run where it only reports, and error where it could not be judged or carried out.";
    INTERCEPT_PAUSED = Gauge "ziggurat_intercept_paused" ["route"]
        "Exchanges that wait for an operator's decision.";
    STDIO_SESSIONS = Gauge "ziggurat_stdio_sessions" ["upstream"]
        "Sessions that the stdio servers of an upstream have.";
    STDIO_SESSION_EVICTIONS = Counter "ziggurat_stdio_session_evictions_total" ["upstream", "reason"]
        "Sessions of stdio servers that ended other than by DELETE: idle, lifetime, exit, snapshot (its server answered otherwise), drain.";
    STDIO_SNAPSHOTS = Counter "ziggurat_stdio_snapshots_total" ["upstream", "outcome"]
        "Sessions that began with what the command had answered before: confirmed by the session's own server, not so (differs), or that server did not come up (failed).";
    STDIO_PROCESSES = Gauge "ziggurat_stdio_processes" ["upstream", "state"]
        "Child processes: starting, warm (started ahead of need, unused yet), idle, leased (with a session or a call), stopping.";
    STDIO_SPAWNS = Counter "ziggurat_stdio_spawns_total" ["upstream", "reason"]
        "Child processes that were started: for a session, for modern calls, to be shared, for a principal, or ahead of need (warm).";
    STDIO_EXITS = Counter "ziggurat_stdio_exits_total" ["upstream", "reason"]
        "Child processes that ended: exited, closed, stuck, refused, idle, lifetime, recycled, surplus, room (for another), snapshot, delete, operator, drain.";
    STDIO_SPAWN = Histogram "ziggurat_stdio_spawn_duration_seconds" ["upstream", "phase"]
        "Time to start a child (spawn), and until it first answered (handshake).";
    STDIO_PENDING = Gauge "ziggurat_stdio_pending_requests" ["upstream"]
        "Requests that children have not answered yet.";
    STDIO_WRITE_QUEUE = Gauge "ziggurat_stdio_write_queue_bytes" ["upstream"]
        "Bytes that wait to be read by children.";
    STDIO_MEMORY = Gauge "ziggurat_stdio_resident_memory_bytes" ["upstream"]
        "Resident memory of the child processes themselves (not of what they start).";
    STDIO_NOISE = Counter "ziggurat_stdio_noise_total" ["upstream", "reason"]
        "Lines of children that were dropped: not_json, too_long, unknown_id, nobody.";
}

/// Tells the installed recorder what each metric is.
pub fn describe() {
    for metric in ALL {
        let unit = if metric.name.ends_with("_seconds") {
            Unit::Seconds
        } else if metric.name.ends_with("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}
