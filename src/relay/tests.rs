//! The relay by examples; property tests are in `tests/relay_properties.rs`.

use super::*;
use crate::packet::{Arrival, Arrivals, SendError, SendErrorCounts, SendOutcome};
use crate::placement::{Hashing, LiveSet, Placement, Spec};
use crate::stats::{DropReason, Fragmentation};

const FLUSH_US: u64 = 5_000;

fn rules() -> Rules {
    Rules {
        flush_us: FLUSH_US,
        packet_bytes_max: 100,
        packet_auto: false,
        queue_bytes_max: 400,
        reopen_us: 0,
        malformed: Malformed::Drop,
        on_node_down: OnNodeDown::Divert,
    }
}

fn table(names: &[&str], live: LiveSet, rules: Rules) -> Arc<RouteTable> {
    let nodes: Vec<RouteNode> = names
        .iter()
        .map(|name| RouteNode {
            name: (*name).into(),
            address: "127.0.0.1:9".parse().ok(),
            may_move: false,
            source: None,
            gso: GsoMode::Padded,
            counters: Arc::default(),
        })
        .collect();
    Arc::new(RouteTable {
        generation: 1,
        nodes: nodes.into(),
        live,
        diverted: LiveSet::nobody(),
        placement: Placement::Jump,
        rules,
        phase: Phase::Run,
        observer: None,
    })
}

fn sockets(count: u32) -> Vec<Option<SocketSlot>> {
    (0..count).map(|slot| Some(SocketSlot(slot))).collect()
}

fn limits() -> RelayLimits {
    RelayLimits {
        sends_max: 16,
        backlog_bytes_max: 2_000,
        datagram_bytes_max: 1_000,
        cache_entries: 10_000,
        timestamps: false,
    }
}

fn relay_of(nodes: &[&str], rules: Rules) -> Relay {
    let table = table(nodes, LiveSet::all(nodes.len()), rules);
    Relay::new(limits(), table, &sockets(nodes.len() as u32))
}

fn at(us: u64) -> Arrival {
    Arrival { bound_us: us, taken_us: us, after_idle: false }
}

fn feed(relay: &mut Relay, us: u64, text: &str) {
    relay.ingest(at(us), text.as_bytes(), text.len());
}

fn out(relay: &mut Relay, us: u64, flush: Flush) -> Vec<Packet> {
    let mut packets = Vec::new();
    assert_eq!(
        relay.transmit(us, flush, |packet| {
            packets.push(packet);
            Ok(())
        }),
        Transmitted::All
    );
    packets
}

fn texts(packets: &[Packet]) -> Vec<&str> {
    packets.iter().map(|packet| std::str::from_utf8(packet.bytes()).unwrap()).collect()
}

fn settle(relay: &mut Relay, packets: Vec<Packet>, outcome: SendOutcome, us: u64) {
    for packet in packets {
        relay.sent(packet, outcome, us);
    }
}

#[test]
fn metrics_are_gathered_until_their_budget_is_spent() {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 100, "x:1|c\ny:2|c\n");
    feed(&mut relay, 200, "z:3|g");
    assert_eq!(relay.next_deadline_us(), Some(100 + FLUSH_US));
    assert!(out(&mut relay, 100 + FLUSH_US - 1, Flush::Due).is_empty());
    let packets = out(&mut relay, 100 + FLUSH_US, Flush::Due);
    assert_eq!(texts(&packets), ["x:1|c\ny:2|c\nz:3|g"]);
    assert_eq!(relay.next_deadline_us(), None);
    settle(&mut relay, packets, SendOutcome::Sent, 6_000);
    assert_eq!(relay.counters().get(Counter::MetricsSent), 3);
    assert!(relay.is_empty() && relay.counters().imbalance() == 0);
}

#[test]
fn a_full_packet_leaves_at_once_and_a_long_metric_alone_and_in_order() {
    let mut relay = relay_of(&["a:1"], rules());
    let long = format!("{}:1|c", "n".repeat(300));
    feed(&mut relay, 0, &format!("first:1|c\n{long}\nlast:1|c"));
    let packets = out(&mut relay, 0, Flush::Due);
    assert_eq!(texts(&packets), ["first:1|c", long.as_str()]);
    assert_eq!(texts(&out(&mut relay, 0, Flush::All)), ["last:1|c"]);
}

#[test]
fn every_bad_line_has_its_reason_and_its_neighbours_go_on() {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, "junk\na:1|c\n:1|c\nb:1\n\n\r\nc:1|c\r\n");
    relay.ingest(at(1), b"d:1|c\ncut:", 2_000);
    feed(&mut relay, 2, "");
    feed(&mut relay, 2, "\n\r\n");
    assert_eq!(texts(&out(&mut relay, 2, Flush::All)), ["a:1|c\nc:1|c\nd:1|c"]);
    let counters = relay.counters();
    assert_eq!(counters.dropped(DropReason::Malformed), 3);
    assert_eq!(counters.dropped(DropReason::Truncated), 1);
    assert_eq!(counters.get(Counter::DatagramsTruncated), 1);
    assert_eq!(counters.get(Counter::BytesTruncated), 1_990);
    assert_eq!(counters.get(Counter::DatagramsEmpty), 1);
    assert_eq!(counters.get(Counter::DatagramsBlank), 1);
    assert_eq!(counters.get(Counter::MetricsReceived), 7);
    assert_eq!(counters.imbalance(), 0);
}

#[test]
fn malformed_lines_can_be_forwarded() {
    let mut relay = relay_of(&["a:1"], Rules { malformed: Malformed::Forward, ..rules() });
    feed(&mut relay, 0, "junk\na:1|c");
    assert_eq!(texts(&out(&mut relay, 0, Flush::All)), ["junk\na:1|c"]);
}

#[test]
fn dead_backends_divert_or_drop() {
    let names = ["a:1", "b:1", "c:1"];
    // foo's home among three is 2, and 1 when that is down.
    let live = LiveSet::new([true, true, false]);
    let mut relay = Relay::new(limits(), table(&names, live.clone(), rules()), &sockets(3));
    feed(&mut relay, 0, "foo:1|c\nglork:1|c");
    let packets = out(&mut relay, 0, Flush::All);
    assert_eq!(texts(&packets), ["foo:1|c", "glork:1|c"]);
    assert_eq!(packets.iter().map(|packet| packet.backend()).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(relay.counters().get(Counter::MetricsDiverted), 1);

    let rules = Rules { on_node_down: OnNodeDown::Drop, ..rules() };
    let mut relay = Relay::new(limits(), table(&names, live, rules), &sockets(3));
    feed(&mut relay, 0, "foo:1|c\nglork:1|c");
    assert_eq!(texts(&out(&mut relay, 0, Flush::All)), ["glork:1|c"]);
    assert_eq!(relay.counters().dropped(DropReason::NodeDown), 1);

    let mut relay = Relay::new(limits(), table(&names, LiveSet::new([false; 3]), rules), &sockets(3));
    feed(&mut relay, 0, "foo:1|c");
    assert_eq!(relay.counters().dropped(DropReason::NoBackend), 1);
    assert_eq!(relay.counters().imbalance(), 0);
}

/// As `table`, with these backends' names served elsewhere regardless of the rules.
fn diverting(names: &[&str], live: [bool; 3], diverted: [bool; 3], rules: Rules) -> Arc<RouteTable> {
    let now = table(names, LiveSet::new(live), rules);
    let nodes = Arc::clone(&now.nodes);
    let (live, diverted) = (now.live.clone(), LiveSet::new(diverted));
    Arc::new(RouteTable { nodes, live, diverted, observer: None, placement: now.placement.clone(), ..*now })
}

#[test]
fn a_drained_backends_names_are_diverted_where_a_dead_ones_are_dropped() {
    let names = ["a:1", "b:1", "c:1"];
    let rules = Rules { on_node_down: OnNodeDown::Drop, ..rules() };
    let drained = diverting(&names, [true, true, false], [false, false, true], rules);
    let mut relay = Relay::new(limits(), Arc::clone(&drained), &sockets(3));
    feed(&mut relay, 0, "foo:1|c\nglork:1|c");
    let packets = out(&mut relay, 0, Flush::All);
    assert_eq!(packets.iter().map(|packet| packet.backend()).collect::<Vec<_>>(), [1, 0]);
    settle(&mut relay, packets, SendOutcome::Sent, 1);
    // The same living set, but now it is dead: what was remembered of the name does not count any more.
    let nodes = Arc::clone(&drained.nodes);
    let dead = RouteTable {
        nodes,
        live: drained.live.clone(),
        diverted: LiveSet::nobody(),
        placement: drained.placement.clone(),
        observer: None,
        ..*drained
    };
    relay.reroute(Arc::new(dead), &sockets(3), 2);
    feed(&mut relay, 2, "foo:1|c\nglork:1|c");
    assert_eq!(texts(&out(&mut relay, 2, Flush::All)), ["glork:1|c"]);
    assert_eq!(relay.counters().dropped(DropReason::NodeDown), 1);
}

/// The same table with its first backend elsewhere.
fn moved(relay: &Relay, address: &str, may_move: bool) -> Arc<RouteTable> {
    let now = relay.table();
    let node = RouteNode { address: address.parse().ok(), may_move, ..now.nodes[0].clone() };
    Arc::new(RouteTable {
        nodes: [node].into(),
        live: now.live.clone(),
        diverted: LiveSet::nobody(),
        placement: now.placement.clone(),
        observer: None,
        ..**now
    })
}

#[test]
fn what_is_refused_where_there_is_another_address_waits_for_the_move_and_keeps_its_order() {
    let mut relay = relay_of(&["a:1"], rules());
    relay.reroute(moved(&relay, "127.0.0.1:9", true), &sockets(1), 0);
    feed(&mut relay, 0, "first:1|c");
    let packets = out(&mut relay, 0, Flush::All);
    settle(&mut relay, packets, SendOutcome::Refused, 10);
    feed(&mut relay, 20, "second:1|c");
    assert!(out(&mut relay, 20, Flush::All).is_empty(), "nothing goes to where it would be lost");
    assert_eq!(relay.next_deadline_us(), Some(10 + MOVE_WAIT_US));
    relay.reroute(moved(&relay, "127.0.0.2:9", true), &sockets(1), 30);
    assert_eq!(relay.next_deadline_us(), Some(30));
    let packets = out(&mut relay, 30, Flush::All);
    assert_eq!(texts(&packets).concat(), "first:1|c\nsecond:1|c");
    settle(&mut relay, packets, SendOutcome::Sent, 40);
    assert_eq!((relay.counters().get(Counter::MetricsSent), relay.counters().imbalance()), (2, 0));
    // A move that does not come is not waited for longer, and a backend without other addresses not at all.
    feed(&mut relay, 50, "third:1|c");
    let packets = out(&mut relay, 50, Flush::All);
    settle(&mut relay, packets, SendOutcome::Unreachable(SendError::HostUnreachable), 60);
    let packets = out(&mut relay, 60 + MOVE_WAIT_US, Flush::All);
    assert_eq!(texts(&packets), ["third:1|c"]);
    settle(&mut relay, packets, SendOutcome::Unreachable(SendError::HostUnreachable), 60 + MOVE_WAIT_US);
    assert_eq!(relay.counters().dropped(DropReason::SendUnreachable), 1);
    relay.reroute(moved(&relay, "127.0.0.2:9", false), &sockets(1), 99_000);
    feed(&mut relay, 99_000, "fourth:1|c");
    let packets = out(&mut relay, 99_000, Flush::All);
    settle(&mut relay, packets, SendOutcome::Refused, 99_001);
    assert_eq!(texts(&out(&mut relay, 99_001, Flush::All)), ["fourth:1|c"]);
}

#[test]
fn a_reload_switches_trains_of_a_backend_off_and_on() {
    let mut relay = relay_of(&["a:1"], rules());
    let mut follows = |gso: GsoMode, us: u64| {
        let now = Arc::clone(relay.table());
        let nodes = [RouteNode { gso, ..now.nodes[0].clone() }].into();
        let next = RouteTable {
            nodes,
            live: now.live.clone(),
            diverted: LiveSet::nobody(),
            placement: now.placement.clone(),
            observer: None,
            ..*now
        };
        relay.reroute(Arc::new(next), &sockets(1), us);
        feed(&mut relay, us, &format!("{0}:1|c\n{0}:1|c\n{0}:1|c", "n".repeat(90)));
        let packets = out(&mut relay, us, Flush::All);
        let joined = packets.iter().filter(|packet| packet.may_join()).count();
        settle(&mut relay, packets, SendOutcome::Sent, us);
        joined
    };
    assert_eq!(
        [follows(GsoMode::Padded, 1), follows(GsoMode::Off, 2), follows(GsoMode::Unpadded, 3)],
        [2, 0, 2]
    );
}

/// A relay with another proxy's placement, for eight backends.
fn relay_placing(hashing: Hashing, live: LiveSet, rules: Rules) -> Relay {
    let names: Vec<String> = (0..8).map(|node| format!("10.0.0.{node}:8125")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let spec = Spec {
        hashing,
        nodes: names.iter().map(|name| (Arc::from(*name), 1)).collect(),
        shards: (0..8).collect(),
    };
    let table = Arc::into_inner(table(&names, live, rules)).unwrap();
    let placement = Placement::new(spec).with_living(&table.live);
    Relay::new(limits(), Arc::new(RouteTable { placement, ..table }), &sockets(8))
}

#[test]
fn the_placements_of_other_proxies_come_with_their_key_rules() {
    let text = "foo\nfoo:1\n:1|c\n_e{5,4}:title|text\nfoo:1|c";
    for (hashing, forwarded) in [
        (Hashing::Jump, 2),
        (Hashing::Hashring3, 5),
        (Hashing::Hashring1, 5),
        (Hashing::Ketama, 4),
        (Hashing::Murmur3, 2),
        (Hashing::JumpFnv1a, 4),
    ] {
        let mut relay = relay_placing(hashing, LiveSet::all(8), rules());
        feed(&mut relay, 0, text);
        let packets = out(&mut relay, 0, Flush::All);
        assert_eq!(
            packets.iter().map(|packet| packet.metrics()).sum::<u32>(),
            forwarded,
            "{}",
            hashing.name()
        );
        assert_eq!(relay.counters().dropped(DropReason::Malformed), 5 - u64::from(forwarded));
        let placement = relay.table().placement.clone();
        let event =
            packets.iter().find(|packet| texts(std::slice::from_ref(packet))[0].contains("_e{")).unwrap();
        let key: &[u8] = if hashing == Hashing::Jump { b"title" } else { b"_e{5,4}" };
        assert_eq!(placement.home(key, 8), Some(event.backend()), "{}", hashing.name());
    }
}

#[test]
fn where_a_ring_changes_for_the_living_their_names_move_only_if_diverted() {
    // hashring gives eight nodes 40 points each, and seven 39: with number 5 dead this name of number 3 is number 4's.
    let live = LiveSet::new((0..8).map(|node| node != 5));
    let mut relay = relay_placing(Hashing::Hashring3, live.clone(), rules());
    feed(&mut relay, 0, "app.151.requests:1|c");
    assert_eq!(out(&mut relay, 0, Flush::All)[0].backend(), 4);
    assert_eq!(relay.counters().get(Counter::MetricsDiverted), 1);

    let rules = Rules { on_node_down: OnNodeDown::Drop, ..rules() };
    let mut relay = relay_placing(Hashing::Hashring3, live, rules);
    feed(&mut relay, 0, "app.151.requests:1|c");
    feed(&mut relay, 0, "app.151.requests:1|c");
    assert_eq!(out(&mut relay, 0, Flush::All)[0].backend(), 3);
    assert_eq!(relay.counters().dropped(DropReason::NodeDown), 0);
}

#[test]
fn a_busy_backend_holds_its_packets_in_order_within_its_queue() {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, "one:1|c");
    let packets = out(&mut relay, 0, Flush::All);
    settle(&mut relay, packets, SendOutcome::Busy, 10);
    assert_eq!(relay.next_deadline_us(), Some(10 + FLUSH_US));
    feed(&mut relay, 20, "two:1|c");
    // Nothing leaves while the socket is busy, whatever is due.
    assert!(out(&mut relay, 10 + FLUSH_US - 1, Flush::Due).is_empty());
    let packets = out(&mut relay, 20 + FLUSH_US, Flush::Due);
    assert_eq!(texts(&packets), ["one:1|c\ntwo:1|c"]);
    // Busy again: both wait, in order, in one packet.
    settle(&mut relay, packets, SendOutcome::Busy, 9_000);
    for i in 0..100 {
        feed(&mut relay, 9_000, &format!("more.{i:02}{}:1|c", "x".repeat(60)));
    }
    let counters = relay.counters();
    assert_eq!(relay.count_pending() + counters.dropped(DropReason::QueueFull), 102);
    assert!(counters.dropped(DropReason::QueueFull) > 90);
    let packets = out(&mut relay, 90_000, Flush::Due);
    let texts = texts(&packets);
    assert!(texts[0].starts_with("one:1|c\ntwo:1|c\nmore.00"), "a trickle shares packets: {}", texts[0]);
    assert!(texts[1].starts_with("more.01"));
    assert!(packets.windows(2).all(|pair| pair[0].sequence() < pair[1].sequence()));
    settle(&mut relay, packets, SendOutcome::Sent, 90_000);
    assert!(relay.is_empty());
    assert_eq!(relay.counters().imbalance(), 0);
}

/// A metric that this backend owns.
fn metric_of(relay: &Relay, backend: usize) -> String {
    let table = relay.table();
    let owns = |name: &String| {
        let hash = crate::placement::key_hash(name.as_bytes());
        let destination = table.placement.destination(hash, name.as_bytes(), &table.live);
        destination.is_some_and(|destination| destination.owner == backend)
    };
    let name = (0..).map(|number| format!("metric.{number}")).find(owns).unwrap();
    format!("{name}:1|c")
}

#[test]
fn a_busy_backend_does_not_hold_up_what_is_due_for_another() {
    let mut relay = relay_of(&["a:1", "b:1"], Rules { flush_us: 100_000, ..rules() });
    let [to_a, to_b] = [0, 1].map(|backend| metric_of(&relay, backend));
    feed(&mut relay, 0, &to_b);
    feed(&mut relay, 70_000, &[to_a.as_str(); 12].join("\n"));
    let packets = out(&mut relay, 75_000, Flush::Due);
    assert!(!packets.is_empty());
    settle(&mut relay, packets, SendOutcome::Busy, 75_000);
    feed(&mut relay, 94_000, &to_a);
    let retry_us = relay.next_deadline_us().unwrap();
    assert!(!out(&mut relay, retry_us, Flush::Due).is_empty());
    assert_eq!(relay.next_deadline_us(), Some(100_000));
    assert_eq!(texts(&out(&mut relay, 100_000, Flush::Due)), [to_b]);
}

#[test]
fn a_backend_that_becomes_busy_does_not_put_off_the_retry_of_another() {
    let mut relay = relay_of(&["a:1", "b:1"], rules());
    let metrics = [0, 1].map(|backend| metric_of(&relay, backend));
    for (at_us, metric) in [(0, &metrics[0]), (4_000, &metrics[1])] {
        feed(&mut relay, at_us, metric);
        let packets = out(&mut relay, at_us, Flush::All);
        settle(&mut relay, packets, SendOutcome::Busy, at_us);
    }
    assert_eq!(relay.next_deadline_us(), Some(FLUSH_US));
    assert_eq!(out(&mut relay, FLUSH_US, Flush::Due).len(), 2);
}

#[test]
fn a_refused_packet_is_repeated_at_once_and_not_for_ever() {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, "one:1|c");
    let mut packets = out(&mut relay, 0, Flush::All);
    let hint = relay.sent(packets.pop().unwrap(), SendOutcome::Refused, 1);
    assert_eq!(hint, Hint::SendsFail { backend: 0 });
    for _ in 0..REFUSED_ATTEMPTS_MAX {
        assert_eq!(relay.next_deadline_us(), Some(0));
        let mut packets = out(&mut relay, 1, Flush::Due);
        assert_eq!(texts(&packets), ["one:1|c"]);
        assert_eq!(relay.sent(packets.pop().unwrap(), SendOutcome::Refused, 1), Hint::None);
    }
    assert_eq!(relay.counters().dropped(DropReason::SendRefused), 1);
    assert_eq!(relay.next_deadline_us(), None);
    assert_eq!(relay.counters().imbalance(), 0);
}

#[test]
fn without_room_at_the_driver_nothing_is_lost_or_reordered() {
    let mut relay = relay_of(&["a:1"], Rules { flush_us: 0, packet_bytes_max: 8, ..rules() });
    feed(&mut relay, 0, "a:1|c\nb:1|c\nc:1|c");
    let mut sent = Vec::new();
    loop {
        let mut room = 1;
        let mut taken = Vec::new();
        let transmitted = relay.transmit(0, Flush::Due, |packet| {
            if room == 0 {
                return Err(packet);
            }
            room -= 1;
            taken.push(packet);
            Ok(())
        });
        for packet in taken {
            sent.push(String::from_utf8(packet.bytes().to_vec()).unwrap());
            relay.sent(packet, SendOutcome::Sent, 0);
        }
        if transmitted == Transmitted::All {
            break;
        }
    }
    assert_eq!(sent, ["a:1|c", "b:1|c", "c:1|c"]);
}

#[test]
fn a_reload_keeps_remaining_backends_and_counts_drops_of_removed_ones() {
    let mut relay = relay_of(&["a:1", "b:1", "c:1"], rules());
    // Homes among three: glork 0, gaugor 1, foo 2.
    feed(&mut relay, 0, "glork:1|c\ngaugor:1|c\nfoo:1|c");
    let next = table(&["c:1", "a:1"], LiveSet::all(2), Rules { packet_bytes_max: 50, ..rules() });
    relay.reroute(next, &[Some(SocketSlot(2)), Some(SocketSlot(0))], 10);
    assert_eq!(relay.counters().dropped(DropReason::NodeRemoved), 1);
    let packets = out(&mut relay, 10, Flush::All);
    let seen: Vec<_> = packets.iter().map(|packet| (packet.backend(), packet.socket().0)).collect();
    assert_eq!(seen, [(0, 2), (1, 0)]);
    assert_eq!(texts(&packets), ["foo:1|c", "glork:1|c"]);
    settle(&mut relay, packets, SendOutcome::Sent, 10);
    assert_eq!(relay.counters().imbalance(), 0);
    assert!(relay.is_empty());
}

#[test]
fn what_is_left_at_the_end_is_counted() {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, "one:1|c");
    let packets = out(&mut relay, 0, Flush::All);
    settle(&mut relay, packets, SendOutcome::Busy, 0);
    feed(&mut relay, 0, "two:1|c");
    assert_eq!(relay.drop_all(DropReason::Shutdown, 1), 2);
    assert!(relay.is_empty());
    assert_eq!(relay.counters().imbalance(), 0);
}

#[test]
fn full_packets_of_one_backend_follow_each_other_with_one_length() {
    let mut relay = relay_of(&["a:1", "b:1"], rules());
    for round in 0..40 {
        // 12 bytes with the newline: 8 of them fill 95 of 100 bytes. Homes among two: glork 0, foo 1.
        feed(&mut relay, 0, &format!("glork:{round:02}|ms\nfoo.bar:{round:02}|c"));
    }
    let packets = out(&mut relay, 0, Flush::All);
    assert!(packets.is_sorted_by_key(|packet| (packet.backend(), packet.sequence())));
    for pair in packets.windows(2) {
        let joins = pair[0].backend() == pair[1].backend();
        assert_eq!(pair[1].may_join(), joins);
        assert_eq!(pair[0].len() == 100, joins, "{:?}", pair[0]);
    }
    assert_eq!(packets.iter().map(|packet| packet.metrics()).sum::<u32>(), 80);
    // Refused as a GSO batch: each goes again by itself, and later ones too.
    let mut hints = Vec::new();
    for packet in packets {
        hints.push(relay.sent(packet, SendOutcome::GsoRefused(5), 0));
    }
    assert_eq!(hints.iter().filter(|hint| **hint == Hint::GsoRefused { backend: 0, errno: 5 }).count(), 1);
    let packets = out(&mut relay, 0, Flush::Due);
    assert!(packets.iter().all(|packet| !packet.may_join()));
    settle(&mut relay, packets, SendOutcome::Sent, 0);
    assert_eq!(relay.counters().get(Counter::MetricsSent), 80);
    assert_eq!(relay.counters().imbalance(), 0);
}

/// A relay of one backend that gets no empty lines, with packets of at most 100 bytes.
fn unpadded_relay() -> Relay {
    let mut next = Arc::into_inner(table(&["a:1"], LiveSet::all(1), rules())).unwrap();
    next.nodes = [RouteNode { gso: GsoMode::Unpadded, ..next.nodes[0].clone() }].into();
    Relay::new(limits(), Arc::new(next), &sockets(1))
}

/// A line of so many bytes with its newline.
fn line_of(bytes: usize) -> String {
    format!("{}:1|c\n", "n".repeat(bytes - 5))
}

#[test]
fn without_padding_a_packet_is_filled_no_further_than_the_one_that_it_follows() {
    let mut relay = unpadded_relay();
    // 94 bytes and 5 more do not fit; the next packet has room for 93 without its last newline, not for 98.
    let lines = [47, 47, 30, 30, 30, 8, 40].map(line_of).concat();
    feed(&mut relay, 0, &lines);
    let packets = out(&mut relay, 0, Flush::All);
    let lengths: Vec<usize> = packets.iter().map(|packet| packet.len()).collect();
    assert_eq!(lengths, [93, 89, 47]);
    assert!(packets.iter().all(|packet| packet.bytes().last() != Some(&b'\n')));
    assert_eq!(packets.iter().map(|packet| packet.may_join()).collect::<Vec<_>>(), [false, true, true]);
    settle(&mut relay, packets, SendOutcome::Sent, 0);
    // What is handed over next begins anew.
    feed(&mut relay, 0, &[33, 33, 33, 40].map(line_of).concat());
    let packets = out(&mut relay, 0, Flush::All);
    assert_eq!(packets[0].len(), 98);
    settle(&mut relay, packets, SendOutcome::Sent, 0);
}

#[test]
fn without_padding_long_lines_do_not_make_small_packets() {
    let mut relay = unpadded_relay();
    // 60 bytes are far from full: what follows may have 100. A line longer than the packet before it has all the room, too.
    feed(&mut relay, 0, &[60, 50, 50, 95, 97, 3 + 5].map(line_of).concat());
    let packets = out(&mut relay, 0, Flush::All);
    let lengths: Vec<usize> = packets.iter().map(|packet| packet.len()).collect();
    assert_eq!(lengths, [59, 99, 94, 96, 7]);
    settle(&mut relay, packets, SendOutcome::Sent, 0);
}

#[test]
fn packets_that_wait_for_a_busy_socket_lose_their_padding() {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, &[47, 47, 47, 47].map(line_of).concat());
    let packets = out(&mut relay, 0, Flush::All);
    assert_eq!(packets[0].len(), 100);
    settle(&mut relay, packets, SendOutcome::Busy, 0);
    let mut next = Arc::into_inner(table(&["a:1"], LiveSet::all(1), rules())).unwrap();
    next.nodes = [RouteNode { gso: GsoMode::Unpadded, ..next.nodes[0].clone() }].into();
    relay.reroute(Arc::new(next), &sockets(1), 1);
    let packets = out(&mut relay, 1_000_000, Flush::All);
    assert_eq!(packets.iter().map(|packet| packet.len()).collect::<Vec<_>>(), [93, 93]);
    settle(&mut relay, packets, SendOutcome::Sent, 1);
}

#[test]
fn a_reload_applies_gso_and_a_refusal_remains_until_the_address_changes() {
    let with = |gso: GsoMode, port: u16, before: Option<&RouteTable>| {
        let mut next = Arc::into_inner(table(&["a:1"], LiveSet::all(1), rules())).unwrap();
        let node = RouteNode {
            gso,
            address: Some(([127, 0, 0, 1], port).into()),
            may_move: false,
            counters: before.map_or_else(Arc::default, |table| Arc::clone(&table.nodes[0].counters)),
            ..next.nodes[0].clone()
        };
        next.nodes = [node].into();
        Arc::new(next)
    };
    let has_trains = |relay: &mut Relay| {
        feed(relay, 0, &"foo.bar:1|ms\n".repeat(20));
        let packets = out(relay, 0, Flush::All);
        let has = packets.iter().any(|packet| packet.may_join());
        settle(relay, packets, SendOutcome::Sent, 0);
        has
    };
    let first = with(GsoMode::Padded, 9, None);
    let mut relay = Relay::new(limits(), Arc::clone(&first), &sockets(1));
    assert!(has_trains(&mut relay));
    relay.reroute(with(GsoMode::Off, 9, Some(&first)), &sockets(1), 0);
    assert!(!has_trains(&mut relay));
    relay.reroute(with(GsoMode::Padded, 9, Some(&first)), &sockets(1), 0);
    assert!(has_trains(&mut relay));
    feed(&mut relay, 0, "foo.bar:1|ms");
    let packets = out(&mut relay, 0, Flush::All);
    settle(&mut relay, packets, SendOutcome::GsoRefused(5), 0);
    assert!(!has_trains(&mut relay));
    let counters = Arc::clone(&first.nodes[0].counters);
    let refused =
        || (counters.gso_refused.load(Ordering::Relaxed), counters.gso_errno.load(Ordering::Relaxed));
    assert_eq!(refused(), (1, 5));
    for gso in [GsoMode::Padded, GsoMode::Unpadded] {
        relay.reroute(with(gso, 9, Some(&first)), &sockets(1), 0);
        assert!(!has_trains(&mut relay), "the same way refuses again");
    }
    relay.reroute(with(GsoMode::Padded, 10, Some(&first)), &sockets(1), 0);
    assert!(has_trains(&mut relay), "another address may take them");
    assert_eq!(refused(), (1, 0));
}

#[test]
fn a_narrow_path_makes_packets_smaller_where_that_is_wanted() {
    let rules = Rules { packet_bytes_max: 2_000, ..rules() };
    let line = format!("foo.bar:{}|c\n", "1".repeat(88));
    for (packet_auto, path, expected) in [
        (true, Some(700), 700),
        (true, Some(9_000), 2_000),
        (true, Some(1), 512),
        (true, None, 2_000),
        (false, Some(700), 2_000),
    ] {
        let mut relay = relay_of(&["a:1"], Rules { packet_auto, ..rules });
        relay.set_path(0, path);
        for _ in 0..4 {
            feed(&mut relay, 0, &line.repeat(9));
        }
        let longest = out(&mut relay, 0, Flush::All).iter().map(|packet| packet.len()).max();
        assert!(
            longest.is_some_and(|longest| longest <= expected && longest + line.len() > expected),
            "{longest:?}"
        );
    }
}

#[test]
fn packets_that_the_path_does_not_take_are_counted_as_fragmented_and_reported_once() {
    let mut relay = relay_of(&["a:1"], rules());
    let counters = Arc::clone(&relay.table().nodes[0].counters);
    relay.set_path(0, Some(60));
    let send = |relay: &mut Relay, lines: &[usize]| {
        feed(relay, 0, &lines.iter().map(|bytes| line_of(*bytes)).collect::<String>());
        let packets = out(relay, 0, Flush::All);
        let shapes: Vec<(usize, bool)> =
            packets.iter().map(|packet| (packet.len(), packet.may_join())).collect();
        let hints: Vec<Hint> =
            packets.into_iter().map(|packet| relay.sent(packet, SendOutcome::Sent, 5)).collect();
        (shapes, hints)
    };
    // Neither padded nor sent with others: that would be in vain.
    let (shapes, hints) = send(&mut relay, &[47, 47, 47, 47, 30]);
    assert_eq!(shapes, [(93, false), (93, false), (29, false)]);
    assert_eq!(hints, [Hint::Fragmented { backend: 0 }, Hint::None, Hint::None]);
    assert_eq!(relay.counters().get(Counter::PacketsFragmented), 2);
    assert_eq!(counters.packets_fragmented.load(Ordering::Relaxed), 2);
    let fragmented = Some(Fragmentation::Packets { packet_bytes: 100, path_bytes: 60 });
    assert_eq!(counters.fragmentation(10, 60), fragmented);
    assert_eq!(counters.fragmentation(65, 60), None, "long ago");
    assert_eq!(relay.set_path(0, Some(60)), PathChange::None);
    assert_eq!(relay.set_path(0, Some(100)), PathChange::Fits);
    assert_eq!(counters.fragmentation(10, 60), None);
    let (shapes, hints) = send(&mut relay, &[47, 47, 47, 47]);
    assert_eq!((shapes, hints), (vec![(100, false), (93, true)], vec![Hint::None, Hint::None]));
    // A metric that is longer than packets and than the path.
    let (_, hints) = send(&mut relay, &[151]);
    assert_eq!(hints, [Hint::None]);
    let long = Some(Fragmentation::LongMetric { metric_bytes: 150, path_bytes: 100 });
    assert_eq!((counters.fragmentation(10, 60), relay.counters().get(Counter::PacketsFragmented)), (long, 3));
    assert_eq!(relay.counters().imbalance(), 0);
}

#[test]
fn with_auto_packets_follow_the_path_and_those_already_packed_go_alone() {
    let line = format!("foo.bar:{}|c\n", "1".repeat(88));
    let rules = Rules { packet_bytes_max: 2_000, packet_auto: true, ..rules() };
    let mut relay = relay_of(&["a:1"], rules);
    assert_eq!(relay.set_path(0, Some(1_472)), PathChange::None, "the first one known");
    let feed_all = |relay: &mut Relay| (0..6).for_each(|_| feed(relay, 0, &line.repeat(9)));
    feed_all(&mut relay);
    let packets = out(&mut relay, 0, Flush::All);
    assert!(packets[0].len() == 1_472 && packets[1].may_join());
    let count = packets.len();
    for packet in packets {
        assert_eq!(relay.sent(packet, SendOutcome::TooBigForPath, 0), Hint::None);
    }
    assert_eq!(relay.set_path(0, Some(872)), PathChange::Resized { packet_bytes: 872 });
    assert_eq!(relay.set_path(0, Some(872)), PathChange::None);
    let packets = out(&mut relay, 0, Flush::Due);
    assert_eq!(packets.len(), count, "each goes again");
    assert!(packets.iter().all(|packet| packet.bytes().last() != Some(&b'\n')), "without padding");
    let long = packets.iter().filter(|packet| packet.len() > 872).count() as u64;
    assert!(long > 0 && packets.iter().all(|packet| !packet.may_join()));
    settle(&mut relay, packets, SendOutcome::Sent, 0);
    assert_eq!(relay.counters().get(Counter::PacketsFragmented), long);
    feed_all(&mut relay);
    let packets = out(&mut relay, 0, Flush::All);
    assert!(packets[0].len() == 872 && packets[1].may_join());
    settle(&mut relay, packets, SendOutcome::Sent, 0);
    assert_eq!(relay.counters().get(Counter::PacketsFragmented), long);
    assert_eq!(relay.set_path(0, Some(1_472)), PathChange::Resized { packet_bytes: 1_472 });
    assert_eq!(relay.counters().imbalance(), 0);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(
    expected = "metrics_received 2 = metrics_sent 0 + dropped 0 [] + metrics_pending 1 + 1 missing"
)]
fn a_debug_build_stops_at_the_first_metric_that_is_not_accounted_for() {
    crate::failpoint::activate(Some(crate::failpoint::Mutation::DropUncounted));
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, "x:1|c");
    let packets = out(&mut relay, 0, Flush::All);
    settle(&mut relay, packets, SendOutcome::Denied(SendError::NotPermitted), 1);
    feed(&mut relay, 2, "y:1|c");
    relay.check_account();
}

#[test]
fn packets_keep_the_arrival_of_each_metric_across_retries() {
    let limits = RelayLimits { timestamps: true, ..limits() };
    let mut relay = Relay::new(limits, table(&["a:1"], LiveSet::all(1), rules()), &sockets(1));
    let feed = |relay: &mut Relay, stamped_us: Option<i64>, text: &str| {
        relay.ingest_stamped(at(100), stamped_us, text.as_bytes(), text.len());
    };
    let told = |packets: &[Packet]| -> Vec<(i64, u32)> {
        packets.iter().flat_map(|packet| packet.arrivals().into_iter().flat_map(Arrivals::iter)).collect()
    };
    feed(&mut relay, Some(90), "x:1|c\njunk\ny:2|c\n");
    feed(&mut relay, None, "unknown:1|c");
    feed(&mut relay, Some(95), "z:3|g");
    let packets = out(&mut relay, 200, Flush::All);
    assert_eq!(texts(&packets), ["x:1|c\ny:2|c\nunknown:1|c\nz:3|g"]);
    assert_eq!(told(&packets), [(90, 2), (95, 1)]);
    settle(&mut relay, packets, SendOutcome::Refused, 210);
    let packets = out(&mut relay, 220, Flush::All);
    assert_eq!(told(&packets), [(90, 2), (95, 1)], "it goes once more");

    // It waits for the busy socket, and a long metric's packet behind it; what fits is put together.
    settle(&mut relay, packets, SendOutcome::Busy, 230);
    feed(&mut relay, Some(240), "w:1|c");
    feed(&mut relay, Some(250), &format!("{}:1|c", "n".repeat(300)));
    let packets = out(&mut relay, 100_000, Flush::All);
    assert_eq!(packets.len(), 2);
    assert_eq!(told(&packets), [(90, 2), (95, 1), (240, 1), (250, 1)]);
    settle(&mut relay, packets, SendOutcome::Sent, 100_100);

    feed(&mut relay, None, "a:1|c");
    let packets = out(&mut relay, 200_000, Flush::All);
    assert_eq!(told(&packets), [], "nothing is left of those before");
    settle(&mut relay, packets, SendOutcome::Sent, 200_100);
    assert_eq!(relay.counters().imbalance(), 0);
}

#[test]
fn without_timestamps_packets_have_no_memory_for_arrivals() {
    let mut relay = relay_of(&["a:1"], rules());
    relay.ingest_stamped(at(100), Some(90), b"x:1|c", 5);
    let packets = out(&mut relay, 200, Flush::All);
    assert!(packets[0].arrivals().is_none());
    settle(&mut relay, packets, SendOutcome::Sent, 210);
}

/// Sends one metric, and reports `outcome` for it until it is not sent again. The number of sends, and the reason of the drop.
fn sends_until_dropped(outcome: SendOutcome) -> (usize, DropReason) {
    let mut relay = relay_of(&["a:1"], rules());
    feed(&mut relay, 0, "x:1|c");
    let mut sends = 0;
    loop {
        let packets = out(&mut relay, sends as u64 * 100_000, Flush::All);
        if packets.is_empty() {
            break;
        }
        sends += packets.len();
        settle(&mut relay, packets, outcome, sends as u64 * 100_000);
    }
    assert_eq!((relay.counters().imbalance(), relay.count_pending()), (0, 0));
    let dropped = |reason: &&DropReason| relay.counters().dropped(**reason) == 1;
    (sends, *DropReason::ALL.iter().find(dropped).unwrap())
}

#[test]
fn each_error_has_its_reason_and_number_of_attempts() {
    let (refused, unreachable) =
        (1 + usize::from(REFUSED_ATTEMPTS_MAX), 1 + usize::from(UNREACHABLE_ATTEMPTS_MAX));
    let with_new_socket = 1 + usize::from(SOCKET_ATTEMPTS_MAX);
    for (outcome, expected) in [
        (SendOutcome::Refused, (refused, DropReason::SendRefused)),
        (SendOutcome::Answered(libc::EMSGSIZE), (refused, DropReason::SendUnreachable)),
        (SendOutcome::Answered(libc::EPROTO), (unreachable, DropReason::SendUnreachable)),
        (SendOutcome::Unreachable(SendError::HostUnreachable), (unreachable, DropReason::SendUnreachable)),
        (SendOutcome::NoBuffers(SendError::NoBuffers), (1, DropReason::SendNoBuffers)),
        (SendOutcome::TooLong, (1, DropReason::SendTooLong)),
        (SendOutcome::Denied(SendError::NotPermitted), (1, DropReason::SendDenied)),
        (SendOutcome::Failed(libc::EINVAL), (with_new_socket, DropReason::SendFailed)),
        (SendOutcome::Failed(libc::EIO), (1, DropReason::SendFailed)),
    ] {
        assert_eq!(sends_until_dropped(outcome), expected, "{outcome:?}");
    }
}

#[test]
fn icmp_answers_are_counted_at_the_backend_of_their_socket_and_hint_once() {
    let mut relay = relay_of(&["a:1", "b:1"], rules());
    let mut errors = SendErrorCounts::default();
    errors.set(SendError::HostUnreachable, 3);
    assert_eq!(relay.answered(SocketSlot(1), &errors, 5), Hint::SendsFail { backend: 1 });
    assert_eq!(relay.answered(SocketSlot(1), &errors, 6), Hint::None, "control has the hint already");
    assert_eq!(relay.answered(SocketSlot(7), &errors, 7), Hint::None, "a socket that is closed");
    let undelivered = |backend: usize| {
        let error = relay.table().nodes[backend].counters.error(SendError::HostUnreachable);
        error.map_or(0, |error| error.undelivered)
    };
    assert_eq!((undelivered(0), undelivered(1)), (0, 6));
}
