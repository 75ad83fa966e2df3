//! The rings of MD5 points: hashring 3.2.0 and 1.0.1 as StatsD's `proxy.js` uses them, and hit9/statsd-proxy's ketama.
//!
//! Sources, read for their behaviour: the npm packages `hashring` (`index.js`) and `connection-parse`, StatsD's `proxy.js`,
//! and `src/ketama.c` of github.com/hit9/statsd-proxy.
//!
//! In: the backends' names and weights, and who of them lives. Out: a name's backend, found by binary search in a table
//! that was made beforehand. Made on the control thread; a look-up allocates nothing.

use super::hashing::{Hashing, Spec};
use super::live::LiveSet;
use md5::{Digest, Md5};
use std::sync::Arc;

/// MD5 digests a backend (hashring's "vnode count"), for each unit of weight.
const DIGESTS: usize = 40;
/// Points that one digest gives at most, four bytes each.
const POINTS_PER_DIGEST_MAX: usize = 4;
/// The weight that proxy.js gives to every node.
const PROXY_JS_WEIGHT: f64 = 100.0;
/// What Node's decoder replaces invalid UTF-8 with.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// One point of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    value: u32,
    /// Its number among the backend's points.
    serial: u32,
    node: u16,
}

/// Points in ascending order, with their backends.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    values: Box<[u32]>,
    nodes: Box<[u16]>,
}

/// A ring over a list of backends, and the one that is left of it while some of them are dead.
#[derive(Clone, Debug)]
pub struct Ring {
    spec: Arc<Spec>,
    /// All points that the backends may have, in the order of `home`.
    points: Arc<[Point]>,
    home: Arc<Table>,
    living: Arc<Table>,
    /// The living backends in the order in which the original holds them.
    order: Vec<u16>,
    live: LiveSet,
}

impl Ring {
    /// A ring in which all backends live.
    pub fn new(spec: Spec) -> Ring {
        let mut points: Vec<Point> = Vec::with_capacity(Ring::points_max(&spec));
        for (index, (name, weight)) in spec.nodes.iter().enumerate() {
            let digests = DIGESTS * *weight as usize;
            for digest in 0..digests {
                let bytes = Md5::digest(format!("{name}-{digest}"));
                let (fours, _) = bytes.as_slice().as_chunks::<4>();
                points.extend(fours.iter().take(points_per_digest(spec.hashing)).enumerate().map(
                    |(part, four)| Point {
                        value: u32::from_le_bytes(*four),
                        serial: (digest * points_per_digest(spec.hashing) + part) as u32,
                        node: index as u16,
                    },
                ));
            }
        }
        points.sort_unstable_by_key(|point| (point.value, point.node, point.serial));
        let order: Vec<u16> = (0..spec.nodes.len() as u16).collect();
        let home = Arc::new(table(&spec, &points, &order));
        Ring {
            live: LiveSet::all(spec.nodes.len()),
            points: points.into(),
            living: home.clone(),
            home,
            order,
            spec: Arc::new(spec),
        }
    }

    /// The most points that backends have on a ring.
    pub fn points_max(spec: &Spec) -> usize {
        let weights: usize = spec.nodes.iter().map(|(_, weight)| *weight as usize).sum();
        weights * DIGESTS * points_per_digest(spec.hashing)
    }

    /// The most memory that a ring takes while it is built anew, in bytes: all points, those chosen, and three tables, that
    /// of all backends and those of the living before and after.
    pub fn bytes_max(spec: &Spec) -> usize {
        let entry = size_of::<u32>() + size_of::<u16>();
        Ring::points_max(spec) * (2 * size_of::<Point>() + 3 * entry)
    }

    /// What it was made of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The living backends in the order in which the original holds them.
    pub fn order(&self) -> &[u16] {
        &self.order
    }

    /// Whether the ring of the living is that of `live`.
    pub fn is_of(&self, live: &LiveSet) -> bool {
        self.live == *live
    }

    /// The ring after a change of the living.
    ///
    /// As `ring.remove` and `ring.add` of hashring, it is built anew: the backends that stay keep their order, those that
    /// came to life stand behind them, in the list's order if several came at once. The order decides where two backends
    /// have a point of the same value. How many points a backend has depends on how many live. The ring of hit9's ketama is
    /// never built anew: its points stay as they were, without those of the dead.
    pub fn with_living(&self, live: &LiveSet) -> Ring {
        let mut order: Vec<u16> = self.order.clone();
        order.retain(|node| live.contains(usize::from(*node)));
        let nodes = self.spec.nodes.len();
        let returned = live.iter().filter(|node| *node < nodes && !self.live.contains(*node));
        order.extend(returned.map(|node| node as u16));
        if self.spec.hashing == Hashing::Ketama {
            order.sort_unstable();
        }
        let is_home = order.len() == nodes && order.is_sorted();
        let living =
            if is_home { self.home.clone() } else { Arc::new(table(&self.spec, &self.points, &order)) };
        Ring { living, order, live: live.clone(), ..self.clone() }
    }

    /// The place of a key on the ring.
    pub fn hash(&self, key: &[u8]) -> u32 {
        let mut md5 = Md5::new();
        if self.spec.hashing == Hashing::Ketama {
            md5.update(key);
        } else {
            // Node decodes a datagram first, so invalid bytes are hashed as their replacement.
            for chunk in key.utf8_chunks() {
                md5.update(chunk.valid().as_bytes());
                if !chunk.invalid().is_empty() {
                    md5.update(REPLACEMENT);
                }
            }
        }
        let digest = md5.finalize();
        let (fours, _) = digest.as_slice().as_chunks::<4>();
        fours.first().map_or(0, |four| u32::from_le_bytes(*four))
    }

    /// The living backend that serves what hashes to `hash`; `None` if none lives.
    pub fn owner(&self, hash: u32, live: &LiveSet) -> Option<usize> {
        self.living.owner(hash, |node| live.contains(node))
    }

    /// The backend that owns what hashes to `hash` when all live.
    pub fn home(&self, hash: u32) -> Option<usize> {
        self.home.owner(hash, |_| true)
    }
}

impl Eq for Ring {}

/// Rings are equal if they give the same answers.
impl PartialEq for Ring {
    fn eq(&self, other: &Ring) -> bool {
        self.order == other.order && self.live == other.live && self.spec == other.spec
    }
}

impl Table {
    /// The backend of the first point that is not below `hash`, else of the first of all. Points of backends that are not
    /// taken are passed over: none, unless the ring is older than the set of living backends that it is asked with.
    fn owner(&self, hash: u32, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.values.partition_point(|value| *value < hash);
        let (before, after) = self.nodes.split_at_checked(first)?;
        after.iter().chain(before).map(|node| usize::from(*node)).find(|node| takes(*node))
    }
}

/// The points of the backends in `order`, as the original sorts them: by value, then as they were inserted.
fn table(spec: &Spec, points: &[Point], order: &[u16]) -> Table {
    const ABSENT: u16 = u16::MAX;
    let mut ranks = vec![ABSENT; spec.nodes.len()];
    for (rank, node) in order.iter().enumerate() {
        ranks[usize::from(*node)] = rank as u16;
    }
    let serials = match spec.hashing {
        Hashing::Ketama => u32::MAX,
        hashing => (proxy_js_digests(order.len()) * points_per_digest(hashing)) as u32,
    };
    let rank = |point: &Point| ranks[usize::from(point.node)];
    let mut chosen: Vec<Point> =
        points.iter().filter(|point| rank(point) != ABSENT && point.serial < serials).copied().collect();
    chosen.sort_unstable_by_key(|point| (point.value, rank(point), point.serial));
    Table {
        values: chosen.iter().map(|point| point.value).collect(),
        nodes: chosen.iter().map(|point| point.node).collect(),
    }
}

/// Digests of each node when `nodes` are in the ring: 40, but 39 for some numbers, as hashring computes it in double
/// precision and in this order.
fn proxy_js_digests(nodes: usize) -> usize {
    let nodes = nodes as f64;
    let share = PROXY_JS_WEIGHT / (PROXY_JS_WEIGHT * nodes);
    (share * DIGESTS as f64 * nodes).floor() as usize
}

const fn points_per_digest(hashing: Hashing) -> usize {
    match hashing {
        Hashing::Hashring3 => 1,
        _ => POINTS_PER_DIGEST_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(hashing: Hashing) -> Ring {
        let nodes = [8127, 8129, 8131].map(|port| (format!("127.0.0.1:{port}").into(), 1));
        Ring::new(Spec { hashing, nodes: nodes.to_vec(), shards: vec![0, 1, 2] })
    }

    /// Source: the `ring` of the npm package hashring, 3.2.0 and 1.0.1.
    #[test]
    fn points_are_those_of_hashring() {
        let hashring_3 = ring(Hashing::Hashring3).home;
        let ends = |table: &Table| {
            let last = table.values.len() - 1;
            (last + 1, table.values[0], table.nodes[0], table.values[last], table.nodes[last])
        };
        assert_eq!(ends(&hashring_3), (120, 18_286_208, 1, 4_266_742_389, 2));
        assert!(hashring_3.values.contains(&0x4f36_fe58));
        assert_eq!(ends(&ring(Hashing::Hashring1).home), (480, 16_207_610, 0, 4_283_837_418, 2));
        assert_eq!(*ring(Hashing::Ketama).home, *ring(Hashing::Hashring1).home);
    }

    /// Source: JavaScript's `Math.floor(((100 / (100 * n)) * 40) * n)` for n = 1 to 300.
    #[test]
    fn digests_a_node_are_those_of_double_precision() {
        let fewer: Vec<usize> = (1..=300).filter(|nodes| proxy_js_digests(*nodes) != 40).collect();
        assert_eq!(
            fewer,
            [7, 14, 28, 49, 56, 98, 103, 112, 141, 147, 161, 196, 206, 224, 253, 269, 281, 282, 294]
        );
        assert!(fewer.iter().all(|nodes| proxy_js_digests(*nodes) == 39));
    }

    #[test]
    fn hashes_of_names() {
        let ring = ring(Hashing::Hashring3);
        assert_eq!(ring.hash(b"foo"), 0xdb18_bdac);
        assert_eq!(ring.hash(b"uniques"), 0x51fd_047e);
        assert_eq!(ring.hash(b"a\xff"), ring.hash("a\u{FFFD}".as_bytes()));
    }

    /// The binary search against the reference: the first point that is not below, in list order.
    #[test]
    fn a_look_up_is_the_first_point_not_below() {
        for hashing in [Hashing::Hashring3, Hashing::Hashring1] {
            let ring = ring(hashing);
            let values = ring.home.values.iter().flat_map(|value| [value - 1, *value, value + 1]);
            for hash in values.chain([0, u32::MAX]) {
                let mut best: Option<&Point> = None;
                for point in ring.points.iter().filter(|point| point.value >= hash) {
                    if best.is_none_or(|best| point.value < best.value) {
                        best = Some(point);
                    }
                }
                let plain = best.or_else(|| ring.points.iter().min_by_key(|point| point.value));
                assert_eq!(ring.home(hash), plain.map(|point| usize::from(point.node)), "{hash}");
            }
        }
    }
}
