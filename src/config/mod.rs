//! The config file: text → `RawConfig` → [`Config`] (validated); reports all errors of a file at once.
//!
//! In: a JSON file, or a config of StatsD's `proxy.js`. Out: a `Config` with valid addresses and ranges. Next: `control/`,
//! which runs it.
//! Inside: `source.rs` detects the format; `json.rs`, or `literal.rs` with `syntax_error.rs`, parses the text; `fields.rs` and `raw.rs` its
//! keys, `proxy_js.rs` those of `proxy.js`; `validate.rs`, `nodes.rs`, `host.rs` and `pin.rs` validate their combination.
//! `assignment.rs` places names, `listing.rs` shows a file as `proxy.js` does.

mod assignment;
mod syntax_error;
mod fields;
mod foreign;
mod gso;
mod host;
mod json;
mod keys;
mod listing;
mod literal;
mod load;
mod memory;
mod nodes;
mod pin;
mod positions;
mod validate;
mod proxy_js;
mod raw;
mod report;
mod show;
mod source;
mod strict;
mod tree;

pub use assignment::{Assignment, sample_name};
pub use gso::Gso;
pub use keys::{DefaultValue, KEYS, Key, Kind, NODE_KEYS, PROXY_JS_KEYS, Range};
pub use load::{ConfigError, Loaded, load, parse};
pub use memory::MemoryBound;
pub use raw::Configured;

use crate::driver::Engine;
use crate::driver::socket::Spread;
use crate::placement::Hashing;
use crate::relay::{GsoMode, Malformed, OnNodeDown, Rules};
use std::net::SocketAddr;
use std::sync::Arc;

/// A validated config: every value is in its range, every listening address parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listening host as in the file; `*` is every address of both families, which is the default.
    pub host: String,
    /// Where metrics are received: one or two UDP addresses (0.0.0.0 and [::] by default).
    pub listen: Vec<SocketAddr>,
    /// The admin port's host as in the file; `localhost`, the default, is the loopback address of both families.
    pub management_host: String,
    /// Whether both may listen at addresses that the host does not have yet (IP_FREEBIND).
    pub freebind: bool,
    /// Where the admin port listens: one or two TCP addresses (127.0.0.1 and [::1] by default).
    pub management: Vec<SocketAddr>,
    /// Further names of this host that HTTP requests may use; [`EVERY_NAME`] accepts all.
    pub management_names: Vec<String>,
    /// Whether changing admin commands are accepted from other hosts.
    pub management_allow_changes: bool,
    /// The dialect of the admin port.
    pub management_dialect: AdminDialect,
    /// The backends, in the file's order, which is part of the placement; each once.
    pub nodes: Vec<Node>,
    /// The file's list as indices of `nodes`: 0, 1, 2, … unless it names one several times, as `murmur3` and `jump-fnv1a` allow.
    pub shards: Vec<u16>,
    /// Which of the addresses of a backend's name are used for metrics.
    pub address_family: AddressFamily,
    /// How names find their backend.
    pub hashing: Hashing,
    /// What happens to a dead backend's names.
    pub on_node_down: OnNodeDown,
    /// Whether `health`, `/readyz` and `check-ready` report ready while no backend is up.
    pub ready_without_backends: bool,
    /// The health checks.
    pub check: Check,
    /// The I/O engine; `None` (`auto`): io_uring, or if that is refused, the portable engine.
    pub engine: Option<Engine>,
    /// Worker threads, `auto` already resolved.
    pub workers: usize,
    /// Whether their number is `auto`.
    pub workers_auto: bool,
    /// Whether workers are pinned to CPUs, as in the file.
    pub pin_workers: PinWorkers,
    /// The CPU of each worker, by index; empty if they are not pinned.
    pub worker_cpus: Vec<usize>,
    /// How datagrams are distributed among workers.
    pub spread: Spread,
    /// Longest time between arrival and sending, µs.
    pub flush_us: u64,
    /// Largest packet that metrics are packed into, bytes.
    pub packet_bytes_max: usize,
    /// Whether a backend's path MTU may reduce that (`maxPacketSize: "auto"`).
    pub packet_auto: bool,
    /// Largest datagram received completely, bytes.
    pub datagram_bytes_max: usize,
    /// Receive buffer to request, bytes.
    pub receive_buffer_bytes: usize,
    /// Send buffer to request for each backend's socket, bytes.
    pub send_buffer_bytes: usize,
    /// Bytes that may be queued for a backend, per worker.
    pub queue_bytes_max: usize,
    /// Time after which the socket to a backend is replaced by a new one, with another source port, ms; 0 = never.
    pub reopen_ms: u64,
    /// Entries of the cache from name to backend, per worker.
    pub cache_entries: usize,
    /// What happens to malformed lines.
    pub malformed: Malformed,
    /// Segmentation offload of backends without their own `gso`.
    pub gso: Gso,
    /// Whether listening sockets join datagrams (UDP_GRO).
    pub gro: bool,
    /// Kernel timestamps for exact latencies.
    pub timestamps: bool,
    /// How long forwarding continues after SIGTERM while `health` reports down, ms.
    pub shutdown_delay_ms: u64,
    /// How long a drain may take, ms.
    pub shutdown_timeout_ms: u64,
    /// How long a process that takes over may take until it receives, ms.
    pub handover_timeout_ms: u64,
    /// Logs as text or JSON lines.
    pub log_format: LogFormat,
}

/// One backend of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its identity: `host:port` as in the file (IPv6 literals in brackets).
    pub name: Arc<str>,
    /// Name or address, without brackets.
    pub host: String,
    /// UDP port for metrics.
    pub port: u16,
    /// To which of its name's addresses metrics are sent; a host that is an address itself is always used.
    pub family: AddressFamily,
    /// TCP port for health checks; without one it is up unless refused.
    pub adminport: Option<u16>,
    /// Its share of the names relative to the others; 1 unless the hashing has weights.
    pub weight: u32,
    /// Keeps its position, receives nothing.
    pub disabled: bool,
    /// Segmentation offload for this backend.
    pub gso: Gso,
}

impl Node {
    /// How several packets for it are sent at once.
    pub fn gso_mode(&self) -> GsoMode {
        self.gso.mode(self.adminport.is_some())
    }
}

/// Which of the addresses of a backend's name are used for metrics. Health checks try all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressFamily {
    /// To all, IPv4 first: a StatsD server listens at IPv4 unless it is configured otherwise, and a server that listens at
    /// `[::]` takes IPv4 too as a rule.
    #[default]
    Any,
    /// To IPv4 addresses only.
    Ipv4,
    /// To IPv6 addresses only.
    Ipv6,
}

impl AddressFamily {
    /// All of them.
    pub const ALL: [AddressFamily; 3] = [AddressFamily::Any, AddressFamily::Ipv4, AddressFamily::Ipv6];

    /// The value of `addressFamily`.
    pub const fn name(self) -> &'static str {
        match self {
            AddressFamily::Any => "any",
            AddressFamily::Ipv4 => "ipv4",
            AddressFamily::Ipv6 => "ipv6",
        }
    }

    /// Whether metrics may be sent to this address.
    pub fn allows(self, address: SocketAddr) -> bool {
        match self {
            AddressFamily::Any => true,
            AddressFamily::Ipv4 => address.is_ipv4(),
            AddressFamily::Ipv6 => address.is_ipv6(),
        }
    }
}

/// Whether workers are pinned to CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinWorkers {
    /// No: the kernel places them.
    Off,
    /// Worker i on the i-th CPU that this process may use.
    Auto,
    /// Worker i on the i-th of these.
    Cpus(Vec<usize>),
}

/// How health is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Between two checks of a settled backend, ms.
    pub interval_ms: u64,
    /// For one check as a whole, ms.
    pub timeout_ms: u64,
    /// Between two checks while a result contradicts the state, ms.
    pub fast_ms: u64,
    /// Failures in a row that take a backend out.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
}

/// The form of the logs on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Default of `port`.
const PORT: u16 = 8_125;
/// Default of `managementPort`.
const MANAGEMENT_PORT: u16 = 8_126;

/// In [`Config::management_names`]: requests may use any name.
pub const EVERY_NAME: &str = "*";

/// What a file was written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Statsring's own JSON, and go-statsd-proxy's.
    #[default]
    Statsring,
    /// StatsD's `proxy.js`: a JavaScript object literal with keys of its own.
    ProxyJs,
}

/// The dialect in which the admin port answers commands that both have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminDialect {
    /// Statsring's.
    #[default]
    Statsring,
    /// Those of StatsD's `proxy.js`: `help`, `config`, `health`, `status`, `quit`, and `ERROR` for what is unknown.
    ProxyJs,
}

impl Format {
    /// A message with statsring's keys in backticks, converted to the names of this format.
    pub fn name_keys(self, message: &str) -> String {
        let keys = ["managementHost", "managementPort", "host", "workers"];
        keys.into_iter().fold(message.to_owned(), |text, key| {
            text.replace(&format!("`{key}`"), &format!("`{}`", self.key(key)))
        })
    }

    /// What a file of this format calls one of statsring's keys.
    pub fn key(self, key: &str) -> &str {
        match (self, key) {
            (Format::ProxyJs, "managementHost") => "mgmt_address",
            (Format::ProxyJs, "managementPort") => "mgmt_port",
            (Format::ProxyJs, "host") => "address",
            (Format::ProxyJs, "workers") => "forkCount",
            _ => key,
        }
    }
}

impl AdminDialect {
    /// Both of them.
    pub const ALL: [AdminDialect; 2] = [AdminDialect::Statsring, AdminDialect::ProxyJs];

    /// The value of `managementDialect`.
    pub const fn name(self) -> &'static str {
        match self {
            AdminDialect::Statsring => "statsring",
            AdminDialect::ProxyJs => "proxy.js",
        }
    }
}

impl Config {
    /// The reloadable rules of the data plane.
    pub fn rules(&self) -> Rules {
        Rules {
            flush_us: self.flush_us,
            packet_bytes_max: self.packet_bytes_max,
            packet_auto: self.packet_auto,
            queue_bytes_max: self.queue_bytes_max,
            reopen_us: self.reopen_ms.saturating_mul(1_000),
            malformed: self.malformed,
            on_node_down: self.on_node_down,
        }
    }
}
