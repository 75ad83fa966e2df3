//! Maps a seed to the events on one host: orders to its proxies, and their times.

use crate::scenario::{PATHS, START_US, any_datagram};
use statsring::config::{AddressFamily, Check, Config, Gso, Node, parse};
use statsring::driver::sim::{Faults, Random, SimSetup};
use statsring::relay::{Malformed, OnNodeDown};
use statsring::worker::Limits;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

/// The port of the first listening address; those of the others follow.
const FIRST_PORT: u16 = 8125;
/// The backends' port for metrics.
const NODE_PORT: u16 = 9125;
/// The backends' port for health checks.
const ADMIN_PORT: u16 = 9126;
/// Number of different backends.
pub const NODES: usize = 7;

/// Events caused by operators, machines and chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The config file is edited.
    Edit,
    /// The config file is edited, and SIGHUP follows.
    Reload,
    /// SIGUSR2.
    Restart,
    /// A name server returns the addresses of a backend in another order.
    Lookup,
    /// The operator sets a backend to drain, down or up.
    AdminState,
    /// A backend changes how it answers its checks.
    Behavior,
    /// A process has no free descriptor for checks for a while.
    Shortage,
    /// A process is killed.
    Kill,
    /// A process does not run for a while: the machine was suspended, or the CPU was busy.
    Pause,
    /// SIGTERM.
    Stop,
}

/// One run, determined except for random choices on the way.
pub struct Plan {
    pub seed: u64,
    pub is_fault_free: bool,
    pub setup: SimSetup,
    pub limits: Limits,
    pub config: Config,
    /// Arrival, address, sender, payload.
    pub datagrams: Vec<(u64, usize, u64, Vec<u8>)>,
    /// Ascending; the last one stops.
    pub orders: Vec<(u64, Order)>,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x0B57_AC1E);
        let is_fault_free = random.below(6) == 0;
        let payload_bytes_max = random.between(48, 400) as usize;
        let timestamps = seed.is_multiple_of(3);
        let gro = seed % 7 < 3;
        let paths = PATHS[seed as usize % PATHS.len()];
        let roomy = SimSetup { payload_bytes_max, timestamps, gro, paths, ..SimSetup::roomy(seed) };
        let setup = if is_fault_free {
            roomy
        } else {
            SimSetup {
                buffers: random.between(2, 64) as usize,
                sends_max: random.between(2, 32) as usize,
                turn: random.between(2, 64) as usize,
                messages_max: random.between(1, 32) as usize,
                queue_bytes_max: if random.below(3) == 0 { random.between(2_000, 9_000) } else { 1 << 20 }
                    as usize,
                faults: if random.below(3) == 0 { Faults::none() } else { Faults::mixed(&mut random) },
                ..roomy
            }
        };
        let limits = Limits {
            datagram_bytes_max: payload_bytes_max,
            buffers: setup.buffers,
            buffer_bytes: payload_bytes_max,
            sends_max: setup.sends_max,
            sockets_max: 16,
            backlog_bytes_max: random.between(0, 20_000) as usize,
            send_buffer_bytes: 1 << 20,
            cache_entries: if random.below(4) == 0 { 0 } else { 4_096 },
            timestamps: setup.timestamps,
            gro: setup.gro,
        };
        let config = any_config(&mut random, is_fault_free);
        let span_us = random.between(20_000, 160_000);
        let datagrams = any_traffic(&mut random, &config, payload_bytes_max, span_us);
        let orders = any_orders(&mut random, is_fault_free, span_us);
        Plan { seed, is_fault_free, setup, limits, config, datagrams, orders }
    }

    /// For debugging a failure.
    pub fn print(&self) {
        println!("{:?}\n{:?}\n{}", self.setup, self.limits, self.config.to_json());
        for (at_us, order) in &self.orders {
            println!("{at_us}: {order:?}");
        }
    }
}

/// The index of a listening address among all possible ones.
pub fn address_number(address: &SocketAddr) -> usize {
    usize::from(address.port() - FIRST_PORT)
}

/// The index of a backend, below [`NODES`].
pub fn node_number(name: &str) -> usize {
    // The prefix of a name, `backend3`, has the length of that of an address, `10.0.0.2`.
    name.as_bytes().get("10.0.0.".len()).map_or(0, |digit| usize::from(digit - b'0'))
}

/// The addresses of a backend that has a name.
pub fn addresses_of(node: &Node) -> Vec<SocketAddr> {
    let number = node_number(&node.name) as u8;
    (0..1 + number % 3).map(|place| SocketAddr::from(([10, 0, place, number], node.port))).collect()
}

fn node(random: &mut Random, number: usize) -> Node {
    // The same backend has the same name in every config.
    let host = if number.is_multiple_of(2) { format!("10.0.0.{number}") } else { format!("backend{number}") };
    Node {
        name: format!("{host}:{NODE_PORT}").into(),
        host,
        port: NODE_PORT,
        family: AddressFamily::Any,
        weight: 1,
        adminport: (random.below(4) > 0).then_some(ADMIN_PORT),
        disabled: random.below(12) == 0,
        gso: any_gso(random),
    }
}

fn any_gso(random: &mut Random) -> Gso {
    [Gso::Auto, Gso::Padded, Gso::Unpadded, Gso::Off][random.below(4) as usize]
}

fn any_config(random: &mut Random, is_fault_free: bool) -> Config {
    static TEMPLATE: OnceLock<Config> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let text = r#"{"host": "127.0.0.1", "managementHost": "127.0.0.1", "workers": 1,
            "nodes": [{"host": "10.0.0.1", "port": 9125}]}"#;
        parse(text).unwrap_or_else(|error| panic!("{error}")).config
    });
    let mut config = template.clone();
    config.listen = (0..random.between(1, 2) as u16).map(listen_address).collect();
    config.host = format!("a host with {} addresses", config.listen.len());
    config.workers = random.between(1, 2) as usize;
    config.nodes = (0..random.between(1, 5) as usize).map(|number| node(random, number)).collect();
    config.check = Check {
        interval_ms: random.between(10, 40),
        timeout_ms: random.between(2, 9),
        fast_ms: random.between(2, 8),
        fall: random.between(1, 3) as u32,
        rise: random.between(1, 2) as u32,
    };
    config.handover_timeout_ms = random.between(5, 60);
    config.shutdown_timeout_ms = if is_fault_free || random.below(4) > 0 { 5_000 } else { random.below(20) };
    any_rules(random, &mut config);
    config.malformed = if random.below(4) == 0 { Malformed::Forward } else { Malformed::Drop };
    config
}

fn listen_address(number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + number))
}

fn any_rules(random: &mut Random, config: &mut Config) {
    config.packet_bytes_max = random.between(32, 300) as usize;
    config.flush_us = [0, 300, 2_000, 5_000][random.below(4) as usize];
    config.queue_bytes_max =
        [config.packet_bytes_max, 4 * config.packet_bytes_max, 1 << 16][random.below(3) as usize];
    config.reopen_ms = [0, 3, 11, 60_000][random.below(4) as usize];
    config.on_node_down = if random.below(3) == 0 { OnNodeDown::Drop } else { OnNodeDown::Divert };
}

/// The file after an edit.
pub fn edited(random: &mut Random, config: &Config) -> Config {
    let mut new = config.clone();
    for _ in 0..random.between(1, 3) {
        match random.below(12) {
            0 => any_rules(random, &mut new),
            1 => new.check.interval_ms = random.between(10, 40),
            // Changes that only a restart applies.
            2 => new.workers = random.between(1, 3) as usize,
            3 => {
                new.listen = (0..random.between(1, 2) as u16).map(listen_address).collect();
                new.host = format!("a host with {} addresses", new.listen.len());
            }
            _ => edit_nodes(random, &mut new.nodes),
        }
    }
    new
}

fn edit_nodes(random: &mut Random, nodes: &mut Vec<Node>) {
    let place = random.below(nodes.len() as u64) as usize;
    match random.below(6) {
        0 if nodes.len() > 1 => drop(nodes.remove(place)),
        1 => {
            let other = random.below(nodes.len() as u64) as usize;
            nodes.swap(place, other);
        }
        2 => nodes[place].disabled = !nodes[place].disabled,
        3 => nodes[place].gso = any_gso(random),
        _ => {
            let number = random.below(NODES as u64) as usize;
            let added = node(random, number);
            if nodes.iter().all(|other| other.name != added.name) {
                nodes.insert(place, added);
            }
        }
    }
}

fn any_traffic(
    random: &mut Random,
    config: &Config,
    room: usize,
    span_us: u64,
) -> Vec<(u64, usize, u64, Vec<u8>)> {
    let addresses = config.listen.len() as u64;
    let mut datagrams = Vec::new();
    let mut id = 0;
    let wanted = random.between(5, 120) as usize;
    while datagrams.len() < wanted {
        let at_us = START_US + random.below(span_us);
        let burst = if random.below(6) == 0 { random.between(1, 45) } else { 1 };
        for _ in 0..burst {
            let (address, sender) = (random.below(addresses) as usize, random.below(9));
            datagrams.push((at_us, address, sender, any_datagram(random, room, &mut id)));
        }
    }
    datagrams.sort_by_key(|(at_us, ..)| *at_us);
    datagrams
}

fn any_orders(random: &mut Random, is_fault_free: bool, span_us: u64) -> Vec<(u64, Order)> {
    use Order::{AdminState, Behavior, Edit, Kill, Lookup, Pause, Reload, Restart, Shortage, Stop};
    let usual = [
        Restart, Restart, Restart, Reload, Reload, AdminState, AdminState, Behavior, Behavior, Behavior,
        Edit, Lookup, Shortage, Shortage,
    ];
    let mut orders: Vec<(u64, Order)> = (0..random.between(1, 9))
        .map(|_| {
            let is_rare = !is_fault_free && random.below(9) == 0;
            let rare = if random.below(2) == 0 { Kill } else { Pause };
            let order = if is_rare { rare } else { *random.pick(&usual).unwrap_or(&Restart) };
            (START_US + random.below(span_us), order)
        })
        .collect();
    orders.sort_by_key(|(at_us, _)| *at_us);
    let stop_us = START_US + span_us / 2 + random.below(span_us);
    orders.retain(|(at_us, _)| *at_us < stop_us);
    orders.push((stop_us, Stop));
    orders
}
