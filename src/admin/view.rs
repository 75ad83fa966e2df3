//! What the running proxy looks like at one moment: everything that the commands show, as plain data.
//!
//! In: gathered by `control/` on request. Out: rendered by `reply.rs` and its neighbours. Next: `reply.rs`.

use super::counters::AdminCounters;
use super::readiness::Readiness;
use crate::driver::Facts;
use crate::logging::LogFigures;
use crate::placement::Fingerprint;
use crate::stats::alloc::HeapFigures;
use crate::stats::host::{HostUdp, Process};
use crate::stats::{Counter, Counters, ErrorView, Latency, Sleep};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The proxy at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The workers' clock (`Driver::now_us`) when this was gathered: the moments in their counters are told from it.
    pub now_us: u64,
    /// The wall clock at the same moment: time since the Unix epoch.
    pub unix_time: Duration,
    /// What `health` answers: up (true) or down.
    pub health_up: bool,
    /// The same with the reason.
    pub readiness: Readiness,
    /// When the process started: time since the Unix epoch.
    pub started_unix_time: Duration,
    /// When the config in force was read: time since the Unix epoch.
    pub config_unix_time: Duration,
    /// The workers, by index.
    pub workers: Vec<WorkerView>,
    /// The histograms of all workers since the start.
    pub latency: Latency,
    /// Whether the kernel's timestamps are asked for, so that latencies are measured exactly too.
    pub timestamps: bool,
    /// The backends, in the config's order.
    pub backends: Vec<BackendView>,
    /// The backends that serve names, in the placement's order.
    pub ring: Vec<Arc<str>>,
    /// Which worker gets a datagram: `flow` or `datagram`, as it really is.
    pub spread: &'static str,
    /// The value of `hashing`.
    pub placement: &'static str,
    /// The numbers by which the placement in force can be compared with those of other proxies.
    pub fingerprint: Option<Fingerprint>,
    /// Where metrics come in.
    pub listen: Vec<SocketAddr>,
    /// Where the admin port listens.
    pub management: Vec<SocketAddr>,
    /// `maxDatagramSize`, in bytes.
    pub datagram_bytes_max: usize,
    /// What each listening socket asked for as its receive buffer, in bytes; what was granted is in the workers' facts.
    pub receive_buffer_asked_bytes: usize,
    /// The value of `gso`.
    pub gso: &'static str,
    /// What keeps the cost of a metric low.
    pub levers: LeversView,
    /// The host's UDP errors, where they can be read.
    pub host_udp: Option<HostUdp>,
    /// What happened at the admin port.
    pub admin: AdminCounters,
    /// What this process could not do for want of descriptors, memory, threads or ports: each operation with how often.
    pub shortages: Vec<(&'static str, u64)>,
    /// What became of the log's lines.
    pub log: LogFigures,
    /// Memory.
    pub memory: MemoryView,
    /// This process's number.
    pub pid: u32,
    /// What the kernel says of this process.
    pub process: Process,
    /// Where its sockets come from, if it did not make them.
    pub origin: Option<String>,
    /// How the last restart stands, if one was asked for, and how many seconds ago it came to that.
    pub last_restart: Option<(u64, String)>,
    /// How the last reload ended, if there was one.
    pub last_reload: Option<LastReload>,
    /// What works less well than asked for, one sentence each.
    pub degraded: Vec<String>,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// Seconds since then.
    pub ago_s: u64,
    /// What the operator was told.
    pub words: String,
    /// Whether it was applied.
    pub succeeded: bool,
}

/// One worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerView {
    /// Its counters, one consistent snapshot.
    pub counters: Counters,
    /// What its driver was granted; `None` until it has started.
    pub facts: Option<Facts>,
    /// CPU time of its thread, in µs, if it can be read.
    pub cpu_us: Option<u64>,
    /// What the kernel dropped at each of its listening sockets, in the order of the addresses; empty until it has
    /// started.
    pub socket_drops: Vec<u64>,
    /// When the kernel last dropped there, on the workers' clock.
    pub socket_dropped_us: Option<u64>,
    /// The CPU that it keeps to, if it is pinned.
    pub pinned_to: Option<usize>,
    /// How it sleeps.
    pub sleep: Sleep,
}

/// One backend, over all workers.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Its identity, as in the config.
    pub name: Arc<str>,
    /// Whether it gets metrics, and why not.
    pub state: BackendState,
    /// Its addresses in the order in which they are tried.
    pub addresses: Vec<(SocketAddr, AddressRole)>,
    /// The admin port that answered its last good check.
    pub answering: Option<SocketAddr>,
    /// Seconds since it came into this state.
    pub since_s: u64,
    /// What its health says, whatever the operator wants; `None` if it is not looked at.
    pub is_healthy: Option<bool>,
    /// Metrics accepted by this kernel for it.
    pub metrics_sent: u64,
    /// Packets.
    pub datagrams_sent: u64,
    /// Their payload bytes.
    pub bytes_sent: u64,
    /// Metrics for it that were dropped.
    pub metrics_dropped: u64,
    /// Sends that reported a refusal (ECONNREFUSED).
    pub refused: u64,
    /// Sends that reported that its host cannot be reached.
    pub unreachable: u64,
    /// What its sends and the ICMP answers to them reported, by kind, the latest first.
    pub errors: Vec<ErrorView>,
    /// Datagrams that its socket dropped, if it is on this host.
    pub kernel_drops: Option<u64>,
    /// How its packets go with others in one send: `padded`, `unpadded` or `off`.
    pub gso: &'static str,
    /// Of the packets, those that went with others in one send.
    pub datagrams_in_trains: u64,
    /// Trains that were refused.
    pub trains_refused: u64,
    /// Why its packets go one by one, if the kernel refuses trains to it.
    pub trains_errno: Option<i32>,
    /// Sockets to it that were replaced by new ones.
    pub sockets_reopened: u64,
    /// The largest packet that metrics for it are gathered into; 0 until a worker knows.
    pub packet_bytes_max: usize,
}

impl BackendView {
    /// Packets that were accepted and of which an ICMP answer said later that they were not delivered.
    pub fn undelivered(&self) -> u64 {
        self.errors.iter().map(|error| error.undelivered).sum()
    }
}

/// What an address of a backend is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// Metrics go there.
    InUse,
    /// Metrics go there, though it refused them: the others do too.
    Refuses,
    /// It refused metrics, so another one is used.
    Refused,
    /// It is tried when the one in use refuses.
    Spare,
    /// `addressFamily` keeps metrics from it; it may answer checks.
    OtherFamily,
    /// The proxy itself listens there: metrics would loop.
    Own,
}

impl AddressRole {
    /// As users see it.
    pub const fn name(self) -> &'static str {
        match self {
            AddressRole::InUse => "in_use",
            AddressRole::Refuses => "refuses",
            AddressRole::Refused => "refused",
            AddressRole::Spare => "spare",
            AddressRole::OtherFamily => "other_family",
            AddressRole::Own => "own",
        }
    }
}

impl BackendView {
    /// Where its metrics go.
    pub fn address(&self) -> Option<SocketAddr> {
        let is_used = |role: AddressRole| matches!(role, AddressRole::InUse | AddressRole::Refuses);
        self.addresses.iter().find(|(_, role)| is_used(*role)).map(|(address, _)| *address)
    }
}

/// Whether a backend gets metrics, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// It gets metrics.
    Up,
    /// Its checks fail, or it refuses.
    Down,
    /// The config has it switched off.
    Disabled,
    /// Its name does not resolve.
    Unresolved,
    /// It is where the proxy itself listens: metrics would loop.
    OwnAddress,
    /// The operator drains it: its names are served by the others.
    Drain,
    /// The operator has taken it down.
    ForcedDown,
}

impl BackendState {
    /// All of them.
    pub const ALL: [BackendState; 7] = [
        BackendState::Up,
        BackendState::Down,
        BackendState::Disabled,
        BackendState::Unresolved,
        BackendState::OwnAddress,
        BackendState::Drain,
        BackendState::ForcedDown,
    ];

    /// As users see it.
    pub const fn name(self) -> &'static str {
        match self {
            BackendState::Up => "up",
            BackendState::Down => "down",
            BackendState::Disabled => "disabled",
            BackendState::Unresolved => "unresolved",
            BackendState::OwnAddress => "own_address",
            BackendState::Drain => "drain",
            BackendState::ForcedDown => "forced_down",
        }
    }
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryView {
    /// The heap.
    pub heap: HeapFigures,
    /// Packets of all workers, in use or not.
    pub packet_pool_bytes: u64,
    /// Send buffers granted to the backends' sockets of all workers: kernel memory, used only as far as needed.
    pub send_buffer_bytes: u64,
    /// Resident size of the process, if it can be read.
    pub resident_bytes: Option<u64>,
}

impl View {
    /// A moment of the workers' clock, for people: how long ago it was, and when by the wall clock (UTC).
    pub fn moment(&self, at_us: u64) -> String {
        let ago = Duration::from_micros(self.now_us.saturating_sub(at_us));
        let at = SystemTime::UNIX_EPOCH + self.unix_time.saturating_sub(ago);
        format!("{} s ago, at {}", ago.as_secs(), humantime::format_rfc3339_seconds(at))
    }

    /// The counters of all workers together.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::new();
        for worker in &self.workers {
            sum.merge(&worker.counters);
        }
        sum
    }

    /// How unevenly the datagrams are spread over the workers: the busiest worker's number of them, divided by the mean.
    /// 1 is even, the number of workers is all at one; 1 as long as nothing has come.
    pub fn worker_skew(&self) -> f64 {
        let counts = self.workers.iter().map(|worker| worker.counters.get(Counter::DatagramsReceived));
        let (busiest, sum) = counts.fold((0, 0), |(busiest, sum), count| (count.max(busiest), sum + count));
        if sum == 0 { 1.0 } else { busiest as f64 * self.workers.len() as f64 / sum as f64 }
    }

    /// What the workers were granted, as far as they have started.
    pub fn facts(&self) -> impl Iterator<Item = &Facts> {
        self.workers.iter().filter_map(|worker| worker.facts.as_ref())
    }
}

/// A view as the tests of the replies use it.
/// What is the same for all workers and backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeversView {
    /// How lines are found: `AVX2`, `SSE2`, `portable`.
    pub scanner: &'static str,
    /// Names that each worker is to remember: `cacheSize`, rounded up.
    pub cache_names: usize,
    /// Entries of each worker's cache.
    pub cache_entries: usize,
    /// `flushInterval`, in µs.
    pub flush_us: u64,
    /// Whether `maxPacketSize` is `auto`.
    pub packet_auto: bool,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::driver::Restrictions;
    use crate::stats::{DropReason, Exit, LatencyKind};

    pub(in crate::admin) fn backend(name: &str, state: BackendState, metrics_sent: u64) -> BackendView {
        BackendView {
            name: name.into(),
            state,
            addresses: match state {
                BackendState::Unresolved => Vec::new(),
                _ => vec![(SocketAddr::from(([192, 0, 2, 7], 8125)), AddressRole::InUse)],
            },
            answering: None,
            since_s: 40,
            is_healthy: match state {
                BackendState::Disabled | BackendState::Unresolved | BackendState::OwnAddress => None,
                state => Some(state != BackendState::Down),
            },
            metrics_sent,
            datagrams_sent: metrics_sent / 10,
            bytes_sent: metrics_sent * 20,
            metrics_dropped: 1,
            refused: 2,
            unreachable: 0,
            errors: Vec::new(),
            kernel_drops: (metrics_sent > 0).then_some(3),
            gso: "padded",
            datagrams_in_trains: metrics_sent / 20,
            trains_refused: 0,
            sockets_reopened: 4,
            trains_errno: None,
            packet_bytes_max: 1432,
        }
    }

    pub(in crate::admin) fn sample() -> View {
        let mut view = View {
            uptime_s: 51,
            now_us: 60_000_000,
            // 2033-05-18T03:33:20Z
            unix_time: Duration::from_secs(2_000_000_000),
            health_up: true,
            readiness: Readiness::Ready,
            started_unix_time: Duration::from_secs(1_999_999_949),
            config_unix_time: Duration::from_millis(1_999_999_950_250),
            spread: "flow",
            placement: "jump",
            fingerprint: Some(Fingerprint { config: 0x12ab, now: 0xfedc_ba98_7654_3210 }),
            listen: vec!["0.0.0.0:8125".parse().unwrap(), "[::]:8125".parse().unwrap()],
            management: vec!["127.0.0.1:8126".parse().unwrap()],
            datagram_bytes_max: 8_192,
            receive_buffer_asked_bytes: 8 << 20,
            gso: "auto",
            levers: LeversView {
                scanner: "SSE2",
                cache_names: 16_384,
                cache_entries: 32_768,
                flush_us: 5_000,
                packet_auto: false,
            },
            shortages: vec![("check", 3), ("accept", 0)],
            host_udp: Some(HostUdp { rcvbuf_errors: 5, sndbuf_errors: 6 }),
            ..View::default()
        };
        for (received, granted) in [(10, 425_984), (20, 16 << 20)] {
            let mut counters = Counters::new();
            counters.add(Counter::DatagramsReceived, received / 5);
            counters.add(Counter::MetricsReceived, received);
            counters.add(Counter::MetricsSent, received - 3);
            counters.add(Counter::MetricsPending, 1);
            counters.leave(Exit::Dropped(DropReason::Malformed), 2, received * 1_000_000);
            let facts = Facts {
                engine: "io_uring",
                receive_buffer_bytes: granted,
                buffer_bytes: 1_000,
                ring_bytes: 200,
                restrictions: Restrictions::InForce,
                ..Facts::default()
            };
            view.workers.push(WorkerView {
                counters,
                facts: Some(facts),
                cpu_us: Some(received * 3),
                socket_drops: vec![0, 0],
                socket_dropped_us: None,
                pinned_to: None,
                sleep: Sleep::Idle,
            });
        }
        view.latency.record(LatencyKind::Bound, 100, 98);
        view.latency.record(LatencyKind::AfterIdle, 5_000, 2);
        view.backends = vec![
            backend("a:8125", BackendState::Up, 300),
            backend("b:8125", BackendState::Down, 100),
            backend("c:8125", BackendState::Unresolved, 0),
        ];
        view
    }
}
