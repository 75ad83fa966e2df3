//! Placements of other proxies: golden vectors, and the effect of dead backends.
//!
//! Each vector states its source. Vectors "of hashring" come from the npm packages hashring 3.2.0 and 1.0.1, through `get`,
//! `remove` and `add` as called by StatsD's `proxy.js`; scripts/placement-test.sh compares many more names with 3.2.0. Those of
//! the C and Go programs come from their compiled code.

use statsring::placement::{Destination, Hashing, LiveSet, Placement, Spec, key_hash};
use std::sync::Arc;

const THREE: [&str; 3] = ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"];
const NAMES: [&str; 8] =
    ["foo", "foo.bar", "api.requests", "statsd.test.counter", "gorets", "glork", "gaugor", "uniques"];

fn spec(hashing: Hashing, nodes: &[(&str, u32)]) -> Spec {
    Spec {
        hashing,
        nodes: nodes.iter().map(|(name, weight)| (Arc::from(*name), *weight)).collect(),
        shards: (0..nodes.len() as u16).collect(),
    }
}

fn placement(hashing: Hashing, nodes: &[&str]) -> Placement {
    let nodes: Vec<(&str, u32)> = nodes.iter().map(|node| (*node, 1)).collect();
    Placement::new(spec(hashing, &nodes))
}

fn without(nodes: usize, dead: &[usize]) -> LiveSet {
    LiveSet::new((0..nodes).map(|node| !dead.contains(&node)))
}

/// The owner while these backends are dead.
fn owner(placement: &Placement, nodes: usize, dead: &[usize], name: &[u8]) -> usize {
    let live = without(nodes, dead);
    placement.with_living(&live).owner(name, &live).expect("a backend is live")
}

/// Name; owner with three live backends, and with the first, second or third dead.
type RingVector = (&'static [u8], [usize; 4]);

fn check_ring(hashing: Hashing, vectors: &[RingVector]) {
    let ring = placement(hashing, &THREE);
    for (name, [all, first, second, third]) in vectors {
        let shown = name.escape_ascii();
        assert_eq!(ring.home(name, 3), Some(*all), "{shown}");
        assert_eq!(owner(&ring, 3, &[], name), *all, "{shown}");
        for (dead, expected) in [first, second, third].into_iter().enumerate() {
            assert_eq!(owner(&ring, 3, &[dead], name), *expected, "{shown}, {dead} dead");
        }
    }
}

/// Source: hashring 3.2.0 with `replicas: 0`.
#[test]
fn hashring_3() {
    check_ring(
        Hashing::Hashring3,
        &[
            (b"foo", [0, 1, 0, 0]),
            (b"foo.bar", [1, 1, 0, 1]),
            (b"api.requests", [2, 2, 2, 1]),
            (b"statsd.test.counter", [1, 1, 2, 1]),
            (b"gorets", [0, 2, 0, 0]),
            (b"glork", [1, 1, 2, 1]),
            (b"gaugor", [1, 1, 2, 1]),
            (b"uniques", [2, 2, 2, 0]),
            ("größe.日本".as_bytes(), [2, 2, 2, 0]),
            ("🦀.count".as_bytes(), [1, 1, 2, 1]),
            (b"", [2, 2, 2, 0]),
        ],
    );
}

/// Source: hashring 3.2.0 with `replicas: 4`, as 1.0.1 reads the 0 of proxy.js.
#[test]
fn hashring_1() {
    check_ring(
        Hashing::Hashring1,
        &[
            (b"foo", [0, 1, 0, 0]),
            (b"foo.bar", [0, 1, 0, 0]),
            (b"api.requests", [2, 2, 2, 1]),
            (b"statsd.test.counter", [0, 1, 0, 0]),
            (b"gorets", [2, 2, 2, 0]),
            (b"glork", [1, 1, 2, 1]),
            (b"gaugor", [1, 1, 2, 1]),
            (b"uniques", [0, 2, 0, 0]),
            ("größe.日本".as_bytes(), [2, 2, 2, 1]),
            ("🦀.count".as_bytes(), [1, 1, 0, 1]),
            (b"", [2, 2, 2, 0]),
        ],
    );
}

/// Source: the ring of hashring 3.2.0 with `replicas: 0` and 4, without its cache, which mistakes these properties of every
/// JavaScript object for its own entries: it returns their first owner even if that backend is down.
#[test]
fn javascript_object_names_follow_the_ring() {
    check_ring(
        Hashing::Hashring3,
        &[
            (b"constructor", [1, 1, 2, 1]),
            (b"toString", [2, 2, 2, 1]),
            (b"hasOwnProperty", [0, 1, 0, 0]),
            (b"__proto__", [0, 1, 0, 0]),
        ],
    );
    check_ring(
        Hashing::Hashring1,
        &[
            (b"constructor", [1, 1, 2, 1]),
            (b"toString", [1, 1, 0, 1]),
            (b"hasOwnProperty", [0, 2, 0, 0]),
            (b"__proto__", [0, 2, 0, 0]),
        ],
    );
}

/// Source: hashring, with the result of `Buffer.toString` in Node 20.
#[test]
fn invalid_utf8_is_hashed_as_decoded_by_node() {
    let names: [&[u8]; 4] = [b"\xfffoo", b"a\xe2\x82", b"\xed\xa0\x80b", b"\xf0\x9f\xa6.c\xc0\xaf"];
    let expected = [(Hashing::Hashring3, [0, 0, 1, 0]), (Hashing::Hashring1, [0, 2, 0, 1])];
    for (hashing, owners) in expected {
        let ring = placement(hashing, &THREE);
        let found = names.map(|name| ring.home(name, 3).unwrap());
        assert_eq!(found, owners, "{}", hashing.name());
    }
}

/// Source: hashring 3.2.0, `remove` of the sixth of eight. With seven nodes there are 39 points each, so that 1.6 % of the names
/// of live backends move as well.
#[test]
fn removing_one_of_eight_moves_names_like_proxy_js() {
    let names: Vec<String> = (0..8).map(|node| format!("10.0.0.{node}:8125")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ring = placement(Hashing::Hashring3, &names);
    for (number, before, after) in [(151, 3, 4), (208, 7, 3), (358, 6, 7), (362, 3, 4)] {
        let name = format!("app.{number}.requests");
        assert_eq!(ring.home(name.as_bytes(), 8), Some(before));
        assert_eq!(owner(&ring, 8, &[5], name.as_bytes()), after);
    }
    let live = without(8, &[5]);
    let seven = ring.with_living(&live);
    let moved = |name: &str| {
        let Destination { owner, home } =
            seven.destination(key_hash(name.as_bytes()), name.as_bytes(), &live).unwrap();
        assert_ne!(owner, 5);
        home != 5 && home != owner
    };
    let kept = (0..100_000).map(|number| format!("app.{number}.requests"));
    let kept: Vec<String> = kept.filter(|name| ring.home(name.as_bytes(), 8) != Some(5)).collect();
    let share = kept.iter().filter(|name| moved(name)).count() as f64 / kept.len() as f64;
    assert!((share - 0.016_291_646_43).abs() < 1e-9, "{share}");
}

/// Source: hashring 3.2.0. Both first nodes have the point 1785308117, and the name's hash is just below it. A node that is
/// removed and re-added moves to the end of the list.
#[test]
fn of_two_equal_points_the_first_inserted_wins() {
    let nodes = ["127.0.2.51:8125", "127.0.12.181:8125", "127.0.0.1:8125"];
    for hashing in [Hashing::Hashring3, Hashing::Hashring1] {
        let mut ring = placement(hashing, &nodes);
        let mut owners = Vec::new();
        for dead in [&[][..], &[0], &[], &[1], &[]] {
            let live = without(3, dead);
            ring = ring.with_living(&live);
            owners.push(ring.owner(b"tie.290", &live).unwrap());
        }
        assert_eq!(owners, [0, 1, 1, 0, 0], "{}", hashing.name());
    }
    // hit9's ring is never rebuilt: the order of the list is kept.
    let ring = placement(Hashing::Ketama, &nodes);
    let back = ring.with_living(&without(3, &[0])).with_living(&without(3, &[]));
    assert_eq!(back.owner(b"tie.290", &without(3, &[])), Some(0));
}

/// Source: `src/ketama.c` of hit9/statsd-proxy, compiled.
#[test]
fn ketama_with_weights() {
    let expected = [
        ([1, 1, 1], [0, 0, 2, 0, 2, 1, 1, 0]),
        ([1, 2, 3], [0, 2, 2, 0, 2, 2, 1, 1]),
        ([5, 1, 1], [0, 0, 2, 0, 2, 0, 0, 0]),
        ([10, 7, 3], [0, 0, 1, 0, 0, 1, 0, 1]),
    ];
    for (weights, owners) in expected {
        let nodes: Vec<(&str, u32)> = THREE.into_iter().zip(weights).collect();
        let ring = Placement::new(spec(Hashing::Ketama, &nodes));
        assert_eq!(NAMES.map(|name| ring.home(name.as_bytes(), 3).unwrap()), owners, "{weights:?}");
    }
}

/// Sources: owners of eight names over three entries, and over the entries a, a, b, b, a, from `src/hashlib.c` of
/// uber/statsrelay, compiled; the fruit from the tests of both programs (`test_hashring.c`, `shard.rs`).
#[test]
fn murmur3() {
    let three = placement(Hashing::Murmur3, &THREE);
    assert_eq!(NAMES.map(|name| three.home(name.as_bytes(), 3).unwrap()), [2, 0, 0, 2, 0, 1, 2, 1]);
    let fruit = ["apple", "banana", "orange", "lemon"];
    let four = placement(Hashing::Murmur3, &["a", "b", "c", "d"]);
    assert_eq!(fruit.map(|name| four.home(name.as_bytes(), 4).unwrap()), [2, 3, 0, 1]);
    let mut repeated = spec(Hashing::Murmur3, &[("a", 1), ("b", 1)]);
    repeated.shards = vec![0, 0, 1, 1, 0];
    let repeated = Placement::new(repeated);
    assert_eq!(NAMES.map(|name| repeated.home(name.as_bytes(), 2).unwrap()), [0, 1, 1, 0, 0, 0, 1, 1]);
}

/// Sources: `jump.go` of jjneely/statsrelay, compiled, and its test `TestJumpCHR` (45 nodes, same as carbon-c-relay's).
#[test]
fn jump_fnv1a() {
    let three = placement(Hashing::JumpFnv1a, &THREE);
    assert_eq!(NAMES.map(|name| three.home(name.as_bytes(), 3).unwrap()), [1, 1, 1, 1, 1, 0, 2, 0]);
    let nodes: Vec<String> = (10..55).map(|node| format!("graphite{node:03}-g5")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let many = placement(Hashing::JumpFnv1a, &nodes);
    for (name, node) in [
        ("foobar", 43),
        ("suebob.foo.honey.i.shrunk.the.kids", 48),
        ("5min.prod.dc06.graphite-web006-g6.kernel.net.netfilter.nf_conntrack_max", 14),
    ] {
        assert_eq!(many.home(name.as_bytes(), nodes.len()), Some(node - 10), "{name}");
    }
    // Five entries of two backends, such as `a:1:x b:1:x…`: the jump hash over five yields entries 1, 1, 3, 3, 4, 0, 2, 0.
    let mut repeated = spec(Hashing::JumpFnv1a, &[("a", 1), ("b", 1)]);
    repeated.shards = vec![0, 0, 1, 1, 0];
    let repeated = Placement::new(repeated);
    assert_eq!(NAMES.map(|name| repeated.home(name.as_bytes(), 2).unwrap()), [0, 0, 1, 1, 0, 0, 1, 0]);
}

/// The proxies of these placements do not divert names of dead backends. If diverted, only those names move, evenly, and
/// independently of the order of failures.
#[test]
fn diverting_moves_only_names_of_dead_backends() {
    let nodes: Vec<String> = (0..10).map(|node| format!("10.0.0.{node}:8125")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    for hashing in [Hashing::Ketama, Hashing::Murmur3, Hashing::JumpFnv1a] {
        let all = placement(hashing, &nodes);
        let live = without(10, &[3, 7]);
        let left = all.with_living(&without(10, &[7])).with_living(&live);
        let mut taken = [0u32; 10];
        for number in 0..20_000 {
            let name = format!("service.{number}.requests");
            let home = all.home(name.as_bytes(), 10).unwrap();
            let now = left.owner(name.as_bytes(), &live).unwrap();
            assert_eq!(left.home(name.as_bytes(), 10), Some(home));
            assert_eq!(owner(&all, 10, &[7, 3], name.as_bytes()), now);
            if live.contains(home) {
                assert_eq!(home, now);
            } else {
                taken[now] += 1;
            }
        }
        assert_eq!(taken[3] + taken[7], 0);
        let fair = taken.iter().sum::<u32>() / 8;
        // Ring arcs are uneven; a draw is even.
        let least = if hashing == Hashing::Ketama { fair / 2 } else { fair * 8 / 10 };
        let living = taken.iter().enumerate().filter(|(node, _)| live.contains(*node));
        assert!(living.map(|(_, count)| *count).all(|count| count > least), "{}: {taken:?}", hashing.name());
        let only = LiveSet::new((0..10).map(|node| node == 6));
        let last = all.with_living(&only);
        assert!((0..500).all(|number| last.owner(format!("n{number}").as_bytes(), &only) == Some(6)));
    }
}

#[test]
fn without_live_backends_there_is_no_owner_and_all_names_return() {
    for hashing in Hashing::ALL {
        let all = placement(hashing, &THREE);
        let none = without(3, &[0, 1, 2]);
        let dead = all.with_living(&none);
        assert_eq!(dead.owner(b"foo", &none), None, "{}", hashing.name());
        let live = without(3, &[]);
        let back = dead.with_living(&live);
        assert_eq!(back, all);
        assert!(NAMES.iter().all(|name| back.owner(name.as_bytes(), &live) == all.home(name.as_bytes(), 3)));
    }
}

/// A table may be combined with a newer live set; even then it must not return a dead backend.
#[test]
fn stale_ring_returns_no_dead_backend() {
    for hashing in Hashing::ALL {
        let all = placement(hashing, &THREE);
        let live = without(3, &[0, 2]);
        assert!(NAMES.iter().all(|name| all.owner(name.as_bytes(), &live) == Some(1)), "{}", hashing.name());
        assert_eq!(all.owner(b"foo", &without(3, &[0, 1, 2])), None);
    }
}

/// The description used to compare proxies: everything that affects placement except the backends, their order, and which are live.
#[test]
fn description_includes_weights_and_shards() {
    for hashing in Hashing::ALL {
        assert_eq!(placement(hashing, &THREE).description(), hashing.name());
    }
    let weighted = Placement::new(spec(Hashing::Ketama, &[("a:1", 2), ("b:1", 1)]));
    assert_eq!(weighted.description(), "ketama [2, 1]");
    for hashing in [Hashing::Murmur3, Hashing::JumpFnv1a] {
        let mut sharded = spec(hashing, &[("a:1", 1), ("b:1", 1)]);
        sharded.shards = vec![1, 0, 1];
        assert_eq!(Placement::new(sharded).description(), format!("{} [1, 0, 1]", hashing.name()));
    }
}

/// `ring.servers` of hashring, listed by `status` of `proxy.js`.
#[test]
fn live_backends_are_listed_in_the_order_of_proxy_js() {
    let lists = |placement: &Placement, dead: &[usize]| placement.living(&without(3, dead));
    for hashing in [Hashing::Hashring3, Hashing::Hashring1] {
        let ring = placement(hashing, &THREE);
        assert_eq!(lists(&ring, &[]), [0, 1, 2]);
        let one_down = ring.with_living(&without(3, &[0]));
        assert_eq!(lists(&one_down, &[0]), [1, 2]);
        let back = one_down.with_living(&without(3, &[]));
        assert_eq!(lists(&back, &[]), [1, 2, 0], "a returning node is last");
    }
    for hashing in [Hashing::Jump, Hashing::Ketama, Hashing::Murmur3, Hashing::JumpFnv1a] {
        let other = placement(hashing, &THREE).with_living(&without(3, &[1])).with_living(&without(3, &[2]));
        assert_eq!(lists(&other, &[2]), [0, 1], "{}", hashing.name());
    }
}
