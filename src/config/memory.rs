//! The most memory that a config can make the process take: printed at start and by `--check`.
//!
//! In: a `Config`. Out: parts with their names. Next: `cli.rs`, `control/`.

use super::Config;
use crate::driver::uring::IoUringKernel;
use crate::driver::{Engine, portable};
use crate::placement::{HashCache, Placement};
use crate::stats::{LatencyKind, new_histogram};
use crate::worker::Limits;
use std::fmt;

/// Driver memory per send in flight: message header, vector, packet.
const SEND_SLOT_BYTES: usize = 256;
/// Relay memory per backend besides its open packet.
const BACKEND_BYTES: usize = 256;
/// Shared memory per backend: its entries in the old and the new route table, its counters, its health.
const SHARED_BACKEND_BYTES: usize = 1_024;
/// Route tables that may live at once: the old one until every worker has seen the new one.
const ROUTE_TABLES: usize = 2;

/// The most memory that a config can make the process take, by what it is for.
///
/// It covers everything that grows with the config. The program's own pages and stacks, a few MiB, are extra.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    /// Worker threads.
    pub workers: usize,
    /// Parts that each worker has, in bytes.
    pub per_worker: Vec<(&'static str, usize)>,
    /// Parts that the process has once, in bytes.
    pub shared: Vec<(&'static str, usize)>,
    /// Socket memory of the kernel, of all workers, in bytes: not part of the process's own. The kernel grants up to
    /// twice the requested size.
    pub kernel: Vec<(&'static str, usize)>,
}

impl Config {
    /// The bounds of one worker on sockets with `gro` as configured.
    pub fn limits(&self) -> Limits {
        self.limits_with(self.gro)
    }

    /// The bounds of one worker whose sockets join datagrams, or do not.
    pub fn limits_with(&self, gro: bool) -> Limits {
        Limits::new(
            self.nodes.len(),
            self.datagram_bytes_max,
            self.send_buffer_bytes,
            self.cache_entries,
            self.timestamps,
            gro,
        )
    }
}

impl MemoryBound {
    /// The bound for a config, on this engine.
    pub fn new(config: &Config, engine: Engine) -> MemoryBound {
        MemoryBound::with(config, &config.limits(), engine)
    }

    /// The bound for a config whose workers have these bounds, on this engine.
    pub fn with(config: &Config, limits: &Limits, engine: Engine) -> MemoryBound {
        let driver = limits.driver();
        let nodes = config.nodes.len();
        let pool = limits.relay().pool_size(nodes, config.packet_bytes_max);
        let (buffer_bytes, rings) = match engine {
            Engine::IoUring => (
                limits.buffers * limits.buffer_bytes.next_multiple_of(64),
                IoUringKernel::bytes(&driver, config.listen.len()),
            ),
            Engine::Portable => (portable::buffer_bytes(&driver), 0),
        };
        let histogram_bytes = new_histogram().distinct_values() * size_of::<u64>();
        MemoryBound {
            workers: config.workers,
            per_worker: vec![
                ("receive buffers", buffer_bytes),
                ("packet pool", pool.packets * pool.packet_bytes),
                ("packets for oversized metrics", pool.oversize * pool.oversize_bytes),
                ("arrival times of packed metrics", pool.arrivals_bytes()),
                ("name cache", HashCache::bytes(limits.cache_entries)),
                ("backends", limits.sockets_max * BACKEND_BYTES),
                ("rings and sends in flight", rings + limits.sends_max * SEND_SLOT_BYTES),
                // One set with the worker, one to swap with.
                ("latency histograms", 2 * LatencyKind::ALL.len() * histogram_bytes),
            ],
            shared: vec![
                ("route tables and health", ROUTE_TABLES * nodes * SHARED_BACKEND_BYTES),
                ("placement", Placement::bytes_max(&config.spec())),
            ],
            kernel: vec![
                (
                    "socket receive buffers",
                    2 * config.receive_buffer_bytes * config.listen.len() * config.workers,
                ),
                ("socket send buffers", 2 * config.send_buffer_bytes * nodes * config.workers),
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
            "memory bound: {} ({} per worker), plus up to {} of socket buffers in the kernel",
            Mib(self.total_bytes()),
            Mib(self.worker_bytes()),
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
    use crate::worker::NODES_MAX;

    fn bound(text: &str) -> MemoryBound {
        MemoryBound::new(&parse(text).expect("a good config").config, Engine::IoUring)
    }

    #[test]
    fn the_defaults_stay_below_16_mib() {
        let nodes = r#"{"host": "192.0.2.1", "port": 1}, {"host": "192.0.2.2", "port": 1}, {"host": "192.0.2.3", "port": 1}"#;
        let bound = bound(&format!(r#"{{"workers": 1, "nodes": [{nodes}]}}"#));
        assert!(bound.total_bytes() < 16 << 20, "{bound}");
        assert_eq!(bound.kernel_bytes(), 2 * 2 * (8 << 20) + 3 * 2 * (1 << 20));
        assert!(bound.to_string().contains("per worker)"), "{bound}");
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
    fn the_points_of_a_ring_are_part_of_it() {
        let placement = |hashing: &str, weight: &str| {
            let node = format!(r#"{{"host": "192.0.2.1", "port": 1{weight}}}"#);
            let bound = bound(&format!(r#"{{"hashing": "{hashing}", "nodes": [{node}]}}"#));
            bound.shared.iter().find(|(name, _)| *name == "placement").map(|(_, bytes)| *bytes)
        };
        assert_eq!(placement("jump", ""), Some(0));
        assert_eq!(placement("hashring-3", ""), Some(40 * (2 * 12 + 3 * 6)));
        assert_eq!(placement("ketama", r#", "weight": 3"#), Some(3 * 160 * (2 * 12 + 3 * 6)));
    }

    #[test]
    fn timestamps_cost_memory_only_if_enabled() {
        let part = |timestamps: bool, name: &str| {
            let node = r#"{"host": "192.0.2.1", "port": 1}"#;
            let bound = bound(&format!(r#"{{"timestamps": {timestamps}, "nodes": [{node}]}}"#));
            bound.per_worker.iter().find(|(of, _)| *of == name).map(|(_, bytes)| *bytes)
        };
        assert_eq!(part(false, "arrival times of packed metrics"), Some(0));
        let arrivals = part(true, "arrival times of packed metrics").unwrap();
        let packets = part(true, "packet pool").unwrap() / 1_432;
        // 64 runs of 8 bytes for each packet, and a few bytes more.
        assert!((packets * 512..packets * 600).contains(&arrivals), "{arrivals} bytes for {packets} packets");
        assert!(part(true, "receive buffers").unwrap() <= (8 << 20) + (64 << 10));
    }

    #[test]
    fn room_for_joined_datagrams_takes_less_than_five_mib() {
        let config =
            parse(r#"{"gro": true, "timestamps": true, "nodes": [{"host": "192.0.2.1", "port": 1}]}"#);
        let config = config.expect("a good config").config;
        for engine in [Engine::IoUring, Engine::Portable] {
            let bound = MemoryBound::new(&config, engine);
            let bytes =
                bound.per_worker.iter().find(|(of, _)| *of == "receive buffers").map(|(_, bytes)| *bytes);
            assert!(bytes.is_some_and(|bytes| (2 << 20..5 << 20).contains(&bytes)), "{engine:?}: {bound}");
            let without = MemoryBound::with(&config, &config.limits_with(false), engine);
            assert!(without.worker_bytes() + (1 << 20) < bound.worker_bytes(), "{engine:?}: {without}");
        }
    }

    #[test]
    fn the_portable_engine_takes_less() {
        let config = parse(r#"{"nodes": [{"host": "192.0.2.1", "port": 1}]}"#).expect("a good config").config;
        let [ring, portable] = [Engine::IoUring, Engine::Portable]
            .map(|engine| MemoryBound::new(&config, engine).worker_bytes());
        assert!(portable + (1 << 20) < ring, "{portable} {ring}");
    }

    #[test]
    fn the_largest_config_has_a_bound_too() {
        let nodes: Vec<String> =
            (0..NODES_MAX).map(|i| format!(r#"{{"host": "n{i}.example", "port": 1}}"#)).collect();
        let bound = bound(&format!(
            r#"{{"nodes": [{}], "workers": 64, "maxPacketSize": 65507, "maxDatagramSize": 65507}}"#,
            nodes.join(",")
        ));
        assert!(bound.total_bytes() < 32 << 30, "{bound}");
    }
}
