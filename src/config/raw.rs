//! What a file may say: one section for each level, with every default.
//!
//! The comments here are the descriptions in the JSON Schema, so they speak to whoever writes a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::Schema;
use serde_json::json;

use super::mistake::Mistakes;
use super::node::Node;
use super::read::{At, Dict, Keys, OrOff, Property, Read, ShortOr, object, section};
use super::value::{AdminToken, Clock, Count, HostName, Label, Pause, SealKey, Size, Switch};

mod route;
mod upstream;

pub(super) use self::route::*;
pub(super) use self::upstream::*;

section! {
    /// A ziggurat config: where to listen, what clients may ask for, and the servers that answer.
    RawConfig {
        /// Where clients connect: an address, or an address and the files for TLS. An address that other machines can reach is refused unless `insecure_bind` is true. Another address takes effect at the next start.
        listen: At<ShortOr<SocketAddr, RawListen>> = "127.0.0.1:8080",
        /// Where `/livez`, `/readyz`, `/metrics` and the admin API are served: an address, or an address and who may use that API. It takes effect at the next start.
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
        /// The certificate and the key, as PEM files; without them the listener speaks plain HTTP. Whether it does takes effect at the next start; other files, or what is in them, at the next reload.
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
        /// How long a client may take to send the head of a request. It takes effect at the next start.
        header_timeout: Clock = "10s",
        /// After how much silence an event stream to a client gets a comment, so that nobody on the way gives it up. `off` also leaves the headers of event streams alone.
        heartbeat: OrOff<Clock> = "15s",
        /// How long a connection may take no byte of what there is to send, because its client does not read, before it is cut. It takes effect at the next start.
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
        /// How long requests are still taken while `/readyz` already says no, so that a load balancer can look away. It takes effect at the next start.
        delay: Pause = "0s",
        /// How long calls in flight may take to finish after that.
        limit: Pause = "30s",
    }
}
