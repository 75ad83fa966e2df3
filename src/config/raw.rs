//! The file key by key: validates the type and range of every value, but not their combination.
//!
//! In: a [`Json`] tree. Out: [`RawConfig`], with each key given, missing, or invalid (and reported).
//! Next: `validate.rs`, which makes it a `Config`.

use super::fields::{Dialect, Field, Fields, nearest};
use super::json::{Json, quoted};
use super::keys::{self, Known};
use super::positions::{PLACE_END, Place};
use super::report::Report;
use super::{AddressFamily, AdminDialect, EVERY_NAME, Format, Gso, LogFormat, PinWorkers};
use crate::driver::Engine;
use crate::driver::socket::Spread;
use crate::placement::Hashing;
use crate::relay::{Malformed, OnNodeDown};
use crate::worker::NODES_MAX;

/// Which addresses a file sets, to their defaults or not; the others have their defaults because the file does not set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// `host` or `port`.
    pub listen: bool,
    /// `managementHost` or `managementPort`.
    pub management: bool,
    /// The format, by whose names keys are called.
    pub format: Format,
}

/// Entries of a list that names backends several times: many times the 4,096 that uber's statsrelay recommends.
pub(super) const SHARDS_MAX: usize = 65_536;
/// A file's values by key.
#[derive(Debug)]
pub(super) struct RawConfig {
    pub(super) host: Field<String>,
    pub(super) port: Field<u64>,
    pub(super) freebind: Field<bool>,
    pub(super) management_host: Field<String>,
    pub(super) management_port: Field<u64>,
    pub(super) management_names: Field<Vec<String>>,
    pub(super) management_allow_changes: Field<bool>,
    pub(super) management_dialect: Field<AdminDialect>,
    pub(super) nodes: Field<Vec<RawNode>>,
    pub(super) address_family: Field<AddressFamily>,
    pub(super) hashing: Field<Hashing>,
    pub(super) on_node_down: Field<OnNodeDown>,
    pub(super) ready_without_backends: Field<bool>,
    pub(super) check_interval_ms: Field<u64>,
    pub(super) check_timeout_ms: Field<u64>,
    pub(super) check_fast_ms: Field<u64>,
    pub(super) check_fall: Field<u64>,
    pub(super) check_rise: Field<u64>,
    pub(super) engine: Field<Option<Engine>>,
    pub(super) workers: Field<Option<u64>>,
    pub(super) pin_workers: Field<PinWorkers>,
    pub(super) spread: Field<Spread>,
    pub(super) flush_us: Field<u64>,
    pub(super) packet_bytes_max: Field<Option<u64>>,
    pub(super) datagram_bytes_max: Field<u64>,
    pub(super) receive_buffer_bytes: Field<u64>,
    pub(super) send_buffer_bytes: Field<u64>,
    pub(super) queue_bytes_max: Field<u64>,
    pub(super) reopen_ms: Field<u64>,
    pub(super) cache_entries: Field<u64>,
    pub(super) malformed: Field<Malformed>,
    pub(super) gso: Field<Gso>,
    pub(super) gro: Field<bool>,
    pub(super) timestamps: Field<bool>,
    pub(super) shutdown_delay_ms: Field<u64>,
    pub(super) shutdown_timeout_ms: Field<u64>,
    pub(super) handover_timeout_ms: Field<u64>,
    pub(super) log_format: Field<LogFormat>,
    /// The file's names for `host` and `managementHost`.
    pub(super) host_keys: [&'static str; 2],
    /// Whether an identical duplicate of a backend counts once.
    pub(super) may_double_nodes: bool,
}

/// One entry of `nodes`.
#[derive(Debug)]
pub(super) struct RawNode {
    /// Its position in the file's list.
    pub(super) index: usize,
    /// Where its entry begins.
    pub(super) place: Place,
    pub(super) host: Field<String>,
    pub(super) port: Field<u64>,
    pub(super) adminport: Field<u64>,
    pub(super) weight: Field<u64>,
    pub(super) disabled: Field<bool>,
    pub(super) gso: Field<Gso>,
}

impl RawNode {
    /// Whether it has nothing but its host and port.
    pub(super) fn is_bare(&self) -> bool {
        matches!(
            (&self.adminport, &self.weight, &self.disabled, &self.gso),
            (Field::Absent, Field::Absent, Field::Absent, Field::Absent)
        )
    }
}

impl RawConfig {
    /// Reads a file's keys; errors go to `report`.
    pub(super) fn read(object: Vec<(String, Json)>, report: &mut Report) -> RawConfig {
        let place = |position| [position, 0, 0];
        let mut fields = Fields::new(Dialect::Statsring, String::new(), object, Known::FILE, place, report);
        let raw = RawConfig::of(&mut fields);
        #[cfg(test)]
        assert!(fields.left().is_empty(), "known but not read: {:?}", fields.left());
        raw
    }

    /// Which addresses the file sets.
    pub(super) fn configured(&self, format: Format) -> Configured {
        Configured {
            format,
            listen: self.host.is_in_file() || self.port.is_in_file(),
            management: self.management_host.is_in_file() || self.management_port.is_in_file(),
        }
    }

    /// Takes statsring's own keys from a file.
    pub(super) fn of(fields: &mut Fields<'_>) -> RawConfig {
        RawConfig {
            host: fields.text("host"),
            port: fields.whole("port"),
            freebind: fields.flag("freebind"),
            management_host: fields.text("managementHost"),
            management_port: fields.whole("managementPort"),
            management_names: read_management_names(fields),
            management_allow_changes: fields.flag("managementAllowChanges"),
            management_dialect: fields.one_of("managementDialect", &keys::MANAGEMENT_DIALECTS),
            nodes: read_nodes(fields),
            address_family: fields.one_of("addressFamily", &keys::ADDRESS_FAMILIES),
            hashing: read_hashing(fields),
            on_node_down: fields.one_of("onNodeDown", &keys::ON_NODE_DOWN),
            ready_without_backends: fields.flag("readyWithoutBackends"),
            check_interval_ms: fields.whole("checkInterval"),
            check_timeout_ms: fields.whole("checkTimeout"),
            check_fast_ms: fields.whole("checkFast"),
            check_fall: fields.whole("checkFall"),
            check_rise: fields.whole("checkRise"),
            engine: fields.one_of("engine", &keys::ENGINES),
            workers: fields.whole_or_auto("workers"),
            pin_workers: read_pin_workers(fields),
            spread: fields.one_of("spread", &keys::SPREADS),
            flush_us: fields.ms_as_us("flushInterval"),
            packet_bytes_max: fields.whole_or_auto("maxPacketSize"),
            datagram_bytes_max: fields.whole("maxDatagramSize"),
            receive_buffer_bytes: fields.whole("receiveBuffer"),
            send_buffer_bytes: fields.whole("sendBuffer"),
            queue_bytes_max: fields.whole("queue"),
            reopen_ms: fields.whole("reopenInterval"),
            cache_entries: fields.whole("cacheSize"),
            malformed: fields.one_of("malformed", &keys::MALFORMED),
            gso: fields.one_of("gso", &keys::GSO),
            gro: fields.flag("gro"),
            timestamps: fields.flag("timestamps"),
            shutdown_delay_ms: fields.whole("shutdownDelay"),
            shutdown_timeout_ms: fields.whole("shutdownTimeout"),
            handover_timeout_ms: fields.whole("handoverTimeout"),
            log_format: fields.one_of("logFormat", &keys::LOG_FORMATS),
            host_keys: ["host", "managementHost"],
            may_double_nodes: false,
        }
    }
}

fn read_hashing(fields: &mut Fields<'_>) -> Field<Hashing> {
    match fields.text("hashing") {
        Field::Given(place, text) => match Hashing::ALL.into_iter().find(|hashing| hashing.name() == text) {
            Some(hashing) => Field::Given(place, hashing),
            None => {
                let known = Hashing::ALL.map(Hashing::name);
                let hint = match nearest(&text, &known) {
                    Some(name) => format!("; did you mean {name:?}?"),
                    None => format!(" (known: {})", known.join(", ")),
                };
                fields.wrong(place, "hashing", format!("unknown hashing {}{hint}", quoted(&text)))
            }
        },
        Field::Absent => Field::Absent,
        Field::Wrong => Field::Wrong,
    }
}

/// Names are only compared, so each only has to be a valid host of a request.
fn read_management_names(fields: &mut Fields<'_>) -> Field<Vec<String>> {
    const KEY: &str = "managementNames";
    let (place, list) = match fields.take(KEY) {
        None => return Field::Absent,
        Some((place, Json::List(list))) => (place, list),
        Some((place, value)) => {
            let text = format!("expected a list of hostnames, [\"proxy.example\"] or [\"*\"], found {value}");
            return fields.wrong(place, KEY, text);
        }
    };
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let mut names = Vec::with_capacity(list.len());
    let mut is_good = true;
    for (index, value) in list.iter().enumerate() {
        match value {
            Json::Text(name)
                if name == EVERY_NAME || (!name.is_empty() && name.bytes().all(is_name_byte)) =>
            {
                names.push(name.clone());
            }
            value => {
                let expected = "expected a hostname without port, as clients write it, or \"*\"";
                let _: Field<()> =
                    fields.wrong(place, &format!("{KEY}[{index}]"), format!("{expected}, found {value}"));
                is_good = false;
            }
        }
    }
    if is_good { Field::Given(place, names) } else { Field::Wrong }
}

fn read_pin_workers(fields: &mut Fields<'_>) -> Field<PinWorkers> {
    match fields.take("pinWorkers") {
        None => Field::Absent,
        Some((place, Json::Flag(false))) => Field::Given(place, PinWorkers::Off),
        Some((place, Json::Flag(true))) => Field::Given(place, PinWorkers::Auto),
        Some((place, Json::List(list))) => match fields.whole_list(place, "pinWorkers", &list) {
            Some(cpus) => Field::Given(place, PinWorkers::Cpus(cpus)),
            None => Field::Wrong,
        },
        Some((place, value)) => {
            let text = format!(
                "expected true, false or a list of CPUs such as [2, 3], found the {} {value}",
                value.kind()
            );
            fields.wrong(place, "pinWorkers", text)
        }
    }
}

fn read_nodes(fields: &mut Fields<'_>) -> Field<Vec<RawNode>> {
    let (place, list) = match fields.take("nodes") {
        Some((place, Json::List(list))) => (place, list),
        Some((place, value)) => {
            let text = format!(
                "expected a list of backends, [{{\"host\": …, \"port\": …}}, …], found the {} {value}",
                value.kind()
            );
            return fields.wrong(place, "nodes", text);
        }
        None => return Field::Absent,
    };
    if list.is_empty() || list.len() > SHARDS_MAX {
        return fields.wrong(place, "nodes", count_of_nodes(list.len()));
    }
    let [top, ..] = place;
    let (dialect, nodes) = (fields.dialect, list.into_iter().enumerate());
    let nodes =
        nodes.filter_map(|(index, node)| read_node(dialect, [top, index], node, fields.report)).collect();
    Field::Given(place, nodes)
}

/// The error for a list of this many backends.
pub(super) fn count_of_nodes(count: usize) -> String {
    format!("expected 1 to {NODES_MAX} backends, found {count}")
}

fn read_node(dialect: Dialect, [top, index]: [usize; 2], node: Json, report: &mut Report) -> Option<RawNode> {
    // Places within a node begin at 1: those of the node as a whole sort first.
    let place = [top, index + 1, 0];
    let Json::Object(object) = node else {
        let text = format!(
            "nodes[{index}]: expected an object, {{\"host\": …, \"port\": …}}, found the {} {node}",
            node.kind()
        );
        report.mistake(place, text);
        return None;
    };
    let prefix = format!("nodes[{index}].");
    let place_of = |position| [top, index + 1, position + 1];
    let mut fields = Fields::new(dialect, prefix, object, Known::NODE, place_of, report);
    let node = RawNode {
        index,
        place,
        host: fields.text("host"),
        port: fields.whole("port"),
        adminport: fields.whole("adminport"),
        weight: fields.whole("weight"),
        disabled: fields.flag("disabled"),
        gso: fields.one_of("gso", &keys::GSO),
    };
    let end = [top, index + 1, PLACE_END];
    if matches!(node.host, Field::Absent) {
        fields.wrong::<()>(end, "host", "missing; expected a hostname or IP address".to_owned());
    }
    if matches!(node.port, Field::Absent) {
        fields.wrong::<()>(end, "port", "missing; expected a port (1 to 65535)".to_owned());
    }
    #[cfg(test)]
    assert!(fields.left().is_empty(), "known but not read: {:?}", fields.left());
    Some(node)
}
