//! The bounds of one worker's memory, computed from the config in one place and printed at start.
//!
//! In: `Config`. Out: sizes for the driver and the relay. Next: `worker/mod.rs`.

use crate::config::Config;
use crate::stats::{LatencyKind, new_histogram};
use std::fmt;
use crate::driver::DriverLimits;
use crate::relay::RelayLimits;

/// Most backends a config may list.
pub const NODES_MAX: usize = 2_000;
/// Bytes of receive buffers per worker, aimed at.
const RECEIVE_BYTES_TARGET: usize = 8 << 20;
/// Fewest and most receive buffers.
const BUFFERS_MIN: usize = 64;
const BUFFERS_MAX: usize = 4_096;
/// The header the kernel writes in front of each datagram.
const BUFFER_HEADER_BYTES: usize = 16;
/// Sends submitted at once.
const SENDS_MAX: usize = 512;
/// Bytes that all backends together may have waiting, per worker, whatever `queue` says.
pub const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// Sizes that hold for a worker's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest datagram taken whole.
    pub datagram_bytes_max: usize,
    /// Receive buffers.
    pub buffers: usize,
    /// Bytes of one, header included.
    pub buffer_bytes: usize,
    /// Packets that may be with the driver at once.
    pub sends_max: usize,
    /// Socket slots for backends; a reload needs those of the old and of the new list.
    pub sockets_max: usize,
    /// Bytes of packets that may wait for busy backends.
    pub backlog_bytes_max: usize,
    /// Send buffer to ask for at each backend's socket.
    pub send_buffer_bytes: usize,
}

impl Limits {
    /// The bounds for a config.
    pub fn new(config: &Config) -> Limits {
        let buffer_bytes = config.datagram_bytes_max + BUFFER_HEADER_BYTES;
        Limits {
            datagram_bytes_max: config.datagram_bytes_max,
            buffers: (RECEIVE_BYTES_TARGET / buffer_bytes).clamp(BUFFERS_MIN, BUFFERS_MAX),
            buffer_bytes,
            sends_max: SENDS_MAX,
            sockets_max: (config.nodes.len() * 2 + 64).min(2 * NODES_MAX),
            backlog_bytes_max: BACKLOG_BYTES_MAX,
            send_buffer_bytes: config.send_buffer_bytes,
        }
    }

    /// Those of the driver.
    pub fn driver(&self) -> DriverLimits {
        DriverLimits {
            buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            sends_max: self.sends_max,
            sockets_max: self.sockets_max,
            send_buffer_bytes: self.send_buffer_bytes,
        }
    }

    /// Those of the relay.
    pub fn relay(&self) -> RelayLimits {
        RelayLimits {
            sends_max: self.sends_max,
            backlog_bytes_max: self.backlog_bytes_max,
            datagram_bytes_max: self.datagram_bytes_max,
        }
    }
}

/// Packets that may hold one metric longer than `maxPacketSize` each, per worker.
const OVERSIZED_MAX: usize = 32;
/// A submission and a completion of the ring, in bytes, as the kernel's headers define them.
const SUBMISSION_BYTES: usize = 64 + 4;
const COMPLETION_BYTES: usize = 16;
/// One entry of the ring of receive buffers.
const BUFFER_ENTRY_BYTES: usize = 16;
/// What the driver keeps for a send in flight: message header, vector, packet.
const SEND_SLOT_BYTES: usize = 256;
/// What the relay keeps for a backend beside its open packet.
const BACKEND_BYTES: usize = 256;
/// What all workers share for a backend: its place in the old and the new route table, its counters, its health.
const SHARED_BACKEND_BYTES: usize = 1_024;
/// Route tables that may live at once: the old one until every worker has seen the new one.
const ROUTE_TABLES: usize = 2;

/// The most memory that a config can make the process take, by what it is for.
///
/// Counted is what grows with the config. Beside it stand the program's own pages and stacks, a few MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    /// Worker threads.
    pub workers: usize,
    /// Parts that each worker has, in bytes.
    pub per_worker: Vec<(&'static str, usize)>,
    /// Parts that the process has once, in bytes.
    pub shared: Vec<(&'static str, usize)>,
    /// Socket memory of the kernel, of all workers, in bytes: not part of the process's own. The kernel grants up to
    /// twice what it is asked for.
    pub kernel: Vec<(&'static str, usize)>,
}

impl MemoryBound {
    /// The bound for a config.
    pub fn new(config: &Config) -> MemoryBound {
        let limits = Limits::new(config);
        let nodes = config.nodes.len();
        let packets = nodes + limits.sends_max;
        let submissions = (2 * limits.sends_max).next_power_of_two();
        let completions = (limits.buffers + 2 * limits.sends_max).next_power_of_two();
        let rings = submissions * SUBMISSION_BYTES
            + completions * COMPLETION_BYTES
            + limits.buffers * BUFFER_ENTRY_BYTES
            + limits.sends_max * SEND_SLOT_BYTES;
        let histogram_bytes = new_histogram().distinct_values() * size_of::<u64>();
        MemoryBound {
            workers: config.workers,
            per_worker: vec![
                ("receive buffers", limits.buffers * limits.buffer_bytes),
                ("packets open and being sent", packets * config.packet_bytes_max),
                ("packets waiting for busy backends", limits.backlog_bytes_max),
                ("metrics longer than a packet", OVERSIZED_MAX * limits.datagram_bytes_max),
                ("backends", limits.sockets_max * BACKEND_BYTES),
                ("rings", rings),
                // One set with the worker, one to swap with.
                ("latency histograms", 2 * LatencyKind::ALL.len() * histogram_bytes),
            ],
            shared: vec![("route tables and health", ROUTE_TABLES * nodes * SHARED_BACKEND_BYTES)],
            kernel: vec![
                (
                    "receive buffers of sockets",
                    2 * config.receive_buffer_bytes * config.listen.len() * config.workers,
                ),
                ("send buffers of sockets", 2 * config.send_buffer_bytes * nodes * config.workers),
            ],
        }
    }

    /// The sum of one worker's parts, in bytes.
    pub fn worker_bytes(&self) -> usize {
        sum(&self.per_worker)
    }

    /// The bound for the whole process, in bytes, without the kernel's socket memory.
    pub fn total_bytes(&self) -> usize {
        self.workers * self.worker_bytes() + sum(&self.shared)
    }

    /// The sum of the kernel's parts, in bytes.
    pub fn kernel_bytes(&self) -> usize {
        sum(&self.kernel)
    }
}

fn sum(parts: &[(&'static str, usize)]) -> usize {
    parts.iter().map(|(_, bytes)| bytes).sum()
}

/// A line for the total, then one for each part.
impl fmt::Display for MemoryBound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "memory bound: {} ({} for each of {}), and at most {} of the kernel's socket memory",
            Mib(self.total_bytes()),
            Mib(self.worker_bytes()),
            if self.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", self.workers) },
            Mib(self.kernel_bytes()),
        )?;
        for (owner, parts) in
            [("worker", &self.per_worker), ("process", &self.shared), ("kernel", &self.kernel)]
        {
            for (name, bytes) in parts {
                writeln!(formatter, "  {owner}: {bytes:>12} bytes  {name}")?;
            }
        }
        Ok(())
    }
}

struct Mib(usize);

impl fmt::Display for Mib {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.1} MiB", self.0 as f64 / (1 << 20) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn bound(text: &str) -> MemoryBound {
        MemoryBound::new(&parse(text).expect("a good config").config)
    }

    #[test]
    fn the_defaults_stay_below_16_mib() {
        let nodes = r#"{"host": "192.0.2.1", "port": 1}, {"host": "192.0.2.2", "port": 1}, {"host": "192.0.2.3", "port": 1}"#;
        let bound = bound(&format!(r#"{{"workers": 1, "nodes": [{nodes}]}}"#));
        assert!(bound.total_bytes() < 16 << 20, "{bound}");
        assert_eq!(bound.kernel_bytes(), 2 * 2 * (8 << 20) + 3 * 2 * (1 << 20));
        assert!(bound.to_string().contains("for each of 1 worker)"), "{bound}");
    }

    #[test]
    fn the_bound_is_the_sum_of_its_parts_times_workers() {
        let one = bound(r#"{"workers": 1, "nodes": [{"host": "192.0.2.1", "port": 1}]}"#);
        let three = bound(r#"{"workers": 3, "nodes": [{"host": "192.0.2.1", "port": 1}]}"#);
        let shared: usize = one.shared.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(one.worker_bytes(), one.per_worker.iter().map(|(_, bytes)| bytes).sum::<usize>());
        assert_eq!(three.total_bytes(), 3 * one.worker_bytes() + shared);
        assert_eq!(three.kernel_bytes(), 3 * one.kernel_bytes());
    }

    #[test]
    fn the_largest_config_has_a_bound_too() {
        let nodes: Vec<String> =
            (0..NODES_MAX).map(|i| format!(r#"{{"host": "n{i}.example", "port": 1}}"#)).collect();
        let bound = bound(&format!(
            r#"{{"nodes": [{}], "workers": 64, "maxPacketSize": 65507, "maxDatagramSize": 65507}}"#,
            nodes.join(",")
        ));
        assert!(bound.total_bytes() < 16 << 30, "{bound}");
    }
}
