//! A snapshot of the running proxy: everything that the commands show, as plain data.
//!
//! In: collected by `control/` on request. Out: rendered by `reply.rs` and its siblings. Next: `reply.rs`.

use super::counters::AdminCounters;
use super::readiness::Readiness;
use crate::driver::DriverInfo;
use crate::logging::LogFigures;
use crate::placement::Fingerprint;
use crate::stats::alloc::HeapFigures;
use crate::stats::host::{HostUdp, Process};
use crate::stats::{Counter, Counters, ErrorView, Latency, Sleep};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The proxy at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The workers' clock (`Driver::now_us`) at the snapshot: the reference for the times in their counters.
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
    /// Whether kernel timestamps are requested, so that latencies are also measured exactly.
    pub timestamps: bool,
    /// The backends, in the config's order.
    pub backends: Vec<BackendView>,
    /// The backends that serve names, in the placement's order.
    pub ring: Vec<Arc<str>>,
    /// How datagrams are distributed among workers: `flow` or `datagram`, as in effect.
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
    /// The receive buffer requested for each listening socket, in bytes; the granted size is in the workers' facts.
    pub receive_buffer_asked_bytes: usize,
    /// The value of `gso`.
    pub gso: &'static str,
    /// Whether listening sockets join datagrams (UDP_GRO).
    pub gro: bool,
    /// Optimizations in effect.
    pub tuning: TuningView,
    /// The host's UDP errors, where they can be read.
    pub host_udp: Option<HostUdp>,
    /// The admin port's counters.
    pub admin: AdminCounters,
    /// Operations that failed for lack of descriptors, memory, threads or ports, with their number.
    pub shortages: Vec<(&'static str, u64)>,
    /// Figures of the log.
    pub log: LogFigures,
    /// Memory.
    pub memory: MemoryView,
    /// The process ID.
    pub pid: u32,
    /// The kernel's figures of this process.
    pub process: Process,
    /// Origin of its sockets, if it did not create them.
    pub origin: Option<String>,
    /// State of the last restart, if one was requested, and seconds since it reached that.
    pub last_restart: Option<(u64, String)>,
    /// How the last reload ended, if there was one.
    pub last_reload: Option<LastReload>,
    /// Degradations, one sentence each.
    pub degraded: Vec<String>,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastReload {
    /// Seconds since then.
    pub ago_s: u64,
    /// The report to the operator.
    pub message: String,
    /// Whether it was applied.
    pub succeeded: bool,
}

/// One worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerView {
    /// Its counters, one consistent snapshot.
    pub counters: Counters,
    /// Resources granted to its driver; `None` until it has started.
    pub driver_info: Option<DriverInfo>,
    /// CPU time of its thread, in µs, if it can be read.
    pub cpu_us: Option<u64>,
    /// Datagrams dropped by the kernel at each of its listening sockets, in the order of the addresses; empty until it has
    /// started.
    pub socket_drops: Vec<u64>,
    /// When the kernel last dropped there, on the workers' clock.
    pub socket_dropped_us: Option<u64>,
    /// The CPU that it is pinned to, if any.
    pub pinned_to: Option<usize>,
    /// How it sleeps.
    pub sleep: Sleep,
}

/// One backend, over all workers.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Its identity, as in the config.
    pub name: Arc<str>,
    /// Whether it receives metrics, and why not.
    pub state: BackendState,
    /// Its addresses in the order of trial.
    pub addresses: Vec<(SocketAddr, AddressRole)>,
    /// The admin port that answered its last good check.
    pub answering: Option<SocketAddr>,
    /// Seconds since it entered this state.
    pub since_s: u64,
    /// Result of its health checks, regardless of the operator; `None` if it is not checked.
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
    /// Sends that reported its host as unreachable.
    pub unreachable: u64,
    /// Errors reported by its sends and by ICMP, by kind, the latest first.
    pub errors: Vec<ErrorView>,
    /// Datagrams that its socket dropped, if it is on this host.
    pub kernel_drops: Option<u64>,
    /// How its packets are batched: `padded`, `unpadded` or `off`.
    pub gso: &'static str,
    /// Of the packets, those that were batched.
    pub datagrams_gso: u64,
    /// Batches that were refused.
    pub gso_refused: u64,
    /// Why its packets are sent one by one, if the kernel refuses batches.
    pub gso_errno: Option<i32>,
    /// Sockets to it that were replaced by new ones.
    pub sockets_reopened: u64,
    /// The largest packet that metrics for it are packed into; 0 until known.
    pub packet_bytes_max: usize,
    /// The largest packet that its path MTU permits, if known.
    pub path_payload_bytes: Option<usize>,
    /// Packets accepted that are longer.
    pub packets_fragmented: u64,
}

impl BackendView {
    /// Packets that were accepted and later reported as undelivered by an ICMP error.
    pub fn undelivered(&self) -> u64 {
        self.errors.iter().map(|error| error.undelivered).sum()
    }
}

/// One metric on its way, as `tap` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// The whole line.
    pub line: Vec<u8>,
    /// The identity of the backend that gets it.
    pub node: Arc<str>,
}

/// What an address of a backend is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// In use for metrics.
    InUse,
    /// In use for metrics although it refuses them: the others do too.
    Refuses,
    /// Refused metrics, so another one is used.
    Refused,
    /// It is tried when the one in use refuses.
    Spare,
    /// Excluded from metrics by `addressFamily`; it may answer checks.
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
    /// The address that its metrics are sent to.
    pub fn address(&self) -> Option<SocketAddr> {
        let is_used = |role: AddressRole| matches!(role, AddressRole::InUse | AddressRole::Refuses);
        self.addresses.iter().find(|(_, role)| is_used(*role)).map(|(address, _)| *address)
    }
}

/// Whether a backend receives metrics, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// Receives metrics.
    Up,
    /// Its checks fail, or it refuses.
    Down,
    /// Disabled in the config.
    Disabled,
    /// Its name does not resolve.
    Unresolved,
    /// The proxy itself listens there: metrics would loop.
    OwnAddress,
    /// Drained by the operator: its names are served by the others.
    Drain,
    /// Set to down by the operator.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// A time of the workers' clock as text: how long ago, and by the wall clock (UTC).
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
    /// 1 is even; the number of workers means all at one; 1 until something was received.
    pub fn worker_skew(&self) -> f64 {
        let counts = self.workers.iter().map(|worker| worker.counters.get(Counter::DatagramsReceived));
        let (busiest, sum) = counts.fold((0, 0), |(busiest, sum), count| (count.max(busiest), sum + count));
        if sum == 0 { 1.0 } else { busiest as f64 * self.workers.len() as f64 / sum as f64 }
    }

    /// Resources granted to the workers that have started.
    pub fn driver_info(&self) -> impl Iterator<Item = &DriverInfo> {
        self.workers.iter().filter_map(|worker| worker.driver_info.as_ref())
    }
}

/// What is the same for all workers and backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TuningView {
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
            datagrams_gso: metrics_sent / 20,
            gso_refused: 0,
            sockets_reopened: 4,
            gso_errno: None,
            packet_bytes_max: 1432,
            path_payload_bytes: (state != BackendState::Unresolved).then_some(1472),
            packets_fragmented: 0,
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
            gro: false,
            tuning: TuningView {
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
            let driver_info = DriverInfo {
                engine: "io_uring",
                receive_buffer_bytes: granted,
                buffer_bytes: 1_000,
                ring_bytes: 200,
                restrictions: Restrictions::InForce,
                ..DriverInfo::default()
            };
            view.workers.push(WorkerView {
                counters,
                driver_info: Some(driver_info),
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
