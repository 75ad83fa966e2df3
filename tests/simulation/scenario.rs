//! Maps a seed to a complete run: the properties of the fake kernel, the traffic, and what control does when.

use statsring::driver::Engine;
use statsring::driver::sim::{Faults, Random, SimSetup};
use statsring::placement::{LiveSet, Placement};
use statsring::relay::{GsoMode, Malformed, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
use statsring::worker::Limits;
use std::net::SocketAddr;
use std::sync::Arc;

/// Approximate start of the fake clock.
pub const START_US: u64 = 1_000_000;

/// The longest packets that path MTUs permit; each run uses one of the lists.
pub const PATHS: [&[Option<usize>]; 4] = [
    &[None],
    &[Some(1_472), Some(560)],
    &[Some(150), Some(40), Some(560), Some(0)],
    &[Some(250), None, Some(600)],
];

/// One run, fully determined.
pub struct Scenario {
    pub setup: SimSetup,
    pub limits: Limits,
    pub first: Arc<RouteTable>,
    /// New tables with their times, ascending; the last ones drain.
    pub tables: Vec<(u64, Arc<RouteTable>)>,
    /// Changes of path MTUs, ascending: time, slot, longest packet permitted.
    pub path_changes: Vec<(u64, u32, usize)>,
    /// Spurious wakes.
    pub wakes: Vec<u64>,
    /// Arrival, listener, payload.
    pub datagrams: Vec<(u64, usize, Vec<u8>)>,
    /// No faults are injected.
    pub is_fault_free: bool,
    pub drain_timeout_us: u64,
}

impl Scenario {
    /// The run of a seed, with the driver of `engine`.
    pub fn new(seed: u64, engine: Engine) -> Scenario {
        let mut random = Random::new(seed ^ 0x5CE4_A210);
        let is_fault_free = random.below(8) == 0;
        let faults = if is_fault_free { Faults::none() } else { Faults::mixed(&mut random) };
        let payload_bytes_max = random.between(48, 600) as usize;
        // Depends on the seed only, so that the random choices are the same with and without.
        let timestamps = seed % 5 < 2;
        let gro = seed % 7 < 3;
        let setup = SimSetup {
            seed,
            engine,
            listeners: random.between(1, 2) as usize,
            buffers: if random.below(3) == 0 { random.between(1, 6) } else { random.between(7, 64) } as usize,
            turn: random.between(1, 64) as usize,
            timestamps,
            gro,
            payload_bytes_max,
            sends_max: random.between(1, 32) as usize,
            messages_max: random.between(1, 32) as usize,
            queue_bytes_max: if random.below(4) == 0 { random.between(2_000, 9_000) } else { 1 << 20 }
                as usize,
            paths: PATHS[seed as usize % PATHS.len()],
            faults,
        };
        let setup = if is_fault_free {
            let SimSetup { listeners, payload_bytes_max, timestamps, gro, paths, .. } = setup;
            let buffers = setup.buffers.max(16);
            SimSetup {
                listeners,
                buffers,
                payload_bytes_max,
                timestamps,
                gro,
                paths,
                engine,
                ..SimSetup::roomy(seed)
            }
        } else {
            setup
        };
        let limits = Limits {
            datagram_bytes_max: payload_bytes_max,
            buffers: setup.buffers,
            buffer_bytes: payload_bytes_max,
            sends_max: setup.sends_max,
            sockets_max: 64,
            backlog_bytes_max: random.between(0, 20_000) as usize,
            send_buffer_bytes: 1 << 20,
            cache_entries: if seed.is_multiple_of(3) { 0 } else { 4_096 },
            timestamps: setup.timestamps,
            gro: setup.gro,
        };
        let drain_timeout_us = [0, 1_000, 5_000_000, 5_000_000][random.below(4) as usize];
        let rules = any_rules(&mut random, Malformed::Drop);
        let rules = Rules { malformed: any_malformed(&mut random), ..rules };
        let nodes: Vec<RouteNode> =
            (0..random.between(1, 5)).map(|number| node(number, random.below(3))).collect();
        let live = any_live(&mut random, &nodes);
        let first = Arc::new(RouteTable {
            generation: 1,
            nodes: nodes.into(),
            diverted: diverted(1, &live),
            live,
            placement: Placement::Jump,
            rules,
            phase: Phase::Run,
            observer: None,
        });
        let span_us = random.between(1_000, 60_000);
        let tables = any_tables(&mut random, &first, span_us, drain_timeout_us);
        let wakes = (0..random.below(4)).map(|_| START_US + random.below(span_us)).collect();
        let datagrams = any_traffic(&mut random, &setup, span_us);
        let path_changes = any_path_changes(seed, span_us);
        Scenario {
            setup,
            limits,
            first,
            tables,
            path_changes,
            wakes,
            datagrams,
            is_fault_free,
            drain_timeout_us,
        }
    }
}

impl Scenario {
    /// For debugging a failure.
    pub fn print(&self) {
        println!("{:?}\n{:?}", self.setup, self.limits);
        let first = (0, Arc::clone(&self.first));
        for (at_us, table) in std::iter::once(&first).chain(&self.tables) {
            println!("{at_us}: table {} {:?} {:?}", table.generation, table.phase, table.rules);
            for (index, node) in table.nodes.iter().enumerate() {
                println!("    {} {:?} live {}", node.name, node.address, table.live.contains(index));
            }
        }
        for (at_us, listener, bytes) in &self.datagrams {
            println!("{at_us}: listener {listener}: {:?}", String::from_utf8_lossy(bytes));
        }
    }
}

fn node(number: u64, version: u64) -> RouteNode {
    let address = format!("10.0.{version}.{}:8125", number + 1);
    RouteNode {
        name: format!("node{number}:8125").into(),
        address: address.parse::<SocketAddr>().ok(),
        may_move: (number + version).is_multiple_of(3),
        source: None,
        gso: [GsoMode::Padded, GsoMode::Off, GsoMode::Unpadded][version as usize % 3],
        counters: Arc::default(),
    }
}

fn any_rules(random: &mut Random, malformed: Malformed) -> Rules {
    let packet_bytes_max = random.between(32, 300) as usize;
    // With `auto` the paths matter from 512 bytes on.
    let packet_auto = packet_bytes_max.is_multiple_of(4);
    let packet_bytes_max = packet_bytes_max + if packet_auto { 500 } else { 0 };
    Rules {
        flush_us: [0, 300, 2_000, 5_000, 20_000][random.below(5) as usize],
        packet_bytes_max,
        packet_auto,
        queue_bytes_max: [packet_bytes_max, 4 * packet_bytes_max, 1 << 16][random.below(3) as usize],
        reopen_us: [0, 0, 1_500, 6_000, 30_000][random.below(5) as usize],
        malformed,
        on_node_down: if random.below(3) == 0 { OnNodeDown::Drop } else { OnNodeDown::Divert },
    }
}

fn any_malformed(random: &mut Random) -> Malformed {
    if random.below(4) == 0 { Malformed::Forward } else { Malformed::Drop }
}

/// Mostly all live, except those without an address.
fn any_live(random: &mut Random, nodes: &[RouteNode]) -> LiveSet {
    let dying = [0, 0, 0, 0, 0, 2_000, 4_000, 9_900][random.below(8) as usize];
    LiveSet::new(nodes.iter().map(|node| node.address.is_some() && !random.strikes(dying)))
}

fn any_tables(
    random: &mut Random,
    first: &Arc<RouteTable>,
    span_us: u64,
    timeout_us: u64,
) -> Vec<(u64, Arc<RouteTable>)> {
    let mut times: Vec<u64> = (0..random.below(4)).map(|_| START_US + random.below(span_us)).collect();
    times.sort_unstable();
    let drain_us = START_US + random.below(span_us + span_us / 2);
    times.retain(|at_us| *at_us < drain_us);
    let mut tables: Vec<(u64, Arc<RouteTable>)> = Vec::new();
    let mut last = Arc::clone(first);
    for at_us in times {
        last = Arc::new(changed(random, &last));
        tables.push((at_us, Arc::clone(&last)));
    }
    let phase = Phase::Drain { timeout_us };
    let mut drain = copy(&last);
    drain.phase = phase;
    last = Arc::new(drain);
    tables.push((drain_us, Arc::clone(&last)));
    if random.below(3) == 0 {
        // Health checks continue while the workers drain.
        let mut late = copy(&last);
        late.live = any_live(random, &late.nodes);
        late.diverted = diverted(late.generation, &late.live);
        tables.push((drain_us + random.below(5_000), Arc::new(late)));
    }
    tables
}

/// Changes of path MTUs, in half of the runs. From a separate generator: the rest of the run does not depend on them.
fn any_path_changes(seed: u64, span_us: u64) -> Vec<(u64, u32, usize)> {
    let mut random = Random::new(seed ^ 0xA7_4B17);
    let changes = random.below(2) * random.between(1, 8);
    let mut any = || {
        let bytes = [30, 90, 200, 530, 700, 1_472][random.below(6) as usize];
        (START_US + random.below(span_us), random.below(3) as u32, bytes)
    };
    let mut changes: Vec<_> = (0..changes).map(|_| any()).collect();
    changes.sort_unstable();
    changes
}

/// The same table as the next generation.
fn copy(table: &RouteTable) -> RouteTable {
    RouteTable {
        generation: table.generation + 1,
        nodes: Arc::clone(&table.nodes),
        live: table.live.clone(),
        diverted: table.diverted.clone(),
        placement: table.placement.clone(),
        rules: table.rules,
        phase: table.phase,
        observer: None,
    }
}

/// One change, as made by a reload or a health check.
fn changed(random: &mut Random, table: &RouteTable) -> RouteTable {
    let mut next = copy(table);
    match random.below(4) {
        0 => {}
        1 => next.rules = any_rules(random, table.rules.malformed),
        _ => {
            let mut nodes: Vec<RouteNode> = table.nodes.to_vec();
            for _ in 0..random.between(1, 3) {
                change_nodes(random, &mut nodes);
            }
            next.nodes = nodes.into();
        }
    }
    next.live = any_live(random, &next.nodes);
    next.diverted = diverted(next.generation, &next.live);
    next
}

/// Half of the backends that are down, a different half in each generation.
fn diverted(generation: u64, live: &LiveSet) -> LiveSet {
    LiveSet::new(
        (0..live.len()).map(|index| !live.contains(index) && (generation + index as u64).is_multiple_of(2)),
    )
}

fn change_nodes(random: &mut Random, nodes: &mut Vec<RouteNode>) {
    let place = random.below(nodes.len() as u64) as usize;
    match random.below(5) {
        0 if nodes.len() > 1 => {
            nodes.remove(place);
        }
        1 => {
            let other = random.below(nodes.len() as u64) as usize;
            nodes.swap(place, other);
        }
        2 => {
            // It moves to another address, or its name does not resolve at present.
            let number = nodes[place].name.bytes().nth(4).map_or(0, |digit| u64::from(digit - b'0'));
            nodes[place].address =
                if random.below(4) == 0 { None } else { node(number, random.below(3)).address };
        }
        _ => {
            let added = node(random.below(8), random.below(3));
            if nodes.iter().all(|other| other.name != added.name) {
                nodes.insert(place, added);
            }
        }
    }
}

fn any_traffic(random: &mut Random, setup: &SimSetup, span_us: u64) -> Vec<(u64, usize, Vec<u8>)> {
    let mut datagrams = Vec::new();
    let mut id = 0;
    let wanted = random.between(3, 70) as usize;
    let is_bursty = random.below(2) == 0;
    while datagrams.len() < wanted {
        let at_us = START_US + random.below(span_us);
        let burst = match (is_bursty, random.below(12)) {
            (true, 0) => random.between(45, 140),
            (true, _) => random.between(1, 45),
            (false, _) => 1,
        };
        for _ in 0..burst {
            let listener = random.below(setup.listeners as u64) as usize;
            datagrams.push((at_us, listener, any_datagram(random, setup.payload_bytes_max, &mut id)));
        }
    }
    datagrams.sort_by_key(|(at_us, ..)| *at_us);
    datagrams
}

pub fn any_datagram(random: &mut Random, room: usize, id: &mut u64) -> Vec<u8> {
    let target = match random.below(20) {
        0 => return Vec::new(),
        1 => return (0..random.below(40)).map(|_| random.below(256) as u8).collect(),
        2 => room + random.between(1, 200) as usize,
        3 => room,
        4..8 => random.between(1, room as u64) as usize,
        _ => 1,
    };
    let mut datagram = Vec::new();
    loop {
        *id += 1;
        push_line(random, &mut datagram, *id);
        if datagram.len() >= target {
            break;
        }
        datagram.extend_from_slice(if random.below(5) == 0 { b"\r\n" } else { b"\n" });
    }
    if random.below(3) == 0 {
        datagram.push(b'\n');
    }
    if target <= 1 && datagram.len() > room {
        datagram.truncate(room);
    }
    datagram
}

/// A line that contains its id, so that no two are equal.
fn push_line(random: &mut Random, datagram: &mut Vec<u8>, id: u64) {
    let name = random.below(12);
    let line = match random.below(24) {
        0 => format!("junk{id}"),
        1 => format!(":{id}|c"),
        2 => format!("half{id}:1"),
        3 => String::new(),
        4 => format!("_sc|check{name}|{id}"),
        5 => format!("_e{{3,9}}:t{name:02}|{id}"),
        6 => format!("{}.m{name}:{id}|c", "long".repeat(random.below(80) as usize)),
        7 => format!("m{name}:{id}|g|@0.1|#tag:x,y:|z"),
        _ => format!("m{name}:{id}|c"),
    };
    datagram.extend_from_slice(line.as_bytes());
}
