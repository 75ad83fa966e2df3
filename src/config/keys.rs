//! The table of config keys: name, values, default, whether a reload may change it, and meaning.
//!
//! In: limits of the other modules. Out: the tables by which `fields.rs` reads values and corrects misspelt keys, by which
//! `show.rs` knows what a reload may change, and from which the book and the man page are written. Next: `raw.rs`.

use super::{AddressFamily, AdminDialect, Gso, LogFormat};
use crate::driver::Engine;
use crate::driver::socket::Spread;
use crate::placement::Hashing;
use crate::relay::{Malformed, OnNodeDown};
use crate::worker::{BACKLOG_BYTES_MAX, DATAGRAM_BYTES_LIMIT};

/// A key.
#[derive(Debug)]
pub struct Key {
    /// As in the file.
    pub name: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// Its default.
    pub default: DefaultValue,
    /// Whether a reload may change it; the others need a restart.
    pub is_reloadable: bool,
    /// Markdown; links are relative to the page of the keys.
    pub meaning: &'static str,
}

/// Type and range of a key.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A hostname or an IP address.
    Host,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole {
        /// The numbers.
        range: Range,
    },
    /// A whole number, or `"auto"`.
    WholeOrAuto {
        /// The numbers.
        range: Range,
    },
    /// Milliseconds from 0, fractions allowed.
    Milliseconds {
        /// The longest.
        max: u64,
    },
    /// One of some strings.
    OneOf {
        /// The strings.
        names: &'static [&'static str],
    },
    /// A list of hostnames.
    Hostnames,
    /// Whether and to which CPUs workers are pinned.
    Cpus {
        /// Numbers of CPUs.
        range: Range,
    },
    /// The list of backends.
    Nodes,
    /// A key of StatsD's `proxy.js`, which `proxy_js.rs` reads by rules of its own.
    OfProxyJs,
}

/// Default of a key.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// This value, as JSON.
    Value(&'static str),
    /// A value that follows from others, or from the host, in Markdown.
    Rule(&'static str),
    /// None: the key is required.
    Required,
}

impl Key {
    /// Its values, as Markdown.
    pub fn values(&self) -> String {
        match self.kind {
            Kind::Host => "hostname or IP address".to_owned(),
            Kind::Flag => "`true`, `false`".to_owned(),
            Kind::Whole { range } => range.shown(),
            Kind::WholeOrAuto { range } => format!("{}, `\"auto\"`", range.shown()),
            Kind::Milliseconds { max } => format!("0 to {max} ms, fractions allowed"),
            Kind::OneOf { names } => {
                names.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
            }
            Kind::Hostnames => "list of hostnames".to_owned(),
            Kind::Cpus { .. } => "`false`, `true`, list of CPUs".to_owned(),
            Kind::Nodes => "list of nodes".to_owned(),
            Kind::OfProxyJs => String::new(),
        }
    }

    /// Its default, as Markdown.
    pub fn default_text(&self) -> String {
        match self.default {
            DefaultValue::Value(value) => format!("`{value}`"),
            DefaultValue::Rule(rule) => rule.to_owned(),
            DefaultValue::Required => "required".to_owned(),
        }
    }
}

/// Range of a whole number.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The greatest.
    pub max: u64,
    /// Completes "is not ...", e.g. "a port".
    pub noun: &'static str,
    /// Follows the maximum.
    pub unit: &'static str,
}

impl Range {
    /// Plain numbers.
    pub(super) const fn plain(min: u64, max: u64) -> Range {
        Range { min, max, noun: "in range", unit: "" }
    }

    /// Bytes.
    pub(super) const fn bytes(min: u64, max: u64) -> Range {
        Range { min, max, noun: "in range", unit: " bytes" }
    }

    /// Milliseconds.
    pub(super) const fn ms(min: u64, max: u64) -> Range {
        Range { min, max, noun: "in range", unit: " ms" }
    }

    /// Any number.
    pub(super) const ANY: Range = Range::plain(0, u64::MAX);

    /// TCP and UDP ports.
    pub(super) const PORT: Range = Range { min: 1, max: 65_535, noun: "a port", unit: "" };

    /// Both ends, with the unit.
    pub(super) fn shown(&self) -> String {
        format!("{} to {}{}", self.min, self.max, self.unit)
    }
}

/// Strings of a file with their meanings.
type Names<T, const N: usize> = [(&'static str, T); N];

pub(super) const MANAGEMENT_DIALECTS: Names<AdminDialect, 2> = [
    (AdminDialect::Statsring.name(), AdminDialect::Statsring),
    (AdminDialect::ProxyJs.name(), AdminDialect::ProxyJs),
];
pub(super) const ADDRESS_FAMILIES: Names<AddressFamily, 3> = [
    (AddressFamily::Any.name(), AddressFamily::Any),
    (AddressFamily::Ipv4.name(), AddressFamily::Ipv4),
    (AddressFamily::Ipv6.name(), AddressFamily::Ipv6),
];
pub(super) const ON_NODE_DOWN: Names<OnNodeDown, 2> =
    [("divert", OnNodeDown::Divert), ("drop", OnNodeDown::Drop)];
pub(super) const ENGINES: Names<Option<Engine>, 3> = [
    ("auto", None),
    (Engine::IoUring.name(), Some(Engine::IoUring)),
    (Engine::Portable.name(), Some(Engine::Portable)),
];
pub(super) const SPREADS: Names<Spread, 3> = [
    (Spread::Flow.name(), Spread::Flow),
    (Spread::Datagram.name(), Spread::Datagram),
    (Spread::Cpu.name(), Spread::Cpu),
];
pub(super) const MALFORMED: Names<Malformed, 2> =
    [("drop", Malformed::Drop), ("forward", Malformed::Forward)];
pub(super) const GSO: Names<Gso, 4> = Gso::NAMES;
pub(super) const LOG_FORMATS: Names<LogFormat, 2> = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// The string of a meaning.
pub(super) fn name_of<T: PartialEq, const N: usize>(names: &Names<T, N>, meaning: &T) -> &'static str {
    names.iter().find(|(_, known)| known == meaning).map_or("", |(word, _)| word)
}

const fn strings<T, const N: usize>(names: &Names<T, N>) -> [&'static str; N] {
    let mut strings = [""; N];
    let mut index = 0;
    while index < N {
        strings[index] = names[index].0;
        index += 1;
    }
    strings
}

const fn hashing_names() -> [&'static str; Hashing::ALL.len()] {
    let mut names = [""; Hashing::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = Hashing::ALL[index].name();
        index += 1;
    }
    names
}

const fn names<const N: usize>(keys: &[Key; N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = keys[index].name;
        index += 1;
    }
    names
}

/// More points than even distribution needs.
const WEIGHT: Range = Range { min: 1, max: 1_000, noun: "a weight", unit: "" };
/// Up to a day.
const REOPEN_MS: Range = Range::ms(0, 86_400_000);
/// A shorter packet or datagram would hold hardly any metric.
const PACKET_BYTES_MIN: u64 = 64;
const PACKET_BYTES: Range = Range::bytes(PACKET_BYTES_MIN, DATAGRAM_BYTES_LIMIT as u64);
/// The kernel doubles what is requested, in a signed 32-bit number.
const SOCKET_BUFFER: Range = Range::bytes(4_096, (i32::MAX / 2) as u64);
/// No more than all backends share.
const QUEUE: Range = Range::bytes(PACKET_BYTES_MIN, BACKLOG_BYTES_MAX as u64);
/// At 16 bytes an entry these are 256 MiB per worker.
const CACHE_ENTRIES: Range = Range::plain(0, 1 << 24);
/// Up to a day; checks less than 10 ms apart would be load.
const CHECK_MS: Range = Range::ms(10, 86_400_000);
const CHECK_COUNT: Range = Range::plain(1, 100);
/// An hour.
const SHUTDOWN_MS_MAX: u64 = 3_600_000;
/// Longer, and metrics would be counted in the backend's next flush interval.
const FLUSH_MS_MAX: u64 = 1_000;
const WORKERS: Range = Range::plain(1, 64);
/// As many CPUs as a set of them can name.
const CPU: Range = Range { min: 0, max: 1_023, noun: "a CPU", unit: "" };

/// The keys of a file, in the order in which they are shown.
pub const KEYS: [Key; 38] = [
    Key {
        name: "host",
        kind: Kind::Host,
        default: DefaultValue::Rule("every IPv4 and IPv6 address"),
        is_reloadable: false,
        meaning: "Address on which metrics are received over UDP.",
    },
    Key {
        name: "port",
        kind: Kind::Whole { range: Range::PORT },
        default: DefaultValue::Value("8125"),
        is_reloadable: false,
        meaning: "UDP port on which metrics are received.",
    },
    Key {
        name: "freebind",
        kind: Kind::Flag,
        default: DefaultValue::Value("false"),
        is_reloadable: false,
        meaning: "Listen on addresses that this host does not have yet (IP_FREEBIND), such as one that keepalived moves between hosts.",
    },
    Key {
        name: "managementHost",
        kind: Kind::Host,
        default: DefaultValue::Rule("localhost, IPv4 and IPv6"),
        is_reloadable: false,
        meaning: "Address of the [admin port](../operations/admin-port.md). There is no authentication: bind it to a trusted interface.",
    },
    Key {
        name: "managementPort",
        kind: Kind::Whole { range: Range::PORT },
        default: DefaultValue::Value("8126"),
        is_reloadable: false,
        meaning: "TCP port of the admin port.",
    },
    Key {
        name: "managementNames",
        kind: Kind::Hostnames,
        default: DefaultValue::Value("[]"),
        is_reloadable: true,
        meaning: "Further names by which [HTTP](../operations/http.md#host-names) requests may address the proxy; `[\"*\"]` accepts every name.",
    },
    Key {
        name: "managementAllowChanges",
        kind: Kind::Flag,
        default: DefaultValue::Value("false"),
        is_reloadable: false,
        meaning: "Accept commands that change something from other hosts too.",
    },
    Key {
        name: "managementDialect",
        kind: Kind::OneOf { names: &strings(&MANAGEMENT_DIALECTS) },
        default: DefaultValue::Value("\"statsring\""),
        is_reloadable: true,
        meaning: "With `\"proxy.js\"`, the admin port speaks the [dialect of `proxy.js`](../operations/admin-port.md#the-dialect-of-proxyjs).",
    },
    Key {
        name: "nodes",
        kind: Kind::Nodes,
        default: DefaultValue::Required,
        is_reloadable: true,
        meaning: "The backends, 1 to 2,000. **Their order is part of the [placement](../placement/README.md)**: add at the end, do not reorder.",
    },
    Key {
        name: "addressFamily",
        kind: Kind::OneOf { names: &strings(&ADDRESS_FAMILIES) },
        default: DefaultValue::Rule("`\"any\"`; as `proxy.js` does in its configs"),
        is_reloadable: true,
        meaning: "Which of the addresses of a backend's hostname to use: any, IPv4 first, or one family only. See [Names and addresses](../operations/names.md).",
    },
    Key {
        name: "hashing",
        kind: Kind::OneOf { names: &hashing_names() },
        default: DefaultValue::Value("\"jump\""),
        is_reloadable: true,
        meaning: "How names are assigned to backends: see [Choosing a hashing](../placement/hashing.md).",
    },
    Key {
        name: "onNodeDown",
        kind: Kind::OneOf { names: &strings(&ON_NODE_DOWN) },
        default: DefaultValue::Rule("`\"divert\"`; `\"drop\"` with `ketama`, `murmur3`, `jump-fnv1a`"),
        is_reloadable: true,
        meaning: "Names of a backend that is down: divert them to the others, or drop and count their metrics.",
    },
    Key {
        name: "readyWithoutBackends",
        kind: Kind::Flag,
        default: DefaultValue::Value("true"),
        is_reloadable: true,
        meaning: "With `false`, [`/readyz`](../operations/http.md) and `health` report not ready while no backend is up, so that a load balancer sends elsewhere; several proxies with the same backends are then taken out together.",
    },
    Key {
        name: "checkInterval",
        kind: Kind::Whole { range: CHECK_MS },
        default: DefaultValue::Value("10000"),
        is_reloadable: true,
        meaning: "Time between two [health checks](../operations/health-checks.md) of a backend.",
    },
    Key {
        name: "checkTimeout",
        kind: Kind::Whole { range: CHECK_MS },
        default: DefaultValue::Rule("1000, or `checkInterval` if less"),
        is_reloadable: true,
        meaning: "Total time that a check may take.",
    },
    Key {
        name: "checkFast",
        kind: Kind::Whole { range: CHECK_MS },
        default: DefaultValue::Rule("1000, or `checkInterval` if less"),
        is_reloadable: true,
        meaning: "Time between two checks while results contradict the current state.",
    },
    Key {
        name: "checkFall",
        kind: Kind::Whole { range: CHECK_COUNT },
        default: DefaultValue::Value("3"),
        is_reloadable: true,
        meaning: "Failures in a row that take a backend out.",
    },
    Key {
        name: "checkRise",
        kind: Kind::Whole { range: CHECK_COUNT },
        default: DefaultValue::Value("2"),
        is_reloadable: true,
        meaning: "Successes in a row that bring a backend back.",
    },
    Key {
        name: "engine",
        kind: Kind::OneOf { names: &strings(&ENGINES) },
        default: DefaultValue::Value("\"auto\""),
        is_reloadable: false,
        meaning: "I/O interface of the data path: see [io_uring and the portable engine](../tuning/engine.md).",
    },
    Key {
        name: "workers",
        kind: Kind::WholeOrAuto { range: WORKERS },
        default: DefaultValue::Value("\"auto\""),
        is_reloadable: false,
        meaning: "Number of [worker threads](../tuning/workers.md); `\"auto\"` is half of the CPUs that the process may use, at least 1, at most 4.",
    },
    Key {
        name: "pinWorkers",
        kind: Kind::Cpus { range: CPU },
        default: DefaultValue::Value("false"),
        is_reloadable: false,
        meaning: "Pin each worker to a CPU: `true` to those that the process may use, in order; a list, such as `[2, 3]`, names one CPU per worker.",
    },
    Key {
        name: "spread",
        kind: Kind::OneOf { names: &strings(&SPREADS) },
        default: DefaultValue::Value("\"flow\""),
        is_reloadable: false,
        meaning: "How datagrams are distributed among [workers](../tuning/workers.md): by sender, each at random, or by the CPU on which they arrive.",
    },
    Key {
        name: "flushInterval",
        kind: Kind::Milliseconds { max: FLUSH_MS_MAX },
        default: DefaultValue::Value("5"),
        is_reloadable: true,
        meaning: "Longest time that a metric is held to be [packed](../tuning/cpu-latency.md) with others; 0 = none.",
    },
    Key {
        name: "maxPacketSize",
        kind: Kind::WholeOrAuto { range: PACKET_BYTES },
        default: DefaultValue::Value("1432"),
        is_reloadable: true,
        meaning: "Largest packet that metrics are packed into; `\"auto\"` is the MTU of the path to each backend, 512 to 8192.",
    },
    Key {
        name: "maxDatagramSize",
        kind: Kind::Whole { range: PACKET_BYTES },
        default: DefaultValue::Value("8192"),
        is_reloadable: false,
        meaning: "Largest datagram that is received completely; of a longer one, the complete lines are forwarded.",
    },
    Key {
        name: "receiveBuffer",
        kind: Kind::Whole { range: SOCKET_BUFFER },
        default: DefaultValue::Value("8388608"),
        is_reloadable: false,
        meaning: "Size of the receive [buffer](../tuning/buffers.md) that is requested for each listening socket; the kernel accounts twice as much.",
    },
    Key {
        name: "sendBuffer",
        kind: Kind::Whole { range: SOCKET_BUFFER },
        default: DefaultValue::Value("1048576"),
        is_reloadable: false,
        meaning: "Size of the send buffer that is requested for each backend's socket.",
    },
    Key {
        name: "queue",
        kind: Kind::Whole { range: QUEUE },
        default: DefaultValue::Value("262144"),
        is_reloadable: true,
        meaning: "Bytes that each worker may queue for a busy backend; at least `maxPacketSize`.",
    },
    Key {
        name: "reopenInterval",
        kind: Kind::Whole { range: REOPEN_MS },
        default: DefaultValue::Value("60000"),
        is_reloadable: true,
        meaning: "Time after which a socket to a backend is replaced by a new one, with another source port; 0 = never. See [Names and addresses](../operations/names.md#when-addresses-change).",
    },
    Key {
        name: "cacheSize",
        kind: Kind::Whole { range: CACHE_ENTRIES },
        default: DefaultValue::Rule("10000"),
        is_reloadable: false,
        meaning: "Names whose backend each worker caches, rounded up to a power of two, at least 4096; 0 = none.",
    },
    Key {
        name: "malformed",
        kind: Kind::OneOf { names: &strings(&MALFORMED) },
        default: DefaultValue::Value("\"drop\""),
        is_reloadable: true,
        meaning: "Lines without a name or without a `|`: drop and count them, or forward them by their whole text. With the `hashing` of another proxy, lines that it does not forward.",
    },
    Key {
        name: "gso",
        kind: Kind::OneOf { names: &strings(&GSO) },
        default: DefaultValue::Value("\"auto\""),
        is_reloadable: false,
        meaning: "Hand several packets for a backend to the kernel in [one system call](../tuning/cpu-latency.md#gso): padded with newlines, unpadded, or not at all; `\"auto\"` pads for backends with an `adminport`. [Some servers count or log empty lines](../tuning/servers.md).",
    },
    Key {
        name: "gro",
        kind: Kind::Flag,
        default: DefaultValue::Value("false"),
        is_reloadable: false,
        meaning: "Receive the packets that another proxy sends in one system call in one, too: see [Chains of proxies](../tuning/chains.md); the receive buffers take about 4 MiB per worker instead of 2. Sockets passed to a new process keep it as it is.",
    },
    Key {
        name: "timestamps",
        kind: Kind::Flag,
        default: DefaultValue::Value("false"),
        is_reloadable: false,
        meaning: "Have the kernel stamp each datagram, to measure [latency](../monitoring/latency.md) exactly; costs CPU per datagram and about 2 MiB per worker.",
    },
    Key {
        name: "shutdownDelay",
        kind: Kind::Whole { range: Range::ms(0, SHUTDOWN_MS_MAX) },
        default: DefaultValue::Value("0"),
        is_reloadable: false,
        meaning: "Time that forwarding continues after SIGTERM while `health` reports down.",
    },
    Key {
        name: "shutdownTimeout",
        kind: Kind::Whole { range: Range::ms(1, SHUTDOWN_MS_MAX) },
        default: DefaultValue::Value("5000"),
        is_reloadable: false,
        meaning: "Longest time that a stop may take; metrics still pending are then dropped and counted.",
    },
    Key {
        name: "handoverTimeout",
        kind: Kind::Whole { range: Range::ms(1, SHUTDOWN_MS_MAX) },
        default: DefaultValue::Value("30000"),
        is_reloadable: true,
        meaning: "Time within which a new process must be ready after [SIGUSR2](../operations/restart.md); else the old one continues.",
    },
    Key {
        name: "logFormat",
        kind: Kind::OneOf { names: &strings(&LOG_FORMATS) },
        default: DefaultValue::Value("\"text\""),
        is_reloadable: false,
        meaning: "Format of the log on standard error.",
    },
];

/// The keys of one node.
pub const NODE_KEYS: [Key; 6] = [
    Key {
        name: "host",
        kind: Kind::Host,
        default: DefaultValue::Required,
        is_reloadable: true,
        meaning: "Where its metrics are sent. `host:port`, as written, is the backend's identity, and must be unique, except with `murmur3` and `jump-fnv1a`.",
    },
    Key {
        name: "port",
        kind: Kind::Whole { range: Range::PORT },
        default: DefaultValue::Required,
        is_reloadable: true,
        meaning: "UDP port to which its metrics are sent.",
    },
    Key {
        name: "adminport",
        kind: Kind::Whole { range: Range::PORT },
        default: DefaultValue::Rule("none"),
        is_reloadable: true,
        meaning: "TCP port for [health checks](../operations/health-checks.md); without one, it is considered up unless it refuses metrics or cannot be reached.",
    },
    Key {
        name: "weight",
        kind: Kind::Whole { range: WEIGHT },
        default: DefaultValue::Value("1"),
        is_reloadable: true,
        meaning: "With `ketama` only: its share of the names relative to the others; 20,000 in total at most.",
    },
    Key {
        name: "disabled",
        kind: Kind::Flag,
        default: DefaultValue::Value("false"),
        is_reloadable: true,
        meaning: "Keep its position, but send it nothing; the others serve its names, regardless of `onNodeDown`.",
    },
    Key {
        name: "gso",
        kind: Kind::OneOf { names: &strings(&GSO) },
        default: DefaultValue::Rule("`gso` of the file"),
        is_reloadable: true,
        meaning: "As `gso` of the file, for this backend.",
    },
];

/// The keys that only StatsD's `proxy.js` has.
const OF_PROXY_JS: [Key; 10] = [
    of_proxy_js("mgmt_port", Kind::Whole { range: Range::PORT }),
    of_proxy_js("mgmt_address", Kind::Host),
    of_proxy_js("address", Kind::Host),
    of_proxy_js("address_ipv6", Kind::OfProxyJs),
    of_proxy_js("udp_version", Kind::OfProxyJs),
    // As many workers as statsring has at most; 0 and 1 are one process.
    of_proxy_js("forkCount", Kind::WholeOrAuto { range: Range::plain(0, WORKERS.max) }),
    of_proxy_js("server", Kind::OfProxyJs),
    of_proxy_js("log", Kind::OfProxyJs),
    of_proxy_js("healthStatus", Kind::OfProxyJs),
    of_proxy_js("automaticConfigReload", Kind::OfProxyJs),
];

/// What these keys mean is in the book, beside what they mean there.
const fn of_proxy_js(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, default: DefaultValue::Rule("none"), is_reloadable: false, meaning: "" }
}

/// The names of [`KEYS`].
pub(super) const KEY_NAMES: [&str; KEYS.len()] = names(&KEYS);
/// The names of [`NODE_KEYS`].
pub(super) const NODE_KEY_NAMES: [&str; NODE_KEYS.len()] = names(&NODE_KEYS);
/// The names of the keys that only StatsD's `proxy.js` has.
pub const PROXY_JS_KEYS: [&str; OF_PROXY_JS.len()] = names(&OF_PROXY_JS);

/// The known keys of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known(&'static [&'static [Key]]);

impl Known {
    /// In a file of statsring's own.
    pub(super) const FILE: Known = Known(&[&KEYS]);
    /// In one of `proxy.js`.
    pub(super) const PROXY_JS_FILE: Known = Known(&[&KEYS, &OF_PROXY_JS]);
    /// In an entry of `nodes`.
    pub(super) const NODE: Known = Known(&[&NODE_KEYS]);

    /// All of them.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static Key> {
        self.0.iter().copied().flatten()
    }

    /// Their names.
    pub(super) fn names(self) -> Vec<&'static str> {
        self.keys().map(|key| key.name).collect()
    }

    /// Type and range of a key.
    pub(super) fn kind(self, name: &str) -> Option<Kind> {
        self.keys().find(|key| key.name == name).map(|key| key.kind)
    }
}

/// Whether a reload may change a key of the file.
pub(super) fn is_reloadable(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name && key.is_reloadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_defaults_in_the_table_are_those_of_a_config() {
        let shown =
            crate::config::parse(r#"{"nodes": [{"host": "a", "port": 1}]}"#).unwrap().config.to_json();
        for key in &KEYS {
            if let DefaultValue::Value(default) = key.default {
                assert_eq!(shown[key.name], serde_json::from_str::<Value>(default).unwrap(), "{}", key.name);
            }
        }
        for key in NODE_KEYS.iter().filter(|key| key.name != "weight") {
            if let DefaultValue::Value(default) = key.default {
                let default: Value = serde_json::from_str(default).unwrap();
                assert_eq!(shown["nodes"][0][key.name], default, "{}", key.name);
            }
        }
    }

    #[test]
    fn a_config_is_shown_with_every_key_in_the_tables_order() {
        let shown = crate::config::parse(r#"{"hashing": "ketama", "nodes": [{"host": "a", "port": 1}]}"#)
            .unwrap()
            .config
            .to_json();
        let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&shown), KEY_NAMES);
        assert_eq!(names(&shown["nodes"][0]), NODE_KEY_NAMES);
    }

    #[test]
    fn every_key_is_explained_in_sentences() {
        for key in KEYS.iter().chain(&NODE_KEYS) {
            assert!(key.meaning.ends_with('.') && !key.values().is_empty(), "{}", key.name);
        }
    }
}
