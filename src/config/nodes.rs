//! The list of backends: duplicates, weights, and the shards of a list with repetitions.
//!
//! In: the raw list. Out: each backend once, and the list as indices; contradictions are reported.
//! Next: `validate.rs`.

use super::fields::Field;
use super::host;
use super::positions::{PLACE_END, Place};
use super::raw::{RawNode, count_of_nodes};
use super::report::Report;
use super::{AddressFamily, Gso, Node};
use crate::placement::Hashing;
use crate::worker::NODES_MAX;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;

/// Together the backends of a ring have at most this weight: 3.2 million points, some 130 MiB while they are put in order.
const WEIGHTS_MAX: u32 = 20_000;

/// Context of the list.
pub(super) struct Rules<'r> {
    /// The hashing; `None` if invalid, so that checks that depend on it are skipped.
    pub(super) hashing: Option<Hashing>,
    /// The default `gso` of backends.
    pub(super) gso: Gso,
    /// Which addresses of their names are used for metrics.
    pub(super) family: AddressFamily,
    /// Where the proxy itself listens.
    pub(super) listen: &'r [SocketAddr],
    /// Whether an identical duplicate of a backend counts once, as in `proxy.js`.
    pub(super) may_double: bool,
}

impl Rules<'_> {
    fn may_repeat(&self) -> bool {
        self.hashing.is_none_or(Hashing::has_shards)
    }
}

/// The backends of a list, each once, and the list as their indices.
pub(super) fn validate(
    slot: Field<Vec<RawNode>>,
    rules: &Rules<'_>,
    report: &mut Report,
) -> (Vec<Node>, Vec<u16>) {
    let (place, raw_nodes) = match slot {
        Field::Given(place, raw_nodes) => (place, raw_nodes),
        Field::Wrong => return Default::default(),
        Field::Absent => {
            let text = "nodes: missing; list at least one backend, [{\"host\": …, \"port\": …}]";
            report.mistake([PLACE_END; 3], text.to_owned());
            return Default::default();
        }
    };
    let listed = raw_nodes.len();
    if listed > NODES_MAX && !rules.may_repeat() {
        report.mistake(place, format!("nodes: {}", count_of_nodes(listed)));
        return Default::default();
    }
    let mut list =
        List { rules, seen: HashMap::with_capacity(listed), nodes: Vec::new(), shards: Vec::new() };
    for raw in raw_nodes {
        list.add(raw, report);
    }
    list.judge(place, report);
    (list.nodes, list.shards)
}

/// A list being read.
struct List<'r> {
    rules: &'r Rules<'r>,
    /// By canonical host and port: where the file lists it first, and its index in `nodes`.
    seen: HashMap<(String, u16), (usize, usize)>,
    nodes: Vec<Node>,
    shards: Vec<u16>,
}

impl List<'_> {
    fn add(&mut self, raw: RawNode, report: &mut Report) {
        let (position, place, is_bare) = (raw.index, raw.place, raw.is_bare());
        let Some(node) = validate_node(raw, self.rules, report) else { return };
        match self.seen.entry((host::canonical(&node.host), node.port)) {
            Entry::Vacant(entry) => {
                if !node.disabled && host::leads_back(&node.host, node.port, self.rules.listen) {
                    let text = "is this proxy's own address: metrics would loop";
                    report.mistake(place, format!("nodes[{position}]: {} {text}", node.name));
                }
                entry.insert((position, self.nodes.len()));
                self.shards.push(self.nodes.len() as u16);
                self.nodes.push(node);
            }
            Entry::Occupied(entry) => {
                let (first, index) = *entry.get();
                let other = &self.nodes[index];
                if self.rules.may_double && *other == node {
                    let text = format!("{} is listed twice and used once, as in proxy.js", node.name);
                    report.notice(format!("nodes[{position}]: {text}"));
                    return;
                }
                if !self.rules.may_repeat() {
                    let spelled =
                        if other.name == node.name { String::new() } else { format!(", {}", other.name) };
                    let text = format!("{} is listed twice (first as nodes[{first}]{spelled})", node.name);
                    report.mistake(place, format!("nodes[{position}]: {text}"));
                } else if !is_bare && *other != node {
                    let text =
                        format!("{} differs from nodes[{first}], which is the same backend", node.name);
                    report.mistake(place, format!("nodes[{position}]: {text}; give its host and port alone"));
                }
                self.shards.push(index as u16);
            }
        }
    }

    /// Checks of the list as a whole.
    fn judge(&self, place: Place, report: &mut Report) {
        if self.nodes.len() > NODES_MAX {
            report.mistake(place, format!("nodes: {}", count_of_nodes(self.nodes.len())));
        }
        let weights: u32 = self.nodes.iter().map(|node| node.weight).sum();
        if weights > WEIGHTS_MAX {
            let text = format!("nodes: the weights add up to {weights}, which is more than {WEIGHTS_MAX}");
            report.mistake(place, text);
        }
        if !self.nodes.is_empty() && self.nodes.iter().all(|node| node.disabled) {
            report.notice("nodes: every backend is disabled; all metrics will be dropped".to_owned());
        }
    }
}

/// One backend; `None` if its host or port is invalid or missing.
fn validate_node(raw: RawNode, rules: &Rules<'_>, report: &mut Report) -> Option<Node> {
    let host = match raw.host {
        Field::Given(place, text) => host::plain(&text)
            .map_err(|reason| report.mistake(place, format!("nodes[{}].host: {reason}", raw.index)))
            .ok(),
        Field::Absent | Field::Wrong => None,
    };
    if let Field::Given(place, _) = raw.weight
        && let Some(hashing) = rules.hashing.filter(|hashing| !hashing.has_weights())
    {
        let with: Vec<&str> =
            Hashing::ALL.into_iter().filter(|other| other.has_weights()).map(Hashing::name).collect();
        let text = format!(
            "the hashing {} does not support weights, only {} does; omit it",
            hashing.name(),
            with.join(", ")
        );
        report.mistake(place, format!("nodes[{}].weight: {text}", raw.index));
    }
    let Field::Given(_, port) = raw.port else { return None };
    let (host, port) = (host?, port as u16);
    let adminport = match raw.adminport {
        Field::Given(_, port) => Some(port as u16),
        Field::Absent | Field::Wrong => None,
    };
    Some(Node {
        name: host::identity(&host, port).into(),
        host,
        port,
        family: rules.family,
        adminport,
        weight: raw.weight.or(1) as u32,
        disabled: raw.disabled.or(false),
        gso: raw.gso.or(rules.gso),
    })
}
