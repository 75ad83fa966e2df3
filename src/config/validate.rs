//! Validates the values of a file together: defaults, addresses, limits between keys.
//!
//! In: [`RawConfig`]. Out: [`Config`]; contradictions are reported. Next: `control/`, which runs it.

use super::fields::Field;
use super::host;
use super::nodes;
use super::pin;
use super::positions::PLACE_END;
use super::raw::RawConfig;
use super::report::Report;
use super::{AddressFamily, AdminDialect, Check, Config, Gso, LogFormat, MANAGEMENT_PORT, PORT, PinWorkers};
use crate::driver::socket::Spread;
use crate::placement::Hashing;
use crate::relay::{Malformed, OnNodeDown};
use crate::worker::{BACKLOG_BYTES_MAX, DATAGRAM_BYTES_LIMIT};
use std::net::SocketAddr;

/// Fits every Ethernet path, tunnels included.
const PACKET_BYTES_DEFAULT: usize = 1_432;
/// Upper limit of `auto`: the usual read size of servers (DogStatsD's buffer is 8 KiB).
const PACKET_BYTES_AUTO: usize = 8_192;
const CACHE_ENTRIES_DEFAULT: u64 = 10_000;
/// Less than the five minutes after which a service's address is commonly considered broken, and rare enough to cost nothing.
const REOPEN_MS_DEFAULT: u64 = 60_000;
/// Less would be one socket per handful of packets.
const REOPEN_MS_MIN: u64 = 1_000;
/// Larger than any packet.
const QUEUE_BYTES_DEFAULT: usize = 256 << 10;
const _: () = assert!(QUEUE_BYTES_DEFAULT > DATAGRAM_BYTES_LIMIT && QUEUE_BYTES_DEFAULT <= BACKLOG_BYTES_MAX);
/// Default limit of a check's duration, and of the interval while results contradict the state.
const CHECK_MS_DEFAULT: u64 = 1_000;
/// Most workers that `auto` starts: more are the operator's decision.
const WORKERS_AUTO_MAX: usize = 4;

/// The workers, from all keys about them.
struct WorkerSettings {
    is_auto: bool,
    count: usize,
    pin: PinWorkers,
    cpus: Vec<usize>,
    spread: Spread,
}

fn validate_workers(
    workers: Field<Option<u64>>,
    pin: Field<PinWorkers>,
    spread: Field<Spread>,
    report: &mut Report,
) -> WorkerSettings {
    let is_known = !workers.is_wrong();
    let workers = workers.or(None);
    let count = workers.map_or_else(workers_of_this_host, |count| count as usize);
    let (pin, cpus) = pin::validate(pin, is_known.then_some(count), report);
    let spread = spread.or(Spread::Flow);
    if spread != Spread::Flow && count == 1 && is_known {
        report.notice("spread: no effect with one worker, which receives every datagram".to_owned());
    } else if spread == Spread::Cpu {
        pin::steering_notice(count, &cpus).into_iter().for_each(|notice| report.notice(notice));
    }
    WorkerSettings { is_auto: workers.is_none(), count, pin, cpus, spread }
}

impl RawConfig {
    /// The config of these values; invalid if `report` has errors in the end.
    pub(super) fn validate(self, report: &mut Report) -> Config {
        let port_is_known = !self.port.is_wrong();
        let [host_key, management_key] = self.host_keys;
        let (host, listen) = listening(self.host, self.port.or(PORT.into()), host_key, host::EVERY, report);
        let (management_host, management) = listening(
            self.management_host,
            self.management_port.or(MANAGEMENT_PORT.into()),
            management_key,
            host::LOOPBACK,
            report,
        );
        let address_family = self.address_family.or(AddressFamily::Any);
        let gso = self.gso.or(Gso::Auto);
        let workers = validate_workers(self.workers, self.pin_workers, self.spread, report);
        let packet_is_known = !self.packet_bytes_max.is_wrong();
        let (packet_bytes_max, packet_auto) = packet_size(self.packet_bytes_max);
        let packet_limit = packet_is_known.then_some(packet_bytes_max);
        let queue_bytes_max = validate_queue(self.queue_bytes_max, packet_limit, report);
        let loop_ends: &[SocketAddr] = if port_is_known { &listen } else { &[] };
        let times =
            validate_check_times(self.check_interval_ms, self.check_timeout_ms, self.check_fast_ms, report);
        let check = Check { fall: self.check_fall.or(3) as u32, rise: self.check_rise.or(2) as u32, ..times };
        let hashing_is_known = !self.hashing.is_wrong();
        let hashing = self.hashing.or(Hashing::Jump);
        let known_hashing = hashing_is_known.then_some(hashing);
        let (family, may_double) = (address_family, self.may_double_nodes);
        let rules = nodes::Rules { hashing: known_hashing, gso, family, listen: loop_ends, may_double };
        let (nodes, shards) = nodes::validate(self.nodes, &rules, report);
        Config {
            nodes,
            shards,
            host,
            listen,
            management_host,
            management,
            management_names: self.management_names.or(Vec::new()),
            freebind: self.freebind.or(false),
            management_allow_changes: self.management_allow_changes.or(false),
            management_dialect: self.management_dialect.or(AdminDialect::Statsring),
            address_family,
            hashing,
            on_node_down: self.on_node_down.or(on_node_down_default(hashing)),
            ready_without_backends: self.ready_without_backends.or(true),
            check,
            engine: self.engine.or(None),
            workers_auto: workers.is_auto,
            workers: workers.count,
            pin_workers: workers.pin,
            worker_cpus: workers.cpus,
            spread: workers.spread,
            flush_us: self.flush_us.or(5_000),
            packet_bytes_max,
            packet_auto,
            datagram_bytes_max: self.datagram_bytes_max.or(8_192) as usize,
            receive_buffer_bytes: self.receive_buffer_bytes.or(8 << 20) as usize,
            send_buffer_bytes: self.send_buffer_bytes.or(1 << 20) as usize,
            queue_bytes_max,
            reopen_ms: validate_reopen(self.reopen_ms, report),
            cache_entries: cache_entries(self.cache_entries.or(CACHE_ENTRIES_DEFAULT)),
            malformed: self.malformed.or(Malformed::Drop),
            gso,
            gro: self.gro.or(false),
            timestamps: self.timestamps.or(false),
            shutdown_delay_ms: self.shutdown_delay_ms.or(0),
            shutdown_timeout_ms: self.shutdown_timeout_ms.or(5_000),
            handover_timeout_ms: self.handover_timeout_ms.or(30_000),
            log_format: self.log_format.or(LogFormat::Text),
        }
    }
}

/// A listening host's text and addresses.
fn listening(
    slot: Field<String>,
    port: u64,
    key: &str,
    default: &str,
    report: &mut Report,
) -> (String, Vec<SocketAddr>) {
    let (place, text) = match slot {
        Field::Given(place, text) => (place, text),
        Field::Absent | Field::Wrong => ([PLACE_END; 3], default.to_owned()),
    };
    // An invalid port was reported and replaced by the default; ports here are in range.
    let port = u16::try_from(port).unwrap_or_default();
    host::listening(&text, port).unwrap_or_else(|reason| {
        report.mistake(place, format!("{key}: {reason}"));
        (text, Vec::new())
    })
}

/// `auto` workers: half of the CPUs that this process may use, at least 1, at most 4. Affinity and cgroup quota count.
fn workers_of_this_host() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    (cpus / 2).clamp(1, WORKERS_AUTO_MAX)
}

/// As in the proxy that the placement comes from.
fn on_node_down_default(hashing: Hashing) -> OnNodeDown {
    if hashing.diverts() { OnNodeDown::Divert } else { OnNodeDown::Drop }
}

/// The largest packet, and whether a narrower path makes it smaller.
fn packet_size(given: Field<Option<u64>>) -> (usize, bool) {
    match given.or(Some(PACKET_BYTES_DEFAULT as u64)) {
        Some(bytes) => (bytes as usize, false),
        None => (PACKET_BYTES_AUTO, true),
    }
}

fn cache_entries(given: u64) -> usize {
    if given == 0 { 0 } else { given.next_power_of_two() as usize }
}

/// A backend's queue must hold a packet, if their size is known.
fn validate_queue(slot: Field<u64>, packet_bytes_max: Option<usize>, report: &mut Report) -> usize {
    let (place, queue) = match slot {
        Field::Given(place, queue) => (place, queue as usize),
        Field::Absent | Field::Wrong => return QUEUE_BYTES_DEFAULT,
    };
    if let Some(packet) = packet_bytes_max.filter(|packet| queue < *packet) {
        report.mistake(
            place,
            format!("queue: {queue} is less than maxPacketSize ({packet} bytes): no packet could be queued"),
        );
    }
    queue
}

/// Sockets may be replaced never, or after at least a second.
fn validate_reopen(slot: Field<u64>, report: &mut Report) -> u64 {
    if let Field::Given(place, ms @ 1..REOPEN_MS_MIN) = slot {
        report.mistake(
            place,
            format!("reopenInterval: {ms} is too short: expected 0 (never) or at least {REOPEN_MS_MIN} ms"),
        );
    }
    slot.or(REOPEN_MS_DEFAULT)
}

/// The times of the checks: no check may last, or wait while it contradicts the state, longer than the interval.
fn validate_check_times(
    interval: Field<u64>,
    timeout: Field<u64>,
    fast: Field<u64>,
    report: &mut Report,
) -> Check {
    let interval_is_known = !interval.is_wrong();
    let interval_ms = interval.or(10_000);
    let mut within = |key: &str, slot: Field<u64>| {
        if let Field::Given(place, ms) = slot
            && interval_is_known
            && ms > interval_ms
        {
            report.mistake(place, format!("{key}: {ms} ms exceeds checkInterval ({interval_ms} ms)"));
        }
        slot.or(interval_ms.min(CHECK_MS_DEFAULT))
    };
    Check {
        interval_ms,
        timeout_ms: within("checkTimeout", timeout),
        fast_ms: within("checkFast", fast),
        fall: 0,
        rise: 0,
    }
}
